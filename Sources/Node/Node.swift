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

    /// Whether this member is the only one that votes, as of its data.
    package let isSoleVoter: Bool

    private let turns: ReplicaTurns
    private let mailbox: Mailbox<ReplicaInput>
    private let writer: LogWriter
    private let backend: BackendThread
    private let hashes: HashThread
    private let files: SnapshotFiles
    private let fatal: FatalHandler
    private let disk: DirectoryLock
    private let opened: Mutex<OpenedReplica?>
    private let thread = Mutex<OwnedThread?>(nil)

    /// The part that the replica thread takes over when it starts.
    private struct OpenedReplica: @unchecked Sendable {
        // Unchecked: handed from the opening thread to the replica thread, used by one at a time.
        let replica: Replica
        let acquaintances: [Member]
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
            let mailbox = Mailbox<ReplicaInput>(capacity: options.mailboxCapacity)
            let bus = bus
            self.status = status
            self.mailbox = mailbox
            let turns = ReplicaTurns(mailbox: mailbox)
            self.turns = turns
            store = opened.machine.store
            clusterID = opened.clusterID
            memberID = opened.memberID
            tornTail = opened.recovered.tornTail.map { "\($0)" }
            replayedEntries = opened.recovered.replayedEntries
            isSoleVoter = opened.recovered.replica.isSoleVoter
            disk = DirectoryLock(opened.directory)
            files = opened.files
            let slow = options.slowDiskNanoseconds
            writer = LogWriter(
                wal: opened.recovered.wal, queueLength: options.mailboxCapacity,
                slowSyncNanoseconds: slow, status: status, fatal: fatal,
                onPersisted: { sequence in
                    mailbox.post(.persisted(sequence: sequence), wakes: false)
                    turns.help()
                },
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
            hashes = HashThread(
                backend: opened.backend, store: opened.machine.store, fatal: fatal, mailbox: mailbox)
            log = LogFigures(
                syncDurations: writer.syncDurations, commitDurations: backend.commitDurations)
            self.opened = Mutex(
                OpenedReplica(
                    replica: opened.recovered.replica, acquaintances: opened.acquaintances))
        } catch {
            throw NodeStartError(description: "\(error)")
        }
    }

    /// Starts the threads.
    ///
    /// - Parameters:
    ///   - sinks: take the answers, one for each event loop, in order.
    ///   - peers: carries messages to the other members.
    ///   - note: takes what an operator should know of.
    ///   - removed: called when this member has been removed from the cluster for good.
    package func start(
        sinks: [any AnswerSink], peers: any PeerLinks = NoPeers(),
        note: @escaping NoteHandler = { _, _ in }, removed: @escaping @Sendable () -> Void = {}
    ) {
        guard
            let opened = opened.withLock({ opened in
                defer { opened = nil }
                return opened
            })
        else {
            preconditionFailure("a node was started twice")
        }
        if !opened.acquaintances.isEmpty {
            peers.setMembers(opened.acquaintances, removed: [])
        }
        writer.start()
        backend.start()
        hashes.start()
        let thread = OwnedThread(name: "replica") { [self] in
            let parts = ReplicaParts(
                mailbox: mailbox, turns: turns, log: writer, backend: backend, hashes: hashes,
                files: files,
                peers: peers, status: status, bus: bus, sinks: sinks,
                slowApplyNanoseconds: options.slowApplyNanoseconds, note: note, fatal: fatal,
                removed: removed)
            turns.run(ReplicaLoop(replica: opened.replica, parts: parts))
        }
        self.thread.withLock { $0 = thread }
    }

    /// Waits until what the log held is applied and a sole member's reads can be served.
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

    /// Waits until the members know this one's name and client URLs.
    ///
    /// - Returns: false when that took longer than `seconds`.
    package func waitUntilPublished(seconds: Int) -> Bool {
        let deadline = monotonicNanoseconds() &+ UInt64(max(0, seconds)) &* 1_000_000_000
        while !status.isPublished.load(ordering: .acquiring) {
            if monotonicNanoseconds() > deadline { return false }
            usleep(1_000)
        }
        return true
    }

    /// Hands leadership over, refuses what is still waiting, makes everything applied durable, closes
    /// the files.
    package func stop() {
        turns.postReserved(.stop)
        thread.withLock { $0 }?.join()
        hashes.stop()
        backend.stop()
        writer.stop()
        disk.close()
    }

    // MARK: What the transport brings

    /// Messages of an authenticated peer. They have as much room in the mailbox again as the clients'
    /// requests, so that a flood of those costs no heartbeat; beyond it they are dropped, as a network
    /// may.
    package func received(_ messages: [PeerMessage], _ scheduler: (any TurnScheduler)? = nil) {
        let taken = turns.offer(messages, scheduler)
        if taken < messages.count {
            status.droppedMessages.add(UInt64(messages.count - taken), ordering: .relaxed)
        }
    }

    /// A peer can be sent to again.
    package func peerReachable(_ id: NodeID) { mailbox.post(.reachable(id)) }

    /// The connection to a peer failed.
    package func peerUnreachable(_ id: NodeID) { mailbox.post(.unreachable(id)) }

    /// A snapshot is whole and durable in `file`, under the name that recovery looks for. Called on the
    /// transport's event loop, so nothing here touches the disk.
    package func snapshotArrived(_ message: Message, file: String) {
        guard case .snapshot(let metadata) = message.body else { return }
        let expected = files.path(index: metadata.index, term: metadata.term)
        precondition(file == expected, "a snapshot arrived as \(file), expected \(expected)")
        mailbox.post(.snapshotArrived(message))
    }

    /// Where the transport may put files that arrive.
    package var snapshotDirectory: String { files.directory }

    // MARK: Requests. Answers come to the waiter on its event loop.

    /// Does the replica's work if nobody else is at it. Called by an event loop at the end of a round in
    /// which it had asked for a turn (`TurnScheduler`).
    package func runTurns() { turns.help() }

    /// Proposes a command. False when the mailbox is at its bound; the waiter then hears nothing.
    package func propose(
        _ entry: [UInt8], waiter: (any ReplyWaiter)?, _ scheduler: (any TurnScheduler)? = nil
    ) -> Bool {
        // Counted before it is queued, so that the replica never subtracts what was not added.
        let size = UInt64(entry.count)
        let queued = status.queuedBytes.wrappingAdd(size, ordering: .relaxed).newValue
        if queued <= UInt64(options.replica.maxPendingBytes),
            turns.offer(.propose(Proposal(entry: entry, waiter: waiter)), scheduler)
        {
            return true
        }
        status.queuedBytes.subtract(size, ordering: .relaxed)
        return false
    }

    /// Asks when a linearizable read may be served. Not needed while `status.readsNeedNoRound`.
    package func confirmRead(
        _ waiter: any ReplyWaiter, _ scheduler: (any TurnScheduler)? = nil
    ) -> Bool {
        turns.offer(.read(waiter), scheduler)
    }

    package func leaseRenew(
        _ id: Int64, _ waiter: any ReplyWaiter, _ scheduler: (any TurnScheduler)? = nil
    ) -> Bool {
        turns.offer(.leaseRenew(id, waiter), scheduler)
    }

    package func leaseTimeToLive(
        _ id: Int64, withKeys: Bool, _ waiter: any ReplyWaiter
    ) -> Bool {
        mailbox.offer(.leaseTimeToLive(id, withKeys: withKeys, waiter))
    }

    /// The keys of a lease, as of what is applied here.
    package func leaseKeys(
        _ id: Int64, atMost limit: Int, _ waiter: any ReplyWaiter, _ scheduler: (any TurnScheduler)? = nil
    ) -> Bool {
        turns.offer(.leaseKeys(id, atMost: limit, waiter), scheduler)
    }

    package func leases(_ waiter: any ReplyWaiter) -> Bool { mailbox.offer(.leases(waiter)) }
    package func members(_ waiter: any ReplyWaiter) -> Bool { mailbox.offer(.members(waiter)) }
    package func alarms(_ waiter: any ReplyWaiter) -> Bool { mailbox.offer(.alarms(waiter)) }

    /// Changes who belongs to the cluster; answered with the members after the change.
    package func changeMembership(
        _ change: MembershipChange, _ waiter: any ReplyWaiter
    ) -> Bool {
        mailbox.offer(.changeMembership([change], waiter))
    }

    /// Hands leadership to another voter; only the leader does it.
    package func transferLeadership(to target: UInt64, _ waiter: any ReplyWaiter) -> Bool {
        mailbox.offer(.transferLeadership(to: target, waiter))
    }

    /// Answered once everything applied is in the backend.
    package func commitToBackend(_ waiter: any ReplyWaiter) -> Bool {
        mailbox.offer(.commitToBackend(waiter))
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
