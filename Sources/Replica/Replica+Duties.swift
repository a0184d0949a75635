// What time brings: ticks of the core, timeouts of requests, the leader's duties to leases and
// compaction, giving leadership up over a stalled disk, leaving after removal.

import RaftCore
import StateMachine

extension Replica {
    /// Does what is due at `now`. May be called at any time, and must be at `nextWake`.
    package func tick(now: UInt64) {
        if now >= nextTick { countTick(now) }
        advanceBackend(now)
    }

    private func countTick(_ now: UInt64) {
        // After a pause (SIGSTOP, suspend, a stalled disk under the thread) only one tick is counted
        // for the whole of it: time that this process did not see must not let an election begin.
        let pause = now &- lastTick
        nextTick = now &+ configuration.tickNanoseconds
        lastTick = now
        if pause > configuration.electionNanoseconds { stoodStill(now) }
        raft.tick()
        retrySnapshots(now)
        hurrySnapshots()
        expire(now)
        checkTransfer(now)
        giveUpOverStalledDisk(now)
        publish(now)
        if raft.leader != nil {
            leaderFound(now: now)
            resendReport(now)
        }
        if raft.role == .leader, hasAppliedInTerm { leadersDuties(now) }
        if let removedAt, now &- removedAt > 3 &* configuration.electionNanoseconds {
            effects.isRemoved = true
        }
        if let stopDeadline, now >= stopDeadline { effects.isStopped = true }
    }

    /// No renewal could be heard while this process stood still, so none may be held against its
    /// lease (etcd issue 15247).
    private func stoodStill(_ now: UInt64) {
        guard raft.role == .leader else { return }
        machine.restartLeaseClocks(now: LeaseTime(nanoseconds: now))
    }

    /// Followers can write while this disk does not; leading on would stop them all.
    private func giveUpOverStalledDisk(_ now: UInt64) {
        guard raft.role == .leader, raft.confState.voters.count > 1,
            let oldest = persistStarted.first,
            now &- oldest.at > configuration.electionNanoseconds
        else { return }
        figures.stallResignations &+= 1
        raft.resign()
    }

    // MARK: Timeouts

    private func expire(_ now: UInt64) {
        let allowed = configuration.requestTimeoutMilliseconds &* 1_000_000
        guard now > allowed else { return }
        let deadline = now &- allowed
        var expired: [QueuedProposal] = []
        waiting.entries.expire(before: deadline) { expired.append($0) }
        refuse(expired, timeout(before: deadline))
        if waiting.uncertain.contains(where: { $0.proposal.since < deadline }) {
            let uncertain = waiting.uncertain
            waiting.uncertain = uncertain.filter { $0.proposal.since >= deadline }
            for slot in uncertain where slot.proposal.since < deadline {
                refuse([slot.proposal], timeout(before: deadline))
            }
        }
        while let number = waiting.taggedOrder.first {
            if let tagged = waiting.tagged[number] {
                if tagged.since >= deadline { break }
                _ = waiting.take(number)
                answerTimeout(tagged.kind, deadline)
            }
            waiting.taggedOrder.removeFirst()
        }
        while let (context, batch) = waiting.confirming.first, let since = batch.first?.since,
            since < deadline
        {
            _ = waiting.takeConfirming(context)
            for item in batch { answerTimeout(item, deadline) }
        }
        if let oldest = readBatch.first, oldest.since < deadline {
            let batch = readBatch
            readBatch = batch.filter { $0.since >= deadline }
            for item in batch where item.since < deadline { answerTimeout(item, deadline) }
        }
        if waiting.parked.contains(where: { $0.since < deadline }) {
            let parked = waiting.parked
            waiting.parked = parked.filter { $0.since >= deadline }
            for item in parked where item.since < deadline { answerTimeout(item, deadline) }
        }
        while let first = changes.first, first.since < deadline {
            changes.removeFirst()
            answer(first.requester, .refused(timeout(before: deadline)))
        }
    }

    /// etcd tells apart whether a leader was lost while the request waited (v3_server.go,
    /// parseProposeCtxErr).
    private func timeout(before deadline: UInt64) -> NodeError {
        waiting.leaderLostAt > deadline ? .timedOutByLeaderFailure : .timedOut
    }

