// One lease. What is replicated: id, TTL, remaining time of the last checkpoint, and the keys. What
// only the leader knows: the expiry and everything about handing it out.

import KVCodec

final class Lease {
    let id: Int64
    /// As granted, raised to the minimum. Seconds.
    let ttlSeconds: Int64
    /// Ascends with every lease that this member has come to know, so that of two with the same
    /// expiry the one granted first is listed first.
    let serial: UInt64
    /// Of the last checkpoint; 0: none, the full TTL counts. Seconds.
    var remainingSeconds: Int64
    /// Keys whose newest record names this lease.
    var keys: Set<LeaseKey> = []

    /// `never` on a member that is not the leader.
    var expiry = LeaseTime.never
    /// Where the lease stands in the expiry queue. A renewal moves `expiry` only; the queue finds
    /// out when it gets there, so that a renewal costs no queue operation.
    var queuedAt: LeaseTime?
    /// Handed out for revocation, not yet revoked.
    var revokePending = false
    /// When to write the remaining time down next; nil when there is no need to.
    var checkpointAt: LeaseTime?
    /// Where the lease stands in the checkpoint queue, as `queuedAt` does for expiry.
    var checkpointQueuedAt: LeaseTime?
    /// A checkpoint was handed out and not seen applied since.
    var checkpointPending = false

    init(id: Int64, ttlSeconds: Int64, serial: UInt64, remainingSeconds: Int64 = 0) {
        self.id = id
        self.ttlSeconds = ttlSeconds
        self.serial = serial
        self.remainingSeconds = remainingSeconds
    }

    /// What a new leader gives the lease: the rest of the last checkpoint, or the full TTL.
    var startSeconds: Int64 { remainingSeconds > 0 ? remainingSeconds : ttlSeconds }

    /// The keys in their order.
    var sortedKeys: [[UInt8]] {
        keys.map(\.bytes).sorted { $0.lexicographicallyPrecedes($1) }
    }

    /// Value in bucket `lease`: leasepb.Lease {1 ID, 2 TTL, 3 RemainingTTL}.
    var record: [UInt8] {
        var writer = ByteWriter(capacity: 24)
        writer.int64(1, id)
        writer.int64(2, ttlSeconds)
        writer.int64(3, remainingSeconds)
        return writer.bytes
    }
}

/// A key of a lease. An array of bytes hashes byte by byte; this hashes them at once.
struct LeaseKey: Hashable {
    let bytes: [UInt8]

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = [UInt8](bytes) }

    func hash(into hasher: inout Hasher) {
        bytes.withUnsafeBytes { hasher.combine(bytes: $0) }
    }
}
