// Audit records: what they hold. How they travel to the plugin thread is AuditBatch.swift.

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
        // Field by field: a whole new value in place of the old one is copied, with its references counted.
        stage = .decided
        self.id = id
        microseconds = 0
        self.clusterID = clusterID
        self.memberID = memberID
        self.identity = identity
        if !decisions.isEmpty { decisions.removeAll(keepingCapacity: true) }
        isAllowed = true
        code = 0
        if !message.isEmpty { message = "" }
        (resultRevision, term, index) = (0, 0, 0)
        (hooksMicroseconds, queueMicroseconds, raftMicroseconds) = (0, 0, 0)
        (applyMicroseconds, totalMicroseconds) = (0, 0)
    }
}

/// A record and its size, passed on by one reference where the record itself is hundreds of bytes and a dozen references.
///
/// `@unchecked Sendable`: confined to the loop that made it, unless it is queued by itself: from then on the plugin
/// thread alone knows it.
package final class AuditEntry: @unchecked Sendable {
    package var record: AuditRecord
    /// Bytes that it holds on to, roughly, as of the last ``measure()``.
    package private(set) var bytes = 0

    package init(_ record: consuming AuditRecord) {
        self.record = record
        measure()
    }

    /// An entry that is yet to be filled.
    package convenience init() {
        self.init(
            AuditRecord(
                stage: .decided, id: "", microseconds: 0, clusterID: 0, memberID: 0,
                request: PluginRequest(rpc: .range), identity: Self.nobody))
    }

    private static let nobody = PluginIdentity()

    /// Takes the size of the request, which does not change any more.
    package func measure() {
        bytes = record.request.ops.withUnsafeBufferPointer { ops in
            var bytes = 512
            for i in ops.indices { bytes += ops[i].key.count + ops[i].rangeEnd.count + ops[i].value.count }
            return bytes
        }
    }
}

/// Entries of one loop to be used again: what a record is made of is some ten blocks of memory. The one given back last
/// comes first, since its memory is still in the cache.
///
/// Bound: ``capacity`` entries wait, each of at most ``keptBytes``; others are freed.
package struct AuditEntryPool {
    package static let capacity = 512
    package static let keptBytes = 4096

    private var ready: [AuditEntry] = []

    package init() {}

    /// An entry whose record is of no particular request.
    package mutating func take() -> AuditEntry { ready.popLast() ?? AuditEntry() }

    /// Nobody but the caller knows the entry any more.
    package mutating func give(_ entry: AuditEntry) {
        if ready.count < Self.capacity && entry.bytes <= Self.keptBytes { ready.append(entry) }
    }
}
