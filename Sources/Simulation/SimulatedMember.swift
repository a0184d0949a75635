// One member: what outlives its process (disk, backend, received snapshots), and the process while it runs.
// Data only; Host.swift says what the process does.

import MVCC
import RaftCore
import Replica
import StateMachine
import Storage

/// What the log writer has to do, in order.
enum LogJob {
    case persist(PersistBatch)
    case release(LogRelease)
}

/// What the backend's thread has to do, in order.
enum BackendJob {
    case commit(PendingCommit)
    case copy(SnapshotRequest)
    case install(SnapshotMetadata)
    case hash(compactRevision: Int64)
}

/// A file of a received snapshot, whole and durable.
struct SnapshotFile {
    var metadata: SnapshotMetadata
    var state: BackendState
}

/// The process of a member.
final class MemberProcess {
    let replica: Replica
    let wal: WAL
    /// Reads for clients, apart from the replica's own reader.
    let reader: BackendStateRecordReader
    /// What the monotonic clock of this process shows at the start of the simulation.
    let clockOffset: Nanoseconds

    var mailbox: [ReplicaInput] = []
    var isTurnScheduled = false
    var scheduledWake: Nanoseconds = .max
    var isPaused = false
    /// Members to which the connection broke and is not there again.
    var unreachablePeers: [NodeID] = []
    /// Members whose connections the transport refuses.
    var refusedPeers: [NodeID] = []

    /// Handed out and not durable. `vouchesThrough`: how far the log as it stands is durable once the
    /// batch is; later batches may lower it.
    var logQueue: [(job: LogJob, vouchesThrough: LogIndex)] = []
    /// How many of them are being written; 0 when the log is idle.
    var logJobsUnderWay = 0
    var backendQueue: [BackendJob] = []
    var isBackendBusy = false

    // As last seen by the checker.
    var commitIndex: LogIndex
    var publishedRevision: Int64
    var confState: ConfState
    /// The term it was seen to lead; 0 when it does not lead.
    var leadsTerm: Term = 0

    init(replica: Replica, wal: WAL, reader: BackendStateRecordReader, clockOffset: Nanoseconds) {
        self.replica = replica
        self.wal = wal
        self.reader = reader
        self.clockOffset = clockOffset
        commitIndex = replica.commitIndex
        publishedRevision = replica.machine.store.currentRevision
        confState = replica.raft.confState
    }
}

/// A member of the simulated cluster.
final class SimulatedMember {
    enum Fate {
        case alive
        /// Its disk was damaged and it refused to start.
        case lost
        /// It left the cluster and ended itself.
        case removed
    }

    let id: NodeID
    /// The members it was configured with at its first start; empty for one that joins.
    let founders: [Member]
    let disk = SimulatedDisk()
    let backend = SimulatedBackend()
    var snapshots: [SnapshotFile] = []
    var fate = Fate.alive
    /// Counts starts; events of an earlier process are recognised by it.
    var run = 0
    var process: MemberProcess?
    var mirror = LogMirror(snapshotIndex: 0, snapshotTerm: 0)
    /// A bit of its log was turned over: it may refuse to start.
    var isDamaged = false

    init(id: NodeID, founders: [Member]) {
        self.id = id
        self.founders = founders
    }

    var isRunning: Bool { process != nil }
}

/// Gives a client the answer to one operation; called exactly once, or never when the process ends.
final class OperationWaiter: ReplyWaiter, @unchecked Sendable {
    // Unchecked: one thread runs the simulation.
    let number: UInt64
    var isAnswered = false

    init(number: UInt64) { self.number = number }

    var loopIndex: Int { 0 }

    /// The host of the simulator takes the answers out of the effects itself.
    func replicaAnswered(_ answer: ReplicaAnswer) {}
}
