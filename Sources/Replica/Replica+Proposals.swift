// Commands on their way into the log: proposed here by a leader, forwarded by a follower, kept while
// nobody leads.
//
// A command is appended by one leader in one term. It is proposed again only when it is certain that
// its entry never will be applied (reliability.md, pitfall 19), and there are three ways to know:
// that leader says so; another entry is applied at its index; or an entry of a later term is
// applied here, for by then everything of earlier terms that will ever be applied has been: the later
// leader's log held it before its own first entry, or nobody's ever will (leader completeness,
// thesis 3.6.3). Until then the outcome is unknown, and when its time is up the client is told so.

import RaftCore
import StateMachine

extension Replica {
    /// Proposes or forwards what came in this turn.
    func propose(now: UInt64) {
        let batch = proposals
        proposals.removeAll(keepingCapacity: true)
        guard pendingRequests < configuration.maxPendingProposals,
            backend.pendingBytes <= configuration.maxPendingBytes
        else {
            return refuse(batch, .tooManyRequests)
        }
        if raft.role == .leader {
            proposeHere(batch)
        } else if let leader = raft.leader, leader != raft.id, !unreachable.contains(leader) {
            forward(batch, to: leader)
        } else {
            for proposal in batch { waiting.parked.append(.proposal(proposal)) }
        }
    }

    /// Appends commands of the core; without leadership they are dropped, since it is the leader's
    /// duty that they do.
    func proposeOwn(_ entry: [UInt8], waiter: (any ReplyWaiter)? = nil, now: UInt64) {
        let proposal = Proposal(entry: entry, waiter: waiter)
        guard raft.role == .leader else {
            if let waiter { answer(waiter, .refused(.leaderChanged)) }
            return
        }
        proposeHere([QueuedProposal(proposal: proposal, since: now)])
    }

    private func proposeHere(_ batch: [QueuedProposal]) {
        do throws(ProposalError) {
            let range = try raft.propose(batch.map(\.proposal.entry))
            // Those of an earlier term at these indexes wait for entries that this log lost. Another
            // log may still hold them.
            if waiting.entries.lastIndex >= range.lowerBound {
                var lost: [WaiterQueue.Slot] = []
                waiting.entries.removeLast(from: range.lowerBound) { lost.append($0) }
                waiting.uncertain += lost.reversed()
            }
            var index = range.lowerBound
            for queued in batch {
                waiting.entries.append(index: index, term: raft.term, queued)
                index += 1
            }
        } catch {
            switch error {
            case .notLeader, .transferring:
                for queued in batch { waiting.parked.append(.proposal(queued)) }
            case .uncommittedFull: refuse(batch, .tooManyRequests)
            case .payloadTooLarge:
                // One command of the batch is too large for the log: find out which.
                if batch.count == 1 { return refuse(batch, .requestTooLarge) }
                for queued in batch { proposeHere([queued]) }
            case .emptyPayload: refuse(batch, .requestTooLarge)
            case .configChangePending, .notCommittedInTerm, .configChangeRefused:
                preconditionFailure("proposal of commands refused: \(error)")
            }
        }
    }

    func refuse(_ batch: [QueuedProposal], _ error: NodeError) {
        for queued in batch {
            if let waiter = queued.proposal.waiter { answer(waiter, .refused(error)) }
        }
        figures.failedProposals &+= UInt64(batch.count)
    }

    // MARK: Follower

    private func forward(_ batch: [QueuedProposal], to leader: NodeID) {
        var entries: [[UInt8]] = []
        var bytes = 0
        var first = requestNumber
        func send() {
            if entries.isEmpty { return }
            effects.messages.append(
                .request(
                    PeerRequest(
                        from: raft.id, to: leader, term: raft.term, run: run, number: first,
                        body: .propose(entries))))
            entries.removeAll()
            bytes = 0
            first = requestNumber
        }
        for queued in batch {
            let entry = queued.proposal.entry
            if entry.count + EntryTag.size > raft.configuration.maxEntryBytes {
                refuse([queued], .requestTooLarge)
                continue
            }
            if bytes > 0, bytes + entry.count > configuration.maxForwardBytes { send() }
            let tag = EntryTag(run: run, number: requestNumber)
            entries.append(Command.tagged(entry, tag: tag.bytes))
            bytes += entry.count + EntryTag.size
            waiting.add(
                requestNumber, .proposal(queued), term: raft.term, since: queued.since)
            requestNumber += 1
        }
        send()
    }

