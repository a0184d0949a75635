// The leader: proposals, heartbeats, the commit rule.

extension RaftCore {
    /// Appends one entry for each payload, all or none, and returns their indices.
    ///
    /// The payloads are shared, not copied. The entries belong to the present `term`; should
    /// another entry appear at one of these indices, the proposal is lost.
    package mutating func propose(
        _ payloads: [[UInt8]]
    ) throws(ProposalError) -> Range<LogIndex> {
        try checkMayPropose()
        var bytes = 0
        for payload in payloads {
            if payload.isEmpty { throw .emptyPayload }
            if payload.count > configuration.maxEntryBytes {
                throw .payloadTooLarge(bytes: payload.count)
            }
            bytes += payload.count
        }
        if uncommittedBytes > 0, uncommittedBytes + bytes > configuration.maxUncommittedBytes {
            throw .uncommittedFull
        }
        let first = log.lastIndex + 1
        uncommittedBytes += bytes
        for payload in payloads { log.append(term: term, kind: .normal, data: payload) }
        if !payloads.isEmpty { noteAppended() }
        return first..<log.lastIndex + 1
    }

    /// Time passes for the leader.
    mutating func tickLeader() {
        for position in progress.indices where progress[position].id != id {
            progress[position].tick(electionTicks: configuration.electionTicks)
        }
        if configuration.checkQuorum, !hasHeardQuorum {
            return becomeFollower(term: term, leader: nil)
        }
        if electionElapsed >= configuration.electionTicks {
            electionElapsed = 0
            transferTarget = nil
            leaveJointIfDue()
        }
        heartbeatElapsed += 1
        if heartbeatElapsed >= configuration.heartbeatTicks {
            heartbeatElapsed = 0
            reads.isHeartbeatDue = true
            outbox.isReplicationDue = true
        }
    }

    /// Whether this member may append proposals now.
    func checkMayPropose() throws(ProposalError) {
        guard role == .leader else { throw .notLeader(leader: leader) }
        if let transferTarget { throw .transferring(to: transferTarget) }
    }

    /// Arranges for new entries to be sent.
    mutating func noteAppended() {
        updateOwnProgress()
        outbox.isReplicationDue = true
    }

    /// Takes this member's own durable entries into account.
    ///
    /// The leader sends entries while it writes them, and may not count itself before they are
    /// durable.
    mutating func updateOwnProgress() {
        guard let position = position(of: id) else { return }
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.leaderCountsUnwrittenEntries) {
                progress[position].becomeSelf(stable: log.lastIndex, lastIndex: log.lastIndex)
                return
            }
        #endif
        progress[position].becomeSelf(stable: log.stableIndex, lastIndex: log.lastIndex)
    }

    /// Commits what a majority holds durably, if it reaches into the present term.
    ///
    /// Entries of earlier terms are never committed by counting: a later leader might still replace
    /// them (thesis figure 3.7). They follow the first entry of this term.
    mutating func advanceCommit() {
        guard role == .leader else { return }
        let progress = progress
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.learnerCountsForCommit), !confState.learners.isEmpty {
                let all = Quorum.reached(confState.voters + confState.learners) { member in
                    progress.first { $0.id == member }?.match ?? 0
                }
                if all > commitIndex, log.term(at: all) == term { raiseCommit(to: all) }
            }
        #endif
        let reached = Quorum.reached(confState) { voter in
            progress.first { $0.id == voter }?.match ?? 0
        }
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.commitOldTermByCounting) { return raiseCommit(to: reached) }
        #endif
        guard reached > commitIndex, log.term(at: reached) == term else { return }
        raiseCommit(to: reached)
        outbox.isReplicationDue = true
        startDeferredReads()
    }

    /// Moves the commit index forward, never back and never past the log.
    mutating func raiseCommit(to index: LogIndex) {
        guard index > commitIndex else { return }
        precondition(
            index <= log.lastIndex, "commit \(index) beyond the log's end \(log.lastIndex)")
        commitIndex = index
    }

    func position(of id: NodeID) -> Int? { progress.firstIndex { $0.id == id } }

    /// Whether a quorum was heard from, or not yet waited for, within the last election timeout.
    private var hasHeardQuorum: Bool {
        let (id, progress, limit) = (id, progress, configuration.electionTicks)
        return Quorum.outcome(confState) { voter in
            voter == id || progress.contains { $0.id == voter && $0.silentTicks < limit }
        } == .won
    }
}
