// An inbox: many producers, one consumer, bounded.

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
    /// Whether an item is queued that must not wait for the end of a nap.
    private let hasUrgent = Atomic<Bool>(false)
    /// What the consumer does: one of the states below.
    private let consumer = Atomic<UInt8>(awake)
    private static var awake: UInt8 { 0 }
    /// Woken by urgent items only, and soon awake by itself.
    private static var napping: UInt8 { 1 }
    private static var asleep: UInt8 { 2 }
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
    ///
    /// - Parameters:
    ///   - urgent: false for an item that may wait for the end of a nap.
    ///   - wakes: false when the caller sees to it by itself that the item is taken.
    package func offer(_ item: Item, urgent: Bool = true, wakes: Bool = true) -> Bool {
        let accepted = items.withLock { items -> Bool in
            if items.count >= capacity { return false }
            items.append(item)
            if urgent { hasUrgent.store(true, ordering: .relaxed) }
            count.store(items.count, ordering: .releasing)
            return true
        }
        if accepted && wakes { wake(urgent) }
        return accepted
    }

    /// Adds items in order as far as twice the bound allows, with one lock and at most one wake-up: what
    /// comes this way must get through when single items have used the bound up.
    ///
    /// - Returns: how many were added.
    package func offer<Source>(
        _ source: [Source], wakes: Bool = true, _ make: (Source) -> Item
    ) -> Int {
        let added = items.withLock { items -> Int in
            let room = Swift.min(source.count, Swift.max(0, 2 * capacity - items.count))
            for position in 0..<room { items.append(make(source[position])) }
            if room > 0 { hasUrgent.store(true, ordering: .relaxed) }
            count.store(items.count, ordering: .releasing)
            return room
        }
        if added > 0 && wakes { wake(true) }
        return added
    }

    /// Adds an item that must not be lost (completions, stop); there are few of these by design.
    package func post(_ item: Item, wakes: Bool = true) {
        items.withLock { items in
            items.append(item)
            hasUrgent.store(true, ordering: .relaxed)
            count.store(items.count, ordering: .releasing)
        }
        if wakes { wake(true) }
    }

    /// Wakes the consumer if it sleeps.
    package func wakeConsumer() { wake(true) }

    package var isEmpty: Bool { count.load(ordering: .acquiring) == 0 }

    /// Moves everything queued into `batch`, waiting at most until `deadline` (monotonic
    /// nanoseconds) for the first item. Only the consumer calls this.
    package func take(into batch: inout [Item], deadline: UInt64) {
        wait(until: deadline)
        takeAll(into: &batch)
    }

    /// Moves everything queued into `batch`, which is empty. Any thread; who takes has to agree with the
    /// others on an order.
    package func takeAll(into batch: inout [Item]) {
        items.withLock { items in
            swap(&items, &batch)
            hasUrgent.store(false, ordering: .relaxed)
            count.store(0, ordering: .releasing)
        }
    }

    /// Waits at most until `deadline` (monotonic nanoseconds) for an item or `wakeConsumer`. Only the consumer
    /// calls this.
    package func wait(until deadline: UInt64) {
        if isEmpty { wait(until: deadline, as: Self.asleep) }
    }

    /// Lets items that are not urgent gather until `deadline` (monotonic nanoseconds); an urgent one ends it at once.
    /// Only the consumer calls this.
    package func nap(until deadline: UInt64) { wait(until: deadline, as: Self.napping) }

    private func wait(until deadline: UInt64, as state: UInt8) {
        consumer.store(state, ordering: .sequentiallyConsistent)
        // An item that arrived before the state was seen must not be slept over.
        let isQuiet =
            state == Self.napping
            ? !hasUrgent.load(ordering: .sequentiallyConsistent)
            : count.load(ordering: .sequentiallyConsistent) == 0
        if isQuiet {
            let now = monotonicNanoseconds()
            if deadline > now {
                let milliseconds = (deadline &- now &+ 999_999) / 1_000_000
                _ = moonraft_eventfd_wait(wakeDescriptor, Int32(clamping: milliseconds))
            }
        }
        consumer.store(Self.awake, ordering: .sequentiallyConsistent)
    }

    private func wake(_ urgent: Bool) {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        let state = consumer.load(ordering: .sequentiallyConsistent)
        if state == Self.asleep || (state == Self.napping && urgent) {
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
