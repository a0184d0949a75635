// The replica's turns: what feeds it and carries its effects out. Which thread runs them is decided in
// ReplicaTurns.swift.
//
// Each turn takes everything from the mailbox, lets the replica decide, and then sends, persists,
// commits, publishes and answers, one wake-up per event loop and one hand-over to the transport.
// Nothing is decided here but which thread does the work.

import Events
import MVCC
import RaftCore
import Replica
import StateMachine
import Storage

/// The parts around the replica that the loop hands work to.
struct ReplicaParts {
    let mailbox: Mailbox<ReplicaInput>
    let turns: ReplicaTurns
    let log: LogWriter
    let backend: BackendThread
    let hashes: HashThread
    let files: SnapshotFiles
    let peers: any PeerLinks
    let status: NodeStatus
    let bus: EventBus
    let sinks: [any AnswerSink]
    let slowApplyNanoseconds: UInt64
    let note: NoteHandler
    let fatal: FatalHandler
    /// Called once, when this member's removal has long been applied.
    let removed: @Sendable () -> Void
}

/// The replica and what its turns need. Reached by one thread at a time (`ReplicaTurns`).
final class ReplicaLoop {
    private let replica: Replica
    private let parts: ReplicaParts
    /// Kept between turns for its room.
    private var inputs: [ReplicaInput] = []
    /// Answers of this turn, by event loop.
    private var answers: [[PendingAnswer]]
    private var events: [NodeEvent] = []
    /// Set by the turn after which nothing but `finish` may follow.
    private(set) var isStopping = false
    private var isRemovalTold = false

    init(replica: Replica, parts: ReplicaParts) {
        self.replica = replica
        self.parts = parts
        answers = Array(repeating: [], count: parts.sinks.count)
    }

    /// When a turn is due although nothing arrived, in monotonic nanoseconds.
    var nextWake: UInt64 { replica.nextWake }

    /// The first turn.
    func begin() {
        let now = monotonicNanoseconds()
        // Nobody else can lead: there is no timeout to wait for.
        if replica.isSoleVoter { replica.campaign() }
        publishAlarms()
        settle(now)
        flushOutputs()
    }

    /// Takes what has arrived, and does what is due.
    func turn() {
        parts.mailbox.takeAll(into: &inputs)
        let now = monotonicNanoseconds()
        for input in inputs {
            if case .propose(let proposal) = input {
                parts.status.queuedBytes.subtract(
                    UInt64(proposal.entry.count), ordering: .relaxed)
            }
            replica.handle(input, now: now)
        }
        inputs.removeAll(keepingCapacity: true)
        settle(now)
        replica.tick(now: now)
        settle(now)
        flushOutputs()
    }

    // MARK: Effects

    /// Does everything that is outstanding, until what is left waits for another thread.
    private func settle(_ now: UInt64) {
        let status = parts.status
        // The quota counts what the backend uses now; it decides an answer, never the state.
        replica.machine.storageBytes = Int64(
            clamping: status.backendBytesInUse.load(ordering: .relaxed))
        while replica.hasEffects {
            let start = monotonicNanoseconds()
            let effects = replica.takeEffects(now: now)
            if !effects.applied.isEmpty,
                monotonicNanoseconds() &- start > parts.slowApplyNanoseconds
            {
                status.slowApplies.add(1, ordering: .relaxed)
            }
            perform(effects, now)
        }
        status.publish(replica)
    }

    private func perform(_ effects: Effects, _ now: UInt64) {
        if let reason = effects.fatal { parts.fatal(reason) }
        if let complaint = effects.complaint { parts.note(.warning, complaint) }
        if !effects.messages.isEmpty { parts.peers.send(effects.messages) }
        if let batch = effects.persist { persist(batch, now) }
        if let soft = effects.softState {
            events.append(.leader(memberID: soft.leader ?? 0, term: soft.term))
        }
        // A snapshot taken over in this turn comes before what was applied on top of it: told the
        // other way round, watchers would take what it brought for seen.
        if let revision = effects.restoredRevision { restored(revision) }
        for applied in effects.applied { publish(applied) }
        // A member that has not been given the membership keeps those it was started with.
        if let members = effects.peers, !members.isEmpty {
            parts.peers.setMembers(members, removed: effects.removedPeers)
        }
        for pending in effects.answers { queue(pending) }
        if let commit = effects.commit { parts.backend.commit(commit) }
        if !effects.snapshots.isEmpty { sendSnapshots(effects.snapshots) }
        for peer in effects.hurriedSnapshots { parts.peers.hurrySnapshot(to: peer) }
        if let metadata = effects.install { install(metadata) }
        if let release = effects.release { parts.log.release(release) }
        if let revision = effects.hashCompaction { parts.hashes.hash(revision) }
        if let unused = effects.unusedSnapshot {
            let files = parts.files
            parts.backend.performSurely { _ in files.remove(index: unused.index, term: unused.term) }
        }
        if effects.isStopped { isStopping = true }
        if effects.isRemoved, !isRemovalTold {
            isRemovalTold = true
            parts.removed()
        }
    }

