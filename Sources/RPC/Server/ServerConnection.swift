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
    private var isReading = false
    private var isFlushing = false
    private var isMarked = false
    private var isSocketWritable = true
    private var readIsPending = false
    /// Streams that fell below their low-water mark while output was written.
    private var becameWritable: [ServerCall] = []

    unowned(unsafe) private var firstCall: ServerCall?
    private var openStreams = 0
    /// The call of the stream that the last callback was about.
    unowned(unsafe) private var currentCall: ServerCall?
    private var currentStream: Int32 = 0

    private let acceptedAt: NIODeadline
    private var lastReadAt: NIODeadline
    private var idleSince: NIODeadline
    private var unwritableSince: NIODeadline?
    /// The header block that has begun and is not complete.
    private var openHeaders: (stream: Int32, since: NIODeadline)?
    private var pingSentAt: NIODeadline?
    private var sawSettings = false

    private var pings: PingPolicy
    private var resets: RateBucket
    private var provokedResets: RateBucket
    private var control: RateBucket
    private var violation: Violation?
    /// Length of the frames reported during this read, and bytes received beyond those so far
    /// (negative in the middle of a frame).
    private var reportedBytes = 0
    private var ignoredBytes = 0

    private enum Phase {
        case open
        /// The first GOAWAY is out; the second follows with the ping's answer or at the time given.
        case drainAnnounced(NIODeadline)
        case draining(NIODeadline)
        /// We have said all; input is discarded until the time given.
        case lingering(NIODeadline)
        case closed
    }
    private var phase = Phase.open
    /// The second GOAWAY follows at the latest this long after the first.
    private static let drainPingTimeout = TimeAmount.seconds(1)
    /// Tells the drain's ping from others.
    private static let drainPing: [UInt8] = [0x6D, 0x72, 0x64, 0x72, 0x61, 0x69, 0x6E, 0x31]

    private struct Violation {
        let code: HTTP2ErrorCode
        let text: StaticString
    }

    init(loop: ServerLoop, peer: PeerAddress, acceptedAt: NIODeadline) {
        self.loop = loop
        self.peer = peer
        self.acceptedAt = acceptedAt
        lastReadAt = acceptedAt
        idleSince = acceptedAt
        let limits = loop.configuration
        pings = PingPolicy(limits)
        resets = RateBucket(
            burst: limits.maxResetBurst, perSecond: limits.resetsPerSecond, now: acceptedAt)
        provokedResets = RateBucket(
            burst: limits.maxProvokedResetBurst, perSecond: limits.provokedResetsPerSecond,
            now: acceptedAt)
        control = RateBucket(
            burst: limits.maxControlFrameBurst, perSecond: limits.controlFramesPerSecond,
            now: acceptedAt)
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
            chargeIgnored(buffer.readableBytes)
        }
    }

    /// Frames that nghttp2 skips without a word (on closed streams, mostly) are seen only as bytes
    /// that no reported frame accounts for; each KiB of them costs as much as a control frame.
    private func chargeIgnored(_ received: Int) {
        ignoredBytes += received - reportedBytes
        reportedBytes = 0
        while ignoredBytes > 1024 {
            ignoredBytes -= 1024
            if !control.take(now: loop.now) {
                _ = violate(.enhanceYourCalm, "too_many_control_frames")
                return
            }
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

    // MARK: Output

    /// Asks for a flush at the end of the current read cycle or turn of the loop.
    private func wantFlush() {
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
                if violation == nil { violation = Violation(code: .internalError, text: "") }
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

    /// Ends our side, then discards input for a while: closing a socket with unread input makes
    /// the kernel send a reset, which would overtake the GOAWAY.
    private func linger(_ context: ChannelHandlerContext) {
        if case .lingering = phase { return }
        if case .closed = phase { return }
        phase = .lingering(.now() + loop.configuration.lingerTimeout)
        releaseStreams()
        context.writeAndFlush(wrapOutboundOut(ByteBuffer())).assumeIsolated().whenComplete { _ in
            context.close(mode: .output, promise: nil)
        }
    }

    private func receiveFailed(_ code: Int32) {
        guard violation == nil else { return }
        switch code {
        case NGHTTP2_ERR_FLOODED.rawValue, NGHTTP2_ERR_TOO_MANY_CONTINUATIONS.rawValue:
            violation = Violation(code: .enhanceYourCalm, text: "too_many_control_frames")
        case NGHTTP2_ERR_BAD_CLIENT_MAGIC.rawValue:
            violation = Violation(code: .protocolError, text: "bad client preface")
        case NGHTTP2_ERR_NOMEM.rawValue:
            violation = Violation(code: .internalError, text: "")
        default:
            violation = Violation(code: .protocolError, text: "")
        }
    }

    private func endForViolation(_ context: ChannelHandlerContext) {
        guard let violation else { return }
        if case .lingering = phase { return }
        loop.statistics.connectionsRefused &+= 1
        let last = session.map { nghttp2_session_get_last_proc_stream_id($0) } ?? 0
        context.write(
            wrapOutboundOut(goAwayFrame(last: last, code: violation.code, text: violation.text)),
            promise: nil)
        linger(context)
    }

    private func violate(_ code: HTTP2ErrorCode, _ text: StaticString) -> Int32 {
        if violation == nil { violation = Violation(code: code, text: text) }
        return NGHTTP2_ERR_CALLBACK_FAILURE.rawValue
    }

    // MARK: What calls ask for

    var isOverBuffered: Bool {
        bufferedBytes > loop.configuration.maxBufferedBytesPerConnection
            || (loop.bufferedBytes > loop.configuration.maxBufferedBytesPerLoop
                && bufferedBytes > loop.configuration.writeBufferHighWaterBytes)
    }

    /// Submits the response headers; messages follow from the call's queue.
    func submitHead(_ call: ServerCall) {
        guard let session else { return }
        if call.output.count > 16 << 10 {
            // Without the incremental flag a long response would hold back every later one.
            var priority = nghttp2_extpri(urgency: 3, inc: 1)
            nghttp2_session_change_extpri_stream_priority(session, call.streamID, &priority, 1)
        }
        var provider = nghttp2_data_provider()
        provider.source.ptr = Unmanaged.passUnretained(call).toOpaque()
        provider.read_callback = { _, _, _, length, flags, source, user in
            guard let flags, let source, let user, let pointer = source.pointee.ptr else {
                return Int(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue)
            }
            return Unmanaged<ServerConnection>.fromOpaque(user)._withUnsafeGuaranteedRef { owner in
                Unmanaged<ServerCall>.fromOpaque(pointer)._withUnsafeGuaranteedRef {
                    owner.provide($0, length, flags)
                }
            }
        }
        let result = nghttp2_submit_response(session, call.streamID, loop.okHead, 2, &provider)
        if result != 0 { submitReset(call, .internalError) }
        wantFlush()
    }

    /// The queue has something again, or the status is known.
    func resume(_ call: ServerCall) {
        guard let session else { return }
        nghttp2_session_resume_data(session, call.streamID)
        wantFlush()
    }

    func submitReset(_ call: ServerCall, _ code: HTTP2ErrorCode) {
        guard let session else { return }
        nghttp2_submit_rst_stream(
            session, UInt8(NGHTTP2_FLAG_NONE.rawValue), call.streamID, code.rawValue)
        wantFlush()
    }

    /// Answers with one header block that ends the stream.
    func submitTrailersOnly(_ call: ServerCall, httpStatus: Int = 200) {
        guard let session else { return }
        var list = HeaderList()
        list.add(":status", String(httpStatus))
        list.add("content-type", "application/grpc")
        list.add(status: call.status, call.trailers)
        list.withFields { fields, count in
            _ = nghttp2_submit_response(session, call.streamID, fields, count, nil)
        }
        wantFlush()
    }

    func consumeStream(_ stream: Int32, _ length: Int) {
        guard let session else { return }
        nghttp2_session_consume_stream(session, stream, length)
        wantFlush()
    }

    /// nghttp2 asks how much the call can send in the next DATA frame.
    private func provide(
        _ call: ServerCall, _ length: Int, _ flags: UnsafeMutablePointer<UInt32>
    ) -> Int {
        let available = call.output.count
        if available == 0 {
            guard call.responseState == .finishing else {
                call.isDeferred = true
                return Int(NGHTTP2_ERR_DEFERRED.rawValue)
            }
            flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue | NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
            submitTrailers(call)
            return 0
        }
        flags.pointee |= NGHTTP2_DATA_FLAG_NO_COPY.rawValue
        if available <= length, call.responseState == .finishing {
            flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue | NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
            submitTrailers(call)
        }
        return min(available, length)
    }

    private func submitTrailers(_ call: ServerCall) {
        guard let session else { return }
        call.responseState = .done
        if call.status.code == .ok, call.trailers.isEmpty, call.status.message.isEmpty {
            nghttp2_submit_trailer(session, call.streamID, loop.okTrailer, 1)
        } else {
            var list = HeaderList()
            list.add(status: call.status, call.trailers)
            list.withFields { fields, count in
                _ = nghttp2_submit_trailer(session, call.streamID, fields, count)
            }
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

    // MARK: What nghttp2 reports

    private func call(_ stream: Int32) -> ServerCall? {
        if stream == currentStream { return currentCall }
        guard let session, let user = nghttp2_session_get_stream_user_data(session, stream) else {
            return nil
        }
        let call = Unmanaged<ServerCall>.fromOpaque(user).takeUnretainedValue()
        currentCall = call
        currentStream = stream
        return call
    }

    func onBeginFrame(_ header: nghttp2_frame_hd) -> Int32 {
        reportedBytes += 9 + header.length
        let isNoise: Bool
        switch UInt32(header.type) {
        case NGHTTP2_DATA.rawValue:
            // Credited back by onData when the frame completes a message.
            isNoise =
                header.length < loop.configuration.tinyDataFrameBytes
                && header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) == 0
        case NGHTTP2_HEADERS.rawValue:
            isNoise = false
        case NGHTTP2_RST_STREAM.rawValue:
            if !resets.take(now: loop.now) {
                return violate(.enhanceYourCalm, "too_many_resets")
            }
            isNoise = false
        default:
            isNoise = true
        }
        if isNoise, !control.take(now: loop.now) {
            return violate(.enhanceYourCalm, "too_many_control_frames")
        }
        return 0
    }

    func onBeginHeaders(_ frame: UnsafePointer<nghttp2_frame>) -> Int32 {
        let header = frameHeader(frame)
        openHeaders = (header.stream_id, loop.now)
        guard frame.pointee.headers.cat == NGHTTP2_HCAT_REQUEST, let session else { return 0 }
        let call = loop.takeCall()
        call.connection = self
        call.streamID = header.stream_id
        call.arrivedAt = loop.now
        let owned = Unmanaged.passRetained(call)
        let result = nghttp2_session_set_stream_user_data(
            session, header.stream_id, owned.toOpaque())
        guard result == 0 else {
            call.connection = nil
            owned.release()
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
        }
        call.previousCall = nil
        call.nextCall = firstCall
        firstCall?.previousCall = call
        firstCall = call
        openStreams += 1
        loop.statistics.streamsOpen += 1
        currentCall = call
        currentStream = header.stream_id
        return 0
    }

    func onHeader(_ stream: Int32, _ name: OpaquePointer, _ value: OpaquePointer) -> Int32 {
        guard let call = call(stream), call.requestState == .head else { return 0 }
        call.head.listBytes += rcbufBytes(name).count + rcbufBytes(value).count + 32
        let limit = loop.configuration.maxHeaderListBytes
        if call.head.listBytes > limit {
            if call.head.listBytes > limit * 2 {
                return violate(.enhanceYourCalm, "header list too large")
            }
            return 0
        }
        call.received(header: name, value)
        return 0
    }

    func onFrameReceived(_ frame: UnsafePointer<nghttp2_frame>) -> Int32 {
        let header = frameHeader(frame)
        switch UInt32(header.type) {
        case NGHTTP2_HEADERS.rawValue:
            openHeaders = nil
            guard let call = call(header.stream_id) else { return 0 }
            let ends = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
            if call.requestState == .head, call.responseState == .none {
                requestHeadComplete(call, ends: ends)
            } else if ends {
                call.noteRemoteEnd()
            }
        case NGHTTP2_DATA.rawValue:
            if header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0 {
                call(header.stream_id)?.noteRemoteEnd()
            }
        case NGHTTP2_PING.rawValue:
            return receivedPing(frame, isAnswer: header.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) != 0)
        case NGHTTP2_SETTINGS.rawValue:
            sawSettings = true
        default:
            break
        }
        return 0
    }

    private func requestHeadComplete(_ call: ServerCall, ends: Bool) {
        call.remoteEnded = ends
        if call.head.isMalformed {
            call.responseState = .done
            return submitReset(call, .protocolError)
        }
        var refusal = call.head.finalRefusal()
        if call.head.listBytes > loop.configuration.maxHeaderListBytes {
            refusal = .init(
                httpStatus: 200,
                status: RPCStatus(.resourceExhausted, "grpc: request header list too large"))
            if !provokedResets.take(now: loop.now) {
                _ = violate(.enhanceYourCalm, "header list too large")
            }
        }
        if let refusal {
            if refusal.status.code == .unimplemented { loop.statistics.unknownMethods &+= 1 }
            call.status = refusal.status
            call.responseState = .done
            submitTrailersOnly(call, httpStatus: refusal.httpStatus)
            return
        }
        guard let entry = call.head.entry else { return }
        if let nanoseconds = call.head.timeoutNanoseconds {
            call.deadline = loop.now + .nanoseconds(Int64(clamping: nanoseconds))
        }
        call.begin(entry)
        if ends { call.noteRemoteEnd() }
    }

    private func receivedPing(_ frame: UnsafePointer<nghttp2_frame>, isAnswer: Bool) -> Int32 {
        if isAnswer {
            pingSentAt = nil
            if case .drainAnnounced = phase {
                let data = frame.pointee.ping.opaque_data
                let isDrainPing = withUnsafeBytes(of: data) { $0.elementsEqual(Self.drainPing) }
                if isDrainPing { finishDrainAnnouncement() }
            }
            return 0
        }
        if !pings.allows(now: loop.now, openStreams: openStreams) {
            return violate(.enhanceYourCalm, "too_many_pings")
        }
        return 0
    }

    func onData(_ stream: Int32, _ bytes: UnsafeRawBufferPointer, ends: Bool) -> Int32 {
        guard let session else { return 0 }
        nghttp2_session_consume_connection(session, bytes.count)
        guard let call = call(stream) else { return 0 }
        if call.receive(bytes, ends: ends, self) { control.credit(1) }
        return 0
    }

    func onStreamClosed(_ stream: Int32) -> Int32 {
        if openHeaders?.stream == stream { openHeaders = nil }
        guard let session, let user = nghttp2_session_get_stream_user_data(session, stream) else {
            return 0
        }
        nghttp2_session_set_stream_user_data(session, stream, nil)
        release(user)
        return 0
    }

    /// Ends a call whose stream is gone and gives back the reference the stream owned. Takes the
    /// bare pointer, so that no reference of ours keeps the call from being reused.
    private func release(_ user: UnsafeMutableRawPointer) {
        Unmanaged<ServerCall>.fromOpaque(user)._withUnsafeGuaranteedRef { detach($0) }
        loop.recycle(user)
    }

    private func detach(_ call: ServerCall) {
        currentCall = nil
        currentStream = 0
        if let previous = call.previousCall {
            previous.nextCall = call.nextCall
        } else {
            firstCall = call.nextCall
        }
        call.nextCall?.previousCall = call.previousCall
        call.nextCall = nil
        call.previousCall = nil
        openStreams -= 1
        loop.statistics.streamsOpen -= 1
        if openStreams == 0 { idleSince = loop.now }
        call.closed()
    }

    func onFrameSent(_ frame: UnsafePointer<nghttp2_frame>) -> Int32 {
        let header = frameHeader(frame)
        switch UInt32(header.type) {
        case NGHTTP2_DATA.rawValue, NGHTTP2_HEADERS.rawValue:
            pings.sentHeadersOrData()
            control.credit(loop.configuration.controlFrameCredit)
            if header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0 {
                answerSent(header.stream_id)
            }
        case NGHTTP2_RST_STREAM.rawValue:
            let code = frame.pointee.rst_stream.error_code
            if code != HTTP2ErrorCode.noError.rawValue, code != HTTP2ErrorCode.cancel.rawValue,
                !provokedResets.take(now: loop.now)
            {
                return violate(.enhanceYourCalm, "too_many_stream_errors")
            }
        default:
            break
        }
        return 0
    }

    /// After a complete answer the peer need not send more; as grpc-go, say so with NO_ERROR.
    /// Not earlier: a reset in the queue makes nghttp2 drop the answer behind which it stands.
    private func answerSent(_ stream: Int32) {
        guard let call = call(stream), !call.remoteEnded, let session else { return }
        nghttp2_submit_rst_stream(
            session, UInt8(NGHTTP2_FLAG_NONE.rawValue), stream, HTTP2ErrorCode.noError.rawValue)
    }

    // MARK: Time and end

    func sweep(now: NIODeadline) {
        guard let context, let session else { return }
        let limits = loop.configuration
        switch phase {
        case .closed:
            return
        case .lingering(let end):
            if now >= end { context.close(promise: nil) }
            return
        case .drainAnnounced(let end):
            if now >= end { finishDrainAnnouncement() }
        case .draining(let end):
            if now >= end {
                context.close(promise: nil)
                return
            }
        case .open:
            break
        }
        if let since = unwritableSince, since + limits.stalledConnectionTimeout <= now {
            loop.statistics.connectionsRefused &+= 1
            context.close(promise: nil)
            return
        }
        let isLate =
            (!sawSettings && acceptedAt + limits.handshakeTimeout <= now)
            || openHeaders.map { $0.since + limits.handshakeTimeout <= now } == true
        if isLate {
            violation = Violation(code: .settingsTimeout, text: "handshake or header timeout")
            endForViolation(context)
            return
        }
        if let sent = pingSentAt {
            if lastReadAt > sent {
                pingSentAt = nil
            } else if sent + limits.keepaliveTimeout <= now {
                context.close(promise: nil)
                return
            }
        } else if lastReadAt + limits.keepaliveInterval <= now {
            pingSentAt = now
            nghttp2_submit_ping(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), nil)
            wantFlush()
        }
        if openStreams == 0 {
            if idleSince + limits.idleTimeout <= now, case .open = phase { beginDrain() }
        } else {
            sweepCalls(now, limits)
        }
    }

    private func sweepCalls(_ now: NIODeadline, _ limits: RPCServerConfiguration) {
        var next = firstCall
        while let call = next {
            next = call.nextCall
            if call.output.count > 0, call.progressAt + limits.stalledStreamTimeout <= now {
                call.status = RPCStatus(.unavailable, "response not read")
                call.reset(.cancel)
            } else if call.requestState == .reading || call.requestState == .held,
                call.entry?.unary != nil, call.arrivedAt + limits.requestReceiveTimeout <= now
            {
                call.finish(RPCStatus(.deadlineExceeded, "grpc: request message not received"))
            }
        }
    }

    func beginDrain() {
        guard case .open = phase, let session else { return }
        phase = .drainAnnounced(.now() + Self.drainPingTimeout)
        nghttp2_submit_shutdown_notice(session)
        nghttp2_submit_ping(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), Self.drainPing)
        var calls: [ServerCall] = []
        var next = firstCall
        while let call = next {
            calls.append(call)
            next = call.nextCall
        }
        for call in calls where call.isOpen { call.handler?.draining(call) }
        wantFlush()
    }

    private func finishDrainAnnouncement() {
        guard let session else { return }
        phase = .draining(.now() + loop.configuration.drainTimeout)
        nghttp2_submit_goaway(
            session, UInt8(NGHTTP2_FLAG_NONE.rawValue),
            nghttp2_session_get_last_proc_stream_id(session), HTTP2ErrorCode.noError.rawValue, nil, 0)
        wantFlush()
    }

    func closeNow() {
        context?.close(promise: nil)
    }

    private func releaseStreams() {
        while let user = firstCall.map({ Unmanaged.passUnretained($0).toOpaque() }) {
            if let session, let stream = firstCall?.streamID {
                nghttp2_session_set_stream_user_data(session, stream, nil)
            }
            release(user)
        }
    }

    private func tearDown() {
        guard let session else { return }
        phase = .closed
        isReading = false
        releaseStreams()
        self.session = nil
        nghttp2_session_del(session)
        becameWritable = []
        loop.remove(self)
    }
}

