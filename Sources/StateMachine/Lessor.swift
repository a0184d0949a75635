// Leases: who holds which keys, when they expire, and what is remembered of their remaining time.
//
// Replicated by commands: grant, revoke, checkpoint; attaching and detaching follow from puts and
// deletes. Local to the leader ("primary"): expiry, hand-out for revocation, schedule of
// checkpoints. A member that is not the leader lets leases stand forever; a new leader starts them
// again from their last checkpoint or full TTL plus an extension, so that no lease ends early
// whatever the clocks did (etcd server/lease/lessor.go).
//
// A renewal is not replicated, so a checkpoint that is older than it must not outlive it: a renewal
// that finds a checkpoint, or one on its way, asks for a checkpoint of 0 first and is only answered
// after that was applied (`LeaseRenewal.checkpointFirst`). This rests on one assumption: what a leader
// proposes is applied, or lost for good, within one checkpoint interval (5 minutes).

import KVCodec

/// What came of asking to renew a lease.
package enum LeaseRenewal: Equatable, Sendable {
    /// Renewed; answer this TTL.
    case renewed(ttlSeconds: Int64)
    /// Propose this command and ask again once it is applied; the lease is not renewed yet.
    case checkpointFirst([UInt8])
    /// No such lease: answer TTL 0.
    case notFound
    /// The lease has expired and its revocation is on the way, so it cannot be renewed any more:
    /// answer TTL 0, at best after the revocation was applied.
    case expired
    /// Only the leader renews.
    case notLeader
}

/// What is known of a lease.
package struct LeaseStatus: Equatable, Sendable {
    package var grantedTTLSeconds: Int64
    /// Whole seconds left, 0 when expired, nil on a member that is not the leader.
    package var remainingSeconds: Int64?
    /// Ascending; empty unless asked for.
    package var keys: [[UInt8]]

    package init(grantedTTLSeconds: Int64, remainingSeconds: Int64?, keys: [[UInt8]]) {
        self.grantedTTLSeconds = grantedTTLSeconds
        self.remainingSeconds = remainingSeconds
        self.keys = keys
    }
}

/// All leases of a member.
final class Lessor {
    private var leases: [Int64: Lease] = [:]
    /// The serial of the newest lease.
    private var newestSerial: UInt64 = 0
    private let configuration: StateMachineConfiguration

    private(set) var isPrimary = false
    /// Leases that nobody was asked to revoke yet, by expiry.
    private var expiries = LeaseQueue()
    /// Leases handed out for revocation, by the time to hand them out again. Apart from the others,
    /// so that a full set of outstanding revocations cannot hide its own retries.
    private var retries = LeaseQueue()
    private var outstandingRevokes = 0
    private var checkpoints = LeaseQueue()
    private var rateWindowStart = LeaseTime(milliseconds: .min)
    private var revokesInWindow = 0

    /// Leases to write or delete with the next commit.
    private(set) var changed: Set<Int64> = []

    init(configuration: StateMachineConfiguration) {
        self.configuration = configuration
    }

    var count: Int { leases.count }

    func contains(_ id: Int64) -> Bool { leases[id] != nil }

    func lease(_ id: Int64) -> Lease? { leases[id] }

    /// All leases in the order of their ids.
    var sortedByID: [Lease] { leases.values.sorted { $0.id < $1.id } }

    // MARK: Commands

    /// - Returns: the TTL given.
    /// - Throws: `leaseNotFound` for id 0, as etcd says, `leaseTTLTooLarge`, `leaseExists`.
    func grant(id: Int64, ttlSeconds: Int64, now: LeaseTime) throws(ApplyError) -> Int64 {
        if id == 0 { throw .leaseNotFound }
        if ttlSeconds > configuration.maximumLeaseTTLSeconds { throw .leaseTTLTooLarge }
        if leases[id] != nil { throw .leaseExists }
        let ttl = max(ttlSeconds, configuration.minimumLeaseTTLSeconds)
        let lease = Lease(id: id, ttlSeconds: ttl, serial: nextSerial())
        leases[id] = lease
        changed.insert(id)
        if isPrimary {
            start(lease, now: now, extendMilliseconds: 0)
        }
        return ttl
    }

