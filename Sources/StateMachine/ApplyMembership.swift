// Who belongs to the cluster (etcd server/etcdserver/api/membership/cluster.go). Members come and go by
// configuration entries of Raft, whose context is a `MembershipChange`; what a member says of itself
// and its peer URLs are ordinary commands.
//
// The rules here look at replicated state only, so every member gives the same answer. Whether a
// change would put the quorum at risk is for the leader to judge before it proposes.

import KVCodec
import MVCC

extension StateMachine {
    /// All members by id.
    package var members: [Member] { memberByID.values.sorted { $0.id < $1.id } }

    /// Ids that never come back, ascending.
    package var removedMembers: [UInt64] { removedIDs.sorted() }

    package func isRemoved(_ id: UInt64) -> Bool { removedIDs.contains(id) }

    package func member(_ id: UInt64) -> Member? { memberByID[id] }

    /// Why a change cannot be made to the present membership; nil when it can. In etcd's order
    /// (ValidateConfigurationChange).
    package func checkMembership(_ change: MembershipChange) -> ApplyError? {
        switch change {
        case .add(let member):
            if memberByID[member.id] != nil || isRemoved(member.id) { return .memberExists }
            if isPeerURLTaken(member.peerURLs, by: member.id) { return .peerURLExists }
            return memberByID.count >= configuration.maximumMembers ? .tooManyMembers : nil
        case .remove(let id):
            return memberByID[id] == nil ? .memberNotFound : nil
        case .promote(let id):
            guard let member = memberByID[id] else { return .memberNotFound }
            return member.isLearner ? nil : .notLearner
        }
    }

    /// The same for changes that are made together, each to the membership that those before it
    /// leave.
    package func checkMembership(_ changes: [MembershipChange]) -> ApplyError? {
        let (members, removed) = (memberByID, removedIDs)
        defer { (memberByID, removedIDs) = (members, removed) }
        for change in changes {
            if let error = checkMembership(change) { return error }
            make(change)
        }
        return nil
    }

    /// Applies a configuration entry. One without changes leaves a joint configuration, or cannot be
    /// read.
    ///
    /// An error in the result says that nothing changed; Raft's configuration must then stay as it
    /// is, too.
    package func applyMembership(_ changes: [MembershipChange], index: UInt64, term: UInt64)
        -> ApplyResult
    {
        noteApplied(index: index, term: term)
        if changes.isEmpty { return ApplyResult(revision: store.currentRevision) }
        if let error = checkMembership(changes) {
            return ApplyResult(error: error, revision: store.currentRevision)
        }
        for change in changes {
            make(change)
            #if MOONRAFT_MUTATIONS
                if StateMutation.isOn(.membersNotCommitted) { continue }
            #endif
            persistence.members.insert(change.memberID)
        }
        return ApplyResult(revision: store.currentRevision, effect: .membershipChanged(changes))
    }

    private func make(_ change: MembershipChange) {
        switch change {
        case .add(let member):
            // What it serves and how it is called it publishes itself.
            memberByID[member.id] = Member(
                id: member.id, name: "", peerURLs: member.peerURLs, clientURLs: [],
                isLearner: member.isLearner)
        case .remove(let id):
            memberByID[id] = nil
            removedIDs.insert(id)
        case .promote(let id):
            memberByID[id]?.isLearner = false
        }
    }

    /// The members of a new cluster, as all of them know them from their configuration; counts
    /// `index` as applied. Client URLs are empty until each member publishes its own.
    package func found(members: [Member], index: UInt64, term: UInt64) {
        precondition(memberByID.isEmpty, "a cluster of \(memberByID.count) members founded again")
        noteApplied(index: index, term: term)
        for member in members {
            memberByID[member.id] = Member(
                id: member.id, name: member.name, peerURLs: member.peerURLs, clientURLs: [],
                isLearner: member.isLearner)
            persistence.members.insert(member.id)
        }
    }

    /// A member publishes its name and where it serves clients. It cannot make itself a member, and
    /// neither its vote nor its peer URLs are its own to decide; only a data directory from before
    /// the membership was kept knows no member at all, and takes the first for one.
    func applyMemberUpdate(_ body: UnsafeRawBufferPointer) throws(ApplyError) -> ApplyResult {
        var member = try Member(body)
        if let known = memberByID[member.id] {
            if !known.peerURLs.isEmpty { member.peerURLs = known.peerURLs }
            member.isLearner = known.isLearner
        } else if !memberByID.isEmpty || isRemoved(member.id) {
            throw .memberNotFound
        }
        memberByID[member.id] = member
        persistence.members.insert(member.id)
        return ApplyResult(
            revision: store.currentRevision, effect: .memberUpdated(id: member.id))
    }

    /// An administrator changes a member's peer URLs; everything else of it stays (etcd issue 21694:
    /// a learner became a voter). The reply lists the members, as field 2.
    func applyMemberURLs(_ body: UnsafeRawBufferPointer) throws(ApplyError) -> ApplyResult {
        let asked = try Member(body)
        if asked.peerURLs.isEmpty { throw .malformed }
        guard var member = memberByID[asked.id] else { throw .memberNotFound }
        if isPeerURLTaken(asked.peerURLs, by: asked.id) { throw .peerURLExists }
        member.peerURLs = asked.peerURLs
        memberByID[asked.id] = member
        persistence.members.insert(asked.id)
        var reply = ByteWriter(capacity: 256)
        for member in members {
            reply.nested(2) { member.encode(into: &$0) }
        }
        return ApplyResult(
            revision: store.currentRevision, body: reply.bytes, effect: .memberUpdated(id: asked.id))
    }

    /// Whether a member other than `id` has one of these URLs.
    private func isPeerURLTaken(_ urls: [String], by id: UInt64) -> Bool {
        memberByID.values.contains { member in
            member.id != id && member.peerURLs.contains(where: urls.contains)
        }
    }
}
