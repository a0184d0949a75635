// etcdserverpb.Lease.

import KVCodec
import Node
import Plugins
import RPC
import Replica
import StateMachine

/// The Lease service of one event loop.
final class LeaseService {
    private unowned let context: LoopContext
    /// Lease ids that the server chooses; seeded per loop, so loops do not collide in practice,
    /// and the state machine refuses an id that exists.
    private var generator = SystemRandomNumberGenerator()

    init(_ context: LoopContext) { self.context = context }

    func grant(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let fields = fields(call, message) else { return }
        if !context.hasSpace(cost: QuotaCost.lease) {
            return call.finish(RPCStatus(ApplyError.noSpace))
        }
        let ttl = max(fields.0, context.options.minimumLeaseTTLSeconds)
        var id = fields.1
        while id == 0 { id = Int64.random(in: 1 ... .max, using: &generator) }
        gated(call, .leaseGrant, message) { [context] trail in
            context.propose(
                Command.leaseGrant(id: id, ttlSeconds: ttl),
                PendingWrite(call, context, trail: trail))
        }
    }

    func revoke(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let fields = fields(call, message) else { return }
        let revoke = { [context] (trail: AuditTrail?) in
            context.propose(
                Command.leaseRevoke(id: fields.0), PendingWrite(call, context, trail: trail))
        }
        guard let gate = context.gate, gate.judgesRevocations else {
            return gated(call, .leaseRevoke, message, revoke)
        }
        // Plugins judge a revocation by what it deletes. A key that is put on the lease after they have looked goes with
        // it unseen; so does one that somebody else puts on it.
        // Who asks is found out now: a call that ends meanwhile has neither token nor address any more.
        guard case .success(let identity) = gate.identity(call) else {
            return gated(call, .leaseRevoke, message, revoke)
        }
        let owned = [UInt8](message)
        context.whenReadable(call, serializable: false, trail: nil) { [context] in
            let query = PendingQuery(loopIndex: context.loop.index) { answer in
                guard call.isOpen else { return }
                guard case .leaseKeys(let keys) = answer else { return Self.refuse(call, answer, nil) }
                gate.refreshIfReloaded()
                owned.withUnsafeBytes { message in
                    gate.admit(call, .leaseRevoke, message, from: identity, leaseKeys: keys) { _, trail in
                        revoke(trail)
                    }
                }
            }
            let limit = PluginRequest.maximumLeaseKeys
            if !context.node.leaseKeys(fields.0, atMost: limit, query, context.turns) {
                call.finish(.tooManyRequests)
            }
        }
    }

    func timeToLive(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard let fields = fields(call, message) else { return }
        let id = fields.0
        gated(call, .leaseTimeToLive, message) { [context] trail in
            let query = PendingQuery(loopIndex: context.loop.index) { answer in
                guard case .leaseTimeToLive(let lease) = answer else {
                    return Self.refuse(call, answer, trail)
                }
                var body = ByteWriter(capacity: 64)
                body.int64(2, id)
                // Unknown leases live −1 seconds; that is no error (etcd-parity 1.3).
                body.int64(3, lease?.remainingSeconds ?? -1)
                body.int64(4, lease?.grantedTTLSeconds ?? 0)
                for key in lease?.keys ?? [] { body.message(5, key) }
                context.respond(
                    call, revision: context.node.store.currentRevision, term: context.term,
                    body: body.bytes)
                trail?.completed(.ok, revision: 0, index: 0, term: 0)
            }
            if !context.node.leaseTimeToLive(id, withKeys: fields.1 != 0, query) {
                call.finish(.tooManyRequests)
                trail?.completed(.tooManyRequests, revision: 0, index: 0, term: 0)
            }
        }
    }

    func leases(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        guard fields(call, message) != nil else { return }
        gated(call, .leaseLeases, message) { [context] trail in
            let query = PendingQuery(loopIndex: context.loop.index) { answer in
                guard case .leases(let ids) = answer else { return Self.refuse(call, answer, trail) }
                var body = ByteWriter(capacity: 16 * ids.count)
                for id in ids { body.nested(2) { $0.int64(1, id) } }
                context.respond(
                    call, revision: context.node.store.currentRevision, term: context.term,
                    body: body.bytes)
                trail?.completed(.ok, revision: 0, index: 0, term: 0)
            }
            if !context.node.leases(query) {
                call.finish(.tooManyRequests)
                trail?.completed(.tooManyRequests, revision: 0, index: 0, term: 0)
            }
        }
    }

