import Foundation
import NIOCore
import Testing

@testable import RPC

/// Pings are judged as grpc-go judges them under etcd's settings (reliability.md S18).
/// Method: the policy with invented times, then one run over a socket.
@Suite struct PingPolicyTests {
    private func policy(_ adjust: (inout RPCServerConfiguration) -> Void = { _ in }) -> PingPolicy {
        var configuration = RPCServerConfiguration()
        adjust(&configuration)
        return PingPolicy(configuration)
    }

    /// How many pings of that spacing are allowed, up to 20.
    private func allowed(
        _ policy: PingPolicy, every spacing: TimeAmount, streams: Int, sends: Bool = false
    ) -> Int {
        var policy = policy
        var now = NIODeadline.uptimeNanoseconds(1_000_000_000_000)
        for number in 0..<20 {
            if sends { policy.sentHeadersOrData() }
            if !policy.allows(now: now, openStreams: streams) { return number }
            now = now + spacing
        }
        return 20
    }

    @Test func strikesFollowGRPCGo() {
        // The first ping has no predecessor; two strikes are forgiven, the third ends it.
        #expect(allowed(policy(), every: .milliseconds(4999), streams: 1) == 3)
        #expect(allowed(policy(), every: .seconds(5), streams: 1) == 20)
        #expect(allowed(policy(), every: .seconds(10), streams: 1) == 20)
        #expect(allowed(policy(), every: .seconds(10), streams: 0) == 3)
        #expect(allowed(policy(), every: .hours(2), streams: 0) == 20)
        #expect(allowed(policy(), every: .milliseconds(1), streams: 1, sends: true) == 20)
        let permitting = policy { $0.keepalivePermitWithoutStream = true }
        #expect(allowed(permitting, every: .seconds(5), streams: 0) == 20)
    }

    @Test func bandwidthProbesAreNotPunishedAndImpatientPingsAre() throws {
        let server = try TestServer()
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.greet()
        let ping = RawFrame(type: RawFrame.ping, payload: [0, 1, 2, 3, 4, 5, 6, 7])
        for number in 0..<50 {
            peer.request(UInt32(number) * 2 + 1, TestMethod.echo.path, grpcMessage([1]))
            #expect(peer.response(UInt32(number) * 2 + 1).headers["grpc-status"] == "0")
            peer.write(ping)
            let answer = peer.find { $0.type == RawFrame.ping }
            #expect(answer?.flags == 1 && answer?.payload == ping.payload)
        }
        for _ in 0..<4 { peer.write(ping) }
        let goAway = peer.findGoAway()
        #expect(goAway?.errorCode == 11 && goAway?.debugText == "too_many_pings")
    }
}
