// Which watchers a changed key concerns: a hash table for single keys and an interval tree for ranges.
// Watchers of the same range share one group, so that what is encoded for one serves all.

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

    init(_ key: UnsafeRawBufferPointer, _ rangeEnd: UnsafeRawBufferPointer) {
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
        let group =
            rangeEnd.isEmpty
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
