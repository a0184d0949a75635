import CNGHTTP2
import NIOCore

/// One HTTP/2 connection: an nghttp2 session between a socket and its calls.
///
/// Bytes read are fed to the session at once; everything the calls answer meanwhile is written in
/// one go when the read cycle ends. Answers from outside a read cycle are flushed once per turn of
/// the loop. DATA payload goes from a call's queue straight into the outgoing buffer.
///
/// Lifetimes: each stream's user pointer owns one reference to its call, given back when the
/// stream closes or, for what is still open, before the session is deleted. The session's user
/// pointer is this object, unretained; the session dies in `tearDown`, before the object can.
final class ServerConnection: ChannelDuplexHandler, SweptConnection {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = Never
    typealias OutboundIn = Never
    typealias OutboundOut = ByteBuffer

    /// Output is handed to the socket in pieces of about this size.
    private static let writeChunkBytes = 256 << 10

    let loop: ServerLoop
    let peer: PeerAddress
    /// Kept for handlers, see `ServerCall.connectionState`.
    var userState: AnyObject?
    var session: OpaquePointer?
    private(set) var context: ChannelHandlerContext?
    /// Unsent response bytes and incomplete request bytes of this connection.
    var bufferedBytes = 0
    var partialBytes = 0

    private var out = ByteBuffer()
    private var outIsFull = false
    var isReading = false
    private var isFlushing = false
    private var isMarked = false
    private var isSocketWritable = true
    private var readIsPending = false
    /// Streams that fell below their low-water mark while output was written.
    var becameWritable: [ServerCall] = []

    unowned(unsafe) var firstCall: ServerCall?
    var openStreams = 0
    /// The call of the stream that the last callback was about.
    unowned(unsafe) var currentCall: ServerCall?
    var currentStream: Int32 = 0

    let acceptedAt: NIODeadline
    var lastReadAt: NIODeadline
    var idleSince: NIODeadline
    var unwritableSince: NIODeadline?
    /// The header block that has begun and is not complete.
    var openHeaders: (stream: Int32, since: NIODeadline)?
    var pingSentAt: NIODeadline?
    var sawSettings = false

    var peerGuard: ConnectionGuard
    /// The first reason to end the connection; nothing is read or sent after it.
    private(set) var violation: ConnectionGuard.Violation?
    var phase = Phase.open

    enum Phase {
        case open
        /// The first GOAWAY is out; the second follows with the ping's answer or at the time given.
        case drainAnnounced(NIODeadline)
        case draining(NIODeadline)
        /// We have said all; input is discarded until the time given.
        case lingering(NIODeadline)
        case closed
    }

    init(loop: ServerLoop, peer: PeerAddress, acceptedAt: NIODeadline) {
        self.loop = loop
        self.peer = peer
        self.acceptedAt = acceptedAt
        lastReadAt = acceptedAt
        idleSince = acceptedAt
        peerGuard = ConnectionGuard(loop.configuration, now: acceptedAt)
    }

    deinit {
        precondition(session == nil, "a session outlived its connection")
    }

