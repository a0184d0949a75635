// etcdserverpb.Auth.Authenticate. Without a plugin that checks credentials, authentication is not
// enabled, as in a fresh etcd.

import RPC
import SwiftProtobuf
import Wire

/// The Auth service of one event loop.
final class AuthService {
    private unowned let context: LoopContext

    init(_ context: LoopContext) { self.context = context }

    func authenticate(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        if context.isLearner { return call.finish(.notForLearner) }
        guard
            let request = try? Etcdserverpb_AuthenticateRequest(
                serializedBytes: [UInt8](message))
        else {
            return call.finish(RPCStatus(.internal, "grpc: error unmarshalling request"))
        }
        guard let gate = context.gate else { return call.finish(.authNotEnabled) }
        guard gate.checksCredentials else {
            call.finish(.authNotEnabled)
            return gate.recordRefusedLogin(call, user: request.name, .authNotEnabled)
        }
        gate.authenticate(call, user: request.name, password: request.password) {
            [context] result in
            switch result {
            case .success(let token):
                var reply = Etcdserverpb_AuthenticateResponse()
                var header = Etcdserverpb_ResponseHeader()
                header.clusterID = context.node.clusterID
                header.memberID = context.node.memberID
                header.revision = context.node.store.currentRevision
                header.raftTerm = context.term
                reply.header = header
                reply.token = token
                call.respond(encode(reply))
            case .failure(let status):
                call.finish(status)
            }
            context.observer.finished(call)
        }
    }
}
