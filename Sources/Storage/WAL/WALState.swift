/// What the records so far amount to. Writer and replay pass every record through the same rules:
/// the writer because breaking one is a bug of its caller, replay because it means that the log is
/// not the one written.
struct WALState: Equatable {
    /// `commit` is never above `lastIndex` nor below `snapshot.index`; no entry's term is above
    /// `term`.
    var hardState: WALHardState
    var snapshot: WALSnapshot
    var lastIndex: UInt64
    var lastTerm: UInt64

    /// The rule that a record breaks.
    enum Violation: String, Error {
        case gap = "entry index leaves a gap"
        case overwritesCommitted = "entry overwrites a committed one"
        case termDecreases = "entry term is below that of the entry before it"
        case termAboveHardState = "term of an entry or snapshot is above the current term"
        case hardStateTermDecreases = "term decreases"
        case voteChanges = "vote changes within a term"
        case commitDecreases = "commit index decreases"
        case commitAboveLog = "commit index is above the last entry"
        case snapshotDecreases = "snapshot index decreases"
        case snapshotAboveLog = "snapshot index is above the last entry"
    }

    /// True when the entry replaces a suffix of the log.
    @inline(__always)
    mutating func admitEntry(index: UInt64, term: UInt64) throws(Violation) -> Bool {
        guard term <= hardState.term else {
            throw .termAboveHardState
        }
        let overwrites = index <= lastIndex
        if overwrites {
            guard index > hardState.commit else {
                throw .overwritesCommitted
            }
        } else {
            guard index == lastIndex &+ 1 else {
                throw .gap
            }
            guard term >= lastTerm else {
                throw .termDecreases
            }
        }
        lastIndex = index
        lastTerm = term
        return overwrites
    }

    mutating func admitHardState(_ next: WALHardState) throws(Violation) {
        guard next.term >= hardState.term else {
            throw .hardStateTermDecreases
        }
        guard next.term > hardState.term || hardState.vote == 0 || next.vote == hardState.vote else {
            throw .voteChanges
        }
        guard next.commit >= hardState.commit else {
            throw .commitDecreases
        }
        guard next.commit <= lastIndex else {
            throw .commitAboveLog
        }
        hardState = next
    }

    /// A marker that restarts the log also commits its index: what it stands for was committed
    /// elsewhere.
    mutating func admitSnapshot(_ next: WALSnapshot, restartsLog: Bool) throws(Violation) {
        guard next.index >= snapshot.index else {
            throw .snapshotDecreases
        }
        guard next.term <= hardState.term else {
            throw .termAboveHardState
        }
        if restartsLog {
            guard next.index >= hardState.commit else {
                throw .overwritesCommitted
            }
            lastIndex = next.index
            lastTerm = next.term
            hardState.commit = next.index
        } else {
            guard next.index <= hardState.commit else {
                throw .snapshotAboveLog
            }
        }
        snapshot = next
    }
}
