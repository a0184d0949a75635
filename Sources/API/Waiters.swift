// Objects that carry a call to the replica and bring the answer back to its loop.
//
// They are marked Sendable because they travel; everything in them is touched on the call's loop
// only (LoopOutbox delivers there).

import KVCodec
import Node
import RPC
import Replica
import StateMachine

/// A call that waits for its command to be applied.
final class PendingWrite: ReplyWaiter, @unchecked Sendable {
    let call: ServerCall
    let loopIndex: Int
    private unowned(unsafe) let context: LoopContext
    /// What the audit plugins want to hear once the outcome is known; nil without such plugins.
    let trail: AuditTrail?
    /// Whether the reply's header tells the store's revision.
    private let showsRevision: Bool

    init(
        _ call: ServerCall, _ context: LoopContext, trail: AuditTrail? = nil,
        showsRevision: Bool = true
    ) {
        self.call = call
        self.context = context
        self.trail = trail
        self.showsRevision = showsRevision
        loopIndex = context.loop.index
    }

    func replicaAnswered(_ answer: ReplicaAnswer) {
        switch answer {
        case .applied(let result, let index, let term):
            if let error = result.error {
                finish(RPCStatus(error), revision: result.revision, index: index, term: term)
            } else {
                context.respond(
                    call, revision: showsRevision ? result.revision : 0, term: term,
                    body: result.body)
                trail?.completed(.ok, revision: result.revision, index: index, term: term)
                context.observer.finished(call)
            }
        case .refused(let error): refuse(error)
        default: preconditionFailure("a command was answered with \(answer)")
        }
    }

    func refuse(_ error: ApplyError) { finish(RPCStatus(error), revision: 0, index: 0, term: 0) }

    func refuse(_ error: NodeError) { finish(RPCStatus(error), revision: 0, index: 0, term: 0) }

    private func finish(_ status: RPCStatus, revision: Int64, index: UInt64, term: UInt64) {
        call.finish(status)
        trail?.completed(status, revision: revision, index: index, term: term)
        context.observer.finished(call)
    }
}

/// A call that waits until a linearizable read may be served.
final class PendingRead: ReplyWaiter, @unchecked Sendable {
    private let call: ServerCall
    let loopIndex: Int
    private let trail: AuditTrail?
    private let body: () -> Void

    init(
        _ call: ServerCall, loopIndex: Int, trail: AuditTrail?, _ body: @escaping () -> Void
    ) {
        self.call = call
        self.loopIndex = loopIndex
        self.trail = trail
        self.body = body
    }

    func replicaAnswered(_ answer: ReplicaAnswer) {
        switch answer {
        case .readReady: body()
        case .refused(let error):
            call.finish(RPCStatus(error))
            trail?.completed(RPCStatus(error), revision: 0, index: 0, term: 0)
        default: preconditionFailure("a read was answered with \(answer)")
        }
    }
}

/// Anything else that waits for the replica: the body sees the answer on the loop.
final class PendingQuery: ReplyWaiter, @unchecked Sendable {
    let loopIndex: Int
    private let body: (ReplicaAnswer) -> Void

    init(loopIndex: Int, _ body: @escaping (ReplicaAnswer) -> Void) {
        self.loopIndex = loopIndex
        self.body = body
    }

    func replicaAnswered(_ answer: ReplicaAnswer) { body(answer) }
}
