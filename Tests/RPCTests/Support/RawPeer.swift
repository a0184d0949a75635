import CNGHTTP2
import Foundation

@testable import RPC

/// A hand-made HTTP/2 frame.
struct RawFrame {
    var type: UInt8
    var flags: UInt8 = 0
    var stream: UInt32 = 0
    var payload: [UInt8] = []

    static let data: UInt8 = 0, headers: UInt8 = 1, priority: UInt8 = 2, reset: UInt8 = 3
    static let settings: UInt8 = 4, push: UInt8 = 5, ping: UInt8 = 6, goAway: UInt8 = 7
    static let windowUpdate: UInt8 = 8, continuation: UInt8 = 9
    static let endStream: UInt8 = 1, ack: UInt8 = 1, endHeaders: UInt8 = 4

    var bytes: [UInt8] {
        let length = payload.count
        return [
            UInt8(length >> 16 & 255), UInt8(length >> 8 & 255), UInt8(length & 255), type, flags,
            UInt8(stream >> 24 & 255), UInt8(stream >> 16 & 255), UInt8(stream >> 8 & 255),
            UInt8(stream & 255),
        ] + payload
    }

    /// The code of a GOAWAY or RST_STREAM.
    var errorCode: UInt32? {
        let offset = type == Self.goAway ? 4 : type == Self.reset ? 0 : nil as Int?
        guard let offset, payload.count >= offset + 4 else { return nil }
        return payload[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// The text of a GOAWAY.
    var debugText: String { String(decoding: payload.dropFirst(8), as: UTF8.self) }
}

func bigEndian(_ value: UInt32) -> [UInt8] {
    [UInt8(value >> 24), UInt8(value >> 16 & 255), UInt8(value >> 8 & 255), UInt8(value & 255)]
}

/// Headers as HPACK literals without indexing and without Huffman coding.
func hpack(_ fields: [(String, String)]) -> [UInt8] {
    func string(_ text: String) -> [UInt8] {
        var out: [UInt8] = []
        var length = text.utf8.count
        if length < 127 {
            out.append(UInt8(length))
        } else {
            out.append(127)
            length -= 127
            while length >= 128 {
                out.append(UInt8(length & 127 | 128))
                length >>= 7
            }
            out.append(UInt8(length))
        }
        return out + Array(text.utf8)
    }
    return fields.flatMap { [0] + string($0.0) + string($0.1) }
}

func requestHeaders(_ path: String, _ extra: [(String, String)] = []) -> [(String, String)] {
    [
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
        ("content-type", "application/grpc"), ("te", "trailers"),
    ] + extra
}

func grpcMessage(_ payload: [UInt8], flag: UInt8 = 0) -> [UInt8] {
    [flag] + bigEndian(UInt32(payload.count)) + payload
}

/// A client made of a blocking socket and frames written by hand, for everything a proper library
/// would not send.
final class RawPeer {
    let descriptor: Int32
    private var input: [UInt8] = []
    private var inflater: OpaquePointer?
    private(set) var isClosedByPeer = false

    init(port: Int, receiveBuffer: Int32? = nil) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        if var size = receiveBuffer {
            setsockopt(
                descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
        }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(port).bigEndian)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        struct ConnectFailed: Error { let code: Int32 }
        if result != 0 { throw ConnectFailed(code: errno) }
        nghttp2_hd_inflate_new(&inflater)
    }

    deinit {
        close(descriptor)
        if let inflater { nghttp2_hd_inflate_del(inflater) }
    }

    /// Preface and SETTINGS, and the answer to the server's.
    func greet(settings: [UInt8] = []) {
        write(Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8))
        write(.init(type: RawFrame.settings, payload: settings))
        write(.init(type: RawFrame.settings, flags: RawFrame.ack))
    }

