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
