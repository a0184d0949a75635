// What goes to the backend and when, what the log may give up after it, and the steps of a compaction.

import MVCC
import RaftCore
import StateMachine
import Storage

/// The state between the store in memory and the backend on disk.
struct BackendSchedule {
    /// Entries applied, and bytes they wrote, since the last freeze.
    private(set) var unfrozenEntries = 0
    private(set) var unfrozenBytes = 0
    /// Bytes handed to the backend and not yet committed.
    private(set) var frozenBytes = 0
    private(set) var isCommitting = false
    var nextCommit: UInt64 = 0
    /// Up to here the backend holds everything.
    var releasedIndex: LogIndex

    var isCompacting = false
    var nextCompactionStep: UInt64 = 0
    /// Physical compactions whose records are still to be deleted.
    var compactionWaiters: [PendingAnswer] = []
    /// Who wants everything applied to be in the backend.
    var commitWaiters: [PendingAnswer] = []
    /// Those whose deletions or state are under way to the backend.
    var committingWaiters: [PendingAnswer] = []

    init(releasedIndex: LogIndex) { self.releasedIndex = releasedIndex }

    var pendingBytes: Int { unfrozenBytes + frozenBytes }

    mutating func applied(bytes: Int) {
        unfrozenEntries += 1
        unfrozenBytes += bytes
    }

    mutating func frozen() {
        frozenBytes = unfrozenBytes
        unfrozenBytes = 0
        unfrozenEntries = 0
        isCommitting = true
    }

    mutating func committed() {
        frozenBytes = 0
        isCommitting = false
    }

    /// Nothing in memory waits any more: the state was replaced by a snapshot's.
    mutating func restarted(at index: LogIndex) {
        unfrozenEntries = 0
        unfrozenBytes = 0
        releasedIndex = index
        isCompacting = true
    }
}

extension Replica {
    /// Applied bytes that the backend has not committed.
    package var pendingBytes: Int { backend.pendingBytes }

    var backendWake: UInt64 {
        var wake = UInt64.max
        // Nothing is done meanwhile, so nothing is due either: else the host would never rest.
        if installing != nil { return wake }
        if backend.isCompacting { wake = backend.nextCompactionStep }
        if !backend.isCommitting, backend.unfrozenEntries > 0 || !backend.commitWaiters.isEmpty {
            wake = min(wake, backend.nextCommit)
        }
        return wake
    }

    /// The next commit does not wait for its time; one that is under way need not hold everything.
    func commitToBackend(_ waiter: any ReplyWaiter) {
        guard backend.commitWaiters.count < configuration.maxCommitWaiters else {
            return answer(waiter, .refused(.tooManyRequests))
        }
        backend.commitWaiters.append(PendingAnswer(waiter: waiter, answer: .committedToBackend))
        backend.nextCommit = 0
    }

    /// Does what is due of compaction and commit.
    func advanceBackend(_ now: UInt64) {
        // What a snapshot is about to replace is neither compacted nor committed any more.
        if installing != nil { return }
        if backend.isCompacting, now >= backend.nextCompactionStep {
            backend.nextCompactionStep =
                now &+ configuration.compactionPauseMilliseconds &* 1_000_000
            if !machine.compactionStep(maxKeys: configuration.compactionBatch) {
                backend.isCompacting = false
            }
        }
        guard !backend.isCommitting, effects.commit == nil,
            now >= backend.nextCommit
                || backend.unfrozenEntries >= configuration.backendBatchRecords
        else { return }
        backend.nextCommit = now &+ configuration.backendIntervalMilliseconds &* 1_000_000
        commitBackend()
    }

    /// Hands everything applied to the backend, which must be idle.
    ///
    /// - Returns: false when there was nothing.
    @discardableResult
    func commitBackend() -> Bool {
        guard let pending = machine.freeze() else {
            // Nothing is left to be deleted either.
            if !backend.isCompacting {
                effects.answers += backend.compactionWaiters
                backend.compactionWaiters.removeAll()
            }
            effects.answers += backend.commitWaiters
            backend.commitWaiters.removeAll()
            return false
        }
        #if MOONRAFT_MUTATIONS
            if Mutation.isOn(.logReleasedBeforeCommit) {
                effects.release = LogRelease(
                    applied: WALSnapshot(index: pending.appliedIndex, term: pending.appliedTerm),
                    keepFrom: pending.appliedIndex, commit: raft.commitIndex)
            }
        #endif
        backend.frozen()
        if !backend.isCompacting {
            backend.committingWaiters += backend.compactionWaiters
            backend.compactionWaiters.removeAll()
        }
        backend.committingWaiters += backend.commitWaiters
        backend.commitWaiters.removeAll()
        effects.commit = pending
        return true
    }

    func backendCommitted(_ pending: PendingCommit) {
        if let records = pending.records { machine.store.release(records) }
        backend.committed()
        effects.answers += backend.committingWaiters
        backend.committingWaiters.removeAll()
        let applied = pending.appliedIndex
        guard applied >= backend.releasedIndex &+ configuration.snapshotCount else { return }
        backend.releasedIndex = applied
        let keep =
            applied > configuration.catchUpEntries
            ? applied - configuration.catchUpEntries : 1
        effects.release = LogRelease(
            applied: WALSnapshot(index: applied, term: pending.appliedTerm), keepFrom: keep,
            commit: raft.commitIndex)
    }

    /// Hands everything applied to the backend at the end. Called with the backend idle.
    ///
    /// - Returns: what to commit, nil when nothing is left.
    package func lastCommit() -> PendingCommit? {
        installing == nil ? machine.freeze() : nil
    }
}
