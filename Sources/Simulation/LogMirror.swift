// What one member's log should be, kept from what its replica handed out to be written.

import RaftCore

/// The entries of one member, written or on their way, and how far they are durable.
struct LogMirror {
    struct Slot {
        var term: Term
        var digest: UInt64
        var isChange: Bool
    }

    private(set) var snapshotIndex: LogIndex
    private(set) var snapshotTerm: Term
    private var slots: [Slot]

    // What a completed synchronize vouches for.
    var durableTerm: Term = 0
    var durableVote: NodeID = 0
    var durableLast: LogIndex

    init(snapshotIndex: LogIndex, snapshotTerm: Term, entries: [Entry] = []) {
        self.snapshotIndex = snapshotIndex
        self.snapshotTerm = snapshotTerm
        slots = entries.map { Slot(
                term: $0.term, digest: Self.digest(of: $0), isChange: $0.kind == .configChange) }
        durableLast = snapshotIndex + UInt64(entries.count)
    }

    static func digest(of entry: Entry) -> UInt64 {
        fold(entry.data, entry.index &* 0x9E37_79B9_7F4A_7C15 ^ entry.term &* 31 ^ UInt64(entry.kind.rawValue))
    }

    var lastIndex: LogIndex { snapshotIndex + UInt64(slots.count) }

    func slot(at index: LogIndex) -> Slot? {
        guard index > snapshotIndex, index <= lastIndex else { return nil }
        return slots[Int(index - snapshotIndex) - 1]
    }

    func term(at index: LogIndex) -> Term? {
        index == snapshotIndex ? snapshotTerm : slot(at: index)?.term
    }

    /// Whether more than one membership change lies after `index`.
    func hasSeveralChanges(after index: LogIndex) -> Bool {
        let first = Int(max(index, snapshotIndex) - snapshotIndex)
        guard first < slots.count else { return false }
        return slots[first...].count(where: \.isChange) > 1
    }

    /// Takes over a batch as handed out; false when it leaves a gap.
    mutating func handOut(_ batch: PersistBatch) -> Bool {
        if let snapshot = batch.snapshot {
            snapshotIndex = snapshot.index
            snapshotTerm = snapshot.term
            slots = []
            durableLast = min(durableLast, snapshot.index)
        }
        guard let first = batch.entries.first else { return true }
        guard first.index > snapshotIndex, first.index <= lastIndex + 1 else { return false }
        slots.removeSubrange(Int(first.index - snapshotIndex - 1)...)
        durableLast = min(durableLast, first.index - 1)
        slots += batch.entries.map { Slot(
                term: $0.term, digest: Self.digest(of: $0), isChange: $0.kind == .configChange) }
        return true
    }
}
