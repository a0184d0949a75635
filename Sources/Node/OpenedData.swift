// Opening: directory, backend, state machine, log, consensus, in the order that each needs.

import MVCC
import RaftCore
import Replica
import StateMachine
import Storage

/// What a data directory holds, opened and consistent.
struct OpenedData {
    let directory: DataDirectory
    let backend: Backend
    let wal: WAL
    let machine: StateMachine
    let reader: LMDBRecordReader
    let replica: Replica
    let clusterID: UInt64
    let memberID: UInt64
    let tornTail: String?
    let replayedEntries: Int

    init(options: NodeOptions, fatal: @escaping FatalHandler) throws {
        let disk = PosixDisk()
        directory = try DataDirectory(root: options.dataDirectory, disk: disk)
        backend = try Backend(path: directory.database, configuration: options.backend)
        let store = MVCCStore(configuration: options.store)
        reader = try LMDBRecordReader(backend, fatal: fatal)
        machine = StateMachine(store: store, reader: reader, configuration: options.machine)
        let bucketReader = try backend.makeReader()
        try bucketReader.renew()
        try machine.restore(from: BackendStateReader(reader: bucketReader, fatal: fatal))
        bucketReader.reset()
        if machine.appliedIndex == 0 {
            // The founding membership stands at index 1, as if by a snapshot (RaftLog.founding), so
            // that a member that joins later is given it.
            machine.noteApplied(index: RaftLog.founding.snapshotIndex, term: RaftLog.founding.snapshotTerm)
        }

        let members = options.initialMembers.map {
            (name: $0.name, id: Identity.memberID(peerURLs: $0.peerURLs, token: options.clusterToken))
        }
        guard let own = members.first(where: { $0.name == options.name }) else {
            throw NodeStartError(
                description: "couldn't find local name \"\(options.name)\" in the initial cluster")
        }
        var entries: [Entry] = []
        let first = machine.appliedIndex + 1
        if try WAL.exists(disk: disk, directory: directory.wal) {
            let opened = try WAL.open(
                disk: disk, directory: directory.wal, configuration: options.wal,
                replayFrom: first
            ) { step in Self.collect(step, into: &entries) }
            wal = opened.wal
            tornTail = opened.replay.tornTail.map { "\($0)" }
        } else {
            let founding = RaftLog.founding
            guard machine.appliedIndex == founding.snapshotIndex else {
                throw NodeStartError(
                    description: """
                        the backend in "\(directory.database)" has applied entry \
                        \(machine.appliedIndex), but there is no log in "\(directory.wal)"
                        """)
            }
            guard !options.joinsExisting else {
                throw NodeStartError(
                    description: """
                        "\(options.dataDirectory)" holds no data, and joining an existing cluster \
                        (initial-cluster-state existing) is not in this version
                        """)
            }
            let clusterID = Identity.clusterID(memberIDs: members.map(\.id))
            wal = try WAL.create(
                disk: disk, directory: directory.wal, configuration: options.wal,
                metadata: WALMetadata(
                    clusterID: clusterID, memberID: own.id,
                    salt: UInt64.random(in: .min ... .max)),
                base: WALSnapshot(index: founding.snapshotIndex, term: founding.snapshotTerm))
            tornTail = nil
        }
        // Once made, a data directory keeps its ids, whatever the flags say later.
        clusterID = wal.metadata.clusterID
        memberID = wal.metadata.memberID
        replayedEntries = entries.count
        replica = try Self.makeReplica(
            options: options, machine: machine, entries: entries, wal: wal)
    }

    private static func collect(_ step: WALReplayStep, into entries: inout [Entry]) {
        switch step {
        case .entry(let entry):
            entries.append(
                Entry(
                    index: entry.index, term: entry.term,
                    kind: EntryKind(rawValue: entry.kind) ?? .normal, data: [UInt8](entry.payload)))
        case .discard(let from):
            entries.removeAll { $0.index >= from }
        }
    }

    private static func makeReplica(
        options: NodeOptions, machine: StateMachine, entries: [Entry], wal: WAL
    ) throws -> Replica {
        let confState: ConfState
        if machine.confState.isEmpty {
            confState = ConfState(voters: [wal.metadata.memberID])
        } else {
            guard let stored = ConfState(stored: machine.confState) else {
                throw NodeStartError(description: "the backend's membership cannot be read")
            }
            confState = stored
        }
        machine.confState = confState.encoded()
        var configuration = RaftConfiguration(id: wal.metadata.memberID)
        configuration.electionTicks = options.electionTicks
        configuration.preVote = options.preVote
        configuration.maxRetainedEntries = Int(clamping: options.loop.catchUpEntries)
        configuration.maxEntryBytes = min(options.maxEntryBytes, options.wal.maxEntryBytes)
        let log = try RaftLog(
            snapshotIndex: machine.appliedIndex, snapshotTerm: machine.appliedTerm,
            entries: entries)
        let state = wal.hardState
        let raft = try RaftCore(
            configuration: configuration,
            hardState: HardState(term: state.term, vote: state.vote, commit: state.commit),
            confState: confState, log: log, appliedIndex: machine.appliedIndex,
            randomSeed: UInt64.random(in: .min ... .max))
        return Replica(
            raft: raft, machine: machine, confState: confState,
            configuration: ReplicaConfiguration())
    }
}
