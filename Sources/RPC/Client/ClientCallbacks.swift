import CNGHTTP2

/// The C callbacks of a client session; see `ServerCallbacks` for how they find their connection.
final class ClientCallbacks {
    let callbacks: OpaquePointer
    let options: OpaquePointer

    init() {
        var callbacks: OpaquePointer?
        var options: OpaquePointer?
        nghttp2_session_callbacks_new(&callbacks)
        nghttp2_option_new(&options)
        guard let callbacks, let options else {
            preconditionFailure("no memory for HTTP/2 callbacks")
        }
        self.callbacks = callbacks
        self.options = options
        nghttp2_option_set_no_auto_window_update(options, 1)
        nghttp2_option_set_no_closed_streams(options, 1)
        nghttp2_session_callbacks_set_on_header_callback2(callbacks) {
            _, frame, name, value, _, user in
            guard let frame, let name, let value, let user else { return 0 }
            withClient(user) {
                $0.onHeader(frameHeader(frame).stream_id, rcbufBytes(name), rcbufBytes(value))
            }
            return 0
        }
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks) {
            _, _, stream, data, length, user in
            guard let data, let user else { return 0 }
            withClient(user) { $0.onData(stream, UnsafeRawBufferPointer(start: data, count: length)) }
            return 0
        }
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks) { _, frame, user in
            guard let frame, let user else { return 0 }
            if UInt32(frameHeader(frame).type) == NGHTTP2_GOAWAY.rawValue {
                withClient(user) { $0.onGoAway() }
            }
            return 0
        }
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks) { _, stream, code, user in
            guard let user else { return 0 }
            withClient(user) { $0.onStreamClosed(stream, code) }
            return 0
        }
        nghttp2_session_callbacks_set_send_data_callback(callbacks) {
            _, _, head, length, source, user in
            guard let head, let user, let pointer = source?.pointee.ptr else {
                return NGHTTP2_ERR_CALLBACK_FAILURE.rawValue
            }
            return Unmanaged<ClientConnection>.fromOpaque(user)._withUnsafeGuaranteedRef { owner in
                Unmanaged<ClientCall>.fromOpaque(pointer)._withUnsafeGuaranteedRef {
                    owner.onSendData($0, head, length)
                }
            }
        }
    }

    deinit {
        nghttp2_session_callbacks_del(callbacks)
        nghttp2_option_del(options)
    }
}

private func withClient(_ user: UnsafeMutableRawPointer, _ body: (ClientConnection) -> Void) {
    Unmanaged<ClientConnection>.fromOpaque(user)._withUnsafeGuaranteedRef(body)
}
