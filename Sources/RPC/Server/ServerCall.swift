import CNGHTTP2
import NIOCore

/// One call: one HTTP/2 stream of one connection.
///
/// Confined to its event loop. Other threads may hold a reference, as a token to bring a result
/// back with (`LoopOutbox`), but must not touch any member; that is all the Sendable mark allows.
/// Every method may be called at any time on the loop: once `isOpen` is false they do nothing, so
/// a late result needs no check.
package final class ServerCall: DeadlineEntry, @unchecked Sendable {
    /// How far the request has been read.
    enum RequestState: UInt8 {
        /// The header block is not complete.
        case head
        /// Messages may follow.
        case reading
        /// The one message of a unary call lies in `assembly`, waiting for the end of the stream.
        case held
        /// The end of the stream has been seen, or the unary handler has been called.
        case complete
        /// The call is answered; whatever still comes is dropped.
        case discarding
    }

    enum ResponseState: UInt8 {
        case none
        /// Headers are submitted, messages may follow.
        case open
        /// Headers are submitted and the status is known; it follows the queued messages.
        case finishing
        /// Nothing more will be submitted.
        case done
    }

    unowned(unsafe) package let loop: ServerLoop
    /// Set while the stream exists.
    unowned(unsafe) var connection: ServerConnection?
    var streamID: Int32 = 0
    var entry: RouteTable.Entry?
    package internal(set) var method = MethodID(rawValue: 0)
    /// Receives the stream's events; also useful on a unary call whose owner wants `closed`.
    package var handler: (any CallHandler)?
    package var userState: AnyObject?
    package internal(set) var metadata = CallMetadata()
    /// From `grpc-timeout`; the call is then answered with DeadlineExceeded by itself.
    package internal(set) var deadline: NIODeadline?
    /// When the request head arrived, to the precision of one read.
    package internal(set) var arrivedAt = NIODeadline.uptimeNanoseconds(0)

    var head = RequestHead()
    var requestState = RequestState.head
    var responseState = ResponseState.none
    /// The peer has ended its side of the stream, and all of it has been received.
    var remoteEnded = false
    /// The DATA frame being received ends the peer's side.
    var endIsAnnounced = false
    /// The data provider has nothing and waits to be resumed.
    var isDeferred = false
    var wasOverHighWater = false
    var isReceivingPaused = false
    var isDelivering = false
    var unconsumedBytes = 0
    /// Incomplete messages (or, while paused, whole ones).
    var assembly: [UInt8] = []
    var assemblyCharge = 0
    /// Length of the held unary message with its prefix.
    var heldLength = 0
    var output = OutputQueue()
    private var outputCharge = 0
    /// When unsent bytes last moved; for the stall limit.
    var progressAt = NIODeadline.uptimeNanoseconds(0)
    package internal(set) var status = RPCStatus.ok
    var trailers: [(String, String)] = []
    unowned(unsafe) var nextCall: ServerCall?
    unowned(unsafe) var previousCall: ServerCall?

    init(loop: ServerLoop) {
        self.loop = loop
    }

    // MARK: What handlers may ask

    /// The code the call was answered with; `ok` before that.
    package var code: RPCCode { status.code }

    package var loopIndex: Int { loop.index }

    package var peer: PeerAddress { connection?.peer ?? PeerAddress(nil) }

    /// What a handler keeps with the connection, for all its calls; nil, and not kept, once the call is closed.
    package var connectionState: AnyObject? {
        get { connection?.userState }
        set { connection?.userState = newValue }
    }

    /// Whether a message or a status can still be sent.
    package var isOpen: Bool { connection != nil && responseState.rawValue < 2 }

    /// Bytes sent by the handler that have not gone to the socket.
    package var bufferedBytes: Int { output.count }

    /// False above the high-water mark; `CallHandler.writable` tells when it changes back.
    package var isWritable: Bool { !wasOverHighWater }

    /// The value of `:authority`, the host that the client believes it speaks to.
    package var authority: String? { metadata.string(":authority") }

    // MARK: Answering

    /// Answers a unary call with its one message and status OK.
    package func respond(_ message: UnsafeRawBufferPointer) {
        guard canRespond(message.count) else { return }
        output.append(message: message)
        finishResponse()
    }

    /// Answers a unary call with its one message and status OK; a large array is not copied.
    package func respond(_ message: [UInt8]) {
        guard canRespond(message.count) else { return }
        output.append(message: message)
        finishResponse()
    }

    /// Answers with a message made of private bytes and a shared block, and status OK.
    package func respond(head: UnsafeRawBufferPointer, shared: SharedBytes) {
        guard canRespond(head.count + shared.count) else { return }
        output.append(head: head, shared: shared)
        finishResponse()
    }

    /// Queues one message of a stream.
    package func send(_ message: UnsafeRawBufferPointer) {
        guard canSend() else { return }
        output.append(message: message)
        sent()
    }

    /// Queues one message of a stream; a large array is not copied.
    package func send(_ message: [UInt8]) {
        guard canSend() else { return }
        output.append(message: message)
        sent()
    }

    /// Queues one message of a stream made of private bytes, which are copied, and a shared block,
    /// which is retained until it enters the connection's output.
    package func send(head: UnsafeRawBufferPointer, shared: SharedBytes) {
        guard canSend() else { return }
        output.append(head: head, shared: shared)
        sent()
    }

    /// Ends the call. Messages queued before go out first; without any, the answer is
    /// trailers-only. Trailer names must be lower case.
    package func finish(_ status: RPCStatus, trailers: [(String, String)] = []) {
        guard isOpen, let connection else { return }
        self.status = status
        if !trailers.isEmpty { self.trailers.append(contentsOf: trailers) }
        if responseState == .none {
            responseState = .done
            loop.disarm(self)
            connection.submitTrailersOnly(self)
        } else {
            responseState = .finishing
            wake(connection)
        }
        stopReading()
    }

    /// Ends the stream at once without a status, dropping what is queued.
    package func reset(_ code: HTTP2ErrorCode = .cancel) {
        guard let connection else { return }
        if status == .ok { status = RPCStatus(.cancelled, "stream reset by the server") }
        responseState = .done
        stopReading()
        dropOutput()
        connection.submitReset(self, code)
    }

    /// Stops the delivery of messages; the peer may then send at most one more window.
    package func pauseReceiving() {
        isReceivingPaused = true
    }

    /// Delivers what has come meanwhile and goes on.
    package func resumeReceiving() {
        guard isReceivingPaused, let connection else { return }
        isReceivingPaused = false
        if isDelivering { return }
        parseAssembly(connection)
        guard !isReceivingPaused, self.connection != nil else { return }
        if unconsumedBytes > 0 {
            connection.consumeStream(streamID, unconsumedBytes)
            unconsumedBytes = 0
        }
        if remoteEnded { noteRemoteEnd() }
    }

    /// Adds trailing metadata to whatever answer follows. Names must be lower case.
    package func addTrailers(_ more: [(String, String)]) {
        if isOpen { trailers.append(contentsOf: more) }
    }

    // MARK: Output, called by the connection

    private func canSend() -> Bool {
        guard isOpen, let entry else { return false }
        loop.statistics.messagesSent[entry.method.rawValue] &+= 1
        return true
    }

    private func canRespond(_ size: Int) -> Bool {
        guard canSend(), let connection else { return false }
        if size >= 4096, responseState == .none, connection.isOverBuffered {
            finish(
                RPCStatus(
                    .resourceExhausted, "grpc: too many unread response bytes on this connection"))
            return false
        }
        return true
    }

    private func finishResponse() {
        guard let connection else { return }
        let begun = responseState == .open
        responseState = .finishing
        stopReading()
        chargeOutput()
        if begun { wake(connection) } else { connection.submitHead(self) }
    }

    private func sent() {
        guard let connection else { return }
        chargeOutput()
        if output.count > loop.configuration.writeBufferHighWaterBytes { wasOverHighWater = true }
        if responseState == .none {
            responseState = .open
            connection.submitHead(self)
        } else {
            wake(connection)
        }
    }

    private func wake(_ connection: ServerConnection) {
        if isDeferred {
            isDeferred = false
            connection.resume(self)
        }
    }

    /// Brings the connection's and loop's count of unsent bytes up to date.
    func chargeOutput() {
        let change = output.count - outputCharge
        if outputCharge == 0 { progressAt = loop.now }
        outputCharge = output.count
        connection?.bufferedBytes += change
        loop.bufferedBytes += change
    }

    private func dropOutput() {
        output.removeAll()
        chargeOutput()
    }

    // MARK: Life

    /// The whole header block has arrived and names a known method.
    func begin(_ entry: RouteTable.Entry) {
        self.entry = entry
        method = entry.method
        requestState = .reading
        loop.statistics.started[entry.method.rawValue] &+= 1
        if let deadline {
            if deadline <= loop.now {
                finish(.deadlineExceeded)
                return
            }
            loop.arm(self, at: deadline)
        }
        if let stream = entry.stream {
            let made = stream(self)
            if let made { handler = made }
        }
    }

    override func deadlinePassed() {
        guard connection != nil else { return }
        if responseState == .none || (responseState == .open && output.count == 0) {
            finish(.deadlineExceeded)
        } else {
            status = .deadlineExceeded
            reset(.cancel)
        }
    }

    /// The stream is gone. Runs once per stream.
    func closed() {
        loop.disarm(self)
        if let entry {
            let code =
                responseState == .done || responseState == .finishing
                ? status.code : RPCCode.cancelled
            loop.statistics.handled[entry.method.rawValue * 17 + Int(code.rawValue)] &+= 1
        }
        responseState = .done
        requestState = .discarding
        dropOutput()
        dropAssembly()
        connection = nil
        if let handler {
            self.handler = nil
            handler.closed(self)
        }
        userState = nil
        metadata.removeAll()
    }

    /// Makes a closed call as good as new.
    func prepareForReuse() {
        entry = nil
        handler = nil
        userState = nil
        deadline = nil
        head = RequestHead()
        requestState = .head
        responseState = .none
        remoteEnded = false
        endIsAnnounced = false
        isDeferred = false
        wasOverHighWater = false
        isReceivingPaused = false
        isDelivering = false
        unconsumedBytes = 0
        heldLength = 0
        status = .ok
        if !trailers.isEmpty { trailers = [] }
    }
}

extension RPCStatus {
    static let deadlineExceeded = RPCStatus(.deadlineExceeded, "context deadline exceeded")
    // The texts of grpc-go's stream.go.
    static let tooManyRequestMessages = RPCStatus(
        .internal,
        "cardinality violation: received multiple request messages for non-client-streaming RPC")
    static let noRequestMessage = RPCStatus(
        .internal,
        "cardinality violation: received no request message from non-client-streaming RPC")
}
