// Which watchers a changed key concerns: a hash table for single keys and an interval tree for ranges.
// Watchers of the same range share one group, so that what is encoded for one serves all.

import KVCodec

/// Names one added watcher. Never valid again after removal.
package struct WatcherToken: Hashable, Sendable {
    fileprivate var slot: Int
    fileprivate var generation: Int
}

/// All watchers of exactly one key or range.
package final class WatcherGroup<Watcher> {
    /// Key and range end as the watchers gave them; memory of this object.
    package let key: UnsafeRawBufferPointer
    package let rangeEnd: UnsafeRawBufferPointer
    package fileprivate(set) var watchers: [Watcher] = []
    fileprivate var slots: [Int] = []
    private let memory: UnsafeMutableRawPointer

    fileprivate init(_ key: UnsafeRawBufferPointer, _ rangeEnd: UnsafeRawBufferPointer) {
        memory = .allocate(byteCount: max(1, key.count + rangeEnd.count), alignment: 1)
        if let base = key.baseAddress { memory.copyMemory(from: base, byteCount: key.count) }
        if let base = rangeEnd.baseAddress {
            (memory + key.count).copyMemory(from: base, byteCount: rangeEnd.count)
        }
        self.key = UnsafeRawBufferPointer(start: memory, count: key.count)
        self.rangeEnd = UnsafeRawBufferPointer(start: memory + key.count, count: rangeEnd.count)
    }

    deinit { memory.deallocate() }
}

/// Watchers by key and range. Confined to one thread; the order of everything it yields depends only
/// on the calls made.
package final class WatcherIndex<Watcher> {
    package typealias Group = WatcherGroup<Watcher>

    private struct Slot {
        var group: Group?
        var position = 0
        var generation = 0
    }

    private var slots: [Slot] = []
    private var freeSlots: [Int] = []
    private var points: PointTable<Watcher>
    private var ranges: RangeTree<Watcher>
    /// Watchers added and not removed.
    package private(set) var watcherCount = 0
    /// Distinct keys and ranges watched.
    package var groupCount: Int { points.count + ranges.count }

    /// - Parameter seed: keeps clients from choosing keys that collide; any value is right.
    package init(seed: UInt64 = 0) {
        points = PointTable(seed: seed)
        ranges = RangeTree(seed: seed)
    }

    /// Adds a watcher of what `key` and `rangeEnd` select (KeyRange's rules). An empty range is taken
    /// and never matches.
    package func add(
        key: UnsafeRawBufferPointer, rangeEnd: UnsafeRawBufferPointer, _ watcher: Watcher
    ) -> WatcherToken {
        let group = rangeEnd.isEmpty
            ? points.findOrInsert(key) : ranges.findOrInsert(key, rangeEnd)
        let slot = freeSlots.popLast() ?? slots.count
        if slot == slots.count { slots.append(Slot()) }
        slots[slot].group = group
        slots[slot].position = group.watchers.count
        group.watchers.append(watcher)
        group.slots.append(slot)
        watcherCount += 1
        return WatcherToken(slot: slot, generation: slots[slot].generation)
    }

    /// Removes a watcher; nil when the token was removed already.
    @discardableResult
    package func remove(_ token: WatcherToken) -> Watcher? {
        guard let group = group(of: token) else { return nil }
        let position = slots[token.slot].position
        let last = group.watchers.count - 1
        group.watchers.swapAt(position, last)
        group.slots.swapAt(position, last)
        slots[group.slots[position]].position = position
        let watcher = group.watchers.removeLast()
        group.slots.removeLast()
        slots[token.slot].group = nil
        slots[token.slot].generation &+= 1
        freeSlots.append(token.slot)
        watcherCount -= 1
        if group.watchers.isEmpty {
            if group.rangeEnd.isEmpty { points.remove(group.key) } else { ranges.remove(group) }
        }
        return watcher
    }

    /// The group a watcher is in; nil when the token was removed.
    package func group(of token: WatcherToken) -> Group? {
        guard slots.indices.contains(token.slot),
            slots[token.slot].generation == token.generation
        else { return nil }
        return slots[token.slot].group
    }

    /// Visits the groups that `key` concerns: the single key first, then ranges by begin and end.
    /// `body` must not add or remove.
    @inline(__always)
    package func forEachGroup(
        matching key: UnsafeRawBufferPointer, _ body: (Group) -> Void
    ) {
        if points.count > 0, let group = points.find(key) { body(group) }
        if ranges.count > 0 { ranges.forEach(matching: key, body) }
    }
}

// MARK: - Single keys

/// Open addressing with linear probing; removal closes the gap, so there are no deleted marks.
private struct PointTable<Watcher> {
    private struct Cell {
        var hash: UInt64
        var group: WatcherGroup<Watcher>?
    }