    /// Forgets a lease whose keys the caller has deleted.
    func remove(_ id: Int64) {
        guard let lease = leases.removeValue(forKey: id) else { return }
        if lease.revokePending { outstandingRevokes -= 1 }
        changed.insert(id)
        dropStaleEntries()
    }

    /// Entries of leases that are gone would stay until their time comes, which may be never. A
    /// queue holds at most twice as many as there are leases, and some.
    private func dropStaleEntries() {
        let limit = 2 * leases.count + Self.spareQueueEntries
        if expiries.count > limit {
            expiries.keep { isQueued($0) }
        }
        if retries.count > limit {
            retries.keep { isQueued($0) }
        }
        if checkpoints.count > limit {
            checkpoints.keep { leases[$0.id]?.checkpointQueuedAt == $0.time }
        }
    }

    private func isQueued(_ entry: LeaseQueue.Entry) -> Bool {
        leases[entry.id]?.queuedAt == entry.time
    }

    private static let spareQueueEntries = 64

    /// Entries in all queues, stale ones included.
    var queuedCount: Int { expiries.count + retries.count + checkpoints.count }

    /// Notes the remaining time of a lease; 0 takes the note back. Unknown leases are passed over,
    /// for a revocation may have come first.
    ///
    /// - Returns: whether the lease exists.
    func checkpoint(id: Int64, remainingSeconds: Int64, now: LeaseTime) -> Bool {
        guard let lease = leases[id] else { return false }
        lease.remainingSeconds = min(max(remainingSeconds, 0), lease.ttlSeconds)
        lease.checkpointPending = false
        changed.insert(id)
        if isPrimary { scheduleCheckpoint(lease, now: now) }
        return true
    }

    func attach(_ key: UnsafeRawBufferPointer, to id: Int64) {
        leases[id]?.keys.insert(LeaseKey(key))
    }

    func detach(_ key: UnsafeRawBufferPointer, from id: Int64) {
        leases[id]?.keys.remove(LeaseKey(key))
    }

    /// A lease read from the backend. Its keys follow by `attach`.
    func restore(id: Int64, ttlSeconds: Int64, remainingSeconds: Int64) {
        let ttl = min(
            max(ttlSeconds, configuration.minimumLeaseTTLSeconds),
            configuration.maximumLeaseTTLSeconds)
        leases[id] = Lease(
            id: id, ttlSeconds: ttl, serial: nextSerial(),
            remainingSeconds: min(max(remainingSeconds, 0), ttl))
    }

    private func nextSerial() -> UInt64 {
        newestSerial += 1
        return newestSerial
    }

    /// Says that what `changed` names is on its way to the backend.
    func clearChanged() { changed.removeAll(keepingCapacity: true) }

    // MARK: Leadership

    /// This member leads from now on: every lease starts anew.
    func promote(now: LeaseTime, extendMilliseconds: Int64) {
        resetSchedules()
        isPrimary = true
        for lease in sortedByID {
            start(lease, now: now, extendMilliseconds: extendMilliseconds)
        }
    }

    /// This member does not lead any more: no lease expires here.
    func demote() {
        resetSchedules()
        isPrimary = false
        for lease in leases.values { lease.expiry = .never }
    }

    /// Gives every lease the time that it had at `promote`. Not one whose revocation was proposed: it
    /// may be applied any moment, and a renewal acknowledged before that would be a lie.
    func restartClocks(now: LeaseTime) {
        guard isPrimary else { return }
        for lease in sortedByID where !lease.revokePending {
            let expiry = now.adding(seconds: lease.startSeconds)
            if expiry <= lease.expiry { continue }
            lease.expiry = expiry
            // The old place in the queue counts no more (`queuedAt`).
            queueExpiry(lease)
        }
    }

