// Compaction: logical at once, physical in small steps so that no batch waits long for it.

/// Where the physical compaction stands.
struct CompactionState {
    /// The revision being worked towards; nil when there is nothing to do.
    var target: Int64?
    /// Key to go on from.
    var cursor: [UInt8] = []
    /// The last revision whose physical compaction is complete.
    var finished: Int64 = -1
}

extension MVCCStore {
    /// Makes `revision` the compaction revision: reads below it are refused from now on. Begins the
    /// physical compaction, or restarts one that is under way with the higher revision.
    ///
    /// - Throws: `.compacted` when it is not above the last one, `.futureRevision`.
    package func compact(to revision: Int64) throws(MVCCError) {
        try writing { () throws(MVCCError) in
            let compacted = compactRevision
            if revision <= compacted { throw .compacted(compactRevision: compacted) }
            if revision > currentRevision { throw .futureRevision(current: currentRevision) }
            publishedCompactRevision.store(revision, ordering: .releasing)
            compaction.target = revision
            compaction.cursor = []
        }
    }

    /// The compaction revision whose physical part is under way; nil when there is none. Replica
    /// thread.
    package var scheduledCompactRevision: Int64? { compaction.target }

    /// The last compaction revision whose physical part is complete, -1 when there is none. It may be
    /// recorded as such once the deletes that the steps returned are committed. Replica thread.
    package var finishedCompactRevision: Int64 { compaction.finished }

    /// The next part of the physical compaction: looks at about `maxKeys` keys and older versions (or
    /// leaves of the index without work), at least one leaf, and one key's versions always whole.
    ///
    /// Commit the deletes of the returned revisions in the given order, after (or in one backend
    /// transaction with) everything that `freezePending` returns next: a record may still be pending.
    /// Older versions of a key come before newer ones, so a crash between two backend transactions
    /// never leaves a deleted key without its tombstone.
    ///
    /// - Returns: the revisions whose records go, perhaps none (also while a read that began before
    ///   the compaction is under way); nil when there is nothing left to do.
    package func compactionStep(maxKeys: Int) -> [Revision]? {
        guard let target = compaction.target else { return nil }
        if pins.holdsBelow(target) { return [] }
        return writing {
            // Pins are taken under the read lock: only now no new one can be below the target.
            if pins.holdsBelow(target) { return [] }
            var removed: [Revision] = []
            var visited = 0
            repeat {
                let (seen, next) = index.compactLeaf(
                    at: compaction.cursor, revision: target,
                    maximumLeaves: max(1, maxKeys &- visited), removed: &removed)
                visited &+= max(1, seen)
                guard let next else {
                    compaction.finished = target
                    compaction.target = nil
                    compaction.cursor = []
                    break
                }
                compaction.cursor = next
            } while visited < maxKeys
            return removed
        }
    }
}
