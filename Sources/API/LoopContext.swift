// Everything one event loop needs to serve requests. Confined to that loop.

import KVCodec
import MVCC
import Node
import RPC
import Replica
import StateMachine

/// Bounds and options of the API that come from the configuration.
package struct APIOptions: Sendable {
    /// Longest request in bytes (`max-request-bytes`).
    package var maxRequestBytes = 1_572_864
    package var maxTxnOps = 128
    /// Shorter leases are granted for this long (etcd: 1.5 election timeouts, rounded up).
    package var minimumLeaseTTLSeconds: Int64 = 2
    /// Nil: no quota.
    package var quotaBytes: Int64?
    /// Idle time after which a watcher that asked for it gets a progress notification.
    package var progressNotifyNanoseconds: UInt64 = 600_000_000_000
    /// Events queued for one loop's watchers (`limits.event-bus-queue`).
    package var eventQueueLength = 8_192
    package var eventQueueBytes = 64 << 20
    /// Longest reply in bytes; a longer one is refused.
    package var maxResponseBytes = Int(Int32.max)
    /// Watchers on one stream; one more is answered with a cancel.
    package var maxWatchersPerStream = 1_000_000
    /// Applied entries may lag this far behind committed ones before requests are refused.
    package var maxApplyLag: UInt64 = 5_000
    /// A unary request slower than this is logged; 0: none.
    package var slowRequestNanoseconds: UInt64 = 300_000_000
    /// Keys of a range that are read on the event loop; larger ranges go to the range thread.
    package var maxLoopRangeKeys: Int64 = 2_000

    package init() {}
}

/// One event loop's services and the state they share.
final class LoopContext {
    let node: Node
    let loop: ServerLoop
    let options: APIOptions
    let header: ResponseHeader
    let reader: LMDBRecordReader
    /// Scratch for replies; its room is kept between requests up to `scratchLimit`.
    private var scratch = ByteWriter(capacity: 4096)
    private static let scratchLimit = 1 << 20
    let gate: PolicyGate?
    let observer: RequestObserver
    lazy var hub = WatchHub(self)
    lazy var followers = RangeFollowers(self)
    lazy var queueReads = QueueReads(self)
    lazy var leaderWatch = LeaderWatch(self)
    private(set) var clientVersions = ClientVersions()
    let monitoring: Monitoring
    let rangeThread: RangeThread
    let turns: LoopTurns

    init(
        node: Node, loop: ServerLoop, options: APIOptions, reader: LMDBRecordReader,
        gate: PolicyGate?, observer: RequestObserver, rangeThread: RangeThread,
        monitoring: Monitoring
    ) {
        self.monitoring = monitoring
        self.node = node
        self.loop = loop
        self.options = options
        self.reader = reader
        self.gate = gate
        self.observer = observer
        self.rangeThread = rangeThread
        turns = LoopTurns(loop.eventLoop, node: node)
        header = ResponseHeader(clusterID: node.clusterID, memberID: node.memberID)
    }

    var term: UInt64 { node.status.term.load(ordering: .relaxed) }

    // MARK: Answers

