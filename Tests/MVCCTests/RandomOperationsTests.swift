// The store must answer every question as a list of all changes would (StoreModel), whatever was
// frozen, committed, released, compacted or restored in between: checked by seeds of random
// operations with tiny bounds, so that reads are cut into many chunks.

import Glibc
import KVCodec
import Testing

@testable import MVCC

private struct RandomRun {
    /// One backend transaction to be: records, deletes of earlier compaction steps, figures.
    struct Frozen {
        var pending: PendingRecords?
        var deletes: [Revision]
        var durable: Durable
        var isCommitted = false
    }

    /// What would survive a crash, besides the records.
    struct Durable {
        var model = StoreModel()
        var lastRevision: Int64 = 1
        var scheduled: Int64 = -1
        var finished: Int64 = -1
    }

    let seed: UInt64
    var random: SeededGenerator
    let store: MVCCStore
    let records = InMemoryRecords()
    let reader: InMemoryReader
    var model = StoreModel()
    var durable = Durable()
    var frozen: [Frozen] = []
    var deletes: [Revision] = []
    let keys: [Bytes]
    static let prefixes = [bytes("/a"), bytes("/a/b"), bytes("k")]

    init(seed: UInt64, keyCount: Int) {
        self.seed = seed
        random = SeededGenerator(seed)
        var configuration = MVCCConfiguration()
        configuration.rangeChunkKeys = [1, 2, 5, 1_000].randomElement(using: &random) ?? 1
        configuration.rangeChunkBytes = [1, 100, 1 << 20].randomElement(using: &random) ?? 1
        configuration.pinnedReaders = Int.random(in: 0...2, using: &random)
        configuration.recordChunkBytes = 256
        configuration.maximumRecordChunkBytes = 512
        configuration.recentRecordBytes = [0, 4_000, 1 << 20].randomElement(using: &random) ?? 0
        configuration.declaredPrefixes = Self.prefixes
        store = MVCCStore(configuration: configuration)
        reader = records.reader()
        keys = Self.makeKeys(keyCount, &random)
    }

    private static func makeKeys(_ count: Int, _ random: inout SeededGenerator) -> [Bytes] {
        var keys: Set<Bytes> = [
            bytes("a"), bytes("a") + [0], bytes("a") + [0, 0], [0], [0xFF], [0xFF, 0xFF],
            Bytes(repeating: 0xFF, count: 20), bytes("/a/b/c"), bytes("/a/b"),
        ]
        let long = Bytes(repeating: UInt8(ascii: "x"), count: 120)
        var counter = 0
        while keys.count < count {
            counter += 1
            switch Int.random(in: 0..<5, using: &random) {
            case 0: keys.insert(bytes("/a/b/\(Int.random(in: 0..<99_999, using: &random))"))
            case 1: keys.insert(bytes("/a/\(counter)"))
            case 2: keys.insert(long + bytes("\(counter % 7)"))
            case 3:
                keys.insert(
                    (0..<Int.random(in: 1...12, using: &random)).map { _ in
                        UInt8.random(in: 0...3, using: &random)
                    })
            default: keys.insert(bytes("key/\(String(counter, radix: 2))"))
            }
        }
        return keys.sorted { $0.lexicographicallyPrecedes($1) }
    }

    mutating func key() -> Bytes { keys.randomElement(using: &random) ?? [1] }

    mutating func rangeEnd(_ key: Bytes) -> Bytes {
        switch Int.random(in: 0..<6, using: &random) {
        case 0, 1: []
        case 2: [0]
        case 3: KeyRange.prefixEnd(Bytes(key.prefix(max(1, key.count / 2))))
        default: self.key()
        }
    }

    mutating func value() -> Bytes {
        Bytes(
            repeating: UInt8.random(in: 1...9, using: &random),
            count: random.chance(1, in: 40) ? 700 : Int.random(in: 0...20, using: &random))
    }

