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
    private let node: Node
    private let options: APIOptions
    private let loop: ServerLoop
    private let view: PolicyStoreView
    private var plugins: LoopPlugins
    private var generation: UInt64
    private let nobody = PluginIdentity()
    /// Records of this loop, which come back from the plugin thread.
    private let entries = AuditEntryPool()
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
    }

    deinit { entries.close() }

    // MARK: Selection: what an unbound request pays

    /// Whether any plugin wants to see calls of this kind, whatever their keys.
    @inline(__always)
    func selects(_ method: Method) -> Bool {
        guard let kind = method.pluginKind else { return false }
        refreshIfReloaded()
        return !plugins.set.selects(kind).isEmpty
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

    private func refreshIfReloaded() {
        let current = engine.holder.generation
        if current == generation { return }
        generation = current
        plugins.shutdown()
        plugins = LoopPlugins(engine.holder.current, storeView: view)
    }

    // MARK: Admission

    /// A request that comes out of the hooks.
    private struct Admission {
        let call: ServerCall
        let refuse: ((RPCStatus) -> Void)?
        let proceed: (UnsafeRawBufferPointer, AuditTrail?) -> Void
        /// The message, when a plugin changed it.
        var changed: [UInt8]?
        /// Nil when all agree.
        var denial: RPCStatus?
    }

    /// Runs a request through the plugins. `proceed` gets the final message, whose bytes are valid during the call,
    /// `refuse` a status; exactly one of them is called, on this loop, at once unless a required audit sink must
    /// write first.
    func admit(
        _ call: ServerCall, _ method: Method, _ message: UnsafeRawBufferPointer,
        refuse: ((RPCStatus) -> Void)? = nil,
        proceed: @escaping (UnsafeRawBufferPointer, AuditTrail?) -> Void
    ) {
        guard let kind = method.pluginKind else { return proceed(message, nil) }
        var admission = Admission(call: call, refuse: refuse, proceed: proceed)
        let started = monotonicNanoseconds()
        let identity: PluginIdentity
        switch self.identity(call) {
        case .success(let found): identity = found
        case .failure(let status): return self.refuse(admission, status)
        }
        let entry = entries.take()
        do {
            try RequestOps.fill(&entry.record.request, method, kind, message)
        } catch {
            entry.giveBack()
            return self.refuse(admission, .undecodable(error))
        }
        plugins.beginRequest()
        var warnings: [String] = []
        admission.denial = decide(method, &entry.record.request, identity, message, &admission.changed, &warnings)
        if !warnings.isEmpty {
            call.addTrailers(warnings.map { ("moonraft-plugin-warning", $0) })
        }
        record(admission, message, entry, identity, started)
    }

    private func refuse(_ admission: Admission, _ status: RPCStatus) {
        if let refuse = admission.refuse { return refuse(status) }
        admission.call.finish(status)
        (loop.userState as? LoopContext)?.observer.finished(admission.call)
    }

    /// Lets the request go on, or refuses it.
    private func conclude(_ admission: Admission, _ message: UnsafeRawBufferPointer, _ trail: AuditTrail?) {
        if let denial = admission.denial {
            refuse(admission, denial)
            trail?.completed(denial, revision: 0, index: 0, term: 0)
        } else if let changed = admission.changed {
            changed.withUnsafeBytes { admission.proceed($0, trail) }
        } else {
            admission.proceed(message, trail)
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

    private func record(
        _ admission: Admission, _ message: UnsafeRawBufferPointer, _ entry: AuditEntry,
        _ identity: PluginIdentity, _ started: UInt64
    ) {
        let (decided, completed) = plugins.set.auditNeeds(entry.record.request, identity)
        entry.measure()
        if decided == .none && completed == .none {
            entry.giveBack()
            return conclude(admission, message, nil)
        }
        let now = monotonicNanoseconds()
        requestNumber &+= 1
        entry.record.restart(
            id: requestID(requestNumber), clusterID: node.clusterID, memberID: node.memberID, identity: identity)
        plugins.takeRecords(&entry.record.decisions)
        entry.record.hooksMicroseconds = Int64(clamping: (now &- started) / 1000)
        if let denial = admission.denial {
            entry.record.isAllowed = false
            entry.record.code = Int(denial.code.rawValue)
            entry.record.message = denial.message
        }
        if decided == .none { return conclude(admission, message, AuditTrail(self, entry, admittedAt: now)) }
        // Each stage has an entry of its own: the first may be written while the second is still to be filled.
        let trail = completed == .none ? nil : AuditTrail(self, AuditEntry(entry.record), admittedAt: now)
        entry.record.microseconds = Int64(clamping: wallClockNanoseconds() / 1000)
        if decided == .bestEffort {
            engine.thread.audit(entry)
            return conclude(admission, message, trail)
        }
        awaitRecord(entry, admission, message.array, trail)
    }

    /// Goes on once the record is written; a request whose record cannot be written is refused.
    private func awaitRecord(
        _ record: AuditEntry, _ admission: Admission, _ message: [UInt8], _ trail: AuditTrail?
    ) {
        let loop = loop
        let back = LoopReturn { [self] (failure: String?) in
            var admission = admission
            if let failure, admission.denial == nil {
                admission.denial = RPCStatus(.failedPrecondition, failure)
            }
            message.withUnsafeBytes { conclude(admission, $0, trail) }
        }
        let queued = engine.thread.audit(record) { failure in
            loop.eventLoop.execute { loop.batch { back.body(failure) } }
        }
        if !queued { back.body("plugin audit: too many records wait to be written") }
    }

    /// `START-LOOP.NUMBER`, the number in base 36. Fifteen bytes, the most that a String holds without memory of its
    /// own, last for a million requests.
    private func requestID(_ number: UInt64) -> String {
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

    // MARK: Identity

    private func identity(_ call: ServerCall) -> Result<PluginIdentity, RPCStatus> {
        if !plugins.set.hasAuthn || call.metadata.isEmpty { return .success(anonymous(call)) }
        guard let token = Self.token(call) else { return .success(anonymous(call)) }
        if let known = engine.tokens.find(token) { return .success(known) }
        var request = AuthnRequest(.token(token))
        request.peer = "\(call.peer)"
        request.metadata = call.metadata.strings.filter {
            $0.name != "token" && $0.name != "authorization" && !$0.name.hasPrefix(":")
        }
        switch plugins.authenticate(request) {
        case .identity(let identity): return .success(identity)
        case .pass, .deny, .needsWorker: return .failure(.invalidToken)
        }
    }

    /// `token` wins over `authorization`, whose leading "Bearer " is not part of it.
    private static func token(_ call: ServerCall) -> [UInt8]? {
        if let token = call.metadata.bytes("token"), !token.isEmpty { return token }
        guard let value = call.metadata.bytes("authorization"), !value.isEmpty else { return nil }
        let bearer = Array("Bearer ".utf8)
        return value.starts(with: bearer) ? Array(value.dropFirst(bearer.count)) : value
    }

    /// The identity of a caller without a credential: made once for a connection and kept with it.
    private func anonymous(_ call: ServerCall) -> PluginIdentity {
        if let known = call.connectionState as? PluginIdentity { return known }
        guard call.peer.socketAddress != nil else { return nobody }
        let identity = PluginIdentity(peer: "\(call.peer)")
        call.connectionState = identity
        return identity
    }

    /// Whether any plugin checks credentials.
    var checksCredentials: Bool {
        refreshIfReloaded()
        return plugins.set.hasAuthn
    }

    /// Checks a password on the worker thread and issues a token.
    func authenticate(
        _ call: ServerCall, user: String, password: String,
        _ done: @escaping (Result<String, RPCStatus>) -> Void
    ) {
        let trail = loginTrail(call, user: user)
        let done: (Result<String, RPCStatus>) -> Void = { result in
            done(result)
            switch result {
            case .success: trail?.completed(.ok, revision: 0, index: 0, term: 0)
            case .failure(let status): trail?.completed(status, revision: 0, index: 0, term: 0)
            }
        }
        var request = AuthnRequest(
            .password(user: user, password: Array(password.utf8)))
        request.peer = "\(call.peer)"
        let engine = engine
        let revision = node.store.currentRevision
        let loop = loop
        let generation = engine.holder.generation
        let back = LoopReturn { (outcome: AuthnOutcome) in
            // What the set before a reload thought of a password counts no more.
            guard case .identity(let identity) = outcome,
                engine.holder.generation == generation
            else {
                // The same answer for an unknown user and a wrong password.
                return done(.failure(.authenticationFailed))
            }
            done(.success(engine.tokens.issue(identity, revision: revision)))
        }
        let queued = engine.worker.authenticate(request) { outcome in
            loop.eventLoop.execute { loop.batch { back.body(outcome) } }
        }
        if !queued { done(.failure(.tooManyRequests)) }
    }

    /// Nobody checks credentials here; the attempt is recorded all the same.
    func recordRefusedLogin(_ call: ServerCall, user: String, _ status: RPCStatus) {
        loginTrail(call, user: user)?.completed(status, revision: 0, index: 0, term: 0)
    }

    /// A login's record names the user, and holds neither password nor token.
    private func loginTrail(_ call: ServerCall, user: String) -> AuditTrail? {
        var request = PluginRequest(rpc: .authenticate)
        request.name = user
        let identity = anonymous(call)
        guard plugins.set.auditNeed(.completed, request, identity) != .none else { return nil }
        requestNumber &+= 1
        let record = AuditRecord(
            stage: .decided, id: requestID(requestNumber), microseconds: 0, clusterID: node.clusterID,
            memberID: node.memberID, request: request, identity: identity)
        return AuditTrail(self, AuditEntry(record), admittedAt: monotonicNanoseconds())
    }

    /// Why the plugins keep the node from being ready; nil when they do not.
    var readinessProblem: String? { engine.thread.criticalProblem }
}

extension RPCStatus {
    /// A plugin's denial.
    init(denial code: DenyCode, _ text: String) {
        self.init(RPCCode(rawValue: UInt8(code.rawValue)) ?? .permissionDenied, text)
    }
}
