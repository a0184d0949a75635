// Short forms for tests: byte arrays in, byte arrays out.

import KVCodec

@testable import MVCC

typealias Bytes = [UInt8]

func bytes(_ text: String) -> Bytes { Bytes(text.utf8) }

/// A record as tests compare it.
struct Pair: Equatable, CustomStringConvertible {
    var key: Bytes
    var value: Bytes
    var create: Int64
    var mod: Int64
    var version: Int64
    var lease: Int64 = 0

    init(key: Bytes, value: Bytes, create: Int64, mod: Int64, version: Int64, lease: Int64) {
        self.key = key
        self.value = value
        self.create = create
        self.mod = mod
        self.version = version
        self.lease = lease
    }

    init(_ view: KeyValueView) {
        self.init(
            key: Bytes(view.key), value: Bytes(view.value), create: view.createRevision,
            mod: view.modRevision, version: view.version, lease: view.lease)
    }

    var encoded: Bytes {
        var writer = ByteWriter()
        writer.data(1, key)
        writer.int64(2, create)
        writer.int64(3, mod)
        writer.int64(4, version)
        writer.data(5, value)
        writer.int64(6, lease)
        return writer.bytes
    }

    var description: String {
        var text = "\(printable(key))=\(printable(value)) create \(create) mod \(mod) version \(version)"
        if lease != 0 { text += " lease \(lease)" }
        return text
    }
}

func printable(_ bytes: Bytes) -> String {
    bytes.isEmpty ? "-" : bytes.map { $0 > 32 && $0 < 127 ? String(UnicodeScalar($0)) : "\\\($0)" }.joined()
}

/// The pairs in the field-2 messages that a range wrote.
func pairs(_ reply: Bytes) -> [Pair] {
    do { return try decoded(reply) } catch { preconditionFailure("range reply: \(error)") }
}

private func decoded(_ reply: Bytes) throws -> [Pair] {
    try reply.withUnsafeBytes { all in
        var reader = ProtoReader(all)
        var result: [Pair] = []
        while let tag = try reader.next() {
            precondition(tag.field == 2)
            result.append(Pair(try KeyValueView(try reader.slice(tag))))
        }
        return result
    }
}

/// An event as tests compare it.
struct Seen: Equatable, CustomStringConvertible {
    var revision: Int64
    var isDelete: Bool
    var pair: Pair
    var previous: Revision?
    var created: Bool

    var description: String {
        let previousText = previous.map { " previous \($0.main).\($0.sub)" } ?? ""
        return isDelete
            ? "\(revision) delete \(printable(pair.key))\(previousText)"
            : "\(revision) put \(pair)\(created ? " created" : "")\(previousText)"
    }
}

/// Decodes a batch from its bytes, checking every range it names against what the bytes say.
func events(_ batch: EventBatch) -> [Seen] {
    do { return try decoded(batch) } catch { preconditionFailure("batch \(batch.revision): \(error)") }
}

private func decoded(_ batch: EventBatch) throws -> [Seen] {
    var result: [Seen] = []
    var expectedStart = 0
    for event in batch.events {
        precondition(event.field.lowerBound == expectedStart, "events must be contiguous")
        expectedStart = event.field.upperBound
        let seen = try batch.with(event.field) { field -> Seen in
            var outer = ProtoReader(field)
            guard let tag = try outer.next(), tag == ProtoTag(field: 11, wireType: 2) else {
                preconditionFailure("not field 11")
            }
            var inner = ProtoReader(try outer.slice(tag))
            let rest = try outer.next()
            precondition(rest == nil)
            var type: Int64 = 0
            var record = Bytes()
            while let tag = try inner.next() {
                if tag.field == 1 { type = try inner.int64(tag) }
                if tag.field == 2 { record = Bytes(try inner.slice(tag)) }
            }
            precondition((type == 1) == event.isDelete)
            precondition(record == batch.with(event.record) { Bytes($0) })
            let pair = try record.withUnsafeBytes { Pair(try KeyValueView($0)) }
            precondition(pair.key == batch.with(event.key) { Bytes($0) })
            precondition(pair.mod == batch.revision)
            precondition(pair.lease == event.lease)
            return Seen(
                revision: batch.revision, isDelete: event.isDelete, pair: pair,
                previous: event.previous, created: event.created)
        }
        result.append(seen)
    }
    precondition(expectedStart == batch.bytes.count, "bytes after the last event")
    return result
}

extension MVCCStore {
    /// One transaction in a batch of its own.
    @discardableResult
    func transact(
        _ records: InMemoryRecords, reason: EventReason = .client, _ body: (MVCCStore) throws -> Void
    ) rethrows -> EventBatch? {
        beginBatch()
        defer { endBatch() }
        begin(reader: records.reader())
        try body(self)
        return commit(reason: reason)
    }

    @discardableResult
    func put(_ key: Bytes, _ value: Bytes, lease: Int64 = 0) -> KeyMetadata? {
        key.withUnsafeBytes { key in
            value.withUnsafeBytes { put(key: key, value: $0, lease: lease) }
        }
    }

    @discardableResult
    func delete(_ key: Bytes, _ rangeEnd: Bytes = []) -> [(Bytes, KeyMetadata)] {
        var deleted: [(Bytes, KeyMetadata)] = []
        let count = key.withUnsafeBytes { key in
            rangeEnd.withUnsafeBytes {
                deleteRange(key: key, rangeEnd: $0) { deleted.append((Bytes($0), $1)) }
            }
        }
        precondition(Int(count) == deleted.count)
        return deleted
    }

    func range(
        _ key: Bytes, _ rangeEnd: Bytes = [], _ reader: RecordReader,
        _ change: (inout RangeQuery) -> Void = { _ in }
    ) throws -> (pairs: [Pair], result: RangeResult) {
        try key.withUnsafeBytes { key in
            try rangeEnd.withUnsafeBytes { end in
                var query = RangeQuery(key: key, rangeEnd: end)
                change(&query)
                var writer = ByteWriter()
                let result = try range(query, reader: reader, into: &writer)
                return (pairs(writer.bytes), result)
            }
        }
    }

    /// Freezes, commits and releases everything.
    func flush(_ records: InMemoryRecords, deleting deleted: [Revision] = []) {
        let pending = freezePending()
        records.commit(pending, deleting: deleted)
        if let pending { release(pending) }
    }

    /// Runs the physical compaction to its end and commits it.
    func finishCompaction(_ records: InMemoryRecords) {
        while let removed = compactionStep(maxKeys: 8) { flush(records, deleting: removed) }
    }

    func allHistory(_ from: Int64, _ reader: RecordReader) throws -> [Seen] {
        var seen: [Seen] = []
        _ = try history(
            from: from, through: .max, maxEvents: .max, maxBytes: .max, reader: reader
        ) { seen += events($0) }
        return seen
    }
}

/// A small generator whose runs are repeatable by seed (splitmix64).
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(_ seed: UInt64) {
        // One round first: neighbouring seeds must not walk the same sequence.
        state = seed
        state = next()
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    mutating func chance(_ numerator: Int, in denominator: Int) -> Bool {
        Int.random(in: 0..<denominator, using: &self) < numerator
    }
}
