// What the calls of operators have in common: generated messages, the plugins' gate, a question to the
// replica or work on the backend's thread, and an answer on the call's loop.

import KVCodec
import NIOCore
import Node
import RPC
import Replica
import StateMachine
import Storage
import SwiftProtobuf
import Wire

/// The base of the services whose calls are rare. Confined to one event loop.
class OperatorService {
    unowned let context: LoopContext

    init(_ context: LoopContext) { self.context = context }

    final func header(revision: Int64? = nil) -> Etcdserverpb_ResponseHeader {
        var header = Etcdserverpb_ResponseHeader()
        header.clusterID = context.node.clusterID
        header.memberID = context.node.memberID
        header.revision = revision ?? context.node.store.currentRevision
        header.raftTerm = context.term
        return header
    }

    final func finished(_ call: ServerCall, _ trail: AuditTrail?) {
        trail?.completed(.ok, revision: 0, index: 0, term: 0)
        context.observer.finished(call)
    }

    /// Goes on at once, or once the plugins have agreed.
    final func gated(
        _ call: ServerCall, _ method: Method, _ message: UnsafeRawBufferPointer,
        _ go: @escaping (AuditTrail?) -> Void
    ) {
        guard let gate = context.gate, gate.selects(method) else { return go(nil) }
        gate.admit(call, method, message) { _, trail in go(trail) }
    }

    /// Asks the replica; `body` gets the answer on this loop.
    final func query(
        _ call: ServerCall, _ trail: AuditTrail?, _ ask: (PendingQuery) -> Bool,
        _ body: @escaping (ReplicaAnswer) -> Void
    ) {
        if !ask(PendingQuery(loopIndex: context.loop.index, body)) {
            call.finish(.tooManyRequests)
            trail?.completed(.tooManyRequests, revision: 0, index: 0, term: 0)
        }
    }

    /// Ends a call with an answer that is a refusal.
    @discardableResult
    final func refuse(_ call: ServerCall, _ answer: ReplicaAnswer, _ trail: AuditTrail?) -> RPCStatus {
        let status: RPCStatus
        switch answer {
        case .refused(let error): status = RPCStatus(error)
        case .applied(let result, _, _):
            guard let error = result.error else {
                preconditionFailure("an operator's call was answered with \(answer)")
            }
            status = RPCStatus(error)
        default: preconditionFailure("an operator's call was answered with \(answer)")
        }
        finish(call, status, trail)
        return status
    }

    final func finish(_ call: ServerCall, _ status: RPCStatus, _ trail: AuditTrail?) {
        call.finish(status)
        trail?.completed(status, revision: 0, index: 0, term: 0)
        context.observer.finished(call)
    }

    /// The same for work that must see everything acknowledged: the backend commits first, as etcd's does.
    final func onSettledBackend<Value: Sendable>(
        _ call: ServerCall, _ trail: AuditTrail?,
        _ work: @escaping @Sendable (Backend) -> Result<Value, RPCStatus>,
        reply: @escaping (Value) -> [UInt8]
    ) {
        query(call, trail, context.node.commitToBackend) { [self] answer in
            guard case .committedToBackend = answer else {
                refuse(call, answer, trail)
                return
            }
            guard call.isOpen else { return finish(call, RPCStatus(.cancelled, "context canceled"), trail) }
            onBackend(call, trail, work, reply: reply)
        }
    }

    /// Does slow work on the backend's thread and answers on this loop.
    final func onBackend<Value: Sendable>(
        _ call: ServerCall, _ trail: AuditTrail?,
        _ work: @escaping @Sendable (Backend) -> Result<Value, RPCStatus>,
        reply: @escaping (Value) -> [UInt8]
    ) {
        let loop = context.loop
        let back = LoopReturn { [context] (result: Result<Value, RPCStatus>) in
            var status = RPCStatus.ok
            switch result {
            case .success(let value): call.respond(reply(value))
            case .failure(let failure):
                status = failure
                call.finish(failure)
            }
            trail?.completed(status, revision: 0, index: 0, term: 0)
            context.observer.finished(call)
        }
        let queued = context.node.onBackend { backend in
            let result = work(backend)
            loop.eventLoop.execute { loop.batch { back.body(result) } }
        }
        if !queued {
            call.finish(.tooManyRequests)
            trail?.completed(.tooManyRequests, revision: 0, index: 0, term: 0)
        }
    }

    /// The request; nil when the call was refused.
    final func decode<Message: SwiftProtobuf.Message>(
        _ call: ServerCall, _ message: UnsafeRawBufferPointer
    ) -> Message? {
        if let status = context.refusal(call) {
            call.finish(status)
            return nil
        }
        do {
            return try Message(serializedBytes: [UInt8](message))
        } catch {
            call.finish(
                RPCStatus(.internal, "grpc: error unmarshalling request: \(error)"))
            return nil
        }
    }
}

/// A continuation that runs on its loop; it travels over another thread but is not called there.
final class LoopReturn<Value>: @unchecked Sendable {
    let body: (Value) -> Void

    init(_ body: @escaping (Value) -> Void) { self.body = body }
}

/// Encodes a reply. Generated messages without required fields cannot fail to encode.
func encode(_ message: some SwiftProtobuf.Message) -> [UInt8] {
    guard let bytes = [UInt8](message: message) else {
        preconditionFailure("\(type(of: message)) cannot be encoded")
    }
    return bytes
}

extension [UInt8] {
    init?(message: some SwiftProtobuf.Message) {
        guard let bytes: [UInt8] = try? message.serializedBytes() else { return nil }
        self = bytes
    }
}
