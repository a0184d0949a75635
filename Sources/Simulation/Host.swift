// A member's process: it feeds the replica, and does what the replica's effects say, as the node does with
// threads and files.

import MVCC
import RaftCore
import Replica
import StateMachine
import Storage

extension Simulation {
    static let walDirectory = "/wal"
    /// Far more than a turn can need: the entries of a whole run, one in each round.
    private static let maxRoundsOfTurn = 20_000

    // MARK: Start and end

    /// Starts a member's process from what its disk holds.
    func start(_ member: SimulatedMember) {
        guard member.fate == .alive, !member.isRunning else { return }
        member.run += 1
        let clockOffset = hostRandom.within(0...1_000 * second)
        let machine = StateMachine(
            store: MVCCStore(configuration: storeConfiguration),
            reader: BackendStateRecordReader(member.backend), configuration: machineConfiguration)
        do {
            let recovered = try Recovered(
                machine: machine, host: SimulatedRecoveryHost(member: member), disk: member.disk,
                options: recoveryOptions(member, now: now + clockOffset))
            let process = MemberProcess(
                replica: recovered.replica, wal: recovered.wal,
                reader: BackendStateRecordReader(member.backend), clockOffset: clockOffset)
            guard checkRecovered(member, process) else {
                // A flipped bit in what was written last looks like a write that was cut short.
                trace.write(now, "m\(member.id) has lost its last write to damage")
                member.fate = .lost
                return
            }
            member.process = process
            trace.note(now, 1, member.id, process.replica.lastIndex)
            trace.write(
                now,
                "m\(member.id) starts: applied \(machine.appliedIndex), log to "
                    + "\(process.replica.lastIndex), term \(process.replica.term), torn "
                    + "\(recovered.tornTail != nil)")
            scheduleTurn(member, process)
        } catch {
            trace.write(now, "m\(member.id) cannot start: \(error)")
            if member.isDamaged {
                member.fate = .lost
            } else if member.disk.hasFailed {
                stop(member, losesPower: false)
            } else {
                checker.fail("member \(member.id) cannot start: \(error)")
            }
        }
    }

    private var storeConfiguration: MVCCConfiguration {
        var configuration = MVCCConfiguration()
        // Hundreds of small stores: small chunks.
        configuration.indexChunkBytes = 64 << 10
        configuration.recordChunkBytes = 1 << 10
        configuration.recentRecordBytes = 4 << 10
        configuration.pinnedReaders = 4
        return configuration
    }

    private var machineConfiguration: StateMachineConfiguration {
        var configuration = StateMachineConfiguration()
        // Short enough that leases of seconds are checkpointed.
        configuration.leaseCheckpointIntervalMilliseconds = 1_500
        configuration.leaseRevokeRetryMilliseconds = 1_000
        configuration.outstandingLeaseRevokes = 2
        return configuration
    }

    private func recoveryOptions(_ member: SimulatedMember, now: Nanoseconds) -> RecoveryOptions {
        var raft = RaftConfiguration(id: member.id)
        raft.electionTicks = knobs.electionTicks
        raft.heartbeatTicks = knobs.heartbeatTicks
        raft.preVote = knobs.preVote
        raft.maxEntriesBytesPerMessage = knobs.maxEntriesBytesPerMessage
        raft.maxInflightMessages = knobs.maxInflightMessages
        raft.maxCommittedBytesPerReady = knobs.maxCommittedBytesPerReady
        raft.maxRetainedEntries = knobs.catchUpEntries
        raft.maxCatchUpEntries = knobs.catchUpEntries * 2
        let wal = WALConfiguration(segmentBytes: knobs.segmentBytes)
        raft.maxEntryBytes = wal.maxEntryBytes
        var replica = ReplicaConfiguration()
        replica.tickMilliseconds = knobs.tick / millisecond
        replica.electionTicks = knobs.electionTicks
        replica.backendIntervalMilliseconds = knobs.backendInterval / millisecond
        replica.backendBatchRecords = knobs.backendBatchRecords
        replica.requestTimeoutMilliseconds = knobs.requestTimeout / millisecond
        replica.compactionBatch = knobs.compactionBatch
        replica.snapshotCount = knobs.snapshotCount
        replica.catchUpEntries = UInt64(knobs.catchUpEntries)
        replica.maxEntriesPerApplyBatch = knobs.maxEntriesPerApplyBatch
        replica.clusterVersion = "3.6.0"
        var options = RecoveryOptions(
            beginning: member.founders.isEmpty ? .join : .found(member.founders), clusterID: 1,
            memberID: member.id,
            member: Member(
                id: member.id, name: "m\(member.id)", peerURLs: ["http://m\(member.id)"],
                clientURLs: ["http://c\(member.id)"]),
            walDirectory: Self.walDirectory, raft: raft, salt: hostRandom.next(),
            randomSeed: hostRandom.next(), run: hostRandom.next(), now: now)
        options.wal = wal
        options.replica = replica
        return options
    }

