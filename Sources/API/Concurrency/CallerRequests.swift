// What the Lock and Election services do on their caller's behalf. They are made of transactions, ranges
// and leases (etcd api/v3lock, api/v3election over client/v3/concurrency), and each of those passes the
// plugins as if the caller had sent it, so that a lock opens no way around a policy.

import KVCodec
import NIOCore
import Node
import Plugins
import RPC
import Replica
import StateMachine

/// Whom requests are made for. Who that is, is found out while the call is there; a call that has ended can
/// no longer tell.
struct Caller {
    let call: ServerCall
    /// Nil where no plugin is.
    fileprivate let identity: Result<PluginIdentity, RPCStatus>?

    init(_ call: ServerCall, _ context: LoopContext) {
        self.call = call
        context.gate?.refreshIfReloaded()
        identity = context.gate?.identity(call)
    }
}

/// What came of a request made for a caller.
enum CallerOutcome {
    case applied(ApplyResult)
    case refused(RPCStatus)
}

extension LoopContext {
    /// Has a transaction, deletion or grant judged, proposed and applied for a caller.
    ///
    /// - Parameter method: `txn`, `deleteRange` or `leaseGrant`, what `message` is a request of.
    func carryOut(
        _ method: Method, _ kind: Command.Kind, _ message: [UInt8], for caller: Caller,
        _ then: @escaping (CallerOutcome) -> Void
    ) {
        judge(method, message, for: caller, refuse: { then(.refused($0)) }) { [self] final, trail in
            if method == .txn, final != message, !Self.haveSameKeys(final, message) {
                then(.refused(.changedKeys))
                trail?.completed(.changedKeys, revision: 0, index: 0, term: 0)
                return
            }
            propose(kind, final, trail, then)
        }
    }

    /// Calls one of: `proceed` with the message that the plugins made of it, or `refuse`.
    private func judge(
        _ method: Method, _ message: [UInt8], for caller: Caller,
        refuse: @escaping (RPCStatus) -> Void,
        _ proceed: @escaping ([UInt8], AuditTrail?) -> Void
    ) {
        guard let gate, gate.selects(method), let identity = caller.identity else {
            return proceed(message, nil)
        }
        switch identity {
        case .failure(let status): refuse(status)
        case .success(let identity):
            message.withUnsafeBytes { bytes in
                gate.admit(caller.call, method, bytes, from: identity, refuse: refuse) {
                    proceed([UInt8]($0), $1)
                }
            }
        }
    }

    /// Whether two transactions differ in no key. A place stands under the name that its caller is told.
    private static func haveSameKeys(_ left: [UInt8], _ right: [UInt8]) -> Bool {
        func keys(_ txn: [UInt8]) -> [[[UInt8]]]? {
            let request = txn.withUnsafeBytes { try? RequestOps.request(.txn, .txn, $0) }
            return request?.ops.map { [$0.key, $0.rangeEnd] }
        }
        return keys(left) == keys(right)
    }

    private func propose(
        _ kind: Command.Kind, _ message: [UInt8], _ trail: AuditTrail?,
        _ then: @escaping (CallerOutcome) -> Void
    ) {
        func refuse(_ status: RPCStatus) {
            then(.refused(status))
            trail?.completed(status, revision: 0, index: 0, term: 0)
        }
        // What costs nothing, such as giving a lock back, is done without space as well.
        let cost = cost(kind, message)
        if cost > 0 && !hasSpace(cost: cost) { return refuse(Self.asCallersSee(.noSpace)) }
        let waiter = PendingQuery(loopIndex: loop.index) { answer in
            switch answer {
            case .applied(let result, let index, let term):
                let status = result.error.map { Self.asCallersSee($0) }
                then(status.map { .refused($0) } ?? .applied(result))
                trail?.completed(status ?? .ok, revision: result.revision, index: index, term: term)
            case .refused(let error): refuse(RPCStatus(error))
            default: preconditionFailure("a command was answered with \(answer)")
            }
        }
        if let error = offer(Command.encode(kind: kind, body: message), waiter) {
            refuse(RPCStatus(error))
        }
    }

    private func cost(_ kind: Command.Kind, _ message: [UInt8]) -> Int64 {
        switch kind {
        case .leaseGrant: QuotaCost.lease
        case .txn: message.withUnsafeBytes { (try? TxnRequestView($0)).map(QuotaCost.txn) ?? 0 }
        default: 0
        }
    }

