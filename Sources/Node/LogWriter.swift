// Makes persist batches durable, on the log's own thread or, when nothing else waits, at once on
// the caller's.
//
// Each thread that is woken costs a lone client's put 25–35 µs. Whoever runs the replica's turn and has
// nothing else to do therefore writes by itself. It does so only while the disk is quick: after a slow
// sync batches go to the log thread, so that a stalled disk cannot stop ticks and reads.

import Metrics
import RaftCore
import Replica
import Storage
import Synchronization

/// The write-ahead log behind a queue of ordered batches.
final class LogWriter: Sendable {
    private enum Job: Sendable {
        case persist(PersistBatch)
        case release(LogRelease)
        case stop
    }

    private let jobs: Mailbox<Job>
    private let wal: Mutex<WALBox>
    /// What the log thread has before it or is at: batches, files to give up or to prepare.
    private let outstanding = Atomic<Int>(0)
    /// The duration of the last sync in nanoseconds.
    private let lastSync = Atomic<UInt64>(0)
    private let warning: UInt64
    private let fatal: FatalHandler
    private let onPersisted: @Sendable (UInt64) -> Void
    private let onSlow: @Sendable (UInt64) -> Void
    let syncDurations: DurationHistogram
    private let status: NodeStatus
    private let thread = Mutex<OwnedThread?>(nil)

    /// A sync quicker than this may be waited for by whoever runs the turn.
    private static let quickSyncNanoseconds: UInt64 = 2_000_000

    /// The log; confined by the mutex to one thread at a time.
    private struct WALBox: ~Copyable {
        // Unchecked by the compiler: WAL is a class without locks, only reached under the mutex.
        nonisolated(unsafe) let wal: WAL
    }

    /// - Parameters:
    ///   - onPersisted: called on the log thread with the sequence of a durable batch.
    ///   - onSlow: called with the nanoseconds of a sync over `slowSyncNanoseconds`.
    init(
        wal: WAL, queueLength: Int, slowSyncNanoseconds: UInt64, status: NodeStatus,
        fatal: @escaping FatalHandler, onPersisted: @escaping @Sendable (UInt64) -> Void,
        onSlow: @escaping @Sendable (UInt64) -> Void
    ) {
        jobs = Mailbox(capacity: queueLength)
        // The caller gives the log up: from here on it is reached under the mutex only.
        nonisolated(unsafe) let given = wal
        self.wal = Mutex(WALBox(wal: given))
        self.status = status
        warning = slowSyncNanoseconds
        self.fatal = fatal
        self.onPersisted = onPersisted
        self.onSlow = onSlow
        syncDurations = DurationHistogram(HistogramBuckets(start: 0.001, factor: 2, count: 14))
    }

    /// Starts the log thread.
    func start() {
        thread.withLock { $0 = OwnedThread(name: "wal") { [self] in run() } }
    }

    /// Whether `persistNow` would not have to wait for the log thread or a slow disk.
    var isIdleAndQuick: Bool {
        outstanding.load(ordering: .acquiring) == 0
            && lastSync.load(ordering: .relaxed) < Self.quickSyncNanoseconds
    }

    /// Writes a batch on the calling thread; only when `isIdleAndQuick`.
    func persistNow(_ batch: PersistBatch) {
        write([batch])
    }

    /// Hands a batch to the log thread, which answers through `onPersisted`.
    func persist(_ batch: PersistBatch) {
        outstanding.add(1, ordering: .acquiringAndReleasing)
        jobs.post(.persist(batch))
    }

    /// Gives up what the backend made unnecessary.
    func release(_ release: LogRelease) {
        outstanding.add(1, ordering: .acquiringAndReleasing)
        jobs.post(.release(release))
    }

    /// Writes what is queued, closes the log and ends the thread.
    func stop() {
        jobs.post(.stop)
        thread.withLock { $0 }?.join()
    }

    private func run() {
        var batch: [Job] = []
        var persists: [PersistBatch] = []
        while true {
            batch.removeAll(keepingCapacity: true)
            jobs.take(into: &batch, deadline: monotonicNanoseconds() &+ 1_000_000_000)
            var stopping = false
            for job in batch {
                switch job {
                case .persist(let persist): persists.append(persist)
                case .release(let release):
                    writeAll(&persists)
                    wal.withLock { box in
                        do { try box.wal.release(release) } catch { fatal("\(error)") }
                    }
                    outstanding.subtract(1, ordering: .acquiringAndReleasing)
                case .stop: stopping = true
                }
            }
            writeAll(&persists)
            if stopping {
                wal.withLock { box in
                    do { try box.wal.close() } catch { fatal("close: \(error)") }
                }
                return
            }
            if jobs.isEmpty { prepare() }
        }
    }

    /// One write and one sync for all batches that piled up.
    private func writeAll(_ batches: inout [PersistBatch]) {
        guard let last = batches.last else { return }
        write(batches)
        outstanding.subtract(batches.count, ordering: .acquiringAndReleasing)
        batches.removeAll(keepingCapacity: true)
        onPersisted(last.sequence)
    }

    private func write(_ batches: [PersistBatch]) {
        wal.withLock { box in
            do {
                for batch in batches { try box.wal.append(batch) }
                let start = monotonicNanoseconds()
                let synced = try box.wal.flush()
                status.walBytesWritten.store(
                    box.wal.statistics.bytesWritten, ordering: .relaxed)
                if synced {
                    let elapsed = monotonicNanoseconds() &- start
                    lastSync.store(elapsed, ordering: .relaxed)
                    // One writer at a time: the mutex is held.
                    syncDurations.observe(nanoseconds: elapsed)
                    if elapsed >= warning { onSlow(elapsed) }
                }
            } catch {
                fatal("\(error)")
            }
        }
    }

    private func prepare() {
        outstanding.add(1, ordering: .acquiringAndReleasing)
        defer { outstanding.subtract(1, ordering: .acquiringAndReleasing) }
        wal.withLock { box in
            guard box.wal.needsPreparation else { return }
            do { try box.wal.prepareSegment() } catch { fatal("\(error)") }
        }
    }
}

/// Stops the process with a message; never returns to the caller's work.
package typealias FatalHandler = @Sendable (String) -> Never
