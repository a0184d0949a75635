// When a snapshot whose transfer failed is sent again. A transfer costs the leader's disk and network up to
// the whole database, so one that fails time and again must not be repeated at once.

import RaftCore

/// The leader's patience with each member, bounded by the number of members. Until a retry is due the core
/// takes the transfer for one that is under way and asks for none.
struct SnapshotRetries {
    private struct Failed {
        let peer: NodeID
        /// In a row.
        var count: Int
        /// Nil when the core has been told.
        var retryAt: UInt64?
    }

    private var failed: [Failed] = []

    /// Notes a failure. The wait doubles from `first` to `longest` nanoseconds with each one in a row.
    mutating func failed(_ peer: NodeID, now: UInt64, first: UInt64, longest: UInt64) {
        let position: Int
        if let known = failed.firstIndex(where: { $0.peer == peer }) {
            position = known
        } else {
            failed.append(Failed(peer: peer, count: 0))
            position = failed.count - 1
        }
        let count = failed[position].count
        // Beyond 30 doublings every wait is the longest; a larger shift could lose all bits.
        let wait = min(longest, first &<< UInt64(min(count, 30)))
        failed[position].count = count + 1
        failed[position].retryAt = now &+ wait
    }

    mutating func succeeded(_ peer: NodeID) { failed.removeAll { $0.peer == peer } }

    /// The members whose wait is over; each is named once for each failure.
    mutating func takeDue(now: UInt64) -> [NodeID] {
        var due: [NodeID] = []
        for position in failed.indices {
            guard let retryAt = failed[position].retryAt, retryAt <= now else { continue }
            failed[position].retryAt = nil
            due.append(failed[position].peer)
        }
        return due
    }

    mutating func keep(_ members: [NodeID]) { failed.removeAll { !members.contains($0.peer) } }

    /// Another term, in which nothing was sent yet.
    mutating func removeAll() { failed = [] }
}
