// The replica thread: the one owner of consensus, state machine and waiters.
//
// Each turn takes everything from the mailbox, proposes all commands as one batch, persists,
// applies what is committed, and hands out answers and events, one wake-up per event loop.

import Events
import MVCC
import RaftCore
import Replica
import StateMachine
import Storage

/// Times and bounds of the replica thread.
package struct ReplicaLoopConfiguration: Sendable {
    /// One tick, in milliseconds (`heartbeat-interval`).
    package var tickMilliseconds: UInt64 = 100
    /// Commit to the backend at least this often, in milliseconds (`backend-batch-interval`).
    package var backendIntervalMilliseconds: UInt64 = 100
    /// … or after this many records (`backend-batch-limit`).
    package var backendBatchRecords = 10_000
    /// A proposal not applied after this long is answered "request timed out", in milliseconds:
    /// 5 s and two election timeouts, as etcd.
    package var requestTimeoutMilliseconds: UInt64 = 7_000
    /// Index entries looked at in one step of a compaction (`compaction-batch-limit`).
    package var compactionBatch = 1000
    /// Pause between two steps, in milliseconds (`compaction-sleep-interval`).
    package var compactionPauseMilliseconds: UInt64 = 10
    /// Leases revoked by expiry and not applied yet.
    package var maxExpiredLeases = 1000
    package var autoCompaction = AutoCompaction.off
    /// Applied entries between two releases of log segments (`snapshot-count`).
    package var snapshotCount: UInt64 = 10_000
    /// Entries kept in the log behind that (`snapshot-catchup-entries`).
    package var catchUpEntries: UInt64 = 5_000
    /// Proposals waiting to be applied; further ones are refused (`limits.pending-proposals`).
    package var maxPendingProposals = 5_000
    /// Applying one batch for longer than this is counted as slow (`log.slow-apply`).
    package var slowApplyNanoseconds: UInt64 = 100_000_000
    /// Applied bytes not yet in the backend; above it proposals are refused (`limits.pending-bytes`).
    package var maxPendingBytes = 512 << 20

    package init() {}
}

/// The state of the replica thread. Confined to it.
final class ReplicaLoop {
    private let replica: Replica
    private let reader: any RecordReader
    /// What this member publishes about itself.
    private let member: Member
    private let configuration: ReplicaLoopConfiguration
    private let mailbox: Mailbox<ReplicaInput>
    private let log: LogWriter
    private let backend: BackendThread
    private let status: NodeStatus
    private let bus: EventBus
    private let sinks: [any AnswerSink]

    private var waiters = WaiterQueue()
    /// Waiters of reads by context.
    private var reads: [UInt64: any ReplyWaiter] = [:]
    private var nextReadContext: UInt64 = 1
    /// Waiters for the end of a physical compaction.
    private var compactionWaiters: [PendingAnswer] = []
    /// Those whose compaction is done and under way to the backend.
    private var committingWaiters: [PendingAnswer] = []
    /// Answers of this turn, by event loop.
    private var answers: [[PendingAnswer]]
    private var events: [NodeEvent] = []
    private var proposals: [Proposal] = []
    private var autoCompactor: AutoCompactor
    private var nextTick: UInt64
    private var nextBackendCommit: UInt64 = 0
    private var isCompacting = false
    private var nextCompactionStep: UInt64 = 0
    private var lastReleasedIndex: LogIndex
    /// Entries applied, and bytes they wrote, since the last freeze.
    private var unfrozenEntries = 0
    private var unfrozenBytes = 0
    /// Bytes handed to the backend and not yet committed.
    private var frozenBytes = 0
    private var stopping = false
    private var hasPublished = false

    init(
        replica: Replica, reader: any RecordReader, configuration: ReplicaLoopConfiguration,
        member: Member, mailbox: Mailbox<ReplicaInput>, log: LogWriter, backend: BackendThread, status: NodeStatus,
        bus: EventBus, sinks: [any AnswerSink]
    ) {
        self.replica = replica
        self.reader = reader
        self.member = member
        self.configuration = configuration
        self.mailbox = mailbox
        self.log = log
        self.backend = backend
        self.status = status
        self.bus = bus
        self.sinks = sinks
        answers = Array(repeating: [], count: sinks.count)
        let now = monotonicNanoseconds()
        nextTick = now &+ configuration.tickMilliseconds &* 1_000_000
        autoCompactor = AutoCompactor(configuration.autoCompaction, now: now / 1_000_000)
        lastReleasedIndex = replica.machine.appliedIndex
        // A compaction that a crash cut short goes on; without one the first step says so.
        isCompacting = replica.machine.store.compactRevision > 0
    }

