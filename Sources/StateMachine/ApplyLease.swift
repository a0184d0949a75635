// Lease commands (etcd lease/lessor.go, apply/backend.go).

import KVCodec
import MVCC

extension StateMachine {
    func applyLeaseGrant(_ body: UnsafeRawBufferPointer, now: LeaseTime) throws(ApplyError)
        -> ApplyResult
    {
        let fields = try NumberFields(body)
        try refuseGrowth(cost: QuotaCost.lease)
        let fits = fitsQuota(cost: QuotaCost.lease)
        let id = fields[2]
        let ttl = try lessor.grant(id: id, ttlSeconds: fields[1], now: now)
        var reply = ByteWriter(capacity: 0)
        if fits {
            reply.int64(2, id)
            reply.int64(3, ttl)
        }
        return ApplyResult(
            error: fits ? nil : .noSpace, revision: store.currentRevision, body: reply.bytes,
            effect: .leaseGranted(id: id, ttlSeconds: ttl))
    }

    /// Deletes the keys of a lease in one revision, in the order of the keys, and the lease.
    func applyLeaseRevoke(_ body: UnsafeRawBufferPointer, _ origin: Command.Origin)
        throws(ApplyError) -> ApplyResult
    {
        let id = try NumberFields(body)[1]
        try refuseWhenCorrupt()
        guard let lease = lessor.lease(id) else { throw .leaseNotFound }
        let expired = origin == .core
        #if MOONRAFT_MUTATIONS
            if StateMutation.isOn(.expiryDeletesOnLeaderOnly), expired, !lessor.isPrimary {
                lessor.remove(id)
                return ApplyResult(revision: store.currentRevision)
            }
        #endif
        let keys = lease.sortedKeys
        var events: EventBatch?
        if !keys.isEmpty {
            store.begin(reader: reader)
            for key in keys {
                key.withUnsafeBytes { bytes in
                    _ = store.deleteRange(
                        key: bytes, rangeEnd: UnsafeRawBufferPointer(start: nil, count: 0)
                    ) { _, _ in }
                }
            }
            events = store.commit(reason: expired ? .leaseExpired : .leaseRevoked)
        }
        lessor.remove(id)
        return ApplyResult(
            revision: store.currentRevision, events: events,
            effect: .leaseRevoked(id: id, expired: expired, keys: keys.count))
    }

    /// A command that is broken in one place changes nothing.
    func applyLeaseCheckpoint(_ body: UnsafeRawBufferPointer, now: LeaseTime) throws(ApplyError)
        -> ApplyResult
    {
        var checkpoints: [NumberFields] = []
        do throws(DecodeError) {
            var reader = ProtoReader(body)
            while let tag = try reader.next() {
                if tag.field == 1 {
                    let slice = try reader.slice(tag)
                    guard let fields = try? NumberFields(slice) else { throw .truncated }
                    checkpoints.append(fields)
                } else {
                    try reader.skip(tag)
                }
            }
        } catch {
            throw .malformed
        }
        var count = 0
        for checkpoint in checkpoints {
            let known = lessor.checkpoint(
                id: checkpoint[1], remainingSeconds: checkpoint[2], now: now)
            if known { count += 1 }
        }
        return ApplyResult(
            revision: store.currentRevision,
            effect: count > 0 ? .leasesCheckpointed(count: count) : .none)
    }
}

// What the leader asks between entries. None of it changes replicated state.
extension StateMachine {
    package var leaseCount: Int { lessor.count }

    /// Renews a lease on the leader. The caller has made sure that this member still leads (etcd
    /// issues 14758, 20590): a keepalive must not be answered by a leader that was replaced.
    package func leaseRenew(_ id: Int64, now: LeaseTime) -> LeaseRenewal {
        lessor.renew(id, now: now)
    }

    /// Nil for an unknown lease.
    package func leaseTimeToLive(_ id: Int64, now: LeaseTime, withKeys: Bool) -> LeaseStatus? {
        lessor.status(id, now: now, withKeys: withKeys)
    }

    /// What hangs on a lease as of the last applied entry; nil when it is not known or has more than `limit` keys.
    package func leaseKeys(_ id: Int64, atMost limit: Int) -> [[UInt8]]? {
        lessor.keys(of: id, atMost: limit)
    }

    /// All leases by expiry, then in the order of their grants.
    package func leaseIDs() -> [Int64] { lessor.idsByExpiry }

    /// Expired leases for which to propose `Command.leaseRevoke(id:origin: .core)` now; empty on a
    /// member that does not lead. A lease is named again when its revocation was not applied within
    /// the retry interval.
    package func expiredLeases(now: LeaseTime, max limit: Int) -> [Int64] {
        lessor.expired(now: now, max: limit)
    }

    /// A checkpoint command to propose now; nil when none is due.
    package func leaseCheckpoints(now: LeaseTime) -> [UInt8]? {
        lessor.dueCheckpoints(now: now)
    }

    /// When `expiredLeases` or `leaseCheckpoints` may next have something.
    package var nextLeaseDeadline: LeaseTime? { lessor.nextDeadline }

    /// This member leads from now on. Leases start again with what their last checkpoint left, or
    /// their full TTL, and `extendMilliseconds` more (etcd: the election timeout).
    package func promote(now: LeaseTime, extendMilliseconds: Int64) {
        lessor.promote(now: now, extendMilliseconds: extendMilliseconds)
    }

    /// The leader's process stood still and heard no renewal: no lease has less than its full time from
    /// now on, except those whose revocation is in the log already.
    package func restartLeaseClocks(now: LeaseTime) { lessor.restartClocks(now: now) }

    /// This member does not lead any more.
    package func demote() { lessor.demote() }
}
