import CNGHTTP2
import NIOCore

/// The client's end of one HTTP/2 connection; confined to its event loop.
///
/// The Sendable mark only lets closures name it on their way to that loop.
final class ClientConnection: ChannelInboundHandler, @unchecked Sendable {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private static let writeChunkBytes = 256 << 10

    let eventLoop: any EventLoop
    let configuration: RPCClientConfiguration
    private let scheme: String
    private let authority: String
    private let callbacks: ClientCallbacks
    private var session: OpaquePointer?
    private var context: ChannelHandlerContext?
    private var calls: [Int32: ClientCall] = [:]
    private var out = ByteBuffer()
    private var outIsFull = false
    private var isReading = false
    private var isFlushing = false
    private var isMarked = false
    private var lost: RPCStatus?
    private var sawGoAway = false
    private var lastReadAt = NIODeadline.now()
    private var pingSentAt: NIODeadline?
    private var keepalive: RepeatedTask?

    init(
        eventLoop: any EventLoop, configuration: RPCClientConfiguration, scheme: String,
        authority: String
    ) {
        self.eventLoop = eventLoop
        self.configuration = configuration
        self.scheme = scheme
        self.authority = authority
        callbacks = ClientCallbacks()
    }

    deinit {
        precondition(session == nil, "a session outlived its connection")
    }

    /// Whether new calls can be opened.
    var isUsable: Bool { session != nil && !sawGoAway }