    /// Answers with header and the fields that follow it.
    func respond(_ call: ServerCall, revision: Int64, term: UInt64, body: [UInt8] = []) {
        if body.count > options.maxResponseBytes - ResponseHeader.maximumSize {
            return call.finish(.tooLarge(body.count, options.maxResponseBytes))
        }
        withUnsafeTemporaryAllocation(
            byteCount: ResponseHeader.maximumSize + (body.count <= 1024 ? body.count : 0),
            alignment: 8
        ) { buffer in
            guard let base = buffer.baseAddress else { return }
            var count = header.write(to: base, revision: revision, term: term)
            if body.count <= 1024 {
                body.withUnsafeBytes { bytes in
                    if let source = bytes.baseAddress, bytes.count > 0 {
                        (base + count).copyMemory(from: source, byteCount: bytes.count)
                        count += bytes.count
                    }
                }
                call.respond(
                    UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count]))
            } else {
                var message: [UInt8] = []
                message.reserveCapacity(count + body.count)
                message.append(
                    contentsOf: UnsafeRawBufferPointer(
                        rebasing: UnsafeRawBufferPointer(buffer)[..<count]))
                message.append(contentsOf: body)
                call.respond(message)
            }
        }
    }

    /// Builds a reply in the loop's scratch: `body` appends the fields after the header and returns
    /// the revision for it. The header is then put in front without moving the body.
    func respond<Failure: Error>(
        _ call: ServerCall,
        build body: (inout ByteWriter) throws(Failure) -> Int64
    ) throws(Failure) {
        var writer = scratch
        scratch = ByteWriter(reusing: [])
        defer {
            if writer.bytes.capacity <= Self.scratchLimit { scratch = writer }
        }
        writer.bytes.removeAll(keepingCapacity: true)
        for _ in 0..<ResponseHeader.maximumSize { writer.bytes.append(0) }
        let revision = try body(&writer)
        let term = self.term
        writer.bytes.withUnsafeMutableBytes { all in
            guard let base = all.baseAddress else { return }
            // The header's length is known only now: write it aside, then flush against the body.
            withUnsafeTemporaryAllocation(byteCount: ResponseHeader.maximumSize, alignment: 8) {
                head in
                guard let headBase = head.baseAddress else { return }
                let count = header.write(to: headBase, revision: revision, term: term)
                let start = ResponseHeader.maximumSize - count
                (base + start).copyMemory(from: headBase, byteCount: count)
                if all.count - start > options.maxResponseBytes {
                    return call.finish(.tooLarge(all.count - start, options.maxResponseBytes))
                }
                call.respond(
                    UnsafeRawBufferPointer(start: base + start, count: all.count - start))
            }
        }
    }

    // MARK: Gates that every request passes

    /// Whether this member has no vote; `Method.isServedByLearner` is then all that clients get.
    @inline(__always)
    var isLearner: Bool { node.status.isLearner.load(ordering: .relaxed) }

    /// Whether the client wants no answer from a member that knows no leader.
    func requiresLeader(_ call: ServerCall) -> Bool {
        !call.metadata.isEmpty
            && call.metadata.withValue("hasleader") { $0.elementsEqual("true".utf8) } == true
    }

    /// Refusals by role and metadata: a learner, an unknown leader when one is required, a malformed
    /// client version.
    func refusal(_ call: ServerCall) -> RPCStatus? {
        let method = Method(rawValue: call.method.rawValue)
        let isUnary = method?.flow == .unary
        if isLearner, method?.isServedByLearner != true { return .notForLearner }
        if call.metadata.isEmpty {
            clientVersions.count(nil, isUnary: isUnary)
            return nil
        }
        if requiresLeader(call) && !node.status.hasLeader { return .noLeader }
        let isSound = call.metadata.withValue("client-api-version") { version -> Bool in
            // A version seen before has been checked before.
            guard
                clientVersions.knows(version)
                    || String(validating: version, as: UTF8.self) != nil
            else { return false }
            clientVersions.count(version, isUnary: isUnary)
            return true
        }
        if isSound == nil { clientVersions.count(nil, isUnary: isUnary) }
        if isSound == false {
            return RPCStatus(.invalidArgument, "etcdserver: invalid client api version")
        }
        return nil
    }

    /// Proposes a command for a call; refuses what is over a bound.
    func propose(_ entry: [UInt8], _ waiter: PendingWrite) {
        if let error = offer(entry, waiter) { waiter.refuse(error) }
    }

    /// Proposes a command.
    ///
    /// - Returns: the bound that it is over; the waiter then hears nothing. Nil when it is on its way.
    func offer(_ entry: [UInt8], _ waiter: some ReplyWaiter) -> NodeError? {
        if entry.count > options.maxRequestBytes + Command.headerSize { return .requestTooLarge }
        let status = node.status
        if status.commitIndex.load(ordering: .relaxed)
            > status.appliedIndex.load(ordering: .relaxed) &+ options.maxApplyLag
        {
            return .tooManyRequests
        }
        return node.propose(entry, waiter: waiter, turns) ? nil : .tooManyRequests
    }

    /// Whether a write of this cost may be proposed. Raises the NOSPACE alarm when it may not
    /// (etcd api/v3rpc/quota.go).
    func hasSpace(cost: Int64) -> Bool {
        guard let quota = options.quotaBytes else { return true }
        if node.status.hasNoSpaceAlarm { return false }
        let used =
            Int64(clamping: node.status.backendBytesInUse.load(ordering: .relaxed))
            &+ Int64(clamping: node.status.pendingBytes.load(ordering: .relaxed))
        if used &+ cost <= quota { return true }
        _ = node.propose(
            Command.alarm(.activate, member: node.memberID, type: .noSpace, origin: .core),
            waiter: nil)
        return false
    }

    /// Runs `body` once a linearizable read may be served, at once where no round is needed.
    func whenReadable(
        _ call: ServerCall, serializable: Bool, trail: AuditTrail?, _ body: @escaping () -> Void
    ) {
        if serializable || node.status.readsNeedNoRound.load(ordering: .acquiring) {
            return body()
        }
        let waiter = PendingRead(call, loopIndex: loop.index, trail: trail, body)
        if !node.confirmRead(waiter, turns) {
            call.finish(.tooManyRequests)
            trail?.completed(.tooManyRequests, revision: 0, index: 0, term: 0)
        }
    }

    /// Keys in a range. Counting looks at one word for 64 keys, so asking before reading costs little.
    func keyCount(_ key: UnsafeRawBufferPointer, _ rangeEnd: UnsafeRawBufferPointer) -> Int64 {
        var count = RangeQuery(key: key, rangeEnd: rangeEnd)
        count.countOnly = true
        var unused = ByteWriter(reusing: [])
        return (try? node.store.range(count, reader: reader, into: &unused))?.count ?? 0
    }

    /// Whether a read can be served at once; the common case, which needs no closure.
    @inline(__always)
    func isReadable(serializable: Bool) -> Bool {
        serializable || node.status.readsNeedNoRound.load(ordering: .acquiring)
    }
}

/// Hands the replica's answers to one event loop.
final class LoopAnswers: AnswerSink {
    private let outbox: LoopOutbox<PendingAnswer>

    init(_ loop: ServerLoop) {
        outbox = LoopOutbox(loop) { answers in
            for index in answers.indices {
                answers[index].waiter.replicaAnswered(answers[index].answer)
            }
        }
    }

    func deliver(_ answers: [PendingAnswer]) { outbox.push(contentsOf: answers) }
}
