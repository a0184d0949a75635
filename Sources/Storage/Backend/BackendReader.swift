import CLMDB
import Glibc
import Synchronization

/// A reusable read transaction, for one thread at a time.
///
/// `renew` takes the state of the last commit; until `reset` every read sees that state and every
/// returned pointer stays valid. A reader between `reset` and `renew` costs nothing and pins
/// nothing.
///
/// When a backend's file is replaced, a reader at rest is taken off the old file by the writer's thread,
/// one at work leaves it with its next `reset`. Hence unchecked: `phase` says who may touch the rest.
package final class BackendReader: @unchecked Sendable {
    /// Who may touch the transaction.
    private enum Phase {
        /// Nobody does; the reader's thread and the writer's may take it.
        static let idle: UInt8 = 0
        /// The reader's thread, between `renew` and `reset`.
        static let active: UInt8 = 1
        /// The one that is closing it.
        static let closing: UInt8 = 2
        /// There is none until the next `renew`.
        static let closed: UInt8 = 3
    }

    /// Nil for an environment that is never replaced.
    private let source: BackendEnvironments?
    private let phase: Atomic<UInt8>
    private var environment: BackendEnvironment?
    private var transaction: OpaquePointer?
    /// Cursors kept from scan to scan, by bucket.
    private var cursors: [OpaquePointer?] = []
    /// True between `renew` and `reset`; the reader's thread only.
    package private(set) var isActive = false

    init(_ source: BackendEnvironments) throws(BackendError) {
        self.source = source
        phase = Atomic(Phase.idle)
        try open(source.current)
        source.register(self)
    }

    /// A reader of this environment alone.
    init(_ environment: BackendEnvironment) throws(BackendError) {
        source = nil
        phase = Atomic(Phase.idle)
        try open(environment)
    }

    deinit {
        source?.unregister(self)
        close()
    }

    private func open(_ environment: BackendEnvironment) throws(BackendError) {
        let transaction = try environment.begin(writing: false)
        mdb_txn_reset(transaction)
        self.environment = environment
        self.transaction = transaction
        cursors = Array(repeating: nil, count: BackendBucket.allCases.count)
    }

    private func close() {
        for cursor in cursors {
            if let cursor {
                mdb_cursor_close(cursor)
            }
        }
        cursors = []
        if let transaction { mdb_txn_abort(transaction) }
        transaction = nil
        environment = nil
    }

    /// Takes the state of the last commit, giving up an earlier one.
    package func renew() throws(BackendError) {
        reset()
        take()
        do throws(BackendError) {
            if let source, environment == nil || source.isReplaced(since: environment) {
                close()
                try open(source.current)
            }
            guard let environment, let transaction else {
                preconditionFailure("a reader without a transaction")
            }
            try environment.check(mdb_txn_renew(transaction), "begin reading")
        } catch {
            phase.store(transaction == nil ? Phase.closed : Phase.idle, ordering: .releasing)
            throw error
        }
        isActive = true
    }

    /// From rest to work; waits for the writer's thread to let go, which takes microseconds.
    private func take() {
        while true {
            let (taken, found) = phase.compareExchange(
                expected: Phase.idle, desired: Phase.active, ordering: .acquiringAndReleasing)
            if taken { return }
            if found == Phase.closed,
                phase.compareExchange(
                    expected: Phase.closed, desired: Phase.active, ordering: .acquiringAndReleasing
                ).exchanged
            {
                return
            }
            sched_yield()
        }
    }

    /// Gives the state up; pointers got from this reader are void.
    package func reset() {
        guard isActive else { return }
        isActive = false
        mdb_txn_reset(transaction)
        // From rest on another thread may take the environment away.
        let environment = environment
        phase.store(Phase.idle, ordering: .sequentiallyConsistent)
        // Whoever replaced the file meanwhile has found this reader at work and passed it by.
        if let source, source.isReplaced(since: environment) { leave(source.current) }
    }

    /// Closes the transaction when it is at rest and on another environment. Any thread.
    func leave(_ current: BackendEnvironment) {
        guard
            phase.compareExchange(
                expected: Phase.idle, desired: Phase.closing, ordering: .sequentiallyConsistent
            ).exchanged
        else { return }
        if environment !== current { close() }
        phase.store(transaction == nil ? Phase.closed : Phase.idle, ordering: .releasing)
    }

    /// The value of a key, valid until `reset`; nil when there is none.
    package func get(
        _ bucket: BackendBucket, key: UnsafeRawBufferPointer
    ) throws(BackendError) -> UnsafeRawBufferPointer? {
        let (environment, transaction) = used
        return try environment.get(transaction, bucket, key)
    }

    /// Calls `body` with keys and values from `start` on, in key order, until it returns false or
    /// the bucket ends. The pointers are valid until `reset`.
    package func scan(
        _ bucket: BackendBucket, from start: UnsafeRawBufferPointer? = nil,
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool
    ) throws(BackendError) {
        let (environment, transaction) = used
        var cursor = cursors[bucket.rawValue]
        // Taken out while in use, so that a body that scans the same bucket gets its own.
        cursors[bucket.rawValue] = nil
        let code =
            cursor == nil
            ? mdb_cursor_open(transaction, environment.handles[bucket.rawValue], &cursor)
            : mdb_cursor_renew(transaction, cursor)
        guard code == 0, let cursor else {
            mdb_cursor_close(cursor)
            throw BackendError(code, "read bucket \(bucket.name) of", environment)
        }
        defer {
            if let other = cursors[bucket.rawValue] {
                mdb_cursor_close(other)
            }
            cursors[bucket.rawValue] = cursor
        }
        try environment.scan(cursor, bucket, from: start, body)
    }

    /// The number of the commit that is being read.
    var transactionID: UInt64 { UInt64(mdb_txn_id(used.1)) }

    private var used: (BackendEnvironment, OpaquePointer) {
        guard isActive, let environment, let transaction else {
            preconditionFailure("a reader was used without renew")
        }
        return (environment, transaction)
    }
}

extension BackendEnvironment {
    func get(
        _ transaction: OpaquePointer, _ bucket: BackendBucket, _ key: UnsafeRawBufferPointer
    ) throws(BackendError) -> UnsafeRawBufferPointer? {
        guard key.count >= 1, key.count <= Backend.maxKeyBytes else {
            // Such a key cannot have been stored.
            return nil
        }
        var key = MDB_val(key)
        var value = MDB_val()
        let code = mdb_get(transaction, handles[bucket.rawValue], &key, &value)
        if code == MDB_NOTFOUND {
            return nil
        }
        try check(code, "read bucket \(bucket.name) of")
        return value.bytes
    }

    func scan(
        _ cursor: OpaquePointer, _ bucket: BackendBucket, from start: UnsafeRawBufferPointer?,
        _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Bool
    ) throws(BackendError) {
        var key = MDB_val()
        var value = MDB_val()
        var operation = MDB_FIRST
        if let start, start.count > 0 {
            key = MDB_val(start)
            operation = MDB_SET_RANGE
        }
        while true {
            let code = mdb_cursor_get(cursor, &key, &value, operation)
            if code == MDB_NOTFOUND {
                return
            }
            try check(code, "read bucket \(bucket.name) of")
            guard body(key.bytes, value.bytes) else {
                return
            }
            operation = MDB_NEXT
        }
    }
}
