import Foundation
import NIOCore
import Testing

@testable import RPC

/// Peers that do not read, or hardly send, hold bounded memory and time and hurt nobody.
/// Method: sockets that stall on purpose (reliability.md S16, S17), limits lowered to milliseconds.
@Suite struct StarvationTests {
    private static func residentBytes() -> Int {
        let fields = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8))?
            .split(separator: " ")
        return (fields.flatMap { $0.count > 1 ? Int($0[1]) : nil } ?? 0) * 4096
    }

    @Test func zeroWindowHoldsABoundedAmount() throws {
        let server = try TestServer { $0.maxBufferedBytesPerConnection = 4 << 20 }
        defer { server.stop() }
        let before = Self.residentBytes()
        let peer = try RawPeer(port: server.port)
        // SETTINGS_INITIAL_WINDOW_SIZE 0: no response byte may ever be sent.
        peer.greet(settings: [0, 4, 0, 0, 0, 0])
        for number in 0..<400 {
            peer.request(
                UInt32(number) * 2 + 1, TestMethod.big.path, grpcMessage(Array("1000000".utf8)))
        }
        for number in 400..<500 {
            peer.request(
                UInt32(number) * 2 + 1, TestMethod.source.path,
                grpcMessage(Array("1000000".utf8)), ends: false)
        }
        #expect(server.serves())
        let refused = peer.find { $0.type == RawFrame.headers && $0.flags & 1 != 0 }
        #expect(refused.map(peer.decode)?["grpc-status"] == "8")
        let held = try server.bufferedBytes()
        // Five replies of 1 MB fit before the bound; each stream may hold its high-water mark.
        #expect(held < 6 << 20 + 100 * (260 << 10))
        // Coarse, because other tests run in this process; without bounds it would be gigabytes.
        #expect(Self.residentBytes() - before < 500 << 20)
    }

    @Test func aPeerThatNeverReadsIsDroppedInTheEnd() throws {
        let server = try TestServer { $0.stalledConnectionTimeout = .milliseconds(300) }
        defer { server.stop() }
        let peer = try RawPeer(port: server.port, receiveBuffer: 4096)
        peer.greet(settings: [0, 4, 0x7F, 0xFF, 0xFF, 0xFF])
        peer.write(.init(type: RawFrame.windowUpdate, payload: bigEndian(0x7000_0000)))
        var refused = false
        for number in 0..<4000 where !refused {
            let stream = UInt32(number) * 2 + 1
            let bytes = RawFrame(
                type: RawFrame.headers, flags: 4, stream: stream,
                payload: hpack(requestHeaders(TestMethod.big.path))
            ).bytes
            refused = !peer.write(
                bytes
                    + RawFrame(
                        type: RawFrame.data, flags: 1, stream: stream,
                        payload: grpcMessage(Array("100000".utf8))
                    ).bytes)
        }
        // Reading stopped with the socket full; then the connection is cut and all is given back.
        #expect(server.serves())
        #expect(waitUntil { (try? server.server.statistics().connectionsOpen) == 0 })
        let held = try server.bufferedBytes()
        #expect(held == 0)
    }

    @Test func anUnreadStreamIsResetAndTheOthersGoOn() throws {
        let server = try TestServer { $0.stalledStreamTimeout = .milliseconds(200) }
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet(settings: [0, 4, 0, 0, 0, 100])
        peer.request(1, TestMethod.big.path, grpcMessage(Array("1000".utf8)))
        peer.request(3, TestMethod.echo.path, grpcMessage([1]))
        #expect(peer.response(3).headers["grpc-status"] == "0")
        #expect(peer.response(1).reset == 8)
    }

    @Test func incompleteRequestsHoldABoundedAmount() throws {
        let server = try TestServer { $0.maxPartialBytesPerConnection = 1 << 20 }
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        // 200 requests of which all but the last byte is sent.
        let body = Array(grpcMessage([UInt8](repeating: 1, count: 10_000)).dropLast())
        for number in 0..<200 {
            peer.request(UInt32(number) * 2 + 1, TestMethod.echo.path, body, ends: false)
        }
        let refused = peer.find { $0.type == RawFrame.headers }
        #expect(refused.map(peer.decode)?["grpc-status"] == "8")
        let held = try server.partialBytes()
        #expect(held <= 1 << 20)
        #expect(server.serves())
    }

    @Test func incompleteRequestsEndInTime() throws {
        let server = try TestServer { $0.requestReceiveTimeout = .milliseconds(200) }
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        peer.request(1, TestMethod.echo.path, [0, 0, 0], ends: false)
        peer.request(3, TestMethod.stream.path, grpcMessage([1]), ends: false)
        #expect(peer.response(1).headers["grpc-status"] == "4")
        // Streams may stay silent for ever.
        peer.write(.init(type: RawFrame.data, flags: 1, stream: 3, payload: grpcMessage([2])))
        #expect(peer.response(3).headers["grpc-status"] == "0")
    }

    @Test func slowHandshakesAreCutOff() throws {
        let starts: [(String, [UInt8])] = [
            ("nothing", []), ("half a method", Array("PR".utf8)),
            ("half a preface", Array("PRI * HTTP/2.0\r\n".utf8)),
            ("preface without SETTINGS", Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)),
            ("half an HTTP/1 head", Array("GET / HTTP/1.1\r\nHost: x\r\n".utf8)),
        ]
        let server = try TestServer { $0.handshakeTimeout = .milliseconds(300) }
        defer { server.stop() }
        for (name, bytes) in starts {
            let peer = try RawPeer(port: server.port)
            peer.write(bytes)
            #expect(peer.isClosed(seconds: 3), "\(name)")
        }
        // Drip-feeding does not help: the limit is on the whole.
        let peer = try RawPeer(port: server.port)
        for byte in Array("GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".utf8) {
            if !peer.write([byte]) { break }
            usleep(20_000)
        }
        #expect(peer.isClosed(seconds: 1))
    }

    @Test func slowHeaderBlocksAreCutOff() throws {
        let server = try TestServer { $0.handshakeTimeout = .milliseconds(300) }
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        peer.request(1, TestMethod.echo.path, grpcMessage([1]))
        #expect(peer.response(1).headers["grpc-status"] == "0")
        // An established connection may be silent for longer than the handshake limit …
        usleep(500_000)
        peer.request(3, TestMethod.echo.path, grpcMessage([1]))
        #expect(peer.response(3).headers["grpc-status"] == "0")
        // … but not in the middle of a header block.
        peer.write(.init(type: RawFrame.headers, flags: 0, stream: 5, payload: hpack(requestHeaders("/x"))))
        #expect(peer.findGoAway()?.errorCode == 4)
        #expect(peer.isClosed())
    }

    @Test func manyHalfOpenSocketsLeaveRoomForOthers() throws {
        let server = try TestServer { $0.handshakeTimeout = .milliseconds(800) }
        defer { server.stop() }
        var peers: [RawPeer] = []
        for _ in 0..<400 { peers.append(try RawPeer(port: server.port)) }
        #expect(server.serves())
        #expect(waitUntil { (try? server.server.statistics().connectionsOpen) ?? 999 <= 1 })
        #expect(server.serves())
    }

    @Test func connectionsAreBounded() throws {
        let server = try TestServer { $0.maxConnections = 5 }
        defer { server.stop() }
        var peers: [RawPeer] = []
        for _ in 0..<5 {
            let peer = try RawPeer(port: server.port)
            peer.greet()
            #expect(peer.readFrame() != nil)
            peers.append(peer)
        }
        let sixth = try RawPeer(port: server.port)
        #expect(sixth.isClosed(seconds: 2))
        peers.removeLast()
        #expect(waitUntil { server.serves() })
    }

    @Test func streamsAreBounded() throws {
        let server = try TestServer { $0.maxConcurrentStreams = 10 }
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        for number in 0..<11 {
            peer.request(
                UInt32(number) * 2 + 1, TestMethod.stream.path, grpcMessage([1]), ends: false)
        }
        let reset = peer.find { $0.type == RawFrame.reset || $0.type == RawFrame.goAway }
        // nghttp2 takes it as an error of the connection once the limit has been acknowledged.
        #expect(reset?.errorCode == 7 || reset?.errorCode == 1)
        // Our own client, once it knows the limit, waits for a free stream instead.
        let client = try server.client()
        defer { client.close() }
        _ = client.unary(TestMethod.echo.path, [1])
        let replies = (0..<50).map { _ in client.unaryFuture(TestMethod.delayed.path, [1]) }
        for reply in replies { #expect(try reply.wait().get().message == [1]) }
    }

    @Test func idleConnectionsAreClosedGracefully() throws {
        let server = try TestServer { $0.idleTimeout = .milliseconds(200) }
        defer { server.stop() }
        let idle = try RawPeer(port: server.port)
        idle.greet()
        let busy = try RawPeer(port: server.port)
        busy.greet()
        busy.request(1, TestMethod.stream.path, grpcMessage([1]), ends: false)
        #expect(idle.findGoAway()?.errorCode == 0)
        busy.write(.init(type: RawFrame.data, flags: 1, stream: 1, payload: grpcMessage([2])))
        #expect(busy.response(1).headers["grpc-status"] == "0")
    }

    @Test func aDeadPeerIsFoundByKeepalive() throws {
        let server = try TestServer {
            $0.keepaliveInterval = .milliseconds(200)
            $0.keepaliveTimeout = .milliseconds(200)
        }
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        let ping = peer.find { $0.type == RawFrame.ping }
        #expect(ping != nil)
        // Answering keeps it alive; silence does not.
        if let ping { peer.write(.init(type: RawFrame.ping, flags: 1, payload: ping.payload)) }
        #expect(peer.find { $0.type == RawFrame.ping } != nil)
        #expect(peer.isClosed())
    }
}
