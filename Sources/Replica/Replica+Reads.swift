// Reads that must see everything acknowledged before them, and what rests on the same proof: that
// this member still led after the question was asked (thesis 6.4). One read request is under way at a
// time; all questions that come meanwhile share the next one. Under load that makes few large
// rounds: a request for every turn of this thread cost a cluster twice the CPU a read (etcd does the
// same, v3_server.go, linearizableReadLoop).
//
// A lease is renewed by the leader from its own clock and not through the log. A leader that was
// replaced unawares must not do that (etcd issues 14758, 20590): a renewal is first confirmed like
// a read, and counts from the moment it was asked for. Should the confirmation have taken so long
// that another leader may have begun its own count of the lease, it is confirmed again.

import RaftCore
import StateMachine

extension Replica {
    /// Whether questions are there that may be asked now.
    var hasReadsToConfirm: Bool { !readBatch.isEmpty && waiting.confirming.isEmpty }

    func read(_ waiter: any ReplyWaiter, now: UInt64) {
        guard readBatch.count < configuration.maxPendingReads else {
            return answer(waiter, .refused(.tooManyRequests))
        }
        readBatch.append(Confirmable(.read(waiter), since: now))
    }

    /// Asks for confirmation of what has gathered.
    func confirm(now: UInt64) {
        let batch = readBatch
        readBatch.removeAll(keepingCapacity: true)
        guard waiting.confirming.count < configuration.maxPendingProposals else {
            return refuse(batch, .tooManyRequests)
        }
        let context = readNumber
        readNumber &+= 1
        do throws(ReadIndexError) {
            try raft.readIndex(context: context)
            waiting.confirming.append((context, batch))
        } catch {
            switch error {
            case .noLeader:
                if pendingRequests + batch.count > configuration.maxPendingProposals {
                    return refuse(batch, .tooManyRequests)
                }
                for item in batch { park(item) }
            case .tooManyPending: refuse(batch, .tooManyRequests)
            case .duplicateContext: preconditionFailure("read context \(context) used twice")
            }
        }
    }

    private func park(_ item: Confirmable) {
        switch item.kind {
        case .read: waiting.parked.append(.read(item))
        case .question(let question, .local(let waiter)):
            waiting.parked.append(.question(question, waiter, since: item.since))
        case .question(_, let requester): answer(requester, .refused(.leaderChanged))
        }
    }

    /// Leadership changed while these were under way.
    func abandon(_ context: UInt64) {
        guard let batch = waiting.takeConfirming(context) else { return }
        // Nothing was done for them yet, so the next leader may be asked as well.
        for item in batch {
            if case .read = item.kind { figures.failedReads &+= 1 }
            park(item)
        }
    }

    private func refuse(_ batch: [Confirmable], _ error: NodeError) {
        for item in batch {
            switch item.kind {
            case .read(let waiter):
                figures.failedReads &+= 1
                answer(waiter, .refused(error))
            case .question(_, let requester): answer(requester, .refused(error))
            }
        }
    }

