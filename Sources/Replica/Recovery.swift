// From what is on disk to a replica that is ready to run. The node does this over LMDB and files, the
// simulator over its models of them.
//
// The backend holds the state after some entry, the log holds at least the entries after it. Two
// crashes need more than replay: one before the founding state reached the backend, when the log has
// only its base; and one between a received snapshot's marker in the log and its state in the
// backend, when the file beside them holds that state.

import RaftCore
import StateMachine
import Storage

/// What recovery needs of the host.
package protocol RecoveryHost {
    /// The buckets as last committed.
    func stateReader() throws -> any StateReader
    func commit(_ pending: PendingCommit) throws
    /// Loads the received snapshot that stands there into the backend; false when there is none.
    func installSnapshot(index: UInt64, term: UInt64) throws -> Bool
}

/// Why a member cannot start.
package struct RecoveryError: Error, CustomStringConvertible {
    package let description: String

    package init(description: String) { self.description = description }
}

/// How a member starts.
package struct RecoveryOptions {
    /// What a data directory without a log becomes.
    package enum Beginning {
        /// A founding member; all founders are given the same members.
        case found([Member])
        /// A member that was added to a running cluster and gets its state from there.
        case join
    }

    package var beginning: Beginning
    package var clusterID: UInt64
    /// Used only when there is no log yet; afterwards the log's ids count.
    package var memberID: NodeID
    /// What this member publishes; the id is filled in.
    package var member: Member
    package var walDirectory: String
    package var wal = WALConfiguration()
    package var raft: RaftConfiguration
    package var replica = ReplicaConfiguration()
    /// Different in every run.
    package var salt: UInt64
    package var randomSeed: UInt64
    package var run: UInt64
    package var now: UInt64

    package init(
        beginning: Beginning, clusterID: UInt64, memberID: NodeID, member: Member,
        walDirectory: String, raft: RaftConfiguration, salt: UInt64, randomSeed: UInt64,
        run: UInt64, now: UInt64
    ) {
        self.beginning = beginning
        self.clusterID = clusterID
        self.memberID = memberID
        self.member = member
        self.walDirectory = walDirectory
        self.raft = raft
        self.salt = salt
        self.randomSeed = randomSeed
        self.run = run
        self.now = now
    }
}

/// A replica and its log.
package struct Recovered {
    package let replica: Replica
    package let wal: WAL
    /// Where an unfinished last write was cut.
    package let tornTail: WALPosition?
    package let replayedEntries: Int

    /// Brings a member up from its disk. `machine` is new.
    package init(
        machine: StateMachine, host: some RecoveryHost, disk: any Disk, options: RecoveryOptions
    ) throws {
        try machine.restore(from: try host.stateReader())
        var kept = KeptEntries(options)
        if try WAL.exists(disk: disk, directory: options.walDirectory) {
            let applied = machine.appliedIndex
            let keep = UInt64(max(0, options.raft.maxRetainedEntries))
            let opened = try WAL.open(
                disk: disk, directory: options.walDirectory, configuration: options.wal,
                replayFrom: applied + 1, keepFrom: applied > keep ? applied - keep : 1
            ) { step in kept.take(step, applied: applied) }
            wal = opened.wal
            tornTail = opened.replay.tornTail
            kept.voidMembershipChanges(through: machine.forcedMembershipIndex)
            if wal.snapshot.index > applied {
                try Self.catchUp(machine, with: wal.snapshot, host: host, options: options)
            }
        } else {
            wal = try Self.begin(machine, host: host, disk: disk, options: options)
            tornTail = nil
        }
        replayedEntries = kept.entries.count { $0.index > machine.appliedIndex }
        replica = try Self.makeReplica(machine, wal: wal, kept: kept, options: options)
    }

    /// The log begins at a state that the backend does not have.
    private static func catchUp(
        _ machine: StateMachine, with marker: WALSnapshot, host: some RecoveryHost,
        options: RecoveryOptions
    ) throws {
        let base = RaftLog.founding
        if machine.appliedIndex == 0, marker.index == base.snapshotIndex,
            case .found(let members) = options.beginning
        {
            // With no member named this one would become a cluster of its own.
            guard !members.isEmpty else {
                throw RecoveryError(
                    description: """
                        the log in "\(options.walDirectory)" begins with the founding of a cluster, but the \
                        backend is empty; remove the data folder and add the member anew
                        """)
            }
            return try found(machine, members, host: host)
        }
        guard try host.installSnapshot(index: marker.index, term: marker.term) else {
            throw RecoveryError(
                description: """
                    the log continues the snapshot at entry \(marker.index) of term \(marker.term), but the \
                    backend holds the state at \(machine.appliedIndex) and the snapshot's file is gone
                    """)
        }
        machine.reset()
        try machine.restore(from: try host.stateReader())
        guard machine.appliedIndex == marker.index else {
            throw RecoveryError(
                description: """
                    the snapshot for entry \(marker.index) holds the state at \(machine.appliedIndex)
                    """)
        }
    }

    /// A data directory that never ran. What a start that was cut short left in the backend counts
    /// for nothing.
    private static func begin(
        _ machine: StateMachine, host: some RecoveryHost, disk: any Disk, options: RecoveryOptions
    ) throws -> WAL {
        let base = RaftLog.founding
        guard machine.appliedIndex <= base.snapshotIndex else {
            throw RecoveryError(
                description: """
                    the backend has applied entry \(machine.appliedIndex), but there is no log in \
                    "\(options.walDirectory)"
                    """)
        }
        var start = WALSnapshot()
        switch options.beginning {
        case .found(let members):
            machine.reset()
            try found(machine, members, host: host)
            start = WALSnapshot(index: base.snapshotIndex, term: base.snapshotTerm)
        case .join:
            guard machine.appliedIndex == 0 else {
                throw RecoveryError(
                    description: """
                        the backend holds the founding state of a cluster, so this member cannot join another one
                        """)
            }
        }
        return try WAL.create(
            disk: disk, directory: options.walDirectory, configuration: options.wal,
            metadata: WALMetadata(
                clusterID: options.clusterID, memberID: options.memberID, salt: options.salt),
            base: start)
    }

    /// The founding membership stands at index 1, as if by a snapshot (`RaftLog.founding`), so that
    /// a member that joins later is given it. In the backend before there is a log.
    private static func found(
        _ machine: StateMachine, _ members: [Member], host: some RecoveryHost
    ) throws {
        let base = RaftLog.founding
        machine.found(members: members, index: base.snapshotIndex, term: base.snapshotTerm)
        machine.confState = ConfState(voters: members.map(\.id)).encoded()
        if let pending = machine.freeze() {
            try host.commit(pending)
            if let records = pending.records { machine.store.release(records) }
        }
    }

    private static func makeReplica(
        _ machine: StateMachine, wal: WAL, kept: KeptEntries, options: RecoveryOptions
    ) throws -> Replica {
        let id = wal.metadata.memberID
        let confState: ConfState
        if !machine.confState.isEmpty {
            guard let stored = ConfState(stored: machine.confState) else {
                throw RecoveryError(description: "the backend's membership cannot be read")
            }
            confState = stored
        } else if machine.appliedIndex > 0 {
            guard machine.members.allSatisfy({ $0.id == id }) else {
                throw RecoveryError(description: "the backend does not say who votes")
            }
            // A data directory of one member, from before the membership was kept.
            confState = ConfState(voters: [id])
            machine.confState = confState.encoded()
        } else {
            confState = ConfState()
        }
        var configuration = options.raft
        configuration.id = id
        let state = wal.hardState
        let raft = try RaftCore(
            configuration: configuration,
            hardState: HardState(term: state.term, vote: state.vote, commit: state.commit),
            confState: confState,
            log: try kept.log(
                applied: machine.appliedIndex, term: machine.appliedTerm, of: options.walDirectory),
            appliedIndex: machine.appliedIndex, randomSeed: options.randomSeed)
        var member = options.member
        member.id = id
        return Replica(
            raft: raft, machine: machine, member: member, run: options.run,
            configuration: options.replica, now: options.now)
    }
}

