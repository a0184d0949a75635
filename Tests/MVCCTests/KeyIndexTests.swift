// The key index must be a sorted map with counts, for any shape of keys: built, changed and compacted
// in different orders, compared with a sorted array, and checked node by node (IndexChecker).

import KVCodec
import Testing

@testable import MVCC

private var nothing: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

extension KeyIndex {
    fileprivate func write(_ key: Bytes, _ main: Int64, version: Int64 = 1) {
        key.withUnsafeBytes { key in
            let (place, found) = locate(key)
            let revision = Revision(main: main, sub: 0)
            if found {
                replace(
                    place, revision: revision, create: main, version: version, lease: 0,
                    recordSize: 10)
            } else {
                insert(
                    key, at: place, revision: revision, create: main, version: version, lease: 0,
                    recordSize: 10)
            }
        }
    }

    fileprivate func compactAll(_ revision: Int64) -> [Revision] {
        var removed: [Revision] = []
        var next: Bytes? = []
        while let key = next {
            next = compactLeaf(at: key, revision: revision, removed: &removed).next
        }
        return removed
    }

    fileprivate func keys() -> [Bytes] { checked().map { Bytes($0.key) } }
}

private func sorted(_ keys: some Sequence<Bytes>) -> [Bytes] {
    keys.sorted { $0.lexicographicallyPrecedes($1) }
}

/// Families of keys that trouble the prefix and the heads in different ways.
enum KeyShape: String, CaseIterable {
    case rising, falling, scattered, longCommonPrefix, equalHeads, zeros, mixedLengths, twoStreams
    case beyondInlinePrefix, diverging

    func keys(_ count: Int, _ random: inout SeededGenerator) -> [Bytes] {
        let digits = { (number: Int) in
            bytes(String(repeating: "0", count: max(0, 10 - String(number).count)) + String(number))
        }
        switch self {
        case .rising: return (0..<count).map { bytes("/registry/pods/") + digits($0) }
        case .falling: return (0..<count).reversed().map { bytes("/registry/pods/") + digits($0) }
        case .scattered:
            return (0..<count).map { _ in
                (0..<9).map { _ in UInt8.random(in: 0...255, using: &random) }
            }
        case .longCommonPrefix:
            return (0..<count).shuffled(using: &random).map {
                Bytes(repeating: 0x70, count: 80) + digits($0)
            }
        case .beyondInlinePrefix:
            return (0..<count).shuffled(using: &random).map {
                Bytes(repeating: 0xFF, count: 200) + digits($0)
            }
        case .diverging:
            // Leaves with a long common prefix get keys that leave it early.
            let stem = (0..<60).map { UInt8(0x61 + $0 % 20) }
            return (0..<count).map { number in
                let isDeep = number % 8 != 0
                let depth = isDeep ? 58 : Int.random(in: 0...60, using: &random)
                return Bytes(stem.prefix(depth))
                    + digits(Int.random(in: 0..<count, using: &random)).suffix(isDeep ? 4 : 2)
            }
        case .equalHeads:
            return (0..<count).shuffled(using: &random).map {
                [UInt8($0 % 3)] + Bytes(repeating: 9, count: 12) + digits($0)
            }
        case .zeros: return (0..<min(count, 400)).shuffled(using: &random).map { Bytes(repeating: 0, count: $0) }
        case .mixedLengths:
            return (0..<count).map { _ in
                (0..<Int.random(in: 0...6, using: &random)).map { _ in
                    [0, 1, 0xFE, 0xFF].randomElement(using: &random) ?? 0
                }
            }
        case .twoStreams:
            return (0..<count).map { bytes($0 % 2 == 0 ? "a/" : "b/") + digits($0) }
        }
    }
}

@Suite struct KeyIndexTests {
    @Test(arguments: KeyShape.allCases)
    func isASortedMapForAnyShapeOfKeys(_ shape: KeyShape) {
        var random = SeededGenerator(7)
        let keys = shape.keys(1_000, &random)
        let index = KeyIndex(chunkBytes: 1 << 16)
        var live: Set<Bytes> = []
        for (position, key) in keys.enumerated() {
            index.write(key, Int64(position + 2))
            live.insert(key)
            if position % 300 == 0 { index.checked() }
        }
        let all = sorted(live)
        #expect(index.keys() == all)
        for key in all {
            must(key.withUnsafeBytes { index.find($0).map { Bytes($0.key) } } == key)
            let absent = key + [0x55]
            must(absent.withUnsafeBytes { index.find($0) } == nil || live.contains(absent))
        }
        expectCounts(index, all, &random)

        // Tombstones do not count, come back, and leave with compaction.
        for key in all where random.chance(2, in: 3) {
            index.write(key, 5_000, version: 0)
            live.remove(key)
        }
        for key in all where !live.contains(key) && random.chance(1, in: 10) {
            index.write(key, 6_000)
            live.insert(key)
        }
        expectCounts(index, sorted(live), &random)
        #expect(index.keys() == all)
        _ = index.compactAll(7_000)
        #expect(index.keys() == sorted(live))
        expectCounts(index, sorted(live), &random)
        #expect(index.olderCount == 0)

        // Everything goes; the empty tree is as good as a new one.
        for key in live { index.write(key, 8_000, version: 0) }
        _ = index.compactAll(8_001)
        #expect(index.keys() == [])
        #expect(index.depth == 0 && index.usage.arenaBytes == 0 && index.usage.nodes == 1)
        for key in all.prefix(200) { index.write(key, 9_000) }
        #expect(index.keys() == Array(all.prefix(200)))
    }

