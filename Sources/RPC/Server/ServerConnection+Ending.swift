import CNGHTTP2
import NIOCore

// How a connection ends: by its peer's silence or misdeeds, idle, drained or torn down.

extension ServerConnection {
    /// The second GOAWAY follows at the latest this long after the first.
    private static let drainPingTimeout = TimeAmount.seconds(1)
    /// Tells the drain's ping from others.
    static let drainPing: [UInt8] = [0x6D, 0x72, 0x64, 0x72, 0x61, 0x69, 0x6E, 0x31]

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
            violate(.init(code: .settingsTimeout, text: "handshake or header timeout"))
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

    func finishDrainAnnouncement() {
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

    /// Ends our side, then discards input for a while: closing a socket with unread input makes
    /// the kernel send a reset, which would overtake the GOAWAY.
    func linger(_ context: ChannelHandlerContext) {
        if case .lingering = phase { return }
        if case .closed = phase { return }
        phase = .lingering(.now() + loop.configuration.lingerTimeout)
        releaseStreams()
        context.writeAndFlush(wrapOutboundOut(ByteBuffer())).assumeIsolated().whenComplete { _ in
            context.close(mode: .output, promise: nil)
        }
    }

    func endForViolation(_ context: ChannelHandlerContext) {
        guard let violation else { return }
        if case .lingering = phase { return }
        loop.statistics.connectionsRefused &+= 1
        let last = session.map { nghttp2_session_get_last_proc_stream_id($0) } ?? 0
        context.write(
            wrapOutboundOut(goAwayFrame(last: last, code: violation.code, text: violation.text)),
            promise: nil)
        linger(context)
    }

    private func releaseStreams() {
        while let user = firstCall.map({ Unmanaged.passUnretained($0).toOpaque() }) {
            if let session, let stream = firstCall?.streamID {
                nghttp2_session_set_stream_user_data(session, stream, nil)
            }
            release(user)
        }
    }

    func tearDown() {
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