    /// Runs until told to stop.
    func run() {
        replica.campaign()
        settle()
        publishAlarms()
        if replica.canReadWithoutRound { publish() }
        if !proposals.isEmpty { propose() }
        settle()
        flushOutputs()
        var inputs: [ReplicaInput] = []
        var lightlyLoaded = false
        while !stopping {
            inputs.removeAll(keepingCapacity: true)
            mailbox.take(into: &inputs, deadline: nextWake(), spin: lightlyLoaded)
            lightlyLoaded = !inputs.isEmpty && inputs.count <= 2
            for input in inputs { handle(input) }
            if !proposals.isEmpty { propose() }
            settle()
            let now = monotonicNanoseconds()
            if now >= nextTick { tick(now) }
            if isCompacting && now >= nextCompactionStep { stepCompaction(now) }
            commitBackendIfDue(now)
            flushOutputs()
        }
        finish()
    }

    private func nextWake() -> UInt64 {
        var wake = nextTick
        if isCompacting { wake = min(wake, nextCompactionStep) }
        if backend.hasRoom && unfrozenEntries > 0 { wake = min(wake, nextBackendCommit) }
        return wake
    }

    // MARK: Inputs

    private func handle(_ input: ReplicaInput) {
        switch input {
        case .propose(let proposal):
            status.queuedBytes.subtract(UInt64(proposal.entry.count), ordering: .relaxed)
            proposals.append(proposal)
        case .persisted(let sequence): replica.persisted(through: sequence)
        case .backendCommitted(let done): backendCommitted(done)
        case .read(let waiter): read(waiter)
        case .leaseRenew(let id, let waiter): renew(id, waiter)
        case .leaseTimeToLive(let id, let withKeys, let waiter):
            let lease = replica.machine.leaseTimeToLive(id, now: now(), withKeys: withKeys)
            answer(waiter, .leaseTimeToLive(lease))
        case .leases(let waiter): answer(waiter, .leases(replica.machine.leaseIDs()))
        case .members(let waiter): answer(waiter, .members(replica.machine.members))
        case .alarms(let waiter): answer(waiter, .alarms(replica.machine.alarms))
        case .stop: stopping = true
        default: preconditionFailure("not wired")
        }
    }

    private func now() -> LeaseTime {
        LeaseTime(milliseconds: Int64(clamping: monotonicNanoseconds() / 1_000_000))
    }

    private func propose() {
        let batch = proposals
        proposals.removeAll(keepingCapacity: true)
        let pending = status.pendingBytes.load(ordering: .relaxed)
        if pending > UInt64(configuration.maxPendingBytes)
            || waiters.count >= configuration.maxPendingProposals
        {
            return refuse(batch, .tooManyRequests)
        }
        do throws(ProposalError) {
            let range = try replica.propose(batch.map(\.entry))
            let since = monotonicNanoseconds()
            var index = range.lowerBound
            for proposal in batch {
                waiters.append(
                    index: index, term: replica.term, waiter: proposal.waiter, since: since)
                index += 1
            }
            status.pendingProposals.store(UInt64(waiters.count), ordering: .relaxed)
        } catch {
            switch error {
            case .notLeader: refuse(batch, .noLeader)
            case .transferring: refuse(batch, .leaderChanged)
            case .uncommittedFull: refuse(batch, .tooManyRequests)
            case .payloadTooLarge: refuseEach(batch)
            case .emptyPayload, .configChangePending, .notCommittedInTerm, .configChangeRefused:
                preconditionFailure("proposal of commands refused: \(error)")
            }
        }
    }

    /// One command of the batch is too large for the log: find out which.
    private func refuseEach(_ batch: [Proposal]) {
        if batch.count == 1 { return refuse(batch, .requestTooLarge) }
        for proposal in batch {
            proposals.append(proposal)
            propose()
        }
    }

    private func refuse(_ batch: [Proposal], _ error: NodeError) {
        for proposal in batch {
            if let waiter = proposal.waiter { answer(waiter, .refused(error)) }
        }
        status.failedProposals.add(UInt64(batch.count), ordering: .relaxed)
    }

