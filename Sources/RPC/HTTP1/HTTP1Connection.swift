import NIOCore
import NIOHTTP1

/// One HTTP/1.1 connection: collects each request up to the bounds, hands it to the handler, and
/// keeps the connection for the next one.
///
/// Requests that were sent ahead wait in NIO's pipeline handler, which stops reading until the
/// current answer has ended.
final class HTTP1Connection: ChannelInboundHandler, SweptConnection {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private enum Phase {
        case head(since: NIODeadline)
        case body(HTTPRequestHead, since: NIODeadline)
        case answering
        /// The connection ends once what is written has left; input is ignored.
        case ending(since: NIODeadline)
    }

    private let loop: ServerLoop
    private let peer: PeerAddress
    private let handler: HTTPRequestHandler
    private let input: HTTP1InputGuard
    private var context: ChannelHandlerContext?
    private var phase: Phase
    private var body: [UInt8] = []
    private var responder: HTTPResponder?
    private var isDraining = false
    private var hasAnswered = false

    private init(
        loop: ServerLoop, peer: PeerAddress, acceptedAt: NIODeadline,
        handler: @escaping HTTPRequestHandler, input: HTTP1InputGuard
    ) {
        self.loop = loop
        self.peer = peer
        self.handler = handler
        self.input = input
        phase = .head(since: acceptedAt)
    }

    static func install(
        loop: ServerLoop, peer: PeerAddress, acceptedAt: NIODeadline,
        handler: @escaping HTTPRequestHandler, after sniffer: any ChannelHandler,
        _ pipeline: ChannelPipeline
    ) throws {
        let operations = pipeline.syncOperations
        let input = HTTP1InputGuard(
            limit: loop.configuration.maxHTTPHeadBytes, acceptedAt: acceptedAt)
        try operations.addHandler(input, position: .after(sniffer))
        try operations.configureHTTPServerPipeline(
            position: .after(input), withPipeliningAssistance: true, withErrorHandling: true)
        try operations.addHandler(
            HTTP1Connection(
                loop: loop, peer: peer, acceptedAt: acceptedAt, handler: handler, input: input))
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        loop.add(self)
        if loop.isDraining { isDraining = true }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        closed()
        self.context = nil
    }

    func channelInactive(context: ChannelHandlerContext) {
        closed()
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        loop.now = .now()
        switch (phase, unwrapInboundIn(data)) {
        case (.head, .head(let head)):
            input.headComplete()
            if let length = head.headers.first(name: "content-length").flatMap(Int.init),
                length > loop.configuration.maxHTTPBodyBytes
            {
                refuse(context, head, .payloadTooLarge)
                return
            }
            phase = .body(head, since: loop.now)
        case (.body(let head, _), .body(let bytes)):
            if body.count + bytes.readableBytes > loop.configuration.maxHTTPBodyBytes {
                refuse(context, head, .payloadTooLarge)
                return
            }
            body.append(contentsOf: bytes.readableBytesView)
        case (.body(let head, _), .end):
            answer(head)
        default:
            break
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { responder?.onWritable?() }
        context.fireChannelWritabilityChanged()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // A malformed request has been answered with 400 by NIO's protocol error handler; let the
        // peer read it.
        if error is HTTPParserError {
            phase = .ending(since: .now())
            context.close(mode: .output, promise: nil)
        } else {
            context.close(promise: nil)
        }
    }

    private func answer(_ head: HTTPRequestHead) {
        phase = .answering
        input.bodyComplete()
        let request = HTTPRequest(
            method: head.method.rawValue, uri: head.uri,
            headers: head.headers.map { ($0.name, $0.value) }, body: body, peer: peer)
        body = []
        let responder = HTTPResponder(
            self, loop: loop, isHead: head.method == .HEAD,
            keepsAlive: head.isKeepAlive && !isDraining, version: head.version)
        self.responder = responder
        handler(request, loop, responder)
    }

    private func refuse(
        _ context: ChannelHandlerContext, _ request: HTTPRequestHead, _ status: HTTPResponseStatus
    ) {
        loop.statistics.connectionsRefused &+= 1
        body = []
        var head = HTTPResponseHead(version: request.version, status: status)
        head.headers.add(name: "content-length", value: "0")
        head.headers.add(name: "connection", value: "close")
        send(head)
        finish(keepsAlive: false)
    }

    // MARK: The responder's side

    var isWritable: Bool { context?.channel.isWritable ?? false }

    func send(_ head: HTTPResponseHead) {
        context?.write(wrapOutboundOut(.head(head)), promise: nil)
    }

    func send(_ bytes: ByteBuffer) {
        loop.statistics.bytesOut &+= UInt64(bytes.readableBytes)
        context?.write(wrapOutboundOut(.body(.byteBuffer(bytes))), promise: nil)
    }

    func flush() { context?.flush() }

    func finish(keepsAlive: Bool) {
        responder = nil
        guard let context else { return }
        hasAnswered = true
        let stays = keepsAlive && !isDraining
        phase = stays ? .head(since: .now()) : .ending(since: .now())
        let sent = context.writeAndFlush(wrapOutboundOut(.end(nil)))
        if !stays {
            sent.assumeIsolated().whenComplete { _ in context.close(mode: .output, promise: nil) }
        }
    }

    // MARK: Time and end

    func sweep(now: NIODeadline) {
        guard let context else { return }
        let limits = loop.configuration
        let isLate: Bool
        switch phase {
        case .head(let since):
            let begun = input.headBegunAt ?? (hasAnswered ? nil : since)
            if let begun {
                isLate = begun + limits.handshakeTimeout <= now
            } else {
                isLate = since + limits.idleTimeout <= now
            }
        case .body(_, let since):
            isLate = since + limits.requestReceiveTimeout <= now
        case .answering:
            isLate = false
        case .ending(let since):
            isLate = since + limits.lingerTimeout <= now
        }
        if isLate { context.close(promise: nil) }
    }

    func beginDrain() {
        isDraining = true
        if case .head = phase, input.headBegunAt == nil { context?.close(promise: nil) }
    }

    func closeNow() { context?.close(promise: nil) }

    private func closed() {
        loop.remove(self)
        responder?.connectionClosed()
        responder = nil
    }
}
