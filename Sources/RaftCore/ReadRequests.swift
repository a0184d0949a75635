// Linearizable reads without log entries (thesis 6.4).
//
// A leader notes its commit index when a read arrives and must then make sure that it still led at
// that moment. It numbers its heartbeats in rounds; a read belongs to the next round that is sent,
// and once a quorum has answered that round or a later one, no other leader can have committed
// anything before the read arrived. Answers name the round and count only in the term they were
// given in, so an answer to an earlier question can never be taken for one to a later question,
// however long it was under way and whatever numbers the host uses for its requests.
//
// A follower that asks has sent its question after its reads arrived, in the leader's term. That is as
// good as its answer to a round: where leader and asker are a quorum, as in a cluster of three, no round
// is needed. Any leader of a later term that had committed something by the time the reads arrived was
// elected by then, with the vote of one of these two, which would have been in that term.
//
// While a round that reads wait for is under way, the next one is put off until it is confirmed or a
// heartbeat is due. The reads that come meanwhile share it, so there is one such round under way at
// a time, however many reads there are.
//
// Followers ask the leader, all reads of one `Ready` under one number. Asking again under the same
// number is harmless: any answer the leader ever gives to it names an index that was noted after
// the reads arrived. For the same reason it also answers all reads that came before those of its
// number, so asking again for the last ones is enough. Numbers start at a random place in each run,
// so an answer meant for an earlier run finds nobody.

/// The read requests of one member, as leader or as follower.
struct ReadRequests: Sendable {
    /// A read at the leader.
    struct Pending: Sendable {
        /// The follower that asked; nil when it is the leader's own.
        var origin: NodeID?
        /// The host's context, or the follower's number.
        var context: UInt64
        var index: LogIndex
        var round: UInt64
    }

    /// Reads for which the leader was or will be asked.
    struct Forwarded: Sendable {
        var id: UInt64
        var contexts: [UInt64]
    }

    /// The round of the last heartbeats sent, or of those being prepared.
    private(set) var round: UInt64 = 0
    /// Heartbeats are to be sent with the next `Ready`: reads wait for a round that has not begun.
    var isRoundDue = false
    /// Heartbeats are to be sent even if a round is under way; it may have got lost.
    var isHeartbeatDue = false
    /// In the order of arrival, so the rounds never decrease.
    var pending: [Pending] = []
    /// Reads that came before the leader committed an entry of its term; index and round are unset.
    var deferred: [Pending] = []
    var forwarded: [Forwarded] = []
    /// Whether the last element of `forwarded` can still take further reads.
    var isForwardOpen = false
    var nextID: UInt64
    /// The contexts of the host in `pending`, `deferred` and `forwarded`; never iterated.
    var contexts: Set<UInt64> = []

    init(firstID: UInt64) { nextID = firstID }

    /// The round that a read arriving now belongs to.
    mutating func joinRound() -> UInt64 {
        isRoundDue = true
        return round + 1
    }

    /// Starts the round that is due and returns its number, or nil if none is. The answers to a
    /// round lead back here, so one that is put off is not forgotten.
    mutating func closeRound() -> UInt64? {
        let isUnderWay = pending.first.map { $0.round <= round } ?? false
        guard isHeartbeatDue || (isRoundDue && !isUnderWay) else { return nil }
        isRoundDue = false
        isHeartbeatDue = false
        round += 1
        return round
    }
}

extension RaftCore {
    /// Asks for an index such that a read served after it is applied sees every write that was
    /// acknowledged before this call. The answer comes in `Ready.readStates`, or the context comes
    /// back in `Ready.abandonedReads` when leadership changes.
    ///
    /// Only the leader's authority is needed here, never a clock.
    package mutating func readIndex(context: UInt64) throws(ReadIndexError) {
        guard role == .leader || leader != nil else { throw .noLeader }
        if isSoleVoter, hasCommittedInTerm {
            outbox.readStates.append(ReadState(context: context, index: commitIndex))
            return
        }
        guard !reads.contexts.contains(context) else { throw .duplicateContext }
        guard reads.contexts.count < configuration.maxPendingReads else { throw .tooManyPending }
        reads.contexts.insert(context)
        if role == .leader {
            enqueueRead(origin: nil, context: context)
        } else {
            forwardRead(context)
        }
    }

    /// A follower asks on behalf of its reads.
    mutating func handleReadRequest(id request: UInt64, from peer: NodeID) throws(StepError) {
        guard role == .leader else { return }
        guard position(of: peer) != nil else { throw .unknownPeer(peer) }
        // Beyond the bound the request is dropped; the follower asks again.
        guard reads.pending.count + reads.deferred.count < configuration.maxPendingReads else {
            return
        }
        enqueueRead(origin: peer, context: request)
    }

