// Every key must reach exactly the watchers whose range holds it, each once and in a repeatable order,
// while watchers come and go: compared with a plain list.

import KVCodec
import Testing

@testable import MVCC

private struct Listed {
    var token: WatcherToken
    var key: Bytes
    var rangeEnd: Bytes
    var watcher: Int
}

private func add(
    _ index: WatcherIndex<Int>, _ key: Bytes, _ rangeEnd: Bytes, _ watcher: Int
) -> WatcherToken {
    key.withUnsafeBytes { key in
        rangeEnd.withUnsafeBytes { index.add(key: key, rangeEnd: $0, watcher) }
    }
}

private func matches(_ index: WatcherIndex<Int>, _ key: Bytes) -> [WatcherGroup<Int>] {
    var groups: [WatcherGroup<Int>] = []
    key.withUnsafeBytes { index.forEachGroup(matching: $0) { groups.append($0) } }
    return groups
}

@Suite struct WatcherIndexTests {
    @Test(arguments: 0..<12)
    func findsWhatAListFinds(_ seed: Int) {
        var random = SeededGenerator(UInt64(seed))
        let index = WatcherIndex<Int>(seed: UInt64(seed % 3))
        var listed: [Listed] = []
        func key() -> Bytes {
            (0..<Int.random(in: 1...4, using: &random)).map { _ in
                UInt8.random(in: 0...4, using: &random)
            }
        }
        for step in 0..<1_500 {
            let isGrowing = step < 500 || (step > 900 && step < 1_200)
            if random.chance(isGrowing ? 7 : 4, in: 10) {
                let begin = key()
                let end: Bytes =
                    switch Int.random(in: 0..<5, using: &random) {
                    case 0: [0]
                    case 1: KeyRange.prefixEnd(begin)
                    case 2: key()
                    default: []
                    }
                let token = add(index, begin, end, step)
                listed.append(Listed(token: token, key: begin, rangeEnd: end, watcher: step))
            } else if let place = listed.indices.randomElement(using: &random) {
                let gone = listed.remove(at: place)
                #expect(index.remove(gone.token) == gone.watcher)
                #expect(index.remove(gone.token) == nil)
            }
            #expect(index.watcherCount == listed.count)
            let asked = key()
            let expected = asked.withUnsafeBytes { asked in
                listed.filter { item in
                    item.key.withUnsafeBytes { from in
                        item.rangeEnd.withUnsafeBytes {
                            KeyRange.contains(asked, from: from, rangeEnd: $0)
                        }
                    }
                }.map(\.watcher).sorted()
            }
            let groups = matches(index, asked)
            #expect(groups.flatMap(\.watchers).sorted() == expected, "seed \(seed) step \(step)")
            let ranges = groups.map { [Bytes($0.key), Bytes($0.rangeEnd)] }
            #expect(Set(ranges).count == ranges.count, "a range has two groups")
        }
        #expect(index.groupCount == Set(listed.map { [$0.key, $0.rangeEnd] }).count)
        for item in listed { #expect(index.remove(item.token) == item.watcher) }
        #expect(index.groupCount == 0 && index.watcherCount == 0)
    }

    @Test func identicalRangesShareOneGroupAndOrderIsByBeginThenEnd() {
        let index = WatcherIndex<Int>()
        let tokens = [
            add(index, bytes("b"), bytes("d"), 1), add(index, bytes("a"), [0], 2),
            add(index, bytes("c"), [], 3), add(index, bytes("b"), bytes("d"), 4),
            add(index, bytes("a"), bytes("d"), 5), add(index, bytes("c"), [], 6),
        ]
        #expect(matches(index, bytes("c")).map(\.watchers) == [[3, 6], [5], [2], [1, 4]])
        #expect(index.groupCount == 4)
        index.remove(tokens[0])
        #expect(matches(index, bytes("c")).map(\.watchers) == [[3, 6], [5], [2], [4]])
        #expect(matches(index, bytes("d")).map(\.watchers) == [[2]])
        #expect(index.group(of: tokens[0]) == nil)
        #expect(index.group(of: tokens[3])?.watchers == [4])
    }

    @Test func aRemovedTokenStaysInvalidWhenItsPlaceIsUsedAgain() {
        let index = WatcherIndex<Int>()
        let first = add(index, bytes("a"), [], 1)
        index.remove(first)
        let second = add(index, bytes("a"), [], 2)
        #expect(index.remove(first) == nil)
        #expect(index.remove(second) == 2)
    }

    @Test func anEmptyRangeNeverMatches() {
        let index = WatcherIndex<Int>()
        _ = add(index, bytes("b"), bytes("a"), 1)
        #expect(matches(index, bytes("a")).isEmpty && matches(index, bytes("b")).isEmpty)
    }
}
