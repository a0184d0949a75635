// v3electionpb.Election.Observe: who leads, what it proclaims, and who leads after it, in order (etcd
// client/v3/concurrency, election.go, observe).

import KVCodec
import MVCC
import RPC

/// One Observe call.
final class ObserveCall: CallHandler, RangeFollower {
    private unowned let context: LoopContext
    private let call: ServerCall
    private var hasRequest = false
    /// The election's keys, as a RangeRequest for the oldest; nil until the plugins have agreed, and once the
    /// call is closed.
    private var range: [UInt8]?
    private var heldKeyBytes = 0
    /// What the audit plugins want to hear of the first read.
    private var trail: AuditTrail?
    /// The leader's key; nil while there is none.
    private var leaderKey: [UInt8]?
    /// Who leads is being looked up.
    private var isReading = false
    /// The newest event that was passed over meanwhile.
    private var missedRevision: Int64 = 0
    /// Events up to here are in what was last read from the store.
    private var readRevision: Int64 = 0
    /// What the leader was last told to have said; 0 when the client has yet to hear of it.
    private var sentRevision: Int64 = 0
    /// The client did not read: once it does, it is told how things are then.
    private var hasMissed = false
    private var isClosed = false

    init(_ context: LoopContext, _ call: ServerCall) {
        self.context = context
        self.call = call
    }

    // MARK: Beginning

    func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall) {
        guard !hasRequest else { return }
        hasRequest = true
        var name: [UInt8] = []
        do throws(DecodeError) {
            var reader = ProtoReader(message)
            while let tag = try reader.next() {
                if tag.field == 1 { name = [UInt8](try reader.slice(tag)) } else { try reader.skip(tag) }
            }
        } catch {
            return call.finish(.undecodableMessage(error))
        }
        guard name.count <= QueueReads.maxNameBytes else { return call.finish(.nameTooLong) }
        context.whenHeadAdmitted(call, name + [UInt8(ascii: "/")]) { [self] range, trail in
            self.trail = trail
            // The required record of an audit plugin may have taken longer than the call.
            if isClosed { return completed(.observerGone) }
            let bounds = range.withUnsafeBytes { bytes in
                (try? RangeRequestView(bytes)).map { ([UInt8]($0.key), [UInt8]($0.rangeEnd)) }
            }
            guard let (key, end) = bounds else {
                preconditionFailure("the gate let an undecodable range pass")
            }
            context.whenWatchAdmitted(call, key, end) { [self] in
                // The trail is this call's alone: a refusal ends the call, and `closed` records that.
                context.whenReadable(call, serializable: false, trail: nil) { [self] in
                    follow(range, key, end)
                }
            }
        }
    }

    private func follow(_ range: [UInt8], _ key: [UInt8], _ end: [UInt8]) {
        guard call.isOpen else { return }
        self.range = range
        heldKeyBytes = range.count + 2 * (key.count + end.count)
        if let status = context.followers.add(self, key: key, rangeEnd: end) { return call.finish(status) }
        read()
    }

    // MARK: Following

    /// Tells the leader that the store knows, unless that was told before.
    private func read() {
        guard !isReading, let range else { return }
        isReading = true
        missedRevision = 0
        context.queueReads.first(range, while: { [self] in !isClosed }) { [self] outcome in
            isReading = false
            guard !isClosed else { return }
            switch outcome {
            case .failure(let status): call.finish(status)
            case .success((let found, let revision)):
                completed(.ok)
                // Whoever leads now may have said so long ago, before the last one's last words.
                let isTold = found?.key == leaderKey && found?.modRevision == sentRevision
                leaderKey = found?.key
                readRevision = revision
                if let found, !isTold {
                    tell(found.record, modRevision: found.modRevision, revision: revision)
                }
                if missedRevision > revision { read() }
            }
        }
    }

    /// The range, its bounds once more and in the index, and a leader's key.
    var heldBytes: Int { 512 + 2 * heldKeyBytes }

    func changed(_ batch: EventBatch, _ event: EventRecord) {
        if isReading {
            missedRevision = max(missedRevision, batch.revision)
            return
        }
        if batch.revision <= readRevision { return }
        let isLeaders = batch.with(event.key) { key in leaderKey.map { key.elementsEqual($0) } }
        if event.isDelete {
            if isLeaders == true { read() }
        } else if isLeaders != false {
            // The leader proclaims, or there was none and this is the first.
            leaderKey = batch.with(event.key) { [UInt8]($0) }
            let record = batch.with(event.record) { [UInt8]($0) }
            tell(record, modRevision: batch.revision, revision: batch.revision)
        }
    }

    func eventsLost() {
        if isReading { missedRevision = .max } else { read() }
    }

    private func tell(_ record: [UInt8], modRevision: Int64, revision: Int64) {
        guard call.isWritable else {
            hasMissed = true
            sentRevision = 0
            return
        }
        sentRevision = modRevision
        var reply = ByteWriter(capacity: 64 + record.count)
        context.header.append(to: &reply, revision: revision, term: context.term)
        reply.message(2, record)
        call.send(reply.bytes)
    }

    // MARK: Life of the call

    func writable(_ call: ServerCall) {
        guard hasMissed else { return }
        hasMissed = false
        read()
    }

    func halfClosed(_ call: ServerCall) {
        if !hasRequest { call.finish(.noRequest) }
    }

    func draining(_ call: ServerCall) {
        call.finish(RPCStatus(.unavailable, "etcdserver: server stopped"))
    }

    func closed(_ call: ServerCall) {
        isClosed = true
        range = nil
        context.followers.remove(self)
        completed(call.code == .ok ? .observerGone : call.status)
    }

    /// Records what came of the first read, once.
    private func completed(_ status: RPCStatus) {
        trail?.completed(status, revision: 0, index: 0, term: 0)
        trail = nil
    }
}

extension RPCStatus {
    fileprivate static let observerGone = RPCStatus(.cancelled, "context canceled")
}
