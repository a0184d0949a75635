// etcdserverpb.Cluster: who belongs to the cluster (etcd api/v3rpc/member.go).
//
// A member added gets its id here, as etcd computes it; whether the change may be made is for the leader
// and the state machine to say. Headers leave the revision at 0 (etcd-parity G1).

import Configuration
import CSupport
import Node
import RPC
import Replica
import StateMachine
import Wire

/// The Cluster service of one event loop.
final class ClusterService: OperatorService {
    /// What one member may have in URLs; more is refused as invalid. They are kept by every member
    /// and sent in every list.
    private static let maxPeerURLs = 16
    private static let maxURLBytes = 1024

    private static let badURLs = RPCStatus(
        .invalidArgument, "etcdserver: given member URLs are invalid")

    // MARK: Changes

    func memberAdd(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let request: Etcdserverpb_MemberAddRequest = decode(call, message) else { return }
        gated(call, .memberAdd, message) { [self] trail in
            guard let urls = Self.checked(request.peerUrls) else {
                return finish(call, Self.badURLs, trail)
            }
            let id = Identity.memberID(
                peerURLs: urls, joinedAt: wallClockNanoseconds() / 1_000_000_000)
            let member = Member(
                id: id, name: "", peerURLs: urls, clientURLs: [], isLearner: request.isLearner)
            change(call, trail, .add(member)) { [self] members in
                var reply = Etcdserverpb_MemberAddResponse()
                reply.header = header(revision: 0)
                reply.member = Etcdserverpb_Member(member)
                reply.members = members
                return encode(reply)
            }
        }
    }

    func memberRemove(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let request: Etcdserverpb_MemberRemoveRequest = decode(call, message) else { return }
        gated(call, .memberRemove, message) { [self] trail in
            change(call, trail, .remove(request.id)) { [self] members in
                var reply = Etcdserverpb_MemberRemoveResponse()
                reply.header = header(revision: 0)
                reply.members = members
                return encode(reply)
            }
        }
    }

    func memberPromote(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let request: Etcdserverpb_MemberPromoteRequest = decode(call, message) else { return }
        gated(call, .memberPromote, message) { [self] trail in
            change(call, trail, .promote(request.id)) { [self] members in
                context.monitoring.promoted(failure: nil)
                var reply = Etcdserverpb_MemberPromoteResponse()
                reply.header = header(revision: 0)
                reply.members = members
                return encode(reply)
            } failed: { [self] status in
                context.monitoring.promoted(failure: status.message)
            }
        }
    }

    /// An ordinary command: the peer URLs of a member do not concern consensus.
    func memberUpdate(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let request: Etcdserverpb_MemberUpdateRequest = decode(call, message) else { return }
        gated(call, .memberUpdate, message) { [self] trail in
            guard let urls = Self.checked(request.peerUrls) else {
                return finish(call, Self.badURLs, trail)
            }
            if request.id == 0 { return finish(call, RPCStatus(.memberNotFound as ApplyError), trail) }
            context.propose(
                Command.memberURLs(id: request.id, urls),
                PendingWrite(call, context, trail: trail, showsRevision: false))
        }
    }

    private func change(
        _ call: ServerCall, _ trail: AuditTrail?, _ change: MembershipChange,
        reply: @escaping ([Etcdserverpb_Member]) -> [UInt8],
        failed: @escaping (RPCStatus) -> Void = { _ in }
    ) {
        // No member has id 0, and the log has no form for it.
        if change.memberID == 0 {
            let status = RPCStatus(.memberNotFound as ApplyError)
            failed(status)
            return finish(call, status, trail)
        }
        query(call, trail, { self.context.node.changeMembership(change, $0) }) { [self] answer in
            guard case .membershipChanged(let members) = answer else {
                failed(refuse(call, answer, trail))
                return
            }
            call.respond(reply(members.map(Etcdserverpb_Member.init)))
            finished(call, trail)
        }
    }

    /// The URLs as they are kept: sorted, in their plain form. Nil when one is none.
    private static func checked(_ texts: [String]) -> [String]? {
        guard (1...maxPeerURLs).contains(texts.count) else { return nil }
        var urls: [EndpointURL] = []
        for text in texts {
            guard text.utf8.count <= maxURLBytes, let url = try? EndpointURL(text) else { return nil }
            urls.append(url)
        }
        return urls.sorted().map(\.description)
    }

    // MARK: MemberList

    func memberList(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let request: Etcdserverpb_MemberListRequest = decode(call, message) else { return }
        gated(call, .memberList, message) { [self] trail in
            context.whenReadable(
                call, serializable: !request.linearizable, trail: trail
            ) { [self] in
                query(call, trail, { self.context.node.members($0) }) { [self] answer in
                    guard case .members(let members) = answer else {
                        refuse(call, answer, trail)
                        return
                    }
                    var reply = Etcdserverpb_MemberListResponse()
                    reply.header = header(revision: 0)
                    reply.members = members.map(Etcdserverpb_Member.init)
                    call.respond(encode(reply))
                    finished(call, trail)
                }
            }
        }
    }
}

extension Etcdserverpb_Member {
    init(_ member: Member) {
        self.init()
        id = member.id
        name = member.name
        peerUrls = member.peerURLs
        clientUrls = member.clientURLs
        isLearner = member.isLearner
    }
}
