// The promises of a cluster, checked while it runs. The checker sees everything that happens in all members at
// once, which no member can, and forgets nothing over a crash.
//
// Consensus is in this file; what clients were told is in Checker+Clients.swift.

import KVCodec
import MVCC
import RaftCore
import Replica
import StateMachine

/// Judges one run. The first violation ends it.
final class Checker {
    private(set) var failure: String?
    var now: Nanoseconds = 0

    // Consensus.
    private var leaders: [Term: NodeID] = [:]
    private var votes: [VoteKey: NodeID] = [:]
    private var known: [Position: Known] = [:]
    /// What was committed, from `firstCommitted` on. No entry of it may ever change.
    private var committed: [Committed] = []
    static let firstCommitted: LogIndex = 2
    /// Where each operation stands in the committed log.
    private var placed: [UInt64: LogIndex] = [:]
    /// Operations that will never be applied, as clients were told.
    private var refused: [UInt64: NodeError] = [:]
    private var stateHashes: [LogIndex: StateDigest] = [:]
    private var results: [LogIndex: UInt64] = [:]

    // Clients.
    var history = KeyHistory()
    /// The highest revision that any client was told of.
    var acknowledgedRevision: Int64 = 1
    var acknowledgedIndex: LogIndex = 0
    var leases: [Int64: LeaseRecord] = [:]
    var compactRevision: Int64 = -1

    // Figures.
    var stateHashesCompared = 0
    var readsChecked = 0
    var writesAcknowledged = 0
    var eventsChecked = 0
    var operationsAnswered = 0

    struct VoteKey: Hashable {
        var voter: NodeID
        var term: Term
    }

    struct Position: Hashable {
        var index: LogIndex
        var term: Term
    }

    private struct Known {
        var digest: UInt64
        var previousTerm: Term
        var since: Nanoseconds
        /// The client's operation that the entry carries.
        var operation: UInt64?
    }

    private struct Committed {
        var term: Term
        var digest: UInt64
    }

    private struct StateDigest {
        var hash: UInt32
        var member: NodeID
    }

    func fail(_ what: @autoclosure () -> String) {
        if failure == nil { failure = what() }
    }

    func require(_ condition: Bool, _ what: @autoclosure () -> String) {
        if !condition { fail(what()) }
    }

    // MARK: Leaders and votes

    /// Election safety (thesis 3.6): at most one leader in a term; and leader completeness: it holds the
    /// last entry known to be committed.
    func becameLeader(_ member: NodeID, term: Term, log: LogMirror) {
        if let other = leaders[term], other != member {
            fail("members \(other) and \(member) lead term \(term)")
        }
        leaders[term] = member
        require(
            log.durableTerm == term && log.durableVote == member,
            "member \(member) leads term \(term), and its own vote is not durable: \(log.durableVote) in term "
                + "\(log.durableTerm)")
        guard let last = committed.last else { return }
        let index = Self.firstCommitted + UInt64(committed.count) - 1
        if last.term > term || index <= log.snapshotIndex { return }
        require(
            log.term(at: index) == last.term,
            "member \(member) leads term \(term) without committed entry \(index) of term \(last.term); its log "
                + "ends at \(log.lastIndex)")
    }

    /// Answers and requests leave only when what they rest on is durable (thesis 3.8).
    ///
    /// An answer of an earlier term may leave late: what it rested on may have been overwritten since, and
    /// nobody is bound by it any more.
    func sending(_ message: Message, log: LogMirror, currentTerm: Term, role: Role) {
        func durable(term: Term, _ what: String) {
            require(
                log.durableTerm >= term,
                "member \(message.from) sends \(what) of term \(term), but term \(log.durableTerm) is durable")
        }
        func durable(vote: NodeID, _ what: String) {
            require(
                log.durableTerm > message.term || log.durableVote == vote,
                "member \(message.from) sends \(what) in term \(message.term) to \(message.to), but its durable "
                    + "vote is for \(log.durableVote)")
        }
        switch message.body {
        case .voteRequest(let request) where !request.isPreVote:
            durable(term: message.term, "a vote request")
            durable(vote: message.from, "a vote request")
            require(
                log.durableLast >= request.lastIndex || currentTerm > message.term || role != .candidate,
                "member \(message.from) asks for votes with entry \(request.lastIndex), durable is "
                    + "\(log.durableLast)")
        case .voteResponse(let response) where !response.isPreVote && response.isGranted:
            durable(term: message.term, "a vote")
            durable(vote: message.to, "a vote")
            let key = VoteKey(voter: message.from, term: message.term)
            if let other = votes[key], other != message.to {
                fail("member \(message.from) votes for \(other) and \(message.to) in term \(message.term)")
            }
            votes[key] = message.to
        case .appendResponse(.accepted(let match)):
            durable(term: message.term, "an append response")
            require(
                log.durableLast >= match || currentTerm > message.term,
                "member \(message.from) acknowledges entry \(match), durable is \(log.durableLast)")
        case .append:
            require(
                leaders[message.term] == message.from,
                "member \(message.from) sends entries in term \(message.term), led by "
                    + "\(String(describing: leaders[message.term]))")
        default: break
        }
    }

