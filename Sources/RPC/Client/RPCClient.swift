import NIOCore
import NIOPosix

/// A successful unary answer.
package struct UnaryReply: Sendable {
    package let message: [UInt8]
    package let trailers: [(name: String, value: String)]
}

/// One client connection: bytes in, bytes out, nothing of protobuf.
///
/// The plain methods block and must not run on the client's event loop; the future and async forms
/// do not block. No reconnecting: once the connection is lost, calls answer Unavailable and the
/// owner connects anew.
package final class RPCClient: Sendable {
    package let eventLoop: any EventLoop
    private let connection: ClientConnection
    private let channel: any Channel

    private init(_ connection: ClientConnection, _ channel: any Channel) {
        self.connection = connection
        self.channel = channel
        eventLoop = channel.eventLoop
    }

    /// Connects over TCP. `authority` is the name sent to the server, `host:port` by default.
    package static func connect(
        host: String, port: Int, authority: String? = nil,
        configuration: RPCClientConfiguration = .init(),
        group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton,
        transport: TransportHandlers? = nil
    ) -> EventLoopFuture<RPCClient> {
        let name = authority ?? (host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)")
        return make(name, configuration, group, transport) { bootstrap in
            bootstrap.channelOption(.tcpOption(.tcp_nodelay), value: 1)
                .connect(host: host, port: port)
        }
    }

    /// Connects to a Unix socket.
    package static func connect(
        unixPath: String, configuration: RPCClientConfiguration = .init(),
        group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
    ) -> EventLoopFuture<RPCClient> {
        make("localhost", configuration, group, nil) { $0.connect(unixDomainSocketPath: unixPath) }
    }

    /// Connects over TCP and waits; failure is Unavailable with the reason.
    package static func connectAndWait(
        host: String, port: Int, configuration: RPCClientConfiguration = .init()
    ) throws(RPCStatus) -> RPCClient {
        do {
            return try connect(host: host, port: port, configuration: configuration).wait()
        } catch {
            throw RPCStatus(.unavailable, "connection error: \(error)")
        }
    }

    private static func make(
        _ authority: String, _ configuration: RPCClientConfiguration, _ group: any EventLoopGroup,
        _ transport: TransportHandlers?,
        _ connect: (ClientBootstrap) -> EventLoopFuture<any Channel>
    ) -> EventLoopFuture<RPCClient> {
        let loop = group.next()
        let connection = ClientConnection(
            eventLoop: loop, configuration: configuration,
            scheme: transport == nil ? "http" : "https", authority: authority)
        let bootstrap = ClientBootstrap(group: loop)
            .connectTimeout(configuration.connectTimeout)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    if let transport { try pipeline.addHandlers(transport(channel)) }
                    try pipeline.addHandler(connection)
                }
            }
        return connect(bootstrap).map { RPCClient(connection, $0) }
    }

    // MARK: Unary

    /// Sends one message and waits for the answer.
    package func unary(
        _ path: String, _ message: [UInt8], metadata: [(String, String)] = [],
        timeout: TimeAmount? = nil
    ) -> Result<UnaryReply, RPCStatus> {
        do {
            return try unaryFuture(path, message, metadata: metadata, timeout: timeout).wait()
        } catch {
            return .failure(RPCStatus(.unknown, "\(error)"))
        }
    }

    /// Sends one message; the future never fails.
    package func unaryFuture(
        _ path: String, _ message: [UInt8], metadata: [(String, String)] = [],
        timeout: TimeAmount? = nil
    ) -> EventLoopFuture<Result<UnaryReply, RPCStatus>> {
        let promise = eventLoop.makePromise(of: Result<UnaryReply, RPCStatus>.self)
        eventLoop.execute { [connection] in
            var reply: [UInt8]?
            var extra = false
            let call = ClientCall(consumesAtOnce: true) { event in
                switch event {
                case .writable: break
                case .message(let bytes):
                    if reply == nil { reply = bytes } else { extra = true }
                case .closed(let status, let trailers):
                    if status.code != .ok {
                        promise.succeed(.failure(status))
                    } else if let reply, !extra {
                        promise.succeed(.success(UnaryReply(message: reply, trailers: trailers)))
                    } else {
                        promise.succeed(
                            .failure(
                                RPCStatus(
                                    .internal,
                                    "cardinality violation: not exactly one response message")))
                    }
                }
            }
            connection.open(call, path: path, metadata: metadata, timeout: timeout)
            connection.send(call, message)
            connection.finishSending(call)
        }
        return promise.futureResult
    }

    /// Sends one message and suspends until the answer.
    package func unary(
        _ path: String, _ message: [UInt8], metadata: [(String, String)] = [],
        timeout: TimeAmount? = nil
    ) async -> Result<UnaryReply, RPCStatus> {
        do {
            return try await unaryFuture(path, message, metadata: metadata, timeout: timeout).get()
        } catch {
            return .failure(RPCStatus(.unknown, "\(error)"))
        }
    }

    // MARK: Streams

    /// Opens a stream; `event` runs on the client's loop, from before this method's future
    /// completes until `.closed`.
    package func openStream(
        _ path: String, metadata: [(String, String)] = [], timeout: TimeAmount? = nil,
        event: @escaping @Sendable (ClientStreamEvent) -> Void
    ) -> EventLoopFuture<ClientStream> {
        eventLoop.submit { [connection] in
            Self.open(connection, path, metadata, timeout, consumesAtOnce: true, event)
        }
    }

    /// Opens a stream for blocking use and waits until its headers are queued.
    package func openStream(
        _ path: String, metadata: [(String, String)] = [], timeout: TimeAmount? = nil
    ) throws(RPCStatus) -> BlockingStream {
        let blocking = BlockingStream()
        do {
            let stream = try eventLoop.submit { [connection] in
                Self.open(
                    connection, path, metadata, timeout, consumesAtOnce: false, blocking.received)
            }.wait()
            blocking.attach(stream)
        } catch {
            throw RPCStatus(.unavailable, "\(error)")
        }
        return blocking
    }

    private static func open(
        _ connection: ClientConnection, _ path: String, _ metadata: [(String, String)],
        _ timeout: TimeAmount?, consumesAtOnce: Bool,
        _ event: @escaping @Sendable (ClientStreamEvent) -> Void
    ) -> ClientStream {
        let call = ClientCall(consumesAtOnce: consumesAtOnce, event: event)
        connection.open(call, path: path, metadata: metadata, timeout: timeout)
        return ClientStream(connection, NIOLoopBound(call, eventLoop: connection.eventLoop))
    }

    // MARK: Life

    /// Whether the connection is up and accepts new calls, as of now.
    package var isActive: Bool { channel.isActive }

    /// Completes when the connection has ended for whatever reason.
    package var closed: EventLoopFuture<Void> { channel.closeFuture }

    /// Ends the connection; open calls close with Cancelled. Does not wait.
    package func close() {
        eventLoop.execute { [connection] in connection.close() }
    }
}
