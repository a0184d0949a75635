// A node of the key index: memory layout and the search inside one node.
//
// Nodes are plain memory, 64-byte aligned:
//
//     0 count UInt16        2 isLeaf UInt8     4 prefixLength UInt16
//     8 next leaf          16 previous leaf   24 live bits (leaf)  32 dirty bits (leaf)
//    40 the prefix that all keys of the node share, at most 88 bytes
//   128 heads[64]: the 8 key bytes after the prefix, big-endian, zero-padded; unused ones all ones
//   640 slots[64]: leaf: entries; inner: separators (slot 0: none, it stands below everything)
//  1152 inner only: children[64]           1664 inner only: live keys below each child
//
// Equal heads do not mean equal keys; ties are settled with the key bytes themselves. Bit i of `live`
// says that entry i is not a tombstone, bit i of `dirty` that compaction may find work there; so
// counting and compaction need not touch the entries.

import Glibc

/// Keys (or separators) and entries are both "length UInt32, then bytes" at some offset.
struct IndexNode: Equatable {
    static let capacity = 64
    static let maximumPrefix = 88
    static let leafSize = 1152
    static let innerSize = 2176
    private static let prefixOffset = 40
    private static let headsOffset = 128
    private static let slotsOffset = 640
    private static let childrenOffset = 1152
    private static let countsOffset = 1664

    let raw: UnsafeMutableRawPointer

    @inline(__always) init(_ raw: UnsafeMutableRawPointer) { self.raw = raw }

    func initialize(isLeaf: Bool) {
        memset(raw, 0, isLeaf ? Self.leafSize : Self.innerSize)
        memset(raw + Self.headsOffset, 0xFF, Self.capacity &* 8)
        raw.storeBytes(of: isLeaf ? 1 : 0, toByteOffset: 2, as: UInt8.self)
    }

    @inline(__always) var count: Int {
        get { Int(raw.load(as: UInt16.self)) }
        nonmutating set { raw.storeBytes(of: UInt16(truncatingIfNeeded: newValue), as: UInt16.self) }
    }
    @inline(__always) var isLeaf: Bool { raw.load(fromByteOffset: 2, as: UInt8.self) != 0 }
    @inline(__always) var prefixLength: Int {
        get { Int(raw.load(fromByteOffset: 4, as: UInt16.self)) }
        nonmutating set {
            raw.storeBytes(
                of: UInt16(truncatingIfNeeded: newValue), toByteOffset: 4, as: UInt16.self)
        }
    }
    @inline(__always) var next: IndexNode? {
        get { raw.load(fromByteOffset: 8, as: UnsafeMutableRawPointer?.self).map(IndexNode.init) }
        nonmutating set {
            raw.storeBytes(of: newValue?.raw, toByteOffset: 8, as: UnsafeMutableRawPointer?.self)
        }
    }
    @inline(__always) var previous: IndexNode? {
        get { raw.load(fromByteOffset: 16, as: UnsafeMutableRawPointer?.self).map(IndexNode.init) }
        nonmutating set {
            raw.storeBytes(of: newValue?.raw, toByteOffset: 16, as: UnsafeMutableRawPointer?.self)
        }
    }
    @inline(__always) var live: UInt64 {
        get { raw.load(fromByteOffset: 24, as: UInt64.self) }
        nonmutating set { raw.storeBytes(of: newValue, toByteOffset: 24, as: UInt64.self) }
    }
    @inline(__always) var dirty: UInt64 {
        get { raw.load(fromByteOffset: 32, as: UInt64.self) }
        nonmutating set { raw.storeBytes(of: newValue, toByteOffset: 32, as: UInt64.self) }
    }
    @inline(__always) var prefix: UnsafeMutableRawPointer { raw + Self.prefixOffset }
    @inline(__always) var heads: UnsafeMutablePointer<UInt64> {
        (raw + Self.headsOffset).assumingMemoryBound(to: UInt64.self)
    }
    @inline(__always) var slots: UnsafeMutablePointer<UnsafeMutableRawPointer?> {
        (raw + Self.slotsOffset).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
    }
    @inline(__always) var children: UnsafeMutablePointer<UnsafeMutableRawPointer?> {
        (raw + Self.childrenOffset).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
    }
    @inline(__always) var counts: UnsafeMutablePointer<Int> {
        (raw + Self.countsOffset).assumingMemoryBound(to: Int.self)
    }

