import NIOCore

/// Something with a deadline that sits in at most one wheel, as a link of an intrusive list.
package class DeadlineEntry {
    fileprivate(set) var fireAt = NIODeadline.distantFuture
    fileprivate var slot: Int32 = -1
    fileprivate unowned(unsafe) var next: DeadlineEntry?
    fileprivate unowned(unsafe) var previous: DeadlineEntry?

    var isArmed: Bool { slot >= 0 }

    /// Runs on the wheel's loop once the deadline has passed; the entry is disarmed already.
    func deadlinePassed() {}
}

/// Deadlines of calls: arming and disarming are a few stores, because almost every call ends long
/// before its deadline.
///
/// A hashed wheel: 512 slots of 10 ms. An entry lies in the slot of its deadline modulo one turn
/// (5.12 s) and is left there by turns that come too early. Entries are not retained; whoever arms
/// one disarms it before letting go. Deadlines fire at most one slot late.
struct DeadlineWheel {
    private static let slotCount = 512
    private static let slotNanoseconds: UInt64 = 10_000_000

    private var slots = [Unmanaged<DeadlineEntry>?](repeating: nil, count: slotCount)
    /// The last slot time that has been swept.
    private var swept: UInt64
    private(set) var count = 0

    init(now: NIODeadline) {
        swept = now.uptimeNanoseconds / Self.slotNanoseconds
    }

    mutating func arm(_ entry: DeadlineEntry, at deadline: NIODeadline) {
        precondition(!entry.isArmed, "deadline armed twice")
        entry.fireAt = deadline
        let time = max(
            deadline.uptimeNanoseconds / Self.slotNanoseconds, swept &+ 1)
        let slot = Int(time % UInt64(Self.slotCount))
        entry.slot = Int32(slot)
        entry.previous = nil
        if let head = slots[slot]?.takeUnretainedValue() {
            entry.next = head
            head.previous = entry
        } else {
            entry.next = nil
        }
        slots[slot] = .passUnretained(entry)
        count += 1
    }

    mutating func disarm(_ entry: DeadlineEntry) {
        guard entry.isArmed else { return }
        if let previous = entry.previous {
            previous.next = entry.next
        } else {
            slots[Int(entry.slot)] = entry.next.map { .passUnretained($0) }
        }
        entry.next?.previous = entry.previous
        entry.next = nil
        entry.previous = nil
        entry.slot = -1
        count -= 1
    }

    /// Disarms and returns everything due at `now`.
    mutating func expire(now: NIODeadline) -> [DeadlineEntry] {
        let time = now.uptimeNanoseconds / Self.slotNanoseconds
        var due: [DeadlineEntry] = []
        guard time > swept else { return due }
        let steps = min(time - swept, UInt64(Self.slotCount))
        for step in 0..<steps {
            let slot = Int((time - step) % UInt64(Self.slotCount))
            var entry = slots[slot]?.takeUnretainedValue()
            while let current = entry {
                entry = current.next
                if current.fireAt <= now {
                    disarm(current)
                    due.append(current)
                }
            }
        }
        // The slot of `now` itself is not over yet: entries later in it stay for the next sweep.
        swept = time - 1
        return due
    }

    /// When the next sweep is needed: the end of the first slot that holds anything.
    func nextSweep() -> NIODeadline? {
        guard count > 0 else { return nil }
        for step in 1...UInt64(Self.slotCount) {
            if slots[Int((swept + step) % UInt64(Self.slotCount))] != nil {
                return .uptimeNanoseconds((swept + step + 1) * Self.slotNanoseconds)
            }
        }
        return nil
    }
}
