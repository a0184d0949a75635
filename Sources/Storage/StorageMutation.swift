#if MOONRAFT_MUTATIONS
    /// Deliberate bugs of the write-ahead log; see RaftCore/Mutation.swift.
    package enum StorageMutation: String, CaseIterable, Sendable {
        case flushWithoutSync
        case voteWithoutSync
        case segmentNameNotDurable
        case recordChecksumIgnored
        case truncatesLiveSegment

        /// The one that is switched on.
        nonisolated(unsafe) package static var active: StorageMutation?

        @inline(__always) package static func isOn(_ mutation: StorageMutation) -> Bool { active == mutation }
    }
#endif
