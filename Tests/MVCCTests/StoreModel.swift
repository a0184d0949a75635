// What the store must do, written as simply as possible: every change ever made in one list, every
// question answered by going through it.

import KVCodec

@testable import MVCC

struct StoreModel {
    struct Version: Equatable {
        var revision: Revision
        /// nil: a tombstone.
        var pair: Pair?
    }

    /// All versions ever written of each key, oldest first.
    private(set) var versions: [Bytes: [Version]] = [:]
    private(set) var current: Int64 = 1
    var compacted: Int64 = -1
    private var main: Int64 = 2
    private var sub: Int64 = 0

    private func select(_ key: Bytes, _ rangeEnd: Bytes) -> [Bytes] {
        versions.keys.filter { candidate in
            if rangeEnd.isEmpty { return candidate == key }
            if !key.lexicographicallyPrecedes(candidate) && candidate != key { return false }
            return rangeEnd == [0] || candidate.lexicographicallyPrecedes(rangeEnd)
        }.sorted { $0.lexicographicallyPrecedes($1) }
    }

    func version(_ key: Bytes, at revision: Int64) -> Version? {
        versions[key]?.last { $0.revision.main <= revision }
    }

    /// Live pairs of a range at a revision, in key order.
    func live(_ key: Bytes, _ rangeEnd: Bytes, at revision: Int64) -> [Pair] {
        select(key, rangeEnd).compactMap { version($0, at: revision)?.pair }
    }

    // MARK: Transactions

    mutating func begin() {
        main = current + 1
        sub = 0
    }

    var transactionRevision: Int64 { sub == 0 ? current : main }

    mutating func put(_ key: Bytes, _ value: Bytes, lease: Int64) -> Pair? {
        let previous = versions[key]?.last?.pair
        let pair = Pair(
            key: key, value: value, create: previous?.create ?? main, mod: main,
            version: (previous?.version ?? 0) + 1, lease: lease)
        versions[key, default: []].append(
            Version(revision: Revision(main: main, sub: sub), pair: pair))
        sub += 1
        return previous
    }

    mutating func delete(_ key: Bytes, _ rangeEnd: Bytes) -> [Pair] {
        let gone = live(key, rangeEnd, at: .max)
        for pair in gone {
            versions[pair.key]?.append(
                Version(revision: Revision(main: main, sub: sub), pair: nil))
            sub += 1
        }
        return gone
    }

    /// The events of the transaction, nil when it wrote nothing.
    mutating func commit() -> [Seen]? {
        if sub == 0 { return nil }
        current = main
        return events(from: main, through: main)
    }

    // MARK: Questions

    func events(from: Int64, through: Int64) -> [Seen] {
        var found: [(Revision, Seen)] = []
        for (key, all) in versions {
            for version in all
            where version.revision.main >= from && version.revision.main <= through {
                let main = version.revision.main
                let before = reachable(key).last { $0.revision.main < main }
                found.append(
                    (
                        version.revision,
                        Seen(
                            revision: main, isDelete: version.pair == nil,
                            pair: version.pair
                                ?? Pair(
                                    key: key, value: [], create: 0, mod: main, version: 0, lease: 0),
                            previous: before?.pair == nil ? nil : before?.revision,
                            created: version.pair?.create == main)
                    ))
            }
        }
        return found.sorted { $0.0 < $1.0 }.map(\.1)
    }

    func hasRepeatedKey(in revision: Int64) -> Bool {
        versions.values.contains { $0.count { $0.revision.main == revision } > 1 }
    }

    /// The versions of a key that a finished compaction leaves.
    func reachable(_ key: Bytes) -> [Version] {
        let all = versions[key] ?? []
        guard let newest = all.lastIndex(where: { $0.revision.main <= compacted }) else { return all }
        let isGone = all[newest].pair == nil && all[newest].revision.main < compacted
        return Array(all[(isGone ? newest + 1 : newest)...])
    }

    /// All revisions that must be in the backend after a finished compaction.
    var reachableRevisions: [Revision] {
        versions.keys.flatMap { reachable($0).map(\.revision) }.sorted()
    }