    // MARK: The log

    /// Log matching (thesis 3.6): an index and a term name one entry and one log before it.
    func handedOut(_ batch: PersistBatch, by member: NodeID, log: LogMirror) {
        var previous = batch.entries.first.map { log.term(at: $0.index - 1) ?? 0 } ?? 0
        for entry in batch.entries {
            let position = Position(index: entry.index, term: entry.term)
            let digest = LogMirror.digest(of: entry)
            if let other = known[position] {
                require(
                    other.digest == digest && other.previousTerm == previous,
                    "entry \(entry.index) of term \(entry.term) differs on member \(member)")
            } else {
                known[position] = Known(
                    digest: digest, previousTerm: previous, since: now,
                    operation: OperationMark.number(of: entry.data))
            }
            previous = entry.term
        }
    }

    /// When an entry was first handed out to be written by anybody.
    func firstSeen(index: LogIndex, term: Term) -> Nanoseconds? {
        known[Position(index: index, term: term)]?.since
    }

    /// State machine safety (thesis 3.6): what one member takes for committed, no member ever sees changed.
    ///
    /// - Parameter mayExtend: whether the member leads, or did when the turn began: others learn from a leader.
    func committed(
        through index: LogIndex, after before: LogIndex, by member: NodeID, log: LogMirror,
        mayExtend: Bool = true
    ) {
        require(index >= before, "member \(member) moves its commit index back from \(before) to \(index)")
        var next = max(before + 1, Self.firstCommitted, log.snapshotIndex + 1)
        while next <= index {
            guard let slot = log.slot(at: next) else {
                return fail("member \(member) commits entry \(next), its log ends at \(log.lastIndex)")
            }
            let position = Int(next - Self.firstCommitted)
            if position < committed.count {
                let other = committed[position]
                require(
                    other.term == slot.term && other.digest == slot.digest,
                    "entry \(next) was committed in term \(other.term); member \(member) commits another one of "
                        + "term \(slot.term)")
            } else {
                require(
                    mayExtend, "member \(member) commits entry \(next) of term \(slot.term), which no leader has")
                guard position == committed.count else {
                    return fail("member \(member) commits entry \(next) before \(next - 1) was")
                }
                committed.append(Committed(term: slot.term, digest: slot.digest))
            }
            next += 1
        }
    }

    var committedIndex: LogIndex { Self.firstCommitted + UInt64(committed.count) - 1 }

    var committedTerm: Term { committed.last?.term ?? 1 }

    func isCommitted(index: LogIndex, term: Term) -> Bool {
        guard index >= Self.firstCommitted else { return true }
        let position = Int(index - Self.firstCommitted)
        return position < committed.count && committed[position].term == term
    }

    /// An entry's own leader counts it as committed: a majority must hold it durably.
    func counted(
        index: LogIndex, term: Term, leader: NodeID, memberships: [ConfState],
        holds: (NodeID) -> Bool
    ) {
        func isMajority(_ voters: [NodeID]) -> Bool {
            voters.isEmpty || voters.count(where: holds) > voters.count / 2
        }
        let isHeld = memberships.contains {
            isMajority($0.voters) && isMajority($0.votersOutgoing)
        }
        require(
            isHeld,
            "leader \(leader) commits entry \(index) of term \(term), which no majority of "
                + "\(memberships.map(\.voters)) holds durably")
    }

    // MARK: Applying

