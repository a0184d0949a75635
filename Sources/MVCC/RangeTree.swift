import KVCodec

/// A treap ordered by begin, then end; every node knows the greatest end below it, so that a search
/// for the ranges around a key passes over subtrees that end before it.
struct RangeTree<Watcher> {
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
