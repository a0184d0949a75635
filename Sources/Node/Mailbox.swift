// The replica thread's inbox: many producers, one consumer, bounded.

import CSupport
import Glibc
import Synchronization

/// A multi-producer, single-consumer queue with a wake-up only when the consumer sleeps.
///
/// Under load items are there already and nobody sleeps. Busy waiting before sleeping was measured and
/// costs a lone client's put more CPU than it saves time (ARCHITECTURE.md).
package final class Mailbox<Item: Sendable>: Sendable {
    private let items = Mutex<[Item]>([])
    /// Number of items queued, readable without the lock.
    private let count = Atomic<Int>(0)
    private let isSleeping = Atomic<Bool>(false)
    private let wakeDescriptor: Int32
    private let capacity: Int

    /// - Parameter capacity: most items queued by `offer`; `post` ignores it.
    package init(capacity: Int) {
        self.capacity = capacity
        self.wakeDescriptor = moonraft_eventfd_create()
        precondition(wakeDescriptor >= 0, "eventfd: errno \(errno)")
    }

    deinit { close(wakeDescriptor) }

    /// Adds an item unless the queue is at its bound.
    package func offer(_ item: Item) -> Bool {
        let accepted = items.withLock { items -> Bool in
            if items.count >= capacity { return false }
            items.append(item)
            count.store(items.count, ordering: .releasing)
            return true
        }
        if accepted { wakeIfSleeping() }
        return accepted
    }

    /// Adds items in order as far as the bound allows, with one lock and at most one wake-up.
    ///
    /// - Returns: how many were added.
    package func offer<Source>(_ source: [Source], _ make: (Source) -> Item) -> Int {
        let added = items.withLock { items -> Int in
            let room = Swift.min(source.count, Swift.max(0, capacity - items.count))
            for position in 0..<room { items.append(make(source[position])) }
            count.store(items.count, ordering: .releasing)
            return room
        }
        if added > 0 { wakeIfSleeping() }
        return added
    }

    /// Adds an item that must not be lost (completions, stop); there are few of these by design.
    package func post(_ item: Item) {
        items.withLock { items in
            items.append(item)
            count.store(items.count, ordering: .releasing)
        }
        wakeIfSleeping()
    }

    package var isEmpty: Bool { count.load(ordering: .acquiring) == 0 }

    /// Moves everything queued into `batch`, waiting at most until `deadline` (monotonic
    /// nanoseconds) for the first item. Only the consumer calls this.
    package func take(into batch: inout [Item], deadline: UInt64) {
        if isEmpty { sleep(until: deadline) }
        items.withLock { items in
            swap(&items, &batch)
            count.store(0, ordering: .releasing)
        }
    }

    private func sleep(until deadline: UInt64) {
        isSleeping.store(true, ordering: .sequentiallyConsistent)
        // An item that arrived before the flag was seen must not be slept over.
        if count.load(ordering: .sequentiallyConsistent) == 0 {
            let now = monotonicNanoseconds()
            if deadline > now {
                let milliseconds = (deadline &- now &+ 999_999) / 1_000_000
                _ = moonraft_eventfd_wait(wakeDescriptor, Int32(clamping: milliseconds))
            }
        }
        isSleeping.store(false, ordering: .sequentiallyConsistent)
    }

    private func wakeIfSleeping() {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        if isSleeping.load(ordering: .sequentiallyConsistent) {
            _ = moonraft_eventfd_signal(wakeDescriptor)
        }
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
package func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}

/// CLOCK_REALTIME in nanoseconds since 1970; for logs and generated identifiers only.
package func wallClockNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}
