/// Why a request is refused, before it is proposed or when it is applied.
package enum ApplyError: Error, Equatable, Hashable, Sendable, CaseIterable {
    // Form of a request.
    case keyEmpty
    case valueProvided
    case leaseProvided
    case invalidSortOption
    case tooManyOperations
    case duplicateKey
    // Against the state.
    case keyNotFound
    case compacted
    case futureRevision
    case leaseNotFound
    case leaseExists
    case leaseTTLTooLarge
    case noSpace
    case corrupt
    // Against the membership.
    case memberNotFound
    case memberExists
    case peerURLExists
    case notLearner
    // Bounds of this implementation.
    case tooManyAlarms
    case tooManyMembers
    /// The transaction was carried out, but its reply is over the bound.
    case replyTooLarge
    // A log entry that no sound client can cause.
    case unknownCommand
    case malformed

    /// The text a client sees; etcd's where etcd has the error (rpctypes/error.go). Clients match
    /// on it, so it is part of the protocol.
    package var text: String {
        switch self {
        case .keyEmpty: "etcdserver: key is not provided"
        case .valueProvided: "etcdserver: value is provided"
        case .leaseProvided: "etcdserver: lease is provided"
        case .invalidSortOption: "etcdserver: invalid sort option"
        case .tooManyOperations: "etcdserver: too many operations in txn request"
        case .duplicateKey: "etcdserver: duplicate key given in txn request"
        case .keyNotFound: "etcdserver: key not found"
        case .compacted: "etcdserver: mvcc: required revision has been compacted"
        case .futureRevision: "etcdserver: mvcc: required revision is a future revision"
        case .leaseNotFound: "etcdserver: requested lease not found"
        case .leaseExists: "etcdserver: lease already exists"
        case .leaseTTLTooLarge: "etcdserver: too large lease TTL"
        case .noSpace: "etcdserver: mvcc: database space exceeded"
        case .corrupt: "etcdserver: corrupt cluster"
        case .memberNotFound: "etcdserver: member not found"
        case .memberExists: "etcdserver: member ID already exist"
        case .peerURLExists: "etcdserver: Peer URLs already exists"
        case .notLearner: "etcdserver: can only promote a learner member"
        case .tooManyAlarms: "moonraft: too many alarms"
        case .tooManyMembers: "moonraft: too many members"
        case .replyTooLarge:
            "moonraft: the transaction was carried out, but its reply is too large"
        case .unknownCommand: "moonraft: unknown command"
        case .malformed: "moonraft: malformed command"
        }
    }
}