    private var cells: [Cell]
    private let seed: UInt64
    private(set) var count = 0

    init(seed: UInt64) {
        self.seed = seed
        cells = Array(repeating: Cell(hash: 0, group: nil), count: 16)
    }

    private func hash(_ key: UnsafeRawBufferPointer) -> UInt64 {
        var hash = seed ^ (UInt64(key.count) &* 0x9E37_79B9_7F4A_7C15)
        var position = 0
        while position &+ 8 <= key.count {
            mix(&hash, key.loadUnaligned(fromByteOffset: position, as: UInt64.self).littleEndian)
            position &+= 8
        }
        var tail: UInt64 = 0
        while position < key.count {
            tail = tail &<< 8 | UInt64(key[position])
            position &+= 1
        }
        mix(&hash, tail)
        return hash
    }

    @inline(__always) private func mix(_ hash: inout UInt64, _ word: UInt64) {
        let product = (hash ^ word).multipliedFullWidth(by: 0xD6E8_FEB8_6659_FD93 ^ seed | 1)
        hash = product.high ^ product.low ^ (word &>> 29)
    }

    /// The cell that holds the key, or the empty one where it would go.
    private func cell(_ key: UnsafeRawBufferPointer, _ hash: UInt64) -> Int {
        let mask = cells.count - 1
        var position = Int(truncatingIfNeeded: hash) & mask
        while let group = cells[position].group {
            if cells[position].hash == hash, KeyRange.compare(group.key, key) == 0 { break }
            position = (position + 1) & mask
        }
        return position
    }

    func find(_ key: UnsafeRawBufferPointer) -> WatcherGroup<Watcher>? {
        cells[cell(key, hash(key))].group
    }

    mutating func findOrInsert(_ key: UnsafeRawBufferPointer) -> WatcherGroup<Watcher> {
        if (count + 1) * 4 > cells.count * 3 { widen() }
        let hash = hash(key)
        let position = cell(key, hash)
        if let group = cells[position].group { return group }
        let group = WatcherGroup<Watcher>(key, UnsafeRawBufferPointer(start: nil, count: 0))
        cells[position] = Cell(hash: hash, group: group)
        count += 1
        return group
    }

    mutating func remove(_ key: UnsafeRawBufferPointer) {
        let mask = cells.count - 1
        var gap = cell(key, hash(key))
        if cells[gap].group == nil { return }
        let removed = cells[gap].group
        cells[gap].group = nil
        count -= 1
        // Cells after the gap move up unless they already stand at or after their home.
        var position = (gap + 1) & mask
        while cells[position].group != nil {
            let home = Int(truncatingIfNeeded: cells[position].hash) & mask
            if (position - home) & mask >= (position - gap) & mask {
                cells.swapAt(gap, position)
                gap = position
            }
            position = (position + 1) & mask
        }
        // `key` may be memory of the group.
        withExtendedLifetime(removed) {}
    }

    private mutating func widen() {
        let old = cells
        cells = Array(repeating: Cell(hash: 0, group: nil), count: old.count * 2)
        for moved in old {
            guard let group = moved.group else { continue }
            cells[cell(group.key, moved.hash)] = moved
        }
    }
}

// MARK: - Ranges

/// A treap ordered by begin, then end; every node knows the greatest end below it, so that a search
/// for the ranges around a key passes over subtrees that end before it.
private struct RangeTree<Watcher> {
    private typealias Group = WatcherGroup<Watcher>
    private static var none: Int { -1 }

    private struct Node {
        var group: Unmanaged<Group>
        var begin: UnsafeRawBufferPointer
        var end: UnsafeRawBufferPointer
        var greatestEnd: UnsafeRawBufferPointer
        var priority: UInt64
        var left: Int
        var right: Int
    }

    private var nodes: [Node] = []
    private var free: [Int] = []
    /// Keeps the groups alive; same positions as `nodes`.
    private var owned: [Group?] = []
    private var root = -1
    private var random: UInt64
    private(set) var count = 0

    init(seed: UInt64) { random = seed }

    /// Compares two ends; "everything from key on" is above all.
    private static func compareEnds(
        _ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer
    ) -> Int {
        let leftOpen = KeyRange.isOpenEnd(left)
        let rightOpen = KeyRange.isOpenEnd(right)
        if leftOpen || rightOpen { return (leftOpen ? 1 : 0) - (rightOpen ? 1 : 0) }
        return KeyRange.compare(left, right)
    }

    private static func isAbove(
        _ end: UnsafeRawBufferPointer, _ key: UnsafeRawBufferPointer
    ) -> Bool {
        KeyRange.isOpenEnd(end) || KeyRange.compare(end, key) > 0
    }

