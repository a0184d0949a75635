// Who sends a request: tokens, passwords, and connections without either.

import Node
import Plugins
import RPC

extension PolicyGate {
    func identity(_ call: ServerCall) -> Result<PluginIdentity, RPCStatus> {
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

    private static let nobody = PluginIdentity()

    /// The identity of a caller without a credential: made once for a connection and kept with it.
    private func anonymous(_ call: ServerCall) -> PluginIdentity {
        if let known = call.connectionState as? PluginIdentity { return known }
        guard call.peer.socketAddress != nil else { return Self.nobody }
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
        let record = AuditRecord(
            stage: .decided, id: nextRequestID(), microseconds: 0, clusterID: node.clusterID,
            memberID: node.memberID, request: request, identity: identity)
        return AuditTrail(self, AuditEntry(record), admittedAt: monotonicNanoseconds())
    }
}
