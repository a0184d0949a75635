import CSupport
import NIOConcurrencyHelpers
import NIOCore
import RaftCore
import Replica
import StateMachine
import Testing

@testable import Peering

@Suite struct SnapshotTransferTests {
    private let metadata = SnapshotMetadata(index: 1000, term: 7, confState: ConfState(voters: [1, 2]))

    private var message: Message { Message(from: 1, to: 2, term: 8, body: .snapshot(metadata)) }

    private func content(_ count: Int) -> [UInt8] {
        var random = SplitMix(state: 11)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count + 8)
        while bytes.count < count { bytes += littleEndianBytes(random.next()) }
        return Array(bytes[..<count])
    }

    /// Member 1, which sends, and member 2.
    private func pair(_ configuration: PeerConfiguration = quickConfiguration()) throws -> (TestPeer, TestPeer) {
        let one = try TestPeer(1)
        let two = try TestPeer(2, configuration: configuration)
        for peer in [one, two] { peer.transport.setMembers([one.member, two.member], removed: []) }
        #expect(eventually { one.inbox.now.reachable == [2] && two.inbox.now.reachable == [1] })
        return (one, two)
    }

    /// Sends and waits for the outcome.
    private func send(_ peer: TestPeer, _ file: String) -> Bool? {
        let outcome = NIOLockedValueBox<Bool?>(nil)
        peer.transport.sendSnapshot(message, file: file) { result in outcome.withLockedValue { $0 = result } }
        _ = eventually { outcome.withLockedValue { $0 } != nil }
        return outcome.withLockedValue { $0 }
    }

    /// A connection of member 1 that has been welcomed for a snapshot.
    private func welcomed(_ peer: TestPeer) -> RawSocket {
        let socket = RawSocket(port: peer.port)
        socket.send(.hello, Greeting(purpose: .snapshot, sender: identity(1), targetID: 2).encoded())
        #expect(socket.readFrame()?.kind == .welcome)
        return socket
    }

    private func header(_ length: Int) -> [UInt8] {
        littleEndianBytes(UInt64(length)) + PeerMessage.raft(message).encoded()
    }

    private func checksum(_ bytes: [UInt8]) -> [UInt8] {
        littleEndianBytes(bytes.withUnsafeBytes { moonraft_crc32c(0, $0.baseAddress, $0.count) })
    }

    @Test func aFileArrivesWholeAndDurable() throws {
        let (one, two) = try pair()
        defer { one.close(); two.close() }
        let source = try TemporaryDirectory()
        // A few chunks and a rest, more than may wait for the disk.
        let bytes = content(5_000_017)
        #expect(send(one, source.write("copy", bytes)) == true)
        let arrived = two.inbox.now.snapshots
        #expect(arrived.count == 1)
        #expect(arrived.first?.0 == message)
        #expect(arrived.first?.2 == 1)
        let name = "0000000000000007-00000000000003e8.snapshot"
        #expect(SnapshotFileName.durable(metadata) == name)
        #expect(arrived.first?.1 == "\(two.directory.path)/\(name)")
        #expect(TemporaryDirectory.read(arrived.first?.1 ?? "") == bytes)
        #expect(two.directory.names == [name])
        #expect(one.counters(2)?[.snapshotsSent] == 1)
        #expect(one.counters(2)?[.snapshotsSending] == 0)
        #expect(two.counters(1)?[.snapshotsReceived] == 1)
        // The same once more: the name is free again and the file is replaced.
        #expect(send(one, source.write("copy", [1, 2, 3])) == true)
        #expect(TemporaryDirectory.read("\(two.directory.path)/\(name)") == [1, 2, 3])
    }

    @Test func messagesGoOnMeanwhile() throws {
        let (one, two) = try pair()
        defer { one.close(); two.close() }
        let socket = welcomed(two)
        socket.send(.snapshotHeader, header(1000))
        socket.send(.snapshotChunk, content(10))
        one.transport.send([heartbeat(1, 2, 1)])
        #expect(eventually { two.inbox.now.messages == [heartbeat(1, 2, 1)] })
        // One at a time.
        let source = try TemporaryDirectory()
        let file = source.write("copy", content(1000))
        #expect(send(one, file) == false)
        #expect(one.inbox.hasNote("is receiving another snapshot already"))
        // The slow one goes on undisturbed, and then the place is free.
        socket.send(.snapshotChunk, Array(content(1000)[10...]))
        socket.send(.snapshotEnd, checksum(content(1000)))
        let answer = socket.readFrame()
        #expect(answer?.kind == .snapshotResult && answer?.payload == [0])
        #expect(two.inbox.now.snapshots.count == 1)
        #expect(send(one, file) == true)
    }

    @Test func brokenTransfersLeaveNothing() throws {
        let (one, two) = try pair()
        defer { one.close(); two.close() }
        let bytes = content(1000)
        let spoofed =
            littleEndianBytes(UInt64(1000))
            + PeerMessage.raft(Message(from: 9, to: 2, term: 8, body: .snapshot(metadata))).encoded()
        var huge = header(1000)
        huge.replaceSubrange(..<8, with: [255, 255, 255, 255, 255, 255, 255, 255])
        let table: [(name: String, frames: [(FrameKind, [UInt8])], text: String)] = [
            (
                "a wrong checksum",
                [(.snapshotHeader, header(1000)), (.snapshotChunk, bytes), (.snapshotEnd, [1, 2, 3, 4])],
                "its sender says 4030201"
            ),
            (
                "too few bytes",
                [(.snapshotHeader, header(1001)), (.snapshotChunk, bytes), (.snapshotEnd, checksum(bytes))],
                "ended too early"
            ),
            ("too many bytes", [(.snapshotHeader, header(999)), (.snapshotChunk, bytes)], "more bytes than announced"),
            ("no bytes", [(.snapshotHeader, header(0))], "snapshot of 0 bytes"),
            ("a giant", [(.snapshotHeader, huge)], "snapshot of 18446744073709551615 bytes"),
            ("no header", [(.snapshotChunk, bytes)], "unexpected frame"),
            (
                "two headers",
                [(.snapshotHeader, header(1000)), (.snapshotChunk, bytes), (.snapshotHeader, header(1000))],
                "unexpected frame"
            ),
            ("a short header", [(.snapshotHeader, [1, 2, 3])], "malformed header"),
            (
                "garbage for a message", [(.snapshotHeader, littleEndianBytes(UInt64(10)) + [1, 2, 3])],
                "malformed snapshot message"
            ),
            (
                "another message", [(.snapshotHeader, littleEndianBytes(UInt64(10)) + heartbeat(1, 2, 1).encoded())],
                "no snapshot message"
            ),
            ("a spoofed sender", [(.snapshotHeader, spoofed)], "no snapshot message of its sender"),
            ("an empty chunk", [(.snapshotHeader, header(1000)), (.snapshotChunk, [])], "more bytes than announced"),
        ]
        for (name, frames, text) in table {
            let socket = welcomed(two)
            for (kind, payload) in frames { socket.send(kind, payload) }
            let answer = socket.readFrame()
            #expect(answer?.kind == .snapshotResult && answer?.payload.first == 1, "\(name)")
            let told = String(decoding: answer?.payload.dropFirst() ?? [], as: UTF8.self)
            #expect(told.contains(text), "\(name): \(told)")
            #expect(socket.readToEnd() == [], "\(name)")
            #expect(eventually { two.directory.names.isEmpty }, "\(name)")
        }
        #expect(two.counters(1)?[.snapshotReceiveFailures] == UInt64(table.count))
        #expect(two.inbox.now.snapshots.isEmpty)
        // And the next one arrives.
        let source = try TemporaryDirectory()
        #expect(send(one, source.write("copy", bytes)) == true)
    }

    @Test func aCutConnectionLeavesNothing() throws {
        let (one, two) = try pair()
        defer { one.close(); two.close() }
        var socket: RawSocket? = welcomed(two)
        socket?.send(.snapshotHeader, header(1000))
        socket?.send(.snapshotChunk, content(500))
        #expect(eventually { two.directory.names.count == 1 })
        socket = nil
        #expect(eventually { two.directory.names.isEmpty })
        #expect(eventually { two.inbox.hasNote("the snapshot from member 1 failed") })
        #expect(two.inbox.now.snapshots.isEmpty)
    }

    @Test func aSenderThatStopsIsGivenUp() throws {
        var configuration = quickConfiguration()
        configuration.snapshotIdleTimeout = .milliseconds(300)
        let (one, two) = try pair(configuration)
        defer { one.close(); two.close() }
        let socket = welcomed(two)
        socket.send(.snapshotHeader, header(1000))
        socket.send(.snapshotChunk, content(500))
        let answer = socket.readFrame()
        #expect(answer.map { String(decoding: $0.payload.dropFirst(), as: UTF8.self) } == "no progress")
        #expect(eventually { two.directory.names.isEmpty })
    }

    @Test func whatCannotBeSentFails() throws {
        let (one, two) = try pair()
        defer { one.close(); two.close() }
        #expect(send(one, "/nonexistent/file") == false)
        #expect(one.inbox.hasNote("No such file"))
        let unknown = NIOLockedValueBox<Bool?>(nil)
        let stranger = Message(from: 1, to: 99, term: 8, body: .snapshot(metadata))
        one.transport.sendSnapshot(stranger, file: "x") { result in unknown.withLockedValue { $0 = result } }
        #expect(eventually { unknown.withLockedValue { $0 } == false })
        // The receiver is gone.
        two.close()
        let source = try TemporaryDirectory()
        #expect(send(one, source.write("copy", [1])) == false)
        #expect(one.counters(2)?[.snapshotSendFailures] == 2)
    }

    @Test func outgoingTransfersAreBounded() throws {
        let one = try TestPeer(1)
        let mute = try SilentPeer(id: 2, answers: false)
        defer { one.close(); mute.close() }
        one.transport.setMembers(
            [Member(id: 2, name: "n2", peerURLs: ["http://127.0.0.1:1", mute.url], clientURLs: [])], removed: [])
        let source = try TemporaryDirectory()
        let file = source.write("copy", [1])
        let outcomes = NIOLockedValueBox<[Int: Bool]>([:])
        for number in 0..<3 {
            one.transport.sendSnapshot(message, file: file) { result in outcomes.withLockedValue { $0[number] = result }
            }
        }
        #expect(eventually { outcomes.withLockedValue { $0[2] } == false })
        #expect(one.inbox.hasNote("2 others are under way"))
        // Those end because nobody answers the handshake.
        #expect(eventually { outcomes.withLockedValue { $0.count } == 3 })
        #expect(one.inbox.hasNote("no answer to the handshake"))
    }

    @Test func closingFailsTransfersAndLeftoversGoAtStart() throws {
        let (one, two) = try pair()
        let socket = welcomed(two)
        socket.send(.snapshotHeader, header(1000))
        socket.send(.snapshotChunk, content(500))
        #expect(eventually { two.directory.names.count == 1 })
        one.close()
        two.close()
        #expect(two.directory.names.isEmpty)

        let directory = try TemporaryDirectory()
        _ = directory.write("0000000000000001-0000000000000002.part", [1])
        _ = directory.write("0000000000000001-0000000000000003.snapshot", [1])
        try prepareSnapshotDirectory(directory.path)
        #expect(directory.names == ["0000000000000001-0000000000000003.snapshot"])
    }
}
