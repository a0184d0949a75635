// What one request leaves behind for the audit hooks, and for the client in trailing metadata.

import KVCodec
import Node
import Plugins
import RPC

/// Follows one request from its decision to its outcome. Confined to the request's loop.
final class AuditTrail {
    private let call: ServerCall
    private unowned let gate: PolicyGate
    private var record: AuditRecord
    private let warnings: [String]
    private let wantsCompleted: Bool
    private let admittedAt: UInt64

    init(
        _ call: ServerCall, _ gate: PolicyGate, record: AuditRecord, warnings: [String],
        wantsCompleted: Bool
    ) {
        self.call = call
        self.gate = gate
        self.record = record
        self.warnings = warnings
        self.wantsCompleted = wantsCompleted
        admittedAt = monotonicNanoseconds()
    }

    /// Warnings of plugins, for the trailing metadata of the answer.
    var trailers: [(String, String)] { warnings.map { ("moonraft-plugin-warning", $0) } }

    /// Answers the call; with warnings the answer carries them behind it.
    func send(_ body: [UInt8], revision: Int64, term: UInt64, _ context: LoopContext) {
        if warnings.isEmpty {
            return context.respond(call, revision: revision, term: term, body: body)
        }
        var message = ByteWriter(capacity: body.count + ResponseHeader.maximumSize)
        context.header.append(to: &message, revision: revision, term: term)
        message.raw(body)
        call.send(message.bytes)
        call.finish(.ok, trailers: trailers)
    }

    /// The outcome is known and answered; records it where a plugin asked for that.
    func completed(_ status: RPCStatus, revision: Int64, index: UInt64, term: UInt64) {
        guard wantsCompleted else { return }
        let now = monotonicNanoseconds()
        record.stage = .completed
        record.microseconds = Int64(clamping: wallClockNanoseconds() / 1000)
        record.code = Int(status.code.rawValue)
        record.message = status.message
        record.resultRevision = revision
        record.index = index
        record.term = term
        record.raftMicroseconds = Int64(clamping: (now &- admittedAt) / 1000)
        record.totalMicroseconds = record.hooksMicroseconds &+ record.raftMicroseconds
        gate.engine.thread.audit(record)
    }
}
