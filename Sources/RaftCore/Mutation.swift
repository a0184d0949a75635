#if MOONRAFT_MUTATIONS
    /// Deliberate bugs, to show that the simulator finds them. They exist only in a build with this flag, which
    /// `make sim-mutations` makes in a directory of its own; no other binary contains any of it.
    ///
    /// Each is one edit of the kind that a reviewer could miss, at the place where it would be made.
    package enum Mutation: String, CaseIterable, Sendable {
        // Promises before their time.
        case voteBeforeDurable
        case appendAnsweredBeforeDurable
        case leaderCountsUnwrittenEntries

        // Elections.
        case voteTwiceInTerm
        case voteWithoutLogCheck

        // The log.
        case previousTermUnchecked
        case oldAppendTruncates
        case followerCommitsWhatItReceives
        case commitOldTermByCounting

        // Reads.
        case readWithoutRound
        case readBeforeCommitInTerm
        case heartbeatCountsForNextRound
        case readNumberReused
        case readServedBeforeApplied

        // Membership.
        case jointIgnoresOutgoingHalf
        case changeWhileOnePending
        case learnerCountsForCommit
        case removedVoterStaysInQuorum

        // Snapshots.
        case snapshotKeepsOldMembership
        case snapshotCopiedBeforeCommit
        case snapshotInstalledBeforeMarker
        case logReleasedBeforeCommit

        // Requests.
        case forwardRetriedAfterLeaderChange
        case forwardAcceptedTwice
        case renewalWithoutConfirmation

        /// The one that is switched on.
        nonisolated(unsafe) package static var active: Mutation?

        @inline(__always) package static func isOn(_ mutation: Mutation) -> Bool { active == mutation }
    }
#endif
