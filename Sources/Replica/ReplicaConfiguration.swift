import RaftCore
import StateMachine

/// Times and bounds of one replica. Times are those of the host's monotonic clock.
package struct ReplicaConfiguration: Sendable {
    /// One tick, in milliseconds (`heartbeat-interval`).
    package var tickMilliseconds: UInt64 = 100
    /// Ticks of an election timeout (`election-timeout`).
    package var electionTicks = 10
    /// Commit to the backend at least this often, in milliseconds (`backend-batch-interval`).
    package var backendIntervalMilliseconds: UInt64 = 100
    /// … or after this many records (`backend-batch-limit`).
    package var backendBatchRecords = 10_000
    /// A request not answered after this long is answered "request timed out", in milliseconds:
    /// 5 s and two election timeouts, as etcd.
    package var requestTimeoutMilliseconds: UInt64 = 7_000
    /// Index entries looked at in one step of a compaction (`compaction-batch-limit`).
    package var compactionBatch = 1000
    /// Pause between two steps, in milliseconds (`compaction-sleep-interval`).
    package var compactionPauseMilliseconds: UInt64 = 10
    /// Leases revoked by expiry and not applied yet.
    package var maxExpiredLeases = 1000
    package var autoCompaction = AutoCompaction.off
    /// After a failed transfer of a snapshot the leader waits this long before the next to the same member, in
    /// milliseconds, and twice as long after each further one …
    package var snapshotRetryMinimumMilliseconds: UInt64 = 1_000
    /// … up to this. Waits end with a tick.
    package var snapshotRetryMaximumMilliseconds: UInt64 = 30_000
    /// Applied entries between two releases of log segments (`snapshot-count`).
    package var snapshotCount: UInt64 = 10_000
    /// Entries kept in the log behind that (`snapshot-catchup-entries`).
    package var catchUpEntries: UInt64 = 5_000
    /// Requests waiting for their entry, for a leader or for the leader's answer; further ones are
    /// refused (`limits.pending-proposals`).
    package var maxPendingProposals = 5_000
    /// Reads and renewals that gather for the next confirmation; further ones are refused.
    package var maxPendingReads = 65_536
    /// Applied bytes not yet in the backend; above it proposals are refused (`limits.pending-bytes`).
    package var maxPendingBytes = 512 << 20
    /// Entries applied under one hold of the store's write lock; readers wait at most that long.
    package var maxEntriesPerApplyBatch = 256
    /// Bytes of forwarded commands in one message to the leader. One command is always sent.
    package var maxForwardBytes = 1 << 20
    /// Membership changes waiting for the one under way; further ones are refused.
    package var maxQueuedChanges = 16
    /// Runs of other members whose forwarded requests are remembered, against repetition.
    package var maxKnownRuns = 1024
    /// Compactions whose hashes the leader remembers for comparison.
    package var maxComparedCompactions = 10
    /// Refuse membership changes that would risk the quorum (`strict-reconfig-check`).
    package var strictReconfiguration = true
    /// Requests that wait for the backend to commit (Hash, Snapshot); one more is refused.
    package var maxCommitWaiters = 1024
    /// Learners at one time (etcd `max-learners`): each costs the leader a whole log stream while no write waits for
    /// it. The leader's setting counts.
    package var maximumLearners = 1
    /// The cluster version that a leader proposes.
    package var clusterVersion = ""

    package init() {}

    package var tickNanoseconds: UInt64 { tickMilliseconds &* 1_000_000 }
    package var electionNanoseconds: UInt64 { tickNanoseconds &* UInt64(max(1, electionTicks)) }
}
