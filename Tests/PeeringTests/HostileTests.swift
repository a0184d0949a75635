import Glibc
import NIOCore
import RaftCore
import Replica
import StateMachine
import Testing

@testable import Peering

/// What arrives on the peer port from somebody who is no member, or a member gone mad.
@Suite struct HostilePeerTests {
    private func hello(_ purpose: PeerPurpose = .messages, from: NodeID = 1) -> [UInt8] {
        Greeting(purpose: purpose, sender: identity(from), targetID: 2).encoded()
    }

    private func victim(_ configuration: PeerConfiguration = quickConfiguration()) throws -> TestPeer {
        let peer = try TestPeer(2, configuration: configuration)
        // Member 1 exists and cannot be dialled.
        peer.transport.setMembers(
            [Member(id: 1, name: "n1", peerURLs: ["http://127.0.0.1:1"], clientURLs: [])], removed: [])
        #expect(eventually { peer.counters(1) != nil })
        return peer
    }

    @Test func everyOffenceEndsItsConnectionOnly() throws {
        let two = try victim()
        defer { two.close() }
        var random = SplitMix(state: 3)
        let noise = (0..<500).map { _ in UInt8.random(in: 0...255, using: &random) }
        let good = frame(.hello, hello())
        var wrongChecksum = frame(.ping, [UInt8](repeating: 1, count: 8))
        wrongChecksum[12] ^= 1
        let snapshot = PeerMessage.raft(
            Message(
                from: 1, to: 2, term: .max,
                body: .snapshot(.init(index: .max, term: 1, confState: ConfState(voters: [1])))))
        let table: [(name: String, bytes: [UInt8], note: String?)] = [
            ("random bytes", noise, nil),
            ("a huge length", [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0], "frame of 4294967295 bytes"),
            ("a length beyond the handshake's bound", littleEndianBytes(UInt32(300 << 10)), "at most 262144"),
            ("no length", [0, 0, 0, 0], "frame of 0 bytes"),
            (
                "an HTTP request", Array("GET /version HTTP/1.1\r\nHost: x\r\n\r\n".utf8),
                "an HTTP request; clients belong on the client port"
            ),
            ("a gRPC client", Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8), "gRPC"),
            ("a TLS client", [0x16, 0x03, 0x01, 2, 0, 1, 0, 1, 0xFC], "a TLS handshake"),
            ("a message before the handshake", frame(.message, heartbeat(1, 2, 1).encoded()), "unexpected frame"),
            ("a foreign handshake", frame(.hello, Array("something else".utf8)), "no Moonraft handshake"),
            (
                "a later protocol", frame(.hello, Array("MRPEER".utf8) + [9, 0]),
                "peer protocol version 9, this member speaks 1"
            ),
            ("a broken handshake", frame(.hello, Array("MRPEER".utf8) + [1, 0, 0xFF]), "malformed handshake"),
            ("two handshakes", good + good, "unexpected frame of kind hello"),
            ("a wrong checksum", good + wrongChecksum, "wrong checksum"),
            (
                "a spoofed sender", good + frame(.message, heartbeat(3, 2, 1).encoded()),
                "message from 3 to 2 on the connection of 1"
            ),
            ("a wrong receiver", good + frame(.message, heartbeat(1, 3, 1).encoded()), "message from 1 to 3"),
            ("garbage for a message", good + frame(.message, [3, 1, 2]), "malformed message: truncated"),
            (
                "a snapshot without data", good + frame(.message, snapshot.encoded()),
                "snapshot message without its data"
            ),
            ("a chunk out of place", good + frame(.snapshotChunk, [1]), "unexpected frame of kind snapshotChunk"),
        ]
        for (name, bytes, note) in table {
            let socket = RawSocket(port: two.port)
            socket.send(bytes)
            #expect(socket.readToEnd() != nil, "\(name) kept its connection")
            if let note { #expect(eventually { two.inbox.hasNote(note) }, "\(name): \(two.inbox.now.notes)") }
        }
        #expect(two.inbox.now.messages.isEmpty)
        #expect(two.inbox.now.snapshots.isEmpty)
        // After all that, a member gets through.
        let member = RawSocket(port: two.port)
        member.send(good + frame(.message, heartbeat(1, 2, 7).encoded()) + frame(.ping, [1, 2, 3, 4, 5, 6, 7, 8]))
        #expect(member.readFrame()?.kind == .welcome)
        let pong = member.readFrame()
        #expect(pong?.kind == .pong && pong?.payload == [1, 2, 3, 4, 5, 6, 7, 8])
        #expect(eventually { two.inbox.now.messages == [heartbeat(1, 2, 7)] })
        #expect(two.counters(1)?[.receivedFailures] ?? 0 >= 5)
    }

