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
    private var anonymous: [SocketAddress: PluginIdentity] = [:]
    private let nobody = PluginIdentity()
    private var requestNumber: UInt64 = 0
    /// Anonymous identities kept by peer address.
    private static let maxAnonymous = 4096

    init(
        _ engine: PolicyEngine, loop: ServerLoop, node: Node, options: APIOptions
    ) throws {
        self.engine = engine
        self.loop = loop
        self.node = node
        self.options = options
        view = PolicyStoreView(store: node.store, reader: try node.makeReader())
        generation = engine.holder.generation
        plugins = LoopPlugins(engine.holder.current, storeView: view)
    }

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
        if plugins.set.selects(kind).isEmpty { return false }
        return !plugins.set.selects(kind, key: key.array, rangeEnd: rangeEnd.array).isEmpty
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

    /// Runs a request through the plugins. `proceed` gets the final message, `refuse` a status;
    /// exactly one of them is called, on this loop, at once unless a required audit sink must write
    /// first.
    func admit(
        _ call: ServerCall, _ method: Method, _ message: UnsafeRawBufferPointer,
        refuse: ((RPCStatus) -> Void)? = nil,
        proceed: @escaping ([UInt8], AuditTrail?) -> Void
    ) {
        let refuse = refuse ?? { [context = loop.userState as? LoopContext] status in
            call.finish(status)
            context?.observer.finished(call)
        }
        guard let kind = method.pluginKind else { return proceed(message.array, nil) }
        let started = monotonicNanoseconds()
        let identity: PluginIdentity
        switch self.identity(call) {
        case .success(let found): identity = found
        case .failure(let status): return refuse(status)
        }
        var request: PluginRequest
        do {
            request = try RequestOps.request(method, kind, message)
        } catch {
            return refuse(.undecodable(error))
        }
        plugins.beginRequest()
        var final = message.array
        var warnings: [String] = []
        let denial = decide(
            method, &request, identity, &final, &warnings)
        record(
            call, request, identity, denial, warnings, started,
            refuse: refuse, proceed: { trail in proceed(final, trail) })
    }

    /// The hooks in order; nil when all agree.
    private func decide(
        _ method: Method, _ request: inout PluginRequest, _ identity: PluginIdentity,
        _ message: inout [UInt8], _ warnings: inout [String]
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
        if changed, let status = recheck(method, &request, &message) { return status }
        switch plugins.validate(request, identity) {
        case .allow(let more): warnings += more
        case .deny(let code, let text): return RPCStatus(denial: code, text)
        }
        return nil
    }

    /// What a plugin changed must pass the core's checks like what a client sent.
    private func recheck(
        _ method: Method, _ request: inout PluginRequest, _ message: inout [UInt8]
    ) -> RPCStatus? {
        do {
            message = try RequestOps.message(method, request, original: message)
            if message.count > options.maxRequestBytes { return .requestTooLarge }
            return try message.withUnsafeBytes { bytes -> RPCStatus? in
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
        _ call: ServerCall, _ request: PluginRequest, _ identity: PluginIdentity,
        _ denial: RPCStatus?, _ warnings: [String], _ started: UInt64,
        refuse: @escaping (RPCStatus) -> Void, proceed: @escaping (AuditTrail?) -> Void
    ) {
        if !warnings.isEmpty {
            call.addTrailers(warnings.map { ("moonraft-plugin-warning", $0) })
        }
        let set = plugins.set
        let decided = set.auditNeed(.decided, request, identity)
        let completed = set.auditNeed(.completed, request, identity)
        if decided == .none && completed == .none {
            if let denial { return refuse(denial) }
            return proceed(nil)
        }
        var record = emptyRecord(request, identity)
        record.decisions = plugins.records
        record.isAllowed = denial == nil
        record.code = Int(denial?.code.rawValue ?? 0)
        record.message = denial?.message ?? ""
        record.hooksMicroseconds = Int64(clamping: (monotonicNanoseconds() &- started) / 1000)
        let trail = completed == .none ? nil : AuditTrail(self, record: record)
        func go() {
            guard let denial else { return proceed(trail) }
            refuse(denial)
            trail?.completed(denial, revision: 0, index: 0, term: 0)
        }
        switch decided {
        case .none: go()
        case .bestEffort:
            engine.thread.audit(record)
            go()
        case .required:
            let loop = loop
            let back = LoopReturn { (failure: String?) in
                guard let failure, denial == nil else { return go() }
                let status = RPCStatus(.failedPrecondition, failure)
                refuse(status)
                trail?.completed(status, revision: 0, index: 0, term: 0)
            }
            let queued = engine.thread.audit(record) { failure in
                loop.eventLoop.execute { loop.batch { back.body(failure) } }
            }
            if !queued { back.body("plugin audit: too many records wait to be written") }
        }
    }

    private func emptyRecord(
        _ request: PluginRequest, _ identity: PluginIdentity
    ) -> AuditRecord {
        requestNumber &+= 1
        return AuditRecord(
            stage: .decided,
            id: "\(engine.startID)-\(loop.index)-\(String(requestNumber, radix: 16))",
            microseconds: Int64(clamping: wallClockNanoseconds() / 1000),
            clusterID: node.clusterID, memberID: node.memberID, request: request,
            identity: identity)
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

    private func anonymous(_ call: ServerCall) -> PluginIdentity {
        guard let address = call.peer.socketAddress else { return nobody }
        if let known = anonymous[address] { return known }
        if anonymous.count >= Self.maxAnonymous { anonymous.removeAll(keepingCapacity: true) }
        let identity = PluginIdentity(peer: "\(call.peer)")
        anonymous[address] = identity
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
        return AuditTrail(self, record: emptyRecord(request, identity))
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
