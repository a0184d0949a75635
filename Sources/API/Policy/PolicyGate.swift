// Plugins in front of requests: identity, authz, admit_mutate, the core's second check,
// admit_validate, and the audit record of the decision, in this order (docs/plugin-api.md 4).

import KVCodec
import NIOCore
import Node
import Plugins
import RPC
import StateMachine

/// The gate of one event loop, with its own script machines. Confined to that loop.
final class PolicyGate {
    let engine: PolicyEngine
    let node: Node
    private let options: APIOptions
    let loop: ServerLoop
    private let view: PolicyStoreView
    private(set) var plugins: LoopPlugins
    private var generation: UInt64
    /// Records of requests under way, and memory for more.
    private var entries = AuditEntryPool()
    /// Records of this turn that nobody waits for; handed over at its end, or when there are ``gatherLimit``.
    private var gathered = AuditBatch()
    private static let gatherLimit = 256
    private var requestNumber: UInt64 = 0
    /// What the ids of this loop's requests begin with.
    private let idPrefix: [UInt8]

    init(
        _ engine: PolicyEngine, loop: ServerLoop, node: Node, options: APIOptions
    ) throws {
        self.engine = engine
        self.loop = loop
        self.node = node
        self.options = options
        idPrefix = Array("\(engine.startID)-\(loop.index).".utf8)
        view = PolicyStoreView(store: node.store, reader: try node.makeReader())
        generation = engine.holder.generation
        plugins = LoopPlugins(engine.holder.current, storeView: view)
        loop.turnEnded = { [unowned self] in handOverGathered() }
    }

    deinit { handOverGathered() }

    // MARK: Selection: what an unbound request pays

    /// Whether any plugin wants to see calls of this kind, whatever their keys.
    @inline(__always)
    func selects(_ method: Method) -> Bool {
        guard let kind = method.pluginKind else { return false }
        refreshIfReloaded()
        return !plugins.set.selects(kind).isEmpty
    }

    /// The hooks that may run for a put of this key; none of the others need be asked.
    @inline(__always)
    func hooks(forPutOf key: UnsafeRawBufferPointer) -> HookSet {
        refreshIfReloaded()
        return plugins.set.selects(.put, key: key)
    }

    /// Whether any plugin wants to see this call on this key or range.
    @inline(__always)
    func selects(
        _ method: Method, _ key: UnsafeRawBufferPointer, _ rangeEnd: UnsafeRawBufferPointer
    ) -> Bool {
        guard let kind = method.pluginKind else { return false }
        refreshIfReloaded()
        return plugins.set.selectsAny(kind, key: key, rangeEnd: rangeEnd)
    }

    /// The same for a transaction: any of its operations decides.
    func selects(_ method: Method, _ txn: TxnRequestView) -> Bool { selects(method) }

    /// Whether a hook decides on revocations of leases, which it should do by the keys that hang on them.
    var judgesRevocations: Bool {
        refreshIfReloaded()
        return !plugins.set.selects(.leaseRevoke).isDisjoint(with: [.authz, .admitMutate, .admitValidate])
    }

    func refreshIfReloaded() {
        let current = engine.holder.generation
        if current == generation { return }
        generation = current
        plugins.shutdown()
        plugins = LoopPlugins(engine.holder.current, storeView: view)
    }

    // MARK: Admission

    /// What the plugins made of a request.
    enum Verdict {
        /// It goes on as it came. Mostly so, and then nothing is made on the heap.
        case pass(AuditTrail?)
        /// It goes on with another message.
        case changed([UInt8], AuditTrail?)
        case refused(RPCStatus, AuditTrail?)
        /// The outcome stands, but a required audit sink must write this record first.
        indirect case awaits(AuditEntry, then: Verdict)
    }

    /// Runs a request through the plugins and then calls one of: `proceed` with the final message, whose bytes are
    /// valid during the call, or `refuse` with a status. On this loop, at once unless a required audit sink must
    /// write first.
    ///
    /// - Parameters:
    ///   - caller: who asks, where that was found out before.
    ///   - leaseKeys: what a revocation deletes, when it is known.
    func admit(
        _ call: ServerCall, _ method: Method, _ message: UnsafeRawBufferPointer,
        from caller: PluginIdentity? = nil, leaseKeys: [[UInt8]]? = nil,
        refuse: ((RPCStatus) -> Void)? = nil,
        proceed: @escaping (UnsafeRawBufferPointer, AuditTrail?) -> Void
    ) {
        settle(
            judge(call, method, message, from: caller, leaseKeys: leaseKeys), call, message, refuse: refuse,
            proceed: proceed)
    }

