// Which keys a branch of a transaction puts and deletes, to refuse branches that put a key twice or
// put a key that the same branch deletes.
//
// The rules are etcd's (api/v3rpc/key.go, checkIntervals), with what follows from them:
// - The two branches of a nested transaction may put the same key; only one of them runs.
// - A nested transaction's puts are held against the deletes of its own branches' levels, of the
//   level around it and of the nested transactions before it, not of those after it.
// - Two deletes may overlap, and ranges never matter.
// - A delete "from key on" (range_end of one zero byte) overlaps nothing: etcd compares that zero
//   byte as a key here, which makes the interval empty. Clients can therefore clear a store and put
//   in one transaction, and can with us.

import KVCodec

/// Bytes of a request used as a key of a set. Lives no longer than the request.
struct KeySlice: Hashable, Comparable {
    let bytes: UnsafeRawBufferPointer

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    static func == (left: KeySlice, right: KeySlice) -> Bool {
        left.bytes.count == right.bytes.count && KeyRange.compare(left.bytes, right.bytes) == 0
    }

    static func < (left: KeySlice, right: KeySlice) -> Bool {
        KeyRange.compare(left.bytes, right.bytes) < 0
    }

    func hash(into hasher: inout Hasher) { hasher.combine(bytes: bytes) }
}

/// The puts and deletes of one branch and everything nested in it.
struct WriteSet {
    private var puts: Set<KeySlice> = []
    private var deletedKeys: Set<KeySlice> = []
    private typealias Ranges = [(from: KeySlice, to: KeySlice)]
    /// Lists of half-open ranges, disjoint and ascending in each list. Each list is more than twice as long as the next,
    /// so that many nested transactions cost no more than sorting their ranges once.
    private var deletedRanges: [Ranges] = []

    /// A branch of at most this many plain operations is checked pair by pair, without sets.
    private static let pairwiseLimit = 16

    /// Checks one branch of the outermost transaction.
    ///
    /// - Throws: `duplicateKey`.
    static func checkTop(_ operations: [RequestOpView]) throws(ApplyError) {
        if operations.count < 2, !operations.contains(where: \.isTxn) { return }
        if operations.count <= pairwiseLimit, !operations.contains(where: \.isTxn) {
            return try checkPairs(operations)
        }
        _ = try WriteSet(operations)
    }

    private static func checkPairs(_ operations: [RequestOpView]) throws(ApplyError) {
        for (index, operation) in operations.enumerated() {
            guard case .put(let put) = operation else { continue }
            for (other, candidate) in operations.enumerated() {
                switch candidate {
                case .put(let second):
                    if other < index, KeySlice(second.key) == KeySlice(put.key) {
                        throw .duplicateKey
                    }
                case .deleteRange(let delete):
                    if !KeyRange.isOpenEnd(delete.rangeEnd),
                        KeyRange.contains(put.key, from: delete.key, rangeEnd: delete.rangeEnd)
                    {
                        throw .duplicateKey
                    }
                case .range, .txn, .none: break
                }
            }
        }
    }

    /// Collects a branch.
    ///
    /// - Throws: `duplicateKey`.
    private init(_ operations: [RequestOpView]) throws(ApplyError) {
        var ranges: Ranges = []
        for operation in operations {
            guard case .deleteRange(let delete) = operation else { continue }
            let from = KeySlice(delete.key)
            if delete.rangeEnd.isEmpty {
                deletedKeys.insert(from)
            } else if from < KeySlice(delete.rangeEnd) {
                ranges.append((from, KeySlice(delete.rangeEnd)))
            }
        }
        ranges.sort { $0.from < $1.from }
        add(Self.joined(ranges))

        for operation in operations {
            guard case .txn(let nested) = operation else { continue }
            let success = try WriteSet(nested.success)
            let failure = try WriteSet(nested.failure)
            for key in success.puts { try check(key) }
            for key in failure.puts { try check(key) }
            puts.formUnion(success.puts)
            puts.formUnion(failure.puts)
            addDeletes(of: success)
            addDeletes(of: failure)
        }

        for operation in operations {
            guard case .put(let put) = operation else { continue }
            try check(KeySlice(put.key))
            puts.insert(KeySlice(put.key))
        }
    }

    private func check(_ key: KeySlice) throws(ApplyError) {
        if puts.contains(key) || deletes(key) { throw .duplicateKey }
    }

    private func deletes(_ key: KeySlice) -> Bool {
        deletedKeys.contains(key) || deletedRanges.contains { Self.covers($0, key) }
    }

    private static func covers(_ ranges: Ranges, _ key: KeySlice) -> Bool {
        // The last range that starts at or before the key.
        var low = 0
        var high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if key < ranges[middle].from { high = middle } else { low = middle + 1 }
        }
        return low > 0 && key < ranges[low - 1].to
    }

    private mutating func addDeletes(of other: WriteSet) {
        deletedKeys.formUnion(other.deletedKeys)
        for ranges in other.deletedRanges { add(ranges) }
    }

    private mutating func add(_ ranges: Ranges) {
        if ranges.isEmpty { return }
        var added = ranges
        while let last = deletedRanges.last, last.count <= 2 * added.count {
            deletedRanges.removeLast()
            added = Self.merged(last, added)
        }
        deletedRanges.append(added)
    }

    private static func merged(_ one: Ranges, _ other: Ranges) -> Ranges {
        var merged: Ranges = []
        merged.reserveCapacity(one.count + other.count)
        var (left, right) = (0, 0)
        while left < one.count, right < other.count {
            if other[right].from < one[left].from {
                merged.append(other[right])
                right += 1
            } else {
                merged.append(one[left])
                left += 1
            }
        }
        merged.append(contentsOf: one[left...])
        merged.append(contentsOf: other[right...])
        return joined(merged)
    }

    /// Joins ranges that overlap; they are sorted by their start.
    private static func joined(_ ranges: Ranges) -> Ranges {
        if ranges.count < 2 { return ranges }
        var joined: Ranges = []
        joined.reserveCapacity(ranges.count)
        for range in ranges {
            if let last = joined.last, range.from <= last.to {
                joined[joined.count - 1].to = Swift.max(last.to, range.to)
            } else {
                joined.append(range)
            }
        }
        return joined
    }
}

extension RequestOpView {
    /// True for a nested transaction.
    var isTxn: Bool {
        if case .txn = self { return true }
        return false
    }
}
