// Compaction of the index: versions that no read can reach any more leave the entries, entries without
// versions leave the leaves, and leaves that became small are joined.

extension KeyIndex {
    /// Takes from the leaf that holds `key` (or the place where it would be) every version that a
    /// compaction at `revision` makes unreachable.
    ///
    /// Kept of each key: all versions after `revision`, and the newest one up to it unless that is a
    /// tombstone; a tombstone at exactly `revision` is kept, because a watch from that revision must
    /// still see the delete (etcd 18089, 19179). `removed` gets the dropped revisions, oldest first
    /// within a key. Leaves without work are passed over, at most `maximumLeaves` of them. Returns
    /// the number of versions and leaves looked at, and the key to go on from.
    func compactLeaf(
        at key: [UInt8], revision: Int64, maximumLeaves: Int = .max, removed: inout [Revision]
    ) -> (visited: Int, next: [UInt8]?) {
        let leaf = key.withUnsafeBytes { locate($0).place.leaf }
        let before = olderCount
        var visited = leaf.dirty.nonzeroBitCount
        var bits = leaf.dirty
        var gone: UInt64 = 0
        while bits != 0 {
            let position = bits.trailingZeroBitCount
            bits &= bits &- 1
            let entry = leaf.entry(position)
            if compact(entry, revision, &removed) {
                gone |= 1 &<< UInt64(position)
            } else if !entry.isDirty {
                leaf.dirty &= ~(1 &<< UInt64(position))
            }
        }
        visited &+= before &- olderCount
        var next = leaf.next
        var passed = 0
        while let candidate = next, candidate.dirty == 0, passed < maximumLeaves {
            passed &+= 1
            next = candidate.next
        }
        visited &+= passed
        let nextKey = next.map { [UInt8]($0.key(0)) }
        if gone != 0 { remove(gone, from: leaf) }
        return (visited, nextKey)
    }

    /// True when nothing of the entry is left; the caller then removes it.
    private func compact(
        _ entry: KeyEntry, _ revision: Int64, _ removed: inout [Revision]
    ) -> Bool {
        let older = entry.olderCount
        if entry.modMain <= revision {
            // All older versions go; the newest too when it is a tombstone before the revision.
            for position in 0..<older { removed.append(entry.older(position).revision) }
            entry.dropOldest(older, &arena)
            olderCount &-= older
            if entry.isLive || entry.modMain == revision { return false }
            removed.append(entry.revision)
            return true
        }
        let reachable = entry.olderCount(upTo: revision)
        if reachable == 0 { return false }
        let newest = entry.older(reachable &- 1)
        let drops =
            newest.isTombstone && newest.revision.main < revision
            ? reachable : reachable &- 1
        for position in 0..<drops { removed.append(entry.older(position).revision) }
        entry.dropOldest(drops, &arena)
        olderCount &-= drops
        return false
    }

    /// Removes entries (tombstones, so no count changes) from the leaf that the way leads to.
    private func remove(_ gone: UInt64, from leaf: IndexNode) {
        let count = leaf.count
        var kept = 0
        var live: UInt64 = 0
        var dirty: UInt64 = 0
        for position in 0..<count {
            let bit: UInt64 = 1 &<< UInt64(position)
            if gone & bit != 0 {
                leaf.entry(position).destroy(&arena)
                entryCount &-= 1
                continue
            }
            leaf.heads[kept] = leaf.heads[position]
            leaf.slots[kept] = leaf.slots[position]
            if leaf.live & bit != 0 { live |= 1 &<< UInt64(kept) }
            if leaf.dirty & bit != 0 { dirty |= 1 &<< UInt64(kept) }
            kept &+= 1
        }
        (leaf.heads + kept).update(repeating: .max, count: count &- kept)
        (leaf.slots + kept).update(repeating: nil, count: count &- kept)
        leaf.live = live
        leaf.dirty = dirty
        leaf.count = kept
        if kept == 0 {
            removeEmpty(leaf)
        } else {
            joinNeighbours(of: leaf)
        }
    }

    private func removeEmpty(_ leaf: IndexNode) {
        leaf.prefixLength = 0
        if depth == 0 { return }
        unlink(leaf)
        nodes.release(leaf)
        var level = depth &- 1
        while true {
            let node = pathNodes[level]
            removeChild(pathChildren[level], from: node)
            if node.count > 0 { break }
            nodes.release(node)
            if level == 0 {
                root = nodes.make(isLeaf: true)
                depth = 0
                return
            }
            level &-= 1
        }
        lowerRoot()
    }

    private func joinNeighbours(of leaf: IndexNode) {
        if depth == 0 { return }
        let parent = pathNodes[depth &- 1]
        let position = pathChildren[depth &- 1]
        if position &+ 1 < parent.count,
            leaf.count &+ parent.child(position &+ 1).count <= Self.joinLimit
        {
            join(parent, position)
        } else if position > 0,
            leaf.count &+ parent.child(position &- 1).count <= Self.joinLimit
        {
            join(parent, position &- 1)
        }
        lowerRoot()
    }

    /// Moves the entries of child `position + 1` into child `position`.
    private func join(_ parent: IndexNode, _ position: Int) {
        let left = parent.child(position)
        let right = parent.child(position &+ 1)
        let start = left.count
        (left.slots + start).update(from: right.slots, count: right.count)
        left.live |= right.live &<< UInt64(start)
        left.dirty |= right.dirty &<< UInt64(start)
        left.count = start &+ right.count
        // Heads are computed anew for the prefix that both share.
        let shared = min(
            IndexNode.maximumPrefix,
            IndexNode.commonPrefix(left.key(0), left.key(left.count &- 1)))
        left.prefixLength = 0
        for slot in 0..<left.count { left.heads[slot] = IndexNode.head(left.key(slot), 0) }
        left.setPrefix(shared)
        parent.counts[position] &+= parent.counts[position &+ 1]
        unlink(right)
        nodes.release(right)
        removeChild(position &+ 1, from: parent)
    }

    private func unlink(_ leaf: IndexNode) {
        leaf.previous?.next = leaf.next
        leaf.next?.previous = leaf.previous
    }

    private func removeChild(_ position: Int, from node: IndexNode) {
        let count = node.count
        releaseSeparator(node.slots[position == 0 && count > 1 ? 1 : position])
        let moved = count &- position &- 1
        (node.heads + position).update(from: node.heads + (position &+ 1), count: moved)
        (node.slots + position).update(from: node.slots + (position &+ 1), count: moved)
        (node.children + position).update(from: node.children + (position &+ 1), count: moved)
        (node.counts + position).update(from: node.counts + (position &+ 1), count: moved)
        node.heads[count &- 1] = .max
        node.slots[count &- 1] = nil
        node.children[count &- 1] = nil
        node.counts[count &- 1] = 0
        node.count = count &- 1
        if node.count > 0 {
            node.heads[0] = 0
            node.slots[0] = nil
        }
        if node.count < 2 { node.prefixLength = 0 }
    }

    private func lowerRoot() {
        while depth > 0 && root.count == 1 {
            let only = root.child(0)
            nodes.release(root)
            root = only
            depth &-= 1
        }
    }
}
