// The consistency hash of the key space, equal to etcd's HashKV for the same history: CRC32C over the
// bucket name "key", then of every record its backend key and its bytes (etcd mvcc/hash.go).

import CSupport
import KVCodec

extension MVCCStore {
    /// Hashes what a member must have at `revision` (0: the newest), however far its physical
    /// compaction is: all records after the compaction revision, and of those up to it the ones that
    /// are some key's newest at `revision`.
    ///
    /// - Throws: `.compacted`, `.futureRevision`.
    package func hash(
        revision: Int64, reader: RecordReader
    ) throws(MVCCError) -> (hash: UInt32, compactRevision: Int64, hashRevision: Int64) {
        // Elsewhere a negative revision means the newest; to etcd's hash it is one before every record.
        if revision < 0 {
            let nothing = HashRead(revision: revision, compactRevision: compactRevision)
            return (nothing.hash, nothing.compactRevision, revision)
        }
        var read: HashRead?
        try inChunks(reader) { (session: inout ReaderSession) throws(MVCCError) -> ChunkOutcome in
            if read == nil {
                let target = try readRevision(revision, current: currentRevision)
                read = HashRead(revision: target, compactRevision: compactRevision)
            }
            let finished = read?.step(self, &session) ?? true
            // What a compaction at exactly this revision keeps is all that is needed.
            return finished ? .finished : .more(pinning: read?.compactRevision ?? -1)
        }
        guard let read else { preconditionFailure("a hash that never began") }
        return (read.hash, read.compactRevision, read.revision)
    }
}

/// A hash under way.
struct HashRead {
    private enum Stage { case counting, hashing }

    let revision: Int64
    let compactRevision: Int64
    private(set) var hash: UInt32
    private var stage = Stage.counting
    private var countAfter: [UInt8]?
    /// etcd looks for keys that exist at `revision`; when there is none it hashes every record up to
    /// the compaction revision that compaction has kept. A rule of its own, kept for equal hashes.
    private var hasLiveKeys = false
    private var next = Revision(main: .min, sub: 0)

    init(revision: Int64, compactRevision: Int64) {
        self.revision = revision
        self.compactRevision = compactRevision
        hash = Array("key".utf8).withUnsafeBytes { moonraft_crc32c(0, $0.baseAddress, $0.count) }
    }

    mutating func step(_ store: MVCCStore, _ session: inout ReaderSession) -> Bool {
        let chunk = store.configuration.rangeChunkKeys
        if stage == .counting {
            let all: [UInt8] = [0]
            let paused = all.withUnsafeBytes { everything in
                store.index.walk(
                    UnsafeRawBufferPointer(start: nil, count: 0), everything, after: countAfter,
                    revision: revision, isCurrent: false, maximumEntries: chunk
                ) { _, _ in
                    hasLiveKeys = true
                    return false
                }
            }
            if !hasLiveKeys, let paused {
                countAfter = [UInt8](paused.key)
                return false
            }
            stage = .hashing
        }
        var seen = 0
        var isPaused = false
        store.scanRecords(from: next, &session) { found, isTombstone, record in
            if found.main > revision { return false }
            if seen == chunk {
                next = found
                isPaused = true
                return false
            }
            seen &+= 1
            if isHashed(found, isTombstone, record, store) {
                add(found, isTombstone, record)
            }
            return true
        }
        return !isPaused
    }

    private func isHashed(
        _ found: Revision, _ isTombstone: Bool, _ record: UnsafeRawBufferPointer,
        _ store: MVCCStore
    ) -> Bool {
        if found.main > compactRevision { return true }
        // A tombstone at the compaction revision exists for watchers only.
        guard !isTombstone, let view = try? KeyValueView(record),
            let entry = store.index.find(view.key)
        else { return false }
        let version = entry.version(at: hasLiveKeys ? revision : compactRevision)
        return version?.revision == found
    }

    private mutating func add(
        _ found: Revision, _ isTombstone: Bool, _ record: UnsafeRawBufferPointer
    ) {
        let main = UInt64(bitPattern: found.main)
        let sub = UInt64(bitPattern: found.sub)
        withUnsafeTemporaryAllocation(byteCount: 18, alignment: 1) { key in
            for position in 0..<8 {
                let shift = UInt64(56 - 8 * position)
                key[position] = UInt8(truncatingIfNeeded: main >> shift)
                key[9 + position] = UInt8(truncatingIfNeeded: sub >> shift)
            }
            key[8] = UInt8(ascii: "_")
            key[17] = UInt8(ascii: "t")
            hash = moonraft_crc32c(hash, key.baseAddress, isTombstone ? 18 : 17)
        }
        hash = moonraft_crc32c(hash, record.baseAddress, record.count)
    }
}
