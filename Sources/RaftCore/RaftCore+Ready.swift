extension RaftCore {
    /// Whether `takeReady()` may have something to hand out. Cheap.
    ///
    /// It changes nothing, but a getter that does not say `mutating` is given a copy of the whole
    /// core, with a reference count for each of its arrays, when the core is held by a class.
    package var hasReady: Bool {
        mutating get {
            outbox.hasContent || durability.isBatchOwed || hasUnwrittenState
                || hasDeliverableEntries || outbox.reportedSoftState != softState
        }
    }

    /// Hands out everything outstanding, each thing once.
    package mutating func takeReady() -> Ready {
        if role == .leader, outbox.isReplicationDue { replicate() }
        outbox.isReplicationDue = false
        // The question for the reads collected so far leaves now; later reads need their own.
        reads.isForwardOpen = false
        var ready = Ready()
        if outbox.reportedSoftState != softState {
            ready.softState = softState
            outbox.reportedSoftState = softState
        }
        ready.persist = takeBatch()
        ready.committed = takeCommitted()
        swap(&ready.messages, &outbox.messages)
        swap(&ready.readStates, &outbox.readStates)
        swap(&ready.abandonedReads, &outbox.abandonedReads)
        return ready
    }

    /// Whether something must become durable that no batch has carried.
    ///
    /// A new commit index alone does not count: losing it costs nothing but a round after a
    /// restart.
    @inline(__always)
    var hasUnwrittenState: Bool {
        log.hasNewEntries || durability.snapshot != nil
            || durability.writtenTerm != term || durability.writtenVote != vote
    }

    /// Sends `body` once everything that this member knows now is durable.
    ///
    /// All votes and all answers that make a promise go this way, and so do vote requests: were
    /// they to leave earlier, a crash could take log entries or the term away from a candidate that
    /// had already been judged by them, and a late vote would then count for a shorter log.
    mutating func sendWhenDurable(_ body: Message.Body, to: NodeID, term: Term) {
        let message = Message(from: id, to: to, term: term, body: body)
        if let released = durability.hold(
            message, hasUnwrittenState: hasUnwrittenState, limit: configuration.maxHeldMessages)
        {
            if released.to == id {
                countOwnVote(term: term)
            } else {
                outbox.messages.append(released)
            }
        }
    }

    /// Sends `body` with the next `Ready`.
    mutating func sendNow(_ body: Message.Body, to: NodeID, term: Term) {
        outbox.messages.append(Message(from: id, to: to, term: term, body: body))
    }

    @inline(__always)
    private var hasDeliverableEntries: Bool {
        pendingInstall == nil && min(commitIndex, log.stableIndex) > deliveredIndex
    }

    private mutating func takeBatch() -> PersistBatch? {
        guard hasUnwrittenState || durability.isBatchOwed else { return nil }
        let entries = log.entries(from: log.handedOutIndex + 1, through: log.lastIndex)
        log.markHandedOut()
        let hardState = durability.noteWritten(hardState)
        return durability.makeBatch(
            entries: entries, hardState: hardState, lastIndex: log.lastIndex)
    }

    private mutating func takeCommitted() -> [Entry] {
        guard hasDeliverableEntries else { return [] }
        let entries = log.entries(
            from: deliveredIndex + 1, through: min(commitIndex, log.stableIndex),
            maxBytes: configuration.maxCommittedBytesPerReady)
        deliveredIndex += UInt64(entries.count)
        if uncommittedBytes > 0 {
            let bytes = entries.reduce(0) { $0 + $1.data.count }
            uncommittedBytes = max(0, uncommittedBytes - bytes)
        }
        return entries
    }
}

/// What waits to be handed out, apart from log and hard state.
struct Outbox: Sendable {
    var messages: [Message] = []
    var readStates: [ReadState] = []
    var abandonedReads: [UInt64] = []
    var reportedSoftState = SoftState(role: .follower, term: 0, leader: nil)
    /// The leader may have appends or heartbeats to make; they are made when the `Ready` is taken,
    /// so that everything proposed until then shares a message.
    var isReplicationDue = false

    var hasContent: Bool {
        isReplicationDue || !messages.isEmpty || !readStates.isEmpty || !abandonedReads.isEmpty
    }
}
