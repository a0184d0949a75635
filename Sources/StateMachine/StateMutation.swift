#if MOONRAFT_MUTATIONS
    /// Deliberate bugs of the state machine; see RaftCore/Mutation.swift.
    package enum StateMutation: String, CaseIterable, Sendable {
        case appliedIndexBehindData
        case leasesNotCommitted
        case membersNotCommitted
        case expiryDeletesOnLeaderOnly
        case renewalLeavesCheckpoint
        case newLeaderKeepsOldExpiry

        /// The one that is switched on.
        nonisolated(unsafe) package static var active: StateMutation?

        @inline(__always) package static func isOn(_ mutation: StateMutation) -> Bool { active == mutation }
    }
#endif
