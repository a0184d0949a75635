// What the host has to do after feeding the replica. Effects are values: the node carries them out with
// threads, files and sockets, the simulator with models of these.
//
// Order matters in four places. Messages go out before the host waits for `persist` (a leader writes
// its log while its followers write theirs). Batches are written in their order. A commit is given
// to the backend before a later snapshot is taken of it. `restoredRevision` is published
// before `applied`, which came on top of it; watchers would not look for what lies before otherwise.

import MVCC
import RaftCore
import StateMachine
import Storage

/// One entry that was applied.
package struct AppliedEntry: Sendable {
    package var index: LogIndex
    package var term: Term
    package var result: ApplyResult
}

/// What the host has to do.
package struct Effects: Sendable {
    /// To be sent at once, in order. Loss is allowed.
    package var messages: [PeerMessage] = []
    /// To be written and synchronised in order; acknowledged by `ReplicaInput.persisted`. When it
    /// carries a snapshot, that snapshot's file is durable already.
    package var persist: PersistBatch?
    /// Applied since the last call, in log order, for the event bus and the counters. Entries
    /// without a command (a new leader's first) do not appear.
    package var applied: [AppliedEntry] = []
    package var answers: [PendingAnswer] = []
    /// Set when role, term or leader changed.
    package var softState: SoftState?
    /// Set at first and when the membership changed: all members, for the transport.
    package var peers: [Member]?
    /// Goes with `peers`: members that were removed, whose connections are to be refused.
    package var removedPeers: [NodeID] = []
    /// To be committed to the backend in one transaction; acknowledged by
    /// `ReplicaInput.backendCommitted`. At most one is under way.
    package var commit: PendingCommit?
    /// What the log may give up.
    package var release: LogRelease?
    /// Peers that need a snapshot: send the backend as it is after `commit`, report `snapshotSent` in any case.
    package var snapshots: [SnapshotRequest] = []
    /// Peers whose snapshots under way must not be slowed any more: the log would outrun them.
    package var hurriedSnapshots: [NodeID] = []
    /// The marker of this snapshot is durable in the log: put its file in the backend's place, then
    /// report `snapshotInstalled`.
    package var install: SnapshotMetadata?
    /// A snapshot that arrived and is of no use: its file may go.
    package var unusedSnapshot: SnapshotMetadata?
    /// The store's revision after a snapshot was taken over. What lies between was not applied
    /// here entry by entry; watchers find it in history.
    package var restoredRevision: Int64?
    /// Compute the hash of the store at this compaction and report `compactionHashed`.
    package var hashCompaction: Int64?
    /// A rejected message that an operator should know of.
    package var complaint: String?
    /// The reason why this process must stop at once; nothing else of these effects may be done.
    package var fatal: String?
    /// Leadership was handed over, or nobody could take it: the host may stop.
    package var isStopped = false
    /// This member was removed from the cluster some election timeouts ago: the host must stop.
    package var isRemoved = false

    package init() {}

    /// Whether there is anything to do.
    var hasAny: Bool {
        !messages.isEmpty || persist != nil || !applied.isEmpty || !answers.isEmpty
            || softState != nil || peers != nil || commit != nil || release != nil
            || !snapshots.isEmpty || !hurriedSnapshots.isEmpty || unusedSnapshot != nil || install != nil
            || restoredRevision != nil || hashCompaction != nil || complaint != nil
            || fatal != nil || isStopped || isRemoved
    }
}

/// Everything up to `applied` is durable in the backend.
package struct LogRelease: Sendable, Equatable {
    package var applied: WALSnapshot
    /// Segments whose entries all lie below this index are not needed any more.
    package var keepFrom: LogIndex
    package var commit: LogIndex
}

/// A peer whose next entry is gone from the log.
package struct SnapshotRequest: Sendable, Equatable {
    package var to: NodeID
    /// The leader's message. Its metadata give way to those of the copy, which may be later.
    package var message: Message
}