    /// The leader has answered, and with that also what was asked before.
    mutating func handleReadResponse(id response: UInt64, index: LogIndex) {
        guard role == .follower,
            let position = reads.forwarded.firstIndex(where: { $0.id == response })
        else { return }
        for answered in reads.forwarded[...position] {
            for context in answered.contexts {
                reads.contexts.remove(context)
                outbox.readStates.append(ReadState(context: context, index: index))
            }
        }
        reads.forwarded.removeSubrange(...position)
        if reads.forwarded.isEmpty { reads.isForwardOpen = false }
    }

    /// Asks again for reads whose question or answer may be lost.
    mutating func forwardReadsAgain() {
        guard let leader, role == .follower, let last = reads.forwarded.last else { return }
        reads.isForwardOpen = false
        sendNow(.readRequest(id: last.id), to: leader, term: term)
    }

    /// Answers the reads whose round a quorum has confirmed.
    mutating func confirmReads() {
        guard role == .leader, let first = reads.pending.first else { return }
        let own = reads.round + 1
        let (id, progress) = (id, progress)
        let confirmed = Quorum.reached(confState) { voter in
            voter == id ? own : progress.first { $0.id == voter }?.acknowledgedRound ?? 0
        }
        guard confirmed >= first.round else { return }
        let end = reads.pending.firstIndex { $0.round > confirmed } ?? reads.pending.endIndex
        for read in reads.pending[..<end] {
            if let origin = read.origin {
                sendNow(
                    .readResponse(id: read.context, index: read.index), to: origin, term: term)
            } else {
                reads.contexts.remove(read.context)
                outbox.readStates.append(ReadState(context: read.context, index: read.index))
            }
        }
        reads.pending.removeSubrange(..<end)
    }

    /// Lets the reads proceed that waited for the first commit of the term: only now does the
    /// leader know how far its predecessors had committed.
    mutating func startDeferredReads() {
        guard !reads.deferred.isEmpty, hasCommittedInTerm else { return }
        let deferred = reads.deferred
        reads.deferred = []
        for read in deferred { enqueueRead(origin: read.origin, context: read.context) }
    }

    /// Gives all reads up; the host learns of its own.
    mutating func abandonReads() {
        for read in reads.pending + reads.deferred where read.origin == nil {
            outbox.abandonedReads.append(read.context)
        }
        for read in reads.forwarded { outbox.abandonedReads += read.contexts }
        reads.pending = []
        reads.deferred = []
        reads.forwarded = []
        reads.isForwardOpen = false
        reads.contexts = []
        reads.isRoundDue = false
        reads.isHeartbeatDue = false
    }

    /// Whether this leader and one other member need nobody else.
    private func isQuorum(with other: NodeID) -> Bool {
        let id = id
        return Quorum.reached(confState) { $0 == id || $0 == other ? 1 : 0 } == 1
    }

    private var isSoleVoter: Bool {
        role == .leader && confState.voters == [id] && !confState.isJoint
    }

    private mutating func enqueueRead(origin: NodeID?, context: UInt64) {
        var read = ReadRequests.Pending(origin: origin, context: context, index: 0, round: 0)
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.readBeforeCommitInTerm), !hasCommittedInTerm {
                read.index = commitIndex
                read.round = reads.joinRound()
                reads.pending.append(read)
                outbox.isReplicationDue = true
                return
            }
        #endif
        guard hasCommittedInTerm else {
            reads.deferred.append(read)
            return
        }
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.readWithoutRound) {
                if let origin {
                    return sendNow(.readResponse(id: context, index: commitIndex), to: origin, term: term)
                }
                reads.contexts.remove(context)
                return outbox.readStates.append(ReadState(context: context, index: commitIndex))
            }
        #endif
        if let origin, isQuorum(with: origin) {
            return sendNow(.readResponse(id: context, index: commitIndex), to: origin, term: term)
        }
        read.index = commitIndex
        read.round = reads.joinRound()
        reads.pending.append(read)
        outbox.isReplicationDue = true
        confirmReads()
    }

    private mutating func forwardRead(_ context: UInt64) {
        guard let leader else { return }
        if reads.isForwardOpen, let last = reads.forwarded.indices.last {
            reads.forwarded[last].contexts.append(context)
            return
        }
        reads.forwarded.append(ReadRequests.Forwarded(id: reads.nextID, contexts: [context]))
        reads.isForwardOpen = true
        sendNow(.readRequest(id: reads.nextID), to: leader, term: term)
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.readNumberReused) { return }
        #endif
        reads.nextID &+= 1
    }
}
