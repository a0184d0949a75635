/// The bounds of the state machine. Nothing that an operator can set decides how an entry is applied: members whose
/// settings differ, as during a rolling change of them, would drift apart. Such a limit is judged before an entry is
/// proposed (operations of a transaction, the least TTL of a lease, the number of learners), and the entry holds the
/// outcome. What is marked "replicated" here is a constant of the product, changed only with the cluster version.
package struct StateMachineConfiguration: Sendable {
    /// Largest size of the backend in bytes (etcd `quota-backend-bytes`); 0 means 2 GiB, a negative
    /// number means none. Above it a write is applied yet answered with `noSpace`, so this decides
    /// an answer and never the state.
    package var quotaBytes: Int64 = 0
    /// Shorter leases are raised to this. Replicated; the election timeout's share is added by who proposes the grant.
    package var minimumLeaseTTLSeconds: Int64 = 1
    /// Longer leases are refused. Replicated.
    package var maximumLeaseTTLSeconds: Int64 = 9_000_000_000
    /// Bytes of a transaction's reply; ranges beyond it are not read and the reply is an error.
    package var maximumReplyBytes = 256 << 20
    /// Alarms that can stand at once; a client can name any member id. Replicated.
    package var maximumAlarms = 1024
    /// Members of the cluster, learners included. Replicated.
    package var maximumMembers = 64

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