extension HeaderList {
    /// `grpc-status`, `grpc-message` where there is one, then the call's own trailers.
    mutating func add(status: RPCStatus, _ trailers: [(String, String)]) {
        add("grpc-status", String(status.code.rawValue))
        if !status.message.isEmpty {
            add("grpc-message", RPCStatus.percentEncoded(status.message))
        }
        for (name, value) in trailers {
            if name.hasSuffix("-bin") {
                add(name, Base64.encode(Array(value.utf8)))
            } else {
                add(name, value)
            }
        }
    }
}

/// A GOAWAY frame made by hand, for when the session can no longer be asked (RFC 9113, 6.8).
func goAwayFrame(last: Int32, code: HTTP2ErrorCode, text: StaticString) -> ByteBuffer {
    var frame = ByteBuffer()
    let length = 8 + text.utf8CodeUnitCount
    frame.writeInteger(UInt8(0))
    frame.writeInteger(UInt16(length))
    frame.writeInteger(UInt8(NGHTTP2_GOAWAY.rawValue))
    frame.writeInteger(UInt8(0))
    frame.writeInteger(UInt32(0))
    frame.writeInteger(UInt32(bitPattern: last) & 0x7FFF_FFFF)
    frame.writeInteger(code.rawValue)
    frame.writeStaticString(text)
    return frame
}