    @inline(__always) func entry(_ position: Int) -> KeyEntry {
        guard let raw = slots[position] else { preconditionFailure("no entry at \(position)") }
        return KeyEntry(raw)
    }

    @inline(__always) func child(_ position: Int) -> IndexNode {
        guard let raw = children[position] else { preconditionFailure("no child at \(position)") }
        return IndexNode(raw)
    }

    /// The key at a slot that has one.
    @inline(__always) func key(_ position: Int) -> UnsafeRawBufferPointer {
        guard let slot = slots[position] else { preconditionFailure("no key at \(position)") }
        let start = isLeaf ? slot + KeyEntry.keyLengthOffset : slot
        return UnsafeRawBufferPointer(start: start + 4, count: Int(start.load(as: UInt32.self)))
    }

    // MARK: Search

    /// The 8 bytes of `key` after `prefix` bytes as a big-endian number, zero-padded.
    @inline(__always)
    static func head(_ key: UnsafeRawBufferPointer, _ prefix: Int) -> UInt64 {
        let left = key.count &- prefix
        guard left > 0, let base = key.baseAddress else { return 0 }
        let start = base + prefix
        if left >= 8 { return start.loadUnaligned(as: UInt64.self).bigEndian }
        var head: UInt64 = 0
        var position = 0
        while position < left {
            head |=
                UInt64(start.load(fromByteOffset: position, as: UInt8.self))
                &<< UInt64(56 &- position &* 8)
            position &+= 1
        }
        return head
    }

    /// Number of heads below `head`. Two rounds of eight independent loads: no branch to guess, and
    /// the cache lines of a cold node arrive side by side.
    @inline(__always) func countBelow(_ head: UInt64) -> Int {
        let heads = UnsafePointer(heads)
        var line = heads[7] < head ? 1 : 0
        line &+= heads[15] < head ? 1 : 0
        line &+= heads[23] < head ? 1 : 0
        line &+= heads[31] < head ? 1 : 0
        line &+= heads[39] < head ? 1 : 0
        line &+= heads[47] < head ? 1 : 0
        line &+= heads[55] < head ? 1 : 0
        line &+= heads[63] < head ? 1 : 0
        if line == 8 { return 64 }
        let rest = heads + line &* 8
        var below = rest[0] < head ? 1 : 0
        below &+= rest[1] < head ? 1 : 0
        below &+= rest[2] < head ? 1 : 0
        below &+= rest[3] < head ? 1 : 0
        below &+= rest[4] < head ? 1 : 0
        below &+= rest[5] < head ? 1 : 0
        below &+= rest[6] < head ? 1 : 0
        return line &* 8 &+ below
    }

    /// Compares the stored prefix with the key: negative when the key sorts before every key with
    /// the prefix, positive when after, zero when it has the prefix or is a part of it. Such a part
    /// has head 0 and sorts before every key by its length, so it needs no case of its own.
    @inline(__always) private func comparePrefix(_ key: UnsafeRawBufferPointer) -> Int {
        let length = prefixLength
        guard length > 0, let base = key.baseAddress else { return 0 }
        return Int(memcmp(base, prefix, min(length, key.count)))
    }

    /// Position of the first key >= `key`, and whether it is equal.
    @inline(__always)
    func lowerBound(_ key: UnsafeRawBufferPointer) -> (position: Int, found: Bool) {
        let order = comparePrefix(key)
        if order != 0 { return (order < 0 ? 0 : count, false) }
        let prefix = prefixLength
        let head = Self.head(key, prefix)
        let position = countBelow(head)
        if position >= count || heads[position] != head { return (position, false) }
        return settleTie(key, head, prefix, from: position)
    }

