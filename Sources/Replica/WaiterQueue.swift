// Who waits for which log entry.

import RaftCore

/// Waiters in log order. The leader's own proposals get consecutive indexes, so the queue is in
/// order by construction and finding the waiter of an applied entry is a look at its front. After a
/// change of leaders indexes may begin again lower; whoever then waits at or above the new index for
/// an older term waits for an entry that is lost.
package struct WaiterQueue {
    private struct Slot {
        var index: LogIndex
        var term: Term
        var waiter: (any ReplyWaiter)?
        var since: UInt64
    }

    private var slots: [Slot] = []
    private var head = 0
    /// Front slots that were answered because they waited too long.
    private var expiredThrough = 0

    package init() {}

    package var count: Int { slots.count - head }

    package mutating func append(
        index: LogIndex, term: Term, waiter: (any ReplyWaiter)?, since: UInt64
    ) {
        slots.append(Slot(index: index, term: term, waiter: waiter, since: since))
    }

    /// The last index waited for, 0 when nobody waits.
    package var lastIndex: LogIndex { count == 0 ? 0 : slots[slots.count - 1].index }

    /// The waiter of the entry that was applied at `index`, and those before it whose entry was
    /// lost to another leader: they are answered by `lost`.
    package mutating func take(
        index: LogIndex, term: Term, lost: ((any ReplyWaiter)) -> Void
    ) -> (any ReplyWaiter)? {
        while head < slots.count {
            let front = slots[head]
            if front.index > index { return nil }
            slots[head].waiter = nil
            head += 1
            defer { shrink() }
            if front.index == index && front.term == term { return front.waiter }
            if let waiter = front.waiter { lost(waiter) }
        }
        return nil
    }

    /// Takes out those who wait at or above `index`: a new leader's entries replace theirs.
    package mutating func removeLast(from index: LogIndex, _ body: (any ReplyWaiter) -> Void) {
        while count > 0, slots[slots.count - 1].index >= index {
            if let waiter = slots.removeLast().waiter { body(waiter) }
        }
        expiredThrough = min(expiredThrough, slots.count)
    }

    /// Answers those that have waited since before `deadline`; their entries may still be applied.
    package mutating func expire(before deadline: UInt64, _ body: (any ReplyWaiter) -> Void) {
        var position = max(head, expiredThrough)
        while position < slots.count, slots[position].since < deadline {
            if let waiter = slots[position].waiter { body(waiter) }
            slots[position].waiter = nil
            position += 1
        }
        expiredThrough = position
    }

    /// Empties the queue, giving every waiter to `body`.
    package mutating func removeAll(_ body: (any ReplyWaiter) -> Void) {
        for slot in slots[head...] {
            if let waiter = slot.waiter { body(waiter) }
        }
        slots.removeAll()
        head = 0
        expiredThrough = 0
    }

    private mutating func shrink() {
        guard head == slots.count || head > 1024 && head * 2 > slots.count else { return }
        slots.removeFirst(head)
        expiredThrough = max(0, expiredThrough - head)
        head = 0
    }
}
