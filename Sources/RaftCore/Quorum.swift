/// Majority arithmetic, for one set of voters and for the two of a joint configuration.
///
/// An empty set agrees to everything, so that a configuration that is not joint needs no special
/// case.
enum Quorum {
    /// What the votes counted so far decide.
    enum Outcome: Equatable {
        case pending, won, lost
    }

    /// The highest number that a majority of both halves has reached.
    static func reached(_ conf: ConfState, _ value: (NodeID) -> UInt64) -> UInt64 {
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.jointIgnoresOutgoingHalf) { return reached(conf.voters, value) }
        #endif
        let incoming = reached(conf.voters, value)
        return conf.isJoint ? min(incoming, reached(conf.votersOutgoing, value)) : incoming
    }

    /// The highest number that a majority of `voters` has reached.
    static func reached(_ voters: [NodeID], _ value: (NodeID) -> UInt64) -> UInt64 {
        let count = voters.count
        guard count > 1 else { return voters.first.map(value) ?? .max }
        // This runs for every acknowledgement: a sorted copy on the stack, no allocation. The
        // buffer does not leave the closure and every element is written before it is read.
        return withUnsafeTemporaryAllocation(of: UInt64.self, capacity: count) { sorted in
            for position in 0..<count {
                let new = value(voters[position])
                var slot = position
                while slot > 0, sorted[slot - 1] > new {
                    sorted[slot] = sorted[slot - 1]
                    slot -= 1
                }
                sorted[slot] = new
            }
            // count / 2 + 1 of the values are at least this one.
            return sorted[count - (count / 2 + 1)]
        }
    }

    /// Decides an election; `vote` answers nil while a voter is silent.
    static func outcome(_ conf: ConfState, _ vote: (NodeID) -> Bool?) -> Outcome {
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.jointIgnoresOutgoingHalf) { return outcome(conf.voters, vote) }
        #endif
        let incoming = outcome(conf.voters, vote)
        let outgoing = outcome(conf.votersOutgoing, vote)
        if incoming == .lost || outgoing == .lost { return .lost }
        return incoming == .won && outgoing == .won ? .won : .pending
    }

    private static func outcome(_ voters: [NodeID], _ vote: (NodeID) -> Bool?) -> Outcome {
        guard !voters.isEmpty else { return .won }
        let needed = voters.count / 2 + 1
        var yes = 0
        var silent = 0
        for id in voters {
            switch vote(id) {
            case true?: yes += 1
            case false?: break
            case nil: silent += 1
            }
        }
        if yes >= needed { return .won }
        return yes + silent >= needed ? .pending : .lost
    }
}
