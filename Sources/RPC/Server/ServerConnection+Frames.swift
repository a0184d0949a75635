import CNGHTTP2
import NIOCore

// What nghttp2 reports while it reads and after it has written: frames, headers, data, and the ends
// of streams. A callback that does not return 0 stops the session.

extension ServerConnection {
    func call(_ stream: Int32) -> ServerCall? {
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
        verdict(peerGuard.begins(header, now: loop.now))
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
                return verdict(.init(code: .enhanceYourCalm, text: "header list too large"))
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
            if let violation = peerGuard.provoked("header list too large", now: loop.now) {
                violate(violation)
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
        return verdict(peerGuard.pinged(openStreams: openStreams, now: loop.now))
    }

    func onData(_ stream: Int32, _ bytes: UnsafeRawBufferPointer, ends: Bool) -> Int32 {
        guard let session else { return 0 }
        nghttp2_session_consume_connection(session, bytes.count)
        guard let call = call(stream) else { return 0 }
        if call.receive(bytes, ends: ends, self) { peerGuard.messageCompleted() }
        // Of inflated messages: nothing more of this read is looked at.
        return violation == nil ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE.rawValue
    }

    /// A call has taken a compressed message apart.
    func inflated(_ count: Int, from received: Int) {
        if let violation = peerGuard.inflated(count, from: received, now: loop.now) { violate(violation) }
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
    func release(_ user: UnsafeMutableRawPointer) {
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
            peerGuard.sentHeadersOrData()
            if header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0 {
                answerSent(header.stream_id)
            }
        case NGHTTP2_RST_STREAM.rawValue:
            let code = frame.pointee.rst_stream.error_code
            if code != HTTP2ErrorCode.noError.rawValue, code != HTTP2ErrorCode.cancel.rawValue {
                return verdict(peerGuard.provoked("too_many_stream_errors", now: loop.now))
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
}
