import NIOCore

/// Where a connection comes from: `127.0.0.1:52110`, or the path of a Unix socket.
package struct PeerAddress: Sendable, CustomStringConvertible {
    package let socketAddress: SocketAddress?

    init(_ address: SocketAddress?) { socketAddress = address }

    package var description: String {
        guard let socketAddress else { return "unknown" }
        if let path = socketAddress.pathname { return path.isEmpty ? "unix" : path }
        let host = socketAddress.ipAddress ?? "?"
        let port = socketAddress.port.map(String.init) ?? "?"
        return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
}
