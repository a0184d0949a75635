#if MOONRAFT_MUTATIONS
    import RaftCore
    import StateMachine
    import Storage

    /// One deliberate bug and the number of seeds within which it must be found.
    package struct PlantedBug: Sendable {
        package let name: String
        package let module: String
        /// Seeds 1 … this.
        package let bound: UInt64
        private let mutation: Mutation?
        private let state: StateMutation?
        private let storage: StorageMutation?

        /// Found within this many seeds, unless said otherwise below.
        private static let usualBound: UInt64 = 60

        /// Bugs that need several things to come together: a leader that was replaced unawares, a late answer, and a read
        /// in between; a power loss between two steps of taking a snapshot over.
        private static let bounds: [String: UInt64] = [
            Mutation.heartbeatCountsForNextRound.rawValue: 300,
            Mutation.renewalWithoutConfirmation.rawValue: 300,
            Mutation.snapshotInstalledBeforeMarker.rawValue: 300,
        ]

        private init(
            _ name: String, _ module: String, mutation: Mutation? = nil, state: StateMutation? = nil,
            storage: StorageMutation? = nil
        ) {
            self.name = name
            self.module = module
            bound = Self.bounds[name] ?? Self.usualBound
            self.mutation = mutation
            self.state = state
            self.storage = storage
        }

        /// All of them, in the order of their lists.
        package static let all: [PlantedBug] =
            Mutation.allCases.map { PlantedBug($0.rawValue, "consensus", mutation: $0) }
            + StateMutation.allCases.map { PlantedBug($0.rawValue, "state machine", state: $0) }
            + StorageMutation.allCases.map { PlantedBug($0.rawValue, "log", storage: $0) }

        /// Switches this bug on for the rest of the process.
        package func plant() {
            Mutation.active = mutation
            StateMutation.active = state
            StorageMutation.active = storage
        }
    }
#endif
