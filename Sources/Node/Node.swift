// The running node: opens what is on disk, starts the threads in order, stops them in reverse.

import Events
import Glibc
import MVCC
import Metrics
import RaftCore
import Replica
import StateMachine
import Storage
import Synchronization

/// Everything a node needs to be opened.
package struct NodeOptions: Sendable {
    package var name = "default"
    package var dataDirectory = ""
    /// Peer URLs of the founding members by name, this one included.
    package var initialMembers: [(name: String, peerURLs: [String])] = []
    package var clientURLs: [String] = []
    package var peers = PeerOptions()
    /// Refuse changes of the membership that would risk the quorum (`strict-reconfig-check`).
    package var strictReconfiguration = true
    /// `initial-cluster-state existing`: a data directory must be there already.
    package var joinsExisting = false
    package var clusterToken = "etcd-cluster"
    package var electionTicks = 10
    package var preVote = true
    package var loop = ReplicaLoopConfiguration()
    package var wal = WALConfiguration()
    package var backend = BackendConfiguration()
    package var store = MVCCConfiguration()
    package var machine = StateMachineConfiguration()
    /// Requests queued for the replica thread (`limits.replica-mailbox`).
    package var mailboxCapacity = 16_384
    /// Longest busy wait of the replica thread in microseconds.
    package var spinMicroseconds = 0
    /// Syncs and commits longer than this are reported, in nanoseconds (`log.slow-disk`).
    package var slowDiskNanoseconds: UInt64 = 1_000_000_000
    package var maxEntryBytes = 16 << 20

    package init() {}

    package var electionTimeoutMilliseconds: UInt64 {
        UInt64(clamping: electionTicks) &* loop.tickMilliseconds
    }
}

/// How a node talks with the other members.
package struct PeerOptions: Sendable {
    /// Where to accept members: host and port.
    package var listen: [(host: String, port: Int)] = []
    /// Peer URLs that others are told.
    package var advertise: [String] = []
    /// Whether a member with other plugins is refused, or only warned about.
    package var refusesOtherPlugins = true
    package var dialTimeoutMilliseconds: UInt64 = 3_000
    /// Messages waiting for one member; the newest are dropped.
    package var queueMessages = 4096
    package var queueBytes = 64 << 20
    /// Without progress for so long a snapshot's transfer is broken off.
    package var snapshotTimeoutMilliseconds: UInt64 = 30_000

    package init() {}
}

/// Why a node could not be opened; the text names file and place where there is one.
package struct NodeStartError: Error, CustomStringConvertible {
    package let description: String
}