    /// False once the server has closed; waits at most two seconds for room.
    @discardableResult
    func write(_ bytes: [UInt8]) -> Bool {
        var offset = 0
        while offset < bytes.count {
            var poller = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
            guard poll(&poller, 1, 2000) > 0 else { return false }
            let count = bytes.withUnsafeBytes {
                send(
                    descriptor, $0.baseAddress.map { $0 + offset }, bytes.count - offset,
                    Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
            }
            if count <= 0 {
                if errno == EAGAIN { continue }
                return false
            }
            offset += count
        }
        return true
    }

    @discardableResult
    func write(_ frame: RawFrame) -> Bool { write(frame.bytes) }

    func request(
        _ stream: UInt32, _ path: String, _ body: [UInt8]? = nil, ends: Bool = true,
        _ extra: [(String, String)] = []
    ) {
        var bytes = RawFrame(
            type: RawFrame.headers,
            flags: RawFrame.endHeaders | (body == nil && ends ? RawFrame.endStream : 0),
            stream: stream, payload: hpack(requestHeaders(path, extra))
        ).bytes
        if let body {
            bytes +=
                RawFrame(
                    type: RawFrame.data, flags: ends ? RawFrame.endStream : 0, stream: stream,
                    payload: body
                ).bytes
        }
        write(bytes)
    }

    /// Some bytes, or nil after `seconds` without any or at the end of the connection.
    func readBytes(seconds: Double = 3) -> [UInt8]? {
        var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&poller, 1, Int32(seconds * 1000)) > 0 else { return nil }
        var buffer = [UInt8](repeating: 0, count: 65536)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        guard count > 0 else {
            isClosedByPeer = true
            return nil
        }
        return Array(buffer[..<count])
    }

    /// The next frame, or nil after `seconds` of silence or at the end of the connection.
    func readFrame(seconds: Double = 3) -> RawFrame? {
        while true {
            if input.count >= 9 {
                let length = Int(input[0]) << 16 | Int(input[1]) << 8 | Int(input[2])
                if input.count >= 9 + length {
                    let frame = RawFrame(
                        type: input[3], flags: input[4],
                        stream: input[5..<9].reduce(0) { $0 << 8 | UInt32($1) },
                        payload: Array(input[9..<9 + length]))
                    input.removeFirst(9 + length)
                    return frame
                }
            }
            guard let bytes = readBytes(seconds: seconds) else { return nil }
            input += bytes
        }
    }

    /// Reads until a frame fits, dropping others.
    func find(
        seconds: Double = 3, _ fits: (RawFrame) -> Bool
    ) -> RawFrame? {
        while let frame = readFrame(seconds: seconds) {
            if frame.type == RawFrame.headers, !fits(frame) { _ = decode(frame) }
            if fits(frame) { return frame }
        }
        return nil
    }

    func findGoAway(seconds: Double = 3) -> RawFrame? {
        find(seconds: seconds) { $0.type == RawFrame.goAway }
    }

    /// All headers and the data of one stream until it ends.
    func response(
        _ stream: UInt32, seconds: Double = 3
    ) -> (headers: [String: String], data: [UInt8], reset: UInt32?) {
        var headers: [String: String] = [:]
        var data: [UInt8] = []
        while let frame = readFrame(seconds: seconds) {
            let fields = frame.type == RawFrame.headers ? decode(frame) : [:]
            guard frame.stream == stream else { continue }
            headers.merge(fields) { $1 }
            if frame.type == RawFrame.data { data += frame.payload }
            if frame.type == RawFrame.reset { return (headers, data, frame.errorCode) }
            if frame.flags & RawFrame.endStream != 0, frame.type <= RawFrame.headers { break }
        }
        return (headers, data, nil)
    }

    /// Must see every header block of the connection once, in order.
    func decode(_ frame: RawFrame) -> [String: String] {
        var fields: [String: String] = [:]
        var block = frame.payload
        block.withUnsafeMutableBufferPointer { buffer in
            guard var next = buffer.baseAddress else { return }
            var left = buffer.count
            while true {
                var field = nghttp2_nv()
                var flags: Int32 = 0
                let count = nghttp2_hd_inflate_hd2(inflater, &field, &flags, next, left, 1)
                if count < 0 { break }
                next += count
                left -= count
                if flags & Int32(NGHTTP2_HD_INFLATE_EMIT.rawValue) != 0 {
                    let name = UnsafeBufferPointer(start: field.name, count: field.namelen)
                    let value = UnsafeBufferPointer(start: field.value, count: field.valuelen)
                    fields[String(decoding: name, as: UTF8.self)] = String(
                        decoding: value, as: UTF8.self)
                }
                if flags & Int32(NGHTTP2_HD_INFLATE_FINAL.rawValue) != 0 {
                    nghttp2_hd_inflate_end_headers(inflater)
                    break
                }
                if flags & Int32(NGHTTP2_HD_INFLATE_EMIT.rawValue) == 0, left == 0 { break }
            }
        }
        return fields
    }

    /// Whether the server closes the connection within the time; reads and drops everything.
    func isClosed(seconds: Double = 3) -> Bool {
        let end = Date().addingTimeInterval(seconds)
        while Date() < end {
            if readBytes(seconds: 0.2) == nil, isClosedByPeer { return true }
        }
        return false
    }
}