    private func read(_ waiter: any ReplyWaiter) {
        let context = nextReadContext
        nextReadContext += 1
        do throws(ReadIndexError) {
            try replica.readIndex(context: context)
            reads[context] = waiter
        } catch {
            status.failedReadRounds.add(1, ordering: .relaxed)
            switch error {
            case .noLeader: answer(waiter, .refused(.noLeader))
            case .tooManyPending: answer(waiter, .refused(.tooManyRequests))
            case .duplicateContext: preconditionFailure("read context \(context) used twice")
            }
        }
    }

    private func renew(_ id: Int64, _ waiter: any ReplyWaiter) {
        guard replica.role == .leader else { return answer(waiter, .refused(.noLeader)) }
        switch replica.machine.leaseRenew(id, now: now()) {
        case .renewed(let seconds):
            status.leasesRenewed.add(1, ordering: .relaxed)
            answer(waiter, .leaseRenewed(timeToLiveSeconds: seconds))
        case .checkpointFirst(let command):
            proposals.append(
                Proposal(entry: command, waiter: RenewalAfterCheckpoint(id, waiter, mailbox)))
        case .notFound, .expired:
            answer(waiter, .leaseRenewed(timeToLiveSeconds: nil))
        case .notLeader:
            answer(waiter, .refused(.noLeader))
        }
    }

    // MARK: Consensus and disk

    /// Does everything that is outstanding, until what is left waits for another thread.
    private func settle() {
        while replica.hasEffects {
            let start = monotonicNanoseconds()
            let effects = replica.takeEffects(now: now())
            if !effects.applied.isEmpty,
                monotonicNanoseconds() &- start > configuration.slowApplyNanoseconds
            {
                status.slowApplies.add(1, ordering: .relaxed)
            }
            if let persist = effects.persist { self.persist(persist) }
            precondition(effects.messages.isEmpty, "a sole voter has nobody to write to")
            if let soft = effects.softState { roleChanged(soft) }
            for applied in effects.applied { finish(applied) }
            for context in effects.confirmedReads {
                if let waiter = reads.removeValue(forKey: context) {
                    answer(waiter, .readReady(term: replica.term))
                }
            }
            for context in effects.abandonedReads {
                if let waiter = reads.removeValue(forKey: context) {
                    answer(waiter, .refused(.leaderChanged))
                }
            }
        }
        status.term.store(replica.term, ordering: .relaxed)
        status.commitIndex.store(replica.commitIndex, ordering: .relaxed)
        status.appliedIndex.store(replica.machine.appliedIndex, ordering: .relaxed)
        status.readsNeedNoRound.store(replica.canReadWithoutRound, ordering: .releasing)
    }

    private func persist(_ batch: PersistBatch) {
        if log.isIdleAndQuick && mailbox.isEmpty {
            log.persistNow(batch)
            replica.persisted(through: batch.sequence)
        } else {
            log.persist(batch)
        }
    }

    private func roleChanged(_ soft: SoftState) {
        status.leader.store(soft.leader ?? 0, ordering: .relaxed)
        if soft.role == .leader {
            status.leaderChanges.add(1, ordering: .relaxed)
            replica.machine.promote(now: now(), extendMilliseconds: 0)
        } else {
            replica.machine.demote()
        }
        events.append(.leader(memberID: soft.leader ?? 0, term: soft.term))
    }

