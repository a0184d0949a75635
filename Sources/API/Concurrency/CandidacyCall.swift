// v3lockpb.Lock.Lock and v3electionpb.Election.Campaign: a place in a queue, and the wait until it is the
// first (etcd client/v3/concurrency, mutex.go and election.go).
//
// The place is the key NAME/LEASE, in hexadecimal, on the caller's lease; whoever holds the oldest key
// below NAME/ has the lock. So these and the clients' own libraries stand in the same queue. A call
// that ends early gives its place up; so does the end of the lease.

import KVCodec
import MVCC
import RPC
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

    /// The key that stands for the candidate.
    private struct Place {
        /// When it was made: its create revision.
        var revision: Int64
        /// Whether this call made it. One that was there before may belong to somebody.
        var isNew: Bool
    }

    private let purpose: Purpose
    private unowned let context: LoopContext
    private let caller: Caller
    private var call: ServerCall { caller.call }
    private var candidate: Candidate?
    private var place: Place?
    private var headerRevision: Int64 = 0
    /// The key that this one waits for.
    private var predecessor: [UInt8]?
    /// What stands before the place is being looked up: events until then are in what will be found.
    private var isLooking = false
    /// Whether a key that was there before is given up too (see ``leave()``).
    private var leavesFoundKey = false
    private var hasAnswered = false

    init(_ purpose: Purpose, _ context: LoopContext, _ call: ServerCall) {
        self.purpose = purpose
        self.context = context
        caller = Caller(call, context)
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
        guard request.name.count <= QueueReads.maxNameBytes else { return call.finish(.nameTooLong) }
        candidate = request
        context.withLease(request.lease, for: caller) { [self] result in
            switch result {
            case .success(let lease): takePlace(lease)
            case .failure(let status): call.finish(status)
            }
        }
    }

    private func takePlace(_ lease: Int64) {
        candidate?.lease = lease
        guard call.isOpen, let candidate else { return }
        let txn = QueueTxn.enter(
            key: candidate.key, value: purpose == .campaign ? candidate.value : [], lease: lease,
            prefix: candidate.prefix)
        context.carryOut(.txn, .txn, txn, for: caller) { [self] outcome in
            switch outcome {
            case .refused(let status): call.finish(status)
            case .applied(let result): tookPlace(result)
            }
        }
    }

    private func tookPlace(_ result: ApplyResult) {
        let (isNew, found, head) = QueueTxn.entered(result.body)
        headerRevision = result.revision
        guard let revision = isNew ? result.revision : found?.createRevision else {
            return call.finish(RPCStatus(.internal, "moonraft: a place was neither taken nor found"))
        }
        place = Place(revision: revision, isNew: isNew)
        guard call.isOpen else { return leave() }
        let isFirst = head.map { $0.createRevision == revision } ?? true
        if purpose == .campaign, let found, found.value != candidate?.value {
            return proclaim(revision, isFirst)
        }
        stand(isFirst)
    }

    /// The place was the caller's before: a campaign still says what it is to stand for. Who may not say so
    /// does not stand any longer, as in etcd.
    private func proclaim(_ revision: Int64, _ isFirst: Bool) {
        guard let candidate else { return }
        let txn = QueueTxn.proclaim(
            key: candidate.key, madeAt: revision, value: candidate.value, lease: candidate.lease)
        context.carryOut(.txn, .txn, txn, for: caller) { [self] outcome in
            // A call that ended meanwhile leaves the key alone.
            guard call.isOpen else { return }
            switch outcome {
            case .refused(let status):
                leavesFoundKey = true
                call.finish(status)
            case .applied(let result):
                if QueueTxn.succeeded(result.body) { return stand(isFirst) }
                place = nil
                call.finish(.notLeader)
            }
        }
    }

    /// - Parameter isFirst: what the transaction said that took the place; it saw the newest state.
    private func stand(_ isFirst: Bool) {
        // It is in the store by now.
        candidate?.value = []
        if isFirst { return answer(revision: headerRevision) }
        leavesFoundKey = true
        look()
    }

    // MARK: Waiting

    /// Looks who is before this place, and waits for the nearest. What is read here is applied and so
    /// committed, and who is gone never comes back with an older revision: once nobody is found, nobody
    /// will be.
    private func look() {
        guard !isLooking, let candidate, let place else { return }
        isLooking = true
        let range = QueueRange.newest(of: candidate.prefix, before: place.revision)
        context.queueReads.first(range, while: { [self] in call.isOpen }) { [self] outcome in
            isLooking = false
            guard call.isOpen else { return leave() }
            switch outcome {
            case .failure(let status): call.finish(status)
            case .success((let found?, _)): follow(found.key)
            case .success: confirm()
            }
        }
    }

    private func follow(_ key: [UInt8]) {
        predecessor = key
        if let status = context.followers.add(self, key: key, rangeEnd: []) { return call.finish(status) }
        // It may have gone before it was followed.
        lookIfPredecessorIsGone()
    }

    private func lookIfPredecessorIsGone() {
        guard call.isOpen, let predecessor, let place else { return }
        let created = context.queueReads.creation(of: predecessor).createRevision
        // One made anew stands behind this place.
        if created.map({ $0 >= place.revision }) ?? true { look() }
    }

    /// The name, the key waited for, and both once more in the index.
    var heldBytes: Int { 512 + (candidate?.name.count ?? 0) + 2 * (predecessor?.count ?? 0) }

    func changed(_ batch: EventBatch, _ event: EventRecord) {
        if event.isDelete { look() }
    }

    func eventsLost() {
        if isLooking { return }
        isLooking = true
        context.queueReads.inTurn { [self] in
            isLooking = false
            lookIfPredecessorIsGone()
        }
    }

    /// Nobody is before this place, but is it still there? The lease may have ended meanwhile, and a member
    /// that lags may not know that yet.
    private func confirm() {
        context.followers.remove(self)
        context.whenReadable(call, serializable: false, trail: nil) { [self] in
            guard call.isOpen, let candidate, let place else { return leave() }
            let (created, revision) = context.queueReads.creation(of: candidate.key)
            guard created == place.revision else {
                self.place = nil
                return call.finish(purpose == .lock ? .mutexExpired : .electionExpired)
            }
            answer(revision: purpose == .lock ? revision : headerRevision)
        }
    }

    private func answer(revision: Int64) {
        guard call.isOpen, let candidate, let place else { return leave() }
        var body = ByteWriter(capacity: 64 + 2 * candidate.key.count)
        switch purpose {
        case .lock: body.data(2, candidate.key)
        case .campaign:
            body.nested(2) { leader in
                leader.data(1, candidate.name)
                leader.data(2, candidate.key)
                leader.int64(3, place.revision)
                leader.int64(4, candidate.lease)
            }
        }
        hasAnswered = true
        context.respond(call, revision: revision, term: context.term, body: body.bytes)
        // Refused, for a client that reads nothing for example: it is not the caller's then.
        if call.code != .ok { leave() }
    }

    // MARK: End

    func halfClosed(_ call: ServerCall) {
        if candidate == nil { call.finish(.noRequest) }
    }

    func draining(_ call: ServerCall) {
        call.finish(RPCStatus(.unavailable, "etcdserver: server stopped"))
    }

    func closed(_ call: ServerCall) {
        context.followers.remove(self)
        // Refused answers end with another status. One that is cut off with its connection counts as heard.
        if !(hasAnswered && call.code == .ok) { leave() }
    }

    /// Gives the place up, once; also when a call is found ended whose client takes nothing any more, so that
    /// it is not yet closed. A key that was there before is left alone unless the caller waited with it, and
    /// then deleting it is his request, which the plugins may refuse.
    private func leave() {
        guard let candidate, let place else { return }
        self.place = nil
        let txn = QueueTxn.leave(key: candidate.key, madeAt: place.revision)
        if place.isNew {
            context.giveUp(txn)
        } else if leavesFoundKey {
            context.carryOut(.txn, .txn, txn, for: caller) { _ in }
        }
    }
}

extension RPCStatus {
    // The texts of etcd's client/v3/concurrency; its server gives them no code.
    static let mutexExpired = RPCStatus(.unknown, "mutex: session is expired")
    static let notLeader = RPCStatus(.unknown, "election: not leader")
    static let nameTooLong = RPCStatus(
        .invalidArgument, "moonraft: the name is longer than \(QueueReads.maxNameBytes) bytes")
    static let noElectionLeader = RPCStatus(.unknown, "election: no leader")
    static let missingLeaderKey = RPCStatus(.unknown, "\"leader\" field must be provided")
    /// Made after the first: etcd's Campaign does not look.
    static let electionExpired = RPCStatus(.unknown, "election: session is expired")
    /// grpc-go's text.
    static let noRequest = RPCStatus(
        .internal,
        "cardinality violation: received no request message from non-client-streaming RPC")
}
