import CSupport

#if canImport(Glibc)
    import Glibc
#endif

/// A file that lines are appended to, with rotation by size and age, a hash chain on request, and a batch that
/// either reaches the file whole or not at all.
///
/// Confined to one thread. The file is locked against a second sink. Rotated files are named
/// `NAME.YYYYMMDDTHHMMSS.ffffffZ` and pruned by name, oldest first. A last line without newline, left by a
/// crash, was never acknowledged and is cut when the file is opened.
package final class FileSink: PluginSink {
    /// A batch larger than this is written out early.
    private static let maximumBatch = 8 << 20

    private let options: SinkOptions
    private let directory: String
    private let path: String
    private var descriptor: Int32 = -1
    private var size = 0
    /// When the current file was begun, seconds since 1970.
    private var begun = 0.0
    private let batch = TextBuffer(capacity: 16 << 10)
    /// Memory that the batch keeps when it is empty.
    private static let keptBatch = 1 << 20
    private var chain: AuditChain
    /// The chain as of the last batch that reached the file.
    private var written: AuditChain
    private var isSynced = true
    private var lastSync = 0.0

    /// Opens the file below `directory`, which is made when absent.
    package init(directory: String, options: SinkOptions) throws(SinkError) {
        self.options = options
        path = "\(directory)/\(options.path)"
        self.directory = String(path.prefix(upTo: path.lastIndex(of: "/") ?? path.startIndex))
        chain = AuditChain(key: options.chainKey)
        written = chain
        try Self.makeDirectories(directory, below: options.path)
        try openFile()
        if options.isChained {
            chain = try resumedChain()
            written = chain
        }
    }

    deinit { close() }

    private static func makeDirectories(_ root: String, below path: String) throws(SinkError) {
        var current = root
        var parts = path.split(separator: "/").map(String.init)
        parts.removeLast()
        for part in [""] + parts {
            if !part.isEmpty { current += "/" + part }
            if mkdir(current, 0o700) != 0 && errno != EEXIST {
                throw SinkError("\(current): \(FileReading.reason(errno))")
            }
            var info = stat()
            guard lstat(current, &info) == 0 else { throw SinkError("\(current): \(FileReading.reason(errno))") }
            // The root may be a link that the operator made; folders below it may not.
            guard info.st_mode & S_IFMT == S_IFDIR || part.isEmpty else { throw SinkError("\(current): not a folder") }
        }
    }

    private func openFile() throws(SinkError) {
        let opened = moonraft_open(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW, options.mode)
        guard opened >= 0 else { throw SinkError("\(path): \(FileReading.reason(errno))") }
        guard moonraft_flock_exclusive(opened) == 0 else {
            Glibc.close(opened)
            throw SinkError("\(path): another sink or process has it open")
        }
        var info = stat()
        guard fstat(opened, &info) == 0, info.st_mode & S_IFMT == S_IFREG else {
            Glibc.close(opened)
            throw SinkError("\(path): not a regular file")
        }
        descriptor = opened
        size = Int(info.st_size)
        begun = size == 0 ? 0 : Double(info.st_mtim.tv_sec)
        try cutTornLine()
    }

    private func cutTornLine() throws(SinkError) {
        guard size > 0 else { return }
        var end = size
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while end > 0 {
            let start = max(0, end - chunk.count)
            let count = pread(descriptor, &chunk, end - start, off_t(start))
            guard count == end - start else { throw SinkError("\(path): \(FileReading.reason(errno))") }
            if let newline = chunk[..<count].lastIndex(of: 0x0A) {
                end = start + newline + 1
                break
            }
            end = start
        }
        guard end < size else { return }
        guard ftruncate(descriptor, off_t(end)) == 0 else { throw SinkError("\(path): \(FileReading.reason(errno))") }
        size = end
    }

    /// The chain after the last line of the current file, or of the newest rotated one.
    private func resumedChain() throws(SinkError) -> AuditChain {
        var chain = AuditChain(key: options.chainKey)
        let candidates = [path] + rotatedFiles().reversed().map { "\(directory)/\($0)" }
        for candidate in candidates {
            guard let line = try Self.lastLine(candidate) else { continue }
            guard let link = AuditChain.link(line[...]) else {
                throw SinkError("\(candidate): its last line has no hash chain to continue")
            }
            chain.resume(after: link)
            return chain
        }
        return chain
    }

    private static func lastLine(_ path: String) throws(SinkError) -> [UInt8]? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw SinkError("\(path): \(FileReading.reason(errno))")
        }
        defer { Glibc.close(descriptor) }
        let size = Int(lseek(descriptor, 0, SEEK_END))
        guard size > 0 else { return nil }
        var tail: [UInt8] = []
        var start = size
        while start > 0 && tail.count < 4 << 20 {
            let from = max(0, start - 64 << 10)
            var chunk = [UInt8](repeating: 0, count: start - from)
            guard pread(descriptor, &chunk, chunk.count, off_t(from)) == chunk.count else {
                throw SinkError("\(path): \(FileReading.reason(errno))")
            }
            tail = chunk + tail
            start = from
            if tail.dropLast().contains(0x0A) { break }
        }
        while tail.last == 0x0A { tail.removeLast() }
        if let newline = tail.lastIndex(of: 0x0A) { tail.removeFirst(newline + 1) }
        return tail.isEmpty ? nil : tail
    }

    // MARK: - Writing

    package func write(_ line: UnsafeRawBufferPointer, now: Double) throws(SinkError) {
        if options.isChained {
            guard chain.append(line, to: batch) else { throw SinkError("a chained sink takes JSON objects") }
        } else {
            batch.add(line)
        }
        batch.add(byte: 0x0A)
        if batch.count > Self.maximumBatch || options.sync == .always { try flush(now: now) }
    }

    package func flush(now: Double) throws(SinkError) {
        guard batch.count > 0 else { return }
        do {
            try rotateIfDue(adding: batch.count, now: now)
            try append()
            if options.sync == .always || options.sync == .batch { try sync() }
            written = chain
        } catch {
            // Nothing of the batch counts; the chain goes on from the last line that does.
            chain.restore(written)
            batch.clear(keeping: Self.keptBatch)
            throw error
        }
        if begun == 0 { begun = now }
        batch.clear(keeping: Self.keptBatch)
    }

    private func append() throws(SinkError) {
        if descriptor < 0 { try openFile() }
        var offset = 0
        while offset < batch.count {
            let rest = batch.bytes(from: offset)
            let count = Glibc.write(descriptor, rest.baseAddress, rest.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else {
                let reason = FileReading.reason(errno)
                try undo()
                throw SinkError("\(path): \(reason)")
            }
            offset += count
        }
        size += batch.count
        isSynced = false
    }

    /// Takes a half-written batch back, so that no torn line stays inside the file.
    private func undo() throws(SinkError) {
        if ftruncate(descriptor, off_t(size)) != 0 {
            let reason = FileReading.reason(errno)
            close()
            throw SinkError("\(path): a half-written batch cannot be cut: \(reason)")
        }
    }

    private func sync() throws(SinkError) {
        guard !isSynced, descriptor >= 0 else { return }
        guard fdatasync(descriptor) == 0 else {
            // After a failed sync the kernel may drop the pages and report success next time: take the
            // batch back and start over with a new descriptor.
            let reason = FileReading.reason(errno)
            size -= batch.count
            _ = ftruncate(descriptor, off_t(max(0, size)))
            close()
            throw SinkError("\(path): fdatasync: \(reason)")
        }
        isSynced = true
    }

    // MARK: - Rotation

    private func rotateIfDue(adding count: Int, now: Double) throws(SinkError) {
        guard size > 0 else { return }
        let tooLarge = size + count > options.maximumBytes
        let tooOld = options.maximumAge > 0 && begun > 0 && now - begun >= options.maximumAge
        if tooLarge || tooOld { try rotate(now: now) }
    }

    private func rotate(now: Double) throws(SinkError) {
        if !isSynced, descriptor >= 0, options.sync != .never { _ = fdatasync(descriptor) }
        isSynced = true
        let time = (Timestamp.rfc3339(now) ?? "").filter { $0 != "-" && $0 != ":" }
        var target = "\(path).\(time)"
        // Two rotations in one microsecond, or a clock that went back: never overwrite.
        var attempt = 0
        while access(target, F_OK) == 0 && attempt < 1000 {
            attempt += 1
            target = "\(path).\(time)-\(String(1000 + attempt).dropFirst())"
        }
        guard rename(path, target) == 0 else { throw SinkError("\(path): rotation: \(FileReading.reason(errno))") }
        if descriptor >= 0 { Glibc.close(descriptor) }
        descriptor = -1
        size = 0
        begun = 0
        try openFile()
        let folder = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if folder >= 0 {
            fsync(folder)
            Glibc.close(folder)
        }
        let old = rotatedFiles()
        for name in old.prefix(max(0, old.count - options.maximumFiles)) { unlink("\(directory)/\(name)") }
    }

    /// Names of rotated files, oldest first.
    private func rotatedFiles() -> [String] {
        guard let base = path.split(separator: "/").last, let stream = opendir(directory) else { return [] }
        defer { closedir(stream) }
        let prefix = base + "."
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            guard name.hasPrefix(prefix) else { continue }
            let stamp = name.dropFirst(prefix.count)
            let digits = stamp.prefix(8)
            if digits.count == 8, digits.allSatisfy(\.isNumber), stamp.dropFirst(8).first == "T" { names.append(name) }
        }
        return names.sorted()
    }

    package func tick(now: Double) throws(SinkError) {
        if options.maximumAge > 0, size > 0, begun > 0, now - begun >= options.maximumAge { try rotate(now: now) }
        if options.sync == .interval, !isSynced, now - lastSync >= 1 {
            lastSync = now
            guard descriptor >= 0, fdatasync(descriptor) == 0 else {
                throw SinkError("\(path): fdatasync: \(FileReading.reason(errno))")
            }
            isSynced = true
        }
    }

    package func close() {
        guard descriptor >= 0 else { return }
        if !isSynced && options.sync != .never { _ = fdatasync(descriptor) }
        Glibc.close(descriptor)
        descriptor = -1
    }
}
