// A copy of the backend on its way to a client. The copy is a file without a name: whatever becomes of
// this process, nothing is left behind.

import CSupport
import Crypto
import Glibc
import StateMachine
import Storage
import Synchronization

/// Why no copy can be made.
package enum BackendCopyError: Error, Sendable, CustomStringConvertible {
    case backend(BackendError)
    case disk(DiskError)
    /// The disk has `free` bytes where `needed` must remain free for the log.
    case noRoom(free: UInt64, needed: UInt64)

    package var description: String {
        switch self {
        case .backend(let error): "\(error)"
        case .disk(let error): "\(error)"
        case .noRoom(let free, let needed):
            "a copy needs \(needed) free bytes on the disk of the data directory, \(free) are free"
        }
    }
}

/// A consistent copy that is read once from its beginning to its end. Used by one thread.
package final class BackendCopy {
    /// Bytes that a copy leaves free on the disk: a full disk stops the node.
    private static let reserveBytes: UInt64 = 128 << 20

    private static let numbers = Atomic<UInt64>(0)

    /// Length of the copy; the digest comes on top.
    package let byteCount: UInt64
    private let disk = PosixDisk()
    private let file: DiskFile
    private var offset: UInt64 = 0
    private var hash = SHA256()

    /// Copies the backend as of its last commit, while writing goes on.
    ///
    /// - Parameter directory: where there is room for the copy, on the backend's disk.
    package init(
        of backend: Backend, in directory: String
    ) throws(BackendCopyError) {
        let needed: UInt64
        do throws(BackendError) {
            needed = try backend.sizes().inUseBytes + Self.reserveBytes
        } catch {
            throw .backend(error)
        }
        let free = Self.freeBytes(directory)
        guard free >= needed else { throw .noRoom(free: free, needed: needed) }
        let path = "\(directory)/copy-\(Self.numbers.add(1, ordering: .relaxed).newValue)"
        let disk = disk
        do throws(DiskError) {
            // Left by a process that was killed between the next two steps.
            try? disk.remove(path)
            file = try disk.open(path, .createNew)
            try disk.remove(path)
        } catch {
            throw .disk(error)
        }
        var failure: BackendCopyError?
        var size: UInt64 = 0
        do throws(BackendError) {
            try backend.copy(toDescriptor: file.descriptor, compacting: true)
        } catch {
            failure = .backend(error)
        }
        do throws(DiskError) {
            size = try disk.size(file)
        } catch {
            failure = failure ?? .disk(error)
        }
        byteCount = size
        if let failure { throw failure }
    }

    deinit { try? disk.close(file) }

    /// The next at most `limit` bytes; empty at the end.
    package func next(_ limit: Int) throws(BackendCopyError) -> [UInt8] {
        let count = Int(min(UInt64(limit), byteCount - offset))
        var bytes = [UInt8](repeating: 0, count: count)
        do throws(DiskError) {
            let got = try bytes.withUnsafeMutableBufferPointer { buffer throws(DiskError) in
                try disk.read(file, at: offset, into: UnsafeMutableRawBufferPointer(buffer))
            }
            guard got == count else {
                throw DiskError(.read, path: file.path, .unexpectedEnd)
            }
        } catch {
            throw .disk(error)
        }
        offset += UInt64(count)
        hash.update(data: bytes)
        return bytes
    }

    /// SHA-256 of everything that `next` has given.
    package var digest: [UInt8] { Array(hash.finalize()) }

    private static func freeBytes(_ directory: String) -> UInt64 {
        var figures = statvfs()
        guard statvfs(directory, &figures) == 0 else { return .max }
        let (bytes, overflow) = UInt64(figures.f_bavail).multipliedReportingOverflow(
            by: UInt64(figures.f_frsize))
        return overflow ? .max : bytes
    }
}

extension Backend {
    /// The last entry whose effects are committed here; 0 before the first commit.
    package func committedIndex() throws(BackendError) -> UInt64 {
        let reader = try makeReader()
        try reader.renew()
        let meta = try reader.storedMeta()
        return meta?.appliedIndex ?? 0
    }
}

extension BackendReader {
    /// Bucket `meta`, read; nil when a value is not of its form.
    package func storedMeta() throws(BackendError) -> StoredMeta? {
        var meta = StoredMeta()
        var isSound = true
        try scan(.meta) { key, value in
            isSound = meta.read(key, value)
            return isSound
        }
        return isSound ? meta : nil
    }
}

extension BackendTransaction {
    /// Makes a change of a bucket.
    func make(_ change: BucketChange) throws(BackendError) {
        try change.key.withUnsafeBufferPointer { key throws(BackendError) in
            let key = UnsafeRawBufferPointer(key)
            guard let value = change.value else {
                try delete(change.bucket.stored, key: key)
                return
            }
            try value.withUnsafeBufferPointer { value throws(BackendError) in
                try put(change.bucket.stored, key: key, value: UnsafeRawBufferPointer(value))
            }
        }
    }
}
