// etcdserverpb.Maintenance and AuthStatus.

import KVCodec
import MVCC
import Node
import RPC
import Replica
import StateMachine
import Storage
import SwiftProtobuf
import Wire

/// The calls that operators make. Nothing here is on a hot path; messages are generated code.
final class MaintenanceService: OperatorService {
    // MARK: Status

    func status(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let _: Etcdserverpb_StatusRequest = decode(call, message) else { return }
        gated(call, .status, message) { [self] trail in
            query(call, trail, { self.context.node.alarms($0) }) { [self] answer in
                guard case .alarms(let alarms) = answer else {
                    refuse(call, answer, trail)
                    return
                }
                call.respond(encode(statusReply(alarms)))
                finished(call, trail)
            }
        }
    }

    private func statusReply(_ alarms: [Alarm]) -> Etcdserverpb_StatusResponse {
        let status = context.node.status
        var reply = Etcdserverpb_StatusResponse()
        reply.header = header()
        reply.version = ProductVersion.server
        reply.dbSize = Int64(clamping: status.backendBytes.load(ordering: .relaxed))
        reply.dbSizeInUse = Int64(clamping: status.backendBytesInUse.load(ordering: .relaxed))
        reply.leader = status.leader.load(ordering: .relaxed)
        reply.raftIndex = status.commitIndex.load(ordering: .relaxed)
        reply.raftTerm = context.term
        reply.raftAppliedIndex = status.appliedIndex.load(ordering: .relaxed)
        reply.storageVersion = ProductVersion.storage
        reply.dbSizeQuota = context.options.quotaBytes ?? 0
        reply.isLearner = status.isLearner.load(ordering: .relaxed)
        reply.downgradeInfo = Etcdserverpb_DowngradeInfo()
        if reply.leader == 0 { reply.errors.append("etcdserver: no leader") }
        for alarm in alarms {
            reply.errors.append("memberID:\(alarm.member) alarm:\(alarm.type.wireName) ")
        }
        return reply
    }

    // MARK: Alarm

    func alarm(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard var request: Etcdserverpb_AlarmRequest = decode(call, message) else { return }
        // What is not known is not for the log, where a field of another wire type would be malformed.
        request.unknownFields = UnknownStorage()
        gated(call, .alarm, message) { [self, request] trail in
            // Unknown actions and types go to the state machine, which refuses them the same way
            // on every member.
            let body = [UInt8](message: request) ?? []
            context.propose(
                Command.encode(kind: .alarm, body: body),
                PendingWrite(call, context, trail: trail))
        }
    }

    // MARK: Hashes

    /// Whether a pair tells how far the log was applied. It moves with every election and restart, so it is
    /// no part of what members compare (etcd server/storage/schema/bucket.go, DefaultIgnores).
    private static func isOfTheLog(_ bucket: BackendBucket, _ key: UnsafeRawBufferPointer) -> Bool {
        bucket == .meta
            && (key.elementsEqual(StateKey.appliedIndex.utf8) || key.elementsEqual(StateKey.appliedTerm.utf8))
    }

    func hash(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let _: Etcdserverpb_HashRequest = decode(call, message) else { return }
        gated(call, .hash, message) { [self] trail in
            onSettledBackend(call, trail) { backend -> Result<UInt32, RPCStatus> in
                do throws(BackendError) {
                    return .success(try backend.hash(ignoring: Self.isOfTheLog))
                } catch {
                    return .failure(RPCStatus(.unknown, "\(error)"))
                }
            } reply: { [self] (hash: UInt32) in
                var reply = Etcdserverpb_HashResponse()
                reply.header = header()
                reply.hash = hash
                return encode(reply)
            }
        }
    }

    func hashKV(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let request: Etcdserverpb_HashKVRequest = decode(call, message) else { return }
        let revision = request.revision
        gated(call, .hashKV, message) { [self] trail in
            let node = context.node
            let monitoring = context.monitoring
            onBackend(call, trail) { _ -> Result<KeyHash, RPCStatus> in
                let start = monotonicNanoseconds()
                defer { monitoring.hashed(nanoseconds: monotonicNanoseconds() &- start) }
                do {
                    let found = try node.store.hash(
                        revision: revision, reader: try node.makeReader())
                    return .success(
                        KeyHash(
                            hash: found.hash, compactRevision: found.compactRevision,
                            hashRevision: found.hashRevision))
                } catch let error as MVCCError {
                    return .failure(RPCStatus(error))
                } catch {
                    return .failure(RPCStatus(.unknown, "\(error)"))
                }
            } reply: { [self] (found: KeyHash) in
                var reply = Etcdserverpb_HashKVResponse()
                reply.header = header()
                reply.hash = found.hash
                reply.compactRevision = found.compactRevision
                reply.hashRevision = found.hashRevision
                return encode(reply)
            }
        }
    }

    private struct KeyHash: Sendable {
        var hash: UInt32
        var compactRevision: Int64
        var hashRevision: Int64
    }

    // MARK: Defragment

    /// The backend reuses freed pages by itself and never stops for it, so there is nothing to
    /// rebuild; what an operator waits for is that everything applied is in the file and its free
    /// pages are known. See docs/divergence.md.
    func defragment(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let _: Etcdserverpb_DefragmentRequest = decode(call, message) else { return }
        gated(call, .defragment, message) { [self] trail in
            onBackend(call, trail) { _ in
                Result<Bool, RPCStatus>.success(true)
            } reply: {
                [self] (_: Bool) in
                var reply = Etcdserverpb_DefragmentResponse()
                reply.header = header()
                return encode(reply)
            }
        }
    }

    // MARK: MoveLeader

    /// Answered when the other leads, or when that took too long. Only the leader is asked.
    func moveLeader(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let request: Etcdserverpb_MoveLeaderRequest = decode(call, message) else { return }
        gated(call, .moveLeader, message) { [self] trail in
            query(call, trail, { self.context.node.transferLeadership(to: request.targetID, $0) }) {
                [self] answer in
                guard case .leadershipTransferred = answer else {
                    refuse(call, answer, trail)
                    return
                }
                // As in etcd, this reply alone has no header.
                call.respond(encode(Etcdserverpb_MoveLeaderResponse()))
                finished(call, trail)
            }
        }
    }

    // MARK: AuthStatus

    func authStatus(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let _: Etcdserverpb_AuthStatusRequest = decode(call, message) else { return }
        gated(call, .authStatus, message) { [self] trail in
            var reply = Etcdserverpb_AuthStatusResponse()
            reply.header = header()
            reply.authRevision = 1
            call.respond(encode(reply))
            finished(call, trail)
        }
    }
}

extension AlarmType {
    /// The enum's name on the wire, as status errors print it.
    var wireName: String {
        switch self {
        case .noSpace: "NOSPACE"
        case .corrupt: "CORRUPT"
        }
    }
}
