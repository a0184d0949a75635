import Foundation
import Testing

@testable import Storage

/// The page walker sees what LMDB sees, on any file, and no damage stops the process.
@Suite struct BackendFileTests {
    private let temporary = TemporaryDirectory()

    /// A backend with branch pages, long values, a free list and an empty bucket.
    private func makeFile(compacting: Bool) throws -> (path: String, hash: UInt32) {
        let backend = try Backend(
            path: temporary.path + "/db", configuration: BackendConfiguration(mapBytes: 64 << 20))
        for round in 0..<3 {
            try backend.update { transaction throws(BackendError) in
                for number in 0..<400 {
                    let size = number % 50 == 7 ? 9_000 : 40
                    let value = [UInt8](repeating: UInt8(round), count: size)
                    let main = Int64(round * 400 + number + 1)
                    try RevisionKey(main: main, sub: 0).withBytes { key throws(BackendError) in
                        let failure = value.withUnsafeBytes { value -> BackendError? in
                            do throws(BackendError) {
                                try transaction.put(.key, key: key, value: value, append: true)
                                return nil
                            } catch {
                                return error
                            }
                        }
                        if let failure { throw failure }
                    }
                }
            }
        }
        try backend.update { transaction throws(BackendError) in
            for main in stride(from: Int64(10), to: 700, by: 1) {
                try RevisionKey(main: main, sub: 0).withBytes { key throws(BackendError) in
                    _ = try transaction.delete(.key, key: key)
                }
            }
        }
        let path = temporary.path + "/copy-\(compacting)"
        try backend.copy(toFile: path, compacting: compacting)
        return (path, try backend.hash())
    }

    private func walk(_ path: String, byteCount: UInt64? = nil) throws -> (hash: UInt32, entries: Int) {
        let disk = PosixDisk()
        let file = try disk.open(path, .read)
        defer { try? disk.close(file) }
        let size = try disk.size(file)
        let data = try BackendFile(disk: disk, file: file, byteCount: byteCount ?? size)
        var hash = BackendHash()
        var entries = 0
        try data.walk { bucket, key, value throws(BackendFileFault) in
            hash.add(bucket: bucket, key: key, value: value)
            entries += 1
        }
        return (hash.finish(), entries)
    }

    /// What opening a backend looks at.
    private func isSound(_ path: String) throws -> Bool {
        let disk = PosixDisk()
        let file = try disk.open(path, .read)
        defer { try? disk.close(file) }
        do {
            try BackendFile(disk: disk, file: file, byteCount: try disk.size(file)).checkStructure()
            return true
        } catch is BackendFileFault {
            return false
        }
    }

    @Test(arguments: [false, true]) func seesWhatLMDBSees(compacting: Bool) throws {
        let made = try makeFile(compacting: compacting)
        let found = try walk(made.path)
        #expect(found.hash == made.hash)
        // 1200 records less 690, and the format version.
        #expect(found.entries == 511)
    }