    private func finish(_ applied: AppliedEntry) {
        let waiter = waiters.take(index: applied.index, term: applied.term) { lost in
            answer(lost, .refused(.leaderChanged))
        }
        let result = applied.result
        unfrozenEntries += 1
        if let batch = result.events {
            events.append(.revision(batch))
            unfrozenBytes += batch.bytes.count
            count(batch)
        }
        var waitsForCompaction = false
        switch result.effect {
        case .none: break
        case .compactionStarted(let revision, let physical):
            isCompacting = true
            waitsForCompaction = physical
            events.append(.compaction(revision: revision))
        case .leaseGranted(let id, let seconds):
            status.leasesGranted.add(1, ordering: .relaxed)
            events.append(
                .lease(LeaseEvent(kind: .granted, id: id, timeToLiveSeconds: seconds)))
        case .leaseRevoked(let id, let expired, _):
            status.leasesRevoked.add(1, ordering: .relaxed)
            if expired { status.leasesExpired.add(1, ordering: .relaxed) }
            events.append(
                .lease(
                    LeaseEvent(kind: expired ? .expired : .revoked, id: id, timeToLiveSeconds: 0)))
        case .leasesCheckpointed: break
        case .alarmChanged(let member, let type, let active):
            publishAlarms()
            events.append(
                .alarm(AlarmEvent(raised: active, memberID: member, type: type.rawValue)))
        case .memberUpdated(let id):
            events.append(.membership(MembershipEvent(kind: .updated, memberID: id)))
        case .membershipChanged(let change):
            let kind: MembershipEvent.Kind =
                switch change {
                case .add: .added
                case .remove: .removed
                case .promote: .promoted
                }
            events.append(.membership(MembershipEvent(kind: kind, memberID: change.memberID)))
        case .clusterVersionChanged: break
        }
        status.committedProposals.add(1, ordering: .relaxed)
        guard let waiter else { return }
        let pending = PendingAnswer(
            waiter: waiter, answer: .applied(result, index: applied.index, term: applied.term))
        if waitsForCompaction && result.error == nil {
            compactionWaiters.append(pending)
        } else {
            answer(pending)
        }
    }

    private func count(_ batch: EventBatch) {
        var deletes = 0
        var bytesPut = 0
        for event in batch.events {
            if event.isDelete { deletes += 1 } else { bytesPut += event.record.count }
        }
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
        status.alarms.store(bits, ordering: .relaxed)
    }

    // MARK: Time

    private func tick(_ now: UInt64) {
        // After a pause (SIGSTOP, suspend) only one tick is counted for the whole of it, so that
        // time that this process did not see cannot expire an election or a lease check twice.
        nextTick = now &+ configuration.tickMilliseconds &* 1_000_000
        replica.tick()
        let deadline = now &- min(now, configuration.requestTimeoutMilliseconds &* 1_000_000)
        waiters.expire(before: deadline) { answer($0, .refused(.timedOut)) }
        if replica.role == .leader && replica.hasAppliedInTerm { leadersDuties(now) }
        settle()
    }

    private func leadersDuties(_ now: UInt64) {
        let time = self.now()
        if !hasPublished { publish() }
        for id in replica.machine.expiredLeases(
            now: time, max: configuration.maxExpiredLeases)
        {
            proposals.append(
                Proposal(entry: Command.leaseRevoke(id: id, origin: .core), waiter: nil))
        }
        if let checkpoint = replica.machine.leaseCheckpoints(now: time) {
            proposals.append(Proposal(entry: checkpoint, waiter: nil))
        }
        let revision = replica.machine.store.currentRevision
        if let target = autoCompactor.tick(now: now / 1_000_000, currentRevision: revision),
            target > replica.machine.store.compactRevision
        {
            proposals.append(
                Proposal(entry: Command.compact(revision: target, origin: .core), waiter: nil))
        }
        if !proposals.isEmpty { propose() }
    }

    /// Makes name, URLs and version known through the log, once per start and only what changed.
    private func publish() {
        hasPublished = true
        if !replica.machine.members.contains(member) {
            proposals.append(Proposal(entry: Command.memberUpdate(member), waiter: nil))
        }
        if replica.machine.clusterVersion != ProductVersion.cluster {
            proposals.append(
                Proposal(entry: Command.clusterVersion(ProductVersion.cluster), waiter: nil))
        }
    }

    // MARK: Compaction

    private func stepCompaction(_ now: UInt64) {
        nextCompactionStep = now &+ configuration.compactionPauseMilliseconds &* 1_000_000
        if !replica.machine.compactionStep(maxKeys: configuration.compactionBatch) {
            isCompacting = false
        }
    }

    // MARK: Backend

    private func commitBackendIfDue(_ now: UInt64) {
        guard backend.hasRoom,
            now >= nextBackendCommit || unfrozenEntries >= configuration.backendBatchRecords
        else { return }
        nextBackendCommit = now &+ configuration.backendIntervalMilliseconds &* 1_000_000
        commitBackend()
    }

    private func commitBackend() {
        replica.machine.storageBytes = Int64(
            clamping: status.backendBytesInUse.load(ordering: .relaxed))
        guard let pending = replica.machine.freeze() else {
            return answerCompactionWaiters()
        }
        frozenBytes = unfrozenBytes
        unfrozenBytes = 0
        unfrozenEntries = 0
        if !isCompacting {
            committingWaiters += compactionWaiters
            compactionWaiters.removeAll()
        }
        backend.commit(pending)
    }

