/// The named databases, one for each bucket of etcd's backend (etcd
/// server/storage/schema/bucket.go).
///
/// The raw value is the position in all arrays indexed by bucket; the order is that of the names,
/// which is also the order of `Backend.hash`.
package enum BackendBucket: Int, CaseIterable, Sendable {
    case alarm
    case auth
    case authRoles
    case authUsers
    case cluster
    /// Revision (`RevisionKey`) to encoded `mvccpb.KeyValue`.
    case key
    case lease
    case members
    case membersRemoved
    /// Applied index, term, compaction revisions, and the format version of this backend.
    case meta

    /// The name in the file.
    package var name: String {
        switch self {
        case .alarm: "alarm"
        case .auth: "auth"
        case .authRoles: "authRoles"
        case .authUsers: "authUsers"
        case .cluster: "cluster"
        case .key: "key"
        case .lease: "lease"
        case .members: "members"
        case .membersRemoved: "members_removed"
        case .meta: "meta"
        }
    }
}
