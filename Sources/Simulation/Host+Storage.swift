// A member's log and backend: what the node does on threads of their own, here jobs that take time and can be cut
// off anywhere.

import MVCC
import RaftCore
import Replica
import StateMachine
import Storage

extension Simulation {
    // MARK: The log

    func handOut(_ batch: PersistBatch, _ member: SimulatedMember, _ process: MemberProcess) {
        trace.note(now, 6, member.id, batch.sequence, UInt64(batch.entries.count))
        if let snapshot = batch.snapshot {
            checker.require(
                checker.isCommitted(index: snapshot.index, term: snapshot.term),
                "member \(member.id) takes a snapshot at \(snapshot.index) over, which is not committed")
        }
        let isWhole = member.mirror.handOut(batch)
        checker.require(isWhole, "member \(member.id) persists a log with a gap: \(batch)")
        checker.handedOut(batch, by: member.id, log: member.mirror)
        let raft = process.replica.raft
        if raft.role == .leader, batch.entries.contains(where: { $0.kind == .configChange && $0.term == raft.term }) {
            checker.require(
                !member.mirror.hasSeveralChanges(after: raft.appliedIndex),
                "leader \(member.id) proposes a membership change while another one is not applied")
        }
        let overwritten = batch.snapshot?.index ?? batch.entries.first.map { $0.index - 1 } ?? .max
        for position in process.logQueue.indices {
            process.logQueue[position].vouchesThrough = min(
                process.logQueue[position].vouchesThrough, overwritten)
        }
        process.logQueue.append((.persist(batch), member.mirror.lastIndex))
    }

    func startLog(_ member: SimulatedMember, _ process: MemberProcess) {
        guard process.logJobsUnderWay == 0, !process.logQueue.isEmpty else { return }
        process.logJobsUnderWay = process.logQueue.count
        let isSlow = !isQuiet && hostRandom.chance(knobs.slowSyncPerMille)
        schedule(
            .logDone(member.id, run: member.run),
            after: hostRandom.within(isSlow ? knobs.slowSyncTime : knobs.syncTime))
    }

    func logDone(_ id: NodeID, _ run: Int) {
        guard let (member, process) = process(id, run) else { return }
        let jobs = Array(process.logQueue.prefix(process.logJobsUnderWay))
        do {
            try write(jobs.map(\.job), process.wal)
            if process.wal.needsPreparation, hostRandom.chance(300) { try process.wal.prepareSegment() }
        } catch {
            // The node stops here, whatever it was.
            trace.write(now, "m\(id) log: \(error)")
            checker.require(member.disk.hasFailed, "member \(id): \(error)")
            return stop(member, losesPower: hostRandom.chance(knobs.powerLossPerMille))
        }
        process.logQueue.removeFirst(jobs.count)
        process.logJobsUnderWay = 0
        var last: UInt64?
        for (job, vouchesThrough) in jobs {
            guard case .persist(let batch) = job else { continue }
            last = batch.sequence
            if let state = batch.hardState {
                member.mirror.durableTerm = state.term
                member.mirror.durableVote = state.vote
            }
            if batch.snapshot != nil || !batch.entries.isEmpty {
                member.mirror.durableLast = max(member.mirror.durableLast, vouchesThrough)
            }
        }
        if let last { post(.persisted(sequence: last), to: member) }
        startLog(member, process)
    }

    /// The log writer's work, as Node/LogWriter.swift does it.
    func write(_ jobs: [LogJob], _ wal: WAL) throws {
        var needsFlush = false
        for job in jobs {
            switch job {
            case .persist(let batch):
                try wal.append(batch)
                needsFlush = true
            case .release(let release):
                if needsFlush { try wal.flush() }
                needsFlush = false
                try wal.release(release)
            }
        }
        if needsFlush { try wal.flush() }
    }

    // MARK: The backend

    func enqueue(_ job: BackendJob, _ member: SimulatedMember, _ process: MemberProcess) {
        process.backendQueue.append(job)
        startBackend(member, process)
    }

    private func startBackend(_ member: SimulatedMember, _ process: MemberProcess) {
        guard !process.isBackendBusy, !process.backendQueue.isEmpty else { return }
        process.isBackendBusy = true
        schedule(.backendDone(member.id, run: member.run), after: hostRandom.within(knobs.commitTime))
    }

    func backendDone(_ id: NodeID, _ run: Int) {
        guard let (member, process) = process(id, run), !process.backendQueue.isEmpty else { return }
        process.isBackendBusy = false
        let job = process.backendQueue.removeFirst()
        switch job {
        case .commit(let pending):
            checker.backendCommits(
                index: pending.appliedIndex, term: pending.appliedTerm, log: member.mirror, by: id)
            member.backend.state.apply(pending)
            post(.backendCommitted(pending), to: member)
        case .copy(let request): sendSnapshot(request, member)
        case .install(let metadata):
            guard let file = member.snapshots.first(where: { $0.metadata == metadata }) else {
                return checker.fail("member \(id) installs a snapshot at \(metadata.index) that never arrived")
            }
            member.backend.state = file.state
            member.snapshots.removeAll { $0.metadata.index < metadata.index }
            // As the node does it: the records are read aside, before the replica hears of it.
            let contents = try? StoreContents(
                of: process.reader, configuration: process.replica.machine.store.configuration)
            post(
                .snapshotInstalled(InstalledSnapshot(state: file.state, contents: contents)), to: member)
        case .hash(let revision):
            let machine = process.replica.machine
            // A later compaction makes this one's hash impossible, and unnecessary.
            if let found = try? machine.store.hash(revision: revision, reader: process.reader),
                found.compactRevision == revision
            {
                post(.compactionHashed(compactRevision: revision, hash: found.hash), to: member)
            }
        }
        startBackend(member, process)
    }
}
