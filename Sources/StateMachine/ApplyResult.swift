import MVCC

/// What applying one log entry did, and what to answer.
package struct ApplyResult: Sendable {
    /// Set when the command was refused. `noSpace` and `replyTooLarge` may come with a change that did happen
    /// (etcd apply/quota.go): `events` and `effect` are then set as well.
    package var error: ApplyError?
    /// The store's revision after the command, for the reply's header.
    package var revision: Int64
    /// The fields of the reply message after `header`; empty for a plain put and after an error.
    package var body: [UInt8]
    /// What changed in the key space; nil when the revision did not advance.
    package var events: EventBatch?
    /// What else changed, for the event bus and the log.
    package var effect: ApplyEffect

    @inlinable package init(
        error: ApplyError? = nil, revision: Int64, body: [UInt8] = [], events: EventBatch? = nil,
        effect: ApplyEffect = .none
    ) {
        self.error = error
        self.revision = revision
        self.body = body
        self.events = events
        self.effect = effect
    }
}

/// A change outside the key space that an entry made.
package enum ApplyEffect: Equatable, Sendable {
    case none
    /// The store answers below `revision` with "compacted" from now on; its records are deleted in
    /// steps. `physical`: the caller waits for the end of that.
    case compactionStarted(revision: Int64, physical: Bool)
    case leaseGranted(id: Int64, ttlSeconds: Int64)
    case leaseRevoked(id: Int64, expired: Bool, keys: Int)
    case leasesCheckpointed(count: Int)
    case alarmChanged(member: UInt64, type: AlarmType, active: Bool)
    /// A member published itself, or its peer URLs were changed.
    case memberUpdated(id: UInt64)
    case membershipChanged([MembershipChange])
    case clusterVersionChanged(String)
}