    /// Lower bound inside the run of equal heads that starts at `from`.
    private func settleTie(
        _ key: UnsafeRawBufferPointer, _ head: UInt64, _ prefix: Int, from: Int
    ) -> (position: Int, found: Bool) {
        // Nearly always the run is one key long.
        var order = Self.compareTail(self.key(from), key, prefix)
        if order >= 0 { return (from, order == 0) }
        var low = from &+ 1
        var high = head == .max ? count : min(count, countBelow(head &+ 1))
        while low < high {
            let middle = (low &+ high) / 2
            order = Self.compareTail(self.key(middle), key, prefix)
            if order == 0 { return (middle, true) }
            if order < 0 { low = middle &+ 1 } else { high = middle }
        }
        return (low, false)
    }

    /// Inner node: the child whose range holds `key`.
    @inline(__always) func childPosition(_ key: UnsafeRawBufferPointer) -> Int {
        let order = comparePrefix(key)
        if order != 0 { return order < 0 ? 0 : count &- 1 }
        let prefix = prefixLength
        let head = Self.head(key, prefix)
        // Number of separators <= key, slot 0 counted as one that always is.
        let low = max(1, countBelow(head))
        if low >= count || heads[low] != head { return min(low, count) &- 1 }
        let tie = settleTie(key, head, prefix, from: low)
        return tie.found ? tie.position : tie.position &- 1
    }

    /// Compares two keys that share their first `prefix` bytes.
    @inline(__always)
    private static func compareTail(
        _ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer, _ prefix: Int
    ) -> Int {
        guard let a = left.baseAddress, let b = right.baseAddress else {
            return left.count &- right.count
        }
        let shared = min(left.count, right.count)
        if shared > prefix {
            let order = memcmp(a + prefix, b + prefix, shared &- prefix)
            if order != 0 { return Int(order) }
        }
        return left.count &- right.count
    }

    // MARK: Prefix upkeep

    /// First slot that has a key: slot 0 of an inner node has none.
    @inline(__always) private var firstKeyed: Int { isLeaf ? 0 : 1 }

    static func commonPrefix(
        _ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer
    ) -> Int {
        let limit = min(left.count, right.count)
        var length = 0
        while length < limit && left[length] == right[length] { length &+= 1 }
        return length
    }

    /// Makes the node's prefix one that `key` has too. Heads need no key bytes for it: the cut part
    /// of the prefix moves into them.
    func shrinkPrefix(for key: UnsafeRawBufferPointer) {
        let length = prefixLength
        let stored = UnsafeRawBufferPointer(start: prefix, count: length)
        let shared = Self.commonPrefix(stored, key)
        if shared == length { return }
        let cut = length &- shared
        var top: UInt64 = 0
        for position in 0..<min(8, cut) {
            top |= UInt64(stored[shared &+ position]) &<< UInt64(56 &- position &* 8)
        }
        for position in firstKeyed..<max(firstKeyed, count) {
            heads[position] = cut >= 8 ? top : top | heads[position] &>> UInt64(cut &* 8)
        }
        prefixLength = shared
    }

    /// Sets the longest prefix that the present keys share and computes the heads anew when it grew.
    func growPrefix() {
        let first = firstKeyed
        if count &- first < 2 { return }
        let shared = min(
            Self.maximumPrefix, Self.commonPrefix(key(first), key(count &- 1)))
        setPrefix(shared)
    }

    /// Sets the prefix to the first `length` bytes of the first key; all keys must share them.
    func setPrefix(_ length: Int) {
        let first = firstKeyed
        if length == prefixLength || first >= count { return }
        if let base = key(first).baseAddress { prefix.copyMemory(from: base, byteCount: length) }
        prefixLength = length
        for position in first..<count { heads[position] = Self.head(key(position), length) }
    }
}
