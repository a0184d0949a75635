import Foundation
import Storage
import Testing

extension Backend {
    /// Writes some records and a mark that tells the states apart.
    fileprivate func fill(from first: Int64, count: Int64, mark: String) throws(BackendError) {
        try update { transaction throws(BackendError) in
            for main in first..<first + count {
                let value = [UInt8](repeating: UInt8(truncatingIfNeeded: main), count: 300)
                try RevisionKey(main: main, sub: 0).withBytes { key throws(BackendError) in
                    try value.withUnsafeBufferPointer { value throws(BackendError) in
                        try transaction.put(
                            .key, key: key, value: UnsafeRawBufferPointer(value), append: true)
                    }
                }
            }
            try transaction.mark(mark)
        }
    }

    /// Removes every other record, which frees pages in the middle of the file.
    fileprivate func thin(through last: Int64, mark: String) throws(BackendError) {
        try update { transaction throws(BackendError) in
            for main in 1...last where main % 16 != 0 {
                _ = try RevisionKey(main: main, sub: 0).withBytes { key throws(BackendError) in
                    try transaction.delete(.key, key: key)
                }
            }
            try transaction.mark(mark)
        }
    }
}

extension BackendTransaction {
    fileprivate func mark(_ mark: String) throws(BackendError) {
        let (key, value) = (Array("mark".utf8), Array(mark.utf8))
        try key.withUnsafeBufferPointer { key throws(BackendError) in
            try value.withUnsafeBufferPointer { value throws(BackendError) in
                try put(.meta, key: UnsafeRawBufferPointer(key), value: UnsafeRawBufferPointer(value))
            }
        }
    }
}

extension BackendReader {
    fileprivate var mark: String? {
        get throws {
            try Array("mark".utf8).withUnsafeBytes { try get(.meta, key: $0) }
                .map { String(decoding: $0, as: UTF8.self) }
        }
    }

    fileprivate var records: Int {
        get throws {
            var count = 0
            try scan(.key) { _, _ in
                count += 1
                return true
            }
            return count
        }
    }
}

/// Snapshots streamed out of the backend's own file, and files of others taken over.
@Suite struct BackendSnapshotTests {
    private let temporary = TemporaryDirectory()

    private func open(_ name: String) throws -> Backend {
        try Backend(
            path: temporary.path + "/" + name, configuration: BackendConfiguration(mapBytes: 64 << 20))
    }

    /// Reads a snapshot in pieces that fit no page, calling `between` after each.
    private func bytes(
        _ source: some ByteSource, piece: Int = 10_007, between: () throws -> Void = {}
    ) throws -> [UInt8] {
        var all: [UInt8] = []
        while all.count < Int(source.byteCount) {
            var next = [UInt8](repeating: 0xEE, count: min(piece, Int(source.byteCount) - all.count))
            try next.withUnsafeMutableBytes { try source.read(at: UInt64(all.count), into: $0) }
            all += next
            try between()
        }
        return all
    }

    private func write(_ bytes: [UInt8], _ name: String) throws -> String {
        let path = temporary.path + "/" + name
        try Data(bytes).write(to: URL(fileURLWithPath: path))
        chmod(path, 0o600)
        return path
    }

    /// Each piece is followed by commits that free and use pages: what was pinned comes out all the same.
    @Test(arguments: [0, 1]) func aSnapshotIsOneCommitWhateverIsWrittenMeanwhile(odd: Int) throws {
        let backend = try open("db")
        try backend.fill(from: 1, count: 3000, mark: "old")
        try backend.thin(through: 2000, mark: "thin")
        // An even and an odd transaction lie in different meta pages.
        for number in 0...odd { try backend.fill(from: 3001 + Int64(number), count: 1, mark: "pinned") }
        let hash = try backend.hash()
        let snapshot = try backend.snapshot()
        #expect(try snapshot.get(.meta, key: "mark") == Array("pinned".utf8))
        var next: Int64 = 4000
        let copied = try bytes(snapshot) {
            if next < 4600 {
                try backend.fill(from: next, count: 20, mark: "later")
                next += 20
            } else if next == 4600 {
                try backend.thin(through: 3000, mark: "later")
                next += 1
            }
        }
        #expect(next > 4600, "nothing was written while the snapshot was read")
        #expect(try backend.hash() != hash)

        let other = try open("other")
        try other.fill(from: 1, count: 10, mark: "mine")
        let replacement = try other.replace(withFile: write(copied, "arrived"))
        replacement.activate()
        #expect(try other.hash() == hash)
        // It goes on as a backend, and opens as one.
        try other.fill(from: 10_000, count: 500, mark: "on")
        let after = try other.hash()
        #expect(try open("other").hash() == after)
    }

