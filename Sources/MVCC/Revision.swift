// Revisions, errors and the small values every part of the store speaks of.

/// One change's place in history: `main` counts transactions, `sub` the changes inside one.
///
/// An empty store is at main revision 1; the first write makes 2 (etcd-parity G2).
package struct Revision: Comparable, Hashable, Sendable {
    package var main: Int64
    package var sub: Int64

    @inlinable package init(main: Int64, sub: Int64) {
        self.main = main
        self.sub = sub
    }

    @inlinable package static func < (left: Revision, right: Revision) -> Bool {
        left.main == right.main ? left.sub < right.sub : left.main < right.main
    }
}

/// Why the store refused a call.
package enum MVCCError: Error, Equatable, Sendable {
    /// The revision lies before the compaction revision, or is being compacted again.
    case compacted(compactRevision: Int64)
    /// The revision has not happened yet.
    case futureRevision(current: Int64)
    /// A stored record cannot be decoded; only `restore` reports it.
    case corruptRecord(Revision)
}

/// What the index knows of a live key without reading its value.
package struct KeyMetadata: Equatable, Sendable {
    package var createRevision: Int64
    package var modRevision: Int64
    package var modSub: Int64
    package var version: Int64
    package var lease: Int64
    /// Bytes of the encoded record.
    package var recordSize: Int

    package init(
        createRevision: Int64, modRevision: Int64, modSub: Int64, version: Int64, lease: Int64,
        recordSize: Int
    ) {
        self.createRevision = createRevision
        self.modRevision = modRevision
        self.modSub = modSub
        self.version = version
        self.lease = lease
        self.recordSize = recordSize
    }

    /// Where the record of this version is found.
    package var revision: Revision { Revision(main: modRevision, sub: modSub) }
}

/// The named bounds of a store.
package struct MVCCConfiguration: Sendable {
    /// Most keys (or records, for history and hash) read under one hold of the read lock.
    package var rangeChunkKeys = 1_000
    /// Most record bytes copied under one hold of the read lock.
    package var rangeChunkBytes = 1 << 20
    /// Long reads that may be under way between two chunks at once. A read that finds no free
    /// place keeps the read lock until it is done: correct, only less polite.
    package var pinnedReaders = 64
    /// First and largest size of a chunk of the record buffer. Larger records get their own.
    package var recordChunkBytes = 16 << 10
    package var maximumRecordChunkBytes = 256 << 10
    /// Memory for records that are committed already but were written lately. 0 keeps none.
    package var recentRecordBytes = 8 << 20
    /// Largest chunk of index memory; a multiple of a huge page where the memory is large.
    package var indexChunkBytes = 2 << 20
    /// Prefixes whose key and byte totals are kept up to date.
    package var declaredPrefixes: [[UInt8]] = []

    package init() {}
}