    /// The leader of the term answers, or refuses for good.
    func take(_ reply: PeerReply, now: UInt64) {
        guard reply.run == run, reply.number < requestNumber,
            reply.count <= requestNumber - reply.number
        else { return }
        for number in reply.number..<reply.number + reply.count {
            guard let tagged = waiting.take(number) else { continue }
            switch (tagged.kind, reply.body) {
            case (.proposal(let queued), .refused(let error)):
                // It was not appended and never will be: whoever leads now may have it.
                if error == .leaderChanged {
                    waiting.parked.append(.proposal(queued))
                } else {
                    refuse([queued], error)
                }
            case (.question(let question, let waiter), .refused(let error)):
                if error == .leaderChanged {
                    waiting.parked.append(.question(question, waiter, since: tagged.since))
                } else {
                    answer(waiter, .refused(error))
                }
            case (.question(.renew, let waiter), .leaseRenewed(let seconds)):
                answer(waiter, .leaseRenewed(timeToLiveSeconds: seconds))
            case (.question(.timeToLive, let waiter), .leaseTimeToLive(let status)):
                answer(waiter, .leaseTimeToLive(status))
            case (.changes(let changes, let waiter), .refused(let error)):
                if error == .leaderChanged {
                    waiting.parked.append(.changes(changes, waiter, since: tagged.since))
                } else {
                    answer(waiter, .refused(error))
                }
            default:
                // An answer to another question: no honest leader gives it. Keep waiting.
                waiting.tagged[number] = tagged
            }
        }
        if raft.leader != nil { leaderFound(now: now) }
    }

    /// Takes up again what waited for a leader, and asks the new one what the old one was asked.
    func leaderFound(now: UInt64) {
        let asked = waiting.takeTagged(before: raft.term) { kind in
            if case .question = kind { return true }
            return false
        }
        for tagged in asked {
            if case .question(let question, let waiter) = tagged.kind {
                waiting.parked.append(.question(question, waiter, since: tagged.since))
            }
        }
        if waiting.parked.isEmpty || raft.transferTarget != nil { return }
        if let leader = raft.leader, unreachable.contains(leader) { return }
        let parked = waiting.parked
        waiting.parked.removeAll()
        for item in parked {
            switch item {
            case .proposal(let queued): proposals.append(queued)
            case .read(let read): readBatch.append(read)
            case .question(let question, let waiter, let since):
                ask(question, .local(waiter), since: since)
            case .changes(let changes, let waiter, let since):
                changeMembership(changes, .local(waiter), since: since)
            }
        }
    }

    #if MOONRAFT_MUTATIONS
        /// Proposes again what was forwarded and not answered.
        func retryForwarded() {
            for number in waiting.tagged.keys.sorted() {
                guard case .proposal(let queued)? = waiting.tagged[number]?.kind else { continue }
                _ = waiting.take(number)
                waiting.parked.append(.proposal(queued))
            }
        }
    #endif

    /// Keeps a command whose entry will never be applied for the next leader. The core's own are let
    /// go: whoever leads makes them anew.
    func proposeAgain(_ queued: QueuedProposal) {
        if queued.proposal.waiter != nil { waiting.parked.append(.proposal(queued)) }
    }

