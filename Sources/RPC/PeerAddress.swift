import NIOCore

/// Where a connection comes from: `127.0.0.1:52110`, or the path of a Unix socket.
package struct PeerAddress: Sendable, CustomStringConvertible {
    package let socketAddress: SocketAddress?

    init(_ address: SocketAddress?) { socketAddress = address }

    /// Whether the peer is on this machine: loopback, or a Unix socket.
    package var isLocal: Bool {
        guard let socketAddress else { return false }
        if socketAddress.pathname != nil { return true }
        guard let host = socketAddress.ipAddress else { return false }
        return host == "::1" || host.hasPrefix("127.") || host.hasPrefix("::ffff:127.")
    }

    package var description: String {
        guard let socketAddress else { return "unknown" }
        if let path = socketAddress.pathname { return path.isEmpty ? "unix" : path }
        let host = socketAddress.ipAddress ?? "?"
        let port = socketAddress.port.map(String.init) ?? "?"
        return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
}
