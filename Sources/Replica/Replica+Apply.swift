// From the log to the state: entries are applied in batches under the store's write lock, and whoever
// waits for one is answered from its result.

import MVCC
import RaftCore
import StateMachine

extension Replica {
    func apply(_ entries: [Entry], now: UInt64) {
        let time = LeaseTime(nanoseconds: now)
        effects.applied.reserveCapacity(effects.applied.count + entries.count)
        var position = 0
        while position < entries.count {
            let end = min(position + configuration.maxEntriesPerApplyBatch, entries.count)
            machine.store.beginBatch()
            while position < end {
                apply(entries[position], time)
                position += 1
            }
            machine.store.endBatch()
        }
        guard let last = entries.last else { return }
        raft.applied(to: last.index)
        // The log on disk keeps what the backend has not committed; in memory entries are kept
        // for peers only, and the core knows how many.
        raft.compactLog(through: last.index)
        if !hasAppliedInTerm, last.term == raft.term, raft.role == .leader {
            hasAppliedInTerm = true
            changes.isDue = true
            publish(now)
        }
    }

    private func apply(_ entry: Entry, _ time: LeaseTime) {
        if entry.term > waiting.appliedTerm { laterTermApplied(entry.term) }
        switch entry.kind {
        case .normal:
            // Also an entry without a command moves the applied index.
            let result = machine.apply(
                index: entry.index, term: entry.term, data: entry.data, now: time)
            if entry.data.isEmpty {
                answer(entry, with: nil)
                return
            }
            note(result)
            effects.applied.append(
                AppliedEntry(index: entry.index, term: entry.term, result: result))
            answer(entry, with: result)
        case .configChange: applyChange(entry)
        }
    }

    private func answer(_ entry: Entry, with result: ApplyResult?) {
        var queued = takeOwn(entry)
        if let tag = EntryTag(command: entry.data), tag.run == run,
            case .proposal(let forwarded)? = waiting.take(tag.number)?.kind
        {
            queued = forwarded
        }
        guard let waiter = queued?.proposal.waiter, let result else { return }
        let outcome = ReplicaAnswer.applied(result, index: entry.index, term: entry.term)
        if case .compactionStarted(_, physical: true) = result.effect, result.error == nil {
            backend.compactionWaiters.append(PendingAnswer(waiter: waiter, answer: outcome))
        } else {
            answer(waiter, outcome)
        }
    }

    /// The proposal of this member's own leadership, now or then, that became this entry.
    private func takeOwn(_ entry: Entry) -> QueuedProposal? {
        // Kept aside: the queue must not be reached for while it is being changed.
        var lost: [QueuedProposal] = []
        let own = waiting.entries.take(index: entry.index, term: entry.term) { lost.append($0) }
        for queued in lost { proposeAgain(queued) }
        if let own { return own }
        if waiting.uncertain.isEmpty { return nil }
        return waiting.takeUncertain(index: entry.index, term: entry.term)
    }

    private func note(_ result: ApplyResult) {
        backend.applied(bytes: result.events?.bytes.count ?? 0)
        figures.committedProposals &+= 1
        switch result.effect {
        case .compactionStarted(let revision, _):
            backend.isCompacting = true
            effects.hashCompaction = revision
        case .leaseGranted: figures.leasesGranted &+= 1
        case .leaseRevoked(_, let expired, _):
            figures.leasesRevoked &+= 1
            if expired { figures.leasesExpired &+= 1 }
        case .memberUpdated:
            effects.peers = machine.members
            notePublished()
        default: break
        }
    }

    /// A membership change takes effect for consensus and for the published members together, or for
    /// neither.
    private func applyChange(_ entry: Entry) {
        let change = try? ConfigChange(decoding: entry.data)
        let tag = change.flatMap { EntryTag($0.context) }
        let list = change.flatMap { ChangeList(decoding: $0.context.dropFirst(EntryTag.size)) }
        // What an entry says to consensus and what it says of the members must be the same.
        let isSound = change.map { $0.isLeaveJoint ? list == nil : list?.steps == $0.changes } ?? false
        let result = machine.applyMembership(
            isSound ? list?.changes ?? [] : [], index: entry.index, term: entry.term)
        let isInForce = isSound && result.error == nil
        let confState = raft.applyConfigChange(isInForce ? change : nil, at: entry.index)
        machine.confState = confState.encoded()
        // The next in line may go.
        changes.isDue = true
        backend.applied(bytes: 0)
        _ = takeOwn(entry)
        if isInForce { membershipChanged() }
        if list != nil {
            effects.applied.append(
                AppliedEntry(index: entry.index, term: entry.term, result: result))
        }
        guard let tag, tag.run == run, case .changes(_, let waiter)? = waiting.take(tag.number)?.kind
        else { return }
        if let error = result.error {
            answer(waiter, .refused(NodeError(error)))
        } else if isInForce {
            answer(waiter, .membershipChanged(machine.members))
        } else {
            answer(waiter, .refused(.unhealthyCluster))
        }
    }

    func membershipChanged() {
        effects.peers = machine.members
        effects.removedPeers = departedMembers
        let ids = machine.members.map(\.id)
        snapshotRetries.keep(ids)
        hurriedSnapshots.removeAll { !ids.contains($0) }
        if hasLeft, removedAt == nil { removedAt = lastTick }
    }
}
