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
    /// ends with a fault or with a result, never with a signal.
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
            do { _ = try walk(path) } catch is BackendFileFault { faults += 1 }
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
}