    /// An entry of a later term than any before is being applied.
    func laterTermApplied(_ term: Term) {
        waiting.appliedTerm = term
        // In the order in which they were proposed. Those of this member's own leaderships stand in
        // the log, so later entries at their index come as well, but perhaps much later.
        var slots = waiting.uncertain.filter { $0.term < term }
        waiting.uncertain.removeAll { $0.term < term }
        waiting.entries.removeAll { slots.append($0) }
        for slot in slots {
            if slot.term < term {
                proposeAgain(slot.proposal)
            } else {
                waiting.entries.append(index: slot.index, term: slot.term, slot.proposal)
            }
        }
        let lost = waiting.takeTagged(before: term) { kind in
            if case .question = kind { return false }
            return true
        }
        for tagged in lost {
            switch tagged.kind {
            case .proposal(let queued): proposeAgain(queued)
            case .changes(let changes, let waiter):
                waiting.parked.append(.changes(changes, waiter, since: tagged.since))
            case .question: break
            }
        }
    }

    // MARK: Leader

    /// A follower asks. Every number of a run is taken at most once.
    func take(_ request: PeerRequest, now: UInt64) {
        guard request.term <= raft.term, request.term > uncertainTerm else { return }
        var count: UInt64 = 1
        if case .propose(let entries) = request.body { count = UInt64(entries.count) }
        guard count > 0, request.number <= .max - count,
            noteTaken(request.run, through: request.number + count - 1, first: request.number)
        else { return }
        guard request.term == raft.term, raft.role == .leader else {
            return reply(to: request, count: count, .refused(.leaderChanged))
        }
        let requester = Requester.peer(request.from, run: request.run, number: request.number)
        switch request.body {
        case .propose(let entries): take(entries, of: request, count: count)
        case .changeMembership(let bytes):
            guard let changes = ChangeList(decoding: bytes) else {
                return reply(to: request, count: 1, .refused(.unhealthyCluster))
            }
            changeMembership(changes.changes, requester, since: now)
        case .renewLease(let id): ask(.renew(id), requester, since: now)
        case .leaseTimeToLive(let id, let withKeys):
            ask(.timeToLive(id, withKeys: withKeys), requester, since: now)
        }
    }

    private func take(_ entries: [[UInt8]], of request: PeerRequest, count: UInt64) {
        for (position, entry) in entries.enumerated() {
            let tag = EntryTag(run: request.run, number: request.number + UInt64(position))
            guard EntryTag(command: entry) == tag else {
                effects.complaint =
                    "member \(String(request.from, radix: 16)) forwarded a command with a foreign tag"
                return reply(to: request, count: count, .refused(.requestTooLarge))
            }
        }
        guard backend.pendingBytes <= configuration.maxPendingBytes else {
            return reply(to: request, count: count, .refused(.tooManyRequests))
        }
        do throws(ProposalError) {
            _ = try raft.propose(entries)
        } catch {
            switch error {
            case .notLeader, .transferring:
                reply(to: request, count: count, .refused(.leaderChanged))
            case .payloadTooLarge, .emptyPayload:
                reply(to: request, count: count, .refused(.requestTooLarge))
            case .uncommittedFull, .configChangePending, .notCommittedInTerm, .configChangeRefused:
                reply(to: request, count: count, .refused(.tooManyRequests))
            }
        }
    }

    private func reply(to request: PeerRequest, count: UInt64, _ body: PeerReply.Body) {
        effects.messages.append(
            .reply(
                PeerReply(
                    from: raft.id, to: request.from, run: request.run, number: request.number,
                    count: count, body: body)))
    }

    /// Whether the numbers are new; they are old from now on. Numbers ascend within a run, so what
    /// comes late behind a later one is dropped: its sender learns nothing and times out.
    private func noteTaken(_ run: UInt64, through last: UInt64, first: UInt64) -> Bool {
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.forwardAcceptedTwice) { return true }
        #endif
        if let known = takenRequests[run] {
            guard first > known.number else { return false }
        } else if takenRequests.count >= configuration.maxKnownRuns {
            // Runs of earlier terms cannot be accepted any more whatever they repeat.
            let term = raft.term
            takenRequests = takenRequests.filter { $0.value.term == term }
            // Whether they were taken is forgotten with them.
            uncertainTerm = max(uncertainTerm, term - 1)
            if takenRequests.count >= configuration.maxKnownRuns { return false }
        }
        takenRequests[run] = (last, raft.term)
        return true
    }
}