    @Test func whatCameBeforeAnOffenceCounts() throws {
        let two = try victim()
        defer { two.close() }
        let socket = RawSocket(port: two.port)
        socket.send(
            frame(.hello, hello()) + frame(.message, heartbeat(1, 2, 1).encoded())
                + frame(.message, heartbeat(3, 2, 2).encoded())
                + frame(.message, heartbeat(1, 2, 3).encoded()))
        #expect(socket.readToEnd() != nil)
        #expect(eventually { two.inbox.now.messages == [heartbeat(1, 2, 1)] })
    }

    @Test func bytesMayArriveOneByOne() throws {
        let two = try victim()
        defer { two.close() }
        let socket = RawSocket(port: two.port)
        for byte in frame(.hello, hello()) + frame(.message, heartbeat(1, 2, 1).encoded()) {
            socket.send([byte])
        }
        #expect(eventually { two.inbox.now.messages == [heartbeat(1, 2, 1)] })
    }

    @Test func aSlowHandshakeIsEnded() throws {
        let two = try victim()
        defer { two.close() }
        let socket = RawSocket(port: two.port)
        socket.send(Array(frame(.hello, hello())[..<20]))
        #expect(socket.readToEnd() == [])
        #expect(eventually { two.inbox.hasNote("no handshake") })
    }

    @Test func connectionsWithoutHandshakeAreBounded() throws {
        var configuration = quickConfiguration()
        configuration.maxPendingHandshakes = 4
        configuration.handshakeTimeout = .seconds(2)
        let two = try victim(configuration)
        defer { two.close() }
        // Connections are accepted in the order they were made.
        let waiting = (0..<4).map { _ in RawSocket(port: two.port) }
        for _ in 0..<10 {
            #expect(RawSocket(port: two.port).readToEnd() == [])
        }
        // The bound is on those without a handshake: each that finishes makes room.
        waiting[0].send(frame(.hello, hello()))
        #expect(waiting[0].readFrame()?.kind == .welcome)
        let next = RawSocket(port: two.port)
        next.send(frame(.hello, hello(.lookup)))
        #expect(next.readFrame()?.kind == .welcome)
        withExtendedLifetime(waiting) {}
    }

    @Test func linesAboutStrangersAreBounded() throws {
        var configuration = quickConfiguration()
        configuration.maxStrangerNotesPerMinute = 5
        let two = try victim(configuration)
        defer { two.close() }
        for _ in 0..<30 {
            let socket = RawSocket(port: two.port)
            socket.send([0, 0, 0, 0])
            #expect(socket.readToEnd() != nil)
        }
        #expect(two.inbox.now.notes.count { $0.contains("frame of 0 bytes") } == 5)
    }

    @Test func aNewerConnectionOfAMemberReplacesTheLast() throws {
        let two = try victim()
        defer { two.close() }
        let old = RawSocket(port: two.port)
        old.send(frame(.hello, hello()))
        #expect(old.readFrame()?.kind == .welcome)
        let new = RawSocket(port: two.port)
        new.send(frame(.hello, hello()))
        #expect(new.readFrame()?.kind == .welcome)
        #expect(old.readToEnd() != nil)
        new.send(frame(.message, heartbeat(1, 2, 5).encoded()))
        #expect(eventually { two.inbox.now.messages == [heartbeat(1, 2, 5)] })
    }
}
