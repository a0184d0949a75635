// Elections (thesis 3.4, 3.6.1, 9.6) and the changes of role.

extension RaftCore {
    /// Why an election is held.
    enum CampaignKind: Sendable {
        /// Ask first, without raising the term.
        case preVote
        case vote
        /// The leader asked for it, so members in contact with the leader vote as well.
        case transfer
    }

    /// Time passes for everybody but the leader.
    mutating func tickFollower() {
        heartbeatElapsed += 1
        if heartbeatElapsed >= configuration.heartbeatTicks {
            heartbeatElapsed = 0
            forwardReadsAgain()
        }
        if electionElapsed >= randomizedElectionTicks {
            if isPromotable {
                electionElapsed = 0
                campaign()
            } else {
                // Nothing is due; keep the count from growing without bound.
                electionElapsed = randomizedElectionTicks
            }
        }
    }

    /// Starts an election unless this member leads, may not lead, or must first apply a membership
    /// change that is known to be committed: with it, the old members no longer decide.
    mutating func campaign(_ kind: CampaignKind) {
        guard role != .leader, isPromotable, term < Self.maxTerm else { return }
        if hasUnappliedCommittedChange { return }
        let isPreVote = kind == .preVote
        if isPreVote { becomePreCandidate() } else { becomeCandidate() }
        let electionTerm = isPreVote ? term + 1 : term
        let request = Message.VoteRequest(
            isPreVote: isPreVote, isTransfer: kind == .transfer,
            lastIndex: log.lastIndex, lastTerm: log.lastTerm, known: commitPoint)
        for peer in progress where peer.id != id && confState.isVoter(peer.id) {
            if isPreVote {
                sendNow(.voteRequest(request), to: peer.id, term: electionTerm)
            } else {
                sendWhenDurable(.voteRequest(request), to: peer.id, term: electionTerm)
            }
        }
        if isPreVote {
            record(vote: true, of: id)
        } else {
            // The own vote is an answer like any other: it counts once it is durable.
            let vote = Message.VoteResponse(
                isPreVote: false, isGranted: true, known: commitPoint)
            sendWhenDurable(.voteResponse(vote), to: id, term: term)
        }
    }

    /// Answers a candidate. Everybody answers, whatever role: the candidate may know a later
    /// membership in which this member votes.
    mutating func answerVote(_ request: Message.VoteRequest, from candidate: NodeID, term asked: Term) {
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.voteTwiceInTerm), role == .follower, leader == nil { vote = 0 }
        #endif
        let isFree =
            vote == candidate || (vote == 0 && leader == nil)
            || (request.isPreVote && asked > term)
        let isGranted =
            isFree && log.isUpToDate(index: request.lastIndex, term: request.lastTerm)
        learnCommitted(request.known)
        let response = Message.VoteResponse(
            isPreVote: request.isPreVote, isGranted: isGranted, known: commitPoint)
        if isGranted, !request.isPreVote {
            vote = candidate
            electionElapsed = 0
        }
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.voteBeforeDurable) {
                return sendNow(.voteResponse(response), to: candidate, term: isGranted ? asked : term)
            }
        #endif
        sendWhenDurable(
            .voteResponse(response), to: candidate, term: isGranted ? asked : term)
    }

    /// Counts an answer to the election under way, if it belongs to it.
    mutating func countVote(
        _ response: Message.VoteResponse, from voter: NodeID, term asked: Term
    ) {
        learnCommitted(response.known)
        guard role == (response.isPreVote ? .preCandidate : .candidate) else { return }
        // A pre-vote is granted for the term to come; for the present one it is an old answer.
        if response.isPreVote, response.isGranted, asked != term + 1 { return }
        record(vote: response.isGranted, of: voter)
    }

    /// The last entry known to be committed here.
    var commitPoint: Message.CommitPoint {
        Message.CommitPoint(index: commitIndex, term: log.term(at: commitIndex) ?? 0)
    }

    /// Takes over that `point` is committed, if that entry is in the log.
    ///
    /// Should this put a membership change in force, the election under way counts on the wrong
    /// members: it ends, and another follows as soon as the change is applied.
    private mutating func learnCommitted(_ point: Message.CommitPoint) {
        guard role != .leader, point.index > commitIndex,
            log.term(at: point.index) == point.term
        else { return }
        raiseCommit(to: point.index)
        if role != .follower, hasUnappliedCommittedChange {
            becomeFollower(term: term, leader: nil)
            postponedCampaign = configuration.preVote ? .preVote : .vote
        }
    }

    /// Whether the members that decide are about to change.
    var hasUnappliedCommittedChange: Bool {
        unappliedConfigChanges.first.map { $0 <= commitIndex } ?? false
    }

    /// Holds the election that waited for a membership change, unless a leader has been heard of.
    mutating func campaignIfPostponed() {
        guard let kind = postponedCampaign, !hasUnappliedCommittedChange else { return }
        postponedCampaign = nil
        if role == .follower, leader == nil || kind == .transfer { campaign(kind) }
    }

    /// Counts this member's own vote in `electionTerm`, which has become durable.
    mutating func countOwnVote(term electionTerm: Term) {
        guard role == .candidate, electionTerm == term else { return }
        record(vote: true, of: id)
    }

    /// Follows in `newTerm`; resets everything that belongs to a term.
    mutating func becomeFollower(term newTerm: Term, leader newLeader: NodeID?) {
        reset(term: newTerm)
        role = .follower
        leader = newLeader
    }

    private mutating func becomePreCandidate() {
        precondition(role != .leader, "a leader asks for pre-votes in term \(term)")
        abandonReads()
        votes = []
        postponedCampaign = nil
        role = .preCandidate
        leader = nil
        electionElapsed = 0
        randomizeElectionTimeout()
    }

    private mutating func becomeCandidate() {
        precondition(role != .leader, "a leader campaigns in term \(term)")
        reset(term: term + 1)
        role = .candidate
        vote = id
    }

    private mutating func becomeLeader() {
        precondition(role == .candidate, "\(role) becomes leader in term \(term)")
        reset(term: term)
        role = .leader
        leader = id
        for position in progress.indices {
            progress[position].reset(next: log.lastIndex + 1)
        }
        // Entries of earlier terms are committed by way of this one (thesis 3.6.2), and reads and
        // membership changes wait for it.
        log.append(term: term, kind: .normal, data: [])
        updateOwnProgress()
        outbox.isReplicationDue = true
        leaveJointIfDue()
    }

    private mutating func record(vote isGranted: Bool, of voter: NodeID) {
        if !votes.contains(where: { $0.id == voter }) { votes.append((voter, isGranted)) }
        let votes = votes
        let outcome = Quorum.outcome(confState) { voter in
            votes.first { $0.id == voter }?.isGranted
        }
        switch outcome {
        case .pending:
            break
        case .won:
            if role == .preCandidate { campaign(.vote) } else { becomeLeader() }
        case .lost:
            becomeFollower(term: term, leader: nil)
        }
    }

    private mutating func reset(term newTerm: Term) {
        precondition(newTerm >= term, "term goes back from \(term) to \(newTerm)")
        if newTerm > term {
            term = newTerm
            vote = 0
        }
        leader = nil
        electionElapsed = 0
        heartbeatElapsed = 0
        randomizeElectionTimeout()
        votes = []
        postponedCampaign = nil
        transferTarget = nil
        uncommittedBytes = 0
        abandonReads()
    }

    mutating func randomizeElectionTimeout() {
        let ticks = configuration.electionTicks
        randomizedElectionTicks = Int.random(in: ticks..<ticks * 2, using: &random)
    }
}
