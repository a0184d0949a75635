// Leaving office (thesis 3.10): to a chosen member, to the best one, or at once.

extension RaftCore {
    /// Hands leadership to a voter (thesis 3.10).
    ///
    /// Proposals are refused until the target leads or an election timeout has passed. A new target
    /// replaces an earlier one.
    package mutating func transferLeadership(to target: NodeID) throws(TransferError) {
        guard role == .leader else { throw .notLeader(leader: leader) }
        guard target != id else { throw .alreadyLeader }
        guard let position = position(of: target) else { throw .unknownMember }
        guard confState.isVoter(target) else { throw .notVoter }
        if transferTarget == target { return }
        transferTarget = target
        electionElapsed = 0
        if progress[position].match == log.lastIndex {
            requestCampaign(at: position)
        } else {
            progress[position].requestAppend()
            outbox.isReplicationDue = true
        }
    }

    /// Tells the member at `position` to campaign, and before that what is committed: with a
    /// membership change that it does not know to be in force it could not win.
    mutating func requestCampaign(at position: Int) {
        tellCommit(at: position)
        sendNow(.timeoutNow, to: progress[position].id, term: term)
    }

    /// The member to hand leadership to: of the voters that were heard within an election timeout, the one
    /// that holds most of the log, and of these the one with the lowest id. Nil when there is none,
    /// and on a follower.
    ///
    /// A voter on its way out of a joint configuration would have to hand over again, and one that
    /// is receiving a snapshot cannot lead.
    package var bestTransferTarget: NodeID? {
        guard role == .leader else { return nil }
        var best: Progress?
        for peer in progress where peer.id != id && peer.isRecentlyActive {
            if case .snapshot = peer.state { continue }
            guard confState.voters.contains(peer.id) else { continue }
            if let best, peer.match <= best.match { continue }
            best = peer
        }
        return best?.id
    }

    /// Gives leadership up at once: the host cannot do its duties, for instance because its disk
    /// does not answer. Does nothing on a follower.
    ///
    /// The best successor is told to campaign without waiting for its timeout, whether or not it
    /// has all entries. It holds at least what the other active voters are known to hold, and what
    /// was sent to it before travels ahead of the request. Should it lack an entry that may be
    /// committed, those that have it refuse the vote (thesis 3.6.1), and the usual election follows.
    /// Entries not yet replicated may be lost, as with any leader that fails.
    ///
    /// This member campaigns no sooner than an election timeout from now.
    package mutating func resign() {
        guard role == .leader else { return }
        let successor = bestTransferTarget
        replicate()
        if let successor { sendNow(.timeoutNow, to: successor, term: term) }
        becomeFollower(term: term, leader: nil)
    }

    /// Whether this leader heard `member` within the last election timeout; of itself it always
    /// has. False on a follower, who does not know.
    package func isRecentlyActive(_ member: NodeID) -> Bool {
        guard role == .leader else { return false }
        return progress.contains { $0.id == member && ($0.id == id || $0.isRecentlyActive) }
    }

    /// Whether the members that this leader heard within the last election timeout could decide in
    /// `membership`, in both halves if it is joint. A member that it does not know counts as silent.
    package func hasActiveQuorum(in membership: ConfState) -> Bool {
        Quorum.outcome(membership) { isRecentlyActive($0) } == .won
    }
}
