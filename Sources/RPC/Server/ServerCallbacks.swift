import CNGHTTP2

/// The tables of C callbacks and options that all server sessions of a loop share.
///
/// Every callback finds its connection through the session's user pointer. The connection outlives
/// its session, so nothing is retained or released on the way.
final class ServerCallbacks {
    let callbacks: OpaquePointer
    let options: OpaquePointer

    init(_ configuration: RPCServerConfiguration) {
        var callbacks: OpaquePointer?
        var options: OpaquePointer?
        nghttp2_session_callbacks_new(&callbacks)
        nghttp2_option_new(&options)
        guard let callbacks, let options else {
            preconditionFailure("no memory for HTTP/2 callbacks")
        }
        self.callbacks = callbacks
        self.options = options

        // Windows open as messages are taken, not as bytes arrive.
        nghttp2_option_set_no_auto_window_update(options, 1)
        nghttp2_option_set_no_closed_streams(options, 1)
        // grpc-go's clients put the endpoint as the user wrote it into `:authority`, scheme and all
        // ("http://127.0.0.1:2379", clientv3's Maintenance.Status); Go's server takes it, nghttp2
        // would end the stream. RequestHead decides what a request needs instead.
        nghttp2_option_set_no_http_messaging(options, 1)
        // Resets are counted by the connection, which answers with ENHANCE_YOUR_CALM.
        nghttp2_option_set_stream_reset_rate_limit(options, UInt64(UInt32.max), 1_000_000)
        nghttp2_option_set_max_continuations(options, configuration.maxContinuationFrames)
        nghttp2_option_set_max_settings(options, configuration.maxSettingsEntries)
        // Asking for all extension frames makes nghttp2 report (and us count) and then drop them.
        for type in 0x0A...0xFF {
            nghttp2_option_set_user_recv_extension_type(options, UInt8(type))
        }
        nghttp2_session_callbacks_set_unpack_extension_callback(callbacks) { _, _, _, _ in
            NGHTTP2_ERR_CANCEL.rawValue
        }

        nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks) { _, header, user in
            guard let header, let user else { return 0 }
            return withConnection(user) { $0.onBeginFrame(header.pointee) }
        }
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks) { _, frame, user in
            guard let frame, let user else { return 0 }
            return withConnection(user) { $0.onBeginHeaders(frame) }
        }
        nghttp2_session_callbacks_set_on_header_callback2(callbacks) {
            _, frame, name, value, _, user in
            guard let frame, let name, let value, let user else { return 0 }
            return withConnection(user) { $0.onHeader(frameHeader(frame).stream_id, name, value) }
        }
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks) { _, frame, user in
            guard let frame, let user else { return 0 }
            return withConnection(user) { $0.onFrameReceived(frame) }
        }
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks) {
            _, flags, stream, data, length, user in
            guard let data, let user else { return 0 }
            return withConnection(user) {
                $0.onData(
                    stream, UnsafeRawBufferPointer(start: data, count: length),
                    ends: flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0)
            }
        }
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks) { _, stream, _, user in
            guard let user else { return 0 }
            return withConnection(user) { $0.onStreamClosed(stream) }
        }
        nghttp2_session_callbacks_set_on_frame_send_callback(callbacks) { _, frame, user in
            guard let frame, let user else { return 0 }
            return withConnection(user) { $0.onFrameSent(frame) }
        }
        nghttp2_session_callbacks_set_send_data_callback(callbacks) {
            _, _, head, length, source, user in
            guard let head, let source, let user, let pointer = source.pointee.ptr else {
                return NGHTTP2_ERR_CALLBACK_FAILURE.rawValue
            }
            return withConnection(user) { connection in
                Unmanaged<ServerCall>.fromOpaque(pointer)._withUnsafeGuaranteedRef {
                    connection.onSendData($0, head, length)
                }
            }
        }
    }

    deinit {
        nghttp2_session_callbacks_del(callbacks)
        nghttp2_option_del(options)
    }
}

@inline(__always)
private func withConnection(
    _ user: UnsafeMutableRawPointer, _ body: (ServerConnection) -> Int32
) -> Int32 {
    Unmanaged<ServerConnection>.fromOpaque(user)._withUnsafeGuaranteedRef(body)
}

/// The header that every variant of nghttp2's frame union begins with.
@inline(__always)
func frameHeader(_ frame: UnsafePointer<nghttp2_frame>) -> nghttp2_frame_hd {
    UnsafeRawPointer(frame).assumingMemoryBound(to: nghttp2_frame_hd.self).pointee
}