    /// Serves the confirmed reads whose index is applied.
    func serveReads(now: UInt64) {
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.readServedBeforeApplied) {
                for position in waitingReads.indices { waitingReads[position].index = 0 }
            }
        #endif
        let applied = machine.appliedIndex
        guard installing == nil, waitingReads.contains(where: { $0.index <= applied }) else { return }
        let ready = waitingReads.filter { $0.index <= applied }
        waitingReads.removeAll { $0.index <= applied }
        for state in ready {
            guard let batch = waiting.takeConfirming(state.context) else { continue }
            for item in batch {
                switch item.kind {
                case .read(let waiter): answer(waiter, .readReady(term: raft.term))
                case .question(let question, let requester):
                    confirmed(question, requester, since: item.since, now: now)
                }
            }
        }
    }

    // MARK: Leases

    /// Puts a question to the leader: to itself after confirmation, or to the member that leads.
    func ask(_ question: LeaderQuestion, _ requester: Requester, since: UInt64) {
        if raft.role == .leader {
            #if MOONRAFT_MUTATIONS
                if Mutation.isOn(.renewalWithoutConfirmation), case .renew(let id) = question {
                    return renew(id, requester, since: since, now: since)
                }
            #endif
            readBatch.append(Confirmable(.question(question, requester), since: since))
            return
        }
        guard case .local(let waiter) = requester else {
            return answer(requester, .refused(.leaderChanged))
        }
        guard pendingRequests < configuration.maxPendingProposals else {
            return answer(waiter, .refused(.tooManyRequests))
        }
        guard let leader = raft.leader, leader != raft.id, !unreachable.contains(leader) else {
            waiting.parked.append(.question(question, waiter, since: since))
            return
        }
        let body: PeerRequest.Body =
            switch question {
            case .renew(let id): .renewLease(id)
            case .timeToLive(let id, let withKeys): .leaseTimeToLive(id, withKeys: withKeys)
            }
        waiting.add(requestNumber, .question(question, waiter), term: raft.term, since: since)
        effects.messages.append(
            .request(
                PeerRequest(
                    from: raft.id, to: leader, term: raft.term, run: run, number: requestNumber,
                    body: body)))
        requestNumber += 1
    }

    private func confirmed(
        _ question: LeaderQuestion, _ requester: Requester, since: UInt64, now: UInt64
    ) {
        guard raft.role == .leader, hasAppliedInTerm else {
            // A follower's own read context carries reads only; leadership went meanwhile.
            return answer(requester, .refused(.leaderChanged))
        }
        switch question {
        case .renew(let id):
            // Another leader's first count starts an election timeout late (`promote`), which
            // covers a confirmation that is younger than half of one.
            if now &- since > configuration.electionNanoseconds / 2, !canReadWithoutRound {
                readBatch.append(Confirmable(.question(question, requester), since: now))
                return
            }
            renew(id, requester, since: since, now: now)
        case .timeToLive(let id, let withKeys):
            let status = machine.leaseTimeToLive(
                id, now: LeaseTime(nanoseconds: now), withKeys: withKeys)
            answer(requester, .leaseTimeToLive(status))
        }
    }

    private func renew(_ id: Int64, _ requester: Requester, since: UInt64, now: UInt64) {
        switch machine.leaseRenew(id, now: LeaseTime(nanoseconds: now)) {
        case .renewed(let seconds):
            figures.leasesRenewed &+= 1
            answer(requester, .leaseRenewed(timeToLiveSeconds: seconds))
        case .checkpointFirst(let command):
            proposeOwn(command, waiter: RenewalAfterCheckpoint(id, requester, since: now), now: now)
        case .notFound, .expired:
            answer(requester, .leaseRenewed(timeToLiveSeconds: nil))
        case .notLeader:
            answer(requester, .refused(.leaderChanged))
        }
    }

    /// The checkpoint before a renewal was applied, or will not be.
    func renewalCheckpointed(_ renewal: RenewalAfterCheckpoint, _ outcome: ReplicaAnswer) {
        if case .refused(let error) = outcome {
            return answer(renewal.requester.value, .refused(error))
        }
        ask(.renew(renewal.id), renewal.requester.value, since: renewal.since)
    }

    /// Answers a client of this member or the member that asked for one of its own.
    func answer(_ requester: Requester, _ body: PeerReply.Body) {
        switch requester {
        case .local(let waiter):
            switch body {
            case .refused(let error): answer(waiter, .refused(error))
            case .leaseRenewed(let seconds):
                answer(waiter, .leaseRenewed(timeToLiveSeconds: seconds))
            case .leaseTimeToLive(let status): answer(waiter, .leaseTimeToLive(status))
            }
        case .peer(let peer, let run, let number):
            effects.messages.append(
                .reply(
                    PeerReply(
                        from: raft.id, to: peer, run: run, number: number, count: 1, body: body)))
        }
    }
}
