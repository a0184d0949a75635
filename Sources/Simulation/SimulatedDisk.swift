// A disk that does what the rules of `Disk` leave open, and not more: what was not synchronized is lost in
// any subset of its sectors, names that were not synchronized are lost from the last one back, and an
// operation fails when told to.

import Storage

/// One member's disk. It outlives the member's process.
final class SimulatedDisk: Disk {
    static let sectorBytes = 512
    static let inputOutputError: Int32 = 5
    static let noSpace: Int32 = 28
    private static let noSuchFile: Int32 = 2
    private static let exists: Int32 = 17

    private final class File {
        var bytes: [UInt8] = []
        var durableSize = 0
        /// The durable content of each sector that was written since the last synchronize.
        var before: [Int: [UInt8]] = [:]
        /// A failed synchronize marked everything clean: later ones say success and write nothing, as
        /// Linux does. Until written again, these sectors stay lost.
        var forgotten: Set<Int> = []
    }

    /// A change of names that no directory synchronization has made durable.
    private enum NameChange {
        case create(String, File)
        case rename(String, to: String)
        case remove(String)
    }

    /// What the next failing operation does.
    struct Fault {
        /// Operations that change something and still succeed.
        var after: Int
        var code: Int32
    }

    private var names: [String: File] = [:]
    private var durableNames: [String: File] = [:]
    private var unsynchronized: [NameChange] = []
    private var directories: Set<String> = ["/"]
    private var open: [Int32: File] = [:]
    private var nextDescriptor: Int32 = 3

    /// Set to make an operation fail; cleared when it did.
    var fault: Fault?
    private(set) var operations = 0
    /// True between a failed operation and the crash that has to follow.
    private(set) var hasFailed = false

    init() {}

    // MARK: Crash and damage

    /// The process dies. With `losesPower` everything that was not synchronized goes through chance:
    /// `keepPerMille` of the sectors survive.
    func crash(losesPower: Bool, keepPerMille: Int, random: inout SimulationRandom) {
        open.removeAll()
        fault = nil
        hasFailed = false
        guard losesPower else { return }
        let surviving = random.below(unsynchronized.count + 1)
        names = durableNames
        for change in unsynchronized.prefix(surviving) { Self.apply(change, to: &names) }
        durableNames = names
        unsynchronized = []
        for name in names.keys.sorted() {
            guard let file = names[name] else { continue }
            lose(file, keepPerMille: keepPerMille, random: &random)
        }
    }

    private func lose(_ file: File, keepPerMille: Int, random: inout SimulationRandom) {
        if file.bytes.count > file.durableSize, random.chance(500) {
            file.bytes.removeSubrange(file.durableSize...)
        }
        for sector in file.before.keys.sorted() {
            guard let old = file.before[sector] else { continue }
            if !file.forgotten.contains(sector), random.chance(keepPerMille) { continue }
            let start = sector * Self.sectorBytes
            for (position, byte) in old.enumerated() where start + position < file.bytes.count {
                file.bytes[start + position] = byte
            }
        }
        file.before = [:]
        file.forgotten = []
        file.durableSize = file.bytes.count
    }

    /// Turns one bit over in a file whose name ends in `suffix`; false when there is none.
    func flipBit(inFilesEndingWith suffix: String, random: inout SimulationRandom) -> Bool {
        let candidates = names.keys.filter { $0.hasSuffix(suffix) }.sorted()
        guard !candidates.isEmpty, let file = names[random.pick(candidates)], !file.bytes.isEmpty
        else { return false }
        // Most of a segment is zeros ahead of the log's end: prefer what holds something.
        var position = random.below(file.bytes.count)
        for _ in 0..<64 where file.bytes[position] == 0 { position = random.below(file.bytes.count) }
        file.bytes[position] ^= 1 << UInt8(random.below(8))
        return true
    }

    /// A disk of the same content as the running system sees it, to look at without touching this one.
    func copy() -> SimulatedDisk {
        let copy = SimulatedDisk()
        copy.directories = directories
        for (name, file) in names {
            let twin = File()
            twin.bytes = file.bytes
            twin.durableSize = file.bytes.count
            copy.names[name] = twin
            copy.durableNames[name] = twin
        }
        return copy
    }

    private static func apply(_ change: NameChange, to names: inout [String: File]) {
        switch change {
        case .create(let name, let file): names[name] = file
        case .rename(let from, let to): names[to] = names.removeValue(forKey: from)
        case .remove(let name): names[name] = nil
        }
    }

    // MARK: Disk

    /// Counts an operation that changes something, and fails it when its time has come.
    private func change(_ operation: DiskError.Operation, _ path: String) throws(DiskError) {
        operations += 1
        guard let fault else { return }
        if fault.after > 0 {
            self.fault = Fault(after: fault.after - 1, code: fault.code)
            return
        }
        hasFailed = true
        throw DiskError(operation, path: path, .system(fault.code))
    }

