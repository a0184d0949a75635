// Revisions that reads under way still need. A long read gives the lock back between chunks; its pin
// keeps compaction from taking the records it will come to.

import Synchronization

/// A fixed number of places for pinned revisions. Pins are taken under the read lock and looked at
/// under the write lock, so compaction sees every pin taken before it.
final class ReaderPins: @unchecked Sendable {
    private static let free = Int64.min
    private let places: UnsafeMutablePointer<Atomic<Int64>>
    private let count: Int

    init(count: Int) {
        self.count = max(0, count)
        places = .allocate(capacity: max(1, self.count))
        for place in 0..<self.count {
            (places + place).initialize(to: Atomic<Int64>(Self.free))
        }
    }

    deinit {
        places.deinitialize(count: count)
        places.deallocate()
    }

    /// Takes a place; nil when all are taken.
    func pin(_ revision: Int64) -> Int? {
        for place in 0..<count {
            let (taken, _) = places[place].compareExchange(
                expected: Self.free, desired: revision, ordering: .acquiringAndReleasing)
            if taken { return place }
        }
        return nil
    }

    func unpin(_ place: Int) {
        precondition(place >= 0 && place < count, "pin \(place) of \(count)")
        places[place].store(Self.free, ordering: .releasing)
    }

    /// True when a read that began before `revision` became the compaction revision is under way.
    func holdsBelow(_ revision: Int64) -> Bool {
        for place in 0..<count {
            let pinned = places[place].load(ordering: .acquiring)
            if pinned != Self.free && pinned < revision { return true }
        }
        return false
    }
}
