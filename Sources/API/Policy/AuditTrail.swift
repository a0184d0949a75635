// What one request leaves behind for the audit hooks.

import KVCodec
import Node
import Plugins
import RPC

/// Follows one request from its decision to its outcome. Stays on the request's loop.
struct AuditTrail {
    private let gate: PolicyGate
    private let entry: AuditEntry
    private let admittedAt: UInt64

    /// - Parameter admittedAt: when the hooks were done, monotonic nanoseconds.
    init(_ gate: PolicyGate, _ entry: AuditEntry, admittedAt: UInt64) {
        self.gate = gate
        self.entry = entry
        self.admittedAt = admittedAt
    }

    /// The outcome is known and answered; records it where a plugin asked for that. Called once.
    func completed(_ status: RPCStatus, revision: Int64, index: UInt64, term: UInt64) {
        let now = monotonicNanoseconds()
        entry.record.stage = .completed
        entry.record.microseconds = Int64(clamping: wallClockNanoseconds() / 1000)
        entry.record.code = Int(status.code.rawValue)
        entry.record.message = status.message
        entry.record.resultRevision = revision
        entry.record.index = index
        entry.record.term = term
        entry.record.raftMicroseconds = Int64(clamping: (now &- admittedAt) / 1000)
        entry.record.totalMicroseconds = entry.record.hooksMicroseconds &+ entry.record.raftMicroseconds
        // From here on the entry is another request's.
        gate.handOver(entry)
    }
}