    private func answerTimeout(_ kind: Waiting.Tagged.Kind, _ deadline: UInt64) {
        switch kind {
        case .proposal(let queued): refuse([queued], timeout(before: deadline))
        case .question(_, let waiter), .changes(_, let waiter):
            answer(waiter, .refused(timeout(before: deadline)))
        }
    }

    private func answerTimeout(_ item: Confirmable, _ deadline: UInt64) {
        switch item.kind {
        case .read(let waiter): answer(waiter, .refused(timeout(before: deadline)))
        case .question(_, let requester):
            answer(requester, .refused(timeout(before: deadline)))
        }
    }

    private func answerTimeout(_ item: Parked, _ deadline: UInt64) {
        switch item {
        case .proposal(let queued): refuse([queued], timeout(before: deadline))
        case .read(let read): answerTimeout(read, deadline)
        case .question(_, let waiter, _), .changes(_, let waiter, _):
            answer(waiter, .refused(timeout(before: deadline)))
        }
    }

    // MARK: Duties

    private func leadersDuties(_ now: UInt64) {
        let time = LeaseTime(nanoseconds: now)
        if machine.clusterVersion != configuration.clusterVersion,
            !configuration.clusterVersion.isEmpty
        {
            proposeOwn(Command.clusterVersion(configuration.clusterVersion), now: now)
        }
        for id in machine.expiredLeases(now: time, max: configuration.maxExpiredLeases) {
            proposeOwn(Command.leaseRevoke(id: id, origin: .core), now: now)
        }
        if let checkpoint = machine.leaseCheckpoints(now: time) {
            proposeOwn(checkpoint, now: now)
        }
        if let target = autoCompactor.tick(
            now: now / 1_000_000, currentRevision: machine.store.currentRevision),
            target > machine.store.compactRevision
        {
            proposeOwn(Command.compact(revision: target, origin: .core), now: now)
        }
    }

    /// Makes name and client URLs known through the log when they changed, and again while that has
    /// not been applied.
    func publish(_ now: UInt64) {
        notePublished()
        guard !isPublished, raft.leader != nil, now >= publishAt,
            let known = machine.member(raft.id)
        else { return }
        publishAt = now &+ configuration.electionNanoseconds
        var published = known
        published.name = member.name
        published.clientURLs = member.clientURLs
        proposals.append(
            QueuedProposal(
                proposal: Proposal(entry: Command.memberUpdate(published), waiter: nil), since: now))
    }

    func notePublished() {
        guard let known = machine.member(raft.id) else { return isPublished = false }
        isPublished = known.name == member.name && known.clientURLs == member.clientURLs
    }

    // MARK: The end

    /// Refuses everything that waits; the host calls it once, before it stops.
    package func refuseAll(_ error: NodeError) {
        refuse(proposals, error)
        proposals.removeAll()
        waiting.entries.removeAll { refuse([$0.proposal], error) }
        refuse(waiting.uncertain.map(\.proposal), error)
        waiting.uncertain.removeAll()
        for number in waiting.tagged.keys.sorted() {
            guard let tagged = waiting.take(number) else { continue }
            switch tagged.kind {
            case .proposal(let queued): refuse([queued], error)
            case .question(_, let waiter), .changes(_, let waiter): answer(waiter, .refused(error))
            }
        }
        let confirming = waiting.confirming.flatMap(\.batch) + readBatch
        waiting.confirming.removeAll()
        readBatch.removeAll()
        for item in confirming {
            switch item.kind {
            case .read(let waiter): answer(waiter, .refused(error))
            case .question(_, let requester): answer(requester, .refused(error))
            }
        }
        for item in waiting.parked {
            switch item {
            case .proposal(let queued): refuse([queued], error)
            case .read(let read):
                if case .read(let waiter) = read.kind { answer(waiter, .refused(error)) }
            case .question(_, let waiter, _), .changes(_, let waiter, _):
                answer(waiter, .refused(error))
            }
        }
        waiting.parked.removeAll()
        for queued in changes.removeAll() { answer(queued.requester, .refused(error)) }
        if let transfer { answer(transfer.waiter, .refused(error)) }
        transfer = nil
        for pending in backend.committingWaiters + backend.compactionWaiters + backend.commitWaiters {
            answer(pending.waiter, .refused(error))
        }
        backend.committingWaiters.removeAll()
        backend.compactionWaiters.removeAll()
        backend.commitWaiters.removeAll()
    }
}
