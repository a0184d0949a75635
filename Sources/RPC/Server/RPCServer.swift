import NIOConcurrencyHelpers
import NIOCore
import NIOPosix

#if canImport(Glibc)
    import Glibc
#endif

/// What one event loop serves. Built on that loop, so it may capture loop-local state.
package struct LoopServices {
    package let routes: RouteTable
    /// HTTP/1 requests; without it such connections are closed.
    package let http: HTTPRequestHandler?

    package init(routes: RouteTable, http: HTTPRequestHandler? = nil) {
        self.routes = routes
        self.http = http
    }
}

/// Handlers that stand before the protocol sniffer, such as a TLS server handler.
package typealias TransportHandlers = @Sendable (any Channel) throws -> [any ChannelHandler]

/// A gRPC and HTTP/1 server on the event loops of one group.
///
/// Start: `init` (builds the services on every loop), then `bind` once or more. Stop: `beginDrain`,
/// then `close`; or `drainAndClose`, which does both and waits. The group belongs to the caller.
package final class RPCServer: Sendable {
    package let loops: [ServerLoop]
    package let configuration: RPCServerConfiguration
    private let group: any EventLoopGroup
    private let listeners = NIOLockedValueBox<[any Channel]>([])
    private let services: NIOLockedValueBox<[ObjectIdentifier: Int]>
    private let httpHandlers: [HTTPHandlerBox]
    private let openConnections = NIOLockedValueBox(0)
    private let maxConnections: Int

    /// A handler that only its own loop calls.
    private final class HTTPHandlerBox: @unchecked Sendable {
        var handler: HTTPRequestHandler?
    }

    /// Runs `makeServices` on every loop and waits for it; do not call it on a loop.
    package init(
        group: any EventLoopGroup, configuration: RPCServerConfiguration = .init(),
        makeServices: @escaping @Sendable (ServerLoop) -> LoopServices
    ) throws {
        self.group = group
        self.configuration = configuration
        maxConnections = configuration.maxConnections ?? Self.descriptorLimit()
        var loops: [ServerLoop] = []
        var boxes: [HTTPHandlerBox] = []
        var indexes: [ObjectIdentifier: Int] = [:]
        for (index, eventLoop) in group.makeIterator().enumerated() {
            let loop = ServerLoop(eventLoop: eventLoop, index: index, configuration: configuration)
            let box = HTTPHandlerBox()
            try eventLoop.submit {
                let services = makeServices(loop)
                loop.install(services.routes)
                box.handler = services.http
            }.wait()
            loops.append(loop)
            boxes.append(box)
            indexes[ObjectIdentifier(eventLoop)] = index
        }
        self.loops = loops
        httpHandlers = boxes
        services = NIOLockedValueBox(indexes)
    }

    /// Listens on a TCP address; port 0 lets the system choose. Waits; returns the bound address.
    @discardableResult
    package func bind(
        host: String, port: Int, transport: TransportHandlers? = nil
    ) throws -> SocketAddress? {
        try keep(bootstrap(transport, isTCP: true).bind(host: host, port: port).wait())
    }

    /// Listens on a Unix socket; an old socket file is replaced. Waits.
    package func bind(unixPath: String) throws {
        let bootstrap = bootstrap(nil, isTCP: false)
        try keep(
            bootstrap.bind(unixDomainSocketPath: unixPath, cleanupExistingSocketFile: true).wait())
    }

    /// Stops listening, tells every client to go elsewhere (GOAWAY) and every stream's handler to
    /// end. Open calls go on.
    package func beginDrain() {
        for listener in takeListeners() { listener.close(promise: nil) }
        for loop in loops { loop.eventLoop.execute { loop.beginDrain() } }
    }

    /// Stops listening and cuts every connection. Waits until that is done.
    package func close() throws {
        for listener in takeListeners() { try? listener.close().wait() }
        for (loop, box) in zip(loops, httpHandlers) {
            try loop.eventLoop.submit {
                loop.closeAll()
                box.handler = nil
            }.wait()
        }
    }

    /// `beginDrain`, waits until all connections have ended or `drainTimeout` has passed, `close`.
    package func drainAndClose() throws {
        beginDrain()
        let end = NIODeadline.now() + configuration.drainTimeout
        while NIODeadline.now() < end, openConnections.withLockedValue({ $0 }) > 0 {
            usleep(10_000)
        }
        try close()
    }

    /// The sum of all loops' counters. Waits for each loop; do not call it on a loop.
    package func statistics() throws -> ServerStatistics {
        var sum = ServerStatistics(methodCount: 0)
        for loop in loops { sum.add(try loop.eventLoop.submit { loop.statistics }.wait()) }
        return sum
    }

    /// As `statistics`, for callers on a loop.
    package func statistics(on eventLoop: any EventLoop) -> EventLoopFuture<ServerStatistics> {
        let parts = loops.map { loop in loop.eventLoop.submit { loop.statistics } }
        return EventLoopFuture.whenAllSucceed(parts, on: eventLoop).map { parts in
            var sum = ServerStatistics(methodCount: 0)
            for part in parts { sum.add(part) }
            return sum
        }
    }

    private func takeListeners() -> [any Channel] {
        listeners.withLockedValue { listeners in
            defer { listeners = [] }
            return listeners
        }
    }

    @discardableResult
    private func keep(_ channel: any Channel) -> SocketAddress? {
        listeners.withLockedValue { $0.append(channel) }
        return channel.localAddress
    }

    private func bootstrap(_ transport: TransportHandlers?, isTCP: Bool) -> ServerBootstrap {
        var bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: configuration.listenBacklog)
            .childChannelOption(
                .recvAllocator, value: AdaptiveRecvByteBufferAllocator(minimum: 2048, initial: 16384, maximum: 65536)
            )
            .childChannelOption(
                .writeBufferWaterMark, value: .init(low: 128 << 10, high: 512 << 10))
        if isTCP {
            bootstrap =
                bootstrap
                .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
                .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
        }
        return bootstrap.childChannelInitializer { [self] channel in
            channel.eventLoop.makeCompletedFuture { try install(channel, transport) }
        }
    }

    private struct TooManyConnections: Error {}

    private func install(_ channel: any Channel, _ transport: TransportHandlers?) throws {
        let admitted = openConnections.withLockedValue { count in
            guard count < maxConnections else { return false }
            count += 1
            return true
        }
        guard admitted else { throw TooManyConnections() }
        channel.closeFuture.whenComplete { [openConnections] _ in
            openConnections.withLockedValue { $0 -= 1 }
        }
        let index = services.withLockedValue { $0[ObjectIdentifier(channel.eventLoop)] }
        guard let index else {
            preconditionFailure("a connection on a loop outside the server's group")
        }
        let pipeline = channel.pipeline.syncOperations
        if let transport { try pipeline.addHandlers(transport(channel)) }
        try pipeline.addHandler(
            ProtocolSniffer(loop: loops[index], http: httpHandlers[index].handler))
    }

    /// The descriptor limit less what the process needs itself (etcd: embed/etcd.go reserves 150).
    private static func descriptorLimit() -> Int {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 874 }
        return max(64, Int(clamping: limit.rlim_cur) - 150)
    }
}
