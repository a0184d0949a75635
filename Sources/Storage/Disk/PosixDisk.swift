import CSupport
import Glibc

/// The operating system's files. It keeps no state, so one instance serves all threads.
package final class PosixDisk: Disk, Sendable {
    package init() {}

    package func createDirectory(_ path: String) throws(DiskError) {
        if mkdir(path, 0o700) == 0 {
            return
        }
        guard errno == EEXIST else {
            throw DiskError(.createDirectory, path: path, .system(errno))
        }
        var status = stat()
        guard stat(path, &status) == 0 else {
            throw DiskError(.status, path: path, .system(errno))
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw DiskError(.createDirectory, path: path, .notADirectory)
        }
        let permissions = UInt32(status.st_mode & 0o777)
        guard permissions & 0o077 == 0 else {
            throw DiskError(.createDirectory, path: path, .permissions(permissions))
        }
    }

    package func list(_ path: String) throws(DiskError) -> [String] {
        guard let directory = opendir(path) else {
            throw DiskError(.list, path: path, .system(errno))
        }
        defer { closedir(directory) }
        var names: [String] = []
        while true {
            errno = 0
            guard let entry = readdir(directory) else {
                guard errno == 0 else {
                    throw DiskError(.list, path: path, .system(errno))
                }
                break
            }
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != "." && name != ".." {
                names.append(name)
            }
        }
        return names.sorted()
    }

    package func open(_ path: String, _ mode: DiskOpenMode) throws(DiskError) -> DiskFile {
        let flags: Int32
        switch mode {
        case .read: flags = O_RDONLY | O_NOFOLLOW
        case .readWrite: flags = O_RDWR | O_NOFOLLOW
        case .createNew: flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW
        }
        let descriptor = moonraft_open(path, flags, 0o600)
        guard descriptor >= 0 else {
            throw DiskError(.open, path: path, .system(errno))
        }
        return DiskFile(descriptor: descriptor, path: path)
    }

    package func size(_ file: DiskFile) throws(DiskError) -> UInt64 {
        var status = stat()
        guard fstat(file.descriptor, &status) == 0 else {
            throw DiskError(.status, path: file.path, .system(errno))
        }
        return UInt64(max(0, status.st_size))
    }

    package func read(
        _ file: DiskFile, at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
    ) throws(DiskError) -> Int {
        guard let base = buffer.baseAddress else {
            return 0
        }
        var done = 0
        while done < buffer.count {
            let position = try Self.position(offset, done, .read, file)
            let count = pread(file.descriptor, base + done, buffer.count - done, position)
            if count > 0 {
                done += count
            } else if count == 0 {
                break
            } else if errno != EINTR {
                throw DiskError(.read, path: file.path, .system(errno))
            }
        }
        return done
    }

    package func write(
        _ file: DiskFile, at offset: UInt64, _ bytes: UnsafeRawBufferPointer
    ) throws(DiskError) {
        guard let base = bytes.baseAddress else {
            return
        }
        var done = 0
        while done < bytes.count {
            let position = try Self.position(offset, done, .write, file)
            let count = pwrite(file.descriptor, base + done, bytes.count - done, position)
            if count > 0 {
                done += count
            } else if count == 0 {
                // No progress and no reason given: treat it as a full medium rather than spin.
                throw DiskError(.write, path: file.path, .system(ENOSPC))
            } else if errno != EINTR {
                throw DiskError(.write, path: file.path, .system(errno))
            }
        }
    }

    package func preallocate(_ file: DiskFile, size: UInt64) throws(DiskError) {
        let length = try Self.position(size, 0, .preallocate, file)
        while true {
            // Reports its error as the result and leaves errno alone.
            let code = posix_fallocate(file.descriptor, 0, length)
            if code == 0 {
                return
            }
            if code != EINTR {
                throw DiskError(.preallocate, path: file.path, .system(code))
            }
        }
    }

    package func synchronize(_ file: DiskFile) throws(DiskError) {
        // Not repeated after EINTR or EIO: a second call may report success for pages that were
        // dropped.
        guard fdatasync(file.descriptor) == 0 else {
            throw DiskError(.synchronize, path: file.path, .system(errno))
        }
    }

    /// Starts writing what is dirty in a range of the file, so that a later `synchronize` has little left to do. With
    /// `wait` it returns when that is written. Nothing is durable by this alone; where the file system does
    /// not know it, nothing happens.
    package func writeBack(
        _ file: DiskFile, at offset: UInt64, count: UInt64, wait: Bool
    ) throws(DiskError) {
        let start = try Self.position(offset, 0, .synchronize, file)
        let length = try Self.position(count, 0, .synchronize, file)
        guard moonraft_write_back(file.descriptor, Int64(start), Int64(length), wait ? 1 : 0) != 0 else { return }
        if errno == ENOSYS || errno == EINVAL || errno == ESPIPE { return }
        // A failed write is reported once: whoever hears of it must not hope for the next call.
        throw DiskError(.synchronize, path: file.path, .system(errno))
    }

    package func synchronizeDirectory(_ path: String) throws(DiskError) {
        let descriptor = moonraft_open(path, O_RDONLY | O_DIRECTORY, 0)
        guard descriptor >= 0 else {
            throw DiskError(.synchronizeDirectory, path: path, .system(errno))
        }
        let code: Int32 = fsync(descriptor) == 0 ? 0 : errno
        Glibc.close(descriptor)
        guard code == 0 else {
            throw DiskError(.synchronizeDirectory, path: path, .system(code))
        }
    }

    package func rename(_ from: String, to: String) throws(DiskError) {
        guard Glibc.rename(from, to) == 0 else {
            throw DiskError(.rename, path: from, .system(errno))
        }
    }

    package func remove(_ path: String) throws(DiskError) {
        guard unlink(path) == 0 else {
            throw DiskError(.remove, path: path, .system(errno))
        }
    }

    package func close(_ file: DiskFile) throws(DiskError) {
        // Linux has released the descriptor even when close reports EINTR.
        guard Glibc.close(file.descriptor) == 0 || errno == EINTR else {
            throw DiskError(.close, path: file.path, .system(errno))
        }
    }

    package func lock(_ path: String) throws(DiskError) -> DiskFile {
        let descriptor = moonraft_open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else {
            throw DiskError(.lock, path: path, .system(errno))
        }
        let file = DiskFile(descriptor: descriptor, path: path)
        guard moonraft_flock_exclusive(descriptor) == 0 else {
            let code = errno
            let holder = code == EWOULDBLOCK ? readHolder(file) : nil
            Glibc.close(descriptor)
            throw DiskError(.lock, path: path, code == EWOULDBLOCK ? .held(by: holder) : .system(code))
        }
        // The text only serves the message above; the lock itself is the kernel's.
        guard ftruncate(descriptor, 0) == 0 else {
            let code = errno
            Glibc.close(descriptor)
            throw DiskError(.lock, path: path, .system(code))
        }
        do throws(DiskError) {
            try write(file, at: 0, Array("\(getpid())\n".utf8))
        } catch {
            Glibc.close(descriptor)
            throw error
        }
        return file
    }

    private func readHolder(_ file: DiskFile) -> Int32? {
        var bytes = [UInt8](repeating: 0, count: 16)
        let count = bytes.withUnsafeMutableBytes { buffer in
            (try? read(file, at: 0, into: buffer)) ?? 0
        }
        return Int32(String(decoding: bytes.prefix(count).prefix { $0 != 10 }, as: UTF8.self))
    }

    private static func position(
        _ offset: UInt64, _ done: Int, _ operation: DiskError.Operation, _ file: DiskFile
    ) throws(DiskError) -> off_t {
        guard let start = off_t(exactly: offset), start <= off_t.max - off_t(done) else {
            throw DiskError(operation, path: file.path, .system(EFBIG))
        }
        return start + off_t(done)
    }
}