    private func persist(_ batch: PersistBatch, _ now: UInt64) {
        if parts.log.isIdleAndQuick && parts.mailbox.isEmpty {
            parts.log.persistNow(batch)
            replica.handle(.persisted(sequence: batch.sequence), now: now)
        } else {
            parts.log.persist(batch)
        }
    }

    /// Behind the commit that is on its way.
    private func sendSnapshots(_ requests: [SnapshotRequest]) {
        let mailbox = parts.mailbox
        parts.backend.send(requests, to: parts.peers, note: parts.note) { peer, succeeded in
            mailbox.post(.snapshotSent(to: peer, succeeded: succeeded))
        }
    }

    private func install(_ metadata: SnapshotMetadata) {
        let turns = parts.turns
        parts.note(
            .info,
            "taking over the snapshot at entry \(metadata.index) of term \(metadata.term)")
        parts.backend.install(
            file: parts.files.path(index: metadata.index, term: metadata.term),
            store: replica.machine.store.configuration
        ) { turns.postReserved(.snapshotInstalled($0)) }
    }

    private func restored(_ revision: Int64) {
        events.append(.restored(revision: revision))
        publishAlarms()
    }

    // MARK: Events

    private func publish(_ applied: AppliedEntry) {
        let result = applied.result
        if let batch = result.events {
            events.append(.revision(batch))
            count(batch)
        }
        switch result.effect {
        case .none, .leasesCheckpointed, .clusterVersionChanged: break
        case .compactionStarted(let revision, _):
            events.append(.compaction(revision: revision))
        case .leaseGranted(let id, let seconds):
            events.append(
                .lease(LeaseEvent(kind: .granted, id: id, timeToLiveSeconds: seconds)))
        case .leaseRevoked(let id, let expired, _):
            events.append(
                .lease(
                    LeaseEvent(kind: expired ? .expired : .revoked, id: id, timeToLiveSeconds: 0)))
        case .alarmChanged(let member, let type, let active):
            publishAlarms()
            events.append(
                .alarm(AlarmEvent(raised: active, memberID: member, type: type.rawValue)))
        case .memberUpdated(let id):
            events.append(.membership(MembershipEvent(kind: .updated, memberID: id)))
        case .membershipChanged(let changes):
            for change in changes {
                let kind: MembershipEvent.Kind =
                    switch change {
                    case .add: .added
                    case .remove: .removed
                    case .promote: .promoted
                    }
                events.append(.membership(MembershipEvent(kind: kind, memberID: change.memberID)))
            }
        }
    }

    private func count(_ batch: EventBatch) {
        var deletes = 0
        var bytesPut = 0
        for event in batch.events {
            if event.isDelete { deletes += 1 } else { bytesPut += event.record.count }
        }
        let status = parts.status
        status.bytesPut.add(UInt64(bytesPut), ordering: .relaxed)
        status.keysPut.add(UInt64(batch.events.count - deletes), ordering: .relaxed)
        status.keysDeleted.add(UInt64(deletes), ordering: .relaxed)
        if batch.reason == .transaction { status.transactions.add(1, ordering: .relaxed) }
    }

    private func publishAlarms() {
        var bits: UInt8 = 0
        for alarm in replica.machine.alarms {
            switch alarm.type {
            case .noSpace: bits |= NodeStatus.noSpaceBit
            case .corrupt: bits |= NodeStatus.corruptBit
            }
        }
        parts.status.alarms.store(bits, ordering: .relaxed)
    }

    // MARK: Outputs

    private func queue(_ pending: PendingAnswer) {
        let loop = pending.waiter.loopIndex
        precondition(
            answers.indices.contains(loop), "answer for loop \(loop) of \(answers.count)")
        answers[loop].append(pending)
    }

    private func flushOutputs() {
        if !events.isEmpty {
            parts.bus.publish(events)
            events.removeAll(keepingCapacity: true)
        }
        for loop in answers.indices where !answers[loop].isEmpty {
            parts.sinks[loop].deliver(answers[loop])
            answers[loop].removeAll(keepingCapacity: true)
        }
    }

    // MARK: Stop

    /// Answers everybody, makes everything applied durable in the backend.
    func finish() {
        var rest: [ReplicaInput] = []
        parts.mailbox.takeAll(into: &rest)
        let now = monotonicNanoseconds()
        for input in rest { replica.handle(input, now: now) }
        replica.refuseAll(.stopped)
        let effects = replica.takeEffects(now: now)
        for pending in effects.answers { queue(pending) }
        flushOutputs()
        // What was frozen for a copy is nowhere else any more: left out, it would be missing under
        // the applied index of the last commit.
        if let commit = effects.commit { parts.backend.commit(commit) }
        parts.backend.drain()
        rest.removeAll()
        parts.mailbox.takeAll(into: &rest)
        for input in rest {
            if case .backendCommitted = input { replica.handle(input, now: now) }
        }
        if let last = replica.lastCommit() {
            parts.backend.commit(last)
            parts.backend.drain()
        }
    }
}
