import Foundation
import NIOCore
import Testing

@testable import RPC

/// A peer that floods is sent GOAWAY with the right code and cut off; others are served meanwhile.
/// Method: floods written by hand (reliability.md S14, S15), limits lowered where the flood would
/// otherwise take long.
@Suite struct FloodTests {
    private static let calm: UInt32 = 11

    /// Floods until the server stops taking bytes, then expects its GOAWAY.
    private func expectCutOff(
        _ name: String, code: UInt32 = calm, text: String? = nil,
        _ adjust: (inout RPCServerConfiguration) -> Void = { _ in },
        _ flood: (RawPeer) -> Void
    ) throws {
        let server = try TestServer(adjust)
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        flood(peer)
        #expect(server.serves(), "\(name): canary")
        let goAway = peer.findGoAway()
        #expect(goAway?.errorCode == code, "\(name): \(goAway?.debugText ?? "no GOAWAY")")
        if let text { #expect(goAway?.debugText == text, "\(name)") }
        #expect(peer.isClosed(), "\(name): still open")
        #expect(
            waitUntil { (try? server.server.statistics().streamsOpen) == 0 }, "\(name): streams")
    }

    @Test func rapidReset() throws {
        try expectCutOff("rapid reset", text: "too_many_resets") { peer in
            for round in 0..<50 {
                var bytes: [UInt8] = []
                for number in 0..<200 {
                    let stream = UInt32(round * 200 + number) * 2 + 1
                    bytes +=
                        RawFrame(
                            type: RawFrame.headers, flags: 4, stream: stream,
                            payload: hpack(requestHeaders(TestMethod.never.path))
                        ).bytes
                    bytes +=
                        RawFrame(
                            type: RawFrame.reset, stream: stream, payload: bigEndian(8)
                        ).bytes
                }
                if !peer.write(bytes) { return }
            }
        }
    }

    @Test func continuationFlood() throws {
        let fields = hpack([("a", "b")])
        try expectCutOff("continuation") { peer in
            peer.write(
                .init(type: RawFrame.headers, flags: 0, stream: 1, payload: hpack(requestHeaders("/x"))))
            for _ in 0..<100 {
                let frame = RawFrame(type: RawFrame.continuation, stream: 1, payload: fields)
                if !peer.write(frame) { return }
            }
        }
    }

    @Test func controlFrameFloods() throws {
        let frames: [(String, RawFrame)] = [
            ("SETTINGS", .init(type: RawFrame.settings)),
            (
                "SETTINGS with entries",
                .init(type: RawFrame.settings, payload: [0, 3, 0, 0, 0, 9, 0, 4, 0, 0, 9, 0])
            ),
            ("SETTINGS ACK", .init(type: RawFrame.settings, flags: 1)),
            ("PING ACK", .init(type: RawFrame.ping, flags: 1, payload: [0, 0, 0, 0, 0, 0, 0, 0])),
            ("PRIORITY", .init(type: RawFrame.priority, stream: 3, payload: [0, 0, 0, 0, 7])),
            (
                "WINDOW_UPDATE",
                .init(type: RawFrame.windowUpdate, payload: bigEndian(1))
            ),
            ("unknown type", .init(type: 0xBE, payload: [1, 2, 3])),
            ("DATA on a closed stream", .init(type: RawFrame.data, stream: 1, payload: [1])),
        ]
        for (name, frame) in frames {
            let burst = (0..<500).flatMap { _ in frame.bytes }
            // A stray SETTINGS acknowledgement is a protocol error before it is a flood.
            let code: UInt32 = name == "SETTINGS ACK" ? 1 : Self.calm
            try expectCutOff(name, code: code) {
                $0.maxControlFrameBurst = 2000
                $0.controlFramesPerSecond = 100
            } _: { peer in
                peer.request(1, TestMethod.echo.path, grpcMessage([1]))
                _ = peer.response(1)
                for _ in 0..<1000 { if !peer.write(burst) { return } }
            }
        }
    }

    @Test func emptyAndTinyDataFloods() throws {
        for payload in [[], [0]] as [[UInt8]] {
            let frame = RawFrame(type: RawFrame.data, stream: 1, payload: payload)
            let burst = (0..<500).flatMap { _ in frame.bytes }
            try expectCutOff("DATA of \(payload.count)") {
                $0.maxControlFrameBurst = 2000
                $0.controlFramesPerSecond = 100
                $0.maxReceiveMessageBytes = 1 << 30
            } _: { peer in
                // The prefix announces 4 MB, so no byte completes anything.
                peer.request(1, TestMethod.stream.path, [0, 0, 64, 0, 0], ends: false)
                for _ in 0..<20 { if !peer.write(burst) { return } }
            }
        }
    }

    @Test func smallMessagesAreNotAFlood() throws {
        let server = try TestServer {
            $0.maxControlFrameBurst = 200
            $0.controlFramesPerSecond = 1
        }
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        let stream = try client.openStream(TestMethod.stream.path)
        for number in 0..<3000 {
            stream.send([UInt8(truncatingIfNeeded: number)])
            guard case .message = stream.receive(timeout: .seconds(5)) else {
                Issue.record("cut off after \(number) messages")
                return
            }
        }
    }

    @Test func pingFlood() throws {
        let frame = RawFrame(type: RawFrame.ping, payload: [1, 2, 3, 4, 5, 6, 7, 8])
        try expectCutOff("PING", text: "too_many_pings") { peer in
            for _ in 0..<100 { if !peer.write(frame) { return } }
        }
    }