    // MARK: Channel events

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        isSocketWritable = context.channel.isWritable
        let user = Unmanaged.passUnretained(self).toOpaque()
        var session: OpaquePointer?
        let result = nghttp2_session_server_new2(
            &session, loop.callbacks.callbacks, user, loop.callbacks.options)
        guard result == 0, let session else {
            context.close(promise: nil)
            return
        }
        self.session = session
        loop.add(self)
        announceSettings(session)
        if loop.isDraining { beginDrain() }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        tearDown()
        self.context = nil
    }

    func channelInactive(context: ChannelHandlerContext) {
        tearDown()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // Socket errors only; the peer is gone or of no use.
        context.close(promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let buffer = unwrapInboundIn(data)
        loop.statistics.bytesIn &+= UInt64(buffer.readableBytes)
        guard let session, violation == nil, isTalking else { return }
        loop.now = .now()
        lastReadAt = loop.now
        isReading = true
        let result = buffer.withUnsafeReadableBytes { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            return nghttp2_session_mem_recv(
                session, base.assumingMemoryBound(to: UInt8.self), bytes.count)
        }
        if result < 0 {
            receiveFailed(Int32(truncatingIfNeeded: result))
        } else {
            violation = violation ?? peerGuard.received(buffer.readableBytes, now: loop.now)
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        isReading = false
        flushOutput()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        isSocketWritable = context.channel.isWritable
        if isSocketWritable {
            unwritableSince = nil
            loop.now = .now()
            flushOutput()
            if isSocketWritable, readIsPending {
                readIsPending = false
                context.read()
            }
        } else {
            unwritableSince = .now()
        }
    }

    /// A peer that does not take our output gets no more of its input read.
    func read(context: ChannelHandlerContext) {
        if isSocketWritable { context.read() } else { readIsPending = true }
    }

    /// Once lingering, the session's streams are gone and it must not be asked for output.
    private var isTalking: Bool {
        switch phase {
        case .open, .drainAnnounced, .draining: true
        case .lingering, .closed: false
        }
    }

    private func announceSettings(_ session: OpaquePointer) {
        let limits = loop.configuration
        let entries: [(Int, Int)] = [
            (Int(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS.rawValue), limits.maxConcurrentStreams),
            (Int(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE.rawValue), limits.initialWindowBytes),
            (Int(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE.rawValue), limits.maxHeaderListBytes),
            // Without it nghttp2 would keep RFC 7540's dependency tree for the peer to grow.
            (Int(NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES.rawValue), 1),
        ]
        let settings = entries.map { id, value in
            nghttp2_settings_entry(
                settings_id: Int32(id), value: UInt32(clamping: min(value, Int(Int32.max))))
        }
        nghttp2_submit_settings(
            session, UInt8(NGHTTP2_FLAG_NONE.rawValue), settings, settings.count)
        nghttp2_session_set_local_window_size(
            session, UInt8(NGHTTP2_FLAG_NONE.rawValue), 0, Int32(clamping: limits.connectionWindowBytes))
    }

    /// Ends the connection for a reason, at the end of the read cycle or at the next flush.
    func violate(_ reason: ConnectionGuard.Violation) {
        violation = violation ?? reason
    }

    /// A callback's answer: nghttp2 stops where the peer has gone too far.
    func verdict(_ reason: ConnectionGuard.Violation?) -> Int32 {
        guard let reason else { return 0 }
        violate(reason)
        return NGHTTP2_ERR_CALLBACK_FAILURE.rawValue
    }

    private func receiveFailed(_ code: Int32) {
        switch code {
        case NGHTTP2_ERR_FLOODED.rawValue, NGHTTP2_ERR_TOO_MANY_CONTINUATIONS.rawValue:
            violate(.init(code: .enhanceYourCalm, text: "too_many_control_frames"))
        case NGHTTP2_ERR_BAD_CLIENT_MAGIC.rawValue:
            violate(.init(code: .protocolError, text: "bad client preface"))
        case NGHTTP2_ERR_NOMEM.rawValue:
            violate(.init(code: .internalError, text: ""))
        default:
            violate(.init(code: .protocolError, text: ""))
        }
    }

    // MARK: Output

    /// Asks for a flush at the end of the current read cycle or turn of the loop.
    func wantFlush() {
        if isReading || isFlushing || isMarked { return }
        isMarked = true
        loop.markDirty(self)
    }

    func flushMarked() {
        isMarked = false
        flushOutput()
    }

    private func flushOutput() {
        guard !isFlushing, !isReading, let context, let session, isTalking else { return }
        if violation != nil {
            endForViolation(context)
            return
        }
        guard isSocketWritable else { return }
        isFlushing = true
        var wroteAny = false
        var isMore = true
        while isMore, isSocketWritable, self.session != nil {
            out = loop.takeScratch(context.channel.allocator)
            isMore = collectOutput(session)
            let length = out.readableBytes
            if length > 0 {
                loop.statistics.bytesOut &+= UInt64(length)
                let piece = out
                out = ByteBuffer()
                loop.returnScratch(piece)
                context.write(wrapOutboundOut(piece), promise: nil)
                wroteAny = true
                if isMore { context.flush() }
            } else {
                loop.returnScratch(out)
                out = ByteBuffer()
            }
            if tellWritableCalls() { isMore = true }
        }
        if wroteAny { context.flush() }
        isFlushing = false
        if violation != nil {
            endForViolation(context)
        } else {
            closeIfFinished(context)
        }
    }

    /// Moves frames from the session into `out`. True when it stopped because `out` is full.
    private func collectOutput(_ session: OpaquePointer) -> Bool {
        outIsFull = false
        while out.readableBytes < Self.writeChunkBytes {
            var bytes: UnsafePointer<UInt8>?
            let length = nghttp2_session_mem_send(session, &bytes)
            if length < 0 {
                violate(.init(code: .internalError, text: ""))
                return false
            }
            if length == 0 { return outIsFull }
            out.writeBytes(UnsafeRawBufferPointer(start: bytes, count: length))
        }
        return true
    }

    private func tellWritableCalls() -> Bool {
        if becameWritable.isEmpty { return false }
        let calls = becameWritable
        becameWritable.removeAll(keepingCapacity: calls.count <= 64)
        for call in calls where call.isOpen { call.handler?.writable(call) }
        return true
    }

    private func closeIfFinished(_ context: ChannelHandlerContext) {
        guard let session else { return }
        let isDone =
            nghttp2_session_want_read(session) == 0 && nghttp2_session_want_write(session) == 0
        if isDone {
            linger(context)
        } else if case .draining = phase, openStreams == 0,
            nghttp2_session_want_write(session) == 0
        {
            linger(context)
        }
    }

    /// nghttp2 has decided on a DATA frame; its head and payload go to the output.
    func onSendData(
        _ call: ServerCall, _ head: UnsafePointer<UInt8>, _ length: Int
    ) -> Int32 {
        if out.readableBytes >= Self.writeChunkBytes {
            outIsFull = true
            return NGHTTP2_ERR_WOULDBLOCK.rawValue
        }
        guard length <= call.output.count else {
            // The queue was dropped by a reset meanwhile.
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
        }
        out.writeBytes(UnsafeRawBufferPointer(start: head, count: 9))
        call.output.drain(length, into: &out)
        call.chargeOutput()
        call.progressAt = loop.now
        if call.wasOverHighWater,
            call.output.count < loop.configuration.writeBufferLowWaterBytes
        {
            call.wasOverHighWater = false
            becameWritable.append(call)
        }
        return 0
    }
}