    mutating func run(steps: Int) throws {
        for step in 0..<steps {
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<35: try transaction()
            case 35..<65: try range()
            case 65..<72: try history()
            case 72..<78: compact()
            case 78..<83: compactionStep()
            case 83..<88: freeze()
            case 88..<93: commitOldest()
            case 93..<96: releaseOldest()
            case 96: try hash()
            case 97: if random.chance(1, in: 3) { try restore(afterCrash: random.chance(1, in: 2)) }
            case 98: try finishCompaction()
            default: checkFigures()
            }
            if step % 50 == 0 { store.index.checked() }
            #expect(!reader.isOpen, "a read left its transaction open")
        }
        checkFigures()
        store.index.checked()
    }

    // MARK: Steps

    mutating func transaction() throws {
        store.beginBatch()
        for _ in 0..<Int.random(in: 1...3, using: &random) {
            store.begin(reader: reader)
            model.begin()
            for _ in 0..<Int.random(in: 0...4, using: &random) {
                switch Int.random(in: 0..<10, using: &random) {
                case 0..<6: putOne()
                case 6..<9: deleteSome()
                default: try rangeInside()
                }
                #expect(store.transactionRevision == model.transactionRevision)
            }
            let expected = model.commit()
            let batch = store.commit(reason: .client)
            #expect(batch.map { events($0) } == expected, "seed \(seed)")
            if let batch { #expect(batch.revision == model.current) }
            #expect(store.currentRevision == model.current)
        }
        store.endBatch()
    }

    mutating func putOne() {
        let key = key()
        let value = value()
        let lease = random.chance(1, in: 3) ? Int64.random(in: 1...4, using: &random) : 0
        let expected = model.put(key, value, lease: lease)
        let previous = store.put(key, value, lease: lease)
        compare(previous, expected)
        if let previous, previous.modRevision < store.transactionRevision {
            #expect(Bytes(store.record(of: previous)) == expected?.encoded)
        }
    }

    func compare(_ found: KeyMetadata?, _ expected: Pair?) {
        #expect(found?.createRevision == expected?.create)
        #expect(found?.modRevision == expected?.mod)
        #expect(found?.version == expected?.version)
        #expect(found?.lease == expected?.lease)
        #expect(found?.recordSize == expected?.encoded.count)
    }

    mutating func deleteSome() {
        let key = key()
        let end = random.chance(1, in: 2) ? [] : rangeEnd(key)
        let expected = model.delete(key, end)
        let deleted = store.delete(key, end)
        #expect(deleted.map(\.0) == expected.map(\.key))
        for (found, pair) in zip(deleted, expected) { compare(found.1, pair) }
    }

    mutating func query() -> ModelQuery {
        let key = key()
        var query = ModelQuery(key: key, rangeEnd: rangeEnd(key))
        if random.chance(1, in: 2) { query.limit = Int.random(in: -1...6, using: &random) }
        if random.chance(1, in: 2) {
            query.revision = Int64.random(in: -1...model.current + 1, using: &random)
        }
        if random.chance(1, in: 2) {
            query.order = Int32.random(in: 0...2, using: &random)
            query.target = Int32.random(in: 0...4, using: &random)
        }
        query.keysOnly = random.chance(1, in: 4)
        query.countOnly = random.chance(1, in: 6)
        if random.chance(1, in: 4) {
            let bound = 1...max(2, model.current)
            if random.chance(1, in: 2) { query.minMod = Int64.random(in: bound, using: &random) }
            if random.chance(1, in: 3) { query.maxMod = Int64.random(in: bound, using: &random) }
            if random.chance(1, in: 3) { query.minCreate = Int64.random(in: bound, using: &random) }
            if random.chance(1, in: 3) { query.maxCreate = Int64.random(in: bound, using: &random) }
        }
        return query
    }

    mutating func range() throws {
        let query = query()
        let reply: ModelReply
        do throws(MVCCError) {
            var writer = ByteWriter()
            let result = try query.with { built throws(MVCCError) in
                try store.range(built, reader: reader, into: &writer)
            }
            reply = .reply(pairs(writer.bytes), result)
        } catch {
            reply = Self.reply(error)
        }
        #expect(reply == model.range(query), "seed \(seed): \(query)")
    }

    mutating func rangeInside() throws {
        var query = query()
        if query.revision > 0 { query.revision = 0 }
        var inside = model
        _ = inside.commit()
        var writer = ByteWriter()
        let result = try query.with { built throws(MVCCError) in
            try store.range(inTransaction: built, into: &writer)
        }
        #expect(
            .reply(pairs(writer.bytes), result) == inside.range(query),
            "seed \(seed): in a transaction, \(query)")
        var seen: [Bytes] = []
        query.with { built in
            store.metadataInRange(key: built.key, rangeEnd: built.rangeEnd) { key, _ in
                seen.append(Bytes(key))
                return seen.count < 3
            }
        }
        let live = inside.live(query.key, query.rangeEnd, at: .max)
        #expect(seen == live.prefix(3).map(\.key))
    }

    static func reply(_ error: MVCCError) -> ModelReply {
        switch error {
        case .compacted(let revision): .compacted(revision)
        case .futureRevision(let current): .future(current)
        case .corruptRecord(let revision): preconditionFailure("lost \(revision)")
        }
    }

    mutating func history() throws {
        var from = Int64.random(in: max(0, model.compacted - 2)...model.current + 1, using: &random)
        // Two changes of one key in one revision: requests cannot ask for it (duplicate key), and
        // compaction at that revision keeps the last only.
        if from == model.compacted && model.hasRepeatedKey(in: from) { from += 1 }
        let through = Int64.random(in: from...model.current + 3, using: &random)
        let maximum = Int.random(in: 1...20, using: &random)
        var seen: [Seen] = []
        var batches = 0
        do {
            let next = try store.history(
                from: from, through: through, maxEvents: maximum,
                maxBytes: random.chance(1, in: 3) ? 60 : .max, reader: reader
            ) {
                seen += events($0)
                batches += 1
            }
            #expect(from >= model.compacted)
            #expect(next >= from && next <= max(from, min(through, model.current) + 1))
            #expect(
                batches > 0 || next == from || from > model.current || model.current == 1
                    || from < 2, "no progress from \(from)")
            #expect(seen == model.events(from: from, through: next - 1), "seed \(seed)")
        } catch {
            #expect(error == .compacted(compactRevision: model.compacted))
            #expect(from < model.compacted)
        }
    }

    mutating func compact() {
        let revision = Int64.random(
            in: model.compacted - 1...model.current + 1, using: &random)
        do {
            try store.compact(to: revision)
            #expect(revision > model.compacted && revision <= model.current)
            model.compacted = revision
        } catch {
            let expected: MVCCError =
                revision <= model.compacted
                ? .compacted(compactRevision: model.compacted)
                : .futureRevision(current: model.current)
            #expect(error == expected)
        }
        #expect(store.compactRevision == model.compacted)
    }

    mutating func compactionStep() {
        if let removed = store.compactionStep(maxKeys: Int.random(in: 1...40, using: &random)) {
            deletes += removed
        }
    }

    mutating func freeze() {
        frozen.append(
            Frozen(
                pending: store.freezePending(), deletes: deletes,
                durable: Durable(
                    model: model, lastRevision: model.current, scheduled: model.compacted,
                    finished: store.finishedCompactRevision)))
        deletes = []
    }

    mutating func commitOldest() {
        guard let position = frozen.firstIndex(where: { !$0.isCommitted }) else { return }
        records.commit(frozen[position].pending, deleting: frozen[position].deletes)
        frozen[position].isCommitted = true
        durable = frozen[position].durable
    }

    mutating func releaseOldest() {
        if let first = frozen.first, first.isCommitted {
            if let pending = first.pending { store.release(pending) }
            frozen.removeFirst()
        }
    }

    mutating func flush() {
        freeze()
        while frozen.contains(where: { !$0.isCommitted }) { commitOldest() }
    }

    mutating func hash() throws {
        let asked = Int64.random(in: max(0, model.compacted)...model.current, using: &random)
        let (hash, compacted, revision) = try store.hash(revision: asked, reader: reader)
        #expect(compacted == model.compacted)
        #expect(revision == (asked == 0 ? model.current : asked))
        #expect(hash == model.hash(at: asked), "seed \(seed) hash at \(asked)")
    }

    mutating func finishCompaction() throws {
        while let removed = store.compactionStep(maxKeys: 7) { deletes += removed }
        flush()
        #expect(
            records.records.map(\.revision) == model.reachableRevisions,
            "seed \(seed): the backend after compaction at \(model.compacted)")
    }

    mutating func restore(afterCrash: Bool) throws {
        if !afterCrash { flush() }
        if afterCrash { model = durable.model }
        frozen = []
        deletes = []
        var attached: [(Bytes, Int64)] = []
        try store.restore(
            reader: reader, lastRevision: durable.lastRevision,
            compactRevision: durable.finished, scheduledCompactRevision: durable.scheduled
        ) { attached.append((Bytes($0), $1)) }
        #expect(store.currentRevision == model.current, "seed \(seed)")
        #expect(store.compactRevision == model.compacted)
        let expected = model.live([0], [0], at: .max).filter { $0.lease != 0 }
        #expect(attached.map(\.0) == expected.map(\.key))
        #expect(attached.map(\.1) == expected.map(\.lease))
        checkFigures()
        store.index.checked()
    }

    func checkFigures() {
        let live = model.live([0], [0], at: .max)
        #expect(store.keyCount == live.count)
        #expect(store.statistics.recordBytes == live.reduce(0) { $0 + $1.encoded.count })
        for prefix in Self.prefixes {
            let below = live.filter { $0.key.starts(with: prefix) }
            let total = store.statistics(prefix: prefix)
            #expect(total?.keys == below.count, "seed \(seed) \(printable(prefix))")
            #expect(total?.bytes == below.reduce(0) { $0 + $1.encoded.count })
        }
        for pair in live.prefix(5) {
            compare(pair.key.withUnsafeBytes { store.metadata(of: $0) }, pair)
        }
    }
}