    func range(_ query: ModelQuery) -> ModelReply {
        if query.revision > current { return .future(current) }
        let revision = query.revision <= 0 ? current : query.revision
        if revision < compacted { return .compacted(compacted) }
        let all = live(query.key, query.rangeEnd, at: revision)
        if query.countOnly {
            return .reply([], RangeResult(count: Int64(all.count), more: false, revision: current))
        }
        var found = all
        let hasFilter = [
            query.minMod, query.maxMod, query.minCreate, query.maxCreate,
        ].contains { $0 != 0 }
        let isDefault = query.order == 0 || (query.target == 0 && query.order == 1)
        if query.limit > 0 && isDefault && !hasFilter { found = Array(found.prefix(query.limit + 1)) }
        found.removeAll {
            (query.minMod != 0 && $0.mod < query.minMod)
                || (query.maxMod != 0 && $0.mod > query.maxMod)
                || (query.minCreate != 0 && $0.create < query.minCreate)
                || (query.maxCreate != 0 && $0.create > query.maxCreate)
        }
        if query.order != 0 || query.target != 0 {
            // A stable insertion sort; ties keep key order.
            func precedes(_ left: Pair, _ right: Pair) -> Bool {
                switch query.target {
                case 1: left.version < right.version
                case 2: left.create < right.create
                case 3: left.mod < right.mod
                case 4: left.value.lexicographicallyPrecedes(right.value)
                default: left.key.lexicographicallyPrecedes(right.key)
                }
            }
            var sorted: [Pair] = []
            for pair in found {
                let place = sorted.firstIndex {
                    query.order == 2 ? precedes($0, pair) : precedes(pair, $0)
                }
                sorted.insert(pair, at: place ?? sorted.count)
            }
            found = sorted
        }
        var more = false
        if query.limit > 0 && found.count > query.limit {
            found.removeLast(found.count - query.limit)
            more = true
        }
        if query.keysOnly { for position in found.indices { found[position].value = [] } }
        return .reply(
            found, RangeResult(count: Int64(all.count), more: more, revision: current))
    }

    /// etcd's HashKV by its definition.
    func hash(at asked: Int64) -> UInt32 {
        let revision = asked == 0 ? current : asked
        var all: [(Revision, Bytes, Version)] = []
        for (key, list) in versions { for version in list { all.append((version.revision, key, version)) } }
        all.sort { $0.0 < $1.0 }
        let hasLive = versions.keys.contains { version($0, at: revision)?.pair != nil }
        var crc = ReferenceCRC32C()
        crc.add(bytes("key"))
        for (found, key, version) in all where found.main <= revision {
            if found.main <= compacted {
                if version.pair == nil { continue }
                let visible = self.version(key, at: hasLive ? revision : compacted)
                if visible?.revision != found { continue }
            }
            crc.add(withUnsafeBytes(of: found.main.bigEndian) { Bytes($0) })
            crc.add(bytes("_"))
            crc.add(withUnsafeBytes(of: found.sub.bigEndian) { Bytes($0) })
            if let pair = version.pair {
                crc.add(pair.encoded)
            } else {
                crc.add(bytes("t"))
                var writer = ByteWriter()
                writer.data(1, key)
                crc.add(writer.bytes)
            }
        }
        return crc.value
    }
}

struct ModelQuery: CustomStringConvertible {
    var key: Bytes
    var rangeEnd: Bytes
    var limit = 0
    var revision: Int64 = 0
    var order: Int32 = 0
    var target: Int32 = 0
    var keysOnly = false
    var countOnly = false
    var minMod: Int64 = 0
    var maxMod: Int64 = 0
    var minCreate: Int64 = 0
    var maxCreate: Int64 = 0

    func apply(to query: inout RangeQuery) {
        query.limit = Int64(limit)
        query.revision = revision
        query.sortOrder = order
        query.sortTarget = target
        query.keysOnly = keysOnly
        query.countOnly = countOnly
        query.minModRevision = minMod
        query.maxModRevision = maxMod
        query.minCreateRevision = minCreate
        query.maxCreateRevision = maxCreate
    }

    var description: String {
        "\(printable(key))..\(printable(rangeEnd)) limit \(limit) rev \(revision) order \(order) "
            + "target \(target) keysOnly \(keysOnly) countOnly \(countOnly) mod \(minMod)...\(maxMod) "
            + "create \(minCreate)...\(maxCreate)"
    }
}

enum ModelReply: Equatable {
    case reply([Pair], RangeResult)
    case compacted(Int64)
    case future(Int64)
}

/// CRC32C bit by bit.
struct ReferenceCRC32C {
    private var register: UInt32 = .max
    var value: UInt32 { ~register }

    mutating func add(_ bytes: Bytes) {
        for byte in bytes {
            register ^= UInt32(byte)
            for _ in 0..<8 {
                register = register & 1 == 1 ? register >> 1 ^ 0x82F6_3B78 : register >> 1
            }
        }
    }
}
