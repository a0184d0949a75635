// Every RPC of etcd's API, served or not: path, stream type, and the number that routes and
// counters use.

import RPC

/// How a method's messages flow, as metrics name it.
enum MethodFlow: String {
    case unary
    case serverStream = "server_stream"
    case bidirectional = "bidi_stream"
}

/// One RPC. The raw value is its position in the route table.
enum Method: Int, CaseIterable {
    case range, rangeStream, put, deleteRange, txn, compact
    case watch
    case leaseGrant, leaseRevoke, leaseKeepAlive, leaseTimeToLive, leaseLeases
    case memberAdd, memberRemove, memberUpdate, memberList, memberPromote
    case alarm, status, defragment, hash, hashKV, snapshot, moveLeader, downgrade
    case authEnable, authDisable, authStatus, authenticate
    case userAdd, userGet, userList, userDelete, userChangePassword, userGrantRole, userRevokeRole
    case roleAdd, roleGet, roleList, roleDelete, roleGrantPermission, roleRevokePermission
    case healthCheck, healthWatch
    case lock, unlock
    case campaign, proclaim, leader, observe, resign

    var id: MethodID { MethodID(rawValue: rawValue) }

    /// Package and service.
    var service: String {
        switch self {
        case .range, .rangeStream, .put, .deleteRange, .txn, .compact: "etcdserverpb.KV"
        case .watch: "etcdserverpb.Watch"
        case .leaseGrant, .leaseRevoke, .leaseKeepAlive, .leaseTimeToLive, .leaseLeases:
            "etcdserverpb.Lease"
        case .memberAdd, .memberRemove, .memberUpdate, .memberList, .memberPromote:
            "etcdserverpb.Cluster"
        case .alarm, .status, .defragment, .hash, .hashKV, .snapshot, .moveLeader, .downgrade:
            "etcdserverpb.Maintenance"
        case .healthCheck, .healthWatch: "grpc.health.v1.Health"
        case .lock, .unlock: "v3lockpb.Lock"
        case .campaign, .proclaim, .leader, .observe, .resign: "v3electionpb.Election"
        default: "etcdserverpb.Auth"
        }
    }

    var name: String {
        switch self {
        case .range: "Range"
        case .rangeStream: "RangeStream"
        case .put: "Put"
        case .deleteRange: "DeleteRange"
        case .txn: "Txn"
        case .compact: "Compact"
        case .watch: "Watch"
        case .leaseGrant: "LeaseGrant"
        case .leaseRevoke: "LeaseRevoke"
        case .leaseKeepAlive: "LeaseKeepAlive"
        case .leaseTimeToLive: "LeaseTimeToLive"
        case .leaseLeases: "LeaseLeases"
        case .memberAdd: "MemberAdd"
        case .memberRemove: "MemberRemove"
        case .memberUpdate: "MemberUpdate"
        case .memberList: "MemberList"
        case .memberPromote: "MemberPromote"
        case .alarm: "Alarm"
        case .status: "Status"
        case .defragment: "Defragment"
        case .hash: "Hash"
        case .hashKV: "HashKV"
        case .snapshot: "Snapshot"
        case .moveLeader: "MoveLeader"
        case .downgrade: "Downgrade"
        case .authEnable: "AuthEnable"
        case .authDisable: "AuthDisable"
        case .authStatus: "AuthStatus"
        case .authenticate: "Authenticate"
        case .userAdd: "UserAdd"
        case .userGet: "UserGet"
        case .userList: "UserList"
        case .userDelete: "UserDelete"
        case .userChangePassword: "UserChangePassword"
        case .userGrantRole: "UserGrantRole"
        case .userRevokeRole: "UserRevokeRole"
        case .roleAdd: "RoleAdd"
        case .roleGet: "RoleGet"
        case .roleList: "RoleList"
        case .roleDelete: "RoleDelete"
        case .roleGrantPermission: "RoleGrantPermission"
        case .roleRevokePermission: "RoleRevokePermission"
        case .healthCheck: "Check"
        case .healthWatch: "Watch"
        case .lock: "Lock"
        case .unlock: "Unlock"
        case .campaign: "Campaign"
        case .proclaim: "Proclaim"
        case .leader: "Leader"
        case .observe: "Observe"
        case .resign: "Resign"
        }
    }

    var path: String { "/\(service)/\(name)" }

    var flow: MethodFlow {
        switch self {
        case .rangeStream, .snapshot, .healthWatch, .observe: .serverStream
        case .watch, .leaseKeepAlive: .bidirectional
        default: .unary
        }
    }

    /// Methods that this version knows by name but does not serve. They answer Unimplemented.
    var isServed: Bool {
        switch self {
        case .downgrade, .authEnable, .authDisable, .userAdd, .userGet, .userList, .userDelete,
            .userChangePassword, .userGrantRole, .userRevokeRole, .roleAdd, .roleGet, .roleList,
            .roleDelete, .roleGrantPermission, .roleRevokePermission:
            false
        default: true
        }
    }

    /// What a member without a vote answers; of ranges only the serializable ones (etcd
    /// v3rpc/util.go, interceptor.go; etcd-parity G6).
    var isServedByLearner: Bool { self == .status || self == .snapshot || self == .range }
}
