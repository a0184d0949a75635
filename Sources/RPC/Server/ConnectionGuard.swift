import CNGHTTP2
import NIOCore

/// What a peer may send that is no work for us: resets, pings, control and tiny frames, requests
/// that are refused, frames on closed streams. Decides only; the connection ends itself with the
/// violation it is handed.
struct ConnectionGuard {
    /// Why a connection is ended: the error and debug data of its GOAWAY.
    struct Violation {
        let code: HTTP2ErrorCode
        let text: StaticString
    }

    private let tinyDataFrameBytes: Int
    private let controlFrameCredit: Int
    private var pings: PingPolicy
    private var resets: RateBucket
    private var provokedResets: RateBucket
    private var control: RateBucket
    /// Length of the frames that nghttp2 reported during this read.
    private var reportedBytes = 0
    /// Bytes received beyond reported frames so far; negative in the middle of a frame.
    private var ignoredBytes = 0

    init(_ limits: RPCServerConfiguration, now: NIODeadline) {
        tinyDataFrameBytes = limits.tinyDataFrameBytes
        controlFrameCredit = limits.controlFrameCredit
        pings = PingPolicy(limits)
        resets = RateBucket(burst: limits.maxResetBurst, perSecond: limits.resetsPerSecond, now: now)
        provokedResets = RateBucket(
            burst: limits.maxProvokedResetBurst, perSecond: limits.provokedResetsPerSecond, now: now)
        control = RateBucket(
            burst: limits.maxControlFrameBurst, perSecond: limits.controlFramesPerSecond, now: now)
    }

    /// A frame's head has been read.
    mutating func begins(_ header: nghttp2_frame_hd, now: NIODeadline) -> Violation? {
        reportedBytes += 9 + header.length
        switch UInt32(header.type) {
        case NGHTTP2_DATA.rawValue:
            let ends = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
            // Credited back when the frame completes a message.
            return header.length < tinyDataFrameBytes && !ends ? noise(now) : nil
        case NGHTTP2_HEADERS.rawValue:
            return nil
        case NGHTTP2_RST_STREAM.rawValue:
            return resets.take(now: now) ? nil : Violation(code: .enhanceYourCalm, text: "too_many_resets")
        default:
            return noise(now)
        }
    }

    /// Frames that nghttp2 skips without a word (on closed streams, mostly) are seen only as bytes
    /// that no reported frame accounts for; each KiB of them costs as much as a control frame.
    mutating func received(_ bytes: Int, now: NIODeadline) -> Violation? {
        ignoredBytes += bytes - reportedBytes
        reportedBytes = 0
        while ignoredBytes > 1024 {
            ignoredBytes -= 1024
            if let violation = noise(now) { return violation }
        }
        return nil
    }

    mutating func pinged(openStreams: Int, now: NIODeadline) -> Violation? {
        pings.allows(now: now, openStreams: openStreams)
            ? nil : Violation(code: .enhanceYourCalm, text: "too_many_pings")
    }

    /// What the peer sent made us refuse or reset a stream.
    mutating func provoked(_ text: StaticString, now: NIODeadline) -> Violation? {
        provokedResets.take(now: now) ? nil : Violation(code: .enhanceYourCalm, text: text)
    }

    /// A compressed message of `received` bytes stands for `inflated` ones. What goes beyond 16 times its length costs as
    /// much as ignored bytes do: a bomb is work for this loop out of nothing.
    mutating func inflated(_ inflated: Int, from received: Int, now: NIODeadline) -> Violation? {
        var excess = inflated - 16 * received
        while excess > 1024 {
            excess -= 1024
            if !control.take(now: now) { return Violation(code: .enhanceYourCalm, text: "too_many_inflated_bytes") }
        }
        return nil
    }

    /// A DATA frame that was taken for noise has completed a message.
    mutating func messageCompleted() {
        control.credit(1)
    }

    /// We had something to say: the peer's control frames are part of a conversation.
    mutating func sentHeadersOrData() {
        pings.sentHeadersOrData()
        control.credit(controlFrameCredit)
    }

    private mutating func noise(_ now: NIODeadline) -> Violation? {
        control.take(now: now) ? nil : Violation(code: .enhanceYourCalm, text: "too_many_control_frames")
    }
}
