import CLMDB

/// A write transaction, valid inside the `Backend.update` call that gave it, on that thread.
package final class BackendTransaction {
    private let environment: BackendEnvironment
    private var transaction: OpaquePointer?
    /// Cursors that stand at the end of buckets appended to, by bucket; they spare the descent from
    /// the root.
    private var appenders: [OpaquePointer?]

    init(_ environment: BackendEnvironment, _ transaction: OpaquePointer) {
        self.environment = environment
        self.transaction = transaction
        appenders = Array(repeating: nil, count: BackendBucket.allCases.count)
    }

    /// Stores a value. With `append` the key must be above all keys of the bucket, which is cheaper
    /// and packs pages full; otherwise an existing value is replaced. Throws `.outOfOrder`,
    /// `.keySize`, `.mapFull`, `.transactionFull`; after any of them the body must throw, so that
    /// the transaction is dropped.
    package func put(
        _ bucket: BackendBucket, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer,
        append: Bool = false
    ) throws(BackendError) {
        try check(key)
        var key = MDB_val(key)
        var value = MDB_val(value)
        let code: Int32
        if append {
            code = mdb_cursor_put(try appender(bucket), &key, &value, UInt32(MDB_APPEND))
            if code == MDB_KEYEXIST {
                throw .outOfOrder(bucket: bucket)
            }
        } else {
            code = mdb_put(pointer, handle(bucket), &key, &value, 0)
        }
        try environment.check(code, "write bucket \(bucket.name) of")
    }

    /// Removes a key. Returns false when it was not there.
    @discardableResult
    package func delete(
        _ bucket: BackendBucket, key: UnsafeRawBufferPointer
    ) throws(BackendError) -> Bool {
        try check(key)
        var key = MDB_val(key)
        let code = mdb_del(pointer, handle(bucket), &key, nil)
        if code == MDB_NOTFOUND {
            return false
        }
        try environment.check(code, "write bucket \(bucket.name) of")
        return true
    }

    /// Removes all keys of a bucket.
    package func clear(_ bucket: BackendBucket) throws(BackendError) {
        if let cursor = appenders[bucket.rawValue] {
            mdb_cursor_close(cursor)
            appenders[bucket.rawValue] = nil
        }
        try environment.check(
            mdb_drop(pointer, handle(bucket), 0), "clear bucket \(bucket.name) of")
    }

    /// The value as this transaction sees it; valid until its next change.
    package func get(
        _ bucket: BackendBucket, key: UnsafeRawBufferPointer
    ) throws(BackendError) -> UnsafeRawBufferPointer? {
        try environment.get(pointer, bucket, key)
    }

    /// Calls `body` with keys and values from `start` on, in key order, until it returns false or
    /// the bucket ends. The body must not change the bucket.
    package func scan(
        _ bucket: BackendBucket, from start: UnsafeRawBufferPointer? = nil,
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool
    ) throws(BackendError) {
        var cursor: OpaquePointer?
        try environment.check(
            mdb_cursor_open(pointer, handle(bucket), &cursor), "read bucket \(bucket.name) of")
        guard let cursor else {
            preconditionFailure("LMDB opened a cursor without giving it")
        }
        defer { mdb_cursor_close(cursor) }
        try environment.scan(cursor, bucket, from: start, body)
    }

    // MARK: - The end

    func commit() throws(BackendError) {
        let ended = end()
        try environment.check(mdb_txn_commit(ended), "commit to")
    }

    func abort() {
        mdb_txn_abort(end())
    }

    private func end() -> OpaquePointer {
        for cursor in appenders {
            if let cursor {
                mdb_cursor_close(cursor)
            }
        }
        appenders = []
        let ended = pointer
        transaction = nil
        return ended
    }

    // MARK: - Small parts

    private var pointer: OpaquePointer {
        guard let transaction else {
            preconditionFailure("a write transaction was used after its update returned")
        }
        return transaction
    }

    private func handle(_ bucket: BackendBucket) -> MDB_dbi {
        environment.handles[bucket.rawValue]
    }

    private func check(_ key: UnsafeRawBufferPointer) throws(BackendError) {
        guard key.count >= 1, key.count <= Backend.maxKeyBytes else {
            throw .keySize(bytes: key.count)
        }
    }

    private func appender(_ bucket: BackendBucket) throws(BackendError) -> OpaquePointer {
        let transaction = pointer
        if let cursor = appenders[bucket.rawValue] {
            return cursor
        }
        var cursor: OpaquePointer?
        try environment.check(
            mdb_cursor_open(transaction, handle(bucket), &cursor),
            "write bucket \(bucket.name) of")
        guard let cursor else {
            preconditionFailure("LMDB opened a cursor without giving it")
        }
        appenders[bucket.rawValue] = cursor
        return cursor
    }
}

extension Backend {
    /// LMDB's bound on keys, as Debian builds it.
    package static let maxKeyBytes = 511
}
