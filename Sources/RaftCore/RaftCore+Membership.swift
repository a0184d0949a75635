// Membership changes (thesis 4): proposed as entries, in force once applied, one at a time.

extension RaftCore {
    /// Appends a membership change and returns its index.
    package mutating func proposeConfigChange(
        _ change: ConfigChange
    ) throws(ProposalError) -> LogIndex {
        try checkMayPropose()
        // One at a time, counting those that earlier leaders left in the log: two that overlap
        // could create majorities that share no member.
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.changeWhileOnePending) { return append(change) }
        #endif
        guard unappliedConfigChanges.isEmpty else { throw .configChangePending }
        guard hasCommittedInTerm else { throw .notCommittedInTerm }
        do {
            _ = try confState.applying(change)
            try checkCaughtUp(change)
        } catch {
            throw .configChangeRefused(error)
        }
        return append(change)
    }

    /// Puts the membership change at `index` in force and returns the new membership.
    ///
    /// Everything up to `index` then counts as applied. Nil means that the host refuses the change,
    /// by a rule all members share. A change that the present membership does not allow has no
    /// effect either; as the membership at an index is the same everywhere, all members agree on
    /// that.
    @discardableResult
    package mutating func applyConfigChange(
        _ change: ConfigChange?, at index: LogIndex
    ) -> ConfState {
        // A snapshot that came meanwhile brought a later membership.
        guard index > appliedIndex, pendingInstall == nil else { return confState }
        precondition(
            unappliedConfigChanges.first == index && index <= deliveredIndex,
            "change \(index) is not due: \(unappliedConfigChanges), delivered \(deliveredIndex)")
        unappliedConfigChanges.removeFirst()
        appliedIndex = index
        if let change, let result = try? confState.applying(change) {
            adopt(result)
        }
        leaveJointIfDue()
        campaignIfPostponed()
        return confState
    }

    /// Proposes to leave a joint configuration that asks for it.
    ///
    /// Called whenever the answer may have changed, above all by a new leader: its predecessor may
    /// have failed before it came to that.
    mutating func leaveJointIfDue() {
        guard role == .leader, confState.isJoint, confState.autoLeave,
            unappliedConfigChanges.isEmpty, transferTarget == nil
        else { return }
        _ = append(.leaveJoint)
    }

    /// Takes every membership change but the last one for committed.
    ///
    /// The leader that proposed the last one had applied all before it. Knowing this is not a
    /// matter of comfort: with two changes in the log and neither known to be committed, this
    /// member could be elected by a majority of the oldest membership, which may share no member
    /// with one of the newest. A commit index can get lost in a crash; the entries themselves
    /// cannot.
    mutating func commitEarlierChanges() {
        if let earlier = unappliedConfigChanges.dropLast().last { raiseCommit(to: earlier) }
    }

    /// Makes `progress` cover exactly the members.
    mutating func rebuildProgress() {
        let known = progress
        progress = confState.members.map { member in
            if let progress = known.first(where: { $0.id == member }) { return progress }
            // A new member counts as active, so that the next quorum check does not hold its
            // silence against the leader before it had a chance to answer.
            return Progress(
                id: member, next: log.lastIndex + 1,
                maxInflight: configuration.maxInflightMessages,
                maxInflightBytes: configuration.maxInflightBytes, isRecentlyActive: true)
        }
    }

    private mutating func append(_ change: ConfigChange) -> LogIndex {
        log.append(term: term, kind: .configChange, data: change.encoded())
        unappliedConfigChanges.append(log.lastIndex)
        noteAppended()
        return log.lastIndex
    }

    private mutating func adopt(_ new: ConfState) {
        if role == .leader { tellLeaving(new) }
        confState = new
        rebuildProgress()
        guard role == .leader else { return }
        if !confState.isVoter(id) {
            // Tell the others that the change is committed before giving up: once this member is
            // gone, those that do not know it may be unable to elect anybody.
            for position in progress.indices { progress[position].requestAppend() }
            replicate()
            return becomeFollower(term: term, leader: nil)
        }
        if let target = transferTarget, !confState.isVoter(target) { transferTarget = nil }
        for position in progress.indices { progress[position].requestAppend() }
        outbox.isReplicationDue = true
        // A smaller majority may hold more.
        advanceCommit()
        confirmReads()
    }

    /// Tells members that are about to leave that the change is committed: nothing is sent to them from here on, and
    /// whoever has not answered yet could not know.
    private mutating func tellLeaving(_ new: ConfState) {
        let members = new.members
        for position in progress.indices where progress[position].id != id {
            if !members.contains(progress[position].id) { sendCommit(at: position) }
        }
    }

    /// Refuses to give a vote to a learner that is far behind: until it catches up, it would be
    /// missing from every quorum it counts in.
    private func checkCaughtUp(_ change: ConfigChange) throws(ConfigChangeError) {
        let percent = UInt64(configuration.learnerPromotionPercent)
        for step in change.changes where step.kind == .addVoter {
            guard confState.isLearner(step.id), let position = position(of: step.id) else {
                continue
            }
            let own = log.stableIndex
            let lag = own / 100 * (100 - percent) + own % 100 * (100 - percent) / 100
            if progress[position].match + lag < own {
                throw .learnerBehind(step.id)
            }
        }
    }
}