/// Entries read back from the log: all those after the applied one, and some before it for peers that lag.
private struct KeptEntries {
    private(set) var entries: [Entry] = []
    private var appliedBytes = 0
    private let maxAppliedBytes: Int

    init(_ options: RecoveryOptions) { maxAppliedBytes = options.raft.maxRetainedBytes }

    mutating func take(_ step: WALReplayStep, applied: LogIndex) {
        switch step {
        case .entry(let entry):
            entries.append(
                Entry(
                    index: entry.index, term: entry.term,
                    kind: EntryKind(rawValue: entry.kind) ?? .normal, data: [UInt8](entry.payload)))
            if entry.index <= applied { appliedBytes += entry.payload.count }
            while appliedBytes > maxAppliedBytes, let first = entries.first, first.index <= applied {
                appliedBytes -= first.data.count
                entries.removeFirst()
            }
        case .discard(let from):
            while let last = entries.last, last.index >= from {
                if last.index <= applied { appliedBytes -= last.data.count }
                entries.removeLast()
            }
        }
    }

    /// Replaces changes of membership up to `index` by entries without a command. The member was cut
    /// loose from its cluster when its log ended there: what its members had changed counts no more
    /// (Node/ForceNewCluster.swift).
    mutating func voidMembershipChanges(through index: LogIndex) {
        for position in entries.indices
        where entries[position].index <= index && entries[position].kind == .configChange {
            entries[position].kind = .normal
            entries[position].data = []
        }
    }

    /// The log around the applied entry. The oldest kept entry serves as its compaction point.
    func log(applied: LogIndex, term: Term, of directory: String) throws -> RaftLog {
        let ahead = entries.filter { $0.index > applied }
        if let known = entries.last(where: { $0.index <= applied }),
            known.index == applied, known.term == term, let first = entries.first
        {
            return try RaftLog(
                snapshotIndex: first.index, snapshotTerm: first.term,
                entries: Array(entries.dropFirst()))
        }
        if let known = entries.first(where: { $0.index == applied }), known.term != term {
            throw RecoveryError(
                description: """
                    the backend has applied entry \(applied) of term \(term), but the log in \
                    "\(directory)" has that entry in term \(known.term)
                    """)
        }
        return try RaftLog(snapshotIndex: applied, snapshotTerm: term, entries: ahead)
    }
}