    /// What was durable must be there again; false when it is not and the log was damaged.
    private func checkRecovered(_ member: SimulatedMember, _ process: MemberProcess) -> Bool {
        let old = member.mirror
        let raft = process.replica.raft
        var entries: [Entry] = []
        var index = raft.log.firstIndex
        while let entry = raft.log.entry(at: index) {
            entries.append(entry)
            index += 1
        }
        var new = LogMirror(
            snapshotIndex: raft.log.snapshotIndex, snapshotTerm: raft.log.snapshotTerm, entries: entries)
        new.durableTerm = raft.term
        new.durableVote = raft.vote
        if let loss = checker.loss(of: member.id, old: old, new: new) {
            if member.isDamaged { return false }
            checker.fail(loss)
        }
        member.mirror = new
        return true
    }

    /// Ends a member's process at once. With `losesPower` what its disk had not synchronized goes
    /// through chance.
    func stop(_ member: SimulatedMember, losesPower: Bool) {
        if let process = member.process {
            cutWrites(member, process)
            trace.write(now, "m\(member.id) ends, power \(losesPower ? "lost" : "kept")")
        }
        trace.note(now, 2, member.id, losesPower ? 1 : 0)
        member.process = nil
        member.disk.crash(
            losesPower: losesPower, keepPerMille: knobs.keptSectorsPerMille, random: &hostRandom)
        abandonOperations(of: member.id)
        // Whoever ends by itself once nothing fails any more is started again at once, as by an init system.
        if isQuiet, member.fate == .alive { schedule(.endFault(.restart(member.id)), after: second) }
    }

    /// The end may come in the middle of a write, and of a commit.
    private func cutWrites(_ member: SimulatedMember, _ process: MemberProcess) {
        if process.logJobsUnderWay > 0, hostRandom.chance(500) {
            member.disk.fault = SimulatedDisk.Fault(
                after: hostRandom.within(0...4), code: SimulatedDisk.inputOutputError)
            do { try write(process.logQueue.prefix(process.logJobsUnderWay).map(\.job), process.wal) } catch {
                trace.write(now, "m\(member.id) is cut off in a write")
            }
        }
        if process.isBackendBusy, hostRandom.chance(500), case .commit(let pending)? = process.backendQueue.first {
            member.backend.state.apply(pending)
        } else if process.isBackendBusy, hostRandom.chance(500),
            case .install(let metadata)? = process.backendQueue.first,
            let file = member.snapshots.first(where: { $0.metadata == metadata })
        {
            member.backend.state = file.state
        }
    }

    // MARK: Turns

    func post(_ input: ReplicaInput, to member: SimulatedMember) {
        guard let process = member.process else { return }
        process.mailbox.append(input)
        scheduleTurn(member, process)
    }

    func scheduleTurn(_ member: SimulatedMember, _ process: MemberProcess) {
        if process.isTurnScheduled || process.isPaused { return }
        process.isTurnScheduled = true
        schedule(.turn(member.id, run: member.run), after: hostRandom.within(knobs.turnDelay))
    }

    func wake(_ id: NodeID, _ run: Int) {
        guard let (member, process) = process(id, run), process.scheduledWake <= now else { return }
        process.scheduledWake = .max
        scheduleTurn(member, process)
    }

    func clock(_ process: MemberProcess) -> Nanoseconds { now + process.clockOffset }

    /// One turn of the replica.
    func turn(_ id: NodeID, _ run: Int) {
        guard let (member, process) = process(id, run) else { return }
        process.isTurnScheduled = false
        if process.isPaused { return }
        let replica = process.replica
        let inputs = process.mailbox
        process.mailbox.removeAll(keepingCapacity: true)
        let time = clock(process)
        for input in inputs { replica.handle(input, now: time) }
        if time >= replica.nextWake { replica.tick(now: time) }
        var rounds = 0
        while replica.hasEffects, member.process === process {
            carryOut(replica.takeEffects(now: time), member, process)
            if checker.failure != nil { return }
            rounds += 1
            if rounds > Self.maxRoundsOfTurn {
                return checker.fail("member \(id) finds no end in one turn: \(replica.takeEffects(now: time))")
            }
        }
        guard member.process === process else { return }
        let wake = max(replica.nextWake, time) - process.clockOffset
        if wake < process.scheduledWake || process.scheduledWake <= now {
            process.scheduledWake = wake
            queue.schedule(.wake(id, run: run), at: wake)
        }
    }

