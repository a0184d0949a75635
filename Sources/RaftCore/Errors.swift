/// Why a core cannot be started from what was read back.
package enum RestoreError: Error, Sendable, Equatable {
    /// The named field of the configuration is out of range.
    case invalidConfiguration(field: String)
    /// A term or index is larger than any that can have been written.
    case outOfRange
    /// The entries have a gap, start at the wrong place or go back in term.
    case brokenLog
    /// The commit index lies beyond the end of the log: durable entries have been lost.
    case commitBeyondLog(commit: LogIndex, lastIndex: LogIndex)
    /// The state machine has applied more than the log holds, or lacks entries already dropped.
    case appliedOutsideLog(applied: LogIndex, snapshotIndex: LogIndex, lastIndex: LogIndex)
    /// The membership breaks the rules stated at `ConfState`.
    case invalidConfState
}

/// Why a message was not processed. At most its term and its sender's leadership were taken over.
package enum StepError: Error, Sendable, Equatable {
    /// Addressed to another member, or sent by this one or by nobody.
    case misaddressed
    /// Only the leader's members may say this, and the sender is not one.
    case unknownPeer(NodeID)
    /// A number is outside the range any honest member can reach, or entries are not contiguous.
    case malformed
    /// A second leader in one term. Safety is lost: stop this member.
    case secondLeader(term: Term, known: NodeID, claims: NodeID)
    /// A leader wants to replace a committed entry. Safety is lost: stop this member.
    case conflictBelowCommit(index: LogIndex, commit: LogIndex)
    /// The leader knows entries to be durable here that are not. Entries were lost: stop this
    /// member.
    case commitBeyondLog(commit: LogIndex, lastIndex: LogIndex)
    /// A snapshot in whose membership this member does not appear.
    case notInSnapshot

    /// Whether the error shows that a promise was broken, here or elsewhere, so that going on could
    /// spread the damage.
    package var isFatal: Bool {
        switch self {
        case .secondLeader, .conflictBelowCommit, .commitBeyondLog: true
        case .misaddressed, .unknownPeer, .malformed, .notInSnapshot: false
        }
    }
}

/// Why nothing was proposed. The log is unchanged: the caller may try again without doubt.
package enum ProposalError: Error, Sendable, Equatable {
    /// Try the named member, if any.
    case notLeader(leader: NodeID?)
    /// Leadership is being handed over.
    case transferring(to: NodeID)
    /// `maxUncommittedBytes` is reached.
    case uncommittedFull
    /// A payload exceeds `maxEntryBytes`.
    case payloadTooLarge(bytes: Int)
    /// A payload is empty, which would look like the entry of a new leader.
    case emptyPayload
    /// A membership change is still to be applied.
    case configChangePending
    /// The leader has not yet committed an entry of its term, which must come before a membership
    /// change (Ongaro, raft-dev 2015).
    case notCommittedInTerm
    /// The change cannot be made from the present membership.
    case configChangeRefused(ConfigChangeError)
}

/// Why a read request was not accepted.
package enum ReadIndexError: Error, Sendable, Equatable {
    /// No leader is known to ask.
    case noLeader
    /// A request with this context is still pending.
    case duplicateContext
    /// `maxPendingReads` is reached.
    case tooManyPending
}

/// Why leadership cannot be handed over.
package enum TransferError: Error, Sendable, Equatable {
    case notLeader(leader: NodeID?)
    /// The target is this member.
    case alreadyLeader
    /// The target is not a member.
    case unknownMember
    /// The target does not vote.
    case notVoter
}