    /// A cut at any page boundary and beside it is a fault, and so is what is cut before the file.
    @Test func cutFilesAreFaults() throws {
        let made = try makeFile(compacting: true)
        let size = try #require(
            FileManager.default.attributesOfItem(atPath: made.path)[.size] as? UInt64)
        var cuts = Array(stride(from: UInt64(0), to: size, by: 4096))
        cuts += cuts.map { $0 + 1 } + cuts.dropFirst().map { $0 - 1 }
        for cut in cuts {
            #expect(throws: BackendFileFault.self) { try walk(made.path, byteCount: cut) }
        }
    }

    /// Every header field of every page, and bytes all over, are damaged one at a time: the walk
    /// ends with a fault or with a result, never with a signal. What opening looks at, which reads no values, finds the
    /// same faults.
    @Test(arguments: [false, true]) func noDamageTraps(compacting: Bool) throws {
        let made = try makeFile(compacting: compacting)
        let sound = [UInt8](try Data(contentsOf: URL(fileURLWithPath: made.path)))
        let path = temporary.path + "/damaged"
        try Data(sound).write(to: URL(fileURLWithPath: path))
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        defer { try? handle.close() }
        var positions: [Int] = Array(0..<170) + Array(4096..<4266)
        for page in stride(from: 8192, to: sound.count, by: 3 * 4096) {
            positions += (0..<24).map { page + $0 }
            positions += stride(from: 40, to: 4096, by: 997).map { page + $0 }
            positions += [page + 4088, page + 4000, page + 4001, page + 4002]
        }
        var faults = 0
        for (number, position) in positions.enumerated() {
            let damage: UInt8 = number % 3 == 0 ? 0xFF : 1 << UInt8(number % 8)
            try handle.seek(toOffset: UInt64(position))
            try handle.write(contentsOf: [sound[position] ^ damage])
            var isFault = false
            do { _ = try walk(path) } catch is BackendFileFault { isFault = true }
            if isFault { faults += 1 }
            #expect(try isSound(path) == !isFault, "byte \(position)")
            try handle.seek(toOffset: UInt64(position))
            try handle.write(contentsOf: [sound[position]])
        }
        #expect(faults > positions.count / 10)
        #expect(try walk(path).hash == made.hash)
    }

    @Test func garbageIsNoBackend() throws {
        var random = SystemRandomNumberGenerator()
        let path = temporary.path + "/garbage"
        for size in [0, 1, 151, 4096, 8192, 65_536] {
            let bytes = (0..<size).map { _ in UInt8.random(in: 0...255, using: &random) }
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            #expect(throws: BackendFileFault.self) { try walk(path) }
        }
    }

    // MARK: Opening

    /// A data file as it was after a commit, and the hash of what it holds.
    private struct Image {
        var bytes: [UInt8]
        var hash: UInt32
    }

    /// Files after commits that each change and free pages.
    private func makeImages(_ directory: String) throws -> [Image] {
        let backend = try Backend(path: directory, configuration: BackendConfiguration(mapBytes: 64 << 20))
        var images: [Image] = []
        for round in 0..<6 {
            try backend.update { transaction throws(BackendError) in
                for number in 0..<300 {
                    let value = [UInt8](repeating: UInt8(round), count: number % 60 == 7 ? 9_000 : 60)
                    let key = Array("key \((number * 7 + round) % 500)".utf8)
                    let failure = key.withUnsafeBytes { key in
                        value.withUnsafeBytes { value -> BackendError? in
                            do throws(BackendError) {
                                try transaction.put(.lease, key: key, value: value)
                                return nil
                            } catch {
                                return error
                            }
                        }
                    }
                    if let failure { throw failure }
                }
            }
            images.append(
                Image(
                    bytes: [UInt8](try Data(contentsOf: URL(fileURLWithPath: directory + "/data.mdb"))),
                    hash: try backend.hash()))
        }
        return images
    }

    /// Opens a backend over these bytes and reads all of it; nil when it is refused as damaged.
    private func open(_ bytes: [UInt8], _ directory: String) throws -> UInt32? {
        try Data(bytes).write(to: URL(fileURLWithPath: directory + "/data.mdb"))
        do throws(BackendError) {
            return try Backend(
                path: directory, configuration: BackendConfiguration(mapBytes: 64 << 20)
            ).hash()
        } catch {
            guard case .corrupt = error else { throw error }
            #expect(error.description.contains("data.mdb") || error.description.contains(directory))
            return nil
        }
    }

    /// A meta page that is part of one commit and part of another, or cut, or zeros: the file opens as
    /// one of the commits or is refused.
    @Test func etcd20271_aTornMetaPageIsRefusedOrNotInForce() throws {
        let images = try makeImages(temporary.path + "/db")
        let directory = temporary.path + "/torn"
        try PosixDisk().createDirectory(directory)
        let last = images[images.count - 1]
        let hashes = Set(images.map(\.hash))
        #expect(try open(last.bytes, directory) == last.hash)
        var refused = 0
        for older in images.dropLast() {
            for page in [0, 4096] {
                for cut in stride(from: 0, through: 152, by: 16) {
                    for takesHead in [false, true] {
                        var torn = last.bytes
                        let range = takesHead ? page..<(page + cut) : (page + cut)..<(page + 152)
                        torn.replaceSubrange(range, with: older.bytes[range])
                        if let hash = try open(torn, directory) {
                            #expect(hashes.contains(hash))
                        } else {
                            refused += 1
                        }
                    }
                }
            }
        }
        #expect(refused > 0)
        for page in [0, 4096] {
            for length in [16, 512, 4096] {
                for filler in [UInt8(0), 0xFF] {
                    var torn = last.bytes
                    torn.replaceSubrange(
                        page..<(page + length), with: [UInt8](repeating: filler, count: length))
                    #expect(try open(torn, directory) == nil)
                }
            }
        }
    }

    /// A file that lost its end is refused, unless what it lost was free.
    @Test func aCutFileIsRefusedBeforeItIsMapped() throws {
        let images = try makeImages(temporary.path + "/db")
        let directory = temporary.path + "/cut"
        try PosixDisk().createDirectory(directory)
        let last = images[images.count - 1]
        var refused = 0
        for pages in 0..<(last.bytes.count / 4096) where pages > 0 {
            for extra in [0, 100] {
                let found: UInt32?
                do { found = try open(Array(last.bytes.prefix(pages * 4096 + extra)), directory) } catch {
                    // Less than two pages is nothing that LMDB has written.
                    #expect(pages < 2, "\(error)")
                    continue
                }
                if let found { #expect(found == last.hash) } else { refused += 1 }
            }
        }
        #expect(refused > 50)
    }

    /// Every field by which pages are found is damaged: the file opens and can be read, or is refused.
    @Test func damagedStructureIsRefusedBeforeItIsMapped() throws {
        let images = try makeImages(temporary.path + "/db")
        let directory = temporary.path + "/damaged"
        try PosixDisk().createDirectory(directory)
        let sound = images[images.count - 1].bytes
        // The meta pages, then every branch page with its nodes, and leaf pages.
        var positions = Array(0..<168) + Array(4096..<(4096 + 168))
        for page in stride(from: 8192, to: sound.count, by: 4096) where sound[page + 10] == 1 && sound[page + 11] == 0 {
            positions += (0..<40).map { page + $0 } + stride(from: 3_000, to: 4096, by: 37).map { page + $0 }
        }
        for page in stride(from: 8192, to: sound.count, by: 4096) where sound[page + 10] == 2 && page % 5 == 0 {
            positions += (8..<60).map { page + $0 } + stride(from: 2_000, to: 4096, by: 61).map { page + $0 }
        }
        var refused = 0
        for (number, position) in positions.enumerated() {
            var damaged = sound
            damaged[position] ^= number % 3 == 0 ? 0xFF : 1 << UInt8(number % 8)
            if try open(damaged, directory) == nil { refused += 1 }
        }
        #expect(refused > positions.count / 10)
    }
}
