// etcdserverpb.Maintenance and Cluster, as far as a single member has them, and AuthStatus.

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
final class MaintenanceService {
    private unowned let context: LoopContext

    init(_ context: LoopContext) { self.context = context }

    // MARK: Status

    func status(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let _: Etcdserverpb_StatusRequest = decode(call, message) else { return }
        gated(call, .status, message) { [self] trail in
            query(call, trail, { self.context.node.alarms($0) }) { [self] answer in
                guard case .alarms(let alarms) = answer else { return refuse(call, answer, trail) }
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
        reply.downgradeInfo = Etcdserverpb_DowngradeInfo()
        if reply.leader == 0 { reply.errors.append("etcdserver: no leader") }
        for alarm in alarms {
            reply.errors.append("memberID:\(alarm.member) alarm:\(alarm.type.wireName) ")
        }
        return reply
    }

    // MARK: Alarm

    func alarm(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let request: Etcdserverpb_AlarmRequest = decode(call, message) else { return }
        gated(call, .alarm, message) { [self] trail in
            // Unknown actions and types go to the state machine, which refuses them the same way
            // on every member.
            let body = [UInt8](message: request) ?? []
            context.propose(
                Command.encode(kind: .alarm, body: body),
                PendingWrite(call, context, trail: trail))
        }
    }

    // MARK: Hashes

    func hash(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let _: Etcdserverpb_HashRequest = decode(call, message) else { return }
        gated(call, .hash, message) { [self] trail in
            onBackend(call, trail) { backend -> Result<UInt32, RPCStatus> in
                do throws(BackendError) {
                    return .success(try backend.hash())
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
            onBackend(call, trail) { _ in Result<Bool, RPCStatus>.success(true) } reply: {
                [self] (_: Bool) in
                var reply = Etcdserverpb_DefragmentResponse()
                reply.header = header()
                return encode(reply)
            }
        }
    }

    // MARK: Cluster

    func memberList(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let request: Etcdserverpb_MemberListRequest = decode(call, message) else { return }
        gated(call, .memberList, message) { [self] trail in
            context.whenReadable(
                call, serializable: !request.linearizable, trail: trail
            ) { [self] in
                query(call, trail, { self.context.node.members($0) }) { [self] answer in
                    guard case .members(let members) = answer else { return refuse(call, answer, trail) }
                    var reply = Etcdserverpb_MemberListResponse()
                    // Cluster replies leave the revision at 0 (etcd-parity G1).
                    reply.header = header(revision: 0)
                    reply.members = members.map { member in
                        var entry = Etcdserverpb_Member()
                        entry.id = member.id
                        entry.name = member.name
                        entry.peerUrls = member.peerURLs
                        entry.clientUrls = member.clientURLs
                        entry.isLearner = member.isLearner
                        return entry
                    }
                    call.respond(encode(reply))
                    finished(call, trail)
                }
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

    // MARK: Common

    func header(revision: Int64? = nil) -> Etcdserverpb_ResponseHeader {
        var header = Etcdserverpb_ResponseHeader()
        header.clusterID = context.node.clusterID
        header.memberID = context.node.memberID
        header.revision = revision ?? context.node.store.currentRevision
        header.raftTerm = context.term
        return header
    }

    private func finished(_ call: ServerCall, _ trail: AuditTrail?) {
        trail?.completed(.ok, revision: 0, index: 0, term: 0)
        context.observer.finished(call)
    }

    private func gated(
        _ call: ServerCall, _ method: Method, _ message: UnsafeRawBufferPointer,
        _ go: @escaping (AuditTrail?) -> Void
    ) {
        guard let gate = context.gate, gate.selects(method) else { return go(nil) }
        gate.admit(call, method, message) { _, trail in go(trail) }
    }

    private func query(
        _ call: ServerCall, _ trail: AuditTrail?, _ ask: (PendingQuery) -> Bool,
        _ body: @escaping (ReplicaAnswer) -> Void
    ) {
        if !ask(PendingQuery(loopIndex: context.loop.index, body)) {
            call.finish(.tooManyRequests)
            trail?.completed(.tooManyRequests, revision: 0, index: 0, term: 0)
        }
    }

    private func refuse(_ call: ServerCall, _ answer: ReplicaAnswer, _ trail: AuditTrail?) {
        guard case .refused(let error) = answer else {
            preconditionFailure("a query was answered with \(answer)")
        }
        call.finish(RPCStatus(error))
        trail?.completed(RPCStatus(error), revision: 0, index: 0, term: 0)
    }

    /// Does slow work on the backend's thread and answers on this loop.
    private func onBackend<Value: Sendable>(
        _ call: ServerCall, _ trail: AuditTrail?,
        _ work: @escaping @Sendable (Backend) -> Result<Value, RPCStatus>,
        reply: @escaping (Value) -> [UInt8]
    ) {
        let loop = context.loop
        let back = LoopReturn { [context] (result: Result<Value, RPCStatus>) in
            var status = RPCStatus.ok
            switch result {
            case .success(let value): call.respond(reply(value))
            case .failure(let failure):
                status = failure
                call.finish(failure)
            }
            trail?.completed(status, revision: 0, index: 0, term: 0)
            context.observer.finished(call)
        }
        let queued = context.node.onBackend { backend in
            let result = work(backend)
            loop.eventLoop.execute { loop.batch { back.body(result) } }
        }
        if !queued {
            call.finish(.tooManyRequests)
            trail?.completed(.tooManyRequests, revision: 0, index: 0, term: 0)
        }
    }

    private func decode<Message: SwiftProtobuf.Message>(
        _ call: ServerCall, _ message: UnsafeRawBufferPointer
    ) -> Message? {
        if let status = context.refusal(call) {
            call.finish(status)
            return nil
        }
        do {
            return try Message(serializedBytes: [UInt8](message))
        } catch {
            call.finish(
                RPCStatus(.internal, "grpc: error unmarshalling request: \(error)"))
            return nil
        }
    }
}

/// A continuation that runs on its loop; it travels over another thread but is not called there.
final class LoopReturn<Value>: @unchecked Sendable {
    let body: (Value) -> Void

    init(_ body: @escaping (Value) -> Void) { self.body = body }
}

/// Encodes a reply. Generated messages without required fields cannot fail to encode.
func encode(_ message: some SwiftProtobuf.Message) -> [UInt8] {
    guard let bytes = [UInt8](message: message) else {
        preconditionFailure("\(type(of: message)) cannot be encoded")
    }
    return bytes
}

extension [UInt8] {
    init?(message: some SwiftProtobuf.Message) {
        guard let bytes: [UInt8] = try? message.serializedBytes() else { return nil }
        self = bytes
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
