import NIOCore

/// Every bound of the server, each with the reason for its default.
package struct RPCServerConfiguration: Sendable {
    // MARK: Messages

    /// Longest request message in bytes. etcd: max-request-bytes (1.5 MiB) plus 512 KiB for gRPC
    /// overhead; longer ones are answered ResourceExhausted.
    package var maxReceiveMessageBytes = 1_572_864 + 524_288
    /// Bytes of incomplete request messages one connection may have us hold.
    package var maxPartialBytesPerConnection = 64 << 20
    /// Bytes of incomplete request messages all connections of one loop may have us hold.
    package var maxPartialBytesPerLoop = 256 << 20

    // MARK: Streams and windows

    /// Open streams per connection, announced in SETTINGS. etcd allows 2^32−1; this is far above
    /// what a client library opens and still bounds what one connection can cost.
    package var maxConcurrentStreams = 16_384
    /// Receive window of each stream in bytes; a whole default-sized request fits twice.
    package var initialWindowBytes = 1 << 20
    /// Receive window of each connection in bytes.
    package var connectionWindowBytes = 8 << 20
    /// Size of one request's header list (names + values + 32 each, RFC 9113 6.5.2). Room for
    /// large tokens.
    package var maxHeaderListBytes = 64 << 10

    // MARK: Output

    /// Above this many unsent bytes a streaming call reports that it is not writable.
    package var writeBufferHighWaterBytes = 256 << 10
    /// Below this many unsent bytes it becomes writable again.
    package var writeBufferLowWaterBytes = 64 << 10
    /// Unsent response bytes per connection; above it, responses of 4 KiB or more are replaced by
    /// ResourceExhausted until the peer reads. One response may exceed it alone.
    package var maxBufferedBytesPerConnection = 64 << 20
    /// The same for all connections of one loop.
    package var maxBufferedBytesPerLoop = 512 << 20
    /// A stream whose unsent bytes have not moved for this long is reset.
    package var stalledStreamTimeout = TimeAmount.minutes(5)
    /// A connection whose socket has taken nothing for this long is closed.
    package var stalledConnectionTimeout = TimeAmount.minutes(2)

    // MARK: Ping policy (etcd: grpc-keepalive-*)

    /// Client pings closer together than this are strikes; more than two strikes end the
    /// connection with ENHANCE_YOUR_CALM "too_many_pings". Sending headers or data clears them.
    package var keepaliveMinInterval = TimeAmount.seconds(5)
    /// Whether clients may ping at that rate without an open stream; otherwise 2 h apart.
    package var keepalivePermitWithoutStream = false
    /// Silence after which the server pings.
    package var keepaliveInterval = TimeAmount.hours(2)
    /// How long that ping may stay unanswered.
    package var keepaliveTimeout = TimeAmount.seconds(20)

    // MARK: Time limits

    /// From accept to a complete HTTP/2 preface with SETTINGS, or a complete HTTP/1 request head;
    /// also for each later HTTP/1 head and HTTP/2 header block once it has begun.
    package var handshakeTimeout = TimeAmount.seconds(10)
    /// From a request's head to its complete message (unary) or body (HTTP/1).
    package var requestReceiveTimeout = TimeAmount.minutes(2)
    /// A connection without a stream or request for this long is closed gracefully.
    package var idleTimeout = TimeAmount.hours(1)
    /// How long a drain waits for open calls before connections are cut.
    package var drainTimeout = TimeAmount.seconds(5)
    /// After an error, how long input is discarded so that the peer can read our GOAWAY.
    package var lingerTimeout = TimeAmount.seconds(1)
    /// How often the time limits above are checked; also their precision.
    package var sweepInterval = TimeAmount.seconds(1)

    // MARK: Abuse, per connection

    /// RST_STREAM frames from the peer: burst, refilled at `resetsPerSecond`. Enough for a client
    /// that cancels a thousand calls at once.
    package var maxResetBurst = 1000
    package var resetsPerSecond = 50
    /// Streams the peer's errors made us reset: burst, refilled at `provokedResetsPerSecond`.
    package var maxProvokedResetBurst = 200
    package var provokedResetsPerSecond = 10
    /// SETTINGS, PING, PRIORITY, WINDOW_UPDATE, unknown, empty and tiny DATA frames: burst,
    /// refilled each second; every frame we send earns `controlFrameCredit` more.
    package var maxControlFrameBurst = 10_000
    package var controlFramesPerSecond = 5000
    package var controlFrameCredit = 4
    /// DATA frames below this size that complete no message count as control frames.
    package var tinyDataFrameBytes = 64
    /// CONTINUATION frames after one HEADERS frame.
    package var maxContinuationFrames = 8
    /// Entries in one SETTINGS frame.
    package var maxSettingsEntries = 32

    // MARK: Connections

    /// Accepted connections; nil takes the descriptor limit less 150, as etcd does.
    package var maxConnections: Int? = nil
    /// Kernel queue of connections not accepted yet.
    package var listenBacklog: Int32 = 1024

    // MARK: HTTP/1.1 on the same port

    /// Bytes of request line and headers.
    package var maxHTTPHeadBytes = 64 << 10
    /// Bytes of request body.
    package var maxHTTPBodyBytes = 2 << 20

    package init() {}
}
