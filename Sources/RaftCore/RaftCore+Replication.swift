// Replication (thesis 3.5): what the leader sends and what it makes of the answers.

/// Entries from `from` on, as they were last put into a message.
private struct SharedEntries {
    var from: LogIndex = 0
    var entries: [Entry] = []
    /// Their payload.
    var bytes = 0
}

extension RaftCore {
    /// Notes that the host could not reach `peer`: appends under way are probably lost.
    package mutating func reportUnreachable(_ peer: NodeID) {
        guard role == .leader, peer != id, let position = position(of: peer) else { return }
        progress[position].becameUnreachable()
    }

    /// Notes how the transfer of a snapshot to `peer` ended; without this nothing more is sent to
    /// it.
    package mutating func snapshotReported(to peer: NodeID, succeeded: Bool) {
        guard role == .leader, peer != id, let position = position(of: peer) else { return }
        progress[position].snapshotReported(succeeded: succeeded)
    }

    /// Makes the heartbeats and appends that are due.
    mutating func replicate() {
        let round = reads.closeRound()
        // Peers that are level get the same array: one copy of the entries for all.
        var shared = SharedEntries()
        for position in progress.indices where progress[position].id != id {
            if let round {
                let commit = min(progress[position].match, commitIndex)
                progress[position].told(commit: commit)
                sendNow(
                    .heartbeat(commit: commit, round: round),
                    to: progress[position].id, term: term)
            }
            sendAppends(at: position, shared: &shared)
            tellCommit(at: position)
        }
    }

    /// Tells the member at `position` the commit index, if that is news it can use.
    mutating func tellCommit(at position: Int) {
        guard let commit = progress[position].commitNews(commitIndex) else { return }
        progress[position].told(commit: commit)
        sendNow(.heartbeat(commit: commit, round: 0), to: progress[position].id, term: term)
    }

    /// Tells the member at `position` the commit index by an append, behind what is on its way there.
    mutating func sendCommit(at position: Int) {
        // One that lacks entries which are gone would be sent a snapshot, for nothing.
        guard progress[position].sentCommit < commitIndex, log.term(at: progress[position].next - 1) != nil else {
            return
        }
        progress[position].requestAppend()
        var shared = SharedEntries()
        sendAppends(at: position, shared: &shared)
    }

    /// Sends the member at `position` all it may be sent now.
    private mutating func sendAppends(
        at position: Int, shared: inout SharedEntries
    ) {
        while true {
            let next = progress[position].next
            let hasEntries = next <= log.lastIndex && !progress[position].isPaused
            guard hasEntries || progress[position].wantsEmptyAppend(commit: commitIndex) else {
                return
            }
            guard let previousTerm = log.term(at: next - 1) else {
                return sendSnapshot(at: position)
            }
            if hasEntries, shared.from != next {
                let entries = log.entries(
                    from: next, through: log.lastIndex,
                    maxBytes: configuration.maxEntriesBytesPerMessage)
                shared = SharedEntries(
                    from: next, entries: entries, bytes: entries.reduce(0) { $0 + $1.data.count })
            }
            let entries = hasEntries ? shared.entries : []
            let request = Message.AppendRequest(
                previousIndex: next - 1, previousTerm: previousTerm,
                commit: commitIndex, entries: entries)
            sendNow(.append(request), to: progress[position].id, term: term)
            progress[position].sent(
                count: entries.count, bytes: hasEntries ? shared.bytes : 0, commit: commitIndex)
            if entries.isEmpty { return }
        }
    }

    /// Sends a snapshot as of the applied index to a member whose next entry is gone.
    private mutating func sendSnapshot(at position: Int) {
        // A silent peer would not get it; its first heartbeat answer comes back here.
        guard progress[position].isRecentlyActive,
            let appliedTerm = log.term(at: appliedIndex), appliedIndex > 0
        else { return }
        let metadata = SnapshotMetadata(
            index: appliedIndex, term: appliedTerm, confState: confState)
        progress[position].becomeSnapshot(at: appliedIndex)
        sendNow(.snapshot(metadata), to: progress[position].id, term: term)
    }

    /// Handles a member's answer to an append or a snapshot.
    mutating func handleAppendResponse(
        _ response: Message.AppendResponse, from peer: NodeID
    ) throws(StepError) {
        guard role == .leader else { return }
        guard let position = position(of: peer) else { throw .unknownPeer(peer) }
        progress[position].heard()
        switch response {
        case .rejected(let previous, let hintIndex, let hintTerm):
            // The peer has `hintTerm` at `hintIndex`: skip our entries of later terms below it at
            // once.
            let candidate = min(
                hintIndex, log.lastIndex(upTo: hintIndex, termAtMost: hintTerm))
            if progress[position].rejected(previous: previous, candidate: candidate) {
                progress[position].requestAppend()
                outbox.isReplicationDue = true
            }
        case .accepted(let match):
            guard match <= log.lastIndex else { throw .malformed }
            let isNews = progress[position].accepted(match, firstIndex: log.firstIndex)
            outbox.isReplicationDue = true
            if isNews { advanceCommit() }
            if transferTarget == peer, progress[position].match == log.lastIndex {
                requestCampaign(at: position)
            }
        }
    }

