// How completions of asynchronous writes are matched to the log.
//
// A completion must not vouch for entries that have been overwritten since, not even if the same
// entries have come back meanwhile: with A written, B over it, and A again, the first completion
// says nothing about the third write, and a crash may leave B. So the batches form one sequence
// that completes in order, and each outstanding batch remembers how far it still vouches for the
// log as it stands. Overwriting from index i lowers that to i - 1 for all of them. In the example
// the first two batches end up vouching for nothing at that index, and only the third one's
// completion counts.

/// The batches under way and the messages that wait for them.
struct Durability: Sendable {
    private struct Batch: Sendable {
        var sequence: UInt64
        /// The batch makes the log durable up to here, as it stands now.
        var vouchesThrough: LogIndex
    }

    private struct Held: Sendable {
        var sequence: UInt64
        var message: Message
    }

    /// The hard state as of the last batch handed out.
    var writtenTerm: Term = 0
    var writtenVote: NodeID = 0
    var writtenCommit: LogIndex = 0
    /// A snapshot that the next batch must carry.
    var snapshot: SnapshotMetadata?
    /// A message waits for a batch that is not handed out yet.
    private(set) var isBatchOwed = false

    private var handedOut: UInt64 = 0
    private var acknowledged: UInt64 = 0
    private var batches: [Batch] = []
    private var held: [Held] = []

    /// Returns `hardState` if it differs from what was last written, and notes it as written.
    mutating func noteWritten(_ hardState: HardState) -> HardState? {
        guard
            hardState
                != HardState(term: writtenTerm, vote: writtenVote, commit: writtenCommit)
        else { return nil }
        writtenTerm = hardState.term
        writtenVote = hardState.vote
        writtenCommit = hardState.commit
        return hardState
    }

    /// Numbers a new batch that brings the durable log up to `lastIndex`.
    mutating func makeBatch(
        entries: [Entry], hardState: HardState?, lastIndex: LogIndex
    ) -> PersistBatch {
        handedOut += 1
        batches.append(Batch(sequence: handedOut, vouchesThrough: lastIndex))
        isBatchOwed = false
        defer { snapshot = nil }
        return PersistBatch(
            sequence: handedOut, snapshot: snapshot, entries: entries, hardState: hardState)
    }

    /// Notes that the log was overwritten from `index` on.
    mutating func overwritten(from index: LogIndex) {
        for position in batches.indices {
            batches[position].vouchesThrough = min(batches[position].vouchesThrough, index - 1)
        }
    }

    /// Completes all batches up to `sequence`; returns how far the log is durable by them, or nil
    /// when there is nothing new.
    mutating func acknowledge(through sequence: UInt64) -> LogIndex? {
        precondition(
            sequence <= handedOut, "batch \(sequence) completed, only \(handedOut) handed out")
        guard sequence > acknowledged else { return nil }
        acknowledged = sequence
        let open = batches.firstIndex { $0.sequence > sequence } ?? batches.endIndex
        let index = batches[..<open].reduce(0) { max($0, $1.vouchesThrough) }
        batches.removeSubrange(..<open)
        return index
    }

    /// Keeps `message` until all that is known now is durable; returns it when that is so already,
    /// and drops it when `limit` messages are waiting.
    mutating func hold(
        _ message: Message, hasUnwrittenState: Bool, limit: Int
    ) -> Message? {
        let sequence = hasUnwrittenState || isBatchOwed ? handedOut + 1 : handedOut
        if sequence <= acknowledged { return message }
        guard held.count < limit else { return nil }
        if sequence > handedOut { isBatchOwed = true }
        held.append(Held(sequence: sequence, message: message))
        return nil
    }

    /// Takes the messages whose batches are complete, oldest first.
    mutating func release() -> [Message] {
        guard let first = held.first, first.sequence <= acknowledged else { return [] }
        let open = held.firstIndex { $0.sequence > acknowledged } ?? held.endIndex
        let messages = held[..<open].map(\.message)
        held.removeSubrange(..<open)
        return messages
    }
}
