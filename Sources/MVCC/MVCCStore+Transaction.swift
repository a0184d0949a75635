// Writes: the replica, inside beginBatch/endBatch. A transaction is one main revision.

import KVCodec

/// A transaction under way.
struct TransactionState {
    let main: Int64
    var nextSub: Int64 = 0
    var session: ReaderSession
}

extension MVCCStore {
    /// Opens a transaction at `currentRevision + 1`. `reader` serves records that are not in memory;
    /// its read transaction begins only when one is needed.
    package func begin(reader: RecordReader) {
        precondition(holdsWriteLock && transaction == nil, "begin outside a batch or nested")
        transaction = TransactionState(
            main: currentRevision &+ 1, session: ReaderSession(reader))
    }

    /// The newest revision as this transaction sees it: `currentRevision`, and one more once it has
    /// written. This is what etcd puts into the headers of inner replies.
    package var transactionRevision: Int64 {
        guard let transaction else { return currentRevision }
        return transaction.nextSub == 0 ? transaction.main &- 1 : transaction.main
    }

    /// Writes one version of `key`.
    ///
    /// - Returns: the version it replaces, nil when the key did not exist.
    @discardableResult
    package func put(
        key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, lease: Int64
    ) -> KeyMetadata? {
        let revision = nextRevision()
        let (place, found) = index.locate(key)
        var previous: KeyMetadata?
        var change = Change(
            record: key, key: key, isDelete: false, created: true, lease: lease, previous: nil)
        var view = KeyValueView()
        view.key = key
        view.createRevision = revision.main
        view.modRevision = revision.main
        view.version = 1
        view.value = value
        view.lease = lease
        if found {
            let entry = place.leaf.entry(place.position)
            change.previous = Self.versionBefore(revision.main, entry)
            if entry.isLive {
                previous = entry.metadata
                view.createRevision = entry.createMain
                view.version = entry.version &+ 1
            }
        }
        let size = view.encodedSize
        let target = records.append(revision, isTombstone: false, length: size)
        view.encode(to: target)
        change.record = UnsafeRawBufferPointer(start: target, count: size)
        change.key = Self.keySlice(target, key.count)
        change.created = view.createRevision == revision.main
        if found {
            index.replace(
                place, revision: revision, create: view.createRevision, version: view.version,
                lease: lease, recordSize: size)
        } else {
            index.insert(
                key, at: place, revision: revision, create: view.createRevision,
                version: view.version, lease: lease, recordSize: size)
        }
        totals.change(
            change.key, keys: previous == nil ? 1 : 0, bytes: size &- (previous?.recordSize ?? 0))
        changes.append(change)
        return previous
    }

    /// Deletes every key that `key` and `rangeEnd` select, in key order.
    ///
    /// `each` gets the key and the version that goes; it may read records of the transaction but not
    /// write. Key bytes are valid during the call only.
    ///
    /// - Returns: how many keys were deleted.
    @discardableResult
    package func deleteRange(
        key: UnsafeRawBufferPointer, rangeEnd: UnsafeRawBufferPointer,
        _ each: (_ key: UnsafeRawBufferPointer, _ previous: KeyMetadata) -> Void = { _, _ in }
    ) -> Int64 {
        precondition(transaction != nil, "delete outside a transaction")
        var deleted: Int64 = 0
        index.tombstoneRange(key, rangeEnd) { entry in
            let revision = nextRevision()
            let keyBytes = entry.key
            let previous = entry.metadata
            each(keyBytes, previous)
            let size = dataFieldSize(keyBytes.count)
            let target = records.append(revision, isTombstone: true, length: size)
            var cursor = RawCursor(target)
            cursor.data(1, keyBytes)
            changes.append(
                Change(
                    record: UnsafeRawBufferPointer(start: target, count: size),
                    key: Self.keySlice(target, keyBytes.count), isDelete: true, created: false,
                    lease: 0, previous: Self.versionBefore(revision.main, entry)))
            totals.change(keyBytes, keys: -1, bytes: -previous.recordSize)
            deleted &+= 1
            return (revision, size)
        }
        return deleted
    }

    /// A range that sees the transaction's own writes.
    ///
    /// - Throws: `.compacted`, `.futureRevision`, `.corruptRecord`.
    package func range(
        inTransaction query: RangeQuery, into writer: inout ByteWriter
    ) throws(MVCCError) -> RangeResult {
        guard var session = transaction?.session else {
            preconditionFailure("range outside a transaction")
        }
        defer { transaction?.session = session }
        return try wholeRange(
            query, current: transactionRevision, &session, into: &writer)
    }

