import NIOCore

/// Counts the bytes in front of the HTTP/1 parser, which itself knows neither our bound on the
/// head nor when a head began to arrive.
final class HTTP1InputGuard: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    /// When the first byte of a head that is not complete arrived.
    private(set) var headBegunAt: NIODeadline?
    private let limit: Int
    private var headBytes = 0

    init(limit: Int, acceptedAt: NIODeadline) {
        self.limit = limit
        headBegunAt = acceptedAt
    }

    /// The parser has seen a whole head.
    func headComplete() {
        headBegunAt = nil
        headBytes = 0
        isInBody = true
    }

    /// Between a head and the next one the bytes are body and have their own bound; a new head
    /// begins with the first bytes after the answer.
    func bodyComplete() {
        isInBody = false
    }

    private var isInBody = false

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if !isInBody {
            if headBytes > limit {
                context.close(promise: nil)
                return
            }
            if headBegunAt == nil { headBegunAt = .now() }
            headBytes += unwrapInboundIn(data).readableBytes
        }
        context.fireChannelRead(data)
    }
}
