// What members say to each other: Raft's messages, and requests that only the leader can answer.
//
// Requests are numbered by the member that sends them, under a number of its run. A leader takes
// each (run, number) at most once and only in the term that the sender named, so that a repeated or
// delayed message never becomes a second log entry. What became of a forwarded proposal its sender
// sees when the entry is applied there (EntryTag.swift); only refusals are sent back.

import RaftCore
import StateMachine

/// One message from a member to another.
package enum PeerMessage: Sendable, Equatable {
    case raft(Message)
    case request(PeerRequest)
    case reply(PeerReply)
    case report(CompactionReport)

    package var from: NodeID {
        switch self {
        case .raft(let message): message.from
        case .request(let request): request.from
        case .reply(let reply): reply.from
        case .report(let report): report.from
        }
    }

    package var to: NodeID {
        switch self {
        case .raft(let message): message.to
        case .request(let request): request.to
        case .reply(let reply): reply.to
        case .report(let report): report.to
        }
    }
}

/// A follower asks the leader of `term` for something only a leader can do.
package struct PeerRequest: Sendable, Equatable {
    package var from: NodeID
    package var to: NodeID
    /// The term that `to` is believed to lead; another term's leader refuses.
    package var term: Term
    /// Differs in each run of the sender.
    package var run: UInt64
    /// Ascending within a run; a batch of proposals takes as many numbers as it has entries.
    package var number: UInt64
    package var body: Body

    package enum Body: Sendable, Equatable {
        /// Encoded commands, each with the tag (run, number + position).
        case propose([[UInt8]])
        /// An encoded `ChangeList`; in the log it gets the tag (run, number).
        case changeMembership([UInt8])
        case renewLease(Int64)
        case leaseTimeToLive(Int64, withKeys: Bool)
    }

    package init(
        from: NodeID, to: NodeID, term: Term, run: UInt64, number: UInt64, body: Body
    ) {
        self.from = from
        self.to = to
        self.term = term
        self.run = run
        self.number = number
        self.body = body
    }
}

/// The leader's answer to requests `number ..< number + count` of `run`.
package struct PeerReply: Sendable, Equatable {
    package var from: NodeID
    package var to: NodeID
    package var run: UInt64
    package var number: UInt64
    package var count: UInt64
    package var body: Body

    package enum Body: Sendable, Equatable {
        /// Nothing was appended and nothing will be.
        case refused(NodeError)
        /// Nil when there is no such lease.
        case leaseRenewed(timeToLiveSeconds: Int64?)
        case leaseTimeToLive(LeaseStatus?)
    }

    package init(
        from: NodeID, to: NodeID, run: UInt64, number: UInt64, count: UInt64, body: Body
    ) {
        self.from = from
        self.to = to
        self.run = run
        self.number = number
        self.count = count
        self.body = body
    }
}

/// The hash of what a member holds after a compaction, for comparison by the leader.
package struct CompactionReport: Sendable, Equatable {
    package var from: NodeID
    package var to: NodeID
    package var compactRevision: Int64
    package var hash: UInt32

    package init(from: NodeID, to: NodeID, compactRevision: Int64, hash: UInt32) {
        self.from = from
        self.to = to
        self.compactRevision = compactRevision
        self.hash = hash
    }
}
