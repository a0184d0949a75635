/// The remote calls as plugins name them. Order is only that of the bits in an ``RPCSet``.
package enum RPCKind: UInt8, CaseIterable, Sendable {
    case range, put, deleteRange, txn, compact, watch
    case leaseGrant, leaseRevoke, leaseKeepAlive, leaseTimeToLive, leaseLeases
    case alarm, status, defragment, hash, hashKV, snapshot, moveLeader, downgrade
    case memberAdd, memberRemove, memberUpdate, memberList, memberPromote
    case authenticate, authEnable, authDisable, authStatus, userAdmin, roleAdmin

    /// The name in manifests, bindings, scripts and audit records.
    package var name: StaticString {
        switch self {
        case .range: "range"
        case .put: "put"
        case .deleteRange: "delete_range"
        case .txn: "txn"
        case .compact: "compact"
        case .watch: "watch"
        case .leaseGrant: "lease_grant"
        case .leaseRevoke: "lease_revoke"
        case .leaseKeepAlive: "lease_keep_alive"
        case .leaseTimeToLive: "lease_time_to_live"
        case .leaseLeases: "lease_leases"
        case .alarm: "alarm"
        case .status: "status"
        case .defragment: "defragment"
        case .hash: "hash"
        case .hashKV: "hash_kv"
        case .snapshot: "snapshot"
        case .moveLeader: "move_leader"
        case .downgrade: "downgrade"
        case .memberAdd: "member_add"
        case .memberRemove: "member_remove"
        case .memberUpdate: "member_update"
        case .memberList: "member_list"
        case .memberPromote: "member_promote"
        case .authenticate: "authenticate"
        case .authEnable: "auth_enable"
        case .authDisable: "auth_disable"
        case .authStatus: "auth_status"
        case .userAdmin: "user_admin"
        case .roleAdmin: "role_admin"
        }
    }

    package init?(name: String) {
        guard let kind = Self.allCases.first(where: { "\($0.name)" == name }) else { return nil }
        self = kind
    }

    /// Whether the call by itself changes state. A transaction changes state when one of its ops does.
    package var changesState: Bool {
        switch self {
        case .put, .deleteRange, .compact, .leaseGrant, .leaseRevoke, .alarm, .moveLeader, .downgrade, .memberAdd,
            .memberRemove, .memberUpdate, .memberPromote, .authEnable, .authDisable, .userAdmin, .roleAdmin,
            .defragment:
            true
        default: false
        }
    }
}

/// A set of remote calls.
package struct RPCSet: OptionSet, Sendable, Hashable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
    package init(_ kind: RPCKind) { rawValue = 1 << UInt64(kind.rawValue) }
    package init(_ kinds: [RPCKind]) { rawValue = kinds.reduce(0) { $0 | 1 << UInt64($1.rawValue) } }

    package static let all = RPCSet(RPCKind.allCases)
    package static let writes = RPCSet([.put, .deleteRange, .txn])
    /// What the admission hooks may be bound to.
    static let admissible = RPCSet([
        .put, .deleteRange, .txn, .compact, .leaseGrant, .leaseRevoke, .userAdmin, .roleAdmin, .memberAdd,
        .memberRemove,
        .memberUpdate, .memberPromote, .range,
    ])

    package func contains(_ kind: RPCKind) -> Bool { rawValue & (1 << UInt64(kind.rawValue)) != 0 }
}
