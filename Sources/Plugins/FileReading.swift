#if canImport(Glibc)
    import Glibc
#endif

/// Bounded reading of regular files with plain system calls.
enum FileReading {
    struct Failure: Error, Equatable {
        let message: String
    }

    static func reason(_ code: Int32) -> String { String(cString: strerror(code)) }

    /// Why a path is not a readable regular file; nil when it is.
    static func problem(_ path: String) -> String? {
        var info = stat()
        guard stat(path, &info) == 0 else { return reason(errno) }
        guard info.st_mode & S_IFMT == S_IFREG else { return "not a regular file" }
        guard access(path, R_OK) == 0 else { return reason(errno) }
        return nil
    }

    /// Reads a whole regular file of at most `maximum` bytes.
    static func read(_ path: String, maximum: Int, followLinks: Bool) throws(Failure) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (followLinks ? 0 : O_NOFOLLOW))
        guard descriptor >= 0 else { throw Failure(message: reason(errno)) }
        defer { close(descriptor) }
        return try read(descriptor: descriptor, maximum: maximum)
    }

    static func read(descriptor: Int32, maximum: Int) throws(Failure) -> [UInt8] {
        var info = stat()
        guard fstat(descriptor, &info) == 0 else { throw Failure(message: reason(errno)) }
        guard info.st_mode & S_IFMT == S_IFREG else { throw Failure(message: "not a regular file") }
        guard info.st_size <= maximum else { throw Failure(message: "larger than \(maximum) bytes") }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw Failure(message: reason(errno)) }
            if count == 0 { return bytes }
            // The file may grow while it is read.
            guard bytes.count + count <= maximum else { throw Failure(message: "larger than \(maximum) bytes") }
            bytes.append(contentsOf: chunk.prefix(count))
        }
    }
}
