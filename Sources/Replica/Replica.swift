// One replica: everything that a member decides, in the order that safety needs.
//
// The replica performs no I/O, reads no clock and starts nothing. The host feeds it requests, ticks, peer
// messages and completions, and asks for `Effects`: what to persist, send, apply, answer, commit
// and copy. The node and the simulator run this same code.
//
// Files: +Apply (log to state), +Proposals (into the log, here or by the leader), +Reads (read index
// and what rests on it: renewals), +Membership, +Snapshots, +Backend (commits, log release,
// compaction), +Duties (what time brings), +Divergence. The lists of who waits for what are in
// Waiting.swift.

import MVCC
import RaftCore
import StateMachine

/// A member's consensus, state and waiters. Owned by one thread.
package final class Replica {
    package internal(set) var raft: RaftCore
    package let machine: StateMachine
    package let configuration: ReplicaConfiguration
    /// What this member publishes about itself.
    let member: Member
    /// Names this run in tags; differs in every run.
    let run: UInt64

    /// What the host has not taken yet.
    var effects = Effects()
    package internal(set) var figures = ReplicaFigures()

    // Requests.
    var waiting = Waiting()
    /// Commands of this turn, proposed or forwarded as one batch.
    var proposals: [QueuedProposal] = []
    /// Reads and renewals that share the next read request.
    var readBatch: [Confirmable] = []
    var requestNumber: UInt64 = 1
    var readNumber: UInt64 = 1
    /// Per run of another member, the last request number that was taken, and the term it came in.
    var takenRequests: [UInt64: (number: UInt64, term: Term)] = [:]
    /// Of requests of this term and earlier ones it is not known here whether they were taken: this member may
    /// have led then, in an earlier run. They are not answered, since every refusal is final.
    var uncertainTerm: Term
    var changes = ChangeQueue()
    /// Members that nothing can be sent to at present.
    var unreachable: [NodeID] = []
    /// When each member was last heard from.
    var lastHeard: [(id: NodeID, at: UInt64)] = []
    var transfer: PendingTransfer?

    // Time, in nanoseconds of the host's clock.
    var nextTick: UInt64
    /// When the last tick was counted, to notice that the process stood still.
    var lastTick: UInt64

    // Leadership.
    /// True when an entry of the current term has been committed and applied here as leader.
    package internal(set) var hasAppliedInTerm = false
    /// When a batch was handed out of which the host has not said that it is durable.
    var persistStarted: [(sequence: UInt64, at: UInt64)] = []
    var publishAt: UInt64 = 0
    /// Whether the members know this one's name and client URLs.
    package internal(set) var isPublished = false
    var autoCompactor: AutoCompactor
    /// Confirmed reads whose index is not applied yet, ascending by index.
    var waitingReads: [ReadState] = []

    // Backend.
    var backend: BackendSchedule
    var owedSnapshots: [SnapshotRequest] = []
    var snapshotRetries = SnapshotRetries()
    /// Members whose transfer under way was told to hurry.
    var hurriedSnapshots: [NodeID] = []
    var installing: Installation?
    var divergence: DivergenceCheck
    /// This member's newest compaction hash, and when to tell it again.
    var ownReport: (revision: Int64, hash: UInt32)?
    var reportAt: UInt64 = 0

    // The end.
    /// When this member's removal was applied.
    var removedAt: UInt64?
    var stopDeadline: UInt64?

    package init(
        raft: RaftCore, machine: StateMachine, member: Member, run: UInt64,
        configuration: ReplicaConfiguration, now: UInt64
    ) {
        self.raft = raft
        self.machine = machine
        self.member = member
        self.run = run
        self.configuration = configuration
        uncertainTerm = raft.term
        nextTick = now &+ configuration.tickNanoseconds
        lastTick = now
        autoCompactor = AutoCompactor(configuration.autoCompaction, now: now / 1_000_000)
        backend = BackendSchedule(releasedIndex: machine.appliedIndex)
        // A compaction that a crash cut short goes on; without one the first step says so.
        backend.isCompacting = machine.store.compactRevision > 0
        divergence = DivergenceCheck(limit: configuration.maxComparedCompactions)
        effects.peers = machine.members
        effects.removedPeers = departedMembers
        waiting.appliedTerm = machine.appliedTerm
        if hasLeft { removedAt = now }
    }

    // MARK: Inputs

    /// Starts an election at once; a sole voter need not wait for a timeout.
    package func campaign() { raft.campaign() }

    /// Feeds one input. `now` is monotonic, in nanoseconds.
    package func handle(_ input: ReplicaInput, now: UInt64) {
        switch input {
        case .propose(let proposal):
            proposals.append(QueuedProposal(proposal: proposal, since: now))
        case .read(let waiter): read(waiter, now: now)
        case .leaseRenew(let id, let waiter):
            ask(.renew(id), .local(waiter), since: now)
        case .leaseTimeToLive(let id, let withKeys, let waiter):
            ask(.timeToLive(id, withKeys: withKeys), .local(waiter), since: now)
        case .leaseKeys(let id, let limit, let waiter):
            answer(waiter, .leaseKeys(machine.leaseKeys(id, atMost: limit)))
        case .leases(let waiter): answer(waiter, .leases(machine.leaseIDs()))
        case .members(let waiter): answer(waiter, .members(machine.members))
        case .alarms(let waiter): answer(waiter, .alarms(machine.alarms))
        case .changeMembership(let changes, let waiter):
            changeMembership(changes, .local(waiter), since: now)
        case .transferLeadership(let target, let waiter):
            transferLeadership(to: target, waiter, now: now)
        case .commitToBackend(let waiter): commitToBackend(waiter)
        case .received(let message): receive(message, now: now)
        case .reachable(let peer):
            unreachable.removeAll { $0 == peer }
            if peer == raft.leader { leaderFound(now: now) }
        case .unreachable(let peer):
            if !unreachable.contains(peer) { unreachable.append(peer) }
            // It is no part of a working quorum for whoever changes the membership just now.
            lastHeard.removeAll { $0.id == peer }
            raft.reportUnreachable(peer)
        case .persisted(let sequence): persisted(sequence)
        case .backendCommitted(let pending): backendCommitted(pending)
        case .snapshotArrived(let message): snapshotArrived(message)
        case .snapshotInstalled(let state): snapshotInstalled(state, now: now)
        case .snapshotSent(let peer, let succeeded):
            snapshotSent(to: peer, succeeded: succeeded, now: now)
        case .compactionHashed(let revision, let hash):
            compactionHashed(revision, hash, now: now)
        case .stop: beginStop(now)
        }
    }

    private func receive(_ message: PeerMessage, now: UInt64) {
        noteHeard(message.from, now)
        switch message {
        case .raft(let message):
            // A snapshot comes with its data or not at all (`snapshotArrived`): the core would wait for
            // the installation of a file that is not here.
            if case .snapshot = message.body {
                figures.refusedMessages &+= 1
                effects.complaint = "snapshot message of member \(String(message.from, radix: 16)) without its data"
                return
            }
            step(message)
        case .request(let request): take(request, now: now)
        case .reply(let reply): take(reply, now: now)
        case .report(let report):
            compare(report.from, report.compactRevision, report.hash)
        }
    }

    private func noteHeard(_ peer: NodeID, _ now: UInt64) {
        if let position = lastHeard.firstIndex(where: { $0.id == peer }) {
            lastHeard[position].at = now
        } else if machine.members.contains(where: { $0.id == peer }) {
            lastHeard.append((peer, now))
        }
    }

    func step(_ message: Message) {
        do throws(StepError) {
            try raft.step(message)
        } catch {
            figures.refusedMessages &+= 1
            // What a member had under way when it was removed is no news.
            if case .unknownPeer(let peer) = error, machine.isRemoved(peer) { return }
            let text = "message of member \(String(message.from, radix: 16)): \(error)"
            if error.isFatal { effects.fatal = text } else { effects.complaint = text }
        }
    }

    private func persisted(_ sequence: UInt64) {
        raft.persisted(through: sequence)
        persistStarted.removeAll { $0.sequence <= sequence }
        if let installing, case .marking(let marker) = installing.stage, marker <= sequence {
            self.installing?.stage = .marked
        }
    }

    // MARK: Effects

    /// Takes everything outstanding and applies what is committed. Call it until `hasEffects` is
    /// false.
    package func takeEffects(now: UInt64) -> Effects {
        if !proposals.isEmpty { propose(now: now) }
        if hasReadsToConfirm { confirm(now: now) }
        if !changes.isEmpty { proposeChanges() }
        if raft.hasReady { takeReady(now: now) }
        if installing != nil { installWhenReady() }
        if !owedSnapshots.isEmpty { copyWhenReady(now: now) }
        // Changed hands and not copied: a copy costs a reference count for each of its arrays.
        var taken = Effects()
        swap(&taken, &effects)
        return taken
    }

    /// Whether `takeEffects` has something to give.
    package var hasEffects: Bool {
        raft.hasReady || !proposals.isEmpty || hasReadsToConfirm || effects.hasAny
            || mayInstall || mayCopy || (changes.isDue && !changes.isEmpty)
    }

    private func takeReady(now: UInt64) {
        let ready = raft.takeReady()
        if let soft = ready.softState { roleChanged(soft, now: now) }
        for message in ready.messages {
            if case .snapshot = message.body {
                owedSnapshots.append(SnapshotRequest(to: message.to, message: message))
            } else {
                effects.messages.append(.raft(message))
            }
        }
        if let batch = ready.persist {
            persistStarted.append((batch.sequence, now))
            if let snapshot = batch.snapshot { noteMarker(snapshot, batch.sequence) }
            effects.persist = batch
        }
        if !ready.committed.isEmpty { apply(ready.committed, now: now) }
        for context in ready.abandonedReads { abandon(context) }
        if raft.leader != nil, !waiting.parked.isEmpty { leaderFound(now: now) }
        if !ready.readStates.isEmpty || !waitingReads.isEmpty {
            waitingReads.append(contentsOf: ready.readStates)
            serveReads(now: now)
        }
    }

    private func roleChanged(_ soft: SoftState, now: UInt64) {
        effects.softState = soft
        snapshotRetries.removeAll()
        hurriedSnapshots.removeAll()
        if soft.role == .leader {
            figures.leaderChanges &+= 1
            // With others to vote, somebody else may have renewed leases until a moment ago.
            let extend =
                raft.confState.voters.count > 1
                ? configuration.tickMilliseconds &* UInt64(configuration.electionTicks) : 0
            machine.promote(
                now: LeaseTime(nanoseconds: now), extendMilliseconds: Int64(clamping: extend))
            divergence.restart()
        } else {
            hasAppliedInTerm = false
            machine.demote()
            refuseQueuedChanges()
        }
        if let transfer, soft.leader == transfer.target {
            answer(transfer.waiter, .leadershipTransferred)
            self.transfer = nil
        }
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.forwardRetriedAfterLeaderChange) { retryForwarded() }
        #endif
        if soft.leader == nil { waiting.leaderLostAt = now } else { leaderFound(now: now) }
        if stopDeadline != nil, soft.role != .leader { effects.isStopped = true }
    }

    func answer(_ waiter: any ReplyWaiter, _ answer: ReplicaAnswer) {
        if let follower = waiter as? RenewalAfterCheckpoint {
            return renewalCheckpointed(follower, answer)
        }
        effects.answers.append(PendingAnswer(waiter: waiter, answer: answer))
    }
}