    // MARK: Common

    private func gated(
        _ call: ServerCall, _ method: Method, _ message: UnsafeRawBufferPointer,
        _ go: @escaping (AuditTrail?) -> Void
    ) {
        guard let gate = context.gate, gate.selects(method) else { return go(nil) }
        gate.admit(call, method, message) { _, trail in go(trail) }
    }

    /// All requests here are made of the numbers 1 and 2.
    private func fields(
        _ call: ServerCall, _ message: UnsafeRawBufferPointer
    ) -> (Int64, Int64)? {
        if let status = context.refusal(call) {
            call.finish(status)
            return nil
        }
        do throws(DecodeError) {
            return try LeaseNumbers.decode(message)
        } catch {
            call.finish(.undecodable(error))
            return nil
        }
    }

    private static func refuse(
        _ call: ServerCall, _ answer: ReplicaAnswer, _ trail: AuditTrail?
    ) {
        guard case .refused(let error) = answer else {
            preconditionFailure("a lease query was answered with \(answer)")
        }
        call.finish(RPCStatus(error))
        trail?.completed(RPCStatus(error), revision: 0, index: 0, term: 0)
    }
}

/// Lease messages: fields 1 and 2, both numbers.
enum LeaseNumbers {
    static func decode(
        _ message: UnsafeRawBufferPointer
    ) throws(DecodeError) -> (Int64, Int64) {
        var result: (Int64, Int64) = (0, 0)
        var reader = ProtoReader(message)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: result.0 = try reader.int64(tag)
            case 2: result.1 = try reader.int64(tag)
            default: try reader.skip(tag)
            }
        }
        return result
    }
}

/// One LeaseKeepAlive stream: a renewal for every message, answered in order.
final class KeepAliveStream: CallHandler {
    private unowned let context: LoopContext
    /// Renewals under way; at the bound no more messages are read.
    private var outstanding = 0
    private var isHalfClosed = false
    private static let maxOutstanding = 1024

    init(_ context: LoopContext) { self.context = context }

    func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall) {
        let id: Int64
        do throws(DecodeError) {
            id = try LeaseNumbers.decode(message).0
        } catch {
            return call.finish(.undecodableMessage(error))
        }
        // Counted before the gate: a required audit record may take its time.
        outstanding += 1
        if outstanding >= Self.maxOutstanding { call.pauseReceiving() }
        if let gate = context.gate, gate.selects(.leaseKeepAlive) {
            return gate.admit(call, .leaseKeepAlive, message) { [self] _, trail in
                renew(id, call, trail)
            }
        }
        renew(id, call, nil)
    }

    private func renew(_ id: Int64, _ call: ServerCall, _ trail: AuditTrail?) {
        let query = PendingQuery(loopIndex: context.loop.index) { [self] answer in
            answered(id, answer, call, trail)
        }
        if !context.node.leaseRenew(id, query, context.turns) {
            call.finish(.tooManyRequests)
            trail?.completed(.tooManyRequests, revision: 0, index: 0, term: 0)
        }
    }

    private func answered(
        _ id: Int64, _ answer: ReplicaAnswer, _ call: ServerCall, _ trail: AuditTrail?
    ) {
        outstanding -= 1
        switch answer {
        case .leaseRenewed(let seconds):
            // An unknown lease is answered with TTL 0, not with an error.
            var message = ByteWriter(capacity: 64)
            context.header.append(
                to: &message, revision: context.node.store.currentRevision, term: context.term)
            message.int64(2, id)
            message.int64(3, seconds ?? 0)
            message.bytes.withUnsafeBytes { call.send($0) }
            trail?.completed(.ok, revision: 0, index: 0, term: 0)
        case .refused(let error):
            call.finish(RPCStatus(error))
            trail?.completed(RPCStatus(error), revision: 0, index: 0, term: 0)
        default:
            preconditionFailure("a renewal was answered with \(answer)")
        }
        if outstanding == Self.maxOutstanding / 2 { call.resumeReceiving() }
        if isHalfClosed && outstanding == 0 { call.finish(.ok) }
    }

    func halfClosed(_ call: ServerCall) {
        isHalfClosed = true
        if outstanding == 0 { call.finish(.ok) }
    }

    func draining(_ call: ServerCall) {
        call.finish(RPCStatus(.unavailable, "etcdserver: server stopped"))
    }

    func closed(_ call: ServerCall) {}
}
