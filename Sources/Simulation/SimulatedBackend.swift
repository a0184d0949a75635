// The backend as the node sees LMDB: a map of records by revision and a few buckets, changed by one
// transaction at a time that is there after a crash or is not. A value, so that a copy for a snapshot or for
// a reader costs nothing.

import MVCC
import StateMachine

/// A record whose bytes stay where they are as long as somebody refers to them.
final class BackendRecord: @unchecked Sendable {
    // Unchecked: never changed after init.
    let revision: Revision
    let isTombstone: Bool
    let bytes: UnsafeRawBufferPointer

    init(_ revision: Revision, _ isTombstone: Bool, _ source: UnsafeRawBufferPointer) {
        self.revision = revision
        self.isTombstone = isTombstone
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: source.count, alignment: 1)
        copy.copyMemory(from: source)
        bytes = UnsafeRawBufferPointer(copy)
    }

    deinit { bytes.deallocate() }
}

/// What a backend holds after some transaction.
struct BackendState: StateReader, Sendable {
    struct Pair: Sendable {
        var key: [UInt8]
        var value: [UInt8]
    }

    /// Ascending by revision.
    private(set) var records: [BackendRecord] = []
    /// Ascending by key.
    private var buckets: [StateBucket: [Pair]] = [:]

    /// One transaction: the records, then the deletions, then the buckets.
    mutating func apply(_ commit: PendingCommit) {
        var added: [BackendRecord] = []
        commit.records?.forEach { added.append(BackendRecord($0, $1, $2)) }
        records += added
        if !commit.deletedRevisions.isEmpty {
            let gone = Set(commit.deletedRevisions)
            records.removeAll { gone.contains($0.revision) }
        }
        for change in commit.changes {
            set(change.bucket, change.key, change.value)
        }
    }

    mutating func set(_ bucket: StateBucket, _ key: [UInt8], _ value: [UInt8]?) {
        var pairs = buckets[bucket] ?? []
        buckets[bucket] = nil
        var position = 0
        while position < pairs.count, pairs[position].key.lexicographicallyPrecedes(key) {
            position += 1
        }
        let isThere = position < pairs.count && pairs[position].key == key
        switch (value, isThere) {
        case (let value?, true): pairs[position].value = value
        case (let value?, false): pairs.insert(Pair(key: key, value: value), at: position)
        case (nil, true): pairs.remove(at: position)
        case (nil, false): break
        }
        buckets[bucket] = pairs
    }

    func value(_ bucket: StateBucket, _ key: String) -> [UInt8]? {
        let wanted = Array(key.utf8)
        return buckets[bucket]?.first { $0.key == wanted }?.value
    }

    private func number(_ key: String) -> UInt64 {
        (value(.meta, key) ?? []).reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// The last entry that this state contains; 0 for a backend that was never written.
    var appliedIndex: UInt64 { number(StateKey.appliedIndex) }
    var appliedTerm: UInt64 { number(StateKey.appliedTerm) }

    func forEach(
        in bucket: StateBucket, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Void
    ) {
        for pair in buckets[bucket] ?? [] {
            pair.key.withUnsafeBytes { key in pair.value.withUnsafeBytes { body(key, $0) } }
        }
    }

    /// The position of the first record at or after `revision`.
    func lowerBound(_ revision: Revision) -> Int {
        var low = 0
        var high = records.count
        while low < high {
            let middle = (low + high) / 2
            if records[middle].revision < revision { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

/// One member's backend. It outlives the member's process.
final class SimulatedBackend {
    var state = BackendState()
}

/// Reads the committed records as of `begin`.
final class BackendStateRecordReader: RecordReader {
    private let backend: SimulatedBackend
    private var snapshot: BackendState?

    init(_ backend: SimulatedBackend) { self.backend = backend }

    func begin() { snapshot = backend.state }
    func end() { snapshot = nil }

    func get(_ revision: Revision) -> UnsafeRawBufferPointer? {
        guard let snapshot else { preconditionFailure("a read outside begin and end") }
        let position = snapshot.lowerBound(revision)
        guard position < snapshot.records.count,
            snapshot.records[position].revision == revision
        else { return nil }
        return snapshot.records[position].bytes
    }

    func scan(from: Revision, _ body: (Revision, Bool, UnsafeRawBufferPointer) -> Bool) {
        guard let snapshot else { preconditionFailure("a read outside begin and end") }
        for record in snapshot.records[snapshot.lowerBound(from)...]
        where !body(record.revision, record.isTombstone, record.bytes) {
            return
        }
    }
}
