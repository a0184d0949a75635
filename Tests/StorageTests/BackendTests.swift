import Foundation
import Storage
import Testing

extension BackendTransaction {
    fileprivate func put(_ bucket: BackendBucket, _ key: String, _ value: String) throws(BackendError) {
        let key = Array(key.utf8)
        let value = Array(value.utf8)
        try key.withUnsafeBufferPointer { key throws(BackendError) in
            try value.withUnsafeBufferPointer { value throws(BackendError) in
                try put(
                    bucket, key: UnsafeRawBufferPointer(key), value: UnsafeRawBufferPointer(value))
            }
        }
    }

    fileprivate func append(
        _ revision: RevisionKey, bytes: Int, byte: UInt8 = 0x61
    ) throws(BackendError) {
        let value = [UInt8](repeating: byte, count: bytes)
        try revision.withBytes { key throws(BackendError) in
            try value.withUnsafeBufferPointer { value throws(BackendError) in
                try put(.key, key: key, value: UnsafeRawBufferPointer(value), append: true)
            }
        }
    }
}

private func withKey<Result>(
    _ text: String, _ body: (UnsafeRawBufferPointer) throws -> Result
) rethrows -> Result {
    try Array(text.utf8).withUnsafeBytes(body)
}

extension BackendReader {
    fileprivate func text(_ bucket: BackendBucket, _ key: String) throws -> String? {
        try withKey(key) { try get(bucket, key: $0) }.map { String(decoding: $0, as: UTF8.self) }
    }

    fileprivate func keys(_ bucket: BackendBucket, from start: String = "", limit: Int = .max) throws -> [String] {
        var found: [String] = []
        try withKey(start) { start in
            try scan(bucket, from: start) { key, _ in
                found.append(String(decoding: key, as: UTF8.self))
                return found.count < limit
            }
        }
        return found
    }
}

/// The LMDB backend: what is committed stays, what is not leaves no trace, readers keep their
/// state.
@Suite struct BackendTests {
    private let temporary = TemporaryDirectory()

    private func open(
        _ name: String = "db", configuration: BackendConfiguration = BackendConfiguration(mapBytes: 64 << 20)
    ) throws -> Backend {
        try Backend(path: temporary.path + "/" + name, configuration: configuration)
    }

