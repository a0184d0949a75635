// Long reads of the backend that nothing should wait for: hashes of compactions and copies for peers that
// need a snapshot.

import MVCC
import RaftCore
import Replica
import StateMachine
import Storage
import Synchronization

/// A thread that copies and hashes, one thing after the other.
final class CopyThread: Sendable {
    private let jobs: Mailbox<Job>
    private let backend: Backend
    private let store: MVCCStore
    private let files: SnapshotFiles
    private let fatal: FatalHandler
    private let mailbox: Mailbox<ReplicaInput>
    private let thread = Mutex<OwnedThread?>(nil)

    private enum Job: Sendable {
        case hash(Int64)
        case copy([SnapshotRequest], any PeerLinks)
        case stop
    }

    init(
        backend: Backend, store: MVCCStore, files: SnapshotFiles, fatal: @escaping FatalHandler,
        mailbox: Mailbox<ReplicaInput>
    ) {
        self.backend = backend
        self.store = store
        self.files = files
        self.fatal = fatal
        self.mailbox = mailbox
        // At the bound a hash is left out, which the next compaction makes up for, and a copy fails,
        // after which the peer asks again.
        jobs = Mailbox(capacity: 64)
    }

    func start() {
        thread.withLock { $0 = OwnedThread(name: "copy") { [self] in run() } }
    }

    func stop() {
        jobs.post(.stop)
        thread.withLock { $0 }?.join()
    }

    func hash(_ compactRevision: Int64) { _ = jobs.offer(.hash(compactRevision)) }

    func copy(_ requests: [SnapshotRequest], to peers: any PeerLinks) {
        if jobs.offer(.copy(requests, peers)) { return }
        for request in requests { mailbox.post(.snapshotSent(to: request.to, succeeded: false)) }
    }

    private func run() {
        var batch: [Job] = []
        while true {
            batch.removeAll(keepingCapacity: true)
            jobs.take(into: &batch, deadline: monotonicNanoseconds() &+ 1_000_000_000)
            for job in batch {
                switch job {
                case .hash(let revision): hashNow(revision)
                case .copy(let requests, let peers): copyNow(requests, to: peers)
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

    /// One copy for all that ask together.
    private func copyNow(_ requests: [SnapshotRequest], to peers: any PeerLinks) {
        let file = "\(files.directory)/outgoing-\(monotonicNanoseconds())"
        let mailbox = mailbox
        let left = SharedCount(requests.count) { try? PosixDisk().remove(file) }
        do {
            try backend.copy(toFile: file, compacting: false, durable: false)
            let metadata = try SnapshotFiles.metadata(of: try BackendImage(file: file))
            for request in requests {
                var message = request.message
                message.body = .snapshot(metadata)
                peers.sendSnapshot(message, file: file) { succeeded in
                    mailbox.post(.snapshotSent(to: request.to, succeeded: succeeded))
                    left.done()
                }
            }
        } catch {
            try? PosixDisk().remove(file)
            for request in requests { mailbox.post(.snapshotSent(to: request.to, succeeded: false)) }
        }
    }
}

/// Runs something after a number of others have finished.
private final class SharedCount: Sendable {
    private let left: Mutex<Int>
    private let last: @Sendable () -> Void

    init(_ count: Int, _ last: @escaping @Sendable () -> Void) {
        left = Mutex(count)
        self.last = last
    }

    func done() {
        let isLast = left.withLock { left -> Bool in
            left -= 1
            return left == 0
        }
        if isLast { last() }
    }
}
