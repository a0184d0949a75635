import Storage

/// A disk in memory that can fail on the Nth operation and that knows which sectors are durable.
///
/// A clone is a cheap copy of the state, so a test can damage thousands of variants of one log.
final class MemoryDisk: Disk {
    struct File {
        var bytes: [UInt8] = []
        /// The bytes as of the last synchronize.
        var durable: [UInt8] = []
        /// Sectors that a failed synchronize marked clean: later ones do not write them, unless
        /// they are written again. Linux does this since a failed write-back drops the dirty mark.
        var forgotten: Set<Int> = []
    }

    /// Content by number; names refer to numbers as in a file system.
    private(set) var files: [Int32: File] = [:]
    /// Names as the running system sees them, and as the medium has them.
    private(set) var names: [String: Int32] = [:]
    private(set) var durableNames: [String: Int32] = [:]
    private var descriptors: [Int32: Int32] = [:]
    private var nextNumber: Int32 = 1
    private var directories: Set<String> = ["/"]

    /// Operations so far, by which faults are placed.
    private(set) var operations: [DiskError.Operation] = []
    /// The operation (counted from 0) that fails, and how.
    var failAt: (number: Int, code: Int32)?

    init() {}

    func clone() -> MemoryDisk {
        let copy = MemoryDisk()
        copy.files = files
        copy.names = names
        copy.durableNames = durableNames
        copy.nextNumber = nextNumber
        copy.directories = directories
        return copy
    }

    /// The disk after a power cut. `keep` says, for each 512-byte sector that differs from its
    /// durable state, whether the newer content reached the medium. `newNames` says whether names
    /// changed since the last directory synchronization reached it too.
    func afterPowerCut(
        newNames: Bool, keep: (_ path: String, _ sector: Int) -> Bool
    ) -> MemoryDisk {
        let copy = clone()
        let surviving = newNames ? names : durableNames
        copy.names = surviving
        copy.durableNames = surviving
        for (path, number) in surviving.sorted(by: { $0.key < $1.key }) {
            guard let file = files[number] else { continue }
            var bytes = file.durable
            if bytes.count < file.bytes.count {
                bytes += [UInt8](repeating: 0, count: file.bytes.count - bytes.count)
            }
            for sector in 0..<(file.bytes.count + 511) / 512 {
                let range = sector * 512..<min(file.bytes.count, sector * 512 + 512)
                if bytes[range] != file.bytes[range], keep(path, sector) {
                    bytes.replaceSubrange(range, with: file.bytes[range])
                }
            }
            copy.files[number] = File(bytes: bytes, durable: bytes)
        }
        return copy
    }

    /// The sectors of all files whose newest content is not durable.
    func dirtySectors(newNames: Bool) -> [(path: String, sector: Int)] {
        var dirty: [(String, Int)] = []
        let surviving = newNames ? names : durableNames
        for (path, number) in surviving.sorted(by: { $0.key < $1.key }) {
            guard let file = files[number] else { continue }
            for sector in 0..<(file.bytes.count + 511) / 512 {
                let range = sector * 512..<min(file.bytes.count, sector * 512 + 512)
                let missing = max(0, range.upperBound - max(range.lowerBound, file.durable.count))
                let old = file.durable.dropFirst(range.lowerBound).prefix(range.count)
                let durable = Array(old) + [UInt8](repeating: 0, count: missing)
                if durable != Array(file.bytes[range]) {
                    dirty.append((path, sector))
                }
            }
        }
        return dirty
    }

    // MARK: - Damage

    func content(_ path: String) -> [UInt8] {
        names[path].flatMap { files[$0]?.bytes } ?? []
    }

    func setContent(_ path: String, _ bytes: [UInt8]) {
        let number = names[path] ?? newFile(path)
        files[number] = File(bytes: bytes, durable: bytes)
    }

    func delete(_ path: String) {
        names[path] = nil
        durableNames[path] = nil
    }

    func paths(under directory: String) -> [String] {
        names.keys.filter { $0.hasPrefix(directory + "/") }.sorted()
    }

    private func newFile(_ path: String) -> Int32 {
        let number = nextNumber
        nextNumber += 1
        files[number] = File()
        names[path] = number
        durableNames[path] = number
        return number
    }

    // MARK: - Disk

    private func count(_ operation: DiskError.Operation, _ path: String) throws(DiskError) {
        let number = operations.count
        operations.append(operation)
        if let failAt, failAt.number == number {
            throw DiskError(operation, path: path, .system(failAt.code))
        }
    }