    @Test func aSnapshotEndsWhenItHoldsUpTooMuch() throws {
        var configuration = BackendConfiguration(mapBytes: 64 << 20)
        configuration.maxGrowthUnderSnapshot = 256 << 10
        let backend = try Backend(path: temporary.path + "/db", configuration: configuration)
        try backend.fill(from: 1, count: 100, mark: "a")
        let snapshot = try backend.snapshot()
        _ = try bytes(snapshot)
        try backend.fill(from: 1000, count: 3000, mark: "b")
        let error = #expect(throws: DiskError.self) { _ = try bytes(snapshot) }
        #expect(error?.reason == .snapshotTooOld)
        // And one that begins now is whole.
        #expect(try bytes(try backend.snapshot()).count > 900_000)
        // Beyond its end there is nothing.
        var beyond: [UInt8] = [0]
        #expect(throws: DiskError.self) {
            try beyond.withUnsafeMutableBytes { try snapshot.read(at: snapshot.byteCount, into: $0) }
        }
    }

    /// Readers see the old state until the new one is in force; one at work sees it to the end.
    @Test func readersChangeOverAtOnce() throws {
        let source = try open("source")
        try source.fill(from: 1, count: 500, mark: "new")
        let file = try write(try bytes(try source.snapshot()), "arrived")

        let backend = try open("db")
        try backend.fill(from: 1, count: 20, mark: "old")
        let working = try backend.makeReader()
        let resting = try backend.makeReader()
        let never = try backend.makeReader()
        try working.renew()
        try resting.renew()
        resting.reset()

        let replacement = try backend.replace(withFile: file)
        #expect(!FileManager.default.fileExists(atPath: file))
        try resting.renew()
        #expect(try resting.mark == "old")
        resting.reset()
        let ahead = try replacement.makeReader()
        try ahead.renew()
        #expect(try ahead.records == 500)

        replacement.activate()
        #expect(try working.mark == "old")
        #expect(try working.records == 20)
        backend.releaseReplaced()
        // Only the reader at work still has the old file open.
        #expect(openDeletedFiles() > 0)
        #expect(try working.records == 20)
        // It closes on the writer's thread, not on this reader's.
        working.reset()
        #expect(openDeletedFiles() > 0)
        backend.releaseReplaced()
        #expect(openDeletedFiles() == 0)
        for reader in [working, resting, never] {
            try reader.renew()
            #expect(try reader.mark == "new")
            #expect(try reader.records == 500)
            reader.reset()
        }
        try backend.fill(from: 1000, count: 1, mark: "newer")
        try resting.renew()
        #expect(try resting.mark == "newer")
        resting.reset()
    }

    /// The bound on growth was taken from the default map, whatever the map was: a leader with a small one would have
    /// found it full in its next commit.
    @Test func aSnapshotGivesWayBeforeTheMapIsFull() throws {
        var configuration = BackendConfiguration()
        configuration.mapBytes = 4 << 20
        let backend = try Backend(path: temporary.path + "/small", configuration: configuration)
        try backend.fill(from: 1, count: 10, mark: "1")
        let snapshot = try backend.snapshot()
        var page = [UInt8](repeating: 0, count: 4096)
        func read() throws { try page.withUnsafeMutableBytes { try snapshot.read(at: 8192, into: $0) } }
        try read()
        var last = 10
        #expect(throws: DiskError.self) {
            while last < 100_000 {
                try backend.fill(from: Int64(last + 1), count: 500, mark: "\(last)")
                last += 500
                try read()
            }
        }
        // What broke off was the snapshot, with room left for the writer.
        #expect(last < 100_000)
        try backend.fill(from: Int64(last + 1), count: 500, mark: "on")
    }

    /// Data files of this test that are open and have no name any more.
    private func openDeletedFiles() -> Int {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? []
        let targets = names.compactMap {
            try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/" + $0)
        }
        return targets.count {
            $0.hasPrefix(temporary.path) && $0.hasSuffix("data.mdb (deleted)")
        }
    }

    /// Readers on other threads while files are replaced: every state seen is whole.
    @Test func readersOnOtherThreadsWhileFilesAreReplaced() async throws {
        let source = try open("source")
        let backend = try open("db")
        try backend.fill(from: 1, count: 1, mark: "1")
        try await withThrowingTaskGroup(of: Int.self) { group in
            for _ in 0..<3 {
                group.addTask {
                    let reader = try backend.makeReader()
                    var last = 0
                    while last < 30 {
                        try Task.checkCancellation()
                        try reader.renew()
                        let number = Int(try reader.mark ?? "") ?? -1
                        #expect(number >= last)
                        #expect(try reader.records == number)
                        last = number
                        reader.reset()
                        await Task.yield()
                    }
                    return last
                }
            }
            for round in 2...30 {
                try source.fill(from: round == 2 ? 1 : Int64(round), count: round == 2 ? 2 : 1, mark: "\(round)")
                let file = try write(try bytes(try source.snapshot()), "arrived-\(round)")
                let replacement = try backend.replace(withFile: file)
                await Task.yield()
                replacement.activate()
                backend.releaseReplaced()
            }
            for try await last in group { #expect(last == 30) }
        }
        backend.releaseReplaced()
        #expect(openDeletedFiles() == 0)
    }

    @Test func aDamagedFileIsNotTakenOver() throws {
        let source = try open("source")
        try source.fill(from: 1, count: 3000, mark: "new")
        let whole = try bytes(try source.snapshot())
        let backend = try open("db")
        try backend.fill(from: 1, count: 20, mark: "old")
        let hash = try backend.hash()
        let half = try write(Array(whole[..<(whole.count / 2)]), "half")
        #expect(throws: BackendError.self) { _ = try backend.replace(withFile: half) }
        let noise = try write([UInt8](repeating: 0x55, count: 65_536), "noise")
        #expect(throws: BackendError.self) { _ = try backend.replace(withFile: noise) }
        #expect(try backend.hash() == hash)
        try backend.fill(from: 100, count: 1, mark: "on")
    }
}
