import Foundation
import NIOCore
import Testing

@testable import RPC

/// Requests that break gRPC's rules get the status that grpc-go gives, and the connection goes on
/// serving. Method: frames written by hand (reliability.md S13).
@Suite struct HostileMessageTests {
    @Test func brokenMessagesGetGRPCGoAnswersAndTheConnectionLives() throws {
        let server = try TestServer { $0.maxReceiveMessageBytes = 1000 }
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        let two = grpcMessage([1]) + grpcMessage([2])
        let cases: [(String, [UInt8], [(String, String)], code: String, text: String)] = [
            (
                "length 2^32-1", [0, 255, 255, 255, 255], [], "8",
                "grpc: received message larger than max (4294967295 vs. 1000)"
            ),
            (
                "one over the bound", grpcMessage([UInt8](repeating: 0, count: 1001)), [], "8",
                "grpc: received message larger than max (1001 vs. 1000)"
            ),
            (
                "compressed flag", grpcMessage([1], flag: 1), [], "12",
                "grpc: compressed flag set with identity or empty encoding"
            ),
            (
                "compressed flag, identity", grpcMessage([1], flag: 1), [("grpc-encoding", "identity")],
                "12", "grpc: compressed flag set with identity or empty encoding"
            ),
            (
                "format 7", grpcMessage([1], flag: 7), [], "13",
                "grpc: received unexpected payload format 7"
            ),
            (
                "no gzip", grpcMessage([1, 2, 3], flag: 1), [("grpc-encoding", "gzip")], "13",
                "grpc: failed to decompress the received message: incorrect header check"
            ),
            (
                "snappy", grpcMessage([1], flag: 1), [("grpc-encoding", "snappy")], "12",
                "grpc: Decompressor is not installed for grpc-encoding \"snappy\""
            ),
            ("cut prefix", [0, 0, 0], [], "13", "unexpected EOF"),
            ("cut message", [0, 0, 0, 0, 9, 1, 2], [], "13", "unexpected EOF"),
            (
                "two messages", two, [], "13",
                "cardinality violation: received multiple request messages for non-client-streaming RPC"
            ),
            (
                "no message", [], [], "13",
                "cardinality violation: received no request message from non-client-streaming RPC"
            ),
        ]
        var stream: UInt32 = 1
        for (name, body, extra, code, text) in cases {
            for method in [TestMethod.echo, .delayed] {
                peer.request(stream, method.path, body, extra)
                let answer = peer.response(stream)
                #expect(answer.headers["grpc-status"] == code, "\(name)")
                #expect(answer.headers["grpc-message"] == text, "\(name)")
                stream += 2
            }
        }
        // Without the end of the stream the answer is followed by RST_STREAM(NO_ERROR).
        peer.request(stream, TestMethod.echo.path, [0, 255, 255, 255, 255], ends: false)
        let headers = peer.find { $0.type == RawFrame.headers && $0.stream == stream }
        #expect(headers?.flags == 5)
        _ = headers.map(peer.decode)
        let reset = peer.find { $0.type == RawFrame.reset }
        #expect(reset?.stream == stream && reset?.errorCode == 0)
        peer.request(stream + 2, TestMethod.echo.path, grpcMessage([5]))
        #expect(peer.response(stream + 2).data == grpcMessage([5]))
    }

    @Test func brokenMessagesEndStreamsToo() throws {
        let server = try TestServer { $0.maxReceiveMessageBytes = 1000 }
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        peer.request(1, TestMethod.stream.path, grpcMessage([1]) + [0, 255, 255, 255, 255], ends: false)
        let answer = peer.response(1)
        #expect(answer.data == grpcMessage([1]) && answer.headers["grpc-status"] == "8")
        peer.request(3, TestMethod.stream.path, grpcMessage([1]) + [0, 0], ends: true)
        #expect(peer.response(3).headers["grpc-status"] == "13")
        #expect(server.journal.waitFor("closed", times: 2))
    }

    @Test func requestsThatAreNotGRPCGetHTTPStatuses() throws {
        let server = try TestServer()
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        func ask(_ stream: UInt32, _ fields: [(String, String)]) -> [String: String] {
            peer.write(
                .init(type: RawFrame.headers, flags: 5, stream: stream, payload: hpack(fields)))
            return peer.response(stream).headers
        }
        let base = [(":scheme", "http"), (":path", TestMethod.echo.path), (":authority", "x")]
        let json = ask(1, [(":method", "POST")] + base + [("content-type", "application/json")])
        #expect(json[":status"] == "415" && json["grpc-status"] == "3")
        #expect(json["grpc-message"] == "invalid gRPC request content-type \"application/json\"")
        let web = ask(3, [(":method", "POST")] + base + [("content-type", "application/grpc-web")])
        #expect(web[":status"] == "415")
        let get = ask(5, [(":method", "GET")] + base + [("content-type", "application/grpc")])
        #expect(get[":status"] == "405" && get["grpc-status"] == "13")
        let proto = ask(
            7, [(":method", "POST")] + base + [("content-type", "application/grpc+proto")])
        #expect(proto[":status"] == "200" && proto["grpc-status"] == "13")
    }

