// Consensus on one log (Ongaro and Ousterhout; section numbers refer to Ongaro's thesis of 2014).
//
// `RaftCore` decides and never acts. It is a value: ticks, messages, proposals and completions go
// in, and `takeReady()` hands out what the host must do. It knows no clock, disk, network or
// thread, and the same inputs with the same seed give the same outputs.
//
// The host's duties
//
//  1. One owner. Call the core from one place at a time and take the `Ready` after each batch of inputs
//     while `hasReady` is true. Nothing happens until its `Ready` is taken.
//  2. Persist in order. Write the batches of `Ready.persist` in sequence: first the snapshot if there is
//     one (its file, durable, then a marker that voids the log before it), then the entries, where a
//     first index that was written before overwrites it and all that follows, then the hard state.
//     After the sync call `persisted(through:)`; one call may cover several batches. On any failed
//     write or sync stop the process; never call `persisted` for what may be lost.
//  3. Send `Ready.messages` in order, at once, without waiting for the disk. Answers and vote requests
//     that depend on durability are kept inside until `persisted(through:)` and come with a later
//     `Ready`. Loss, repetition and reordering in the network are allowed.
//  4. Apply `Ready.committed` in order. Pass a `configChange` entry to `applyConfigChange(_:at:)` when
//     its turn comes (nil if the host refuses or cannot decode it, by a rule that every member shares),
//     then report progress with `applied(to:)`. Effects of entry i may become durable before or after
//     it is reported, never before the entry was handed out here.
//  5. Snapshots out. A `snapshot` message carries metadata that stand at the applied index last
//     reported. Stream the state machine's data with it; the metadata may be replaced by those of a
//     later applied index. When the transfer ends call `snapshotReported(to:succeeded:)`, always.
//  6. Snapshots in. Step a `snapshot` message only after all of its data has arrived and was verified.
//     While `snapshotBeingInstalled` is set apply nothing: what was handed out before is part of the
//     snapshot, and the membership returned for it would be a later one. When the snapshot comes back
//     in a `PersistBatch`, make it durable as in duty 2, put it in place of the state machine and call
//     `installed(snapshot:)`. After a crash in between, finish that before starting the core.
//  7. Compaction. Call `compactLog(through:)` with an index whose effects are durable outside the log.
//  8. Time. Call `tick()` at a steady monotonic pace, at most once for each interval that truly passed:
//     a process that was stopped must not catch up on ticks.
//  9. Restart. Give back the hard state and log as of the last durable batch (a tail beyond it may be
//     present or absent), the applied index that the state machine durably reached, the membership as
//     of that index, and a seed that differs from that of the previous run. A member whose durable
//     membership no longer contains it (`isMember`) must not be restarted, and its id is never reused.
// 10. A removed member keeps running, and answering votes, for some election timeouts after it applied
//     its removal: members that have not applied it yet may still need its vote.
// 11. Peers are authenticated and belong to this cluster before their messages are stepped. On a
//     `StepError` that `isFatal` stop the process; otherwise drop the message.
// 12. A proposal whose leader changed may or may not be committed. Never propose it again unless the
//     state machine recognises repetitions.

