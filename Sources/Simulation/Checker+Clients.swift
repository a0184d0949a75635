// What clients were told, against what became of it.

import KVCodec
import MVCC
import RaftCore
import Replica
import StateMachine

/// What was promised of a lease.
struct LeaseRecord {
    var ttlSeconds: Int64 = 0
    /// The lease may not end before this: the latest acknowledged grant or renewal, counted from when it
    /// was asked for.
    var promisedUntil: Nanoseconds = 0
    /// When its end was first applied anywhere.
    var endedAt: Nanoseconds?
    /// When the revocation that ended it was first written, if it expired.
    var expiryProposed: Nanoseconds?
}

extension Checker {
    /// Rounding of times to milliseconds, on both sides.
    private static let leaseTolerance = 2 * millisecond

    // MARK: Writes

    /// A client got the answer to a command.
    func acknowledged(_ operation: Operation, _ result: ApplyResult, index: LogIndex, term: Term) {
        writesAcknowledged += 1
        require(
            isCommitted(index: index, term: term),
            "operation \(operation.number) is acknowledged at entry \(index) of term \(term), which is not "
                + "committed")
        require(
            place(of: operation.number) == index,
            "operation \(operation.number) is acknowledged at entry \(index), but was applied at "
                + "\(String(describing: place(of: operation.number)))")
        acknowledgedIndex = max(acknowledgedIndex, index)
        if let error = result.error { return refused(operation, error) }
        // A write comes after everything that was known when it was asked for.
        let isChange = result.events != nil
        require(
            result.revision > operation.floor || (!isChange && result.revision == operation.floor),
            "operation \(operation.number) got revision \(result.revision), and \(operation.floor) was known before")
        acknowledgedRevision = max(acknowledgedRevision, result.revision)
        switch operation.kind {
        case .put(let key, let value, let lease):
            let version = history.version(of: key, at: result.revision)
            require(
                isChange && version?.revision == result.revision && version?.value == value
                    && version?.lease == lease,
                "put \(operation.number) of \(text(key)) at revision \(result.revision) is not there")
        case .delete(let key):
            let existed = history.version(of: key, at: isChange ? result.revision - 1 : result.revision) != nil
            require(
                existed == isChange && number(result.body, field: 2) == (existed ? 1 : 0),
                "delete \(operation.number) of \(text(key)) at revision \(result.revision)")
        case .swap(let key, let expected, let value):
            let before = history.version(of: key, at: isChange ? result.revision - 1 : result.revision)
            let succeeds = (before?.revision ?? 0) == expected
            let version = history.version(of: key, at: result.revision)
            require(
                succeeds == isChange && number(result.body, field: 2) == (succeeds ? 1 : 0)
                    && (!succeeds || version?.value == value),
                "swap \(operation.number) of \(text(key)) at revision \(result.revision): expected \(expected), "
                    + "was \(String(describing: before))")
        case .grant(let id, _):
            if case .leaseGranted(_, let seconds) = result.effect {
                promise(id, seconds: seconds, since: operation.invoked)
            } else {
                fail("grant \(operation.number) granted nothing")
            }
        default: break
        }
    }

    private func refused(_ operation: Operation, _ error: ApplyError) {
        let isPossible: Bool
        switch (operation.kind, error) {
        case (.put(_, _, let lease), .leaseNotFound):
            isPossible = lease != 0 && leases[lease]?.endedAt != nil || leases[lease]?.ttlSeconds ?? 0 == 0
        case (.revoke(let lease), .leaseNotFound):
            isPossible = leases[lease]?.endedAt != nil || leases[lease]?.ttlSeconds ?? 0 == 0
        case (.compact, .compacted), (.compact, .futureRevision): isPossible = true
        default: isPossible = false
        }
        require(isPossible, "operation \(operation.number) (\(operation.kind.name)) is refused with \(error)")
    }

    private func number(_ body: [UInt8], field: UInt32) -> Int64 {
        body.withUnsafeBytes { bytes in
            var reader = ProtoReader(bytes)
            var found: Int64 = 0
            do throws(DecodeError) {
                while let tag = try reader.next() {
                    if tag.field == field { found = try reader.int64(tag) } else { try reader.skip(tag) }
                }
            } catch {
                fail("a reply cannot be read")
            }
            return found
        }
    }

