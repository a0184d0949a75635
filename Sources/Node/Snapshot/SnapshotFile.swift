// A backup on disk: a copy of the backend's data file, then SHA-256 of it, 32 bytes. That is what
// `etcdctl snapshot save` and `moonctl snapshot save` write from the Snapshot stream. A data file taken
// from a stopped node's data directory is the same without the digest.
//
// Nothing in the file is believed, and LMDB is not asked about it (Storage/Backend/BackendFile.swift).

import CSupport
import Crypto
import Glibc
import KVCodec
import RaftCore
import Replica
import StateMachine
import Storage

/// Why a backup cannot be used; one line with the file, and the place where there is one.
package struct SnapshotError: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}

/// What a sound backup holds.
package struct SnapshotReport: Equatable, Sendable {
    /// CRC32C over all buckets, as `Backend.hash`.
    package var hash: UInt32 = 0
    package var revision: Int64 = 1
    /// Keys that exist at that revision.
    package var totalKeys = 0
    /// Records of bucket `key`, tombstones counted.
    package var records = 0
    /// Bytes of the data file, without the digest.
    package var totalBytes: UInt64 = 0
    package var pages: UInt64 = 0
    package var meta = StoredMeta()
    package var hasDigest = false
}

/// An open backup. Used by one thread.
package final class SnapshotFile {
    package static let digestBytes: UInt64 = 32

    package let path: String
    /// Bytes without the digest.
    package let dataBytes: UInt64
    package let hasDigest: Bool
    private let disk = PosixDisk()
    private let file: DiskFile

    package init(_ path: String) throws(SnapshotError) {
        self.path = path
        // Unlike files of a data directory, a backup may well be named by a link.
        let descriptor = moonraft_open(path, O_RDONLY, 0)
        guard descriptor >= 0 else {
            throw SnapshotError("\(DiskError(.open, path: path, .system(errno)))")
        }
        file = DiskFile(descriptor: descriptor, path: path)
        var failure: DiskError?
        var size: UInt64 = 0
        do throws(DiskError) { size = try disk.size(file) } catch { failure = error }
        // etcd's rule: pages are whole sectors, a digest is what makes the size odd.
        hasDigest = size % 512 == Self.digestBytes
        dataBytes = hasDigest ? size - Self.digestBytes : size
        if let failure { throw SnapshotError("\(failure)") }
    }

    deinit { try? disk.close(file) }

    // MARK: Checks

    /// Compares the data with the digest behind them.
    ///
    /// - Parameter isRequired: a file without one is refused, in etcd's words.
    package func checkDigest(isRequired: Bool = true) throws(SnapshotError) {
        guard hasDigest else {
            if !isRequired { return }
            throw SnapshotError(
                "\(path): snapshot missing hash but --skip-hash-check=false (a file cut short, or a data file "
                    + "that was not made by snapshot save)")
        }
        var hash = SHA256()
        var stored: [UInt8] = []
        try forEachChunk { bytes throws(SnapshotError) in hash.update(bufferPointer: bytes) }
        try read(at: dataBytes, count: Int(Self.digestBytes)) { bytes throws(SnapshotError) in
            stored = [UInt8](bytes)
        }
        let found = Array(hash.finalize())
        guard found == stored else {
            throw SnapshotError(
                "\(path): expected sha256 \(Self.hex(stored)), got \(Self.hex(found)): the file is damaged")
        }
    }

    /// Walks every page and reads every record; throws the first fault with its place. Needs
    /// memory for the set of keys.
    package func inspect() throws(SnapshotError) -> SnapshotReport {
        var inspection = SnapshotInspection()
        do throws(BackendFileFault) {
            let data = try BackendFile(disk: disk, file: file, byteCount: dataBytes)
            try data.walk { bucket, key, value throws(BackendFileFault) in
                try inspection.take(bucket, key, value)
            }
            inspection.report.pages = data.lastPage + 1
            return try inspection.finish(dataBytes: dataBytes, hasDigest: hasDigest)
        } catch {
            throw SnapshotError("\(path): \(error)")
        }
    }

    // MARK: Reading

    /// Writes the data, without the digest, to a new file and makes it durable.
    package func copyData(to target: String) throws(SnapshotError) {
        do throws(DiskError) {
            let output = try disk.open(target, .createNew)
            defer { try? disk.close(output) }
            var failure: DiskError?
            var offset: UInt64 = 0
            do throws(SnapshotError) {
                try forEachChunk { bytes throws(SnapshotError) in
                    do throws(DiskError) {
                        try disk.write(output, at: offset, bytes)
                        offset += UInt64(bytes.count)
                    } catch {
                        failure = error
                        throw SnapshotError("\(error)")
                    }
                }
            } catch {
                throw failure ?? DiskError(.read, path: path, .unexpectedEnd)
            }
            try disk.synchronize(output)
        } catch {
            throw SnapshotError("\(error)")
        }
    }

    private static let chunkBytes: UInt64 = 1 << 20

    private func forEachChunk(
        _ body: (UnsafeRawBufferPointer) throws(SnapshotError) -> Void
    ) throws(SnapshotError) {
        var offset: UInt64 = 0
        while offset < dataBytes {
            let count = min(Self.chunkBytes, dataBytes - offset)
            try read(at: offset, count: Int(count), body)
            offset += count
        }
    }

    private func read(
        at offset: UInt64, count: Int,
        _ body: (UnsafeRawBufferPointer) throws(SnapshotError) -> Void
    ) throws(SnapshotError) {
        var bytes = [UInt8](repeating: 0, count: count)
        do throws(DiskError) {
            let got = try bytes.withUnsafeMutableBufferPointer { buffer throws(DiskError) in
                try disk.read(file, at: offset, into: UnsafeMutableRawBufferPointer(buffer))
            }
            guard got == count else { throw DiskError(.read, path: path, .unexpectedEnd) }
        } catch {
            throw SnapshotError("\(error)")
        }
        try bytes.withUnsafeBufferPointer { buffer throws(SnapshotError) in
            try body(UnsafeRawBufferPointer(buffer))
        }
    }

    private static func hex(_ bytes: [UInt8]) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}
