/// The file operations that the log and received snapshots need, and nothing more.
///
/// The write-ahead log reaches the medium only through this protocol, so that a test or the
/// simulator can put a disk under it that loses, tears or refuses writes. An implementation must
/// keep these rules:
///
/// - What `synchronize` returned for is on the medium, whatever happens later.
/// - What was written since the last `synchronize` may be there in any subset of its 512-byte
///   sectors.
/// - A name made by `open(.createNew)`, `rename` or `remove` is durable only after
///   `synchronizeDirectory`.
/// - Interrupted and short system calls are finished inside; a call either did all or throws.
///
/// One file is used by one thread at a time.
package protocol Disk: AnyObject {
    /// Makes a directory of mode 0700, or checks an existing one: wider modes are refused.
    func createDirectory(_ path: String) throws(DiskError)

    /// The names in a directory, sorted, without "." and "..".
    func list(_ path: String) throws(DiskError) -> [String]

    /// Opens a file; links are not followed.
    func open(_ path: String, _ mode: DiskOpenMode) throws(DiskError) -> DiskFile

    /// The length of the file in bytes.
    func size(_ file: DiskFile) throws(DiskError) -> UInt64

    /// Fills `buffer` from `offset`. Returns the count read, which is short only at the end of the
    /// file.
    func read(
        _ file: DiskFile, at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
    ) throws(DiskError) -> Int

    /// Writes all of `bytes` at `offset`.
    func write(
        _ file: DiskFile, at offset: UInt64, _ bytes: UnsafeRawBufferPointer
    ) throws(DiskError)

    /// Reserves `size` bytes from the start of the file; what was never written there reads as
    /// zeros.
    func preallocate(_ file: DiskFile, size: UInt64) throws(DiskError)

    /// Makes the file's content and size durable (fdatasync).
    func synchronize(_ file: DiskFile) throws(DiskError)

    /// Makes the names in a directory durable.
    func synchronizeDirectory(_ path: String) throws(DiskError)

    /// Renames within one file system, replacing the target.
    func rename(_ from: String, to: String) throws(DiskError)

    /// Removes a file.
    func remove(_ path: String) throws(DiskError)

    /// Closes the file; the handle is void afterwards, also when this throws.
    func close(_ file: DiskFile) throws(DiskError)

    /// Takes the exclusive lock of a lock file, made when missing. It is held until `close`.
    func lock(_ path: String) throws(DiskError) -> DiskFile
}

extension Disk {
    /// Writes an array; for headers and other small things.
    package func write(
        _ file: DiskFile, at offset: UInt64, _ bytes: [UInt8]
    ) throws(DiskError) {
        try bytes.withUnsafeBufferPointer { buffer throws(DiskError) in
            try write(file, at: offset, UnsafeRawBufferPointer(buffer))
        }
    }
}

/// How `Disk.open` opens a file.
package enum DiskOpenMode: Sendable {
    /// An existing file, for reading.
    case read
    /// An existing file, for reading and writing.
    case readWrite
    /// A file that must not exist yet, mode 0600, for reading and writing.
    case createNew
}

/// A file that a `Disk` has open.
package struct DiskFile: Sendable {
    /// The disk's number for it; a file descriptor on a `PosixDisk`.
    package let descriptor: Int32
    /// Where it was opened; for messages only, since it may have been renamed since.
    package let path: String

    package init(descriptor: Int32, path: String) {
        self.descriptor = descriptor
        self.path = path
    }
}
