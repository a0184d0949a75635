import CSupport
import NIOCore
import RaftCore
import StateMachine
import Testing

@testable import Peering

/// The frames in `bytes`, as kind and payload; throws as the connection would close.
private func frames(_ bytes: [UInt8], maxBytes: Int = 1 << 20) throws -> [(FrameKind, [UInt8])] {
    try bytes.withUnsafeBytes { raw in
        var found: [(FrameKind, [UInt8])] = []
        var offset = 0
        while let frame = try Frame.next(in: raw, at: offset, maxBytes: maxBytes) {
            found.append((frame.kind, Array(frame.payload)))
            offset = frame.end
        }
        return found
    }
}

@Suite struct FrameTests {
    @Test func theLayoutStays() {
        let checksum = [UInt8]([5, 1, 2]).withUnsafeBytes { moonraft_crc32c(0, $0.baseAddress, $0.count) }
        #expect(frame(.ping, [1, 2]) == [3, 0, 0, 0] + littleEndianBytes(checksum) + [5, 1, 2])
    }

    @Test func framesAreFoundOneAfterTheOther() throws {
        let found = try frames(frame(.message, [1, 2, 3]) + frame(.pong, []) + frame(.ping, [9])[..<8])
        #expect(found.map(\.0) == [.message, .pong])
        #expect(found.map(\.1) == [[1, 2, 3], []])
    }

    @Test func cutsWaitAndFlipsAreRefused() throws {
        let whole = frame(.message, Array(0..<40))
        for length in whole.indices { #expect(try frames(Array(whole[..<length])).isEmpty) }
        for position in whole.indices {
            for bit in 0..<8 {
                var flipped = whole
                flipped[position] ^= 1 << bit
                // A flipped length may also ask for more bytes; nothing else passes.
                #expect((try? frames(flipped))?.isEmpty != false)
            }
        }
    }

    @Test func lengthsAreBounded() {
        #expect(throws: FrameError.length(0, max: 100)) { try frames([0, 0, 0, 0], maxBytes: 100) }
        #expect(throws: FrameError.length(101, max: 100)) { try frames([101, 0, 0, 0], maxBytes: 100) }
        #expect(throws: FrameError.length(.max, max: 100)) {
            try frames([255, 255, 255, 255], maxBytes: 100)
        }
        let unknown = [UInt8]([77]).withUnsafeBytes { moonraft_crc32c(0, $0.baseAddress, 1) }
        #expect(throws: FrameError.unknownKind(77)) {
            try frames([1, 0, 0, 0] + littleEndianBytes(unknown) + [77])
        }
    }

    @Test func greetingsComeBackAndHostileOnesDoNot() throws {
        let member = Member(
            id: 5, name: "five", peerURLs: ["http://a:1", "http://b:2"], clientURLs: ["http://c:3"],
            isLearner: true)
        var greeting = Greeting(
            purpose: .lookup, sender: identity(9), targetID: .max, members: [member, member])
        let bytes = greeting.encoded()
        #expect(Array(bytes[..<8]) == Array("MRPEER".utf8) + [1, 0])
        #expect(try decode(bytes) == greeting)
        greeting.refusal = Refusal(code: .busy, text: "later")
        #expect(try decode(greeting.encoded(), isRefusal: true) == greeting)
        for length in 0..<8 {
            #expect(throws: GreetingError.notMoonraft) { try decode(Array(bytes[..<length])) }
        }
        for length in 8..<bytes.count { _ = try? decode(Array(bytes[..<length])) }
        for position in bytes.indices {
            for bit in 0..<8 {
                var flipped = bytes
                flipped[position] ^= 1 << bit
                if let other = try? decode(flipped) { #expect((try? decode(other.encoded())) == other) }
            }
        }
        #expect(throws: GreetingError.protocolVersion(2)) { try decode(Array("MRPEER".utf8) + [2, 0]) }
        #expect(throws: GreetingError.malformed) { try decode(Array(bytes[..<8])) }
        // A name that is no text.
        #expect(throws: GreetingError.malformed) { try decode(Array(bytes[..<8]) + [8, 1, 0x2A, 1, 0xFF]) }
        let urls = [[UInt8]](repeating: [0x32, 1, 0x61], count: 65).flatMap { $0 }
        #expect(throws: GreetingError.malformed) { try decode(Array(bytes[..<8]) + [8, 1] + urls) }
    }

    private func decode(_ bytes: [UInt8], isRefusal: Bool = false) throws -> Greeting {
        try bytes.withUnsafeBytes { try Greeting(decoding: $0, isRefusal: isRefusal) }
    }

    @Test func versionsAreCompared() {
        #expect(ReleaseVersion("0.10.0").map { $0 > ReleaseVersion("0.9.12")! } == true)
        #expect(ReleaseVersion("1.2.3-rc.1") == ReleaseVersion("1.2.3+build"))
        for text in ["", "1", "1.2", "1.2.3.4", "a.b.c", "1.-2.3", "1..3"] { #expect(ReleaseVersion(text) == nil) }
    }

    @Test func peerURLsAreRead() {
        #expect(PeerEndpoint(url: "http://10.0.0.1:2380").map { "\($0.host) \($0.port)" } == "10.0.0.1 2380")
        #expect(PeerEndpoint(url: "https://[::1]:2380/").map { "\($0.host) \($0.port)" } == "::1 2380")
        for url in [
            "", "http://", "http://a", "http://a:b", "http://:1", "http://a:65536", "ftp://a:1", "http://a/b:1",
            "http://::1:5",
        ] {
            #expect(PeerEndpoint(url: url) == nil, "\(url)")
        }
    }
}
