// Reads from any thread. Each call takes the read lock itself.

import KVCodec

/// What one hold of the read lock led to.
enum ChunkOutcome {
    case finished
    /// There is more to read, at this revision.
    case more(pinning: Int64)
}

extension MVCCStore {
    /// Runs `step` under the read lock again and again until it is finished, giving the lock back in
    /// between while a pin keeps compaction off.
    func inChunks(
        _ reader: RecordReader,
        _ step: (inout ReaderSession) throws(MVCCError) -> ChunkOutcome
    ) throws(MVCCError) {
        var session = ReaderSession(reader)
        var pin: Int?
        lock.lockForReading()
        defer {
            session.close()
            if let pin { pins.unpin(pin) }
            lock.unlock()
        }
        let startEpoch = epoch
        while case .more(let revision) = try step(&session) {
            if pin == nil { pin = pins.pin(revision) }
            // Without a place for a pin the lock is simply kept.
            if pin == nil { continue }
            session.close()
            lock.unlock()
            lock.lockForReading()
            if epoch != startEpoch { throw .compacted(compactRevision: compactRevision) }
        }
    }

    /// Appends the keys that `query` selects to `writer`, each as field 2 of RangeResponse: tag,
    /// length, record. The read sees one revision from start to end although it gives the lock back
    /// every `rangeChunkKeys` keys.
    ///
    /// - Throws: `.compacted`, `.futureRevision`; `.corruptRecord` when the backend lost a record.
    package func range(
        _ query: RangeQuery, reader: RecordReader, into writer: inout ByteWriter
    ) throws(MVCCError) -> RangeResult {
        var read: RangeRead?
        try inChunks(reader) { (session: inout ReaderSession) throws(MVCCError) -> ChunkOutcome in
            let current = currentRevision
            if read == nil {
                let revision = try readRevision(query.revision, current: current)
                read = RangeRead(query, revision: revision, current: current)
            }
            guard let revision = read?.revision,
                let finished = try read?.step(
                    self, current: current, &session, &writer,
                    maximumKeys: configuration.rangeChunkKeys,
                    maximumBytes: configuration.rangeChunkBytes)
            else { return .finished }
            return finished ? .finished : .more(pinning: revision)
        }
        guard let read else { preconditionFailure("a range that never began") }
        return read.result
    }

    /// The newest version of `key`; nil when it does not exist.
    package func metadata(of key: UnsafeRawBufferPointer) -> KeyMetadata? {
        reading { liveMetadata(key) }
    }

    @inline(__always) func liveMetadata(_ key: UnsafeRawBufferPointer) -> KeyMetadata? {
        guard let entry = index.find(key), entry.isLive else { return nil }
        return entry.metadata
    }

    /// Several reads of one state: the read lock is held while `body` runs, so keep it short.
    package func withSnapshot<R, E: Error>(
        reader: RecordReader, _ body: (inout StoreSnapshot) throws(E) -> R
    ) throws(E) -> R {
        lock.lockForReading()
        var snapshot = StoreSnapshot(self, ReaderSession(reader))
        defer {
            snapshot.session.close()
            lock.unlock()
        }
        return try body(&snapshot)
    }

    /// The record before `event` for prev_kv. nil when there was none or when it is compacted: as in
    /// etcd, that is a read at the event's revision - 1.
    package func previousRecord(
        of event: EventRecord, at eventRevision: Int64, reader: RecordReader
    ) -> [UInt8]? {
        guard let previous = event.previous else { return nil }
        return reading {
            if eventRevision &- 1 < compactRevision { return nil }
            var session = ReaderSession(reader)
            defer { session.close() }
            return record(previous, &session).map { [UInt8]($0) }
        }
    }
}

/// One state of the store, held still by the read lock or by an open transaction.
package protocol KeyView {
    /// Main revision of this state, own writes of a transaction included.
    var revision: Int64 { get }
    /// Revision of the last compaction.
    var compactRevision: Int64 { get }
    /// The newest version of a key; nil when it does not exist.
    func metadata(of key: UnsafeRawBufferPointer) -> KeyMetadata?
    /// Visits the live keys of a range in order until `body` returns false. Key bytes are valid
    /// during the call only.
    func metadataInRange(
        key: UnsafeRawBufferPointer, rangeEnd: UnsafeRawBufferPointer,
        _ body: (_ key: UnsafeRawBufferPointer, KeyMetadata) -> Bool)
    /// The record at a revision that `metadata` gave; valid as long as this state.
    mutating func record(at revision: Revision) -> UnsafeRawBufferPointer
    /// As `MVCCStore.range`, of this state and in one piece.
    mutating func range(
        _ query: RangeQuery, into writer: inout ByteWriter
    ) throws(MVCCError) -> RangeResult
}

extension KeyView {
    /// Refuses a revision that a range of a transaction may not ask for; zero is the newest. As etcd's
    /// `checkRange`: a negative one counts as compacted as soon as anything is, although a range of
    /// its own would read the newest.
    ///
    /// - Throws: `.compacted`, `.futureRevision`.
    package func check(revision asked: Int64) throws(MVCCError) {
        if asked == 0 { return }
        if asked > revision { throw .futureRevision(current: revision) }
        if asked < compactRevision { throw .compacted(compactRevision: compactRevision) }
    }
}

/// What `withSnapshot` lends. It must not leave the closure.
package struct StoreSnapshot: KeyView {
    private let store: MVCCStore
    var session: ReaderSession

    init(_ store: MVCCStore, _ session: ReaderSession) {
        self.store = store
        self.session = session
    }

    package var revision: Int64 { store.currentRevision }
    package var compactRevision: Int64 { store.compactRevision }

    package func metadata(of key: UnsafeRawBufferPointer) -> KeyMetadata? {
        store.liveMetadata(key)
    }

    package func metadataInRange(
        key: UnsafeRawBufferPointer, rangeEnd: UnsafeRawBufferPointer,
        _ body: (_ key: UnsafeRawBufferPointer, KeyMetadata) -> Bool
    ) {
        store.visitLive(key, rangeEnd, body)
    }

    package mutating func record(at revision: Revision) -> UnsafeRawBufferPointer {
        guard let record = store.record(revision, &session) else {
            damaged("the backend lost the record of revision \(revision)")
        }
        return record
    }

    package func damaged(_ reason: String) -> Never { session.reader.damaged(reason) }

    package mutating func range(
        _ query: RangeQuery, into writer: inout ByteWriter
    ) throws(MVCCError) -> RangeResult {
        try store.wholeRange(query, current: revision, &session, into: &writer)
    }
}

extension MVCCStore {
    func visitLive(
        _ key: UnsafeRawBufferPointer, _ rangeEnd: UnsafeRawBufferPointer,
        _ body: (_ key: UnsafeRawBufferPointer, KeyMetadata) -> Bool
    ) {
        _ = index.walk(
            key, rangeEnd, after: nil, revision: .max, isCurrent: true, maximumEntries: .max
        ) { entry, _ in
            body(entry.key, entry.metadata)
        }
    }

    /// A range in one piece, the lock being held.
    func wholeRange(
        _ query: RangeQuery, current: Int64, _ session: inout ReaderSession,
        into writer: inout ByteWriter
    ) throws(MVCCError) -> RangeResult {
        let revision = try readRevision(query.revision, current: current)
        var read = RangeRead(query, revision: revision, current: current)
        let finished = try read.step(
            self, current: current, &session, &writer, maximumKeys: .max, maximumBytes: .max)
        precondition(finished, "an unbounded range step did not finish")
        return read.result
    }
}
