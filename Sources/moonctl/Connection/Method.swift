/// A unary or streaming method of the services.
struct Method: Sendable {
    let path: String
    /// Sent again when the server was unavailable, as etcd's client does with reads.
    let isRepeatable: Bool

    private init(_ path: String, repeatable: Bool = false) {
        self.path = "/etcdserverpb." + path
        isRepeatable = repeatable
    }

    static let range = Method("KV/Range", repeatable: true)
    static let rangeStream = Method("KV/RangeStream")
    static let put = Method("KV/Put")
    static let deleteRange = Method("KV/DeleteRange")
    static let txn = Method("KV/Txn")
    static let compact = Method("KV/Compact")
    static let watch = Method("Watch/Watch")
    static let leaseGrant = Method("Lease/LeaseGrant")
    static let leaseRevoke = Method("Lease/LeaseRevoke")
    static let leaseKeepAlive = Method("Lease/LeaseKeepAlive")
    static let leaseTimeToLive = Method("Lease/LeaseTimeToLive", repeatable: true)
    static let leaseLeases = Method("Lease/LeaseLeases", repeatable: true)
    static let memberList = Method("Cluster/MemberList", repeatable: true)
    static let memberAdd = Method("Cluster/MemberAdd")
    static let memberRemove = Method("Cluster/MemberRemove")
    static let memberUpdate = Method("Cluster/MemberUpdate")
    static let memberPromote = Method("Cluster/MemberPromote")
    static let moveLeader = Method("Maintenance/MoveLeader")
    static let alarm = Method("Maintenance/Alarm", repeatable: true)
    static let status = Method("Maintenance/Status", repeatable: true)
    static let hashKV = Method("Maintenance/HashKV", repeatable: true)
    static let defragment = Method("Maintenance/Defragment")
    static let snapshot = Method("Maintenance/Snapshot")
    static let authStatus = Method("Auth/AuthStatus", repeatable: true)
    static let authenticate = Method("Auth/Authenticate")
}
