// What other threads ask of the replica thread, and what they get back.

import MVCC
import RaftCore
import StateMachine

/// Waits for the replica's answer on behalf of a request. Called exactly once, on the event loop
/// with `loopIndex`.
package protocol ReplyWaiter: AnyObject, Sendable {
    var loopIndex: Int { get }
    func replicaAnswered(_ answer: ReplicaAnswer)
}

/// Why the node did not do what was asked. Texts and codes are etcd's (etcd-parity section 4).
package enum NodeError: Error, Sendable, Equatable {
    case noLeader
    case leaderChanged
    case timedOut
    case stopped
    case tooManyRequests
    case requestTooLarge
}

/// An answer of the replica thread.
package enum ReplicaAnswer: Sendable {
    /// The proposal was applied; the result may still be a refusal by the state machine.
    case applied(ApplyResult, index: LogIndex, term: Term)
    case refused(NodeError)
    /// A linearizable read may now be served from the store.
    case readReady(term: Term)
    /// Seconds to live after renewing; nil when there is no such lease.
    case leaseRenewed(timeToLiveSeconds: Int64?)
    case leaseTimeToLive(LeaseStatus?)
    case leases([Int64])
    case members([Member])
    case alarms([Alarm])
}

/// One request to the replica thread.
enum ReplicaInput: Sendable {
    case propose(Proposal)
    case read(any ReplyWaiter)
    case leaseRenew(Int64, any ReplyWaiter)
    case leaseTimeToLive(Int64, withKeys: Bool, any ReplyWaiter)
    case leases(any ReplyWaiter)
    case members(any ReplyWaiter)
    case alarms(any ReplyWaiter)
    /// The log thread made a batch durable.
    case persisted(sequence: UInt64)
    /// The backend thread committed what was frozen.
    case backendCommitted(BackendCommitted)
    case stop
}

/// A command on its way into the log.
package struct Proposal: Sendable {
    /// An encoded `Command`.
    package let entry: [UInt8]
    /// Nil when nobody waits (the core's own commands).
    package let waiter: (any ReplyWaiter)?

    package init(entry: [UInt8], waiter: (any ReplyWaiter)?) {
        self.entry = entry
        self.waiter = waiter
    }
}

/// Receives answers for one event loop; called on the replica thread with whole batches.
package protocol AnswerSink: AnyObject, Sendable {
    func deliver(_ answers: [PendingAnswer])
}

/// An answer on its way to its loop.
package struct PendingAnswer: Sendable {
    package let waiter: any ReplyWaiter
    package let answer: ReplicaAnswer

    package init(waiter: any ReplyWaiter, answer: ReplicaAnswer) {
        self.waiter = waiter
        self.answer = answer
    }
}
