/// The canonical gRPC status codes, with their numbers on the wire.
package enum RPCCode: UInt8, Sendable, CaseIterable {
    case ok = 0
    case cancelled = 1
    case unknown = 2
    case invalidArgument = 3
    case deadlineExceeded = 4
    case notFound = 5
    case alreadyExists = 6
    case permissionDenied = 7
    case resourceExhausted = 8
    case failedPrecondition = 9
    case aborted = 10
    case outOfRange = 11
    case unimplemented = 12
    case `internal` = 13
    case unavailable = 14
    case dataLoss = 15
    case unauthenticated = 16

    /// The name that gRPC libraries print, for example `DeadlineExceeded`.
    package var name: String {
        switch self {
        case .ok: "OK"
        case .cancelled: "Canceled"
        case .unknown: "Unknown"
        case .invalidArgument: "InvalidArgument"
        case .deadlineExceeded: "DeadlineExceeded"
        case .notFound: "NotFound"
        case .alreadyExists: "AlreadyExists"
        case .permissionDenied: "PermissionDenied"
        case .resourceExhausted: "ResourceExhausted"
        case .failedPrecondition: "FailedPrecondition"
        case .aborted: "Aborted"
        case .outOfRange: "OutOfRange"
        case .unimplemented: "Unimplemented"
        case .internal: "Internal"
        case .unavailable: "Unavailable"
        case .dataLoss: "DataLoss"
        case .unauthenticated: "Unauthenticated"
        }
    }
}

/// The outcome of a call: a code and a text for people.
///
/// The text travels percent-encoded in `grpc-message`; any Unicode text is allowed.
package struct RPCStatus: Error, Sendable, Equatable, CustomStringConvertible {
    package let code: RPCCode
    package let message: String

    package init(_ code: RPCCode, _ message: String) {
        self.code = code
        self.message = message
    }

    /// Success, without a text.
    package static let ok = RPCStatus(.ok, "")

    /// As clients of gRPC's Go library print it: `rpc error: code = NotFound desc = …`.
    package var description: String { "rpc error: code = \(code.name) desc = \(message)" }
}

extension RPCStatus {
    /// The text as `grpc-message` carries it: printable ASCII except `%` as is, every other byte
    /// of its UTF-8 form as `%XX` (gRPC over HTTP/2, "Responses").
    static func percentEncoded(_ text: String) -> [UInt8] {
        var out: [UInt8] = []
        out.reserveCapacity(text.utf8.count)
        for byte in text.utf8 {
            if byte >= 0x20, byte <= 0x7E, byte != 0x25 {
                out.append(byte)
            } else {
                out.append(0x25)
                out.append(hexDigit(byte >> 4))
                out.append(hexDigit(byte & 15))
            }
        }
        return out
    }

    /// Reverses `percentEncoded`; sequences that are not `%XX` stand for themselves.
    static func percentDecoded(_ bytes: some Collection<UInt8>) -> String {
        var out: [UInt8] = []
        out.reserveCapacity(bytes.count)
        let input = Array(bytes)
        var index = 0
        while index < input.count {
            if input[index] == 0x25, index + 2 < input.count,
                let high = hexValue(input[index + 1]), let low = hexValue(input[index + 2])
            {
                out.append(high << 4 | low)
                index += 3
            } else {
                out.append(input[index])
                index += 1
            }
        }
        return String(decoding: out, as: UTF8.self)
    }

    private static func hexDigit(_ nibble: UInt8) -> UInt8 {
        nibble < 10 ? 0x30 + nibble : 0x41 + nibble - 10
    }

    private static func hexValue(_ digit: UInt8) -> UInt8? {
        switch digit {
        case 0x30...0x39: digit - 0x30
        case 0x41...0x46: digit - 0x41 + 10
        case 0x61...0x66: digit - 0x61 + 10
        default: nil
        }
    }
}
