/// The bounds of the state machine. Every member of a cluster must use the same values of those
/// marked "replicated": they decide how an entry is applied.
package struct StateMachineConfiguration: Sendable {
    /// Operations per level of a transaction (etcd `max-txn-ops`). Replicated.
    package var maxTxnOps = 128
    /// Largest size of the backend in bytes (etcd `quota-backend-bytes`); 0 means 2 GiB, a negative
    /// number means none. Above it a write is applied yet answered with `noSpace`, so this decides
    /// an answer and never the state.
    package var quotaBytes: Int64 = 0
    /// Shorter leases are raised to this (etcd: 1.5 election timeouts, rounded up). Replicated.
    package var minimumLeaseTTLSeconds: Int64 = 2
    /// Longer leases are refused. Replicated.
    package var maximumLeaseTTLSeconds: Int64 = 9_000_000_000
    /// Bytes of a transaction's reply; ranges beyond it are not read and the reply is an error.
    package var maximumReplyBytes = 256 << 20
    /// Alarms that can stand at once; a client can name any member id. Replicated.
    package var maximumAlarms = 1024
    /// Members of the cluster, learners included. Replicated.
    package var maximumMembers = 64
    /// Learners at one time (etcd `max-learners`): each costs the leader a whole log stream while no
    /// write waits for it. Replicated.
    package var maximumLearners = 1

    /// Expired leases handed out for revocation within one second.
    package var leaseRevokesPerSecond = 1000
    /// Expired leases handed out whose revocation was not applied yet.
    package var outstandingLeaseRevokes = 16
    /// An expired lease is handed out again when its revocation was not applied in this time.
    package var leaseRevokeRetryMilliseconds: Int64 = 3000
    /// Time between two checkpoints of a lease's remaining time.
    package var leaseCheckpointIntervalMilliseconds: Int64 = 300_000
    /// Leases in one checkpoint command.
    package var leaseCheckpointsPerCommand = 1000

    package static let defaultQuotaBytes: Int64 = 2 * 1024 * 1024 * 1024

    package init() {}

    /// The quota in force, nil when there is none.
    package var effectiveQuotaBytes: Int64? {
        if quotaBytes < 0 { return nil }
        return quotaBytes == 0 ? Self.defaultQuotaBytes : quotaBytes
    }
}
