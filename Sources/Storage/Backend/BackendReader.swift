import CLMDB

/// A reusable read transaction, for one thread at a time.
///
/// `renew` takes the state of the last commit; until `reset` every read sees that state and every
/// returned pointer stays valid. A reader between `reset` and `renew` costs nothing and pins
/// nothing.
package final class BackendReader {
    private let environment: BackendEnvironment
    private let transaction: OpaquePointer
    /// Cursors kept from scan to scan, by bucket.
    private var cursors: [OpaquePointer?]
    /// True between `renew` and `reset`.
    package private(set) var isActive = false

    init(_ environment: BackendEnvironment) throws(BackendError) {
        self.environment = environment
        transaction = try environment.begin(writing: false)
        cursors = Array(repeating: nil, count: BackendBucket.allCases.count)
        mdb_txn_reset(transaction)
    }

    deinit {
        for cursor in cursors {
            if let cursor {
                mdb_cursor_close(cursor)
            }
        }
        mdb_txn_abort(transaction)
    }

    /// Takes the state of the last commit, giving up an earlier one.
    package func renew() throws(BackendError) {
        reset()
        try environment.check(mdb_txn_renew(transaction), "begin reading")
        isActive = true
    }

    /// Gives the state up; pointers got from this reader are void.
    package func reset() {
        if isActive {
            mdb_txn_reset(transaction)
            isActive = false
        }
    }

    /// The value of a key, valid until `reset`; nil when there is none.
    package func get(
        _ bucket: BackendBucket, key: UnsafeRawBufferPointer
    ) throws(BackendError) -> UnsafeRawBufferPointer? {
        precondition(isActive, "a reader was used without renew")
        return try environment.get(transaction, bucket, key)
    }

    /// Calls `body` with keys and values from `start` on, in key order, until it returns false or
    /// the bucket ends. The pointers are valid until `reset`.
    package func scan(
        _ bucket: BackendBucket, from start: UnsafeRawBufferPointer? = nil,
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool
    ) throws(BackendError) {
        precondition(isActive, "a reader was used without renew")
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
