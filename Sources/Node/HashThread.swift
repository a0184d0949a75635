// Long reads of the backend that nothing should wait for: the hashes of compactions.

import MVCC
import Replica
import Storage
import Synchronization

/// A thread that hashes, one compaction after the other.
final class HashThread: Sendable {
    private let jobs: Mailbox<Job>
    private let backend: Backend
    private let store: MVCCStore
    private let fatal: FatalHandler
    private let mailbox: Mailbox<ReplicaInput>
    private let thread = Mutex<OwnedThread?>(nil)

    private enum Job: Sendable {
        case hash(Int64)
        case stop
    }

    init(
        backend: Backend, store: MVCCStore, fatal: @escaping FatalHandler,
        mailbox: Mailbox<ReplicaInput>
    ) {
        self.backend = backend
        self.store = store
        self.fatal = fatal
        self.mailbox = mailbox
        // At the bound a hash is left out, which the next compaction makes up for.
        jobs = Mailbox(capacity: 64)
    }

    func start() {
        thread.withLock {
            // Not nice: it holds the store's read lock, and whoever waits for that waits for it.
            $0 = OwnedThread(name: "hash") { [self] in run() }
        }
    }

    func stop() {
        jobs.post(.stop)
        thread.withLock { $0 }?.join()
    }

    func hash(_ compactRevision: Int64) { _ = jobs.offer(.hash(compactRevision)) }

    private func run() {
        var batch: [Job] = []
        while true {
            batch.removeAll(keepingCapacity: true)
            jobs.take(into: &batch, deadline: monotonicNanoseconds() &+ 1_000_000_000)
            for job in batch {
                switch job {
                case .hash(let revision): hashNow(revision)
                case .stop: return
                }
            }
        }
    }

    private func hashNow(_ compactRevision: Int64) {
        // A later compaction may have overtaken this one; its own hash follows.
        guard let reader = try? LMDBRecordReader(backend, fatal: fatal),
            let found = try? store.hash(revision: compactRevision, reader: reader)
        else { return }
        mailbox.post(.compactionHashed(compactRevision: compactRevision, hash: found.hash))
    }
}
