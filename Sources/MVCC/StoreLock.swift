// The store's one lock: many readers or one writer, writers first, so that a stream of reads never
// holds up the replica.

import Glibc

/// A pthread reader-writer lock that prefers writers. Not recursive.
final class StoreLock: @unchecked Sendable {
    private let handle: UnsafeMutablePointer<pthread_rwlock_t>

    init() {
        handle = .allocate(capacity: 1)
        var attributes = pthread_rwlockattr_t()
        var status = pthread_rwlockattr_init(&attributes)
        precondition(status == 0, "pthread_rwlockattr_init: \(status)")
        status = pthread_rwlockattr_setkind_np(
            &attributes, Int32(PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP))
        precondition(status == 0, "pthread_rwlockattr_setkind_np: \(status)")
        status = pthread_rwlock_init(handle, &attributes)
        precondition(status == 0, "pthread_rwlock_init: \(status)")
        pthread_rwlockattr_destroy(&attributes)
    }

    deinit {
        pthread_rwlock_destroy(handle)
        handle.deallocate()
    }

    @inline(__always) func lockForReading() {
        let status = pthread_rwlock_rdlock(handle)
        precondition(status == 0, "pthread_rwlock_rdlock: \(status)")
    }

    @inline(__always) func lockForWriting() {
        let status = pthread_rwlock_wrlock(handle)
        precondition(status == 0, "pthread_rwlock_wrlock: \(status)")
    }

    @inline(__always) func unlock() {
        let status = pthread_rwlock_unlock(handle)
        precondition(status == 0, "pthread_rwlock_unlock: \(status)")
    }
}
