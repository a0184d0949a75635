import CNGHTTP2
import NIOCore

/// What a stream reports to its owner, on the connection's loop.
package enum ClientStreamEvent: Sendable {
    /// One whole response message.
    case message([UInt8])
    /// The unsent bytes fell below half of the high-water mark.
    case writable
    /// The end, exactly once: the status, and trailers (or headers of a trailers-only answer).
    case closed(RPCStatus, trailers: [(name: String, value: String)])
}

/// The client's side of one stream; confined to its connection's loop.
final class ClientCall {
    unowned(unsafe) var connection: ClientConnection?
    var streamID: Int32 = 0
    var output = OutputQueue()
    var isFinishing = false
    var isDeferred = false
    var wasOverHighWater = false
    var deadlineTask: Scheduled<Void>?
    /// False when the owner queues messages and says when it has taken them.
    let consumesAtOnce: Bool
    /// Bytes of messages in the owner's queue, and bytes received but not returned to the window.
    /// An incomplete message is always let through, so one longer than the window can arrive.
    var queuedBytes = 0
    var heldBytes = 0
    /// Dropped with the last event: it usually refers back to whoever holds this call.
    private var event: ((ClientStreamEvent) -> Void)?

    private var httpStatus = 0
    private var contentTypeIsGRPC = false
    private var grpcStatus: Int?
    private var grpcMessage = ""
    private var trailers: [(name: String, value: String)] = []
    private var headerBytes = 0
    private var assembly: [UInt8] = []
    private var failure: RPCStatus?
    private var isClosed = false

    init(consumesAtOnce: Bool, event: @escaping (ClientStreamEvent) -> Void) {
        self.consumesAtOnce = consumesAtOnce
        self.event = event
    }

    func received(
        header name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, limit: Int
    ) {
        headerBytes += name.count + value.count + 32
        if headerBytes > limit {
            fail(RPCStatus(.resourceExhausted, "grpc: response header list too large"))
            return
        }
        if name.equals(":status") {
            httpStatus = Int(String(decoding: value, as: UTF8.self)) ?? 0
        } else if name.equals("content-type") {
            contentTypeIsGRPC = value.hasPrefix("application/grpc")
        } else if name.equals("grpc-status") {
            grpcStatus = Int(String(decoding: value, as: UTF8.self)) ?? Int(RPCCode.unknown.rawValue)
        } else if name.equals("grpc-message") {
            grpcMessage = RPCStatus.percentDecoded(value)
        } else {
            trailers.append(
                (String(decoding: name, as: UTF8.self), String(decoding: value, as: UTF8.self)))
        }
    }

    /// Takes response bytes and reports whole messages.
    func received(_ chunk: UnsafeRawBufferPointer, maxMessageBytes: Int) {
        if failure != nil || isClosed { return }
        if assembly.isEmpty {
            let used = parse(chunk, maxMessageBytes)
            if failure == nil, used < chunk.count {
                assembly.append(contentsOf: UnsafeRawBufferPointer(rebasing: chunk[used...]))
            }
            return
        }
        assembly.append(contentsOf: chunk)
        if let needed = neededBytes(), assembly.count < needed { return }
        let taken = assembly
        assembly = []
        let used = taken.withUnsafeBytes { parse($0, maxMessageBytes) }
        if failure == nil, used < taken.count { assembly = Array(taken[used...]) }
    }

    private func neededBytes() -> Int? {
        guard assembly.count >= 5 else { return 5 }
        let length = assembly.withUnsafeBytes {
            UInt32(bigEndian: $0.loadUnaligned(fromByteOffset: 1, as: UInt32.self))
        }
        // An overlong one must reach `parse` to be refused.
        return length > UInt32(Int32.max) ? nil : 5 + Int(length)
    }

    private func parse(_ bytes: UnsafeRawBufferPointer, _ maxMessageBytes: Int) -> Int {
        var offset = 0
        while bytes.count - offset >= 5 {
            let length = Int(
                UInt32(
                    bigEndian: bytes.loadUnaligned(fromByteOffset: offset + 1, as: UInt32.self)))
            if bytes[offset] != 0 {
                fail(
                    RPCStatus(
                        .internal, "grpc: compressed flag set with identity or empty encoding"))
                return offset
            }
            if length > maxMessageBytes {
                fail(
                    RPCStatus(
                        .resourceExhausted,
                        "grpc: received message larger than max (\(length) vs. \(maxMessageBytes))"))
                return offset
            }
            guard bytes.count - offset - 5 >= length else { break }
            if !consumesAtOnce { queuedBytes += 5 + length }
            event?(.message(Array(bytes[offset + 5..<offset + 5 + length])))
            offset += 5 + length
        }
        return offset
    }

    /// Ends the call from our side with this status.
    func fail(_ status: RPCStatus) {
        guard failure == nil, !isClosed else { return }
        failure = status
        output.removeAll()
        isFinishing = true
        connection?.reset(self)
    }

    func noteWritable() {
        event?(.writable)
    }

    /// The stream is gone; `lost` is the status if the server sent none.
    func closed(_ lost: RPCStatus) {
        guard !isClosed else { return }
        isClosed = true
        connection = nil
        deadlineTask?.cancel()
        deadlineTask = nil
        output.removeAll()
        event?(.closed(finalStatus(lost), trailers: trailers))
        event = nil
    }

    private func finalStatus(_ lost: RPCStatus) -> RPCStatus {
        if let failure { return failure }
        if let grpcStatus {
            let code = UInt8(exactly: grpcStatus).flatMap(RPCCode.init(rawValue:)) ?? .unknown
            if code == .ok, !assembly.isEmpty { return RPCStatus(.internal, "unexpected EOF") }
            return RPCStatus(code, grpcMessage)
        }
        if httpStatus != 0, httpStatus != 200 {
            return RPCStatus(
                Self.code(httpStatus: httpStatus),
                "unexpected HTTP status code received from server: \(httpStatus)")
        }
        if httpStatus == 200, !contentTypeIsGRPC {
            return RPCStatus(.unknown, "transport: the answer is not application/grpc")
        }
        return lost
    }

    /// gRPC's table "HTTP to gRPC status code mapping".
    private static func code(httpStatus: Int) -> RPCCode {
        switch httpStatus {
        case 400: .internal
        case 401: .unauthenticated
        case 403: .permissionDenied
        case 404: .unimplemented
        case 429, 502, 503, 504: .unavailable
        default: .unknown
        }
    }
}