    /// etcd's services pass the text of such an error on, and not its code.
    private static func asCallersSee(_ error: ApplyError) -> RPCStatus {
        RPCStatus(.unknown, RPCStatus(error).message)
    }

    /// The lease to use: the caller's, or for 0 a new one of 60 s that nobody renews, as etcd makes one.
    func withLease(
        _ lease: Int64, for caller: Caller, _ then: @escaping (Result<Int64, RPCStatus>) -> Void
    ) {
        if lease != 0 { return then(.success(lease)) }
        let id = Int64.random(in: 1 ... .max)
        let seconds: Int64 = 60
        var grant = ByteWriter(capacity: 16)
        grant.int64(1, seconds)
        grant.int64(2, id)
        carryOut(.leaseGrant, .leaseGrant, grant.bytes, for: caller) { outcome in
            switch outcome {
            case .applied: then(.success(id))
            case .refused(let status): then(.failure(status))
            }
        }
    }

    // MARK: Places

    /// A second between two; whoever is still refused then leaves it to the lease.
    private static let maxAttemptsToGiveUp = 10

    /// Deletes a key that a call made and whose caller never heard of it. No plugin is asked: it follows from
    /// what they agreed to, like the end of a lease. A client that lives on renews the lease, and all who
    /// stand behind the key would wait for ever, so a refusal is not the end of it.
    ///
    /// - Parameter txn: deletes the key if it is still the one that was made, so it may be repeated.
    func giveUp(_ txn: [UInt8], attempts: Int = maxAttemptsToGiveUp) {
        // Even a waiter that does nothing makes the replica carry the command over to the next leader.
        let waiter = PendingQuery(loopIndex: loop.index) { [weak self] answer in
            if case .refused(let error) = answer, error != .stopped { self?.giveUpLater(txn, attempts - 1) }
        }
        let command = Command.encode(kind: .txn, origin: .core, body: txn)
        if !node.propose(command, waiter: waiter, turns) { giveUpLater(txn, attempts - 1) }
    }

    private func giveUpLater(_ txn: [UInt8], _ attempts: Int) {
        guard attempts > 0 else { return }
        let loop = loop
        let again = LoopReturn { [weak self] (_: Void) in self?.giveUp(txn, attempts: attempts) }
        loop.eventLoop.scheduleTask(in: .seconds(1)) { loop.batch { again.body(()) } }
    }

    // MARK: Reading a queue

    /// Has the read of a queue's head judged for a caller.
    ///
    /// - Parameter proceed: hears the RangeRequest to carry out, which a plugin may have changed.
    func whenHeadAdmitted(
        _ call: ServerCall, _ prefix: [UInt8], _ proceed: @escaping ([UInt8], AuditTrail?) -> Void
    ) {
        let range = QueueRange.head(of: prefix)
        let isSelected = prefix.withUnsafeBytes { key in
            QueueRange.end(of: prefix).withUnsafeBytes { gate?.selects(.range, key, $0) == true }
        }
        guard let gate, isSelected else { return proceed(range, nil) }
        range.withUnsafeBytes { gate.admit(call, .range, $0) { proceed([UInt8]($0), $1) } }
    }

    /// Has the watch over a range judged for a caller.
    func whenWatchAdmitted(
        _ call: ServerCall, _ key: [UInt8], _ rangeEnd: [UInt8], _ proceed: @escaping () -> Void
    ) {
        let isSelected = key.withUnsafeBytes { key in
            rangeEnd.withUnsafeBytes { gate?.selects(.watch, key, $0) == true }
        }
        guard let gate, isSelected else { return proceed() }
        var watch = ByteWriter(capacity: 16 + key.count + rangeEnd.count)
        watch.data(1, key)
        watch.data(2, rangeEnd)
        watch.bytes.withUnsafeBytes { message in
            gate.admit(call, .watch, message) { _, trail in
                proceed()
                trail?.completed(.ok, revision: 0, index: 0, term: 0)
            }
        }
    }
}

extension RPCStatus {
    static let changedKeys = RPCStatus(
        .failedPrecondition, "moonraft: a plugin changed a key of a lock or an election")
}
