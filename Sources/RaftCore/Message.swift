/// What members say to each other.
///
/// Delivery may lose, repeat, delay and reorder messages. The host must have authenticated the
/// sender and checked the cluster id; the core checks everything else.
package struct Message: Sendable, Equatable {
    package var from: NodeID
    package var to: NodeID
    /// The sender's term; for a pre-vote request and its grant the term the candidate would take.
    package var term: Term
    package var body: Body

    /// Makes a message as it is decoded from the wire.
    package init(from: NodeID, to: NodeID, term: Term, body: Body) {
        self.from = from
        self.to = to
        self.term = term
        self.body = body
    }

    /// The kinds of messages.
    package enum Body: Sendable, Equatable {
        case voteRequest(VoteRequest)
        case voteResponse(VoteResponse)
        case append(AppendRequest)
        case appendResponse(AppendResponse)
        /// `commit` never exceeds what the receiver is known to hold. `round` numbers the leader's
        /// heartbeats within its term, for read requests. Round 0 asks for no answer: it only tells
        /// the commit index, which would come with the next heartbeat anyway.
        case heartbeat(commit: LogIndex, round: UInt64)
        case heartbeatResponse(round: UInt64)
        /// Goes with the state machine's data, which the host streams beside it; the receiving host
        /// steps the message once all data has arrived.
        case snapshot(SnapshotMetadata)
        /// Answer to a leader of an older term, so that it steps down.
        case newerTerm
        /// The leader hands over: campaign at once (thesis 3.10).
        case timeoutNow
        /// A follower asks the leader for a read index; `id` is the follower's own number.
        case readRequest(id: UInt64)
        case readResponse(id: UInt64, index: LogIndex)
    }

    /// A committed entry that the sender knows of, said along with votes.
    ///
    /// Whoever has this very entry may take it for committed. A member may need that to learn that
    /// a membership change is in force: were it to count on members that are gone, it could not be
    /// elected, and those that know better may be unable to lead (etcd issue 12359).
    package struct CommitPoint: Sendable, Equatable {
        package var index: LogIndex
        package var term: Term

        /// Names the entry at `index`, which has `term`.
        package init(index: LogIndex, term: Term) {
            self.index = index
            self.term = term
        }
    }

    /// A candidate asks for support.
    package struct VoteRequest: Sendable, Equatable {
        /// Only asks whether it would get the vote.
        package var isPreVote: Bool
        /// Sent on behalf of the leader, so a member in contact with the leader answers as well.
        package var isTransfer: Bool
        package var lastIndex: LogIndex
        package var lastTerm: Term
        package var known: CommitPoint

        /// Makes a request of a candidate whose log ends in `(lastIndex, lastTerm)`.
        package init(
            isPreVote: Bool, isTransfer: Bool, lastIndex: LogIndex, lastTerm: Term,
            known: CommitPoint
        ) {
            self.known = known
            self.isPreVote = isPreVote
            self.isTransfer = isTransfer
            self.lastIndex = lastIndex
            self.lastTerm = lastTerm
        }
    }

    /// Answer to a `VoteRequest`.
    package struct VoteResponse: Sendable, Equatable {
        package var isPreVote: Bool
        package var isGranted: Bool
        package var known: CommitPoint

        /// Makes an answer.
        package init(isPreVote: Bool, isGranted: Bool, known: CommitPoint) {
            self.known = known
            self.isPreVote = isPreVote
            self.isGranted = isGranted
        }
    }

    /// Entries that follow `(previousIndex, previousTerm)`.
    package struct AppendRequest: Sendable, Equatable {
        package var previousIndex: LogIndex
        package var previousTerm: Term
        package var commit: LogIndex
        package var entries: [Entry]

        /// Makes a request; without entries it only probes and tells the commit index.
        package init(
            previousIndex: LogIndex, previousTerm: Term, commit: LogIndex, entries: [Entry]
        ) {
            self.previousIndex = previousIndex
            self.previousTerm = previousTerm
            self.commit = commit
            self.entries = entries
        }
    }

    /// Answer to an `AppendRequest` or a snapshot.
    package enum AppendResponse: Sendable, Equatable {
        /// The log agrees with the leader's up to `match`, durably.
        case accepted(match: LogIndex)
        /// Nothing matched at `previous`; the logs can agree at `hintIndex` at best, where the
        /// receiver has `hintTerm`.
        case rejected(previous: LogIndex, hintIndex: LogIndex, hintTerm: Term)
    }
}
