// Errors to gRPC codes. Texts are part of etcd's protocol: clients match on them
// (api/v3rpc/rpctypes/error.go).

import KVCodec
import MVCC
import Node
import RPC
import Replica
import StateMachine

extension RPCStatus {
    /// The status of a request that the state machine or its checks refused.
    init(_ error: ApplyError) {
        let code: RPCCode
        switch error {
        case .keyEmpty, .valueProvided, .leaseProvided, .invalidSortOption, .tooManyOperations,
            .duplicateKey, .keyNotFound, .malformed, .unknownCommand:
            code = .invalidArgument
        case .compacted, .futureRevision, .leaseTTLTooLarge: code = .outOfRange
        case .leaseNotFound, .memberNotFound: code = .notFound
        case .leaseExists, .memberExists, .peerURLExists, .notLearner:
            code = .failedPrecondition
        case .noSpace, .tooManyAlarms, .tooManyMembers, .replyTooLarge: code = .resourceExhausted
        case .corrupt: code = .dataLoss
        }
        self.init(code, error.text)
    }

    /// The status of a request that the node could not carry out.
    init(_ error: NodeError) {
        switch error {
        case .noLeader: self.init(.unavailable, "etcdserver: no leader")
        case .leaderChanged: self.init(.unavailable, "etcdserver: leader changed")
        case .timedOut: self.init(.unavailable, "etcdserver: request timed out")
        case .stopped: self.init(.unavailable, "etcdserver: server stopped")
        // etcd sends this one as Unknown: the mapped error carries no status of its own.
        case .tooManyRequests: self.init(.unknown, "etcdserver: too many requests")
        case .requestTooLarge: self.init(.invalidArgument, "etcdserver: request is too large")
        case .timedOutByLeaderFailure:
            self.init(
                .unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure")
        case .notLeader: self.init(.failedPrecondition, "etcdserver: not leader")
        case .badTransferTarget:
            self.init(.failedPrecondition, "etcdserver: bad leader transferee")
        case .transferTimedOut:
            self.init(.unknown, "etcdserver: request timed out, leader transfer took too long")
        case .unhealthyCluster: self.init(.unavailable, "etcdserver: unhealthy cluster")
        // Unknown for the same reason as above.
        case .notEnoughStartedMembers:
            self.init(
                .unknown,
                "etcdserver: re-configuration failed due to not enough started members")
        case .learnerNotReady:
            self.init(
                .failedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader")
        case .memberNotFound: self.init(.notFound, "etcdserver: member not found")
        case .memberExists: self.init(.failedPrecondition, "etcdserver: member ID already exist")
        case .peerURLExists:
            self.init(.failedPrecondition, "etcdserver: Peer URLs already exists")
        case .notLearner:
            self.init(.failedPrecondition, "etcdserver: can only promote a learner member")
        case .tooManyLearners:
            self.init(
                .failedPrecondition, "etcdserver: too many learner members in cluster")
        }
    }

    /// The status of a read that the store refused.
    init(_ error: MVCCError) {
        switch error {
        case .compacted: self.init(ApplyError.compacted)
        case .futureRevision: self.init(ApplyError.futureRevision)
        case .corruptRecord(let revision):
            self.init(.dataLoss, "moonraft: record at \(revision.main).\(revision.sub) is damaged")
        }
    }

    /// A unary request that is not the message it should be; grpc-go's text.
    static func undecodable(_ error: DecodeError) -> RPCStatus {
        RPCStatus(.internal, "grpc: error unmarshalling request: \(error.text)")
    }

    /// The same on a stream.
    static func undecodableMessage(_ error: DecodeError) -> RPCStatus {
        RPCStatus(.internal, "grpc: failed to unmarshal the received message: \(error.text)")
    }

    /// A reply over the bound; grpc-go's text.
    static func tooLarge(_ size: Int, _ bound: Int) -> RPCStatus {
        RPCStatus(
            .resourceExhausted,
            "grpc: trying to send message larger than max (\(size) vs. \(bound))")
    }

    static let notForLearner = RPCStatus(
        .failedPrecondition, "etcdserver: rpc not supported for learner")
    static let permissionDenied = RPCStatus(.permissionDenied, "etcdserver: permission denied")
    static let invalidToken = RPCStatus(.unauthenticated, "etcdserver: invalid auth token")
    static let authenticationFailed = RPCStatus(
        .invalidArgument, "etcdserver: authentication failed, invalid user ID or password")
    static let authNotEnabled = RPCStatus(
        .failedPrecondition, "etcdserver: authentication is not enabled")
    static let requestTooLarge = RPCStatus(.requestTooLarge as NodeError)
    static let noLeader = RPCStatus(.noLeader as NodeError)
    static let tooManyRequests = RPCStatus(.tooManyRequests as NodeError)
}
