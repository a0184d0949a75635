// What one request leaves behind for the audit hooks.

import KVCodec
import Node
import Plugins
import RPC

/// Follows one request from its decision to its outcome. Confined to the request's loop.
final class AuditTrail {
    private unowned let gate: PolicyGate
    private var record: AuditRecord
    private let admittedAt: UInt64

    init(_ gate: PolicyGate, record: AuditRecord) {
        self.gate = gate
        self.record = record
        admittedAt = monotonicNanoseconds()
    }

    /// The outcome is known and answered; records it where a plugin asked for that.
    func completed(_ status: RPCStatus, revision: Int64, index: UInt64, term: UInt64) {
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
