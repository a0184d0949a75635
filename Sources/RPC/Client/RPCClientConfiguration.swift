import NIOCore

/// The bounds of a client connection.
package struct RPCClientConfiguration: Sendable {
    package var connectTimeout = TimeAmount.seconds(5)
    /// Longest response message in bytes; etcd's own client takes 2^31−1.
    package var maxReceiveMessageBytes = Int(Int32.max)
    /// Receive windows in bytes; also what a stream that is not read holds in memory.
    package var streamWindowBytes = 4 << 20
    package var connectionWindowBytes = 16 << 20
    package var maxHeaderListBytes = 64 << 10
    /// Unsent bytes of a stream above which a blocking `send` waits.
    package var writeBufferHighWaterBytes = 1 << 20
    /// Silence after which the client pings, while it has calls open; nil never does. etcd refuses
    /// less than 5 s.
    package var keepaliveInterval: TimeAmount? = nil
    package var keepaliveTimeout = TimeAmount.seconds(20)
    /// Sent as `user-agent`.
    package var userAgent = "moonraft-rpc"

    package init() {}
}
