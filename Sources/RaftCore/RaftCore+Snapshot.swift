// Taking over a snapshot (thesis 5): the log restarts at its end, the membership comes with it.

extension RaftCore {
    /// Notes that the state machine now is that of `snapshot`, as handed out in a `PersistBatch`.
    package mutating func installed(snapshot: SnapshotMetadata) {
        precondition(
            pendingInstall == snapshot,
            "installed \(snapshot.index), pending \(String(describing: pendingInstall?.index))")
        pendingInstall = nil
        appliedIndex = snapshot.index
        deliveredIndex = snapshot.index
    }

    /// The snapshot that the host is to install, until it says so.
    package var snapshotBeingInstalled: SnapshotMetadata? { pendingInstall }

    /// Members whose snapshot is under way while half of what the log can keep for them has gathered behind it. If
    /// the other half gathers as well, the snapshot is outdated on arrival and the next one has to be sent.
    package var pressedSnapshots: [NodeID] {
        guard role == .leader else { return [] }
        return progress.compactMap { peer in
            guard case .snapshot(let pending) = peer.state, pending < lastIndex else { return nil }
            let isPressed =
                lastIndex - pending > UInt64(configuration.maxCatchUpEntries) / 2
                || log.holdsMore(than: configuration.maxRetainedBytes / 2, after: pending)
            return isPressed ? peer.id : nil
        }
    }

    /// Takes over the leader's snapshot unless the log already reaches it.
    mutating func acceptSnapshot(_ snapshot: SnapshotMetadata) throws(StepError) {
        guard let leader else { return }
        guard snapshot.index > commitIndex else {
            return answer(.accepted(match: commitIndex), to: leader)
        }
        if log.term(at: snapshot.index) == snapshot.term {
            // All of it is here; the message only tells that it is committed.
            raiseCommit(to: snapshot.index)
            return answer(.accepted(match: snapshot.index), to: leader)
        }
        guard snapshot.confState.contains(id) else { throw .notInSnapshot }
        // One at a time: this one is dropped, and the leader goes on from the answer to the first.
        guard pendingInstall == nil else { return }
        durability.overwritten(from: commitIndex + 1)
        log.reset(index: snapshot.index, term: snapshot.term, committed: commitIndex)
        durability.snapshot = snapshot
        pendingInstall = snapshot
        commitIndex = snapshot.index
        #if MOONRAFT_MUTATIONS
            let known = confState
        #endif
        confState = snapshot.confState
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.snapshotKeepsOldMembership), !known.voters.isEmpty { confState = known }
        #endif
        unappliedConfigChanges = []
        rebuildProgress()
        answer(.accepted(match: snapshot.index), to: leader)
    }
}
