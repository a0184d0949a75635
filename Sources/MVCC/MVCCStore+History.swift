// Reading the past in revision order: events for watchers that catch up, and the merged scan that
// history and hash share.

import KVCodec

extension MVCCStore {
    /// Visits committed and pending records with revision >= `from`, ascending, until `body` returns
    /// false. The lock is held by the caller.
    func scanRecords(
        from: Revision, _ session: inout ReaderSession,
        _ body: (Revision, _ isTombstone: Bool, UnsafeRawBufferPointer) -> Bool
    ) {
        var next = from
        var goesOn = true
        // What is in memory is there without gaps; a scan that starts inside needs no reader.
        if from.main < records.oldestMain {
            session.open()
            session.reader.scan(from: from) { revision, isTombstone, record in
                goesOn = body(revision, isTombstone, record)
                next = Revision(main: revision.main, sub: revision.sub &+ 1)
                return goesOn
            }
        }
        if goesOn { records.scan(from: next, body) }
    }

    /// Delivers past events in [from, through], ascending and whole revisions only, until about
    /// `maxEvents` events or `maxBytes` bytes. `body` runs without the lock. The lock is given back
    /// between revisions, every `rangeChunkKeys` records.
    ///
    /// `from` may equal the compaction revision: its events are complete, as in etcd.
    ///
    /// - Returns: the first revision that was not delivered; `through + 1` when all were.
    /// - Throws: `.compacted` when `from` is below the compaction revision, or the store was restored
    ///   meanwhile; `.corruptRecord`.
    package func history(
        from: Int64, through: Int64, maxEvents: Int, maxBytes: Int, reader: RecordReader,
        _ body: (EventBatch) -> Void
    ) throws(MVCCError) -> Int64 {
        var read = HistoryRead(
            next: from, through: through, eventsLeft: max(1, maxEvents), bytesLeft: max(1, maxBytes))
        var isFirst = true
        var batches: [EventBatch] = []
        try inChunks(reader) {
            (session: inout ReaderSession) throws(MVCCError) -> ChunkOutcome in
            if isFirst {
                isFirst = false
                let compacted = compactRevision
                if from < compacted { throw .compacted(compactRevision: compacted) }
                read.through = min(through, currentRevision)
            }
            let finished = try read.step(self, &session, &batches)
            return finished ? .finished : .more(pinning: from)
        }
        for batch in batches { body(batch) }
        return read.next
    }
}

/// A catch-up under way.
struct HistoryRead {
    /// First revision not delivered.
    var next: Int64
    var through: Int64
    var eventsLeft: Int
    var bytesLeft: Int

    /// Builds batches of whole revisions; true when range, events or bytes are used up.
    mutating func step(
        _ store: MVCCStore, _ session: inout ReaderSession, _ batches: inout [EventBatch]
    ) throws(MVCCError) -> Bool {
        if next > through { return true }
        var changes: [Change] = []
        var main = next
        var seen = 0
        var failure: Revision?
        var isDone = false
        var isPaused = false
        let chunk = store.configuration.rangeChunkKeys
        func close() {
            if !changes.isEmpty {
                let batch = changes.withUnsafeBufferPointer {
                    EventBatchBuilder.build(revision: main, reason: .unknown, changes: $0)
                }
                eventsLeft &-= changes.count
                bytesLeft &-= batch.bytes.count
                batches.append(batch)
                changes.removeAll(keepingCapacity: true)
            }
            next = main &+ 1
        }
        store.scanRecords(from: Revision(main: next, sub: 0), &session) {
            revision, isTombstone, record in
            if revision.main != main {
                close()
                isDone = revision.main > through || eventsLeft <= 0 || bytesLeft <= 0
                isPaused = !isDone && seen >= chunk
                if isDone || isPaused { return false }
                main = revision.main
            }
            seen &+= 1
            guard let change = Self.change(revision, isTombstone, record, store) else {
                failure = revision
                return false
            }
            changes.append(change)
            return true
        }
        if let failure { throw .corruptRecord(failure) }
        if isPaused { return false }
        if !isDone {
            close()
            next = max(next, through &+ 1)
        } else if eventsLeft > 0 && bytesLeft > 0 {
            next = through &+ 1
        }
        return true
    }

    private static func change(
        _ revision: Revision, _ isTombstone: Bool, _ record: UnsafeRawBufferPointer,
        _ store: MVCCStore
    ) -> Change? {
        guard let view = try? KeyValueView(record) else { return nil }
        var previous: Revision?
        // Below the compaction revision it depends on how far the physical compaction is: say no.
        if revision.main > store.compactRevision, let entry = store.index.find(view.key) {
            previous = MVCCStore.versionBefore(revision.main, entry)
        }
        return Change(
            record: record, key: view.key, isDelete: isTombstone,
            created: !isTombstone && view.createRevision == revision.main, lease: view.lease,
            previous: previous)
    }
}
