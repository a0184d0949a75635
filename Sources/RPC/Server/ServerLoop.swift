import CNGHTTP2
import NIOCore

/// What the connections of one event loop share: routes, counters, call deadlines, the list of
/// connections with unsent output, and reusable memory.
///
/// Everything here is confined to `eventLoop`. The type is marked Sendable only so that it can be
/// named in closures that hop to that loop.
package final class ServerLoop: @unchecked Sendable {
    package let eventLoop: any EventLoop
    /// 0 … loop count − 1, in the order of the event loop group.
    package let index: Int
    package let configuration: RPCServerConfiguration
    /// Free for the owner of the routes: loop-local services, script machines.
    package var userState: AnyObject?
    package internal(set) var statistics = ServerStatistics(methodCount: 0)
    /// The time at the start of the current read or timer; good enough for arrival times.
    package internal(set) var now = NIODeadline.now()
    package private(set) var isDraining = false

    private(set) var routes = RouteTable([])
    let callbacks: ServerCallbacks
    /// `:status`, `content-type` of every answer; then `grpc-status: 0`.
    let okHead: UnsafeMutablePointer<nghttp2_nv>
    let okTrailer: UnsafeMutablePointer<nghttp2_nv>
    /// Unsent response bytes and incomplete request bytes of all connections.
    var bufferedBytes = 0
    var partialBytes = 0

    private var wheel: DeadlineWheel
    private var scheduledSweep: (at: NIODeadline, task: Scheduled<Void>)?
    private var sweeper: RepeatedTask?
    private var dirty: [ServerConnection] = []
    private var endScheduled = false
    private var batchDepth = 0
    /// Called once at the end of a batch or turn in which ``gathered()`` was; let go of with the services.
    package var turnEnded: (() -> Void)?
    private var hasGathered = false
    private var connections: [ObjectIdentifier: any SweptConnection] = [:]
    private var callPool: [ServerCall] = []
    private var scratch: ByteBuffer?
    /// Calls kept for reuse; beyond it they are freed.
    private static let maxPooledCalls = 1024

    init(eventLoop: any EventLoop, index: Int, configuration: RPCServerConfiguration) {
        self.eventLoop = eventLoop
        self.index = index
        self.configuration = configuration
        wheel = DeadlineWheel(now: .now())
        callbacks = ServerCallbacks(configuration)
        okHead = .allocate(capacity: 2)
        okHead.initialize(to: nghttp2_nv(":status", "200"))
        (okHead + 1).initialize(to: nghttp2_nv("content-type", "application/grpc"))
        okTrailer = .allocate(capacity: 1)
        okTrailer.initialize(to: nghttp2_nv("grpc-status", "0"))
    }

    deinit {
        okHead.deallocate()
        okTrailer.deallocate()
    }

    func install(_ routes: RouteTable) {
        self.routes = routes
        statistics = ServerStatistics(methodCount: routes.methodCount)
    }

    // MARK: Output

    /// Runs `body`, which may send on many calls, and flushes each connection once afterwards.
    package func batch(_ body: () -> Void) {
        eventLoop.preconditionInEventLoop()
        batchDepth += 1
        body()
        batchDepth -= 1
        if batchDepth == 0 { endTurn() }
    }

    /// Notes that something waits for ``turnEnded``.
    package func gathered() {
        if hasGathered { return }
        hasGathered = true
        scheduleEnd()
    }

    /// Notes that a connection has output that no read cycle will flush.
    func markDirty(_ connection: ServerConnection) {
        dirty.append(connection)
        scheduleEnd()
    }

    private func scheduleEnd() {
        guard batchDepth == 0, !endScheduled else { return }
        endScheduled = true
        eventLoop.execute { [self] in
            endScheduled = false
            endTurn()
        }
    }

    /// Answers go out first: nobody waits for what was gathered.
    private func endTurn() {
        flushDirty()
        if hasGathered {
            hasGathered = false
            turnEnded?()
        }
    }

    private func flushDirty() {
        while !dirty.isEmpty {
            let batch = dirty
            dirty.removeAll(keepingCapacity: batch.count <= 1024)
            for connection in batch { connection.flushMarked() }
        }
    }

    func takeScratch(_ allocator: ByteBufferAllocator) -> ByteBuffer {
        guard var buffer = scratch.take() else { return allocator.buffer(capacity: 32 << 10) }
        buffer.clear(minimumCapacity: 32 << 10)
        return buffer
    }

    func returnScratch(_ buffer: ByteBuffer) {
        if buffer.capacity <= 1 << 20 { scratch = buffer }
    }

    // MARK: Calls

    func takeCall() -> ServerCall {
        callPool.popLast() ?? ServerCall(loop: self)
    }

    /// Takes over the reference behind `user`, and keeps the call for reuse when it is the last.
    func recycle(_ user: UnsafeMutableRawPointer) {
        var call = Unmanaged<ServerCall>.fromOpaque(user).takeRetainedValue()
        guard callPool.count < Self.maxPooledCalls, isKnownUniquelyReferenced(&call) else { return }
        call.prepareForReuse()
        callPool.append(call)
    }

    var pooledCalls: Int { callPool.count }

    func arm(_ entry: DeadlineEntry, at deadline: NIODeadline) {
        wheel.arm(entry, at: deadline)
        scheduleSweep(notAfter: deadline)
    }

    func disarm(_ entry: DeadlineEntry) {
        wheel.disarm(entry)
    }

    private func scheduleSweep(notAfter deadline: NIODeadline) {
        if let scheduledSweep {
            // One slot of slack, so that calls with the same timeout do not reschedule each time.
            if scheduledSweep.at <= deadline + .milliseconds(20) { return }
            scheduledSweep.task.cancel()
            self.scheduledSweep = nil
        }
        guard let next = wheel.nextSweep() else { return }
        let task = eventLoop.scheduleTask(deadline: next) { [self] in
            scheduledSweep = nil
            now = .now()
            batch {
                for entry in wheel.expire(now: now) { entry.deadlinePassed() }
            }
            if let again = wheel.nextSweep() { scheduleSweep(notAfter: again) }
        }
        scheduledSweep = (next, task)
    }

    // MARK: Connections

    func add(_ connection: any SweptConnection) {
        connections[ObjectIdentifier(connection)] = connection
        statistics.connectionsAccepted &+= 1
        statistics.connectionsOpen += 1
        guard sweeper == nil else { return }
        let interval = configuration.sweepInterval
        // A strong reference until the last connection is gone: a weak one would put every retain
        // of this object, several per call, on the runtime's slow path.
        sweeper = eventLoop.scheduleRepeatedTask(initialDelay: interval, delay: interval) {
            [self] _ in sweepConnections()
        }
    }

    func remove(_ connection: any SweptConnection) {
        guard connections.removeValue(forKey: ObjectIdentifier(connection)) != nil else { return }
        statistics.connectionsOpen -= 1
        if connections.isEmpty {
            sweeper?.cancel()
            sweeper = nil
        }
    }

    private func sweepConnections() {
        now = .now()
        batch {
            for connection in Array(connections.values) { connection.sweep(now: now) }
        }
    }

    /// Tells every connection to take no new calls and to finish the open ones.
    func beginDrain() {
        guard !isDraining else { return }
        isDraining = true
        now = .now()
        batch {
            for connection in Array(connections.values) { connection.beginDrain() }
        }
    }

    var openConnections: Int { connections.count }

    /// Cuts every connection and lets go of the services, which usually refer back to this loop.
    func closeAll() {
        for connection in Array(connections.values) { connection.closeNow() }
        routes = RouteTable([])
        userState = nil
        turnEnded?()
        turnEnded = nil
    }
}

/// A connection whose time limits are checked by its loop's sweep.
protocol SweptConnection: AnyObject {
    func sweep(now: NIODeadline)
    func beginDrain()
    func closeNow()
}

extension Optional {
    fileprivate mutating func take() -> Wrapped? {
        defer { self = nil }
        return self
    }
}