extension ModelQuery {
    func with<R, E: Error>(_ body: (RangeQuery) throws(E) -> R) throws(E) -> R {
        let all = key + rangeEnd
        let result = all.withUnsafeBytes { all -> Result<R, E> in
            var query = RangeQuery(
                key: UnsafeRawBufferPointer(rebasing: all[..<key.count]),
                rangeEnd: UnsafeRawBufferPointer(rebasing: all[key.count...]))
            apply(to: &query)
            do throws(E) { return .success(try body(query)) } catch { return .failure(error) }
        }
        return try result.get()
    }
}

/// MOONRAFT_SEEDS=N runs N seeds instead of the usual few.
private let seedCount = getenv("MOONRAFT_SEEDS").flatMap { Int(String(cString: $0)) } ?? 60

@Suite struct RandomOperationsTests {
    @Test(arguments: 0..<seedCount)
    func smallKeySpace(_ seed: Int) throws {
        var run = RandomRun(seed: UInt64(seed), keyCount: 25)
        try run.run(steps: 400)
    }

    @Test(arguments: 1_000_000..<1_000_000 + seedCount / 8)
    func manyLeaves(_ seed: Int) throws {
        var run = RandomRun(seed: UInt64(seed), keyCount: 500)
        try run.run(steps: 600)
    }
}
