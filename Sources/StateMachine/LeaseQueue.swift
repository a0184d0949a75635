/// Leases by the moment at which to look at them again: a binary heap, ties by id so that the order
/// is the same in every process. Entries are not removed when a lease moves; whoever takes one out
/// asks the lease whether it still stands there.
struct LeaseQueue {
    struct Entry: Comparable {
        var time: LeaseTime
        var id: Int64

        static func < (left: Entry, right: Entry) -> Bool {
            left.time != right.time ? left.time < right.time : left.id < right.id
        }
    }

    private var heap: [Entry] = []

    var first: Entry? { heap.first }
    var count: Int { heap.count }

    mutating func removeAll() { heap.removeAll() }

    /// Drops the entries that are no good any more.
    mutating func keep(where isGood: (Entry) -> Bool) {
        // A sorted array is a heap.
        heap = heap.filter(isGood).sorted()
    }

    mutating func insert(_ entry: Entry) {
        heap.append(entry)
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            if heap[parent] <= heap[child] { return }
            heap.swapAt(parent, child)
            child = parent
        }
    }

    mutating func removeFirst() {
        guard let last = heap.popLast(), !heap.isEmpty else { return }
        heap[0] = last
        var parent = 0
        while true {
            var smallest = parent
            for child in [2 * parent + 1, 2 * parent + 2]
            where child < heap.count && heap[child] < heap[smallest] {
                smallest = child
            }
            if smallest == parent { return }
            heap.swapAt(parent, smallest)
            parent = smallest
        }
    }
}