    private func resetSchedules() {
        expiries.removeAll()
        retries.removeAll()
        checkpoints.removeAll()
        outstandingRevokes = 0
        for lease in leases.values {
            lease.queuedAt = nil
            lease.checkpointAt = nil
            lease.checkpointQueuedAt = nil
            lease.revokePending = false
            lease.checkpointPending = false
        }
    }

    private func start(_ lease: Lease, now: LeaseTime, extendMilliseconds: Int64) {
        lease.expiry = now.adding(seconds: lease.startSeconds)
            .adding(milliseconds: extendMilliseconds)
        #if MOONRAFT_MUTATIONS
            if StateMutation.isOn(.newLeaderKeepsOldExpiry), extendMilliseconds > 0 {
                lease.expiry = now.adding(milliseconds: extendMilliseconds)
            }
        #endif
        queueExpiry(lease)
        scheduleCheckpoint(lease, now: now)
    }

    private func queueExpiry(_ lease: Lease) {
        lease.queuedAt = lease.expiry
        expiries.insert(LeaseQueue.Entry(time: lease.expiry, id: lease.id))
    }

    private func queueRetry(_ lease: Lease, now: LeaseTime) {
        let time = now.adding(milliseconds: configuration.leaseRevokeRetryMilliseconds)
        lease.queuedAt = time
        retries.insert(LeaseQueue.Entry(time: time, id: lease.id))
    }

    // MARK: Expiry

    func renew(_ id: Int64, now: LeaseTime) -> LeaseRenewal {
        guard isPrimary else { return .notLeader }
        guard let lease = leases[id] else { return .notFound }
        if lease.revokePending || lease.expiry <= now { return .expired }
        #if MOONRAFT_MUTATIONS
            if StateMutation.isOn(.renewalLeavesCheckpoint) {
                lease.expiry = now.adding(seconds: lease.ttlSeconds)
                return .renewed(ttlSeconds: lease.ttlSeconds)
            }
        #endif
        if lease.remainingSeconds > 0 || lease.checkpointPending {
            // The command that takes the note back must be the last one about this lease for a
            // while: put the next checkpoint off.
            setCheckpoint(lease, at: nextCheckpoint(after: now))
            return .checkpointFirst(Command.leaseCheckpoint([(id: id, remainingSeconds: 0)]))
        }
        lease.expiry = now.adding(seconds: lease.ttlSeconds)
        return .renewed(ttlSeconds: lease.ttlSeconds)
    }

    func status(_ id: Int64, now: LeaseTime, withKeys: Bool) -> LeaseStatus? {
        guard let lease = leases[id] else { return nil }
        let left = lease.expiry.milliseconds(since: now)
        return LeaseStatus(
            grantedTTLSeconds: lease.ttlSeconds,
            remainingSeconds: isPrimary ? max(left, 0) / 1000 : nil,
            keys: withKeys ? lease.sortedKeys : [])
    }

    /// The keys of a lease in their order; nil when it is not known or has more than `limit`.
    func keys(of id: Int64, atMost limit: Int) -> [[UInt8]]? {
        guard let lease = leases[id], lease.keys.count <= limit else { return nil }
        return lease.sortedKeys
    }

    /// Ids by expiry (as etcd sorts its listing), then in the order of their grants: etcd's clocks are
    /// fine enough that two leases granted one after the other never share one.
    var idsByExpiry: [Int64] {
        leases.values
            .sorted { $0.expiry != $1.expiry ? $0.expiry < $1.expiry : $0.serial < $1.serial }
            .map(\.id)
    }

    /// Expired leases whose revocation is to be proposed now: first those whose earlier proposal
    /// came to nothing, then by expiry. Bounded by `limit`, by the revocations a second and by the
    /// outstanding ones of the configuration.
    func expired(now: LeaseTime, max limit: Int) -> [Int64] {
        guard isPrimary else { return [] }
        if now.milliseconds(since: rateWindowStart) >= 1000 {
            rateWindowStart = now
            revokesInWindow = 0
        }
        var found: [Int64] = []
        while found.count < limit, revokesInWindow < configuration.leaseRevokesPerSecond,
            let lease = nextRetry(now: now) ?? nextExpired(now: now)
        {
            queueRetry(lease, now: now)
            revokesInWindow += 1
            found.append(lease.id)
        }
        return found
    }