    @Test func randomPayloadsNeverHurt() throws {
        let server = try TestServer()
        defer { server.stop() }
        var seed: UInt64 = 42
        func random() -> UInt8 {
            seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return UInt8(truncatingIfNeeded: seed >> 33)
        }
        for round in 0..<300 {
            let peer = try RawPeer(port: server.port)
            if round % 3 != 0 { peer.greet() }
            var bytes: [UInt8] = []
            for _ in 0..<Int(random()) + 10 {
                if round % 3 == 2 {
                    // Well-framed nonsense gets further than noise.
                    bytes +=
                        RawFrame(
                            type: random() % 11, flags: random(), stream: UInt32(random() % 8),
                            payload: (0..<Int(random() % 40)).map { _ in random() }
                        ).bytes
                } else {
                    bytes.append(random())
                }
            }
            peer.write(bytes)
        }
        #expect(server.serves())
        #expect(waitUntil { (try? server.server.statistics().connectionsOpen) ?? 9 <= 1 })
    }

    /// Conversations that begin well: calls of several methods whose frames are then dropped, doubled, swapped or changed
    /// in a few bytes. Each gets further into the server than noise does.
    @Test func spoiledConversationsNeverHurt() throws {
        let server = try TestServer { $0.maxReceiveMessageBytes = 1000 }
        defer { server.stop() }
        var seed: UInt64 = 7
        func random(_ bound: Int) -> Int {
            seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(seed >> 33) % bound
        }
        let methods: [TestMethod] = [.echo, .stream, .delayed, .fail, .metadata, .pausing, .never, .drainable]
        let extras: [[(String, String)]] = [
            [], [("grpc-timeout", "99999999H")], [("grpc-timeout", "-1n")], [("blob-bin", "A=,AAEC")],
            [("grpc-encoding", "gzip")], [("x-long", String(repeating: "y", count: 5000))],
        ]
        func conversation() -> [[UInt8]] {
            var frames = [
                RawFrame(type: RawFrame.settings).bytes, RawFrame(type: RawFrame.settings, flags: RawFrame.ack).bytes,
            ]
            for call in 0...random(5) {
                let stream = UInt32(2 * call + 1)
                let head = hpack(requestHeaders(methods[random(methods.count)].path, extras[random(extras.count)]))
                let cut = random(2) == 0 ? head.count : head.count / 2
                let body = grpcMessage([UInt8](repeating: 7, count: random(40)))
                let part = random(body.count + 1)
                func add(_ type: UInt8, _ flags: UInt8, _ payload: [UInt8], stream: UInt32 = stream) {
                    frames.append(RawFrame(type: type, flags: flags, stream: stream, payload: payload).bytes)
                }
                add(RawFrame.headers, cut == head.count ? RawFrame.endHeaders : 0, Array(head[..<cut]))
                if cut < head.count { add(RawFrame.continuation, RawFrame.endHeaders, Array(head[cut...])) }
                add(RawFrame.data, 0, Array(body[..<part]))
                add(RawFrame.data, RawFrame.endStream, Array(body[part...]))
                switch random(5) {
                case 0: add(RawFrame.reset, 0, [0, 0, 0, 8])
                case 1: add(RawFrame.ping, 0, [UInt8](repeating: 3, count: 8), stream: 0)
                case 2: add(RawFrame.windowUpdate, 0, [0x7F, 0xFF, 0xFF, 0xFF])
                case 3: add(RawFrame.goAway, 0, [UInt8](repeating: 0, count: 8), stream: 0)
                default: break
                }
            }
            return frames
        }
        for _ in 0..<400 {
            var frames = conversation()
            for _ in 0..<random(4) where frames.count > 1 {
                let at = random(frames.count)
                switch random(4) {
                case 0: frames.remove(at: at)
                case 1: frames.insert(frames[at], at: random(frames.count))
                case 2: frames.swapAt(at, random(frames.count))
                default: frames[at][random(frames[at].count)] = UInt8(random(256))
                }
            }
            let peer = try RawPeer(port: server.port)
            peer.write(Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + frames.flatMap { $0 })
        }
        #expect(server.serves())
        #expect(waitUntil { (try? server.server.statistics().connectionsOpen) ?? 9 <= 1 })
        #expect(try server.bufferedBytes() == 0)
        #expect(try server.partialBytes() == 0)
    }
}
