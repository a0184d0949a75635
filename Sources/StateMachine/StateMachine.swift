// Everything that members agree on, changed only by applying log entries in their order.
//
// Deterministic: the same entries give the same state and the same answers on every member and
// after every restart. Time enters as an argument and decides only when the leader *proposes* a
// revocation or a checkpoint, never what applying does.

import KVCodec
import MVCC

/// The replicated state. Owned by the replica; every method runs in its turns, between
/// `store.beginBatch()` and `store.endBatch()` where it applies.
package final class StateMachine {
    package let store: MVCCStore
    package let configuration: StateMachineConfiguration
    let reader: RecordReader
    /// Replaced as a whole by `reset`.
    var lessor: Lessor

    var alarmSet = AlarmSet()
    var memberByID: [UInt64: Member] = [:]
    /// Members that were removed. It only grows: to forget one would let it come back.
    var removedIDs: Set<UInt64> = []
    /// What the cluster agreed to speak, "3.6.0"; nil before the first agreement.
    package internal(set) var clusterVersion: String?

    /// Index and term of the last applied entry.
    package internal(set) var appliedIndex: UInt64 = 0
    package internal(set) var appliedTerm: UInt64 = 0

    /// Size of the backend as the storage layer last told. Decides whether a write is answered
    /// with `noSpace`, never whether it happens.
    package var storageBytes: Int64 = 0

    /// Raft's configuration as the replica encodes it; stored with the applied index.
    package var confState: [UInt8] = []

    /// Changes of membership in the log up to here are void; 0 unless this member, or the one whose
    /// snapshot it took over, was cut loose from its cluster. See `StateKey.forcedMembershipIndex`.
    package internal(set) var forcedMembershipIndex: UInt64 = 0

    var persistence = PersistenceState()

    /// - Parameter reader: the replica's own view of the committed records.
    package init(
        store: MVCCStore, reader: RecordReader,
        configuration: StateMachineConfiguration = StateMachineConfiguration()
    ) {
        self.store = store
        self.reader = reader
        self.configuration = configuration
        lessor = Lessor(configuration: configuration)
    }

    /// Applies one entry. `data` empty is the empty entry of a new leader.
    ///
    /// The caller holds `store.beginBatch()`. Indexes must ascend.
    package func apply(index: UInt64, term: UInt64, data: [UInt8], now: LeaseTime) -> ApplyResult {
        noteApplied(index: index, term: term)
        if data.isEmpty { return ApplyResult(revision: store.currentRevision) }
        return data.withUnsafeBytes { entry in
            do throws(ApplyError) {
                return try apply(entry, now: now)
            } catch {
                return ApplyResult(error: error, revision: store.currentRevision)
            }
        }
    }

    /// Counts an entry as applied.
    package func noteApplied(index: UInt64, term: UInt64) {
        precondition(
            index > appliedIndex && term >= appliedTerm,
            "entry \(index) of term \(term) applied after \(appliedIndex) of term \(appliedTerm)")
        appliedIndex = index
        appliedTerm = term
    }

    private func apply(_ entry: UnsafeRawBufferPointer, now: LeaseTime) throws(ApplyError)
        -> ApplyResult
    {
        let command = try Command.parse(entry)
        return switch command.kind {
        case .put: try applyPut(command.body, command.origin)
        case .deleteRange: try applyDeleteRange(command.body, command.origin)
        case .txn: try applyTxn(command.body, command.origin)
        case .compact: try applyCompact(command.body)
        case .leaseGrant: try applyLeaseGrant(command.body, now: now)
        case .leaseRevoke: try applyLeaseRevoke(command.body, command.origin)
        case .leaseCheckpoint: try applyLeaseCheckpoint(command.body, now: now)
        case .alarm: try applyAlarm(command.body)
        case .memberUpdate: try applyMemberUpdate(command.body)
        case .clusterVersion: try applyClusterVersion(command.body)
        case .memberURLs: try applyMemberURLs(command.body)
        }
    }

    // MARK: What stands in the way of a write

    /// - Throws: `corrupt` while that alarm stands.
    @inline(__always) func refuseWhenCorrupt() throws(ApplyError) {
        if alarmSet.corrupt { throw .corrupt }
    }

    /// - Throws: `corrupt` or `noSpace` while such an alarm stands; in that order, as in etcd
    ///   (apply/uber_applier.go). Nothing is refused that costs nothing.
    @inline(__always) func refuseGrowth(cost: Int64) throws(ApplyError) {
        if alarmSet.corrupt { throw .corrupt }
        if alarmSet.noSpace && cost > 0 { throw .noSpace }
    }

    /// Whether a write of this cost fits the quota; asked before the write, answered after it.
    @inline(__always) func fitsQuota(cost: Int64) -> Bool {
        guard cost > 0, let quota = configuration.effectiveQuotaBytes else { return true }
        let (sum, overflow) = storageBytes.addingReportingOverflow(cost)
        return !overflow && sum < quota
    }
}

/// Decodes a request out of an entry; anything wrong is `malformed`.
@inline(__always)
func decode<Request>(
    _ bytes: UnsafeRawBufferPointer,
    as initializer: (UnsafeRawBufferPointer) throws(DecodeError) -> Request
) throws(ApplyError) -> Request {
    do throws(DecodeError) {
        return try initializer(bytes)
    } catch {
        throw .malformed
    }
}