    private func nextRetry(now: LeaseTime) -> Lease? {
        while let entry = retries.first, entry.time <= now {
            retries.removeFirst()
            if let lease = leases[entry.id], lease.revokePending, lease.queuedAt == entry.time {
                return lease
            }
        }
        return nil
    }

    private func nextExpired(now: LeaseTime) -> Lease? {
        while outstandingRevokes < configuration.outstandingLeaseRevokes,
            let entry = expiries.first, entry.time <= now
        {
            expiries.removeFirst()
            guard let lease = leases[entry.id], !lease.revokePending, lease.queuedAt == entry.time
            else { continue }
            if lease.expiry > now {
                // Renewed since it was queued.
                queueExpiry(lease)
                continue
            }
            outstandingRevokes += 1
            lease.revokePending = true
            return lease
        }
        return nil
    }

    /// When `expired` or `dueCheckpoints` may next have something; nil when nothing is waited for.
    var nextDeadline: LeaseTime? {
        var revoke = retries.first?.time
        if outstandingRevokes < configuration.outstandingLeaseRevokes,
            let expiry = expiries.first?.time
        {
            revoke = min(revoke ?? .never, expiry)
        }
        if revokesInWindow >= configuration.leaseRevokesPerSecond, let earliest = revoke {
            revoke = max(earliest, rateWindowStart.adding(milliseconds: 1000))
        }
        guard let checkpoint = checkpoints.first?.time else { return revoke }
        return min(revoke ?? .never, checkpoint)
    }

    // MARK: Checkpoints

    /// The remaining times to write down now; nil when none is due.
    func dueCheckpoints(now: LeaseTime) -> [UInt8]? {
        guard isPrimary else { return nil }
        var due: [(id: Int64, remainingSeconds: Int64)] = []
        while due.count < configuration.leaseCheckpointsPerCommand,
            let entry = checkpoints.first, entry.time <= now
        {
            checkpoints.removeFirst()
            guard let lease = leases[entry.id], lease.checkpointQueuedAt == entry.time,
                let time = lease.checkpointAt
            else { continue }
            lease.checkpointQueuedAt = nil
            lease.checkpointAt = nil
            if time > now {
                // Put off since it was queued.
                setCheckpoint(lease, at: time)
                continue
            }
            let left = lease.expiry.milliseconds(since: now)
            if left <= 0 { continue }
            // Rounded up: a lease must not end early.
            let seconds = left / 1000 + (left % 1000 > 0 ? 1 : 0)
            if seconds >= lease.ttlSeconds {
                setCheckpoint(lease, at: nextCheckpoint(after: now))
                continue
            }
            lease.checkpointPending = true
            due.append((id: lease.id, remainingSeconds: seconds))
            if left > configuration.leaseCheckpointIntervalMilliseconds {
                setCheckpoint(lease, at: nextCheckpoint(after: now))
            }
        }
        return due.isEmpty ? nil : Command.leaseCheckpoint(due)
    }

    private func scheduleCheckpoint(_ lease: Lease, now: LeaseTime) {
        if lease.startSeconds > configuration.leaseCheckpointIntervalMilliseconds / 1000 {
            setCheckpoint(lease, at: nextCheckpoint(after: now))
        }
    }

    private func setCheckpoint(_ lease: Lease, at time: LeaseTime) {
        // Times only move on, so that an entry that is there already comes early enough.
        lease.checkpointAt = time
        if lease.checkpointQueuedAt != nil { return }
        lease.checkpointQueuedAt = time
        checkpoints.insert(LeaseQueue.Entry(time: time, id: lease.id))
    }

    private func nextCheckpoint(after now: LeaseTime) -> LeaseTime {
        now.adding(milliseconds: configuration.leaseCheckpointIntervalMilliseconds)
    }
}