    /// The newest version of a key, own writes included.
    package func metadata(inTransaction key: UnsafeRawBufferPointer) -> KeyMetadata? {
        precondition(transaction != nil, "metadata outside a transaction")
        return liveMetadata(key)
    }

    /// Visits the live keys of a range in order, own writes included, until `body` returns false.
    package func metadataInRange(
        key: UnsafeRawBufferPointer, rangeEnd: UnsafeRawBufferPointer,
        _ body: (_ key: UnsafeRawBufferPointer, KeyMetadata) -> Bool
    ) {
        precondition(transaction != nil, "metadata outside a transaction")
        visitLive(key, rangeEnd, body)
    }

    /// The record of a version that metadata named; valid until `commit`.
    package func record(of metadata: KeyMetadata) -> UnsafeRawBufferPointer {
        record(inTransaction: metadata.revision)
    }

    /// The record at a revision that metadata named; valid until `commit`.
    package func record(inTransaction revision: Revision) -> UnsafeRawBufferPointer {
        guard let reader = transaction?.session.reader else {
            preconditionFailure("record outside a transaction")
        }
        if let record = records.find(revision) { return record }
        transaction?.session.open()
        guard let record = reader.get(revision) else {
            reader.damaged("the backend lost the record of revision \(revision)")
        }
        return record
    }

    /// Closes the transaction. The revision advances only when something was written; nil otherwise.
    @discardableResult
    package func commit(reason: EventReason) -> EventBatch? {
        guard transaction != nil else { preconditionFailure("commit without begin") }
        let main = transaction?.main ?? 0
        transaction?.session.close()
        transaction = nil
        if changes.isEmpty { return nil }
        publishedRevision.store(main, ordering: .releasing)
        let batch = changes.withUnsafeBufferPointer {
            EventBatchBuilder.build(revision: main, reason: reason, changes: $0)
        }
        // A range delete may have grown the array far beyond what a transaction usually needs.
        changes.removeAll(keepingCapacity: changes.capacity <= Self.keptChanges)
        return batch
    }

    /// Room for changes that is kept from transaction to transaction.
    private static let keptChanges = 1_024

    @inline(__always) private func nextRevision() -> Revision {
        guard let open = transaction else { preconditionFailure("write outside a transaction") }
        transaction?.nextSub = open.nextSub &+ 1
        return Revision(main: open.main, sub: open.nextSub)
    }

    /// The version of the entry that a read at `main - 1` sees; nil when there is none or it is a
    /// tombstone.
    static func versionBefore(_ main: Int64, _ entry: KeyEntry) -> Revision? {
        guard let version = entry.version(at: main &- 1), !version.isTombstone else { return nil }
        return version.revision
    }

    /// The key inside an encoded record.
    @inline(__always) private static func keySlice(
        _ record: UnsafeMutableRawPointer, _ length: Int
    ) -> UnsafeRawBufferPointer {
        if length == 0 { return UnsafeRawBufferPointer(start: record, count: 0) }
        return UnsafeRawBufferPointer(
            start: record + (1 &+ varintSize(UInt64(length))), count: length)
    }
}

/// An open transaction as a `KeyView`, so that compares and reads are written once for transactions
/// and snapshots.
package struct TransactionView: KeyView {
    private let store: MVCCStore

    package init(_ store: MVCCStore) { self.store = store }

    package var revision: Int64 { store.transactionRevision }
    package var compactRevision: Int64 { store.compactRevision }

    package func metadata(of key: UnsafeRawBufferPointer) -> KeyMetadata? {
        store.metadata(inTransaction: key)
    }

    package func metadataInRange(
        key: UnsafeRawBufferPointer, rangeEnd: UnsafeRawBufferPointer,
        _ body: (_ key: UnsafeRawBufferPointer, KeyMetadata) -> Bool
    ) {
        store.metadataInRange(key: key, rangeEnd: rangeEnd, body)
    }

    package mutating func record(at revision: Revision) -> UnsafeRawBufferPointer {
        store.record(inTransaction: revision)
    }

    package mutating func range(
        _ query: RangeQuery, into writer: inout ByteWriter
    ) throws(MVCCError) -> RangeResult {
        try store.range(inTransaction: query, into: &writer)
    }
}
