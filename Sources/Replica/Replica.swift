// One replica: consensus and the state machine in the order that safety needs.
//
// The replica performs no I/O, reads no clock and starts nothing. The host feeds it proposals,
// ticks, peer messages and disk acknowledgements, and after each of these asks for `effects`:
// what to persist, what to send, and what was applied. The same code runs in the node and in a
// simulator.

import MVCC
import RaftCore
import StateMachine

/// What the host has to do after feeding the replica.
package struct CoreEffects: Sendable {
    /// To be written and synchronised in order; acknowledged by `Replica.persisted(through:)`.
    package var persist: PersistBatch?
    package var messages: [Message] = []
    /// Applied since the last call, in log order. Entries without a command (a new leader's first)
    /// do not appear.
    package var applied: [AppliedEntry] = []
    /// Contexts of reads that may be served now from the applied state.
    package var confirmedReads: [UInt64] = []
    package var abandonedReads: [UInt64] = []
    package var softState: SoftState?
    /// Set when a membership change took effect.
    package var confState: ConfState?
}

/// The bounds of one replica.
package struct ReplicaConfiguration: Sendable {
    /// Entries applied under one hold of the store's write lock; readers wait at most that long.
    package var maxEntriesPerApplyBatch = 256
    package init() {}
}

/// Consensus plus state machine. Owned by one thread.
package final class Replica {
    private var raft: RaftCore
    package let machine: StateMachine
    private let configuration: ReplicaConfiguration
    /// Confirmed reads whose index is not applied yet, ascending by index.
    private var waitingReads: [ReadState] = []
    /// The membership in force, as last applied.
    package private(set) var confState: ConfState
    /// True when an entry of the current term has been committed and applied here as leader.
    package private(set) var hasAppliedInTerm = false

    package init(
        raft: RaftCore, machine: StateMachine, confState: ConfState,
        configuration: ReplicaConfiguration
    ) {
        self.raft = raft
        self.machine = machine
        self.confState = confState
        self.configuration = configuration
    }

    // MARK: Inputs

    /// Starts an election at once; a sole voter need not wait for a timeout.
    package func campaign() { raft.campaign() }

    /// Advances the logical clock by one tick.
    package func tick() { raft.tick() }

    /// Feeds a message from a peer.
    package func step(_ message: Message) throws(StepError) { try raft.step(message) }

    /// Appends commands to the log as one batch; leader only.
    ///
    /// - Returns: the indexes they got, in order.
    package func propose(_ payloads: [[UInt8]]) throws(ProposalError) -> Range<LogIndex> {
        try raft.propose(payloads)
    }

    /// Asks for a read that reflects everything acknowledged before this call.
    package func readIndex(context: UInt64) throws(ReadIndexError) {
        try raft.readIndex(context: context)
    }

    /// The host made everything up to this persist batch durable.
    package func persisted(through sequence: UInt64) { raft.persisted(through: sequence) }

    // MARK: Effects

    /// Takes what is outstanding and applies what is committed.
    ///
    /// - Parameter now: monotonic milliseconds for lease deadlines; replicated state never depends
    ///   on it.
    package func takeEffects(now: LeaseTime) -> CoreEffects {
        var effects = CoreEffects()
        guard raft.hasReady else { return effects }
        var ready = raft.takeReady()
        effects.persist = ready.persist
        effects.messages = ready.messages
        effects.softState = ready.softState
        effects.abandonedReads = ready.abandonedReads
        if let softState = ready.softState, softState.role != .leader { hasAppliedInTerm = false }
        if !ready.committed.isEmpty {
            apply(ready.committed, now: now, into: &effects)
            ready.committed = []
        }
        if !ready.readStates.isEmpty || !waitingReads.isEmpty {
            waitingReads.append(contentsOf: ready.readStates)
            confirmReads(into: &effects)
        }
        return effects
    }

    /// Whether `takeEffects` has something to give.
    package var hasEffects: Bool { raft.hasReady }

    private func apply(_ entries: [Entry], now: LeaseTime, into effects: inout CoreEffects) {
        effects.applied.reserveCapacity(entries.count)
        var position = 0
        while position < entries.count {
            let end = min(position + configuration.maxEntriesPerApplyBatch, entries.count)
            machine.store.beginBatch()
            while position < end {
                apply(entries[position], now: now, into: &effects)
                position += 1
            }
            machine.store.endBatch()
        }
        guard let last = entries.last else { return }
        raft.applied(to: last.index)
        // The log on disk keeps what the backend has not committed; in memory entries are kept
        // for peers only, and the core knows how many.
        raft.compactLog(through: last.index)
        if last.term == raft.term && raft.role == .leader { hasAppliedInTerm = true }
    }

    private func apply(_ entry: Entry, now: LeaseTime, into effects: inout CoreEffects) {
        switch entry.kind {
        case .normal:
            // Also an entry without a command moves the applied index.
            let result = machine.apply(
                index: entry.index, term: entry.term, data: entry.data, now: now)
            if entry.data.isEmpty { return }
            effects.applied.append(
                AppliedEntry(index: entry.index, term: entry.term, result: result))
        case .configChange:
            _ = machine.apply(index: entry.index, term: entry.term, data: [], now: now)
            let change = try? ConfigChange(decoding: entry.data)
            confState = raft.applyConfigChange(change, at: entry.index)
            machine.confState = confState.encoded()
            effects.confState = confState
        }
    }

    private func confirmReads(into effects: inout CoreEffects) {
        let applied = machine.appliedIndex
        waitingReads.removeAll { read in
            guard read.index <= applied else { return false }
            effects.confirmedReads.append(read.context)
            return true
        }
    }

    // MARK: Status

    package var term: Term { raft.term }
    package var role: Role { raft.role }
    package var leader: NodeID? { raft.leader }
    package var commitIndex: LogIndex { raft.commitIndex }
    package var lastIndex: LogIndex { raft.lastIndex }

    /// Whether a read may be served from the applied state with no round at all: this member is
    /// the only voter, leads, and has committed in its term. Nobody else can then have
    /// acknowledged anything, and everything acknowledged here has been applied.
    package var canReadWithoutRound: Bool {
        hasAppliedInTerm && raft.role == .leader && confState.voters.count == 1
            && confState.votersOutgoing.isEmpty
    }
}
