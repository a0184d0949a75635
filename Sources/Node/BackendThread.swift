// The one writer of the LMDB backend.
//
// A commit carries the records, the bucket changes, the deletions of a compaction and the applied
// index in one transaction, so after a crash the state on disk is exactly that after some entry.

import Metrics
import MVCC
import Replica
import StateMachine
import Storage
import Synchronization

/// Commits what the replica froze, one at a time.
final class BackendThread: Sendable {
    private enum Job: Sendable {
        case commit(PendingCommit)
        case install(file: String, MVCCConfiguration, @Sendable (InstalledSnapshot) -> Void)
        case perform(@Sendable (Backend) -> Void)
        case stop
    }

    let backend: Backend
    private let jobs = Mailbox<Job>(capacity: 64)
    private let outstanding = Atomic<Int>(0)
    let fatal: FatalHandler
    private let status: NodeStatus
    private let slowNanoseconds: UInt64
    private let onCommitted: @Sendable (PendingCommit) -> Void
    private let onSlow: @Sendable (UInt64) -> Void
    let commitDurations: DurationHistogram
    private let thread = Mutex<OwnedThread?>(nil)

    init(
        backend: Backend, slowNanoseconds: UInt64, status: NodeStatus,
        fatal: @escaping FatalHandler,
        onCommitted: @escaping @Sendable (PendingCommit) -> Void,
        onSlow: @escaping @Sendable (UInt64) -> Void
    ) {
        self.backend = backend
        self.status = status
        self.slowNanoseconds = slowNanoseconds
        self.fatal = fatal
        self.onCommitted = onCommitted
        self.onSlow = onSlow
        commitDurations = DurationHistogram(HistogramBuckets(start: 0.001, factor: 2, count: 14))
        publishSizes()
    }

    func start() {
        thread.withLock { $0 = OwnedThread(name: "backend") { [self] in run() } }
    }

    /// Whether no commit is under way; the replica freezes only then.
    var hasRoom: Bool { outstanding.load(ordering: .acquiring) == 0 }

    /// Queues a commit; the replica only.
    func commit(_ pending: PendingCommit) {
        outstanding.add(1, ordering: .acquiringAndReleasing)
        jobs.post(.commit(pending))
    }

    /// Puts the file of a checked snapshot in the place of the backend's and hands its state out. Queued behind
    /// all commits; the replica makes none until it has taken that state over.
    func install(
        file: String, store: MVCCConfiguration, _ done: @escaping @Sendable (InstalledSnapshot) -> Void
    ) {
        jobs.post(.install(file: file, store, done))
    }

    /// Runs `body` on this thread between commits (hashes, copies). False when too many wait.
    func perform(_ body: @escaping @Sendable (Backend) -> Void) -> Bool {
        jobs.offer(.perform(body))
    }

    /// The same for what must not be left out.
    func performSurely(_ body: @escaping @Sendable (Backend) -> Void) { jobs.post(.perform(body)) }

    /// Waits until everything queued before is done.
    func drain() {
        let signal = Mailbox<Int>(capacity: 1)
        jobs.post(.perform { _ in signal.post(1) })
        var done: [Int] = []
        while done.isEmpty {
            signal.take(into: &done, deadline: monotonicNanoseconds() &+ 1_000_000_000)
        }
    }

    func stop() {
        jobs.post(.stop)
        thread.withLock { $0 }?.join()
    }

    private func run() {
        var batch: [Job] = []
        while true {
            batch.removeAll(keepingCapacity: true)
            jobs.take(into: &batch, deadline: monotonicNanoseconds() &+ 1_000_000_000)
            for job in batch {
                switch job {
                case .commit(let pending):
                    write(pending)
                    // Told first, so that the replica never freezes before it has heard.
                    onCommitted(pending)
                    outstanding.subtract(1, ordering: .acquiringAndReleasing)
                case .install(let file, let store, let done): installNow(file, store, done)
                case .perform(let body): body(backend)
                case .stop: return
                }
            }
        }
    }

    private func write(_ pending: PendingCommit) {
        let start = monotonicNanoseconds()
        do throws(BackendError) {
            try backend.update { transaction throws(BackendError) in
                try Self.apply(pending, to: transaction)
            }
        } catch {
            fatal("\(error)")
        }
        status.compactedRecords.add(UInt64(pending.deletedRevisions.count), ordering: .relaxed)
        let elapsed = monotonicNanoseconds() &- start
        commitDurations.observe(nanoseconds: elapsed)
        // What a reader was still at work on when a snapshot was taken over.
        backend.releaseReplaced()
        if elapsed >= slowNanoseconds { onSlow(elapsed) }
        publishSizes()
    }

    static func apply(
        _ pending: PendingCommit, to transaction: BackendTransaction
    ) throws(BackendError) {
        var failure: BackendError?
        pending.records?.forEach { revision, isTombstone, bytes in
            guard failure == nil else { return }
            let key = RevisionKey(
                main: revision.main, sub: revision.sub, isTombstone: isTombstone)
            do throws(BackendError) {
                try key.withBytes { key throws(BackendError) in
                    try transaction.put(.key, key: key, value: bytes, append: true)
                }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        for revision in pending.deletedRevisions { try delete(revision, from: transaction) }
        for change in pending.changes { try apply(change, to: transaction) }
    }

    private static func delete(
        _ revision: Revision, from transaction: BackendTransaction
    ) throws(BackendError) {
        // A tombstone's key is one byte longer.
        for isTombstone in [false, true] {
            let key = RevisionKey(
                main: revision.main, sub: revision.sub, isTombstone: isTombstone)
            let found = try key.withBytes { key throws(BackendError) in
                try transaction.delete(.key, key: key)
            }
            if found { return }
        }
    }

    private static func apply(
        _ change: BucketChange, to transaction: BackendTransaction
    ) throws(BackendError) {
        var failure: BackendError?
        change.key.withUnsafeBytes { key in
            do throws(BackendError) {
                if let value = change.value {
                    var inner: BackendError?
                    value.withUnsafeBytes { value in
                        do throws(BackendError) {
                            try transaction.put(change.bucket.stored, key: key, value: value)
                        } catch {
                            inner = error
                        }
                    }
                    if let inner { throw inner }
                } else {
                    try transaction.delete(change.bucket.stored, key: key)
                }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }

    func publishSizes() {
        guard let sizes = try? backend.sizes() else { return }
        status.backendBytes.store(sizes.allocatedBytes, ordering: .relaxed)
        status.backendBytesInUse.store(sizes.inUseBytes, ordering: .relaxed)
    }
}

extension StateBucket {
    /// The named database that holds this bucket.
    var stored: BackendBucket {
        switch self {
        case .meta: .meta
        case .lease: .lease
        case .alarm: .alarm
        case .members: .members
        case .membersRemoved: .membersRemoved
        case .cluster: .cluster
        }
    }
}

/// Reads the buckets at start, or of a snapshot that was taken over.
struct BackendStateReader: StateReader, @unchecked Sendable {
    // Unchecked: made by one thread and handed to the one that reads; LMDB ties no reader to a
    // thread (MDB_NOTLS).
    let reader: BackendReader
    let fatal: FatalHandler

    func forEach(
        in bucket: StateBucket, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Void
    ) {
        do throws(BackendError) {
            try reader.scan(bucket.stored) { key, value in
                body(key, value)
                return true
            }
        } catch {
            fatal("\(error)")
        }
    }
}