    private func file(_ handle: DiskFile) -> Int32 {
        guard let number = descriptors[handle.descriptor] else {
            fatalError("use of a closed file \(handle.path)")
        }
        return number
    }

    var openDescriptors: Int { descriptors.count }

    func createDirectory(_ path: String) throws(DiskError) {
        try count(.createDirectory, path)
        directories.insert(path)
    }

    func list(_ path: String) throws(DiskError) -> [String] {
        try count(.list, path)
        guard directories.contains(path) else {
            throw DiskError(.list, path: path, .system(2))
        }
        return names.keys.filter { $0.hasPrefix(path + "/") }
            .map { String($0.dropFirst(path.count + 1)) }.sorted()
    }

    func open(_ path: String, _ mode: DiskOpenMode) throws(DiskError) -> DiskFile {
        try count(.open, path)
        let number: Int32
        switch (mode, names[path]) {
        case (.createNew, nil):
            number = nextNumber
            nextNumber += 1
            files[number] = File()
            names[path] = number
        case (.createNew, .some):
            throw DiskError(.open, path: path, .system(17))
        case (_, .some(let existing)):
            number = existing
        case (_, nil):
            throw DiskError(.open, path: path, .system(2))
        }
        let descriptor = nextNumber
        nextNumber += 1
        descriptors[descriptor] = number
        return DiskFile(descriptor: descriptor, path: path)
    }

    func size(_ handle: DiskFile) throws(DiskError) -> UInt64 {
        UInt64(files[file(handle)]?.bytes.count ?? 0)
    }

    func read(
        _ handle: DiskFile, at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
    ) throws(DiskError) -> Int {
        try count(.read, handle.path)
        let bytes = files[file(handle)]?.bytes ?? []
        let start = min(Int(offset), bytes.count)
        let end = min(bytes.count, start + buffer.count)
        bytes.withUnsafeBytes { source in
            buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: source[start..<end]))
        }
        return end - start
    }

    func write(
        _ handle: DiskFile, at offset: UInt64, _ source: UnsafeRawBufferPointer
    ) throws(DiskError) {
        try count(.write, handle.path)
        let number = file(handle)
        var bytes = files[number]?.bytes ?? []
        files[number]?.bytes = []
        let end = Int(offset) + source.count
        if bytes.count < end {
            bytes += [UInt8](repeating: 0, count: end - bytes.count)
        }
        bytes.withUnsafeMutableBytes { target in
            UnsafeMutableRawBufferPointer(rebasing: target[Int(offset)..<end])
                .copyMemory(from: source)
        }
        files[number]?.bytes = bytes
        files[number]?.forgotten.subtract(Int(offset) / 512...max(Int(offset), end - 1) / 512)
    }

    func preallocate(_ handle: DiskFile, size: UInt64) throws(DiskError) {
        try count(.preallocate, handle.path)
        let number = file(handle)
        let missing = Int(size) - (files[number]?.bytes.count ?? 0)
        if missing > 0 {
            files[number]?.bytes += [UInt8](repeating: 0, count: missing)
        }
    }

    func synchronize(_ handle: DiskFile) throws(DiskError) {
        let number = file(handle)
        do throws(DiskError) {
            try count(.synchronize, handle.path)
        } catch {
            let sectors = (files[number]?.bytes.count ?? 0) / 512 + 1
            files[number]?.forgotten = Set(0..<sectors)
            throw error
        }
        guard var file = files[number] else { return }
        var durable = file.bytes
        for sector in file.forgotten where sector * 512 < durable.count {
            let range = sector * 512..<min(durable.count, sector * 512 + 512)
            let old = file.durable.dropFirst(range.lowerBound).prefix(512)
            durable.replaceSubrange(
                range, with: old + [UInt8](repeating: 0, count: range.count - old.count))
        }
        file.durable = durable
        files[number] = file
    }

    func synchronizeDirectory(_ path: String) throws(DiskError) {
        try count(.synchronizeDirectory, path)
        for name in Set(names.keys).union(durableNames.keys) where name.hasPrefix(path + "/") {
            durableNames[name] = names[name]
        }
    }

    func rename(_ from: String, to: String) throws(DiskError) {
        try count(.rename, from)
        names[to] = names[from]
        names[from] = nil
    }

    func remove(_ path: String) throws(DiskError) {
        try count(.remove, path)
        names[path] = nil
    }

    func close(_ handle: DiskFile) throws(DiskError) {
        try count(.close, handle.path)
        descriptors[handle.descriptor] = nil
    }

    func lock(_ path: String) throws(DiskError) -> DiskFile {
        try count(.lock, path)
        return DiskFile(descriptor: -1, path: path)
    }
}