/// One member's part in agreeing on a log. The host's contract is at the top of this file.
package struct RaftCore: Sendable {
    /// The largest term: an election at this term cannot be started, so nothing overflows.
    package static let maxTerm: Term = 1 << 62
    /// The largest index, likewise.
    package static let maxIndex: LogIndex = 1 << 62

    package let configuration: RaftConfiguration

    // Durable through batches.
    package internal(set) var term: Term
    /// The candidate voted for in `term`; 0 when none.
    package internal(set) var vote: NodeID
    package internal(set) var log: RaftLog

    // Known, not necessarily durable. Invariant: appliedIndex <= deliveredIndex <= commitIndex <=
    // log.lastIndex, where a snapshot not yet installed lifts only the commit index.
    package internal(set) var commitIndex: LogIndex
    package internal(set) var appliedIndex: LogIndex
    /// The last entry handed out for applying.
    var deliveredIndex: LogIndex
    package internal(set) var role: Role = .follower
    package internal(set) var leader: NodeID?
    /// The membership as of the applied index.
    package internal(set) var confState: ConfState
    /// The membership changes in the log beyond the applied index, ascending. Usually empty.
    var unappliedConfigChanges: [LogIndex] = []
    /// A snapshot that replaced the log and is not yet in the state machine.
    var pendingInstall: SnapshotMetadata?

    // Time, in ticks.
    var electionElapsed = 0
    var heartbeatElapsed = 0
    var randomizedElectionTicks = 0
    var random: SeededGenerator

    // Candidates.
    var votes: [(id: NodeID, isGranted: Bool)] = []
    /// An election to be held once the membership changes known to be committed are applied.
    var postponedCampaign: CampaignKind?

    // Leaders.
    /// One element for each member, sorted by id.
    package internal(set) var progress: [Progress] = []
    package internal(set) var transferTarget: NodeID?
    package internal(set) var uncommittedBytes = 0

    var reads: ReadRequests
    var durability = Durability()
    var outbox = Outbox()

    /// Starts a member from what it had made durable.
    ///
    /// A new cluster: every founder starts with `HardState.founding`, `RaftLog.founding`, applied
    /// index 1 and the same membership. A member that joins a running cluster starts with
    /// `HardState()`, `RaftLog()`, applied index 0 and no membership, and receives a snapshot
    /// first.
    ///
    /// - Parameters:
    ///   - hardState: as last written. A term behind that of the log's last entry is that of a batch cut
    ///     short by a crash, which promised nothing; it is raised.
    ///   - confState: the membership at `appliedIndex`.
    ///   - appliedIndex: how far the state machine got; may exceed `hardState.commit`.
    ///   - randomSeed: for election timeouts and request numbers; different in each run.
    package init(
        configuration: RaftConfiguration,
        hardState: HardState,
        confState: ConfState,
        log: RaftLog,
        appliedIndex: LogIndex,
        randomSeed: UInt64
    ) throws(RestoreError) {
        if let field = configuration.firstInvalidField {
            throw .invalidConfiguration(field: field)
        }
        guard hardState.term <= Self.maxTerm else { throw .outOfRange }
        guard confState.isWellFormed else { throw .invalidConfState }
        guard hardState.commit <= log.lastIndex else {
            throw .commitBeyondLog(commit: hardState.commit, lastIndex: log.lastIndex)
        }
        guard appliedIndex >= log.snapshotIndex, appliedIndex <= log.lastIndex else {
            throw .appliedOutsideLog(
                applied: appliedIndex, snapshotIndex: log.snapshotIndex, lastIndex: log.lastIndex)
        }
        self.configuration = configuration
        self.log = log
        self.confState = confState
        let isCutShort = hardState.term < log.lastTerm
        term = isCutShort ? log.lastTerm : hardState.term
        vote = isCutShort ? 0 : hardState.vote
        commitIndex = max(hardState.commit, appliedIndex)
        self.appliedIndex = appliedIndex
        deliveredIndex = appliedIndex
        random = SeededGenerator(seed: randomSeed)
        reads = ReadRequests(firstID: random.next())
        durability.writtenTerm = hardState.term
        durability.writtenVote = hardState.vote
        durability.writtenCommit = hardState.commit
        if appliedIndex < log.lastIndex {
            for entry in log.entries(from: appliedIndex + 1, through: log.lastIndex)
            where entry.kind == .configChange {
                unappliedConfigChanges.append(entry.index)
            }
        }
        commitEarlierChanges()
        rebuildProgress()
        randomizeElectionTimeout()
        outbox.reportedSoftState = softState
    }

    /// Advances time by one tick.
    package mutating func tick() {
        electionElapsed += 1
        if role == .leader { tickLeader() } else { tickFollower() }
    }

    /// Handles one message of a peer.
    package mutating func step(_ message: Message) throws(StepError) {
        try checkForm(of: message)
        if message.term > term {
            guard acceptHigherTerm(message) else { return }
        } else if message.term < term {
            return answerLowerTerm(message)
        }
        let from = message.from
        switch message.body {
        case .voteRequest(let request):
            answerVote(request, from: from, term: message.term)
        case .voteResponse(let response):
            countVote(response, from: from, term: message.term)
        case .append(let request):
            try follow(from)
            try acceptAppend(request)
        case .heartbeat(let commit, let round):
            try follow(from)
            try acceptHeartbeat(commit: commit, round: round)
        case .snapshot(let metadata):
            try follow(from)
            try acceptSnapshot(metadata)
        case .appendResponse(let response):
            try handleAppendResponse(response, from: from)
        case .heartbeatResponse(let round):
            try handleHeartbeatResponse(round: round, from: from)
        case .timeoutNow:
            if role == .follower, leader == nil || leader == from {
                if hasUnappliedCommittedChange { postponedCampaign = .transfer }
                campaign(.transfer)
            }
        case .readRequest(let id):
            try handleReadRequest(id: id, from: from)
        case .readResponse(let id, let index):
            handleReadResponse(id: id, index: index)
        case .newerTerm:
            break
        }
    }

    /// Starts an election now instead of waiting for the timeout; does nothing if this member leads
    /// or may not lead.
    package mutating func campaign() {
        campaign(configuration.preVote ? .preVote : .vote)
    }

    /// Notes that all batches up to `sequence` are durable, in this order, and releases what
    /// waited.
    ///
    /// Repeated and old calls are ignored.
    package mutating func persisted(through sequence: UInt64) {
        guard let written = durability.acknowledge(through: sequence) else { return }
        log.markStable(through: max(written, log.stableIndex))
        if role == .leader {
            updateOwnProgress()
            advanceCommit()
        }
        for message in durability.release() {
            if message.to == configuration.id {
                countOwnVote(term: message.term)
            } else {
                outbox.messages.append(message)
            }
        }
    }

    /// Notes that the host has applied all entries up to `index`.
    ///
    /// A membership change on the way must have been passed to `applyConfigChange(_:at:)`.
    package mutating func applied(to index: LogIndex) {
        guard index > appliedIndex else { return }
        precondition(
            index <= deliveredIndex, "applied \(index) beyond delivered \(deliveredIndex)")
        precondition(
            unappliedConfigChanges.first.map { $0 > index } ?? true,
            "applied \(index) past the membership changes at \(unappliedConfigChanges)")
        appliedIndex = index
        leaveJointIfDue()
    }

    /// Drops entries whose effects are durable outside the log, up to `index` at most.
    ///
    /// Up to `maxRetainedEntries` before `index` are kept for members that lag or may come to lead,
    /// by a leader up to `maxCatchUpEntries` for members that answer, and in any case no more than
    /// `maxRetainedBytes`.
    package mutating func compactLog(through index: LogIndex) {
        let limit = min(index, appliedIndex, log.stableIndex)
        func back(_ count: Int) -> LogIndex { limit - min(limit, UInt64(count)) }
        var target = back(configuration.maxRetainedEntries)
        if isAlone {
            target = limit
        } else if role == .leader {
            var slowest = LogIndex.max
            var slowestActive = LogIndex.max
            for peer in progress where peer.id != id {
                slowest = min(slowest, peer.match)
                if peer.isRecentlyActive { slowestActive = min(slowestActive, peer.reach) }
            }
            target = min(target, max(slowestActive, back(configuration.maxCatchUpEntries)))
            // What every peer already holds is of no further use.
            target = max(target, min(limit, slowest))
        }
        log.compact(
            through: log.index(atLeast: target, keeping: configuration.maxRetainedBytes, before: limit))
    }
}

extension RaftCore {
    package var id: NodeID { configuration.id }
    package var lastIndex: LogIndex { log.lastIndex }

    /// Who leads, as far as known.
    package var softState: SoftState { SoftState(role: role, term: term, leader: leader) }

    /// What would have to survive a restart now.
    package var hardState: HardState { HardState(term: term, vote: vote, commit: commitIndex) }

    /// Whether the applied membership contains this member in any role.
    package var isMember: Bool { confState.contains(id) }

    /// Whether this leader has committed an entry of its own term; before, it knows neither the
    /// true commit index nor may it change the membership.
    package var hasCommittedInTerm: Bool {
        role == .leader && log.term(at: commitIndex) == term
    }

    /// Whether this member is the only voter, so that its own disk is a quorum.
    var isAlone: Bool { confState.voters == [id] && progress.count == 1 }

    /// Whether this member may lead: it votes, and its state is complete.
    var isPromotable: Bool { confState.isVoter(id) && pendingInstall == nil }
}
