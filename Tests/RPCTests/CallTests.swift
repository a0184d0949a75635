import Foundation
import NIOCore
import Testing

@testable import RPC

/// Calls between our own client and server behave as gRPC says: messages, statuses, metadata,
/// deadlines, both streaming directions. Method: real sockets on loopback, one server per test.
@Suite struct CallTests {
    @Test func unaryEchoesMessagesOfAllSizes() throws {
        let server = try TestServer()
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        // Around the copy limit, the frame size, the initial window and the receive bound.
        for size in [0, 1, 40, 2043, 2048, 2049, 16379, 16384, 65535, 1 << 20, 2_097_152] {
            let message = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31) }
            let reply = try client.unary(TestMethod.echo.path, message).get()
            #expect(reply.message == message, "size \(size)")
        }
    }

    @Test func errorsTravelAsTrailersOnly() throws {
        let server = try TestServer()
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        for text in ["etcdserver: mvcc: required revision has been compacted", "100% ümlaut\n\u{1F600}", ""] {
            let result = client.unary(TestMethod.fail.path, Array(text.utf8))
            #expect(throws: RPCStatus(.failedPrecondition, text)) { try result.get() }
        }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        peer.request(1, TestMethod.fail.path, grpcMessage(Array("no".utf8)))
        let frame = peer.find { $0.type == RawFrame.headers }
        #expect(frame?.flags == RawFrame.endHeaders | RawFrame.endStream)
        let fields = frame.map(peer.decode) ?? [:]
        #expect(fields["grpc-status"] == "9" && fields["grpc-message"] == "no")
        #expect(fields[":status"] == "200" && fields["x-detail"] == "d")
    }

    @Test func unknownPathsAreUnimplementedWithTheTextsOfGRPCGo() throws {
        let server = try TestServer()
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        let expected = [
            "/test.Service/Nope": "unknown method Nope for service test.Service",
            "/other.Service/Echo": "unknown service other.Service",
            "/nomethod": "malformed method name: \"/nomethod\"",
        ]
        for (path, text) in expected {
            #expect(throws: RPCStatus(.unimplemented, text)) {
                try client.unary(path, [1]).get()
            }
        }
    }

    @Test func metadataIsFoundByNameAndDecodedOnDemand() throws {
        let server = try TestServer()
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        let reply = try client.unary(
            TestMethod.metadata.path, [],
            metadata: [("Token", "secret"), ("blob-bin", "AAH/")]
        ).get()
        let text = String(decoding: reply.message, as: UTF8.self)
        #expect(text == "secret|[0, 1, 255]|127.0.0.1:\(server.port)|agent|none")
    }

    @Test func deadlineAnswersByItselfAndClosesTheHandlerOnce() throws {
        let server = try TestServer()
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        let begun = Date()
        peer.request(1, TestMethod.never.path, grpcMessage([1]), [("grpc-timeout", "60m")])
        let answer = peer.response(1)
        let elapsed = Date().timeIntervalSince(begun)
        #expect(answer.headers["grpc-status"] == "4")
        #expect(answer.headers["grpc-message"] == "context deadline exceeded")
        #expect(elapsed > 0.055 && elapsed < 3, "took \(elapsed)")
        #expect(server.journal.waitFor("closed"))
        #expect(server.journal.count("closed") == 1)
        // A timeout of zero has passed when the call begins.
        peer.request(3, TestMethod.never.path, grpcMessage([1]), [("grpc-timeout", "0n")])
        #expect(peer.response(3).headers["grpc-status"] == "4")
        #expect(server.journal.count("never called") == 1)
        peer.request(5, TestMethod.echo.path, grpcMessage([1]), [("grpc-timeout", "5x")])
        let malformed = peer.response(5).headers
        #expect(malformed[":status"] == "400" && malformed["grpc-status"] == "13")
        // The longest timeout that can be written must not overflow the clock.
        peer.request(7, TestMethod.echo.path, grpcMessage([1]), [("grpc-timeout", "99999999H")])
        #expect(peer.response(7).headers["grpc-status"] == "0")
    }

    @Test func clientDeadlineEndsACallThatIsNotAnswered() throws {
        let server = try TestServer()
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        let result = client.unary(TestMethod.never.path, [1], timeout: .milliseconds(40))
        #expect(throws: RPCStatus.deadlineExceeded) { try result.get() }
        #expect(server.journal.waitFor("closed"))
    }

    @Test func bidirectionalStreamEchoesAndEndsWithTrailers() throws {
        let server = try TestServer()
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        let stream = try client.openStream(TestMethod.stream.path)
        for number in 0..<200 {
            let message = [UInt8](repeating: UInt8(number), count: number * 37)
            stream.send(message)
            guard case .message(let echo) = stream.receive(timeout: .seconds(5)) else {
                Issue.record("no echo of message \(number)")
                return
            }
            #expect(echo == message)
        }
        stream.closeSend()
        guard case .closed(let status, let trailers) = stream.receive(timeout: .seconds(5)) else {
            Issue.record("no end")
            return
        }
        #expect(status == .ok)
        #expect(trailers.contains { $0.name == "x-end" && $0.value == "yes" })
        #expect(server.journal.waitFor("closed"))
    }

    @Test func aCancelledStreamIsClosedOnTheServer() throws {
        let server = try TestServer()
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        let stream = try client.openStream(TestMethod.stream.path)
        stream.send([1])
        _ = stream.receive(timeout: .seconds(5))
        stream.cancel()
        guard case .closed(let status, _) = stream.receive(timeout: .seconds(5)) else {
            Issue.record("no end")
            return
        }
        #expect(status.code == .cancelled)
        #expect(server.journal.waitFor("closed"))
    }

    @Test func losingTheConnectionClosesEveryHandlerOnce() throws {
        let server = try TestServer()
        defer { server.stop() }
        do {
            let peer = try RawPeer(port: server.port)
            peer.greet()
            for number in 0..<50 {
                peer.request(
                    UInt32(number) * 2 + 1, TestMethod.stream.path, grpcMessage([1]), ends: false)
            }
            _ = peer.response(99, seconds: 0.2)
        }
        #expect(server.journal.waitFor("closed", times: 50))
        usleep(50_000)
        #expect(server.journal.count("closed") == 50)
        #expect(try server.server.statistics().streamsOpen == 0)
    }

    @Test func aThousandConcurrentCallsAreAllAnswered() async throws {
        let server = try TestServer(threads: 2)
        defer { server.stop() }
        let client = try await RPCClient.connect(host: "127.0.0.1", port: server.port).get()
        defer { client.close() }
        let methods: [TestMethod] = [.echo, .delayed, .hop]
        try await withThrowingTaskGroup(of: Bool.self) { group in
            for number in 0..<1000 {
                let message = Array("message \(number)".utf8)
                group.addTask {
                    let path = methods[number % 3].path
                    return try await client.unary(path, message).get().message == message
                }
            }
            for try await isRight in group { #expect(isRight) }
        }
    }

    @Test func sharedBlocksKeepOrderUnderBackPressure() throws {
        let server = try TestServer()
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        let count = 3000
        let stream = try client.openStream(TestMethod.source.path)
        stream.send(Array(String(count).utf8))
        for number in 0..<count {
            guard case .message(let message) = stream.receive(timeout: .seconds(5)) else {
                Issue.record("stream ended at \(number)")
                return
            }
            let expected = bigEndian(UInt32(count - number)) + [UInt8](repeating: 7, count: 1000)
            if message != expected {
                Issue.record("message \(number) differs")
                return
            }
        }
        guard case .closed(.ok, _) = stream.receive(timeout: .seconds(5)) else {
            Issue.record("no end")
            return
        }
        #expect(server.journal.count("writable") > 3)
    }

    @Test func pausedStreamsTakeNoMoreUntilResumed() throws {
        let server = try TestServer()
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        let stream = try client.openStream(TestMethod.pausing.path)
        for _ in 0..<20 { stream.send([UInt8](repeating: 1, count: 100_000)) }
        stream.closeSend()
        guard case .message(let sum) = stream.receive(timeout: .seconds(10)) else {
            Issue.record("no answer")
            return
        }
        #expect(String(decoding: sum, as: UTF8.self) == "2000000")
    }

    @Test func theDataFramesOfAMessageMayBeCutAnywhere() throws {
        let server = try TestServer()
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        let body = grpcMessage(Array("hello world".utf8))
        var stream: UInt32 = 1
        for cut in 0...body.count {
            for endsSeparately in [false, true] {
                peer.request(stream, TestMethod.echo.path, Array(body[..<cut]), ends: false)
                peer.write(
                    .init(
                        type: RawFrame.data, flags: endsSeparately ? 0 : RawFrame.endStream,
                        stream: stream, payload: Array(body[cut...])))
                if endsSeparately {
                    peer.write(
                        .init(type: RawFrame.data, flags: RawFrame.endStream, stream: stream))
                }
                let answer = peer.response(stream)
                #expect(answer.data == body && answer.headers["grpc-status"] == "0", "cut \(cut)")
                stream += 2
            }
        }
        // One byte a frame.
        peer.request(stream, TestMethod.echo.path, [], ends: false)
        for (index, byte) in body.enumerated() {
            peer.write(
                .init(
                    type: RawFrame.data,
                    flags: index == body.count - 1 ? RawFrame.endStream : 0, stream: stream,
                    payload: [byte]))
        }
        #expect(peer.response(stream).data == body)
    }

    @Test func statisticsCountCallsByMethodAndCode() throws {
        let server = try TestServer(threads: 2)
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        for _ in 0..<5 { _ = client.unary(TestMethod.echo.path, [1]) }
        for _ in 0..<3 { _ = client.unary(TestMethod.fail.path, [1]) }
        _ = client.unary("/x/y", [1])
        let counts = try server.server.statistics()
        #expect(counts.started[TestMethod.echo.rawValue] == 5)
        #expect(counts.handled[TestMethod.echo.rawValue * 17] == 5)
        #expect(counts.handled[TestMethod.fail.rawValue * 17 + 9] == 3)
        #expect(counts.messagesReceived[TestMethod.echo.rawValue] == 5)
        #expect(counts.unknownMethods == 1)
        #expect(counts.bytesIn > 0 && counts.bytesOut > 0 && counts.connectionsOpen == 1)
    }

    @Test func callsAreReusedUnlessSomebodyHoldsThem() throws {
        let server = try TestServer()
        defer { server.stop() }
        let client = try server.client()
        defer { client.close() }
        let loop = server.server.loops[0]
        for _ in 0..<10 { _ = client.unary(TestMethod.echo.path, [1]) }
        #expect(try loop.eventLoop.submit { loop.pooledCalls }.wait() == 1)
        for _ in 0..<3 { _ = client.unary(TestMethod.keep.path, [1]) }
        #expect(try loop.eventLoop.submit { loop.pooledCalls }.wait() == 0)
    }

    @Test func unixSocketsServeToo() throws {
        let server = try TestServer()
        defer { server.stop() }
        let path = "/tmp/rpc-test-\(getpid()).sock"
        try server.server.bind(unixPath: path)
        let client = try RPCClient.connect(unixPath: path).wait()
        defer { client.close() }
        #expect(try client.unary(TestMethod.echo.path, [9]).get().message == [9])
    }
}
