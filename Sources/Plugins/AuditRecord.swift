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
}

/// A record on its way, passed on by one reference where the record itself is hundreds of bytes and a dozen references.
///
/// `@unchecked Sendable`: written by the loop that made it until it is queued, and only read from then on.
package final class AuditEntry: @unchecked Sendable {
    package var record: AuditRecord

    package init(_ record: consuming AuditRecord) { self.record = record }

    /// Bytes that it holds on to, roughly.
    package var bytes: Int {
        record.request.ops.withUnsafeBufferPointer { ops in
            var bytes = 512
            for i in ops.indices { bytes += ops[i].key.count + ops[i].rangeEnd.count + ops[i].value.count }
            return bytes
        }
    }
}