    private func compare(
        _ begin: UnsafeRawBufferPointer, _ end: UnsafeRawBufferPointer, _ node: Int
    ) -> Int {
        let order = KeyRange.compare(begin, nodes[node].begin)
        return order != 0 ? order : Self.compareEnds(end, nodes[node].end)
    }

    func forEach(matching key: UnsafeRawBufferPointer, _ body: (WatcherGroup<Watcher>) -> Void) {
        nodes.withUnsafeBufferPointer { visit(root, $0, key, body) }
    }

    private func visit(
        _ node: Int, _ nodes: UnsafeBufferPointer<Node>, _ key: UnsafeRawBufferPointer,
        _ body: (WatcherGroup<Watcher>) -> Void
    ) {
        var node = node
        while node != Self.none, Self.isAbove(nodes[node].greatestEnd, key) {
            visit(nodes[node].left, nodes, key, body)
            if KeyRange.compare(nodes[node].begin, key) > 0 { return }
            if Self.isAbove(nodes[node].end, key) {
                nodes[node].group._withUnsafeGuaranteedRef { body($0) }
            }
            node = nodes[node].right
        }
    }

    mutating func findOrInsert(
        _ begin: UnsafeRawBufferPointer, _ end: UnsafeRawBufferPointer
    ) -> WatcherGroup<Watcher> {
        var node = root
        while node != Self.none {
            let order = compare(begin, end, node)
            if order == 0, let group = owned[node] { return group }
            node = order < 0 ? nodes[node].left : nodes[node].right
        }
        let group = WatcherGroup<Watcher>(begin, end)
        let (low, high) = split(root, group.key, group.rangeEnd)
        root = merge(merge(low, make(group)), high)
        count += 1
        return group
    }

    mutating func remove(_ group: WatcherGroup<Watcher>) {
        root = removing(group, from: root)
    }

    private mutating func make(_ group: Group) -> Int {
        random &+= 0x9E37_79B9_7F4A_7C15
        var priority = random
        priority = (priority ^ (priority &>> 30)) &* 0xBF58_476D_1CE4_E5B9
        priority = (priority ^ (priority &>> 27)) &* 0x94D0_49BB_1331_11EB
        let node = Node(
            group: .passUnretained(group), begin: group.key, end: group.rangeEnd,
            greatestEnd: group.rangeEnd, priority: priority ^ (priority &>> 31),
            left: Self.none, right: Self.none)
        guard let place = free.popLast() else {
            nodes.append(node)
            owned.append(group)
            return nodes.count - 1
        }
        nodes[place] = node
        owned[place] = group
        return place
    }

    private mutating func update(_ node: Int) {
        var greatest = nodes[node].end
        raise(&greatest, nodes[node].left)
        raise(&greatest, nodes[node].right)
        nodes[node].greatestEnd = greatest
    }

    private func raise(_ end: inout UnsafeRawBufferPointer, _ child: Int) {
        guard child != Self.none else { return }
        if Self.compareEnds(nodes[child].greatestEnd, end) > 0 { end = nodes[child].greatestEnd }
    }

    /// Nodes below (begin, end), and the others.
    private mutating func split(
        _ node: Int, _ begin: UnsafeRawBufferPointer, _ end: UnsafeRawBufferPointer
    ) -> (Int, Int) {
        if node == Self.none { return (Self.none, Self.none) }
        if compare(begin, end, node) > 0 {
            let (low, high) = split(nodes[node].right, begin, end)
            nodes[node].right = low
            update(node)
            return (node, high)
        }
        let (low, high) = split(nodes[node].left, begin, end)
        nodes[node].left = high
        update(node)
        return (low, node)
    }

    private mutating func merge(_ low: Int, _ high: Int) -> Int {
        if low == Self.none { return high }
        if high == Self.none { return low }
        if nodes[low].priority >= nodes[high].priority {
            nodes[low].right = merge(nodes[low].right, high)
            update(low)
            return low
        }
        nodes[high].left = merge(low, nodes[high].left)
        update(high)
        return high
    }

    private mutating func removing(_ group: Group, from node: Int) -> Int {
        if node == Self.none { return node }
        let order = compare(group.key, group.rangeEnd, node)
        if order == 0 {
            let joined = merge(nodes[node].left, nodes[node].right)
            owned[node] = nil
            free.append(node)
            count -= 1
            return joined
        }
        if order < 0 {
            nodes[node].left = removing(group, from: nodes[node].left)
        } else {
            nodes[node].right = removing(group, from: nodes[node].right)
        }
        update(node)
        return node
    }
}
