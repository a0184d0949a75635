import NIOCore

/// Which client pings are too many: grpc-go's rule, which etcd configures with a 5 s minimum
/// (grpc-go internal/transport/http2_server.go, handlePing).
///
/// Sending headers or data forgives all strikes, so the bandwidth probes that grpc clients send
/// while they receive data cost nothing.
struct PingPolicy {
    private static let maxStrikes = 2
    /// Closest spacing without an open stream.
    private static let idleInterval = TimeAmount.hours(2)

    private let minInterval: TimeAmount
    private let permitWithoutStream: Bool
    private var strikes = 0
    private var lastPing: NIODeadline?
    private var isForgiven = false

    init(_ configuration: RPCServerConfiguration) {
        minInterval = configuration.keepaliveMinInterval
        permitWithoutStream = configuration.keepalivePermitWithoutStream
    }

    /// The server has sent headers or data.
    mutating func sentHeadersOrData() {
        isForgiven = true
    }

    /// Notes a ping; false when the peer has broken the policy.
    mutating func allows(now: NIODeadline, openStreams: Int) -> Bool {
        defer { lastPing = now }
        if isForgiven {
            isForgiven = false
            strikes = 0
            return true
        }
        let spacing = openStreams == 0 && !permitWithoutStream ? Self.idleInterval : minInterval
        if let lastPing, lastPing + spacing > now { strikes += 1 }
        return strikes <= Self.maxStrikes
    }
}
