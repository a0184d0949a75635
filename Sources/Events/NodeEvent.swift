// What the core tells the rest of the node. Events are facts, published after they hold.

import MVCC

/// One fact on the bus.
package enum NodeEvent: Sendable {
    /// Everything one revision changed; the reason (client, transaction, lease expired, lease
    /// revoked, plugin) is part of the batch.
    case revision(EventBatch)
    /// The store took over another member's snapshot and is at this revision; what lies between was
    /// not published and is found in history, as far as it is not compacted.
    case restored(revision: Int64)
    case lease(LeaseEvent)
    /// History below this revision is no longer readable.
    case compaction(revision: Int64)
    case alarm(AlarmEvent)
    /// The member that leads now, 0 when there is none.
    case leader(memberID: UInt64, term: UInt64)
    case membership(MembershipEvent)
    case plugin(PluginEvent)
    /// A sync took longer than the configured warning time.
    case slowDisk(operation: DiskOperation, microseconds: UInt64)

    /// Bytes this event holds on to while it is queued, for the queue's bound.
    var retainedBytes: Int {
        if case .revision(let batch) = self { return batch.bytes.count &+ 64 }
        return 64
    }

    /// The word used in logs, plugin events and metrics.
    package var name: String {
        switch self {
        case .revision: "revision"
        case .restored: "restored"
        case .lease(let lease): "lease_\(lease.kind)"
        case .compaction: "compaction"
        case .alarm(let alarm): alarm.raised ? "alarm_raised" : "alarm_cleared"
        case .leader: "leader_changed"
        case .membership(let change): "member_\(change.kind)"
        case .plugin(let plugin): "plugin_\(plugin.kind)"
        case .slowDisk: "slow_disk"
        }
    }
}

/// A change in the life of a lease. Keepalives are not events.
package struct LeaseEvent: Sendable, Equatable {
    package enum Kind: String, Sendable { case granted, revoked, expired }
    package var kind: Kind
    package var id: Int64
    /// Granted time to live in seconds; 0 for revoked and expired leases.
    package var timeToLiveSeconds: Int64

    package init(kind: Kind, id: Int64, timeToLiveSeconds: Int64) {
        self.kind = kind
        self.id = id
        self.timeToLiveSeconds = timeToLiveSeconds
    }
}

/// An alarm was raised or cleared. `type` is `AlarmType` on the wire (1 NOSPACE, 2 CORRUPT).
package struct AlarmEvent: Sendable, Equatable {
    package var raised: Bool
    package var memberID: UInt64
    package var type: Int32

    package init(raised: Bool, memberID: UInt64, type: Int32) {
        self.raised = raised
        self.memberID = memberID
        self.type = type
    }
}

/// A member's entry changed.
package struct MembershipEvent: Sendable, Equatable {
    package enum Kind: String, Sendable { case added, removed, updated, promoted }
    package var kind: Kind
    package var memberID: UInt64

    package init(kind: Kind, memberID: UInt64) {
        self.kind = kind
        self.memberID = memberID
    }
}

/// A plugin was loaded, replaced, or failed its checks.
package struct PluginEvent: Sendable, Equatable {
    package enum Kind: String, Sendable { case loaded, failed, stopped }
    package var kind: Kind
    package var id: String

    package init(kind: Kind, id: String) {
        self.kind = kind
        self.id = id
    }
}

/// Which disk operation was slow.
package enum DiskOperation: String, Sendable { case walSync = "wal_sync", backendCommit = "backend_commit" }
