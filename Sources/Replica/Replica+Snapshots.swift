// Snapshots, out and in.
//
// Out: the core asks for one when a peer needs entries that are gone. The copy must hold at least what
// is applied now, or the peer's next entry might be gone as well; so everything applied is committed
// first, and the backend is pinned and streamed as it is after that commit. A failed transfer is repeated
// after a wait (SnapshotRetries.swift).
//
// In: the file is whole, checked and durable before the replica hears of it. Then, in this order, each
// step durable before the next: the marker in the log that voids the log before it; the file in the
// backend's place; the state in memory. A crash after the marker is made good at the
// next start, which finds the marker ahead of the backend and the file beside it (Recovery.swift).

import RaftCore
import StateMachine

/// A snapshot on its way into this member.
struct Installation {
    enum Stage {
        /// Accepted by the core; the batch that carries the marker is not handed out yet.
        case accepted
        /// The marker is being made durable by this batch.
        case marking(UInt64)
        case marked
        /// The host is putting the file in the backend's place and reading it.
        case loading
    }

    var metadata: SnapshotMetadata
    var stage = Stage.accepted
}

extension Replica {
    // MARK: Out

    /// Whether owed snapshots need not wait for a commit that is under way.
    var mayCopy: Bool { !owedSnapshots.isEmpty && !backend.isCommitting }

    /// Copies the backend once everything applied is on its way into it.
    func copyWhenReady(now: UInt64) {
        guard installing == nil, raft.role == .leader else {
            for request in owedSnapshots { raft.snapshotReported(to: request.to, succeeded: false) }
            owedSnapshots.removeAll()
            return
        }
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.snapshotCopiedBeforeCommit) {
                effects.snapshots += owedSnapshots
                return owedSnapshots.removeAll()
            }
        #endif
        // One commit at a time; the next turn after it is done comes back here.
        guard !backend.isCommitting || effects.commit != nil else { return }
        if effects.commit == nil { commitBackend() }
        effects.snapshots += owedSnapshots
        owedSnapshots.removeAll()
    }

    /// A transfer has ended. The core hears of a failure when the next attempt is due: it asks for one at the
    /// peer's next sign of life.
    func snapshotSent(to peer: NodeID, succeeded: Bool, now: UInt64) {
        hurriedSnapshots.removeAll { $0 == peer }
        if succeeded {
            snapshotRetries.succeeded(peer)
            return raft.snapshotReported(to: peer, succeeded: true)
        }
        snapshotRetries.failed(
            peer, now: now, first: configuration.snapshotRetryMinimumMilliseconds &* 1_000_000,
            longest: configuration.snapshotRetryMaximumMilliseconds &* 1_000_000)
    }

    func retrySnapshots(_ now: UInt64) {
        for peer in snapshotRetries.takeDue(now: now) {
            // What it was told during the wait, no transfer heard.
            hurriedSnapshots.removeAll { $0 == peer }
            raft.snapshotReported(to: peer, succeeded: false)
        }
    }

    /// Transfers are slow on purpose; that must not keep a member from ever catching up.
    func hurrySnapshots() {
        for peer in raft.pressedSnapshots where !hurriedSnapshots.contains(peer) {
            hurriedSnapshots.append(peer)
            effects.hurriedSnapshots.append(peer)
        }
    }

    // MARK: In

    func snapshotArrived(_ message: Message) {
        guard case .snapshot(let metadata) = message.body else { return }
        if installing == nil {
            step(message)
            if raft.snapshotBeingInstalled == metadata {
                installing = Installation(metadata: metadata)
                return
            }
        }
        // The same one may arrive twice; its file is the one that is being installed.
        if installing?.metadata.index != metadata.index { effects.unusedSnapshot = metadata }
    }

    /// The core hands out the batch that carries the marker.
    func noteMarker(_ snapshot: SnapshotMetadata, _ sequence: UInt64) {
        precondition(
            installing?.metadata == snapshot, "a marker for \(snapshot.index) without its snapshot")
        installing?.stage = .marking(sequence)
    }

    /// Whether the marker is durable and no earlier commit is under way.
    var mayInstall: Bool {
        guard case .marked? = installing?.stage else { return false }
        return !backend.isCommitting
    }

    /// Loads the backend once that is so.
    func installWhenReady() {
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.snapshotInstalledBeforeMarker), let installing, !backend.isCommitting,
                case .marking = installing.stage
            {
                self.installing?.stage = .loading
                effects.install = installing.metadata
                return
            }
        #endif
        guard let installing, mayInstall else { return }
        self.installing?.stage = .loading
        effects.install = installing.metadata
    }

    func snapshotInstalled(_ snapshot: InstalledSnapshot, now: UInt64) {
        guard let installing, case .loading = installing.stage else { return }
        machine.reset()
        do {
            try machine.restore(
                from: snapshot.state, contents: snapshot.contents, activate: snapshot.activate)
        } catch {
            effects.fatal = "the snapshot at \(installing.metadata.index) cannot be read: \(error)"
            return
        }
        guard machine.appliedIndex == installing.metadata.index else {
            effects.fatal =
                "the snapshot at \(installing.metadata.index) holds the state at \(machine.appliedIndex)"
            return
        }
        machine.confState = installing.metadata.confState.encoded()
        backend.restarted(at: installing.metadata.index)
        raft.installed(snapshot: installing.metadata)
        self.installing = nil
        figures.snapshotsInstalled &+= 1
        effects.restoredRevision = machine.store.currentRevision
        // Whoever waits for an entry that the snapshot covers will not see it applied here.
        var unseen: [QueuedProposal] = []
        waiting.entries.removeAll { unseen.append($0.proposal) }
        unseen += waiting.uncertain.map(\.proposal)
        waiting.uncertain.removeAll()
        for tagged in waiting.takeTagged(
            before: .max,
            where: { kind in
                if case .question = kind { return false }
                return true
            })
        {
            switch tagged.kind {
            case .proposal(let queued): unseen.append(queued)
            // Made again it would be refused, for instance because its member exists already.
            case .changes(_, let waiter): answer(waiter, .refused(.timedOutByLeaderFailure))
            case .question: break
            }
        }
        refuse(unseen, .timedOutByLeaderFailure)
        waiting.appliedTerm = max(waiting.appliedTerm, installing.metadata.term)
        for pending in backend.compactionWaiters { effects.answers.append(pending) }
        backend.compactionWaiters.removeAll()
        membershipChanged()
        serveReads(now: now)
    }
}
