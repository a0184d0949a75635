// Audit records: what they hold, and how they travel from a loop to the plugin thread and back for the next request.

import Synchronization

/// One stage of one request, as the `audit` hooks see it (docs/plugin-api.md 5.5).
///
/// It never holds a password, a token or the body of a user_admin call: the caller does not put them in.
package struct AuditRecord: Sendable {
    package typealias Stage = PluginMatch.Stage

    package var stage: Stage
    /// The same in all stages of a request.
    package var id: String
    package var microseconds: Int64
    package var clusterID: UInt64
    package var memberID: UInt64
    package var request: PluginRequest
    package var identity: PluginIdentity
    package var decisions: [DecisionRecord] = []
    /// No hook and no core check denied it.
    package var isAllowed = true
    /// gRPC code and text of the answer; in *decided* of the decision.
    package var code = 0
    package var message = ""
    package var resultRevision: Int64 = 0
    package var term: UInt64 = 0
    package var index: UInt64 = 0
    // Time spent, microseconds.
    package var hooksMicroseconds: Int64 = 0
    package var queueMicroseconds: Int64 = 0
    package var raftMicroseconds: Int64 = 0
    package var applyMicroseconds: Int64 = 0
    package var totalMicroseconds: Int64 = 0

    package init(
        stage: Stage, id: String, microseconds: Int64, clusterID: UInt64, memberID: UInt64, request: PluginRequest,
        identity: PluginIdentity
    ) {
        self.stage = stage
        self.id = id
        self.microseconds = microseconds
        self.clusterID = clusterID
        self.memberID = memberID
        self.request = request
        self.identity = identity
    }

    /// Makes it the record of another request, the one that `request` is by now; nothing else stays but memory.
    package mutating func restart(
        id: String, clusterID: UInt64, memberID: UInt64, identity: PluginIdentity
    ) {
        var kept: [DecisionRecord] = []
        swap(&kept, &decisions)
        kept.removeAll(keepingCapacity: true)
        var request = PluginRequest(rpc: request.rpc)
        swap(&request, &self.request)
        self = AuditRecord(
            stage: .decided, id: id, microseconds: 0, clusterID: clusterID, memberID: memberID, request: request,
            identity: identity)
        decisions = kept
    }
}

/// A record on its way, passed on by one reference where the record itself is hundreds of bytes and a dozen references.
///
/// `@unchecked Sendable`: written by the loop that made it until it is queued, only read from then on, and given back
/// by its last reader.
package final class AuditEntry: @unchecked Sendable {
    package var record: AuditRecord
    /// Bytes that it holds on to, roughly, as of the last ``measure()``.
    package private(set) var bytes = 0
    fileprivate let home: AuditEntryPool?

    package convenience init(_ record: consuming AuditRecord) {
        self.init(record, home: nil)
        measure()
    }

    fileprivate init(_ record: consuming AuditRecord, home: AuditEntryPool?) {
        self.record = record
        self.home = home
    }

    /// Takes the size of the request, which does not change any more.
    package func measure() {
        bytes = record.request.ops.withUnsafeBufferPointer { ops in
            var bytes = 512
            for i in ops.indices { bytes += ops[i].key.count + ops[i].rangeEnd.count + ops[i].value.count }
            return bytes
        }
    }

    /// The record is written, and nobody but the caller knows the entry any more.
    package func giveBack() { home?.give(self) }
}

/// Entries of one loop to be used again: what a record is made of is some ten blocks of memory, which are dear when one
/// thread allocates and another frees them.
///
/// Bound: ``capacity`` entries wait on either side, each of at most ``keptBytes``; others are freed.
/// `@unchecked Sendable`: `ready` is the loop's, the rest is locked.
package final class AuditEntryPool: @unchecked Sendable {
    package static let capacity = 512
    package static let keptBytes = 4096

    private var ready: [AuditEntry] = []
    private struct Returned {
        var entries: [AuditEntry] = []
        var isClosed = false
    }

    /// What other threads gave back.
    private let returned = Mutex(Returned())

    package init() {}

    /// An entry whose record is of no particular request. On the loop only.
    package func take() -> AuditEntry {
        if ready.isEmpty {
            returned.withLock { state in
                if !state.isClosed { swap(&ready, &state.entries) }
            }
        }
        if let entry = ready.popLast() { return entry }
        return AuditEntry(
            AuditRecord(
                stage: .decided, id: "", microseconds: 0, clusterID: 0, memberID: 0,
                request: PluginRequest(rpc: .range),
                identity: Self.nobody),
            home: self)
    }

    private static let nobody = PluginIdentity()

    fileprivate func give(_ entry: AuditEntry) {
        guard entry.bytes <= Self.keptBytes else { return }
        returned.withLock { state in
            if !state.isClosed && state.entries.count < Self.capacity { state.entries.append(entry) }
        }
    }

    /// Frees what waits: entries refer to their pool, so one that is not closed is never freed.
    package func close() {
        ready.removeAll()
        returned.withLock { state in
            state.entries.removeAll()
            state.isClosed = true
        }
    }
}
