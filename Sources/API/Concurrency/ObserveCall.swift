// v3electionpb.Election.Observe: who leads, what it proclaims, and who leads after it, in order (etcd
// client/v3/concurrency, election.go, observe).

import KVCodec
import MVCC
import RPC

/// One Observe call.
final class ObserveCall: CallHandler, RangeFollower {
    private unowned let context: LoopContext
    private let call: ServerCall
    /// The election's keys begin with this; nil until the request is there.
    private var prefix: [UInt8]?
    private var isFollowing = false
    /// The leader's key; nil while there is none.
    private var leaderKey: [UInt8]?
    /// Events up to here are in what was last read from the store.
    private var readRevision: Int64 = 0
    private var sentRevision: Int64 = 0
    /// The client did not read: once it does, it is told how things are then.
    private var hasMissed = false

    init(_ context: LoopContext, _ call: ServerCall) {
        self.context = context
        self.call = call
    }

    func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall) {
        guard prefix == nil else { return }
        var name: [UInt8] = []
        do throws(DecodeError) {
            var reader = ProtoReader(message)
            while let tag = try reader.next() {
                if tag.field == 1 { name = [UInt8](try reader.slice(tag)) } else { try reader.skip(tag) }
            }
        } catch {
            return call.finish(.undecodableMessage(error))
        }
        let prefix = name + [UInt8(ascii: "/")]
        self.prefix = prefix
        context.whenElectionReadable(call, prefix) { [self] prefix in
            guard self.prefix != nil else { return }
            isFollowing = true
            let end = LoopContext.prefixEnd(prefix)
            if let status = context.followers.add(self, key: prefix, rangeEnd: end) {
                return call.finish(status)
            }
            read()
        }
    }

    /// Tells the leader that the store knows, unless that was told before.
    private func read() {
        guard isFollowing, let prefix else { return }
        switch context.queued(prefix) {
        case .failure(let status): call.finish(status)
        case .success(let (found, revision)):
            leaderKey = found?.key
            readRevision = revision
            if let found, found.modRevision > sentRevision {
                tell(found.record, modRevision: found.modRevision, revision: revision)
            }
        }
    }

    /// The prefix, its end, both once more in the index, and a leader's key.
    var heldBytes: Int { 512 + 5 * (prefix?.count ?? 0) }

    func changed(_ batch: EventBatch, _ event: EventRecord) {
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

    func eventsLost() { read() }

    private func tell(_ record: [UInt8], modRevision: Int64, revision: Int64) {
        guard call.isWritable else {
            hasMissed = true
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
        if prefix == nil { call.finish(.noRequest) }
    }

    func draining(_ call: ServerCall) {
        call.finish(RPCStatus(.unavailable, "etcdserver: server stopped"))
    }

    func closed(_ call: ServerCall) {
        prefix = nil
        isFollowing = false
        context.followers.remove(self)
    }
}