    /// Does what the replica says, in the order that Effects.swift demands.
    private func carryOut(_ effects: Effects, _ member: SimulatedMember, _ process: MemberProcess) {
        if let reason = effects.fatal {
            checker.fail("member \(member.id) stops itself: \(reason)")
            return
        }
        if effects.peers != nil { process.refusedPeers = effects.removedPeers }
        if let batch = effects.persist { handOut(batch, member, process) }
        observe(effects, member, process)
        for message in effects.messages { send(message, from: member) }
        if effects.persist != nil { startLog(member, process) }
        // A snapshot taken over in this turn comes before what was applied on top of it.
        if let revision = effects.restoredRevision { restored(revision, member, process) }
        for applied in effects.applied {
            checker.applied(applied, by: member.id)
            trace.note(now, 3, member.id, applied.index, applied.term)
            if let batch = applied.result.events { publish(batch, member, process) }
        }
        for pending in effects.answers {
            guard let waiter = pending.waiter as? OperationWaiter else { continue }
            checker.require(!waiter.isAnswered, "operation \(waiter.number) is answered twice")
            waiter.isAnswered = true
            answered(waiter.number, pending.answer, member, process)
        }
        if let pending = effects.commit { enqueue(.commit(pending), member, process) }
        for request in effects.snapshots { enqueue(.copy(request), member, process) }
        if let metadata = effects.install { enqueue(.install(metadata), member, process) }
        if let revision = effects.hashCompaction {
            enqueue(.hash(compactRevision: revision), member, process)
        }
        if let release = effects.release {
            process.logQueue.append((.release(release), .max))
            startLog(member, process)
        }
        if let unused = effects.unusedSnapshot {
            member.snapshots.removeAll { $0.metadata == unused }
        }
        if effects.isRemoved {
            member.fate = .removed
            stop(member, losesPower: false)
        } else if effects.isStopped {
            stop(member, losesPower: false)
        }
    }

    /// What the checker wants to know of a member after each of its steps.
    private func observe(_ effects: Effects, _ member: SimulatedMember, _ process: MemberProcess) {
        let replica = process.replica
        if let soft = effects.softState {
            trace.note(now, 4, member.id, soft.term, UInt64(soft.role.rawValue))
            trace.write(now, "m\(member.id) \(soft.role) in term \(soft.term), leader \(soft.leader ?? 0)")
            if soft.role == .leader {
                checker.becameLeader(
                    member.id, term: soft.term, log: member.mirror,
                    memberships: [process.confState, replica.raft.confState])
            }
        }
        checker.require(
            replica.raft.log.stableIndex <= member.mirror.durableLast,
            "member \(member.id) takes entry \(replica.raft.log.stableIndex) for durable, but "
                + "\(member.mirror.durableLast) is")
        let commit = min(replica.commitIndex, member.mirror.lastIndex)
        if commit != process.commitIndex {
            if replica.role == .leader, process.leadsTerm == replica.term, commit > process.commitIndex {
                checker.require(
                    member.mirror.term(at: commit) == replica.term,
                    "leader \(member.id) of term \(replica.term) commits entry \(commit) of term "
                        + "\(member.mirror.term(at: commit) ?? 0) by counting")
                checker.counted(
                    index: commit, term: replica.term, leader: member.id,
                    memberships: [process.confState, replica.raft.confState]
                ) { holds($0, index: commit, term: replica.term) }
            }
            checker.committed(
                through: max(commit, min(process.commitIndex, replica.commitIndex)), after: process.commitIndex,
                by: member.id, log: member.mirror, mayExtend: replica.role == .leader || process.leadsTerm > 0)
            process.commitIndex = max(commit, process.commitIndex)
        }
        process.leadsTerm = replica.role == .leader ? replica.term : 0
        if replica.raft.snapshotBeingInstalled == nil, replica.machine.appliedIndex > 0 {
            checker.membership(
                replica.raft.confState, listed: replica.machine.members, by: member.id)
        }
        if process.confState != replica.raft.confState {
            process.confState = replica.raft.confState
            trace.write(now, "m\(member.id) membership \(process.confState)")
        }
        checker.require(
            replica.machine.appliedIndex <= max(replica.commitIndex, process.commitIndex),
            "member \(member.id) has applied \(replica.machine.appliedIndex), committed is \(replica.commitIndex)")
    }

    private func holds(_ id: NodeID, index: LogIndex, term: Term) -> Bool {
        guard let mirror = member(id)?.mirror, mirror.durableLast >= index else { return false }
        return index <= mirror.snapshotIndex || mirror.term(at: index) == term
    }
}

/// Gives recovery the member's backend and snapshot files.
struct SimulatedRecoveryHost: RecoveryHost {
    let member: SimulatedMember

    func stateReader() throws -> any StateReader { member.backend.state }

    func commit(_ pending: PendingCommit) throws { member.backend.state.apply(pending) }

    func installSnapshot(index: UInt64, term: UInt64) throws -> Bool {
        guard let file = member.snapshots.first(where: { $0.metadata.index == index && $0.metadata.term == term })
        else { return false }
        member.backend.state = file.state
        return true
    }
}
