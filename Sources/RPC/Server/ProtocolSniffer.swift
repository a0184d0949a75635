import NIOCore

/// Decides by the first bytes whether a connection speaks HTTP/2 or HTTP/1, and builds the rest of
/// the pipeline accordingly: etcd serves both on one port (server/embed/serve.go).
///
/// With TLS the deciding bytes are the decrypted ones; the TLS handler stands in front.
final class ProtocolSniffer: ChannelInboundHandler, RemovableChannelHandler, SweptConnection {
    typealias InboundIn = ByteBuffer

    /// The HTTP/2 preface begins with a method that HTTP/1 does not have.
    private static let prefaceStart: [UInt8] = Array("PRI ".utf8)

    private let loop: ServerLoop
    private let http: HTTPRequestHandler?
    private let acceptedAt = NIODeadline.now()
    private var context: ChannelHandlerContext?
    private var buffered = ByteBuffer()

    init(loop: ServerLoop, http: HTTPRequestHandler?) {
        self.loop = loop
        self.http = http
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        loop.add(self)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        loop.remove(self)
        self.context = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        buffered.writeBuffer(&bytes)
        guard buffered.readableBytes >= Self.prefaceStart.count else { return }
        let isHTTP2 = buffered.readableBytesView.starts(with: Self.prefaceStart)
        let pipeline = context.pipeline.syncOperations
        do {
            let peer = PeerAddress(context.channel.remoteAddress)
            if isHTTP2 {
                try pipeline.addHandler(
                    ServerConnection(loop: loop, peer: peer, acceptedAt: acceptedAt),
                    position: .after(self))
            } else if let http {
                try HTTP1Connection.install(
                    loop: loop, peer: peer, acceptedAt: acceptedAt, handler: http, after: self,
                    context.pipeline)
            } else {
                context.close(promise: nil)
                return
            }
        } catch {
            context.close(promise: nil)
            return
        }
        // The new handlers count themselves as a connection; this one was the same.
        loop.statistics.connectionsAccepted &-= 1
        context.fireChannelRead(wrapInboundOut(buffered))
        buffered = ByteBuffer()
        pipeline.removeHandler(self, promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        loop.remove(self)
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }

    func sweep(now: NIODeadline) {
        if acceptedAt + loop.configuration.handshakeTimeout <= now {
            loop.statistics.connectionsRefused &+= 1
            context?.close(promise: nil)
        }
    }

    func beginDrain() { context?.close(promise: nil) }

    func closeNow() { context?.close(promise: nil) }
}

extension ProtocolSniffer {
    typealias InboundOut = ByteBuffer
}