    private func file(_ handle: DiskFile) throws(DiskError) -> File {
        guard let file = open[handle.descriptor] else {
            throw DiskError(.read, path: handle.path, .closed)
        }
        return file
    }

    private func note(_ change: NameChange) {
        Self.apply(change, to: &names)
        unsynchronized.append(change)
    }

    func createDirectory(_ path: String) throws(DiskError) {
        try change(.createDirectory, path)
        directories.insert(path)
    }

    func list(_ path: String) throws(DiskError) -> [String] {
        guard directories.contains(path) else {
            throw DiskError(.list, path: path, .system(Self.noSuchFile))
        }
        return names.keys.filter { $0.hasPrefix(path + "/") }
            .map { String($0.dropFirst(path.count + 1)) }.sorted()
    }

    func open(_ path: String, _ mode: DiskOpenMode) throws(DiskError) -> DiskFile {
        let opened: File
        switch (mode, names[path]) {
        case (.createNew, nil):
            try change(.open, path)
            opened = File()
            note(.create(path, opened))
        case (.createNew, .some):
            throw DiskError(.open, path: path, .system(Self.exists))
        case (_, let existing?):
            opened = existing
        case (_, nil):
            throw DiskError(.open, path: path, .system(Self.noSuchFile))
        }
        nextDescriptor += 1
        open[nextDescriptor] = opened
        return DiskFile(descriptor: nextDescriptor, path: path)
    }

    func size(_ handle: DiskFile) throws(DiskError) -> UInt64 {
        UInt64(try file(handle).bytes.count)
    }

    func read(
        _ handle: DiskFile, at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
    ) throws(DiskError) -> Int {
        let file = try file(handle)
        let start = Int(min(offset, UInt64(file.bytes.count)))
        let end = min(file.bytes.count, start + buffer.count)
        file.bytes.withUnsafeBytes { source in
            buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: source[start..<end]))
        }
        return end - start
    }

    func write(
        _ handle: DiskFile, at offset: UInt64, _ source: UnsafeRawBufferPointer
    ) throws(DiskError) {
        try change(.write, handle.path)
        guard !source.isEmpty else { return }
        let file = try file(handle)
        let start = Int(offset)
        let end = start + source.count
        extend(file, to: end)
        for sector in start / Self.sectorBytes...(end - 1) / Self.sectorBytes {
            file.forgotten.remove(sector)
            if file.before[sector] == nil {
                let first = sector * Self.sectorBytes
                file.before[sector] = Array(
                    file.bytes[first..<min(first + Self.sectorBytes, file.bytes.count)])
            }
        }
        file.bytes.withUnsafeMutableBytes { target in
            UnsafeMutableRawBufferPointer(rebasing: target[start..<end]).copyMemory(from: source)
        }
    }

    private func extend(_ file: File, to size: Int) {
        guard file.bytes.count < size else { return }
        file.bytes.append(contentsOf: repeatElement(0, count: size - file.bytes.count))
    }

    func preallocate(_ handle: DiskFile, size: UInt64) throws(DiskError) {
        try change(.preallocate, handle.path)
        extend(try file(handle), to: Int(size))
    }

    func synchronize(_ handle: DiskFile) throws(DiskError) {
        let file = try file(handle)
        do throws(DiskError) {
            try change(.synchronize, handle.path)
        } catch {
            file.forgotten.formUnion(file.before.keys)
            throw error
        }
        if file.forgotten.isEmpty {
            file.before.removeAll(keepingCapacity: true)
        } else {
            file.before = file.before.filter { file.forgotten.contains($0.key) }
        }
        file.durableSize = file.bytes.count
    }

    func synchronizeDirectory(_ path: String) throws(DiskError) {
        try change(.synchronizeDirectory, path)
        // All names lie in one directory of files here, and its parents hold directories only.
        durableNames = names
        unsynchronized = []
    }

    func rename(_ from: String, to: String) throws(DiskError) {
        try change(.rename, from)
        guard names[from] != nil else {
            throw DiskError(.rename, path: from, .system(Self.noSuchFile))
        }
        note(.rename(from, to: to))
    }

    func remove(_ path: String) throws(DiskError) {
        try change(.remove, path)
        guard names[path] != nil else {
            throw DiskError(.remove, path: path, .system(Self.noSuchFile))
        }
        note(.remove(path))
    }

    func close(_ handle: DiskFile) throws(DiskError) {
        open[handle.descriptor] = nil
    }

    func lock(_ path: String) throws(DiskError) -> DiskFile {
        nextDescriptor += 1
        open[nextDescriptor] = File()
        return DiskFile(descriptor: nextDescriptor, path: path)
    }
}