extension Replica {
    package var term: Term { raft.term }
    package var role: Role { raft.role }
    package var leader: NodeID? { raft.leader }
    package var commitIndex: LogIndex { raft.commitIndex }
    package var lastIndex: LogIndex { raft.lastIndex }
    package var isLearner: Bool { raft.confState.isLearner(raft.id) }

    /// Whether nobody else votes.
    package var isSoleVoter: Bool {
        raft.confState.voters == [raft.id] && raft.confState.votersOutgoing.isEmpty
    }

    /// Requests that wait for an entry, a leader or the leader's answer.
    package var pendingRequests: Int {
        waiting.entries.count + waiting.uncertain.count + waiting.tagged.count
            + waiting.parked.count
    }

    /// Whether a read may be served from the applied state with no round at all: this member is
    /// the only voter, leads, and has committed in its term. Nobody else can then have
    /// acknowledged anything, and everything acknowledged here has been applied.
    package var canReadWithoutRound: Bool {
        hasAppliedInTerm && raft.role == .leader && raft.confState.voters.count == 1
            && raft.confState.votersOutgoing.isEmpty
    }

    /// Whether this member was removed and its vote is not needed any more. One that is being removed
    /// through a joint configuration votes until that is left; it may be needed to leave it.
    package var hasLeft: Bool {
        machine.isRemoved(raft.id) && raft.appliedIndex > 0 && !raft.confState.contains(raft.id)
    }

    /// Removed members whose votes are not needed any more: their connections are to be refused.
    var departedMembers: [NodeID] {
        machine.removedMembers.filter { !raft.confState.contains($0) }
    }

    /// When `tick` is to be called next, in nanoseconds.
    package var nextWake: UInt64 { min(nextTick, backendWake) }
}

/// Counts since start, for metrics.
package struct ReplicaFigures: Sendable {
    package var leaderChanges: UInt64 = 0
    package var committedProposals: UInt64 = 0
    package var failedProposals: UInt64 = 0
    package var failedReads: UInt64 = 0
    package var leasesGranted: UInt64 = 0
    package var leasesRevoked: UInt64 = 0
    package var leasesExpired: UInt64 = 0
    package var leasesRenewed: UInt64 = 0
    /// Messages of peers that the core refused.
    package var refusedMessages: UInt64 = 0
    package var snapshotsInstalled: UInt64 = 0
    /// Leaderships given up because the disk stalled.
    package var stallResignations: UInt64 = 0
}

extension LeaseTime {
    init(nanoseconds: UInt64) { self.init(milliseconds: Int64(clamping: nanoseconds / 1_000_000)) }
}
