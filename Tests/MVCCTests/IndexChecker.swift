// Walks a key index and checks everything that must hold of it.

import KVCodec
import Testing

@testable import MVCC

/// `#expect` without its cost for the many conditions that hold.
@inline(__always)
func must(
    _ condition: Bool, _ message: @autoclosure () -> String = "broken invariant",
    at location: SourceLocation = #_sourceLocation
) {
    if !condition { Issue.record(Comment(rawValue: message()), sourceLocation: location) }
}

extension KeyIndex {
    /// All entries in order, after checking every node on the way.
    @discardableResult
    func checked() -> [KeyEntry] {
        var leaves: [IndexNode] = []
        var separatorBytes = 0
        var nodeCount = 0

        func check(
            _ node: IndexNode, level: Int, from: Bytes?, to: Bytes?
        ) -> Int {
            nodeCount += 1
            must(node.isLeaf == (level == depth))
            must(node.count <= IndexNode.capacity)
            must(node.count > 0 || depth == 0, "empty node")
            let first = node.isLeaf ? 0 : 1
            let prefix = Bytes(
                UnsafeRawBufferPointer(start: node.prefix, count: node.prefixLength))
            var last: Bytes?
            for position in first..<max(first, node.count) {
                let key = Bytes(node.key(position))
                must(key.starts(with: prefix), "prefix of \(printable(key))")
                let head = key.withUnsafeBytes { IndexNode.head($0, node.prefixLength) }
                must(node.heads[position] == head, "head of \(printable(key))")
                if let last { must(last.lexicographicallyPrecedes(key)) }
                if let from { must(!key.lexicographicallyPrecedes(from)) }
                if let to { must(key.lexicographicallyPrecedes(to)) }
                last = key
            }
            for position in node.count..<IndexNode.capacity {
                must(node.heads[position] == .max)
                must(node.slots[position] == nil)
            }
            if node.isLeaf {
                leaves.append(node)
                var live = 0
                for position in 0..<node.count {
                    let bit: UInt64 = 1 << UInt64(position)
                    let entry = node.entry(position)
                    must((node.live & bit != 0) == entry.isLive)
                    must((node.dirty & bit != 0) == entry.isDirty)
                    live += entry.isLive ? 1 : 0
                    checkVersions(entry)
                }
                must(node.live & ~KeyIndex.lowBits(node.count) == 0)
                must(node.dirty & ~KeyIndex.lowBits(node.count) == 0)
                return live
            }
            must(node.slots[0] == nil && node.heads[0] == 0)
            var sum = 0
            for position in 0..<node.count {
                let begin = position == 0 ? from : Bytes(node.key(position))
                let end = position + 1 < node.count ? Bytes(node.key(position + 1)) : to
                let live = check(node.child(position), level: level + 1, from: begin, to: end)
                must(live == node.counts[position], "live keys below a child")
                sum += live
                if position > 0 { separatorBytes += KeyArena.rounded(4 + node.key(position).count) }
            }
            return sum
        }

        let live = check(root, level: 0, from: nil, to: nil)
        must(live == liveCount)
        checkLinks(leaves)
        let entries = leaves.flatMap { leaf in (0..<leaf.count).map { leaf.entry($0) } }
        must(entries.count == entryCount)
        must(entries.reduce(0) { $0 + $1.olderCount } == olderCount)
        must(nodeCount == usage.nodes, "nodes leaked")
        let used = entries.reduce(separatorBytes) { $0 + memory($1) }
        must(used == usage.arenaBytes, "arena bytes leaked")
        return entries
    }

    private func checkLinks(_ leaves: [IndexNode]) {
        must(firstLeaf == leaves.first)
        for (position, leaf) in leaves.enumerated() {
            must(leaf.next == (position + 1 < leaves.count ? leaves[position + 1] : nil))
            must(leaf.previous == (position > 0 ? leaves[position - 1] : nil))
        }
    }

    private func checkVersions(_ entry: KeyEntry) {
        var last: Revision?
        for position in 0..<entry.olderCount {
            let version = entry.older(position)
            if let last { must(last < version.revision) }
            last = version.revision
        }
        if let last { must(last < entry.revision) }
    }

    private func memory(_ entry: KeyEntry) -> Int {
        var size = KeyArena.rounded(KeyEntry.keyOffset + entry.keyLength)
        if let block = entry.raw.load(fromByteOffset: 32, as: UnsafeRawPointer?.self) {
            let capacity = Int(block.load(fromByteOffset: 4, as: UInt32.self))
            must(capacity >= entry.olderCount)
            size += KeyArena.rounded(8 + 16 * capacity)
        }
        return size
    }
}
