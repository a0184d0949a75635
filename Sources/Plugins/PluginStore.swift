import Synchronization

/// The small table that the VMs of one binding share: counters, caches, marks. Held by the host, kept over
/// reloads, lost with the process.
///
/// Bounds: ``maximumEntries``, then the least recently used entry goes; keys and values are bounded by the
/// functions that set them.
package final class PluginStore: Sendable {
    package static let maximumEntries = 4096
    package static let maximumKeyBytes = 256
    package static let maximumValueBytes = 4096

    private struct Entry {
        var value: LuaValue
        /// Monotonic seconds; nil never expires.
        var expires: Double?
        var previous: Int
        var next: Int
        let key: [UInt8]
    }

    /// A doubly linked list through an array, most recently used first; `free` lists unused slots.
    private struct State {
        var index: [[UInt8]: Int] = [:]
        var entries: [Entry] = []
        var free: [Int] = []
        var head = -1
        var tail = -1

        mutating func unlink(_ slot: Int) {
            let entry = entries[slot]
            if entry.previous >= 0 { entries[entry.previous].next = entry.next } else { head = entry.next }
            if entry.next >= 0 { entries[entry.next].previous = entry.previous } else { tail = entry.previous }
        }

        mutating func pushFront(_ slot: Int) {
            entries[slot].previous = -1
            entries[slot].next = head
            if head >= 0 { entries[head].previous = slot }
            head = slot
            if tail < 0 { tail = slot }
        }

        mutating func remove(_ slot: Int) {
            unlink(slot)
            index.removeValue(forKey: entries[slot].key)
            entries[slot].value = .null
            free.append(slot)
        }

        /// The live slot of a key, moved to the front.
        mutating func touch(_ key: [UInt8], now: Double) -> Int? {
            guard let slot = index[key] else { return nil }
            if let expires = entries[slot].expires, expires <= now {
                remove(slot)
                return nil
            }
            if head != slot {
                unlink(slot)
                pushFront(slot)
            }
            return slot
        }

        mutating func set(_ key: [UInt8], _ value: LuaValue, expires: Double?, now: Double) {
            if let slot = touch(key, now: now) {
                entries[slot].value = value
                entries[slot].expires = expires
                return
            }
            if index.count >= PluginStore.maximumEntries { remove(tail) }
            let entry = Entry(value: value, expires: expires, previous: -1, next: -1, key: key)
            let slot: Int
            if let unused = free.popLast() {
                entries[unused] = entry
                slot = unused
            } else {
                entries.append(entry)
                slot = entries.count - 1
            }
            index[key] = slot
            pushFront(slot)
        }
    }

    private let state = Mutex(State())

    package init() {}

    package func get(_ key: [UInt8], now: Double) -> LuaValue? {
        state.withLock { state in state.touch(key, now: now).map { state.entries[$0].value } }
    }

    /// Sets a value; a nil `ttl` (seconds) never expires.
    package func set(_ key: [UInt8], _ value: LuaValue, ttl: Double?, now: Double) {
        state.withLock { $0.set(key, value, expires: ttl.map { now + $0 }, now: now) }
    }

    package func delete(_ key: [UInt8], now: Double) {
        state.withLock { state in
            if let slot = state.touch(key, now: now) { state.remove(slot) }
        }
    }

    /// Adds to an integer, which starts at 0 and then lives for `ttl`. Nil when the value is no integer or the
    /// sum overflows.
    package func increment(_ key: [UInt8], by amount: Int64, ttl: Double?, now: Double) -> Int64? {
        state.withLock { state in
            guard let slot = state.touch(key, now: now) else {
                state.set(key, .integer(amount), expires: ttl.map { now + $0 }, now: now)
                return amount
            }
            guard case .integer(let value) = state.entries[slot].value else { return nil }
            let (sum, overflow) = value.addingReportingOverflow(amount)
            guard !overflow else { return nil }
            state.entries[slot].value = .integer(sum)
            return sum
        }
    }

    package var count: Int { state.withLock { $0.index.count } }
}