    /// The same entry gives the same answer on every member and after every restart.
    func applied(_ entry: AppliedEntry, by member: NodeID) {
        require(
            isCommitted(index: entry.index, term: entry.term),
            "member \(member) applies entry \(entry.index) of term \(entry.term), which is not committed")
        var digest = fold(entry.result.body, UInt64(bitPattern: entry.result.revision))
        if let events = entry.result.events { digest = fold(events.bytes, digest) }
        digest = fold(Array("\(entry.result.effect) \(String(describing: entry.result.error))".utf8), digest)
        if let other = results[entry.index] {
            require(
                other == digest,
                "entry \(entry.index) has another result on member \(member): \(entry.result)")
        } else {
            results[entry.index] = digest
            firstApplied(entry)
        }
    }

    private func firstApplied(_ entry: AppliedEntry) {
        if let operation = known[Position(index: entry.index, term: entry.term)]?.operation {
            if let other = placed[operation], other != entry.index {
                fail("operation \(operation) was applied at \(other) and at \(entry.index)")
            }
            placed[operation] = entry.index
            if let error = refused[operation] {
                fail("operation \(operation) was refused for good with \(error) and is applied at \(entry.index)")
            }
        }
        switch entry.result.effect {
        case .compactionStarted(let revision, _):
            compactRevision = max(compactRevision, revision)
        case .leaseGranted(let id, let seconds):
            leases[id, default: LeaseRecord()].ttlSeconds = seconds
        case .leaseRevoked(let id, let expired, _):
            leaseRevoked(
                id, expired: expired, proposed: firstSeen(index: entry.index, term: entry.term) ?? now)
        case .alarmChanged(let member, let type, let active):
            if active { fail("alarm \(type) is raised for member \(member)") }
        default: break
        }
    }

    /// A client was told that its operation was not carried out. Timeouts say nothing of the kind.
    func refused(_ operation: Operation, _ error: NodeError) {
        switch error {
        case .timedOut, .timedOutByLeaderFailure, .stopped: return
        default: break
        }
        if let index = placed[operation.number] {
            fail("operation \(operation.number) is refused for good with \(error), and was applied at \(index)")
        }
        refused[operation.number] = error
    }

    func place(of operation: UInt64) -> LogIndex? { placed[operation] }

    /// Consensus and the list that clients see name the same members.
    func membership(_ conf: ConfState, listed: [Member], by member: NodeID) {
        if conf.isJoint { return }
        let voters = listed.filter { !$0.isLearner }.map(\.id)
        let learners = listed.filter(\.isLearner).map(\.id)
        require(
            conf.voters == voters && conf.learners == learners,
            "member \(member) has voters \(conf.voters) and learners \(conf.learners), and lists \(voters) and "
                + "\(learners)")
    }

    /// Members that have applied the same entries are the same.
    func stateHash(_ hash: UInt32, at index: LogIndex, of member: NodeID) {
        stateHashesCompared += 1
        if let other = stateHashes[index] {
            require(
                other.hash == hash,
                "at entry \(index) members \(other.member) and \(member) have states \(other.hash) and \(hash)")
        } else {
            stateHashes[index] = StateDigest(hash: hash, member: member)
        }
    }
}

// MARK: - Disks

extension Checker {
    /// A member came back: everything that a completed synchronize vouched for must be there. Returns what
    /// is missing.
    func loss(of member: NodeID, old: LogMirror, new: LogMirror) -> String? {
        if new.durableTerm < old.durableTerm {
            return "member \(member) comes back in term \(new.durableTerm), durable was \(old.durableTerm)"
        }
        if new.durableTerm == old.durableTerm, old.durableVote != 0, new.durableVote != old.durableVote {
            return "member \(member) comes back with vote \(new.durableVote) in term \(new.durableTerm), durable was "
                + "\(old.durableVote)"
        }
        let last = old.durableLast
        let term = old.term(at: last)
        let isThere =
            last <= new.snapshotIndex
            || (new.durableLast >= last && (term == nil || new.term(at: last) == term))
        return isThere
            ? nil
            : "member \(member) comes back with a log to \(new.durableLast), durable was \(last) of term "
                + "\(String(describing: term))"
    }

    /// The state in the backend must never be ahead of what the log holds durably.
    func backendCommits(index: LogIndex, term: Term, log: LogMirror, by member: NodeID) {
        require(
            log.durableLast >= index,
            "member \(member) commits entry \(index) to its backend, its log is durable to \(log.durableLast)")
        require(
            isCommitted(index: index, term: term),
            "member \(member) commits entry \(index) of term \(term) to its backend, which is not committed")
    }
}
