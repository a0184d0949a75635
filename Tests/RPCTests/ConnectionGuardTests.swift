import CNGHTTP2
import NIOCore
import Testing

@testable import RPC

/// What a peer may send that is no work: the limits of one connection, decided without a socket.
@Suite struct ConnectionGuardTests {
    private let now = NIODeadline.uptimeNanoseconds(1_000_000_000)

    private func guarded(_ change: (inout RPCServerConfiguration) -> Void) -> ConnectionGuard {
        var limits = RPCServerConfiguration()
        limits.controlFramesPerSecond = 0
        limits.resetsPerSecond = 0
        limits.provokedResetsPerSecond = 0
        change(&limits)
        return ConnectionGuard(limits, now: now)
    }

    private func frame(_ type: nghttp2_frame_type, _ length: Int = 0, ends: Bool = false) -> nghttp2_frame_hd {
        nghttp2_frame_hd(
            length: length, stream_id: 1, type: UInt8(type.rawValue),
            flags: ends ? UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) : 0, reserved: 0)
    }

    @Test func resetsHaveTheirOwnBurst() {
        var peer = guarded {
            $0.maxResetBurst = 3
            $0.maxControlFrameBurst = 1
        }
        for _ in 0..<3 { #expect(peer.begins(frame(NGHTTP2_RST_STREAM), now: now) == nil) }
        let violation = peer.begins(frame(NGHTTP2_RST_STREAM), now: now)
        #expect(violation?.code == .enhanceYourCalm)
        #expect(violation.map { "\($0.text)" } == "too_many_resets")
        #expect(peer.begins(frame(NGHTTP2_SETTINGS), now: now) == nil)
    }

    @Test func tinyFramesAreNoiseUnlessTheyCompleteSomething() {
        var peer = guarded { $0.maxControlFrameBurst = 2 }
        for _ in 0..<100 {
            #expect(peer.begins(frame(NGHTTP2_DATA, 5), now: now) == nil)
            peer.messageCompleted()
            #expect(peer.begins(frame(NGHTTP2_DATA, 0, ends: true), now: now) == nil)
            #expect(peer.begins(frame(NGHTTP2_DATA, 64), now: now) == nil)
            #expect(peer.begins(frame(NGHTTP2_HEADERS, 1), now: now) == nil)
        }
        #expect(peer.begins(frame(NGHTTP2_DATA, 63), now: now) == nil)
        #expect(peer.begins(frame(NGHTTP2_DATA, 63), now: now) == nil)
        #expect(peer.begins(frame(NGHTTP2_DATA, 63), now: now) != nil)
    }

    @Test func answersPayForControlFrames() {
        var peer = guarded { $0.maxControlFrameBurst = 4 }
        for _ in 0..<4 { #expect(peer.begins(frame(NGHTTP2_WINDOW_UPDATE, 4), now: now) == nil) }
        peer.sentHeadersOrData()
        for _ in 0..<4 { #expect(peer.begins(frame(NGHTTP2_WINDOW_UPDATE, 4), now: now) == nil) }
        #expect(peer.begins(frame(NGHTTP2_WINDOW_UPDATE, 4), now: now) != nil)
    }

    /// Frames on closed streams are not reported by nghttp2; only their bytes are seen.
    @Test func bytesThatNoFrameAccountsForAreCharged() {
        var peer = guarded { $0.maxControlFrameBurst = 2 }
        // A reported frame that arrives in two reads is not ignored input.
        #expect(peer.begins(frame(NGHTTP2_DATA, 10_000), now: now) == nil)
        #expect(peer.received(4000, now: now) == nil)
        #expect(peer.received(6009, now: now) == nil)
        #expect(peer.received(2049, now: now) == nil)
        #expect(peer.received(1023, now: now) == nil)
        #expect(peer.received(1, now: now) != nil)
    }

    @Test func inflatingFarBeyondWhatCameIsCharged() {
        var peer = guarded { $0.maxControlFrameBurst = 2100 }
        for _ in 0..<1000 { #expect(peer.inflated(1 << 20, from: 1 << 16, now: now) == nil) }
        #expect(peer.inflated(1 << 20, from: 1000, now: now) == nil)
        #expect(peer.inflated(1 << 20, from: 1000, now: now) == nil)
        #expect(peer.inflated(1 << 20, from: 1000, now: now) != nil)
    }

    @Test func refusalsThatThePeerProvokesAreCounted() {
        var peer = guarded { $0.maxProvokedResetBurst = 2 }
        #expect(peer.provoked("too_many_stream_errors", now: now) == nil)
        #expect(peer.provoked("header list too large", now: now) == nil)
        #expect(peer.provoked("too_many_stream_errors", now: now) != nil)
        #expect(peer.provoked("too_many_stream_errors", now: now + .seconds(10)) != nil)
    }
}