    /// The first half of ``admit(_:_:_:refuse:proceed:)``: whoever does not find ``Verdict/pass(_:)`` calls
    /// ``settle(_:_:_:refuse:proceed:)`` with the verdict and the same message.
    ///
    /// - Parameter hooks: those that may run, where the caller knows.
    func judge(
        _ call: ServerCall, _ method: Method, _ message: UnsafeRawBufferPointer, hooks: HookSet = .everything,
        from caller: PluginIdentity? = nil, leaseKeys: [[UInt8]]? = nil
    ) -> Verdict {
        guard let kind = method.pluginKind else { return .pass(nil) }
        let isAsked = !hooks.isDisjoint(with: .request)
        let started = isAsked ? monotonicNanoseconds() : 0
        let identity: PluginIdentity
        switch caller.map(Result.success) ?? self.identity(call) {
        case .success(let found): identity = found
        case .failure(let status): return .refused(status, nil)
        }
        let entry = entries.take()
        do {
            try RequestOps.fill(&entry.record.request, method, kind, message)
        } catch {
            entries.give(entry)
            return .refused(.undecodable(error), nil)
        }
        if let leaseKeys { entry.record.request.attach(leaseKeys: leaseKeys) }
        plugins.beginRequest()
        var changed: [UInt8]?
        var warnings: [String] = []
        let denial =
            isAsked ? decide(method, &entry.record.request, identity, message, &changed, &warnings) : nil
        if !warnings.isEmpty {
            call.addTrailers(warnings.map { ("moonraft-plugin-warning", $0) })
        }
        // Records and metrics are of what the client asked for.
        if leaseKeys != nil { entry.record.request.detachLeaseKeys() }
        let (decided, trail) = record(denial, entry, identity, started: isAsked ? started : nil)
        let verdict: Verdict
        if let denial {
            verdict = .refused(denial, trail)
        } else if let changed {
            verdict = .changed(changed, trail)
        } else {
            verdict = .pass(trail)
        }
        return decided.map { .awaits($0, then: verdict) } ?? verdict
    }

    /// Carries a verdict out.
    func settle(
        _ verdict: Verdict, _ call: ServerCall, _ message: UnsafeRawBufferPointer,
        refuse: ((RPCStatus) -> Void)? = nil,
        proceed: @escaping (UnsafeRawBufferPointer, AuditTrail?) -> Void
    ) {
        switch verdict {
        case .pass(let trail): proceed(message, trail)
        case .changed(let changed, let trail): changed.withUnsafeBytes { proceed($0, trail) }
        case .refused(let status, let trail):
            if let refuse {
                refuse(status)
            } else {
                call.finish(status)
                (loop.userState as? LoopContext)?.observer.finished(call)
            }
            trail?.completed(status, revision: 0, index: 0, term: 0)
        case .awaits(let record, let then):
            let kept = message.array
            whenWritten(record) { [self] failure in
                kept.withUnsafeBytes {
                    settle(failure.map(then.failed) ?? then, call, $0, refuse: refuse, proceed: proceed)
                }
            }
        }
    }

    /// The hooks in order; nil when all agree.
    private func decide(
        _ method: Method, _ request: inout PluginRequest, _ identity: PluginIdentity,
        _ message: UnsafeRawBufferPointer, _ final: inout [UInt8]?, _ warnings: inout [String]
    ) -> RPCStatus? {
        switch plugins.authorize(request, identity) {
        case .allow(let more): warnings += more
        case .deny(let code, let text): return RPCStatus(denial: code, text)
        }
        let (decision, changed) = plugins.mutate(&request, identity)
        switch decision {
        case .allow(let more): warnings += more
        case .deny(let code, let text): return RPCStatus(denial: code, text)
        }
        if changed, let status = recheck(method, request, message, &final) { return status }
        switch plugins.validate(request, identity) {
        case .allow(let more): warnings += more
        case .deny(let code, let text): return RPCStatus(denial: code, text)
        }
        return nil
    }

    /// What a plugin changed must pass the core's checks like what a client sent.
    private func recheck(
        _ method: Method, _ request: PluginRequest, _ message: UnsafeRawBufferPointer,
        _ final: inout [UInt8]?
    ) -> RPCStatus? {
        do {
            let changed = try RequestOps.message(method, request, original: message.array)
            final = changed
            if changed.count > options.maxRequestBytes { return .requestTooLarge }
            return try changed.withUnsafeBytes { bytes -> RPCStatus? in
                switch method {
                case .put: try RequestCheck.put(try PutRequestView(bytes))
                case .range, .rangeStream: try RequestCheck.range(try RangeRequestView(bytes))
                case .deleteRange: try RequestCheck.deleteRange(try DeleteRangeRequestView(bytes))
                case .txn:
                    try RequestCheck.txn(
                        try TxnRequestView(bytes), maxOps: options.maxTxnOps)
                default: break
                }
                return nil
            }
        } catch let error as ApplyError {
            return RPCStatus(error)
        } catch let error as DecodeError {
            return .undecodable(error)
        } catch {
            preconditionFailure("unexpected error \(error)")
        }
    }