/// A node. `open`, then `start`, then `stop`; all other methods may be called from any thread.
package final class Node: Sendable {
    package let store: MVCCStore
    package let status: NodeStatus
    package let bus = EventBus()
    package let clusterID: UInt64
    package let memberID: UInt64
    package let options: NodeOptions
    package let log: LogFigures
    /// Where an unfinished last write was cut from the log when it was opened.
    package let tornTail: String?
    /// Log entries that were replayed at start.
    package let replayedEntries: Int

    private let mailbox: Mailbox<ReplicaInput>
    private let writer: LogWriter
    private let backend: BackendThread
    private let fatal: FatalHandler
    private let disk: DirectoryLock
    private let opened: Mutex<OpenedParts?>
    private let thread = Mutex<OwnedThread?>(nil)

    /// The parts that the replica thread takes over when it starts.
    private struct OpenedParts: @unchecked Sendable {
        // Unchecked: handed from the opening thread to the replica thread, used by one at a time.
        let replica: Replica
        let reader: LMDBRecordReader
    }

    /// Histograms and counters of the disk threads, for exposition.
    package struct LogFigures: Sendable {
        package let syncDurations: DurationHistogram
        package let commitDurations: DurationHistogram
    }

    /// Opens the data directory, replays the log, and leaves the node ready to start.
    ///
    /// - Parameter fatal: ends the process with a message; used for everything after opening that
    ///   leaves no safe way on (a failed sync, a damaged backend).
    package init(options: NodeOptions, fatal: @escaping FatalHandler) throws(NodeStartError) {
        self.options = options
        self.fatal = fatal
        do {
            let opened = try OpenedData(options: options, fatal: fatal)
            let status = NodeStatus()
            let mailbox = Mailbox<ReplicaInput>(
                capacity: options.mailboxCapacity, spinMicroseconds: options.spinMicroseconds)
            let bus = bus
            self.status = status
            self.mailbox = mailbox
            store = opened.machine.store
            clusterID = opened.clusterID
            memberID = opened.memberID
            tornTail = opened.tornTail
            replayedEntries = opened.replayedEntries
            disk = DirectoryLock(opened.directory)
            let slow = options.slowDiskNanoseconds
            writer = LogWriter(
                wal: opened.wal, queueLength: options.mailboxCapacity, slowSyncNanoseconds: slow,
                status: status, fatal: fatal,
                onPersisted: { mailbox.post(.persisted(sequence: $0)) },
                onSlow: { nanoseconds in
                    bus.publish([
                        .slowDisk(operation: .walSync, microseconds: nanoseconds / 1000)
                    ])
                })
            backend = BackendThread(
                backend: opened.backend, slowNanoseconds: slow, status: status, fatal: fatal,
                onCommitted: { mailbox.post(.backendCommitted($0)) },
                onSlow: { nanoseconds in
                    bus.publish([
                        .slowDisk(operation: .backendCommit, microseconds: nanoseconds / 1000)
                    ])
                })
            log = LogFigures(
                syncDurations: writer.syncDurations, commitDurations: backend.commitDurations)
            self.opened = Mutex(
                OpenedParts(replica: opened.replica, reader: opened.reader))
        } catch {
            throw NodeStartError(description: "\(error)")
        }
    }

    /// Starts the threads. `sinks` take the answers, one for each event loop, in order.
    package func start(sinks: [any AnswerSink]) {
        guard let parts = opened.withLock({ parts in
            defer { parts = nil }
            return parts
        }) else {
            preconditionFailure("a node was started twice")
        }
        writer.start()
        backend.start()
        let thread = OwnedThread(name: "replica") { [self] in
            let loop = ReplicaLoop(
                replica: parts.replica, reader: parts.reader, configuration: options.loop,
                member: ownMember, mailbox: mailbox, log: writer, backend: backend,
                status: status, bus: bus, sinks: sinks)
            loop.run()
        }
        self.thread.withLock { $0 = thread }
    }

    /// Waits until what the log held is applied and reads can be served.
    ///
    /// - Returns: false when that took longer than `seconds`.
    package func waitUntilReady(seconds: Int) -> Bool {
        let deadline = monotonicNanoseconds() &+ UInt64(max(0, seconds)) &* 1_000_000_000
        while !status.readsNeedNoRound.load(ordering: .acquiring) {
            if monotonicNanoseconds() > deadline { return false }
            usleep(1_000)
        }
        return true
    }

    private var ownMember: Member {
        let peerURLs = options.initialMembers.first { $0.name == options.name }?.peerURLs ?? []
        return Member(
            id: memberID, name: options.name, peerURLs: peerURLs,
            clientURLs: options.clientURLs, isLearner: false)
    }

    /// Refuses what is still waiting, makes everything applied durable, closes the files.
    package func stop() {
        mailbox.post(.stop)
        thread.withLock { $0 }?.join()
        backend.stop()
        writer.stop()
        disk.close()
    }

    // MARK: Requests. Answers come to the waiter on its event loop.

    /// Proposes a command. False when the mailbox is at its bound; the waiter then hears nothing.
    package func propose(_ entry: [UInt8], waiter: (any ReplyWaiter)?) -> Bool {
        // Counted before it is queued, so that the replica never subtracts what was not added.
        let size = UInt64(entry.count)
        let queued = status.queuedBytes.wrappingAdd(size, ordering: .relaxed).newValue
        if queued <= UInt64(options.loop.maxPendingBytes),
            mailbox.offer(.propose(Proposal(entry: entry, waiter: waiter)))
        {
            return true
        }
        status.queuedBytes.subtract(size, ordering: .relaxed)
        return false
    }

    /// Asks when a linearizable read may be served. Not needed while `status.readsNeedNoRound`.
    package func confirmRead(_ waiter: any ReplyWaiter) -> Bool { mailbox.offer(.read(waiter)) }

    package func leaseRenew(_ id: Int64, _ waiter: any ReplyWaiter) -> Bool {
        mailbox.offer(.leaseRenew(id, waiter))
    }

    package func leaseTimeToLive(
        _ id: Int64, withKeys: Bool, _ waiter: any ReplyWaiter
    ) -> Bool {
        mailbox.offer(.leaseTimeToLive(id, withKeys: withKeys, waiter))
    }

    package func leases(_ waiter: any ReplyWaiter) -> Bool { mailbox.offer(.leases(waiter)) }
    package func members(_ waiter: any ReplyWaiter) -> Bool { mailbox.offer(.members(waiter)) }
    package func alarms(_ waiter: any ReplyWaiter) -> Bool { mailbox.offer(.alarms(waiter)) }

    /// Changes who belongs to the cluster; answered with the members after the change.
    package func changeMembership(
        _ change: MembershipChange, _ waiter: any ReplyWaiter
    ) -> Bool {
        mailbox.offer(.changeMembership(change, waiter))
    }

    /// Hands leadership to another voter; only the leader does it.
    package func transferLeadership(to target: UInt64, _ waiter: any ReplyWaiter) -> Bool {
        mailbox.offer(.transferLeadership(to: target, waiter))
    }

    /// A reader of committed records for one thread.
    package func makeReader() throws(BackendError) -> LMDBRecordReader {
        try LMDBRecordReader(backend.backend, fatal: fatal)
    }

    /// Runs work on the backend between two commits, on its thread. False when too much waits.
    package func onBackend(_ body: @escaping @Sendable (Backend) -> Void) -> Bool {
        backend.perform(body)
    }
}

/// The lock on the data directory, held while the node lives.
private final class DirectoryLock: @unchecked Sendable {
    // Unchecked: only closed, by `Node.stop`, after all threads have ended.
    private let directory: DataDirectory

    init(_ directory: DataDirectory) { self.directory = directory }

    func close() { try? directory.close() }
}
