// Who waits for which log entry.

import RaftCore

/// The leader's own proposals in log order. They get consecutive indexes, so the queue is in order by
/// construction and finding the one of an applied entry is a look at its front. After a change of
/// leaders indexes may begin again lower; what then stands at or above the new index is taken out.
package struct WaiterQueue {
    package struct Slot {
        package var index: LogIndex
        package var term: Term
        package var proposal: QueuedProposal
    }

    private var slots: [Slot?] = []
    private var head = 0
    /// Front slots that were answered because they waited too long.
    private var expiredThrough = 0

    package init() {}

    package var count: Int { slots.count - head }

    package mutating func append(index: LogIndex, term: Term, _ proposal: QueuedProposal) {
        slots.append(Slot(index: index, term: term, proposal: proposal))
        lastIndex = index
    }

    /// The last index that was waited for.
    package private(set) var lastIndex: LogIndex = 0

    /// The proposal whose entry was applied at `index`, if it came from here. Those before it, and one
    /// of another term at the same index, are given to `lost`: their entries can never be applied.
    package mutating func take(
        index: LogIndex, term: Term, lost: (QueuedProposal) -> Void
    ) -> QueuedProposal? {
        while head < slots.count {
            guard let front = slots[head] else {
                head += 1
                shrink()
                continue
            }
            if front.index > index { return nil }
            slots[head] = nil
            head += 1
            defer { shrink() }
            if front.index == index && front.term == term { return front.proposal }
            lost(front.proposal)
        }
        return nil
    }

    /// Takes out what waits at or above `index`.
    package mutating func removeLast(from index: LogIndex, _ body: (Slot) -> Void) {
        while count > 0 {
            if let last = slots[slots.count - 1] {
                if last.index < index { break }
                body(last)
            }
            slots.removeLast()
        }
        expiredThrough = min(expiredThrough, slots.count)
        lastIndex = index - min(index, 1)
    }

    /// Takes out those that came before `deadline`; their entries may still be applied.
    package mutating func expire(before deadline: UInt64, _ body: (QueuedProposal) -> Void) {
        var position = max(head, expiredThrough)
        while position < slots.count {
            if let slot = slots[position] {
                if slot.proposal.since >= deadline { break }
                body(slot.proposal)
                slots[position] = nil
            }
            position += 1
        }
        expiredThrough = position
    }

    /// Empties the queue in order.
    package mutating func removeAll(_ body: (Slot) -> Void) {
        for slot in slots[head...] {
            if let slot { body(slot) }
        }
        slots.removeAll()
        head = 0
        expiredThrough = 0
        lastIndex = 0
    }

    private mutating func shrink() {
        guard head == slots.count || head > 1024 && head * 2 > slots.count else { return }
        slots.removeFirst(head)
        expiredThrough = max(0, expiredThrough - head)
        head = 0
    }
}