    /// Handles a member's answer to a heartbeat.
    mutating func handleHeartbeatResponse(round: UInt64, from peer: NodeID) throws(StepError) {
        guard role == .leader else { return }
        guard let position = position(of: peer) else { throw .unknownPeer(peer) }
        guard round <= reads.round else { throw .malformed }
        progress[position].heard()
        progress[position].heartbeatAnswered(lastIndex: log.lastIndex)
        outbox.isReplicationDue = true
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.heartbeatCountsForNextRound) {
                progress[position].acknowledgedRound = reads.round + 1
                return confirmReads()
            }
        #endif
        if round > progress[position].acknowledgedRound {
            progress[position].acknowledgedRound = round
            confirmReads()
        }
    }

    /// Takes the leader's entries, or says where the logs may agree.
    mutating func acceptAppend(_ request: Message.AppendRequest) throws(StepError) {
        guard let leader else { return }
        if request.previousIndex < commitIndex {
            // An old message. What is committed must agree with every leader.
            try checkAgreesWithCommitted(request)
            return answer(.accepted(match: commitIndex), to: leader)
        }
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.previousTermUnchecked), request.previousIndex <= log.lastIndex {
                takeOver(request.entries)
                let lastNew = request.previousIndex + UInt64(request.entries.count)
                raiseCommit(to: min(request.commit, lastNew))
                return answer(.accepted(match: lastNew), to: leader)
            }
        #endif
        guard log.term(at: request.previousIndex) == request.previousTerm else {
            // What is committed here agrees with every leader's log, so there is no need to look
            // lower.
            let hint = max(
                commitIndex,
                log.lastIndex(
                    upTo: min(request.previousIndex, log.lastIndex),
                    termAtMost: request.previousTerm))
            return answer(
                .rejected(
                    previous: request.previousIndex, hintIndex: hint,
                    hintTerm: log.term(at: hint) ?? 0),
                to: leader)
        }
        takeOver(request.entries)
        let lastNew = request.previousIndex + UInt64(request.entries.count)
        // Beyond `lastNew` this log may still differ from the leader's.
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.followerCommitsWhatItReceives) { raiseCommit(to: lastNew) }
            if Mutation.isOn(.oldAppendTruncates), lastNew < log.lastIndex, lastNew > commitIndex {
                log.truncate(from: lastNew + 1)
                durability.overwritten(from: lastNew + 1)
                unappliedConfigChanges.removeAll { $0 > lastNew }
            }
        #endif
        raiseCommit(to: min(request.commit, lastNew))
        answer(.accepted(match: lastNew), to: leader)
    }

    /// Answers the leader's heartbeat. This makes no promise about the log, so it need not wait for
    /// a slow disk.
    mutating func acceptHeartbeat(commit: LogIndex, round: UInt64) throws(StepError) {
        guard let leader else { return }
        guard commit <= log.lastIndex else {
            throw .commitBeyondLog(commit: commit, lastIndex: log.lastIndex)
        }
        raiseCommit(to: commit)
        if round > 0 { sendNow(.heartbeatResponse(round: round), to: leader, term: term) }
    }

    private func checkAgreesWithCommitted(
        _ request: Message.AppendRequest
    ) throws(StepError) {
        if let term = log.term(at: request.previousIndex), term != request.previousTerm {
            throw .conflictBelowCommit(index: request.previousIndex, commit: commitIndex)
        }
        for entry in request.entries.prefix(while: { $0.index <= commitIndex }) {
            if let term = log.term(at: entry.index), term != entry.term {
                throw .conflictBelowCommit(index: entry.index, commit: commitIndex)
            }
        }
    }

    /// Appends the entries that the log lacks, replacing a suffix that conflicts.
    private mutating func takeOver(_ entries: [Entry]) {
        guard let missing = log.firstMissing(entries) else { return }
        let index = entries[missing].index
        precondition(index > commitIndex, "overwriting \(index), committed \(commitIndex)")
        if index <= log.lastIndex {
            log.truncate(from: index)
            durability.overwritten(from: index)
            while let change = unappliedConfigChanges.last, change >= index {
                unappliedConfigChanges.removeLast()
            }
        }
        log.append(entries[missing...])
        for entry in entries[missing...] where entry.kind == .configChange {
            unappliedConfigChanges.append(entry.index)
        }
        commitEarlierChanges()
    }

    /// Answers an append or a snapshot of `leader` as soon as what the answer says is durable.
    mutating func answer(_ response: Message.AppendResponse, to leader: NodeID) {
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.appendAnsweredBeforeDurable) {
                return sendNow(.appendResponse(response), to: leader, term: term)
            }
        #endif
        sendWhenDurable(.appendResponse(response), to: leader, term: term)
    }
}
