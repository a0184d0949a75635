import KVCodec

/// Committed records indexed apart from any store, so that a store with readers can take them over at once.
/// Made by one thread and handed to the one that owns the store; hence unchecked.
package struct StoreContents: @unchecked Sendable {
    fileprivate let index: KeyIndex
    fileprivate private(set) var totals: PrefixTotals
    fileprivate private(set) var newest: Int64 = 1
    fileprivate private(set) var hasLeases = false

    /// Reads all records. Any thread.
    ///
    /// - Throws: `.corruptRecord`.
    package init(
        of reader: RecordReader, configuration: MVCCConfiguration
    ) throws(MVCCError) {
        index = KeyIndex(chunkBytes: configuration.indexChunkBytes)
        totals = PrefixTotals(configuration.declaredPrefixes)
        reader.begin()
        defer { reader.end() }
        var failure: Revision?
        reader.scan(from: Revision(main: .min, sub: 0)) { revision, isTombstone, record in
            guard let view = try? KeyValueView(record), revision.main > 0, revision.sub >= 0,
                isTombstone || (view.version > 0 && view.modRevision == revision.main)
            else {
                failure = revision
                return false
            }
            newest = max(newest, revision.main)
            if view.lease != 0 { hasLeases = true }
            load(revision, isTombstone, view, record.count)
            return true
        }
        if let failure { throw .corruptRecord(failure) }
    }

    private mutating func load(
        _ revision: Revision, _ isTombstone: Bool, _ view: KeyValueView, _ size: Int
    ) {
        let (place, found) = index.locate(view.key)
        let create = isTombstone ? 0 : view.createRevision
        let version = isTombstone ? 0 : view.version
        let lease = isTombstone ? 0 : view.lease
        var keys = isTombstone ? 0 : 1
        var bytes = isTombstone ? 0 : size
        if found {
            let entry = place.leaf.entry(place.position)
            if entry.isLive {
                keys &-= 1
                bytes &-= Int(entry.recordSize)
            }
            index.replace(
                place, revision: revision, create: create, version: version, lease: lease,
                recordSize: size)
        } else {
            index.insert(
                view.key, at: place, revision: revision, create: create, version: version,
                lease: lease, recordSize: size)
        }
        totals.change(view.key, keys: keys, bytes: bytes)
    }
}

extension MVCCStore {
    /// Takes over what was committed, dropping what the store held. Replica thread, outside a
    /// batch.
    ///
    /// - Parameters:
    ///   - contents: belongs to this store afterwards.
    ///   - lastRevision: the current revision that was committed with the records. It may be above
    ///     the newest record, when that was a tombstone and is compacted (etcd 17780).
    ///   - compactRevision: the last compaction whose deletes are complete, -1 for none.
    ///   - scheduledCompactRevision: a compaction that was accepted; when it is above
    ///     `compactRevision` its physical part begins anew.
    ///   - activate: called under the write lock; makes the records what readers of records see.
    ///   - lease: told every live key that has a lease, in key order. Key bytes are valid during the
    ///     call only.
    package func restore(
        _ contents: StoreContents, lastRevision: Int64 = 1, compactRevision finished: Int64 = -1,
        scheduledCompactRevision scheduled: Int64 = -1, activate: () -> Void = {},
        lease attached: (_ key: UnsafeRawBufferPointer, _ lease: Int64) -> Void = { _, _ in }
    ) {
        precondition(transaction == nil, "restore inside a transaction")
        // Given back after the lock: freeing a large index takes a while.
        let old = (index, records)
        writing {
            epoch &+= 1
            activate()
            index = contents.index
            records = RecordBuffer(configuration)
            totals = contents.totals
            let compacted = max(finished, scheduled)
            publishedCompactRevision.store(compacted, ordering: .releasing)
            publishedRevision.store(
                max(contents.newest, lastRevision, compacted), ordering: .releasing)
            compaction = CompactionState()
            compaction.finished = finished
            if scheduled > finished { compaction.target = scheduled }
            if contents.hasLeases { visitLeases(attached) }
        }
        withExtendedLifetime(old) {}
    }

    /// Reads what was committed and takes it over.
    ///
    /// - Throws: `.corruptRecord`; the store is then as before.
    package func restore(
        reader: RecordReader, lastRevision: Int64 = 1, compactRevision: Int64 = -1,
        scheduledCompactRevision: Int64 = -1,
        lease: (_ key: UnsafeRawBufferPointer, _ lease: Int64) -> Void = { _, _ in }
    ) throws(MVCCError) {
        restore(
            try StoreContents(of: reader, configuration: configuration), lastRevision: lastRevision,
            compactRevision: compactRevision, scheduledCompactRevision: scheduledCompactRevision,
            lease: lease)
    }

    private func visitLeases(_ attached: (UnsafeRawBufferPointer, Int64) -> Void) {
        let all: [UInt8] = [0]
        all.withUnsafeBytes { everything in
            visitLive(UnsafeRawBufferPointer(start: nil, count: 0), everything) { key, metadata in
                if metadata.lease != 0 { attached(key, metadata.lease) }
                return true
            }
        }
    }
}
