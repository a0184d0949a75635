// What happens when. Events of one moment happen in the order in which they were scheduled, so a run has
// one order whatever the heap does inside.

/// A moment or a span of simulated time, in nanoseconds.
typealias Nanoseconds = UInt64

let microsecond: Nanoseconds = 1_000
let millisecond: Nanoseconds = 1_000_000
let second: Nanoseconds = 1_000_000_000

/// A binary heap by time, then by the order of scheduling.
struct EventQueue<Event> {
    private struct Slot {
        var time: Nanoseconds
        var order: UInt64
        var event: Event

        static func < (left: Slot, right: Slot) -> Bool {
            left.time != right.time ? left.time < right.time : left.order < right.order
        }
    }

    private var slots: [Slot] = []
    private var scheduled: UInt64 = 0

    var count: Int { slots.count }

    mutating func schedule(_ event: Event, at time: Nanoseconds) {
        scheduled += 1
        slots.append(Slot(time: time, order: scheduled, event: event))
        var child = slots.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard slots[child] < slots[parent] else { return }
            slots.swapAt(child, parent)
            child = parent
        }
    }

    /// The next event, nil when there is none.
    mutating func next() -> (time: Nanoseconds, event: Event)? {
        guard let first = slots.first, let last = slots.popLast() else { return nil }
        if !slots.isEmpty {
            slots[0] = last
            sink()
        }
        return (first.time, first.event)
    }

    private mutating func sink() {
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2]
            where child < slots.count && slots[child] < slots[least] {
                least = child
            }
            if least == parent { return }
            slots.swapAt(parent, least)
            parent = least
        }
    }
}
