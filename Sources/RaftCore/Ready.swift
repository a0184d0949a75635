/// Who leads, as far as this member knows; need not be durable.
package struct SoftState: Sendable, Equatable {
    package var role: Role
    package var term: Term
    package var leader: NodeID?
}

/// The part a member plays in its term.
package enum Role: UInt8, Sendable, Equatable {
    case follower
    /// Asking whether an election could be won (thesis 9.6).
    case preCandidate
    case candidate
    case leader
}

/// What must become durable, as one step of an ordered sequence.
package struct PersistBatch: Sendable, Equatable {
    /// Counts up by one from 1; the argument of `RaftCore.persisted(through:)`.
    package var sequence: UInt64
    /// Replaces the whole log: every entry written before, of any index, is void.
    package var snapshot: SnapshotMetadata?
    /// Contiguous. If the first one's index was written before, it and all after it are
    /// overwritten.
    package var entries: [Entry]
    /// To be written after the entries; nil when unchanged.
    package var hardState: HardState?
}

/// The answer to a read request: the read may be served once `index` is applied.
package struct ReadState: Sendable, Equatable {
    package var context: UInt64
    package var index: LogIndex

    /// Makes the answer to the request `context`.
    package init(context: UInt64, index: LogIndex) {
        self.context = context
        self.index = index
    }
}

/// Everything the host has to do, as of one call of `RaftCore.takeReady()`. Each thing is handed
/// out once. The duties that go with each field are listed in RaftCore.swift.
package struct Ready: Sendable, Equatable {
    /// Set when role, term or leader changed.
    package var softState: SoftState?
    package var persist: PersistBatch?
    /// To be sent now, in order; none of them waits for `persist`.
    package var messages: [Message] = []
    /// To be applied in order: committed and durable here.
    package var committed: [Entry] = []
    package var readStates: [ReadState] = []
    /// Contexts of read requests that will not be answered because leadership changed.
    package var abandonedReads: [UInt64] = []

    /// Whether there is nothing to do.
    package var isEmpty: Bool {
        softState == nil && persist == nil && messages.isEmpty && committed.isEmpty
            && readStates.isEmpty && abandonedReads.isEmpty
    }
}
