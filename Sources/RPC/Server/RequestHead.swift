import CNGHTTP2
import NIOCore

/// What is remembered of a request's header block until it is complete.
struct RequestHead {
    /// Answered instead of calling a handler; the HTTP status is 200 where gRPC's own suffices.
    struct Refusal {
        let httpStatus: Int
        let status: RPCStatus
    }

    var entry: RouteTable.Entry?
    var unknownPath: RPCStatus?
    var isPost = false
    var isGRPC = false
    /// A name or value that HTTP/2 does not allow; the stream is reset.
    var isMalformed = false
    var refusal: Refusal?
    var timeoutNanoseconds: UInt64?
    /// `grpc-encoding: gzip`: messages with the flag are compressed.
    var isGzip = false
    /// Header list size by RFC 9113 6.5.2.
    var listBytes = 0

    /// The refusal of a complete header block, in grpc-go's order (http2_server.go,
    /// operateHeaders; then server.go, handleStream).
    func finalRefusal() -> Refusal? {
        if !isGRPC {
            return refusal?.httpStatus == 415
                ? refusal
                : Refusal(
                    httpStatus: 415,
                    status: RPCStatus(.invalidArgument, "invalid gRPC request content-type \"\""))
        }
        if let refusal, refusal.httpStatus == 400 { return refusal }
        if !isPost {
            return Refusal(
                httpStatus: 405,
                status: RPCStatus(
                    .internal, "Received a HEADERS frame with a :method which should be POST"))
        }
        if let unknownPath { return Refusal(httpStatus: 200, status: unknownPath) }
        if let refusal { return refusal }
        if entry == nil {
            return Refusal(
                httpStatus: 200, status: RPCStatus(.unimplemented, "malformed method name: \"\""))
        }
        return nil
    }
}

extension ServerCall {
    /// Takes one header of the request block. The buffers are nghttp2's counted ones.
    func received(header name: OpaquePointer, _ value: OpaquePointer) {
        let nameBytes = rcbufBytes(name)
        let valueBytes = rcbufBytes(value)
        switch nameBytes.count {
        case 2 where nameBytes.equals("te"):
            return
        case 5 where nameBytes.equals(":path"):
            if let entry = loop.routes.find(valueBytes) {
                head.entry = entry
            } else {
                head.unknownPath = loop.routes.unknownPathStatus(valueBytes)
            }
            return
        case 7 where nameBytes.equals(":method"):
            head.isPost = valueBytes.equals("POST")
            return
        case 7 where nameBytes.equals(":scheme"):
            return
        case 12 where nameBytes.equals("content-type"):
            head.isGRPC = Self.isGRPCContentType(valueBytes)
            if !head.isGRPC {
                let text = String(decoding: valueBytes, as: UTF8.self)
                refuse(415, .invalidArgument, "invalid gRPC request content-type \"\(text)\"")
            }
            return
        case 12 where nameBytes.equals("grpc-timeout"):
            head.timeoutNanoseconds = Self.parseTimeout(valueBytes)
            if head.timeoutNanoseconds == nil {
                let text = String(decoding: valueBytes, as: UTF8.self)
                refuse(400, .internal, "malformed grpc-timeout: \"\(text)\"")
            }
            return
        case 13 where nameBytes.equals("grpc-encoding"):
            head.isGzip = valueBytes.equals("gzip")
            if !head.isGzip, !valueBytes.equals("identity"), valueBytes.count > 0 {
                let text = String(decoding: valueBytes, as: UTF8.self)
                refuse(
                    200, .unimplemented,
                    "grpc: Decompressor is not installed for grpc-encoding \"\(text)\"")
            }
            return
        case 14 where nameBytes.equals("content-length"):
            return
        case 20 where nameBytes.equals("grpc-accept-encoding"):
            return
        case 10 where nameBytes.equals(":authority"):
            // Not checked: clients put whole URLs here.
            metadata.append(name: name, value: value)
        default:
            guard Self.isAllowed(nameBytes, valueBytes) else {
                head.isMalformed = true
                return
            }
            metadata.append(name: name, value: value)
        }
    }

    /// Lower-case token and visible value (RFC 9113 8.2.1); other pseudo-headers do not exist.
    private static func isAllowed(
        _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) -> Bool {
        if name.count > 0 && name[0] == UInt8(ascii: ":") { return false }
        return nghttp2_check_header_name(name.baseAddress, name.count) != 0
            && nghttp2_check_header_value(value.baseAddress, value.count) != 0
    }

    private func refuse(_ httpStatus: Int, _ code: RPCCode, _ message: String) {
        if head.refusal == nil {
            head.refusal = .init(httpStatus: httpStatus, status: RPCStatus(code, message))
        }
    }

    /// `application/grpc`, alone or followed by `+codec` or `;parameter`.
    private static func isGRPCContentType(_ value: UnsafeRawBufferPointer) -> Bool {
        guard value.hasPrefix("application/grpc") else { return false }
        if value.count == 16 { return true }
        let next = value[16]
        return next == UInt8(ascii: "+") || next == UInt8(ascii: ";")
    }

    /// At most eight digits and a unit: H, M, S, m, u or n.
    static func parseTimeout(_ text: UnsafeRawBufferPointer) -> UInt64? {
        guard text.count >= 2, text.count <= 9 else { return nil }
        var number: UInt64 = 0
        for index in 0..<text.count - 1 {
            let digit = text[index]
            guard digit >= 0x30, digit <= 0x39 else { return nil }
            number = number &* 10 &+ UInt64(digit - 0x30)
        }
        // Eight digits of hours in nanoseconds still fit 64 bits: 3.6e20 does not, so cap.
        let unit: UInt64
        switch text[text.count - 1] {
        case UInt8(ascii: "H"): unit = 3_600_000_000_000
        case UInt8(ascii: "M"): unit = 60_000_000_000
        case UInt8(ascii: "S"): unit = 1_000_000_000
        case UInt8(ascii: "m"): unit = 1_000_000
        case UInt8(ascii: "u"): unit = 1000
        case UInt8(ascii: "n"): unit = 1
        default: return nil
        }
        let product = number.multipliedReportingOverflow(by: unit)
        return product.overflow ? maxTimeout : min(product.partialValue, maxTimeout)
    }

    /// A century; longer timeouts mean the same and must not overflow the clock.
    private static let maxTimeout: UInt64 = 3_155_760_000_000_000_000
}
