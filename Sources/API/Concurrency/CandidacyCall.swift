// v3lockpb.Lock.Lock and v3electionpb.Election.Campaign: a place in a queue, and the wait until it is the
// first (etcd client/v3/concurrency, mutex.go and election.go).
//
// The place is the key NAME/LEASE, in hexadecimal, on the caller's lease; whoever holds the oldest key
// below NAME/ has the lock. So these and the clients' own libraries stand in the same queue. A call
// that ends early gives its place up; so does the end of the lease.

import KVCodec
import MVCC
import Node
import RPC
import Replica
import StateMachine

/// One Lock or Campaign call.
final class CandidacyCall: CallHandler, RangeFollower {
    enum Purpose { case lock, campaign }

    /// The request, and the place that it asks for.
    private struct Candidate {
        var name: [UInt8] = []
        var lease: Int64 = 0
        var value: [UInt8] = []

        var prefix: [UInt8] { name + [UInt8(ascii: "/")] }
        var key: [UInt8] { prefix + Array(String(lease, radix: 16).utf8) }

        init(_ message: UnsafeRawBufferPointer) throws(DecodeError) {
            var reader = ProtoReader(message)
            while let tag = try reader.next() {
                switch tag.field {
                case 1: name = [UInt8](try reader.slice(tag))
                case 2: lease = try reader.int64(tag)
                case 3: value = [UInt8](try reader.slice(tag))
                default: try reader.skip(tag)
                }
            }
        }
    }

    private let purpose: Purpose
    private unowned let context: LoopContext
    private let call: ServerCall
    private var candidate: Candidate?
    /// When the place was taken: its key's create revision.
    private var placeRevision: Int64?
    private var headerRevision: Int64 = 0
    /// The key that this one waits for.
    private var predecessor: [UInt8]?
    private var isAnswered = false
    private var isClosed = false

    init(_ purpose: Purpose, _ context: LoopContext, _ call: ServerCall) {
        self.purpose = purpose
        self.context = context
        self.call = call
    }

    // MARK: Taking a place

