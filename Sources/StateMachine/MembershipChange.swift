// What an administrator asks of the membership. It travels in the log as the context of a Raft
// configuration entry, behind the tag of whoever asked (Replica/EntryTag.swift):
//
//   byte 0   format version, 1
//   byte 1   kind: 1 add, 2 remove, 3 promote
//   byte 2…  add: etcdserverpb.Member {1 ID, 3 peerURLs*, 5 isLearner}
//            remove, promote: the member id, 8 bytes little endian

/// A change of who belongs to the cluster (etcd api/rpc.proto, service Cluster).
package enum MembershipChange: Equatable, Sendable {
    /// The id is chosen by whoever accepts the request; `isLearner` decides whether it votes.
    case add(Member)
    case remove(UInt64)
    /// A learner becomes a voter.
    case promote(UInt64)

    /// The member that the change is about.
    package var memberID: UInt64 {
        switch self {
        case .add(let member): member.id
        case .remove(let id), .promote(let id): id
        }
    }
}