    @Test func commitAbortAndReopen() throws {
        struct Stop: Error {}
        do {
            let backend = try open()
            try backend.update { transaction throws(BackendError) in
                try transaction.put(.meta, "a", "1")
                try transaction.put(.authUsers, "root", "x")
                try transaction.put(.authUsers, "empty", "")
            }
            #expect(throws: BackendError.keySize(bytes: 0)) {
                try backend.update { transaction throws(BackendError) in
                    try transaction.put(.meta, "a", "2")
                    #expect(try withKeyValue(transaction, .meta, "a") == "2")
                    try transaction.put(.meta, "", "")
                }
            }
            let reader = try backend.makeReader()
            try reader.renew()
            #expect(try reader.text(.meta, "a") == "1")
        }
        let backend = try open()
        let reader = try backend.makeReader()
        try reader.renew()
        #expect(try reader.text(.meta, "a") == "1")
        #expect(try reader.text(.authUsers, "root") == "x")
        #expect(try reader.text(.authUsers, "empty") == "")
        #expect(try reader.text(.authRoles, "root") == nil)
        #expect(try reader.text(.meta, String(repeating: "k", count: 600)) == nil)
        reader.reset()
        let deleted = try backend.update { transaction throws(BackendError) in
            let key = Array("root".utf8)
            return try key.withUnsafeBufferPointer { key throws(BackendError) in
                let raw = UnsafeRawBufferPointer(key)
                return (
                    try transaction.delete(.authUsers, key: raw),
                    try transaction.delete(.authUsers, key: raw)
                )
            }
        }
        #expect(deleted == (true, false))
        try reader.renew()
        #expect(try reader.keys(.authUsers) == ["empty"])
    }

    private func withKeyValue(
        _ transaction: BackendTransaction, _ bucket: BackendBucket, _ key: String
    ) throws(BackendError) -> String? {
        let key = Array(key.utf8)
        return try key.withUnsafeBufferPointer { key throws(BackendError) in
            try transaction.get(bucket, key: UnsafeRawBufferPointer(key))
        }.map { String(decoding: $0, as: UTF8.self) }
    }

    @Test func readersKeepTheirState() throws {
        let backend = try open()
        try backend.update { transaction throws(BackendError) in try transaction.put(.lease, "k", "old") }
        let early = try backend.makeReader()
        let late = try backend.makeReader()
        try early.renew()
        let pinned = try withKey("k") { try early.get(.lease, key: $0) }
        for round in 0..<50 {
            try backend.update { transaction throws(BackendError) in
                try transaction.put(.lease, "k", "new \(round)")
            }
        }
        try late.renew()
        #expect(try late.text(.lease, "k") == "new 49")
        #expect(try early.text(.lease, "k") == "old")
        #expect(pinned.map { String(decoding: $0, as: UTF8.self) } == "old")
        try early.renew()
        #expect(try early.text(.lease, "k") == "new 49")
    }

    @Test func scansInOrderFromAnyKey() throws {
        let backend = try open()
        let names = (0..<100).map { "k" + String(1000 + $0 * 2) }
        try backend.update { transaction throws(BackendError) in
            for name in names.reversed() { try transaction.put(.cluster, name, name) }
        }
        let reader = try backend.makeReader()
        for _ in 0..<3 {
            try reader.renew()
            #expect(try reader.keys(.cluster) == names)
            #expect(try reader.keys(.cluster, from: "k1101") == Array(names[51...]))
            #expect(try reader.keys(.cluster, from: "k1102", limit: 2) == Array(names[51...52]))
            #expect(try reader.keys(.cluster, from: "l").isEmpty)
            #expect(try reader.keys(.alarm).isEmpty)
            var pairs = 0
            try reader.scan(.cluster) { _, _ in
                // A scan within a scan of the same bucket has its own place.
                pairs += (try? reader.keys(.cluster, limit: 3).count) ?? 0
                return true
            }
            #expect(pairs == 300)
        }
        try backend.update { transaction throws(BackendError) in
            try transaction.clear(.cluster)
            var left = 0
            try transaction.scan(.cluster) { _, _ in
                left += 1
                return true
            }
            #expect(left == 0)
        }
    }

    @Test func revisionsAppendInOrder() throws {
        let backend = try open()
        try backend.update { transaction throws(BackendError) in
            for main in [1, 2, 255, 256, 65536, 1 << 40] as [Int64] {
                try transaction.append(RevisionKey(main: main, sub: 0), bytes: 10)
                try transaction.append(RevisionKey(main: main, sub: 1, isTombstone: true), bytes: 0)
                try transaction.append(RevisionKey(main: main, sub: 300), bytes: 10)
            }
        }
        #expect(throws: BackendError.outOfOrder(bucket: .key)) {
            try backend.update { transaction throws(BackendError) in
                try transaction.append(RevisionKey(main: 256, sub: 0), bytes: 10)
            }
        }
        let reader = try backend.makeReader()
        try reader.renew()
        var found: [RevisionKey?] = []
        try RevisionKey(main: 256, sub: 1).withBytes { start in
            try reader.scan(.key, from: start) { key, _ in
                found.append(RevisionKey(key))
                return true
            }
        }
        #expect(
            found.prefix(3) == [
                RevisionKey(main: 256, sub: 1, isTombstone: true), RevisionKey(main: 256, sub: 300),
                RevisionKey(main: 65536, sub: 0),
            ])
        // The bytes of etcd's own test (revision_test.go): main 1, sub 2.
        RevisionKey(main: 1, sub: 2).withBytes { key in
            #expect(Array(key) == [0, 0, 0, 0, 0, 0, 0, 1, 0x5f, 0, 0, 0, 0, 0, 0, 0, 2])
        }
        for bad in [[], [UInt8](repeating: 0, count: 17), [UInt8](repeating: 0x5f, count: 18)] {
            bad.withUnsafeBytes { #expect(RevisionKey($0) == nil) }
        }
    }

    @Test func fullMapIsTypedAndChangesNothing() throws {
        let backend = try open(configuration: BackendConfiguration(mapBytes: 1 << 20))
        try backend.update { transaction throws(BackendError) in try transaction.put(.meta, "kept", "1") }
        var committed: Int64 = 0
        var error: BackendError?
        while error == nil, committed < 10_000 {
            do throws(BackendError) {
                try backend.update { transaction throws(BackendError) in
                    for main in committed + 1...committed + 100 {
                        try transaction.append(RevisionKey(main: main, sub: 0), bytes: 256)
                    }
                }
                committed += 100
            } catch let caught {
                error = caught
            }
        }
        #expect(error == .mapFull(limit: 1 << 20))
        let reader = try backend.makeReader()
        try reader.renew()
        #expect(try reader.text(.meta, "kept") == "1")
        var count: Int64 = 0
        try reader.scan(.key) { _, _ in
            count += 1
            return true
        }
        #expect(count == committed && committed > 0)
    }

    /// The remedy for a full map is a larger one at the next start.
    @Test func largerMapAtTheNextStart() throws {
        for mapBytes in [256 << 10, 8 << 20] as [UInt64] {
            let backend = try open(configuration: BackendConfiguration(mapBytes: mapBytes))
            let fill = { () throws in
                try backend.update { transaction throws(BackendError) in
                    for main in 1...2000 as ClosedRange<Int64> {
                        try transaction.append(RevisionKey(main: main, sub: 0), bytes: 256)
                    }
                }
            }
            if mapBytes < 1 << 20 {
                #expect(throws: BackendError.mapFull(limit: mapBytes)) { try fill() }
            } else {
                #expect(throws: Never.self) { try fill() }
            }
        }
    }

    @Test func sizesFollowDeletion() throws {
        let backend = try open()
        let empty = try backend.sizes()
        #expect(empty.allocatedBytes > 0 && empty.inUseBytes > 0)
        try backend.update { transaction throws(BackendError) in
            for main in 1...4000 as ClosedRange<Int64> {
                try transaction.append(RevisionKey(main: main, sub: 0), bytes: 256)
            }
        }
        let full = try backend.sizes()
        #expect(full.inUseBytes > 4000 * 256)
        try backend.update { transaction throws(BackendError) in
            for main in 1...3900 as ClosedRange<Int64> {
                try RevisionKey(main: main, sub: 0).withBytes { key throws(BackendError) in
                    _ = try transaction.delete(.key, key: key)
                }
            }
        }
        let after = try backend.sizes()
        #expect(after.allocatedBytes >= full.allocatedBytes)
        #expect(after.inUseBytes < full.inUseBytes / 5)
        #expect(after.inUseBytes + after.freePages * after.pageBytes == after.allocatedBytes)
    }

    @Test func copiesEqualTheOriginal() throws {
        let backend = try open()
        try backend.update { transaction throws(BackendError) in
            for main in 1...3000 as ClosedRange<Int64> {
                try transaction.append(RevisionKey(main: main, sub: 0), bytes: 300)
            }
            try transaction.put(.meta, "consistent_index", "x")
        }
        let hash = try backend.hash()
        let partial = try backend.hash { bucket, key in
            bucket == .meta && String(decoding: key, as: UTF8.self) == "consistent_index"
        }
        #expect(hash != partial)
        for compacting in [false, true] {
            let directory = temporary.path + "/copy-\(compacting)"
            try PosixDisk().createDirectory(directory)
            try backend.copy(toFile: directory + "/data.mdb", compacting: compacting)
            #expect(try open("copy-\(compacting)").hash() == hash)
            #expect(throws: BackendError.self) {
                try backend.copy(toFile: directory + "/data.mdb", compacting: compacting)
            }
        }
        try backend.update { transaction throws(BackendError) in
            try transaction.put(.meta, "consistent_index", "y")
        }
        #expect(try backend.hash() != hash)
    }

    @Test func refusals() throws {
        let newer = try open("newer")
        try newer.update { transaction throws(BackendError) in
            let key = Array(Backend.formatKey.utf8)
            let value: [UInt8] = [0, 0, 0, 9]
            try key.withUnsafeBufferPointer { key throws(BackendError) in
                try value.withUnsafeBufferPointer { value throws(BackendError) in
                    try transaction.put(
                        .meta, key: UnsafeRawBufferPointer(key), value: UnsafeRawBufferPointer(value))
                }
            }
        }
        let path = temporary.path + "/newer"
        #expect(throws: BackendError.unsupportedFormat(path: path, found: 9, supported: 1)) {
            try open("newer")
        }
        let damaged = temporary.path + "/damaged"
        try PosixDisk().createDirectory(damaged)
        try Data(repeating: 0x55, count: 16384).write(to: URL(fileURLWithPath: damaged + "/data.mdb"))
        let error = #expect(throws: BackendError.self) { try open("damaged") }
        #expect(error?.description.contains(damaged) == true)
        let wide = temporary.path + "/wide"
        try PosixDisk().createDirectory(wide)
        chmod(wide, 0o755)
        #expect(throws: BackendError.disk(DiskError(.createDirectory, path: wide, .permissions(0o755)))) {
            try open("wide")
        }
        let few = try open("few", configuration: BackendConfiguration(mapBytes: 1 << 20, maxReaders: 2))
        let readers = [try few.makeReader(), try few.makeReader()]
        #expect(throws: BackendError.readersFull(limit: 2)) { try few.makeReader() }
        #expect(readers.count == 2)
    }

    /// Readers on other threads while one thread writes: every state seen is one that was committed
    /// whole.
    @Test func readersOnOtherThreads() async throws {
        let backend = try open()
        try backend.update { transaction throws(BackendError) in
            try transaction.put(.alarm, "a", "0")
            try transaction.put(.auth, "b", "0")
        }
        try await withThrowingTaskGroup(of: Int.self) { group in
            for _ in 0..<3 {
                group.addTask {
                    let reader = try backend.makeReader()
                    var last = 0
                    var changes = 0
                    while last < 150 {
                        try reader.renew()
                        let first = try reader.text(.alarm, "a")
                        let second = try reader.text(.auth, "b")
                        #expect(first == second)
                        let value = Int(first ?? "") ?? -1
                        #expect(value >= last)
                        changes += value > last ? 1 : 0
                        last = value
                        reader.reset()
                        await Task.yield()
                    }
                    return changes
                }
            }
            for round in 1...150 {
                try backend.update { transaction throws(BackendError) in
                    try transaction.put(.alarm, "a", "\(round)")
                    try transaction.put(.auth, "b", "\(round)")
                }
                await Task.yield()
            }
            for try await changes in group {
                #expect(changes > 0)
            }
        }
    }
}
