// grpc.health.v1.Health: only the server as a whole, the empty name, has a status (etcd-parity G10).

import RPC
import SwiftProtobuf
import Wire

/// The gRPC health service.
enum HealthService {
    static func check(
        _ call: ServerCall, _ message: UnsafeRawBufferPointer, _ context: LoopContext
    ) {
        if context.isLearner { return call.finish(.notForLearner) }
        guard let request = decode(message) else {
            return call.finish(RPCStatus(.internal, "grpc: error unmarshalling request"))
        }
        guard request.service.isEmpty else {
            return call.finish(RPCStatus(.notFound, "unknown service"))
        }
        call.respond(reply(.serving))
    }

    static func watch(_ call: ServerCall, _ context: LoopContext) -> (any CallHandler)? {
        if context.isLearner {
            call.finish(.notForLearner)
            return nil
        }
        return Watch()
    }

    private static func decode(
        _ message: UnsafeRawBufferPointer
    ) -> Grpc_Health_V1_HealthCheckRequest? {
        try? Grpc_Health_V1_HealthCheckRequest(serializedBytes: [UInt8](message))
    }

    private static func reply(
        _ status: Grpc_Health_V1_HealthCheckResponse.ServingStatus
    ) -> [UInt8] {
        var reply = Grpc_Health_V1_HealthCheckResponse()
        reply.status = status
        return encode(reply)
    }

    /// Sends the status once; it does not change while the server runs, and a drain says the rest.
    private final class Watch: CallHandler {
        private var hasRequest = false

        func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall) {
            if hasRequest { return }
            hasRequest = true
            guard let request = HealthService.decode(message) else {
                return call.finish(RPCStatus(.internal, "grpc: error unmarshalling request"))
            }
            call.send(HealthService.reply(request.service.isEmpty ? .serving : .serviceUnknown))
        }

        func draining(_ call: ServerCall) {
            call.send(HealthService.reply(.notServing))
            call.finish(RPCStatus(.unavailable, "etcdserver: server stopped"))
        }

        func closed(_ call: ServerCall) {}
    }
}
