// The in-memory log. Positions, from left to right (none moves back except where said):
//
//     snapshotIndex   stableIndex   handedOutIndex   lastIndex
//           │ first … ────┤ ───────────────┤ ─────────────┤
//           │  durable    │ being written  │ new          │
//
// Overwriting a suffix moves `stableIndex` and `handedOutIndex` back to just before it: what was
// durable or under way there is no longer part of the log.

/// The entries after the compaction point, with what is known of their durability.
///
/// Appending and dropping at the front are amortised constant time per entry, lookups are constant
/// time. The entries lie in one array behind `head`, the number of dropped slots; a dropped slot
/// gives up its payload at once and its room when half of the array is dropped.
package struct RaftLog: Sendable {
    private static let minSlotsBeforeShift = 1_024
    private static let vacant = Entry(index: 0, term: 0, data: [])

    /// The last index no longer held as an entry; its term is still known.
    package private(set) var snapshotIndex: LogIndex
    package private(set) var snapshotTerm: Term
    /// Everything up to here is durable exactly as it stands in this log.
    package private(set) var stableIndex: LogIndex
    /// Everything up to here is durable or part of a batch the host is writing.
    private(set) var handedOutIndex: LogIndex

    /// Payload of the entries held.
    package private(set) var payloadBytes: Int

    private var slots: [Entry]
    private var head: Int

    /// Makes a log from what was read back after a restart; all of it counts as durable.
    ///
    /// The entries must follow the snapshot without a gap, with terms that never decrease.
    package init(
        snapshotIndex: LogIndex = 0, snapshotTerm: Term = 0, entries: [Entry] = []
    ) throws(RestoreError) {
        guard snapshotIndex <= RaftCore.maxIndex, snapshotTerm <= RaftCore.maxTerm else {
            throw .outOfRange
        }
        self.snapshotIndex = snapshotIndex
        self.snapshotTerm = snapshotTerm
        slots = entries
        head = 0
        payloadBytes = entries.reduce(0) { $0 + $1.data.count }
        guard Self.continues(entries, index: snapshotIndex, term: snapshotTerm) else {
            throw .brokenLog
        }
        stableIndex = snapshotIndex + UInt64(entries.count)
        handedOutIndex = stableIndex
    }

    /// The log of a founding member that never ran.
    ///
    /// The founding membership stands at index 1 of term 1, as if by a snapshot. A member that
    /// joins later starts with an empty log at index 0, so it cannot be fed entries alone: it gets
    /// a snapshot, and with it the membership that the founders were configured with.
    package static let founding = RaftLog(foundingIndex: 1, term: 1)

    private init(foundingIndex: LogIndex, term: Term) {
        snapshotIndex = foundingIndex
        snapshotTerm = term
        stableIndex = foundingIndex
        handedOutIndex = foundingIndex
        slots = []
        head = 0
        payloadBytes = 0
    }

    /// Whether `entries` follow `(index, term)` without a gap and with terms that never decrease.
    static func continues(_ entries: [Entry], index: LogIndex, term: Term) -> Bool {
        guard index <= RaftCore.maxIndex,
            UInt64(entries.count) <= RaftCore.maxIndex - index
        else { return false }
        var index = index
        var term = term
        for entry in entries {
            guard entry.index == index + 1, entry.term >= term, entry.term <= RaftCore.maxTerm,
                entry.term > 0
            else { return false }
            index = entry.index
            term = entry.term
        }
        return true
    }

    package var firstIndex: LogIndex { snapshotIndex + 1 }
    package var lastIndex: LogIndex { snapshotIndex + UInt64(slots.count - head) }
    package var lastTerm: Term { slots.count > head ? slots[slots.count - 1].term : snapshotTerm }

    /// Whether entries exist that no batch has carried yet.
    var hasNewEntries: Bool { handedOutIndex < lastIndex }

    /// The term of the entry at `index`; nil when it is compacted away or not there yet.
    package func term(at index: LogIndex) -> Term? {
        if index == snapshotIndex { return snapshotTerm }
        guard index > snapshotIndex, index <= lastIndex else { return nil }
        return slots[slot(index)].term
    }

    /// The entry at `index`; nil when it is compacted away or not there yet.
    package func entry(at index: LogIndex) -> Entry? {
        guard index > snapshotIndex, index <= lastIndex else { return nil }
        return slots[slot(index)]
    }

    /// The entries `from ... through`, cut after `maxBytes` of payload but never before the first
    /// one.
    ///
    /// Both ends must lie in the log. The array is a copy; the payloads are shared.
    func entries(from: LogIndex, through: LogIndex, maxBytes: Int = .max) -> [Entry] {
        guard from <= through else { return [] }
        precondition(
            from > snapshotIndex && through <= lastIndex,
            "entries \(from)...\(through) outside \(firstIndex)...\(lastIndex)")
        let first = slot(from)
        var end = slot(through) + 1
        if maxBytes < .max {
            var bytes = slots[first].data.count
            var cut = first + 1
            while cut < end {
                bytes += slots[cut].data.count
                if bytes > maxBytes { break }
                cut += 1
            }
            end = cut
        }
        return Array(slots[first..<end])
    }

    /// Appends one entry at `lastIndex + 1`.
    mutating func append(term: Term, kind: EntryKind, data: [UInt8]) {
        payloadBytes += data.count
        slots.append(Entry(index: lastIndex + 1, term: term, kind: kind, data: data))
    }

    /// Appends entries that continue the log.
    mutating func append(_ entries: ArraySlice<Entry>) {
        for entry in entries { payloadBytes += entry.data.count }
        slots.append(contentsOf: entries)
    }

    /// The position in `entries` of the first one that is not in the log as it stands, or nil.
    ///
    /// The entries must be contiguous and start no later than `lastIndex + 1`.
    func firstMissing(_ entries: [Entry]) -> Int? {
        guard let first = entries.first else { return nil }
        if first.index == lastIndex + 1 { return 0 }
        return entries.firstIndex { term(at: $0.index) != $0.term }
    }

    /// Drops the entry at `index` and all after it.
    mutating func truncate(from index: LogIndex) {
        precondition(index > snapshotIndex, "truncation at \(index) below \(firstIndex)")
        guard index <= lastIndex else { return }
        let first = slot(index)
        for entry in slots[first...] { payloadBytes -= entry.data.count }
        slots.removeSubrange(first...)
        stableIndex = min(stableIndex, index - 1)
        handedOutIndex = min(handedOutIndex, index - 1)
    }

    /// Drops the entries up to `index`, which must lie in the log.
    mutating func compact(through index: LogIndex) {
        guard index > snapshotIndex, let term = term(at: index) else { return }
        let end = slot(index) + 1
        for position in head..<end {
            payloadBytes -= slots[position].data.count
            slots[position] = Self.vacant
        }
        head = end
        snapshotIndex = index
        snapshotTerm = term
        if head >= Self.minSlotsBeforeShift, head * 2 >= slots.count {
            // Give the memory of a past peak back, else just move the rest to the front.
            if slots.capacity / 8 > slots.count - head {
                slots = Array(slots[head...])
            } else {
                slots.removeSubrange(..<head)
            }
            head = 0
        }
    }

    /// The lowest compaction point from `target` up to `limit` that leaves at most `maxBytes` of
    /// payload between itself and `limit`. What lies after `limit` cannot be dropped and is not
    /// counted, or a burst of new entries would push out what peers still need.
    func index(atLeast target: LogIndex, keeping maxBytes: Int, before limit: LogIndex) -> LogIndex {
        // Usually all of the log is within the bound.
        guard payloadBytes > maxBytes, limit > snapshotIndex, limit <= lastIndex else { return target }
        var excess = payloadBytes - maxBytes
        for entry in slots[(slot(limit) + 1)...] { excess -= entry.data.count }
        var index = snapshotIndex
        while excess > 0, index < limit {
            index += 1
            excess -= slots[slot(index)].data.count
        }
        return max(target, index)
    }

    /// Whether the entries behind `index` hold more than `bytes` of payload.
    func holdsMore(than bytes: Int, after index: LogIndex) -> Bool {
        // Usually all of the log is within the bound.
        guard payloadBytes > bytes, index < lastIndex else { return false }
        var left = bytes
        for entry in slots[slot(max(index, snapshotIndex) + 1)...] {
            left -= entry.data.count
            if left < 0 { return true }
        }
        return false
    }

    /// Replaces everything by a snapshot that stands at `(index, term)`.
    ///
    /// `stableIndex` keeps naming the part of the old log that is durable and, being committed,
    /// agrees with the snapshot; the snapshot itself counts once `markStable` says so.
    mutating func reset(index: LogIndex, term: Term, committed: LogIndex) {
        slots = []
        head = 0
        payloadBytes = 0
        snapshotIndex = index
        snapshotTerm = term
        stableIndex = min(stableIndex, committed)
        handedOutIndex = index
    }

    /// Notes that all of the log has been given to the host to write.
    mutating func markHandedOut() { handedOutIndex = lastIndex }

    /// Notes that the log up to `index` is durable.
    mutating func markStable(through index: LogIndex) {
        precondition(
            index <= handedOutIndex, "stable \(index) beyond handed out \(handedOutIndex)")
        stableIndex = max(stableIndex, index)
    }

    /// The last index up to `index` whose term is at most `term`, found by bisection.
    ///
    /// This is where two logs can agree at best if the other one has `term` at `index`, so one
    /// rejected append skips a whole term. The answer can be the compaction point, or below it when
    /// even that has a later term.
    func lastIndex(upTo index: LogIndex, termAtMost term: Term) -> LogIndex {
        guard snapshotTerm <= term else { return snapshotIndex == 0 ? 0 : snapshotIndex - 1 }
        var low = snapshotIndex
        var high = max(low, min(index, lastIndex))
        while low < high {
            let middle = low + (high - low + 1) / 2
            if slots[slot(middle)].term <= term { low = middle } else { high = middle - 1 }
        }
        return low
    }

    /// Whether a log that ends in `(index, term)` holds everything this one may have committed
    /// (thesis 3.6.1).
    func isUpToDate(index: LogIndex, term: Term) -> Bool {
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.voteWithoutLogCheck) { return true }
        #endif
        return term > lastTerm || (term == lastTerm && index >= lastIndex)
    }

    private func slot(_ index: LogIndex) -> Int { head + Int(index - snapshotIndex) - 1 }
}
