/// Identifies a member for its whole life; 0 is reserved for "nobody" and is never a member.
package typealias NodeID = UInt64

/// Election term (Ongaro thesis 3.3): grows only, starts at 0 before the first election.
package typealias Term = UInt64

/// Position in the replicated log; the first entry has index 1.
package typealias LogIndex = UInt64

/// What the payload of an entry means to the host.
package enum EntryKind: UInt8, Sendable, Equatable {
    /// A command of the host; an empty payload is the entry a new leader appends and means nothing.
    case normal = 0
    /// An encoded `ConfigChange`.
    case configChange = 1
}

/// One slot of the replicated log.
///
/// Copying an entry shares the payload; the core never looks inside and never copies the bytes.
package struct Entry: Sendable, Equatable {
    package var index: LogIndex
    package var term: Term
    package var data: [UInt8]
    package var kind: EntryKind

    /// Makes an entry as it is read back from disk or received from a peer.
    package init(index: LogIndex, term: Term, kind: EntryKind = .normal, data: [UInt8]) {
        self.index = index
        self.term = term
        self.data = data
        self.kind = kind
    }
}

/// The state besides the log that must survive a restart (thesis figure 3.1).
///
/// `term` and `vote` must be durable before any answer that depends on them leaves. `commit` is a
/// hint that saves a round after a restart: it may lag and is written only along with other things.
package struct HardState: Sendable, Equatable {
    package var term: Term
    /// The candidate voted for in `term`; 0 when none.
    package var vote: NodeID
    package var commit: LogIndex

    /// The hard state of a founding member that never ran; goes with `RaftLog.founding`.
    package static let founding = HardState(term: 1, vote: 0, commit: 1)

    /// Makes a hard state; the defaults are those of a node that never ran.
    package init(term: Term = 0, vote: NodeID = 0, commit: LogIndex = 0) {
        self.term = term
        self.vote = vote
        self.commit = commit
    }
}

/// Where a snapshot of the state machine stands, and who the members were there.
package struct SnapshotMetadata: Sendable, Equatable {
    package var index: LogIndex
    package var term: Term
    package var confState: ConfState

    /// Makes metadata for a state machine that has applied exactly the entries up to `index`.
    package init(index: LogIndex, term: Term, confState: ConfState) {
        self.index = index
        self.term = term
        self.confState = confState
    }
}
