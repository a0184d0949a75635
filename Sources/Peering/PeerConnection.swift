// One TCP connection between two members, cut into frames. It knows nothing of what they mean.

import NIOCore

/// What a connection is for. Called on the event loop.
protocol PeerConnectionOwner: AnyObject {
    /// One frame; `payload` lives as long as the call.
    func received(_ kind: FrameKind, _ payload: UnsafeRawBufferPointer, on connection: PeerConnection)
    /// All frames of one read were handed over.
    func readCompleted(on connection: PeerConnection)
    /// The socket takes output again.
    func becameWritable(_ connection: PeerConnection)
    /// The last call. `reason` says why, for people.
    func closed(_ connection: PeerConnection, reason: String)
}

/// The channel handler between a socket and its owner.
///
/// Confined to its event loop; Sendable only so that closures which hop to that loop can name it.
final class PeerConnection: ChannelInboundHandler, @unchecked Sendable {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// Held until the connection is closed, so that an owner lives as long as its connection. A
    /// dialled one gets its owner when it is chosen: a name with several addresses is dialled at
    /// more than one of them.
    private var owner: (any PeerConnectionOwner)?
    private(set) var context: ChannelHandlerContext?
    /// The largest frame accepted; small until the handshake is done.
    var maxFrameBytes: Int
    private(set) var lastReadAt = NIODeadline.now()
    private(set) var bytesReceived = 0
    private var input = ByteBuffer()
    private var closeReason: String?
    private var isPaused: Bool
    private var readIsPending = false
    private var address: SocketAddress?

    /// Without an owner nothing is read until `attach`.
    init(owner: (any PeerConnectionOwner)?, maxFrameBytes: Int) {
        self.owner = owner
        self.maxFrameBytes = maxFrameBytes
        isPaused = owner == nil
    }

    func attach(_ owner: any PeerConnectionOwner) {
        self.owner = owner
        resumeReading()
    }

    /// Where the other end is, for people.
    var remote: String {
        guard let address else { return "an unknown address" }
        return "\(address.ipAddress ?? "?"):\(address.port ?? 0)"
    }

    var isOpen: Bool { context != nil && closeReason == nil }

    var isWritable: Bool { isOpen && context?.channel.isWritable == true }

    // MARK: Output

    func newBuffer(capacity: Int) -> ByteBuffer {
        context?.channel.allocator.buffer(capacity: capacity) ?? ByteBuffer()
    }

    func write(_ buffer: ByteBuffer) {
        guard isOpen, let context else { return }
        context.write(wrapOutboundOut(buffer), promise: nil)
    }

    func flush() {
        if isOpen { context?.flush() }
    }

    /// Writes one frame and flushes.
    func send(_ kind: FrameKind, _ payload: [UInt8]) {
        var buffer = newBuffer(capacity: Frame.headerBytes + payload.count)
        buffer.writeFrame(kind, payload)
        write(buffer)
        flush()
    }

    /// Writes one frame and closes once it has gone to the kernel.
    func sendLast(_ kind: FrameKind, _ payload: [UInt8], reason: String) {
        guard isOpen, let context else { return }
        var buffer = newBuffer(capacity: Frame.headerBytes + payload.count)
        buffer.writeFrame(kind, payload)
        closeReason = reason
        // Only our side ends: with unread input in the socket a full close makes the kernel send a
        // reset, which can overtake the frame. The sweep closes what the peer leaves open.
        context.writeAndFlush(wrapOutboundOut(buffer)).assumeIsolated().whenComplete { _ in
            context.close(mode: .output, promise: nil)
        }
    }

    /// Closes; the owner hears of it.
    func close(_ reason: String) {
        if closeReason == nil { closeReason = reason }
        context?.close(promise: nil)
    }

    // MARK: Input

    /// Stops reading, for a receiver that is slower than its sender.
    func pauseReading() { isPaused = true }

    func resumeReading() {
        isPaused = false
        guard readIsPending else { return }
        readIsPending = false
        context?.read()
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        address = context.channel.remoteAddress
    }

    func channelActive(context: ChannelHandlerContext) {
        address = context.channel.remoteAddress
        context.fireChannelActive()
    }

    func handlerRemoved(context: ChannelHandlerContext) { end("connection closed") }

    func channelInactive(context: ChannelHandlerContext) {
        end("connection closed by the other side")
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { close("\(error)") }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { owner?.becameWritable(self) }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var arrived = unwrapInboundIn(data)
        bytesReceived &+= arrived.readableBytes
        lastReadAt = .now()
        guard isOpen else { return }
        // Taken out while the owner runs, which may close this connection.
        var bytes = ByteBuffer()
        swap(&bytes, &input)
        if bytes.readableBytes == 0 {
            bytes = arrived
        } else {
            bytes.writeBuffer(&arrived)
        }
        var consumed = 0
        do throws(FrameError) {
            try bytes.withUnsafeReadableBytes { raw throws(FrameError) in
                while isOpen,
                    let frame = try Frame.next(in: raw, at: consumed, maxBytes: maxFrameBytes)
                {
                    consumed = frame.end
                    owner?.received(frame.kind, frame.payload, on: self)
                }
            }
        } catch {
            let foreign = consumed == 0 ? foreignProtocol(bytes.readableBytesView) : nil
            close(foreign ?? error.text)
            return
        }
        guard isOpen else { return }
        bytes.moveReaderIndex(forwardBy: consumed)
        if bytes.readableBytes > 0 {
            bytes.discardReadBytes()
            input = bytes
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        owner?.readCompleted(on: self)
    }

    private func end(_ reason: String) {
        context = nil
        input = ByteBuffer()
        guard let owner else { return }
        self.owner = nil
        owner.closed(self, reason: closeReason ?? reason)
    }
}

extension PeerConnection: ChannelOutboundHandler {
    typealias OutboundIn = ByteBuffer

    func read(context: ChannelHandlerContext) {
        if isPaused { readIsPending = true } else { context.read() }
    }
}

/// What somebody speaks who took this port for another, so that the log says what to correct.
private func foreignProtocol(_ bytes: ByteBufferView) -> String? {
    if bytes.starts(with: [0x16, 0x03]) { return "a TLS handshake, while this peer port speaks without TLS" }
    if bytes.starts(with: Array("PRI * HTTP/2".utf8)) {
        return "an HTTP/2 (gRPC) client; clients belong on the client port"
    }
    for method in ["GET ", "POST ", "PUT ", "HEAD "] where bytes.starts(with: Array(method.utf8)) {
        return "an HTTP request; clients belong on the client port"
    }
    return nil
}