    func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall) {
        guard candidate == nil else { return }
        let request: Candidate
        do throws(DecodeError) {
            request = try Candidate(message)
        } catch {
            return call.finish(.undecodable(error))
        }
        candidate = request
        context.withLease(request.lease, for: call) { [self] result in
            switch result {
            case .success(let lease): takePlace(lease)
            case .failure(let status): call.finish(status)
            }
        }
    }

    private func takePlace(_ lease: Int64) {
        candidate?.lease = lease
        guard !isClosed, let candidate else { return }
        let txn = QueueTxn.enter(
            key: candidate.key, value: purpose == .campaign ? candidate.value : [], lease: lease,
            prefix: candidate.prefix)
        context.carryOut(.txn, .txn, txn, for: call) { [self] outcome in
            switch outcome {
            case .refused(let status): call.finish(status)
            case .applied(let result): tookPlace(result)
            }
        }
    }

    private func tookPlace(_ result: ApplyResult) {
        let (succeeded, found) = QueueTxn.reply(result.body)
        headerRevision = result.revision
        if succeeded {
            placeRevision = result.revision
        } else if let found {
            placeRevision = found.createRevision
            if purpose == .campaign, !isClosed { return proclaim(over: found) }
        }
        if isClosed { return leave() }
        look()
    }

    /// The place was the caller's before: a campaign still says what it is to stand for.
    private func proclaim(over found: QueuedKey) {
        guard let candidate else { return }
        let view = found.record.withUnsafeBytes { (try? KeyValueView($0)).map { [UInt8]($0.value) } }
        if view == candidate.value { return look() }
        let txn = QueueTxn.proclaim(
            key: candidate.key, madeAt: found.createRevision, value: candidate.value,
            lease: candidate.lease)
        context.carryOut(.txn, .txn, txn, for: call) { [self] outcome in
            switch outcome {
            case .refused(let status): call.finish(status)
            case .applied(let result) where !QueueTxn.reply(result.body).succeeded:
                call.finish(.notLeader)
            case .applied where isClosed: leave()
            case .applied: look()
            }
        }
    }

    // MARK: Waiting

    /// Looks who is before this place, and waits for the nearest. What is read here is applied and so
    /// committed, and who is gone never comes back with an older revision: once nobody is found, nobody
    /// will be.
    private func look() {
        // It is in the store by now.
        candidate?.value = []
        guard !isClosed, let candidate, let placeRevision else { return }
        while true {
            switch context.queued(candidate.prefix, newestBefore: placeRevision) {
            case .failure(let status): return call.finish(status)
            case .success(let (found, _)):
                guard let found else { return finish(candidate, placeRevision) }
                if found.key == predecessor { return }
                // Followed first and looked for once more, so that it cannot go in between.
                predecessor = found.key
                if let status = context.followers.add(self, key: found.key, rangeEnd: []) {
                    return call.finish(status)
                }
            }
        }
    }

    /// The name, the key waited for, and both once more in the index.
    var heldBytes: Int { 512 + (candidate?.name.count ?? 0) + 2 * (predecessor?.count ?? 0) }

    func changed(_ batch: EventBatch, _ event: EventRecord) {
        guard event.isDelete else { return }
        predecessor = nil
        look()
    }

    func eventsLost() {
        predecessor = nil
        look()
    }

    private func finish(_ candidate: Candidate, _ placeRevision: Int64) {
        context.followers.remove(self)
        switch context.stored(candidate.key) {
        case .failure(let status): call.finish(status)
        case .success(let (found, revision)):
            // The lease may have ended while the others were waited for.
            guard found?.createRevision == placeRevision else {
                return call.finish(purpose == .lock ? .mutexExpired : .electionExpired)
            }
            isAnswered = true
            var body = ByteWriter(capacity: 64 + 2 * candidate.key.count)
            switch purpose {
            case .lock: body.data(2, candidate.key)
            case .campaign:
                body.nested(2) { leader in
                    leader.data(1, candidate.name)
                    leader.data(2, candidate.key)
                    leader.int64(3, placeRevision)
                    leader.int64(4, candidate.lease)
                }
            }
            context.respond(
                call, revision: purpose == .lock ? revision : headerRevision, term: context.term,
                body: body.bytes)
        }
    }

    // MARK: End

    func halfClosed(_ call: ServerCall) {
        if candidate == nil { call.finish(.noRequest) }
    }

    func draining(_ call: ServerCall) {
        call.finish(RPCStatus(.unavailable, "etcdserver: server stopped"))
    }

    func closed(_ call: ServerCall) {
        isClosed = true
        context.followers.remove(self)
        leave()
    }

    /// Gives the place up, unless the caller was told that he has it. No plugin is asked: it follows
    /// from what they agreed to, like the end of a lease. When the node cannot take it, the lease ends it.
    private func leave() {
        guard !isAnswered, let candidate, let placeRevision else { return }
        isAnswered = true
        let txn = QueueTxn.leave(key: candidate.key, madeAt: placeRevision)
        _ = context.node.propose(Command.encode(kind: .txn, origin: .core, body: txn), waiter: nil)
    }
}

extension RPCStatus {
    // The texts of etcd's client/v3/concurrency; its server gives them no code.
    static let mutexExpired = RPCStatus(.unknown, "mutex: session is expired")
    static let electionExpired = RPCStatus(.unknown, "election: session is expired")
    static let notLeader = RPCStatus(.unknown, "election: not leader")
    static let noElectionLeader = RPCStatus(.unknown, "election: no leader")
    static let missingLeaderKey = RPCStatus(.unknown, "\"leader\" field must be provided")
    /// grpc-go's text.
    static let noRequest = RPCStatus(
        .internal,
        "cardinality violation: received no request message from non-client-streaming RPC")
}
