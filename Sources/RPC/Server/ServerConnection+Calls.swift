import CNGHTTP2

// What calls ask of their connection, and what nghttp2 asks of a call that has something to send.

extension ServerConnection {
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