    // MARK: Channel events

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        var session: OpaquePointer?
        let user = Unmanaged.passUnretained(self).toOpaque()
        guard
            nghttp2_session_client_new2(&session, callbacks.callbacks, user, callbacks.options) == 0,
            let session
        else {
            context.close(promise: nil)
            return
        }
        self.session = session
        let settings = [
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_ENABLE_PUSH.rawValue), value: 0),
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE.rawValue),
                value: UInt32(clamping: configuration.streamWindowBytes)),
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE.rawValue),
                value: UInt32(clamping: configuration.maxHeaderListBytes)),
        ]
        nghttp2_submit_settings(session, 0, settings, settings.count)
        nghttp2_session_set_local_window_size(
            session, 0, 0, Int32(clamping: configuration.connectionWindowBytes))
        if context.channel.isActive { flush() }
        startKeepalive()
    }

    func channelActive(context: ChannelHandlerContext) {
        flush()
        context.fireChannelActive()
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
        if lost == nil { lost = RPCStatus(.unavailable, "error reading from server: \(error)") }
        context.close(promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard let session else { return }
        let buffer = unwrapInboundIn(data)
        lastReadAt = .now()
        isReading = true
        let result = buffer.withUnsafeReadableBytes { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            return nghttp2_session_mem_recv(
                session, base.assumingMemoryBound(to: UInt8.self), bytes.count)
        }
        isReading = false
        if result < 0 {
            lost = RPCStatus(.unavailable, "connection error: the server broke HTTP/2")
            context.close(promise: nil)
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) { flush() }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { flush() }
    }

    func close() {
        guard let context else { return }
        if lost == nil { lost = RPCStatus(.cancelled, "grpc: the client connection is closing") }
        if let session {
            nghttp2_session_terminate_session(session, HTTP2ErrorCode.noError.rawValue)
            flush()
        }
        context.close(promise: nil)
    }

    private func tearDown() {
        guard let session else { return }
        keepalive?.cancel()
        keepalive = nil
        let status = lost ?? RPCStatus(.unavailable, "connection closed by the server")
        let open = calls.keys.sorted().compactMap { calls[$0] }
        calls.removeAll()
        self.session = nil
        nghttp2_session_del(session)
        for call in open { call.closed(status) }
    }

    private func startKeepalive() {
        guard let interval = configuration.keepaliveInterval else { return }
        keepalive = eventLoop.scheduleRepeatedTask(initialDelay: interval, delay: interval) {
            [weak self] _ in self?.checkKeepalive(interval)
        }
    }

    private func checkKeepalive(_ interval: TimeAmount) {
        guard let session, !calls.isEmpty else { return }
        let now = NIODeadline.now()
        if let sent = pingSentAt, lastReadAt < sent {
            if sent + configuration.keepaliveTimeout <= now {
                lost = RPCStatus(.unavailable, "keepalive ping failed to receive ACK within timeout")
                context?.close(promise: nil)
            }
            return
        }
        guard lastReadAt + interval <= now else { return }
        pingSentAt = now
        nghttp2_submit_ping(session, 0, nil)
        flush()
    }

    // MARK: Calls

    /// Opens a stream and sends its headers; `call` gets `.closed` at once when that cannot be.
    func open(
        _ call: ClientCall, path: String, metadata: [(String, String)], timeout: TimeAmount?
    ) {
        guard let session, isUsable else {
            call.closed(lost ?? RPCStatus(.unavailable, "grpc: the connection is closing"))
            return
        }
        var list = HeaderList()
        list.add(":method", "POST")
        list.add(":scheme", scheme)
        list.add(":path", path)
        list.add(":authority", authority)
        list.add("content-type", "application/grpc")
        list.add("user-agent", configuration.userAgent)
        list.add("te", "trailers")
        if let timeout { list.add("grpc-timeout", Self.timeoutText(timeout)) }
        for (name, value) in metadata { list.add(name.lowercased(), value) }
        var provider = nghttp2_data_provider()
        provider.source.ptr = Unmanaged.passUnretained(call).toOpaque()
        provider.read_callback = { _, _, _, length, flags, source, _ in
            guard let flags, let pointer = source?.pointee.ptr else {
                return Int(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue)
            }
            return Unmanaged<ClientCall>.fromOpaque(pointer)._withUnsafeGuaranteedRef { call in
                ClientConnection.provide(call, length, flags)
            }
        }
        let stream = list.withFields { fields, count in
            nghttp2_submit_request(session, nil, fields, count, &provider, nil)
        }
        guard stream > 0 else {
            call.closed(RPCStatus(.unavailable, "grpc: no stream could be opened (\(stream))"))
            return
        }
        call.connection = self
        call.streamID = stream
        calls[stream] = call
        if let timeout {
            call.deadlineTask = eventLoop.assumeIsolated().scheduleTask(in: timeout) {
                call.fail(.deadlineExceeded)
            }
        }
        wantFlush()
    }

    func send(_ call: ClientCall, _ message: [UInt8]) {
        guard call.connection != nil, !call.isFinishing else { return }
        call.output.append(message: message)
        if call.output.count > configuration.writeBufferHighWaterBytes { call.wasOverHighWater = true }
        wake(call)
    }

    func finishSending(_ call: ClientCall) {
        guard call.connection != nil, !call.isFinishing else { return }
        call.isFinishing = true
        wake(call)
    }

    func reset(_ call: ClientCall) {
        guard let session else { return }
        nghttp2_submit_rst_stream(session, 0, call.streamID, HTTP2ErrorCode.cancel.rawValue)
        wantFlush()
    }

    /// The owner has taken so many message bytes (with their prefixes).
    func consumed(_ call: ClientCall, _ bytes: Int) {
        call.queuedBytes -= bytes
        openWindow(call)
    }

    private func openWindow(_ call: ClientCall) {
        guard let session, call.connection != nil, call.heldBytes > 0,
            call.queuedBytes <= configuration.streamWindowBytes / 2
        else { return }
        nghttp2_session_consume_stream(session, call.streamID, call.heldBytes)
        call.heldBytes = 0
        wantFlush()
    }

    private func wake(_ call: ClientCall) {
        guard let session else { return }
        if call.isDeferred {
            call.isDeferred = false
            nghttp2_session_resume_data(session, call.streamID)
        }
        wantFlush()
    }

    private static func provide(
        _ call: ClientCall, _ length: Int, _ flags: UnsafeMutablePointer<UInt32>
    ) -> Int {
        let available = call.output.count
        if available == 0, !call.isFinishing {
            call.isDeferred = true
            return Int(NGHTTP2_ERR_DEFERRED.rawValue)
        }
        if available > 0 { flags.pointee |= NGHTTP2_DATA_FLAG_NO_COPY.rawValue }
        if available <= length, call.isFinishing { flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue }
        return min(available, length)
    }

    /// As the header wants it: at most eight digits.
    static func timeoutText(_ timeout: TimeAmount) -> String {
        let nanoseconds = max(0, timeout.nanoseconds)
        let units: [(Int64, String)] = [
            (1, "n"), (1000, "u"), (1_000_000, "m"), (1_000_000_000, "S"), (60_000_000_000, "M"),
        ]
        for (unit, letter) in units {
            let number = nanoseconds / unit + (nanoseconds % unit > 0 ? 1 : 0)
            if number <= 99_999_999 { return "\(number)\(letter)" }
        }
        return "\(nanoseconds / 3_600_000_000_000)H"
    }

    // MARK: Output

    private func wantFlush() {
        if isReading || isFlushing || isMarked { return }
        isMarked = true
        eventLoop.execute { [self] in
            isMarked = false
            flush()
        }
    }

    private func flush() {
        guard !isFlushing, !isReading, let context, context.channel.isActive else { return }
        isFlushing = true
        var isMore = true
        while isMore, let session, context.channel.isWritable {
            out = context.channel.allocator.buffer(capacity: 4096)
            isMore = collect(session)
            if out.readableBytes > 0 {
                let piece = out
                out = ByteBuffer()
                context.write(wrapOutboundOut(piece), promise: nil)
                context.flush()
            }
        }
        isFlushing = false
        if let session, nghttp2_session_want_read(session) == 0,
            nghttp2_session_want_write(session) == 0
        {
            context.close(promise: nil)
        }
    }

    private func collect(_ session: OpaquePointer) -> Bool {
        outIsFull = false
        while out.readableBytes < Self.writeChunkBytes {
            var bytes: UnsafePointer<UInt8>?
            let length = nghttp2_session_mem_send(session, &bytes)
            if length < 0 {
                context?.close(promise: nil)
                return false
            }
            if length == 0 { return outIsFull }
            out.writeBytes(UnsafeRawBufferPointer(start: bytes, count: length))
        }
        return true
    }

    func onSendData(_ call: ClientCall, _ head: UnsafePointer<UInt8>, _ length: Int) -> Int32 {
        if out.readableBytes >= Self.writeChunkBytes {
            outIsFull = true
            return NGHTTP2_ERR_WOULDBLOCK.rawValue
        }
        guard length <= call.output.count else { return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue }
        out.writeBytes(UnsafeRawBufferPointer(start: head, count: 9))
        call.output.drain(length, into: &out)
        if call.wasOverHighWater,
            call.output.count <= configuration.writeBufferHighWaterBytes / 2
        {
            call.wasOverHighWater = false
            eventLoop.assumeIsolated().execute { call.noteWritable() }
        }
        return 0
    }

    // MARK: What nghttp2 reports

    func onHeader(_ stream: Int32, _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        calls[stream]?.received(header: name, value, limit: configuration.maxHeaderListBytes)
    }

    func onData(_ stream: Int32, _ bytes: UnsafeRawBufferPointer) {
        guard let session else { return }
        nghttp2_session_consume_connection(session, bytes.count)
        guard let call = calls[stream] else { return }
        call.heldBytes += bytes.count
        call.received(bytes, maxMessageBytes: configuration.maxReceiveMessageBytes)
        openWindow(call)
    }

    func onGoAway() { sawGoAway = true }

    func onStreamClosed(_ stream: Int32, _ code: UInt32) {
        guard let call = calls.removeValue(forKey: stream) else { return }
        call.closed(Self.status(reset: code))
    }

    private static func status(reset code: UInt32) -> RPCStatus {
        let text = "stream terminated by RST_STREAM with error code: \(code)"
        switch HTTP2ErrorCode(rawValue: code) {
        case .noError: return RPCStatus(.internal, "server closed the stream without sending trailers")
        case .refusedStream: return RPCStatus(.unavailable, text)
        case .cancel: return RPCStatus(.cancelled, text)
        case .enhanceYourCalm: return RPCStatus(.resourceExhausted, text)
        case .inadequateSecurity: return RPCStatus(.permissionDenied, text)
        default: return RPCStatus(.internal, text)
        }
    }
}
