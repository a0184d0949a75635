import Foundation
import NIOCore
import Testing

@testable import RPC

/// A drain refuses new work, finishes what is open and ends every connection.
/// Method: one call of each kind open while the drain begins.
@Suite struct DrainTests {
    @Test func openCallsFinishAndStreamsAreTold() throws {
        let server = try TestServer()
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        peer.request(1, TestMethod.delayed.path, grpcMessage([7]))
        peer.request(3, TestMethod.stream.path, grpcMessage([1]), ends: false)
        #expect(peer.find { $0.type == RawFrame.data } != nil)
        server.server.beginDrain()
        var goAways: [RawFrame] = []
        var statuses: [UInt32: String] = [:]
        var data: [UInt8] = []
        while let frame = peer.readFrame() {
            switch frame.type {
            case RawFrame.goAway: goAways.append(frame)
            case RawFrame.ping:
                // A request that was under way when the first GOAWAY left is still served.
                peer.request(5, TestMethod.echo.path, grpcMessage([9]))
                peer.write(.init(type: RawFrame.ping, flags: 1, payload: frame.payload))
            case RawFrame.headers:
                if let status = peer.decode(frame)["grpc-status"] { statuses[frame.stream] = status }
            case RawFrame.data where frame.stream == 1: data += frame.payload
            default: break
            }
        }
        #expect(statuses == [1: "0", 3: "14", 5: "0"])
        #expect(data == grpcMessage([7]))
        #expect(goAways.count == 2)
        #expect(goAways.first?.payload.prefix(4) == [0x7F, 0xFF, 0xFF, 0xFF])
        #expect(goAways.last?.payload.prefix(4) == [0, 0, 0, 5])
        #expect(goAways.allSatisfy { $0.errorCode == 0 })
        #expect(peer.isClosed())
        #expect(server.journal.count("draining") == 1 && server.journal.count("closed") == 1)
        #expect(throws: (any Error).self) { try RawPeer(port: server.port) }
    }

    @Test func whoDoesNotLeaveIsCutOff() throws {
        let server = try TestServer { $0.drainTimeout = .milliseconds(300) }
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        peer.request(1, TestMethod.never.path, grpcMessage([1]))
        #expect(server.journal.waitFor("never called"))
        let begun = Date()
        try server.server.drainAndClose()
        #expect(Date().timeIntervalSince(begun) < 3)
        #expect(peer.isClosed())
    }

    @Test func clientsSeeUnavailable() throws {
        let server = try TestServer()
        let client = try server.client()
        let stream = try client.openStream(TestMethod.drainable.path)
        stream.send([1])
        _ = stream.receive(timeout: .seconds(5))
        try server.server.drainAndClose()
        guard case .closed(let status, _) = stream.receive(timeout: .seconds(5)) else {
            Issue.record("stream did not end")
            return
        }
        #expect(status == RPCStatus(.unavailable, "etcdserver: server stopped"))
        guard case .failure(let late) = client.unary(TestMethod.echo.path, [1]) else {
            Issue.record("a call succeeded after the server was closed")
            return
        }
        #expect(late.code == .unavailable)
        server.stop()
    }
}
