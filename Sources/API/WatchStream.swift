// One Watch stream: creates, cancels and informs its watchers (etcd api/v3rpc/watch.go).

import KVCodec
import MVCC
import NIOCore
import RPC

/// The watchers of one stream, and what their client is told. Confined to its loop.
final class WatchStream: CallHandler {
    private unowned let context: LoopContext
    private let call: ServerCall
    private var watchers: [Int64: Watcher] = [:]
    /// Ids of watchers that a compaction ended. As in etcd they stay taken until the client cancels them.
    private var endedIDs: Set<Int64> = []
    private var stalledWatchers: [Watcher] = []
    private var nextID: Int64 = 0
    private var isClosed = false
    private var progressTask: RepeatedTask?

    /// What a response too large to be sent at once is cut to, as etcd: max-request-bytes and
    /// 512 KiB.
    private var fragmentBytes: Int { context.options.maxRequestBytes + 512 * 1024 }

    init(_ context: LoopContext, _ call: ServerCall) {
        self.context = context
        self.call = call
        context.hub.streamOpened()
    }

    // MARK: Requests

    func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall) {
        do throws(DecodeError) {
            switch try WatchRequestView(message) {
            case .none: break
            case .create(let request, let bytes): create(request, bytes)
            case .cancel(let id): cancel(id)
            case .progress: progress()
            }
        } catch {
            call.finish(.undecodableMessage(error))
        }
        // A client that asks but does not read is not heard until it does.
        if !call.isWritable { call.pauseReceiving() }
    }

    private func create(_ request: WatchCreateRequest, _ bytes: UnsafeRawBufferPointer) {
        if let gate = context.gate {
            let isSelected = request.key.withUnsafeBytes { key in
                request.rangeEnd.withUnsafeBytes { gate.selects(.watch, key, $0) }
            }
            if isSelected {
                return gate.admit(
                    call, .watch, bytes,
                    refuse: { [self] status in refuseCreation(status.description) },
                    proceed: { [self] _, trail in
                        create(request)
                        trail?.completed(.ok, revision: 0, index: 0, term: 0)
                    })
            }
        }
        create(request)
    }

    private func create(_ request: WatchCreateRequest) {
        if isClosed { return }
        // etcd turns the empty key into the first key.
        let key = request.key.isEmpty ? [0] : request.key
        if request.startRevision < 0 {
            return refuseCreation("etcdserver: mvcc: required revision has been compacted")
        }
        if !request.rangeEnd.isEmpty && request.rangeEnd != [0]
            && !key.lexicographicallyPrecedes(request.rangeEnd)
        {
            return refuseCreation("mvcc: watcher range is empty")
        }
        if watchers.count + endedIDs.count >= context.options.maxWatchersPerStream {
            return refuseCreation("moonraft: too many watchers on the stream")
        }
        var id = request.watchID
        if id == 0 {
            while isTaken(nextID) { nextID += 1 }
            id = nextID
            nextID += 1
        } else if isTaken(id) {
            return refuseCreation("mvcc: duplicate watch ID provided on the WatchStream")
        }
        let current = context.node.store.currentRevision
        let startsNow = request.startRevision == 0 || request.startRevision > current
        let watcher = Watcher(
            id: id, stream: self, key: key, rangeEnd: request.rangeEnd, variant: request.variant,
            notifiesProgress: request.progressNotify, fragments: request.fragment,
            requestedRevision: request.startRevision,
            nextRevision: startsNow
                ? max(current + 1, request.startRevision)
                : request.startRevision)
        watchers[id] = watcher
        reply(revision: current) { writer in
            writer.int64(2, id)
            writer.bool(3, true)
        }
        context.hub.add(watcher, startsNow: startsNow)
        if request.progressNotify { startProgressTimer() }
    }

    /// Creation fails without ending the stream: created and canceled at once, without an id.
    private func refuseCreation(_ reason: String) {
        reply(revision: context.node.store.currentRevision) { writer in
            writer.int64(2, -1)
            writer.bool(3, true)
            writer.bool(4, true)
            writer.string(6, reason)
        }
    }

    private func isTaken(_ id: Int64) -> Bool { watchers[id] != nil || endedIDs.contains(id) }

    private func cancel(_ id: Int64) {
        if let watcher = watchers.removeValue(forKey: id) {
            context.hub.remove(watcher)
            stalledWatchers.removeAll { $0 === watcher }
        } else if endedIDs.remove(id) == nil {
            return
        }
        reply(revision: context.node.store.currentRevision) { writer in
            writer.int64(2, id)
            writer.bool(4, true)
        }
    }

    /// Answers a request for progress, if every watcher of the stream has been told everything up
    /// to the revision in the answer.
    private func progress() {
        context.hub.drain()
        let revision =
            watchers.isEmpty
            ? context.node.store.currentRevision : context.hub.deliveredRevision
        guard watchers.values.allSatisfy({ hasProgress($0, revision) }) else { return }
        reply(revision: revision) { $0.int64(2, -1) }
    }

    /// Whether a watcher may be told that nothing up to `revision` is missing. One that waits for a
    /// revision to come has made no progress to speak of.
    private func hasProgress(_ watcher: Watcher, _ revision: Int64) -> Bool {
        watcher.state == .synced && watcher.requestedRevision <= revision
    }

    // MARK: What the hub tells

    var isWritable: Bool { call.isWritable }

    func send(_ watcher: Watcher, _ head: inout BatchHead, _ payload: EventPayload) {
        watcher.wasToldSinceTick = true
        if watcher.fragments && payload.shared.count > fragmentBytes {
            return sendFragments(watcher, &head, payload)
        }
        head.with(watchID: watcher.id) { call.send(head: $0, shared: payload.shared) }
    }

    /// Splits between events; one event is never cut, however large.
    private func sendFragments(
        _ watcher: Watcher, _ head: inout BatchHead, _ payload: EventPayload
    ) {
        var start = 0
        var position = 0
        while position < payload.ends.count {
            var end = payload.ends[position]
            position += 1
            while position < payload.ends.count, payload.ends[position] - start <= fragmentBytes {
                end = payload.ends[position]
                position += 1
            }
            let part = SharedBytes(
                copying: UnsafeRawBufferPointer(rebasing: payload.shared.bytes[start..<end]))
            head.with(watchID: watcher.id, fragment: position < payload.ends.count) {
                call.send(head: $0, shared: part)
            }
            start = end
        }
    }

    func stalled(_ watcher: Watcher) { stalledWatchers.append(watcher) }

    /// History before `revision` is gone, and the watcher had not been told all of it.
    func compacted(_ watcher: Watcher, _ revision: Int64) {
        watchers[watcher.id] = nil
        endedIDs.insert(watcher.id)
        context.hub.remove(watcher)
        // etcd leaves the header's revision at 0 here.
        reply(revision: 0) { writer in
            writer.int64(2, watcher.id)
            writer.bool(4, true)
            writer.int64(5, revision)
        }
    }

    // MARK: Progress notifications

    private func startProgressTimer() {
        guard progressTask == nil else { return }
        let interval = context.options.progressNotifyNanoseconds
        // Up to a tenth later, so that streams opened together do not tick together.
        let delay = TimeAmount.nanoseconds(
            Int64(clamping: interval &+ UInt64.random(in: 0...interval / 10)))
        let handle = StreamHandle(self)
        progressTask = call.loop.eventLoop.scheduleRepeatedTask(
            initialDelay: delay, delay: delay
        ) { _ in handle.stream?.progressTick() }
    }

    private func progressTick() {
        context.loop.batch {
            context.hub.drain()
            for id in watchers.keys.sorted() {
                guard let watcher = watchers[id], watcher.notifiesProgress else { continue }
                if !watcher.wasToldSinceTick && hasProgress(watcher, context.hub.deliveredRevision) {
                    reply(revision: context.hub.deliveredRevision) { $0.int64(2, id) }
                }
                watcher.wasToldSinceTick = false
            }
        }
    }

    // MARK: Life of the call

    func writable(_ call: ServerCall) {
        let resumed = stalledWatchers
        stalledWatchers = []
        for watcher in resumed { context.hub.resume(watcher) }
        call.resumeReceiving()
    }

    /// A client that has nothing more to ask is still told what it watches, as by etcd.
    func halfClosed(_ call: ServerCall) {}

    func draining(_ call: ServerCall) {
        call.finish(RPCStatus(.unavailable, "etcdserver: server stopped"))
    }

    func closed(_ call: ServerCall) {
        if isClosed { return }
        isClosed = true
        progressTask?.cancel()
        progressTask = nil
        for watcher in watchers.values { context.hub.remove(watcher) }
        watchers = [:]
        endedIDs = []
        stalledWatchers = []
        context.hub.streamClosed()
        context.observer.finished(call)
    }

    private func reply(revision: Int64, _ body: (inout ByteWriter) -> Void) {
        var writer = ByteWriter(capacity: 96)
        context.header.append(to: &writer, revision: revision, term: context.term)
        body(&writer)
        writer.bytes.withUnsafeBytes { call.send($0) }
    }
}

/// Lets a timer reach a stream without keeping it alive.
private final class StreamHandle: @unchecked Sendable {
    // Unchecked: dereferenced on the stream's own loop only.
    weak var stream: WatchStream?

    init(_ stream: WatchStream) { self.stream = stream }
}
