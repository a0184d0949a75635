/// The membership in force at some applied index.
///
/// Outside a joint configuration `votersOutgoing` and `learnersNext` are empty. All arrays are
/// sorted and free of duplicates. Invariant: a member is in `voters` or in `learners`, never in
/// both; `learnersNext` holds only members of `votersOutgoing`, who become learners when the joint
/// configuration is left (etcd raft, confchange package).
package struct ConfState: Sendable, Equatable {
    package private(set) var voters: [NodeID]
    package private(set) var votersOutgoing: [NodeID]
    package private(set) var learners: [NodeID]
    package private(set) var learnersNext: [NodeID]
    /// Whether the leader leaves the joint configuration by itself once it is applied.
    package private(set) var autoLeave: Bool

    /// Makes a membership; the arrays may come in any order.
    package init(
        voters: [NodeID] = [],
        votersOutgoing: [NodeID] = [],
        learners: [NodeID] = [],
        learnersNext: [NodeID] = [],
        autoLeave: Bool = false
    ) {
        self.voters = Self.canonical(voters)
        self.votersOutgoing = Self.canonical(votersOutgoing)
        self.learners = Self.canonical(learners)
        self.learnersNext = Self.canonical(learnersNext)
        self.autoLeave = autoLeave
    }

    /// Whether two majorities are needed at present (thesis 4.3).
    package var isJoint: Bool { !votersOutgoing.isEmpty }

    /// Everybody who receives the log, sorted.
    package var members: [NodeID] { Self.canonical(voters + votersOutgoing + learners) }

    /// Whether `id` votes in either half of the configuration.
    package func isVoter(_ id: NodeID) -> Bool {
        voters.contains(id) || votersOutgoing.contains(id)
    }

    /// Whether `id` receives the log without voting.
    package func isLearner(_ id: NodeID) -> Bool { learners.contains(id) }

    /// Whether `id` belongs to the cluster in any role.
    package func contains(_ id: NodeID) -> Bool { isVoter(id) || isLearner(id) }

    /// Whether the members obey the invariants stated at the type.
    ///
    /// Used on what comes from a peer or a file. An empty membership is well formed: it is that of
    /// a node which has not joined yet.
    package var isWellFormed: Bool {
        let all = voters + votersOutgoing + learners + learnersNext
        guard !all.contains(0), !voters.contains(where: learners.contains) else { return false }
        guard learnersNext.allSatisfy({ votersOutgoing.contains($0) && !voters.contains($0) }) else {
            return false
        }
        if !isJoint { return learnersNext.isEmpty && !autoLeave }
        return !voters.isEmpty && !learners.contains(where: votersOutgoing.contains)
    }

    private static func canonical(_ ids: [NodeID]) -> [NodeID] {
        var result: [NodeID] = []
        result.reserveCapacity(ids.count)
        for id in ids.sorted() where result.last != id { result.append(id) }
        return result
    }
}

/// Why a membership change cannot be made.
package enum ConfigChangeError: Error, Sendable, Equatable {
    /// A joint configuration must be left first.
    case alreadyJoint
    /// There is no joint configuration to leave.
    case notJoint
    /// Nobody would be left to vote.
    case noVoters
    /// More than one voter would change without a joint configuration.
    case needsJoint
    /// Member 0 does not exist.
    case invalidMember
    /// More changes than `ConfigChange.maxChanges`.
    case tooManyChanges
    /// The learner has not caught up far enough to vote.
    case learnerBehind(NodeID)
}

extension ConfState {
    /// The membership after `change`; a pure function, so every member computes the same.
    package func applying(_ change: ConfigChange) throws(ConfigChangeError) -> ConfState {
        guard change.changes.count <= ConfigChange.maxChanges else { throw .tooManyChanges }
        if change.isLeaveJoint { return try leavingJoint() }
        guard !isJoint else { throw .alreadyJoint }
        var result = self
        if change.needsJoint {
            guard !voters.isEmpty else { throw .noVoters }
            result.votersOutgoing = voters
            result.autoLeave = change.transition != .jointExplicit
        }
        for step in change.changes { try result.apply(step) }
        guard !result.voters.isEmpty else { throw .noVoters }
        if !change.needsJoint {
            let changed =
                voters.count { !result.voters.contains($0) }
                + result.voters.count { !voters.contains($0) }
            guard changed <= 1 else { throw .needsJoint }
        }
        return result
    }

    private func leavingJoint() throws(ConfigChangeError) -> ConfState {
        guard isJoint else { throw .notJoint }
        return ConfState(voters: voters, learners: learners + learnersNext)
    }

    private mutating func apply(_ step: ConfigChange.Step) throws(ConfigChangeError) {
        guard step.id != 0 else { throw .invalidMember }
        switch step.kind {
        case .addVoter:
            learners.removeAll { $0 == step.id }
            learnersNext.removeAll { $0 == step.id }
            voters = Self.canonical(voters + [step.id])
        case .addLearner:
            voters.removeAll { $0 == step.id }
            // A voter of the outgoing half keeps voting until the joint configuration is left.
            if votersOutgoing.contains(step.id) {
                learnersNext = Self.canonical(learnersNext + [step.id])
            } else {
                learners = Self.canonical(learners + [step.id])
            }
        case .remove:
            #if MOONRAFT_MUTATIONS
                if Mutation.isOn(.removedVoterStaysInQuorum) { return }
            #endif
            voters.removeAll { $0 == step.id }
            learners.removeAll { $0 == step.id }
            learnersNext.removeAll { $0 == step.id }
        }
    }
}