    private func expectCounts(
        _ index: KeyIndex, _ live: [Bytes], _ random: inout SeededGenerator
    ) {
        #expect(index.liveCount == live.count)
        for _ in 0..<40 {
            let key = live.randomElement(using: &random) ?? []
            let end =
                random.chance(1, in: 5)
                ? [0] : live.randomElement(using: &random).map { $0 + [UInt8.random(in: 0...1, using: &random)] } ?? [0]
            let expected = live.count { candidate in
                !candidate.lexicographicallyPrecedes(key)
                    && (end == [0] || candidate.lexicographicallyPrecedes(end))
            }
            let counted = key.withUnsafeBytes { key in
                end.withUnsafeBytes { index.liveCount(key, $0) }
            }
            if end.isEmpty { continue }
            #expect(counted == expected, "\(printable(key))..\(printable(end))")
        }
    }

    @Test func walkPausesAndResumesAnywhere() {
        var random = SeededGenerator(11)
        let keys = sorted(Set(KeyShape.mixedLengths.keys(1_000, &random)))
        let index = KeyIndex(chunkBytes: 1 << 16)
        for key in keys { index.write(key, 2) }
        for step in [1, 2, 63, 64, 65, 5_000] {
            var seen: [Bytes] = []
            var after: Bytes?
            repeat {
                let everything: Bytes = [0]
                after = everything.withUnsafeBytes { end in
                    index.walk(
                        nothing, end, after: after, revision: 2, isCurrent: step % 2 == 0,
                        maximumEntries: step
                    ) { entry, _ in
                        seen.append(Bytes(entry.key))
                        return true
                    }.map { Bytes($0.key) }
                }
            } while after != nil
            #expect(seen == keys, "step \(step)")
        }
    }

    @Test func aHotKeyKeepsItsWholeHistoryInOrder() {
        let index = KeyIndex(chunkBytes: 1 << 16)
        let key = bytes("hot")
        index.write(key, 2)
        for main in 3...10_000 { index.write(key, Int64(main), version: main % 10 == 0 ? 0 : 1) }
        index.checked()
        let entry = key.withUnsafeBytes { index.find($0) }
        for main in stride(from: 2, through: 10_000, by: 7) {
            let version = entry?.version(at: Int64(main))
            must(version?.revision == Revision(main: Int64(main), sub: 0))
            must(version?.isTombstone == (main % 10 == 0))
        }
        #expect(entry?.version(at: 1) == nil)
        // Kept: 5001... and the newest up to 5000, a tombstone at exactly that revision.
        let removed = index.compactAll(5_000)
        #expect(removed == (2...4_999).map { Revision(main: Int64($0), sub: 0) })
        index.checked()
        #expect(index.compactAll(5_001).map(\.main) == [5_000])
        #expect(index.compactAll(5_009).map(\.main) == Array(5_001...5_008))
        #expect(index.compactAll(9_999).count == 4_990)
        index.checked()
        #expect(key.withUnsafeBytes { index.find($0) }?.olderCount == 1)
        #expect(index.compactAll(10_000).map(\.main) == [9_999])
        #expect(index.compactAll(10_001).map(\.main) == [10_000])
        #expect(index.usage.arenaBytes == 0)
    }

    @Test func keysLargerThanAnySizeClass() {
        let index = KeyIndex(chunkBytes: 1 << 16)
        let keys = (0..<100).map { Bytes(repeating: 7, count: 3_000 + 40 * $0) + [UInt8($0)] }
        for (position, key) in keys.enumerated() { index.write(key, Int64(position + 2)) }
        #expect(index.keys() == sorted(keys))
        for key in keys { index.write(key, 500, version: 0) }
        _ = index.compactAll(501)
        #expect(index.usage.arenaBytes == 0)
    }

    @Test func headsOrderKeysOfUnequalLength() {
        let keys: [Bytes] = [
            [], [0], [0, 0], [0, 0, 0, 0, 0, 0, 0, 0], Bytes(repeating: 0, count: 9), [0, 1],
            Bytes(repeating: 0xFF, count: 7), Bytes(repeating: 0xFF, count: 8),
            Bytes(repeating: 0xFF, count: 9),
        ]
        let index = KeyIndex(chunkBytes: 1 << 16)
        for key in keys.reversed() { index.write(key, 2) }
        #expect(index.keys() == keys)
        for (rank, key) in keys.enumerated() {
            #expect(key.withUnsafeBytes { index.liveRank($0) } == rank)
        }
    }
}
