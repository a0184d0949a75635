// The backend's file as of one commit, read page by page while writing goes on: what is streamed to a member
// that needs a snapshot, without a copy on this disk first.
//
// A read transaction pins the commit: LMDB writes no page again that the commit's trees name. Only the two
// meta pages change, so they are taken down at the beginning and both given out as the commit's own
// (format: BackendFile.swift). Pages that the commit does not name may be caught in the middle of a write;
// nothing leads to them, in the copy as little as here.

import CLMDB

/// A consistent data file. It holds up the reuse of pages until it is released.
package final class BackendSnapshot: ByteSource {
    /// Where a meta page names its transaction, and the last page in use.
    private static let transactionOffset = 16 + 128
    private static let lastPageOffset = 16 + 120

    private let environment: BackendEnvironment
    private let reader: BackendReader
    private let file: DiskFile
    private let maxUsedBytes: UInt64
    /// The first two pages.
    private let metaPages: [UInt8]
    package let byteCount: UInt64

    /// To be called on the writer's thread, between two updates: no meta page changes meanwhile.
    init(
        _ environment: BackendEnvironment, _ configuration: BackendConfiguration
    ) throws(BackendError) {
        self.environment = environment
        reader = try BackendReader(environment)
        try reader.renew()
        var descriptor: mdb_filehandle_t = -1
        try environment.check(mdb_env_get_fd(environment.pointer, &descriptor), "inspect")
        file = DiskFile(descriptor: descriptor, path: environment.path)
        var statistics = MDB_stat()
        try environment.check(mdb_env_stat(environment.pointer, &statistics), "inspect")
        let pageBytes = Int(statistics.ms_psize)
        let pages = try Self.metaPages(file, pageBytes: pageBytes, of: reader.transactionID)
        metaPages = pages
        byteCount = (PageBytes(bytes: pages).u64(Self.lastPageOffset) + 1) * UInt64(pageBytes)
        let map = configuration.mapBytes
        // Commits of the writer come first: they must find room whatever is being read.
        maxUsedBytes = min(
            byteCount &+ (configuration.maxGrowthUnderSnapshot ?? map / 4), map - map / 16)
    }

    private static func metaPages(
        _ file: DiskFile, pageBytes: Int, of transactionID: UInt64
    ) throws(BackendError) -> [UInt8] {
        for page in 0..<2 {
            var bytes = [UInt8](repeating: 0, count: pageBytes)
            let count = try onBackendDisk { () throws(DiskError) in
                try bytes.withUnsafeMutableBufferPointer { buffer throws(DiskError) in
                    try PosixDisk().read(
                        file, at: UInt64(page * pageBytes), into: UnsafeMutableRawBufferPointer(buffer))
                }
            }
            guard count == pageBytes,
                PageBytes(bytes: bytes).u64(transactionOffset) == transactionID
            else { continue }
            var both = bytes + bytes
            // Each page begins with its number.
            for position in 0..<8 {
                both[position] = 0
                both[pageBytes + position] = position == 0 ? 1 : 0
            }
            return both
        }
        throw .corrupt(path: file.path, detail: "no meta page names transaction \(transactionID)")
    }

    /// The value of a key in this snapshot.
    package func get(_ bucket: BackendBucket, key: String) throws(BackendError) -> [UInt8]? {
        let bytes = Array(key.utf8)
        return try bytes.withUnsafeBufferPointer { key throws(BackendError) in
            try reader.get(bucket, key: UnsafeRawBufferPointer(key)).map { [UInt8]($0) }
        }
    }

    package func read(
        at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
    ) throws(DiskError) {
        guard offset <= byteCount, UInt64(buffer.count) <= byteCount - offset else {
            throw DiskError(.read, path: file.path, .unexpectedEnd)
        }
        // A snapshot that is read for too long would fill the map with pages that wait for it.
        guard let used = try? environment.usedBytes(), used <= maxUsedBytes else {
            throw DiskError(.read, path: file.path, .snapshotTooOld)
        }
        var rest = buffer
        var offset = offset
        if offset < UInt64(metaPages.count) {
            let slice = metaPages[Int(offset)...].prefix(rest.count)
            rest.copyBytes(from: slice)
            rest = UnsafeMutableRawBufferPointer(rebasing: rest[slice.count...])
            offset += UInt64(slice.count)
        }
        let count = try PosixDisk().read(file, at: offset, into: rest)
        // Pages at the end that were freed before they were ever written.
        if count < rest.count { _ = rest[count...].initializeMemory(as: UInt8.self, repeating: 0) }
    }
}

extension Backend {
    /// The file as of the last commit. On the writer's thread, between two updates.
    package func snapshot() throws(BackendError) -> BackendSnapshot {
        try BackendSnapshot(environment, configuration)
    }
}