    /// Makes the records of a decision.
    ///
    /// - Parameter started: when the hooks began, monotonic nanoseconds; nil when none was asked.
    /// - Returns: the record that must be written before the request goes on, and the trail to its outcome; nil where
    ///   nobody asks for them.
    private func record(
        _ denial: RPCStatus?, _ entry: AuditEntry, _ identity: PluginIdentity, started: UInt64?
    ) -> (required: AuditEntry?, trail: AuditTrail?) {
        let (decided, completed) = plugins.set.auditNeeds(entry.record.request, identity)
        entry.measure()
        if decided == .none && completed == .none {
            entries.give(entry)
            return (nil, nil)
        }
        let now = monotonicNanoseconds()
        entry.record.restart(
            id: nextRequestID(), clusterID: node.clusterID, memberID: node.memberID, identity: identity)
        plugins.takeRecords(&entry.record.decisions)
        if let started { entry.record.hooksMicroseconds = Int64(clamping: (now &- started) / 1000) }
        if let denial {
            entry.record.isAllowed = false
            entry.record.code = Int(denial.code.rawValue)
            entry.record.message = denial.message
        }
        if decided == .none { return (nil, AuditTrail(self, entry, admittedAt: now)) }
        // Each stage has an entry of its own: the first may be written while the second is still to be filled.
        let trail = completed == .none ? nil : AuditTrail(self, AuditEntry(entry.record), admittedAt: now)
        entry.record.microseconds = Int64(clamping: wallClockNanoseconds() / 1000)
        if decided == .required { return (entry, trail) }
        handOver(entry)
        return (nil, trail)
    }

    /// Queues a record that nobody waits for, with the others of this turn. The entry is no longer the caller's.
    func handOver(_ entry: AuditEntry) {
        if entry.bytes > AuditEntryPool.keptBytes {
            handOverGathered()
            return engine.thread.audit(entry)
        }
        gathered.append(entry)
        entries.give(entry)
        // Without its services a loop ends no turn any more; answers of a node that stops still come.
        if gathered.count >= Self.gatherLimit || loop.turnEnded == nil { return handOverGathered() }
        loop.gathered()
    }

    private func handOverGathered() {
        if gathered.count == 0 { return }
        engine.thread.audit(gathered)
        gathered = AuditBatch(like: gathered)
    }

    /// `body` hears nil once the record is written, or why it is not.
    private func whenWritten(_ record: AuditEntry, _ body: @escaping (String?) -> Void) {
        // Records of a turn stay in order.
        handOverGathered()
        let loop = loop
        let back = LoopReturn(body)
        let queued = engine.thread.audit(record) { failure in
            loop.eventLoop.execute { loop.batch { back.body(failure) } }
        }
        if !queued { back.body("plugin audit: too many records wait to be written") }
    }

    /// The id of one more request.
    func nextRequestID() -> String {
        requestNumber &+= 1
        return makeID(requestNumber)
    }

    /// `START-LOOP.NUMBER`, the number in base 36. Fifteen bytes, the most that a String holds without memory of its
    /// own, last for a million requests.
    private func makeID(_ number: UInt64) -> String {
        var digits = 1
        var rest = number / 36
        while rest > 0 {
            digits += 1
            rest /= 36
        }
        return String(unsafeUninitializedCapacity: idPrefix.count + digits) { out in
            _ = out.update(fromContentsOf: idPrefix)
            var rest = number
            for i in stride(from: idPrefix.count + digits - 1, through: idPrefix.count, by: -1) {
                let digit = UInt8(truncatingIfNeeded: rest % 36)
                out[i] = digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") - 10 + digit
                rest /= 36
            }
            return idPrefix.count + digits
        }
    }

    /// Why the plugins keep the node from being ready; nil when they do not.
    var readinessProblem: String? { engine.thread.criticalProblem }
}

extension PolicyGate.Verdict {
    /// The same for a request whose required record could not be written: it is refused, if it was not already.
    fileprivate func failed(_ reason: String) -> Self {
        switch self {
        case .pass(let trail), .changed(_, let trail): .refused(RPCStatus(.failedPrecondition, reason), trail)
        case .refused, .awaits: self
        }
    }
}

extension RPCStatus {
    /// A plugin's denial.
    init(denial code: DenyCode, _ text: String) {
        self.init(RPCCode(rawValue: UInt8(code.rawValue)) ?? .permissionDenied, text)
    }
}