    /// The server's own resets as a weapon (CVE-2025-8671): every stream is made to fail.
    @Test func provokedResets() throws {
        let provocations: [(String, (UInt32) -> RawFrame)] = [
            (
                "window update of 0",
                { .init(type: RawFrame.windowUpdate, stream: $0, payload: bigEndian(0)) }
            ),
            (
                "window overflow",
                { .init(type: RawFrame.windowUpdate, stream: $0, payload: bigEndian(0x7FFF_FFFF)) }
            ),
        ]
        for (name, provoke) in provocations {
            // nghttp2 takes the first as an error of the whole connection.
            let code = name == "window update of 0" ? 1 : Self.calm
            try expectCutOff(name, code: code) { peer in
                for number in 0..<400 {
                    let stream = UInt32(number) * 2 + 1
                    var bytes = RawFrame(
                        type: RawFrame.headers, flags: 4, stream: stream,
                        payload: hpack(requestHeaders(TestMethod.never.path))
                    ).bytes
                    bytes += provoke(stream).bytes
                    if !peer.write(bytes) { return }
                }
            }
        }
    }

    @Test func badHeadersAreCounted() throws {
        try expectCutOff("bad header names", text: "too_many_stream_errors") { peer in
            for number in 0..<400 {
                let frame = RawFrame(
                    type: RawFrame.headers, flags: 5, stream: UInt32(number) * 2 + 1,
                    payload: hpack(requestHeaders(TestMethod.echo.path, [("Bad Name", "x")])))
                if !peer.write(frame) { return }
            }
        }
    }

    @Test func protocolErrorsEndTheConnection() throws {
        let cases: [(String, UInt32, [RawFrame])] = [
            (
                "RST_STREAM on an idle stream", 1,
                [.init(type: RawFrame.reset, stream: 99, payload: bigEndian(8))]
            ),
            ("DATA on an idle stream", 1, [.init(type: RawFrame.data, stream: 99, payload: [1])]),
            (
                "even stream", 1,
                [.init(type: RawFrame.headers, flags: 5, stream: 2, payload: hpack(requestHeaders("/x")))]
            ),
            (
                "broken HPACK", 9,
                [.init(type: RawFrame.headers, flags: 5, stream: 1, payload: [0xFF, 0xFF, 0xFF, 0xFF, 0xFF])]
            ),
            (
                "connection window overflow", 3,
                [.init(type: RawFrame.windowUpdate, payload: bigEndian(0x7FFF_FFFF))]
            ),
            (
                "PUSH_PROMISE from a client", 1,
                [.init(type: RawFrame.push, flags: 4, stream: 1, payload: bigEndian(2) + hpack([("a", "b")]))]
            ),
            (
                "frame longer than allowed", 6,
                [.init(type: RawFrame.data, stream: 1, payload: [UInt8](repeating: 0, count: 16_385))]
            ),
            (
                "CONTINUATION from nowhere", 1,
                [.init(type: RawFrame.continuation, flags: 4, stream: 1, payload: [])]
            ),
            ("PING of 7 bytes", 6, [.init(type: RawFrame.ping, payload: [1, 2, 3, 4, 5, 6, 7])]),
            ("window update of 0", 1, [.init(type: RawFrame.windowUpdate, payload: bigEndian(0))]),
        ]
        for (name, code, frames) in cases {
            try expectCutOff(name, code: code) { peer in
                for frame in frames { peer.write(frame) }
            }
        }
    }

    @Test func headerListsAreBounded() throws {
        let server = try TestServer()
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        func request(_ stream: UInt32, bytes: Int) {
            let value = String(repeating: "v", count: 4000)
            let extra = (0..<bytes / 4000).map { ("h\($0)", value) }
            let block = hpack(requestHeaders(TestMethod.echo.path, extra))
            var offset = 0
            while offset < block.count {
                let end = min(block.count, offset + 16_000)
                peer.write(
                    .init(
                        type: offset == 0 ? RawFrame.headers : RawFrame.continuation,
                        flags: (offset == 0 ? 1 : 0) | (end == block.count ? 4 : 0), stream: stream,
                        payload: Array(block[offset..<end])))
                offset = end
            }
        }
        request(1, bytes: 80_000)
        let answer = peer.response(1)
        #expect(answer.headers["grpc-status"] == "8", "over the limit: \(answer)")
        peer.request(3, TestMethod.echo.path, grpcMessage([1]))
        #expect(peer.response(3).headers["grpc-status"] == "0")
        request(5, bytes: 140_000)
        #expect(peer.findGoAway()?.errorCode == Self.calm)
        #expect(server.serves())
    }

    /// A small block that names one large table entry thousands of times.
    @Test func headerBomb() throws {
        try expectCutOff("HPACK bomb", text: "header list too large") { peer in
            let value = [UInt8](repeating: 0x76, count: 4000)
            let entry: [UInt8] = [0x40, 1, 0x78, 127, 0xA1, 0x1E] + value
            let block =
                hpack(requestHeaders(TestMethod.echo.path)) + entry
                + [UInt8](repeating: 0x80 | 62, count: 10_000)
            peer.write(.init(type: RawFrame.headers, flags: 5, stream: 1, payload: block))
        }
    }

    @Test func aBadPrefaceIsCutOff() throws {
        let server = try TestServer()
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.write(Array("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".utf8))
        #expect(peer.findGoAway()?.errorCode == 1)
        #expect(peer.isClosed())
    }
}
