// Membership: changes are checked by the leader, go through the log one after the other, and are in force
// when they are applied (thesis 4). A change that cannot be proposed yet waits its turn; none is ever
// dropped without an answer. Handing leadership over is here as well.

import RaftCore
import StateMachine

/// Changes that wait for the leader to propose them.
struct ChangeQueue {
    struct Queued {
        var list: ChangeList
        var requester: Requester
        var since: UInt64
    }

    private(set) var queued: [Queued] = []
    /// Something has happened since the first was last tried, so trying again may help.
    var isDue = false
    var isEmpty: Bool { queued.isEmpty }
    var count: Int { queued.count }
    var first: Queued? { queued.first }

    mutating func append(_ change: Queued) {
        queued.append(change)
        isDue = true
    }

    mutating func removeFirst() { queued.removeFirst() }

    mutating func removeAll() -> [Queued] {
        defer { queued = [] }
        return queued
    }
}

extension Replica {
    /// Takes a change on its way: into the queue here, or to the leader.
    func changeMembership(_ changes: [MembershipChange], _ requester: Requester, since: UInt64) {
        let list = ChangeList(changes)
        guard let encoded = list.encoded else {
            return answer(requester, .refused(.unhealthyCluster))
        }
        if raft.role == .leader {
            guard self.changes.count < configuration.maxQueuedChanges else {
                return answer(requester, .refused(.tooManyRequests))
            }
            self.changes.append(ChangeQueue.Queued(list: list, requester: requester, since: since))
            return
        }
        guard case .local(let waiter) = requester else {
            return answer(requester, .refused(.leaderChanged))
        }
        guard pendingRequests < configuration.maxPendingProposals else {
            return answer(waiter, .refused(.tooManyRequests))
        }
        guard let leader = raft.leader, leader != raft.id, !unreachable.contains(leader) else {
            waiting.parked.append(.changes(changes, waiter, since: since))
            return
        }
        waiting.add(requestNumber, .changes(changes, waiter), term: raft.term, since: since)
        effects.messages.append(
            .request(
                PeerRequest(
                    from: raft.id, to: leader, term: raft.term, run: run, number: requestNumber,
                    body: .changeMembership(encoded))))
        requestNumber += 1
    }

    /// Proposes queued changes until one has to wait.
    func proposeChanges() {
        changes.isDue = false
        guard raft.role == .leader, hasAppliedInTerm else { return }
        while let next = changes.first {
            if let error = refusal(of: next.list) {
                changes.removeFirst()
                answer(next.requester, .refused(error))
                continue
            }
            guard propose(next) else { return }
            changes.removeFirst()
        }
    }

    /// Returns false when the change has to wait.
    private func propose(_ next: ChangeQueue.Queued) -> Bool {
        guard let encoded = next.list.encoded else { return true }
        let tag: EntryTag
        switch next.requester {
        case .local: tag = EntryTag(run: run, number: requestNumber)
        case .peer(_, let run, let number): tag = EntryTag(run: run, number: number)
        }
        let change = ConfigChange(next.list.steps, context: tag.bytes + encoded)
        do throws(ProposalError) {
            _ = try raft.proposeConfigChange(change)
            if case .local(let waiter) = next.requester {
                waiting.add(
                    requestNumber, .changes(next.list.changes, waiter), term: raft.term,
                    since: next.since)
                requestNumber += 1
            }
            return true
        } catch {
            switch error {
            case .configChangePending, .notCommittedInTerm, .transferring, .notLeader: return false
            case .configChangeRefused(.learnerBehind):
                answer(next.requester, .refused(.learnerNotReady))
            case .uncommittedFull: answer(next.requester, .refused(.tooManyRequests))
            case .configChangeRefused, .payloadTooLarge, .emptyPayload:
                answer(next.requester, .refused(.unhealthyCluster))
            }
            return true
        }
    }

    /// Leadership is gone: whoever leads now may take the changes up.
    func refuseQueuedChanges() {
        for queued in changes.removeAll() {
            switch queued.requester {
            case .local(let waiter):
                waiting.parked.append(.changes(queued.list.changes, waiter, since: queued.since))
            case .peer: answer(queued.requester, .refused(.leaderChanged))
            }
        }
    }

    // MARK: Checks of the leader

    /// Why the leader does not propose these changes; nil when it does.
    private func refusal(of list: ChangeList) -> NodeError? {
        if let error = machine.checkMembership(list.changes) { return NodeError(error) }
        if hasTooManyLearners(list.changes) { return .tooManyLearners }
        guard configuration.strictReconfiguration else { return nil }
        for change in list.changes {
            if let error = strictRefusal(of: change) { return error }
        }
        return nil
    }