    // MARK: Reads

    /// A member may serve a read. Whoever confirmed it led after the read was asked for, so it knew everything
    /// committed before that, noticed by a client or not.
    func confirmed(_ operation: Operation, term: Term, applied: LogIndex) {
        require(
            term >= operation.committedTerm && applied >= operation.committedIndex,
            "read \(operation.number) on member \(operation.member) is confirmed in term \(term) at entry \(applied); "
                + "entry \(operation.committedIndex) of term \(operation.committedTerm) was committed when it was asked")
    }

    /// A range was answered with `reply` at `revision`.
    func answered(
        _ operation: Operation, key: [UInt8]?, isSerializable: Bool, asked: Int64, reply: [UInt8],
        revision: Int64
    ) {
        readsChecked += 1
        if !isSerializable {
            require(
                revision >= operation.floor,
                "read \(operation.number) on member \(operation.member) is answered at revision \(revision), but "
                    + "\(operation.floor) was known when it was asked")
            acknowledgedRevision = max(acknowledgedRevision, revision)
        }
        if let problem = history.check(reply, at: asked > 0 ? asked : revision, key: key) {
            fail("read \(operation.number) on member \(operation.member): \(problem)")
        }
    }

    // MARK: Leases

    private func promise(_ id: Int64, seconds: Int64, since invoked: Nanoseconds) {
        guard seconds > 0 else { return fail("lease \(id) is granted for \(seconds) s") }
        let until = invoked + UInt64(seconds) * second
        leases[id, default: LeaseRecord()].promisedUntil = max(leases[id]?.promisedUntil ?? 0, until)
        guard let record = leases[id] else { return }
        if let proposed = record.expiryProposed { checkExpiry(id, proposed: proposed) }
    }

    /// A renewal was answered.
    func renewed(_ operation: Operation, lease id: Int64, seconds: Int64?) {
        guard let seconds, seconds > 0 else {
            let record = leases[id]
            // An expired lease may be refused while its revocation is under way.
            let mayBeGone =
                record?.endedAt != nil || record?.ttlSeconds ?? 0 == 0
                || (record?.promisedUntil ?? 0) <= now
            return require(mayBeGone, "lease \(id) is said to be gone while it is promised")
        }
        if let ended = leases[id]?.endedAt, ended < operation.invoked {
            return fail("lease \(id) is renewed for \(seconds) s, though it ended before that was asked")
        }
        promise(id, seconds: seconds, since: operation.invoked)
    }

    /// A question about a lease was answered; what was promised before it was asked must still stand.
    func toldTimeToLive(_ operation: Operation, lease id: Int64, _ status: LeaseStatus?) {
        guard operation.promisedUntil > now, leases[id]?.endedAt == nil else { return }
        guard let status, let left = status.remainingSeconds else {
            return fail("lease \(id) is unknown to member \(operation.member) while it is promised")
        }
        let promised = (operation.promisedUntil - now) / second
        require(
            left >= Int64(clamping: promised),
            "lease \(id) has \(left) s left, and was promised for \(promised) s more")
    }

    func leaseRevoked(_ id: Int64, expired: Bool, proposed: Nanoseconds) {
        leases[id, default: LeaseRecord()].endedAt = now
        guard expired else { return }
        leases[id]?.expiryProposed = proposed
        checkExpiry(id, proposed: proposed)
    }

    private func checkExpiry(_ id: Int64, proposed: Nanoseconds) {
        let until = leases[id]?.promisedUntil ?? 0
        require(
            proposed + Self.leaseTolerance >= until,
            "lease \(id) expired at \(proposed), and was promised until \(until)")
    }

    // MARK: Watchers

    /// A member published the events of one revision, its last ones having been those of `last`.
    func published(_ batch: EventBatch, after last: Int64, by member: NodeID) {
        eventsChecked += 1
        require(
            batch.revision == last + 1,
            "member \(member) publishes revision \(batch.revision) after \(last)")
        if let problem = history.note(batch) { fail("member \(member): \(problem)") }
    }
}
