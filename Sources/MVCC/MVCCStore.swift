// The multi-version store: key index, records in memory, and the revisions between them.
//
// One thread, the replica's, writes; it holds the write lock for one apply batch. Any thread reads
// under the read lock. Nothing here knows of clocks, tasks or disks: committed records come through
// a `RecordReader`, records to commit go out through `freezePending`.

import KVCodec
import Synchronization

/// All keys with all their versions since the last compaction.
///
/// Files: +Reads (any thread), +History, +Hash, +Transaction, +Compaction, +Restore (the replica).
package final class MVCCStore: @unchecked Sendable {
    package let configuration: MVCCConfiguration
    let lock = StoreLock()
    let pins: ReaderPins
    /// Guarded by `lock`.
    var index: KeyIndex
    /// Guarded by `lock`.
    var records: RecordBuffer
    /// Guarded by `lock`.
    var totals: PrefixTotals
    /// Counts restores, so that a chunked read notices that the store became another. Guarded by
    /// `lock`.
    var epoch = 0

    /// Written under the write lock.
    let publishedRevision = Atomic<Int64>(1)
    let publishedCompactRevision = Atomic<Int64>(-1)

    // Only the replica touches what follows.
    var holdsWriteLock = false
    var transaction: TransactionState?
    /// Changes of the open transaction in order; records lie in the record buffer.
    var changes: [Change] = []
    var compaction = CompactionState()

    package init(configuration: MVCCConfiguration = MVCCConfiguration()) {
        self.configuration = configuration
        pins = ReaderPins(count: configuration.pinnedReaders)
        index = KeyIndex(chunkBytes: configuration.indexChunkBytes)
        records = RecordBuffer(configuration)
        totals = PrefixTotals(configuration.declaredPrefixes)
    }

    /// Main revision of the newest committed transaction; 1 for an empty store. Any thread.
    @inline(__always) package var currentRevision: Int64 {
        publishedRevision.load(ordering: .acquiring)
    }

    /// Revision of the last compaction, -1 when there was none (as etcd reports it). Reads at it and
    /// after it are answered. Any thread.
    @inline(__always) package var compactRevision: Int64 {
        publishedCompactRevision.load(ordering: .acquiring)
    }

    /// Holds the write lock for one apply batch. Replica thread only; not nested.
    package func beginBatch() {
        precondition(!holdsWriteLock, "a batch is open already")
        lock.lockForWriting()
        holdsWriteLock = true
    }

    /// Lets readers see what the batch committed.
    package func endBatch() {
        precondition(holdsWriteLock && transaction == nil, "no batch, or a transaction is open")
        holdsWriteLock = false
        lock.unlock()
    }

    /// Runs under the write lock, taking it unless a batch holds it.
    func writing<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
        if holdsWriteLock { return try body() }
        lock.lockForWriting()
        defer { lock.unlock() }
        return try body()
    }

    /// Runs under the read lock. Never call it inside a batch.
    @inline(__always) func reading<R>(_ body: () -> R) -> R {
        lock.lockForReading()
        defer { lock.unlock() }
        return body()
    }

    /// The record at `revision`: from memory, else from the reader. nil: the backend lost it.
    @inline(__always) func record(
        _ revision: Revision, _ session: inout ReaderSession
    ) -> UnsafeRawBufferPointer? {
        if let record = records.find(revision) { return record }
        session.open()
        return session.reader.get(revision)
    }

    /// The revision that a read asking for `asked` is to see.
    ///
    /// - Throws: `.futureRevision`, `.compacted`.
    func readRevision(_ asked: Int64, current: Int64) throws(MVCCError) -> Int64 {
        if asked > current { throw .futureRevision(current: current) }
        let revision = asked <= 0 ? current : asked
        let compacted = compactRevision
        if revision < compacted { throw .compacted(compactRevision: compacted) }
        return revision
    }
}

// MARK: - Records for the backend (the replica)

extension MVCCStore {
    /// Records written since the last freeze, nil when there are none. They stay readable in memory
    /// until `release`. Replica thread, not inside a transaction.
    package func freezePending() -> PendingRecords? {
        precondition(transaction == nil, "freeze inside a transaction")
        return writing { records.freeze() }
    }

    /// The backend has committed `pending`, and read transactions begun from now on see it. Frozen
    /// runs are released in the order they were frozen. Not inside a transaction, which may hold
    /// record bytes.
    package func release(_ pending: PendingRecords) {
        precondition(transaction == nil, "release inside a transaction")
        writing { records.release(pending) }
    }
}

// MARK: - Figures

/// What the store holds, for metrics.
package struct StoreStatistics: Equatable, Sendable {
    /// Live keys and the bytes of their newest records.
    package var keys: Int
    package var recordBytes: Int
    /// Keys that exist in history only.
    package var tombstones: Int
    /// Versions older than each key's newest.
    package var olderVersions: Int
    /// Bytes of records that the backend has not committed.
    package var pendingBytes: Int
    /// Memory of the key index and of the records in memory.
    package var indexMemoryBytes: Int
    package var recordMemoryBytes: Int
}

extension MVCCStore {
    /// Any thread.
    package var keyCount: Int { reading { index.liveCount } }

    /// Any thread.
    package var statistics: StoreStatistics {
        reading {
            StoreStatistics(
                keys: index.liveCount, recordBytes: totals.recordBytes,
                tombstones: index.entryCount - index.liveCount, olderVersions: index.olderCount,
                pendingBytes: records.pendingBytes, indexMemoryBytes: index.memoryBytes,
                recordMemoryBytes: records.memoryBytes)
        }
    }

    /// Live keys and record bytes below a declared prefix; nil for any other. Any thread.
    package func statistics(prefix: [UInt8]) -> (keys: Int, bytes: Int)? {
        reading { totals.total(prefix) }
    }
}
