import KVCodec

extension MVCCStore {
    /// Rebuilds the store from committed records, dropping what it held. Replica thread, outside a
    /// batch.
    ///
    /// - Parameters:
    ///   - lastRevision: the current revision that was committed with the records. It may be above
    ///     the newest record, when that was a tombstone and is compacted (etcd 17780).
    ///   - compactRevision: the last compaction whose deletes are complete, -1 for none.
    ///   - scheduledCompactRevision: a compaction that was accepted; when it is above
    ///     `compactRevision` its physical part begins anew.
    ///   - lease: told every live key that has a lease, in key order. Key bytes are valid during the
    ///     call only.
    /// - Throws: `.corruptRecord`.
    package func restore(
        reader: RecordReader, lastRevision: Int64 = 1, compactRevision finished: Int64 = -1,
        scheduledCompactRevision scheduled: Int64 = -1,
        lease attached: (_ key: UnsafeRawBufferPointer, _ lease: Int64) -> Void = { _, _ in }
    ) throws(MVCCError) {
        precondition(transaction == nil, "restore inside a transaction")
        try writing { () throws(MVCCError) in
            epoch &+= 1
            index = KeyIndex(chunkBytes: configuration.indexChunkBytes)
            records = RecordBuffer(configuration)
            totals.clear()
            reader.begin()
            defer { reader.end() }
            var newest: Int64 = 1
            var failure: Revision?
            var hasLeases = false
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
            let compacted = max(finished, scheduled)
            publishedCompactRevision.store(compacted, ordering: .releasing)
            publishedRevision.store(
                max(newest, lastRevision, compacted), ordering: .releasing)
            compaction = CompactionState()
            compaction.finished = finished
            if scheduled > finished { compaction.target = scheduled }
            if hasLeases { visitLeases(attached) }
        }
    }

    private func load(
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
