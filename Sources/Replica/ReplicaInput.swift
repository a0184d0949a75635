// What the replica is asked, and what it answers. The node feeds it from its mailbox, the simulator from
// its event queue.

import MVCC
import RaftCore
import StateMachine

/// Waits for the replica's answer on behalf of a request. Called exactly once, on the event loop
/// with `loopIndex`.
package protocol ReplyWaiter: AnyObject, Sendable {
    var loopIndex: Int { get }
    func replicaAnswered(_ answer: ReplicaAnswer)
}

/// Why the node did not do what was asked. Texts and codes are etcd's (etcd-parity section 4). The
/// numbers are part of the peer protocol.
package enum NodeError: UInt8, Error, Sendable, Equatable, CaseIterable {
    case noLeader = 1
    case leaderChanged = 2
    case timedOut = 3
    case stopped = 4
    case tooManyRequests = 5
    case requestTooLarge = 6
    /// Timed out, and the leader was lost meanwhile.
    case timedOutByLeaderFailure = 7
    /// Only the leader does this.
    case notLeader = 8
    /// The target of a transfer is no voter, or unknown.
    case badTransferTarget = 9
    case transferTimedOut = 10
    /// A membership change that would risk the quorum.
    case unhealthyCluster = 11
    case notEnoughStartedMembers = 12
    case learnerNotReady = 13
    case memberNotFound = 14
    case memberExists = 15
    case peerURLExists = 16
    case notLearner = 17
    case tooManyLearners = 18
}

/// An answer of the replica.
package enum ReplicaAnswer: Sendable {
    /// The proposal was applied; the result may still be a refusal by the state machine.
    case applied(ApplyResult, index: LogIndex, term: Term)
    case refused(NodeError)
    /// A linearizable read may now be served from the store.
    case readReady(term: Term)
    /// Seconds to live after renewing; nil when there is no such lease.
    case leaseRenewed(timeToLiveSeconds: Int64?)
    case leaseTimeToLive(LeaseStatus?)
    /// Nil for an unknown lease, and for one with more keys than were asked for.
    case leaseKeys([[UInt8]]?)
    case leases([Int64])
    case members([Member])
    case alarms([Alarm])
    /// The membership after an applied change.
    case membershipChanged([Member])
    case leadershipTransferred
    /// Everything that was applied when it was asked for is in the backend.
    case committedToBackend
}

/// One request to the replica.
package enum ReplicaInput: Sendable {
    case propose(Proposal)
    case read(any ReplyWaiter)
    case leaseRenew(Int64, any ReplyWaiter)
    case leaseTimeToLive(Int64, withKeys: Bool, any ReplyWaiter)
    /// The keys of a lease as of what is applied here.
    case leaseKeys(Int64, atMost: Int, any ReplyWaiter)
    case leases(any ReplyWaiter)
    case members(any ReplyWaiter)
    case alarms(any ReplyWaiter)
    /// Several changes are made together, through a joint configuration, or not at all.
    case changeMembership([MembershipChange], any ReplyWaiter)
    case transferLeadership(to: NodeID, any ReplyWaiter)
    /// Answered once everything applied is in the backend (etcd Backend.ForceCommit).
    case commitToBackend(any ReplyWaiter)
    /// A peer's message arrived. The transport has authenticated the sender.
    case received(PeerMessage)
    /// A peer can be sent to again.
    case reachable(NodeID)
    /// The connection to a peer failed; what was sent last is probably lost.
    case unreachable(NodeID)
    /// The log made everything up to this batch durable.
    case persisted(sequence: UInt64)
    /// The backend committed what was frozen.
    case backendCommitted(PendingCommit)
    /// A snapshot has arrived whole, was checked and is durable as a file; `message` is the
    /// leader's, with the index that the data really stand at.
    case snapshotArrived(Message)
    /// The state of the snapshot being installed is durable as the backend's.
    case snapshotInstalled(InstalledSnapshot)
    /// A transfer that `Effects.snapshots` asked for has ended.
    case snapshotSent(to: NodeID, succeeded: Bool)
    /// The hash that `Effects.hashes` asked for.
    case compactionHashed(compactRevision: Int64, hash: UInt32)
    /// Hand leadership over, then report `Effects.isStopped`.
    case stop
}

/// A received state on its way into memory.
package struct InstalledSnapshot: Sendable {
    package let state: any StateReader & Sendable
    /// Its records, when the host has read them already; that takes about a second for each million.
    package let contents: StoreContents?
    /// Makes its records what readers see; called once, in the moment in which the store changes.
    package let activate: @Sendable () -> Void

    package init(
        state: any StateReader & Sendable, contents: StoreContents? = nil,
        activate: @escaping @Sendable () -> Void = {}
    ) {
        self.state = state
        self.contents = contents
        self.activate = activate
    }
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

/// An answer on its way to its loop.
package struct PendingAnswer: Sendable {
    package let waiter: any ReplyWaiter
    package let answer: ReplicaAnswer

    package init(waiter: any ReplyWaiter, answer: ReplicaAnswer) {
        self.waiter = waiter
        self.answer = answer
    }
}