    /// Whether a learner would be added beyond the bound.
    private func hasTooManyLearners(_ changes: [MembershipChange]) -> Bool {
        var learners = Set(machine.members.filter(\.isLearner).map(\.id))
        for change in changes {
            switch change {
            case .add(let member):
                guard member.isLearner else { continue }
                if learners.count >= configuration.maximumLearners { return true }
                learners.insert(member.id)
            case .remove(let id), .promote(let id): learners.remove(id)
            }
        }
        return false
    }

    /// etcd's rules that keep a quorum of started and reachable members
    /// (server/etcdserver/server.go, mayAddMember, mayRemoveMember, mayPromoteMember; cluster.go,
    /// IsReadyTo…).
    private func strictRefusal(of change: MembershipChange) -> NodeError? {
        let voters = machine.members.filter { !$0.isLearner }
        let started = voters.count { !$0.name.isEmpty }
        switch change {
        case .add(let member):
            // A learner has no part in any quorum. etcd refuses it all the same while a voter is
            // down, which is when a dead member has to be replaced.
            if member.isLearner { return nil }
            let needed = (voters.count + 1) / 2 + 1
            // One member may always be joined by a second, to rebuild a cluster from it.
            let isRebuilding = started == 1 && voters.count == 1
            if started < needed, !isRebuilding { return .notEnoughStartedMembers }
            return voters.allSatisfy { isReachable($0.id) } ? nil : .unhealthyCluster
        case .remove(let id):
            guard let gone = voters.first(where: { $0.id == id }) else { return nil }
            let left = voters.count - 1
            let stillStarted = started - (gone.name.isEmpty ? 0 : 1)
            if left == 0 || stillStarted < left / 2 + 1 { return .notEnoughStartedMembers }
            // A member that is down is no part of the quorum that works.
            if !isReachable(id) { return nil }
            let active = voters.count { isReachable($0.id) }
            return active - 1 < 1 + (voters.count - 1) / 2 ? .unhealthyCluster : nil
        case .promote:
            let needed = (voters.count + 1) / 2 + 1
            return started + 1 < needed ? .notEnoughStartedMembers : nil
        }
    }

    /// Heard from within an election timeout.
    func isReachable(_ id: NodeID) -> Bool {
        if id == raft.id { return true }
        guard let heard = lastHeard.first(where: { $0.id == id }) else { return false }
        return lastTick &- min(lastTick, heard.at) < configuration.electionNanoseconds
    }

    // MARK: Handing over

    func transferLeadership(to target: NodeID, _ waiter: any ReplyWaiter, now: UInt64) {
        if target == raft.id, raft.role == .leader { return answer(waiter, .leadershipTransferred) }
        do throws(TransferError) {
            try raft.transferLeadership(to: target)
            if let transfer { answer(transfer.waiter, .refused(.transferTimedOut)) }
            transfer = PendingTransfer(target: target, waiter: waiter, since: now)
        } catch {
            switch error {
            case .notLeader: answer(waiter, .refused(.notLeader))
            case .alreadyLeader: answer(waiter, .leadershipTransferred)
            case .unknownMember, .notVoter: answer(waiter, .refused(.badTransferTarget))
            }
        }
    }

    /// Whether the core has given the hand-over up, or nobody has come to lead for too long.
    func checkTransfer(_ now: UInt64) {
        guard let transfer, raft.transferTarget == nil, raft.leader != transfer.target,
            raft.leader != nil || now &- transfer.since > configuration.requestTimeoutMilliseconds &* 1_000_000
        else { return }
        answer(transfer.waiter, .refused(.transferTimedOut))
        self.transfer = nil
    }

    /// Gives leadership to whoever is best prepared, and stops when somebody leads or an election
    /// timeout has passed.
    func beginStop(_ now: UInt64) {
        guard stopDeadline == nil else { return }
        stopDeadline = now &+ configuration.electionNanoseconds
        guard raft.role == .leader, let target = raft.bestTransferTarget,
            (try? raft.transferLeadership(to: target)) != nil
        else {
            effects.isStopped = true
            return
        }
    }
}

extension NodeError {
    init(_ error: ApplyError) {
        switch error {
        case .memberNotFound: self = .memberNotFound
        case .memberExists: self = .memberExists
        case .peerURLExists: self = .peerURLExists
        case .notLearner: self = .notLearner
        default: self = .unhealthyCluster
        }
    }
}