    private func backendCommitted(_ done: PendingCommit) {
        if let records = done.records { replica.machine.store.release(records) }
        frozenBytes = 0
        publishPendingBytes()
        // A compaction may just have made room; the next write must know.
        replica.machine.storageBytes = Int64(
            clamping: status.backendBytesInUse.load(ordering: .relaxed))
        for waiting in committingWaiters { answer(waiting) }
        committingWaiters.removeAll()
        let applied = done.appliedIndex
        if applied >= lastReleasedIndex &+ configuration.snapshotCount {
            lastReleasedIndex = applied
            let keep = applied > configuration.catchUpEntries
                ? applied - configuration.catchUpEntries : 1
            log.release(
                WALSnapshot(index: applied, term: done.appliedTerm), keepFrom: keep,
                commit: replica.commitIndex)
        }
    }

    private func publishPendingBytes() {
        status.pendingBytes.store(UInt64(unfrozenBytes + frozenBytes), ordering: .relaxed)
    }

    /// Physical compactions are answered once their deletions are committed.
    private func answerCompactionWaiters() {
        if isCompacting || compactionWaiters.isEmpty { return }
        for pending in compactionWaiters { answer(pending) }
        compactionWaiters.removeAll()
    }

    // MARK: Outputs

    private func answer(_ waiter: any ReplyWaiter, _ answer: ReplicaAnswer) {
        self.answer(PendingAnswer(waiter: waiter, answer: answer))
    }

    private func answer(_ pending: PendingAnswer) {
        let loop = pending.waiter.loopIndex
        // A waiter without a loop is a renewal that asks again, unless its checkpoint was refused:
        // then that is the answer.
        if loop < 0 {
            if let renewal = pending.waiter as? RenewalAfterCheckpoint,
                case .refused = pending.answer
            {
                return answer(renewal.waiter, pending.answer)
            }
            return pending.waiter.replicaAnswered(pending.answer)
        }
        precondition(loop < answers.count, "answer for loop \(loop) of \(answers.count)")
        answers[loop].append(pending)
    }

    private func flushOutputs() {
        if !events.isEmpty {
            bus.publish(events)
            events.removeAll(keepingCapacity: true)
        }
        for loop in answers.indices where !answers[loop].isEmpty {
            sinks[loop].deliver(answers[loop])
            answers[loop].removeAll(keepingCapacity: true)
        }
        status.pendingProposals.store(UInt64(waiters.count), ordering: .relaxed)
        publishPendingBytes()
    }

    // MARK: Stop

    /// Answers everybody, makes everything applied durable in the backend.
    private func finish() {
        waiters.removeAll { answer($0, .refused(.stopped)) }
        for context in reads.keys.sorted() {
            if let waiter = reads[context] { answer(waiter, .refused(.stopped)) }
        }
        for pending in committingWaiters + compactionWaiters {
            answer(pending.waiter, .refused(.stopped))
        }
        var rest: [ReplicaInput] = []
        mailbox.take(into: &rest, deadline: 0, spin: false)
        for input in rest { refuseAtStop(input) }
        flushOutputs()
        backend.drain()
        commitBackend()
        backend.drain()
    }

    private func refuseAtStop(_ input: ReplicaInput) {
        switch input {
        case .propose(let proposal):
            if let waiter = proposal.waiter { answer(waiter, .refused(.stopped)) }
        case .read(let waiter), .leaseRenew(_, let waiter), .leaseTimeToLive(_, _, let waiter),
            .leases(let waiter), .members(let waiter), .alarms(let waiter):
            answer(waiter, .refused(.stopped))
        default: break
        }
    }
}

/// Asks again for a renewal once the checkpoint that must precede it is applied.
private final class RenewalAfterCheckpoint: ReplyWaiter {
    private let id: Int64
    fileprivate let waiter: any ReplyWaiter
    private let mailbox: Mailbox<ReplicaInput>

    init(_ id: Int64, _ waiter: any ReplyWaiter, _ mailbox: Mailbox<ReplicaInput>) {
        self.id = id
        self.waiter = waiter
        self.mailbox = mailbox
    }

    /// On the replica thread itself.
    var loopIndex: Int { -1 }

    func replicaAnswered(_ answer: ReplicaAnswer) {
        mailbox.post(.leaseRenew(id, waiter))
    }
}
