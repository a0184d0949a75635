import CSupport
import NIOConcurrencyHelpers
import NIOCore
import RaftCore
import Replica
import StateMachine
import Storage
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
    private func send(_ peer: TestPeer, _ bytes: [UInt8]) -> Bool? { send(peer, BytesSource(bytes)) }

    private func send(_ peer: TestPeer, _ source: any ByteSource) -> Bool? {
        let outcome = NIOLockedValueBox<Bool?>(nil)
        peer.transport.sendSnapshot(message, source: source) { result in outcome.withLockedValue { $0 = result } }
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
        // A few chunks and a rest, more than may wait for the disk.
        let bytes = content(5_000_017)
        #expect(send(one, bytes) == true)
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
        #expect(send(one, [1, 2, 3]) == true)
        #expect(TemporaryDirectory.read("\(two.directory.path)/\(name)") == [1, 2, 3])
    }

    /// Twenty chunks at ten a second take two seconds, less the first and a second one that may follow at once.
    @Test func theRateIsKept() throws {
        var configuration = quickConfiguration()
        configuration.snapshotChunkBytes = 1000
        configuration.snapshotBytesPerSecond = 10_000
        let one = try TestPeer(1, configuration: configuration)
        let two = try TestPeer(2)
        defer { one.close(); two.close() }
        for peer in [one, two] { peer.transport.setMembers([one.member, two.member], removed: []) }
        #expect(eventually { one.inbox.now.reachable == [2] })
        let start = NIODeadline.now()
        #expect(send(one, content(20_000)) == true)
        #expect(NIODeadline.now() - start >= .milliseconds(1_800))
        // Unless the log would outrun it.
        let hurried = NIODeadline.now()
        let outcome = NIOLockedValueBox<Bool?>(nil)
        one.transport.sendSnapshot(message, source: BytesSource(content(200_000))) { result in
            outcome.withLockedValue { $0 = result }
        }
        #expect(eventually { one.counters(2)?[.snapshotsSending] == 1 })
        one.transport.hurrySnapshot(to: 9)
        one.transport.hurrySnapshot(to: 2)
        #expect(eventually { outcome.withLockedValue { $0 } == true })
        #expect(NIODeadline.now() - hurried < .seconds(10))
        #expect(one.inbox.hasNote("goes on without a bound on its rate"))
        // What a transfer holds up is let go with its end, also when it ends early.
        weak var source: BytesSource?
        do {
            let late = BytesSource(content(20_000))
            source = late
            one.transport.sendSnapshot(message, source: late) { _ in }
        }
        #expect(eventually { two.directory.names.contains { $0.hasSuffix(".part") } })
        two.close()
        #expect(eventually { source == nil })
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
        #expect(send(one, content(1000)) == false)
        #expect(one.inbox.hasNote("is receiving another snapshot already"))
        // The slow one goes on undisturbed, and then the place is free.
        socket.send(.snapshotChunk, Array(content(1000)[10...]))
        socket.send(.snapshotEnd, checksum(content(1000)))
        let answer = socket.readFrame()
        #expect(answer?.kind == .snapshotResult && answer?.payload == [0])
        #expect(two.inbox.now.snapshots.count == 1)
        #expect(send(one, content(1000)) == true)
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
        #expect(send(one, bytes) == true)
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
        // One that fails in the middle of the second chunk.
        #expect(send(one, BytesSource(content(300_000), failsAt: 270_000)) == false)
        #expect(one.inbox.hasNote("the database has grown too much"))
        #expect(eventually { two.directory.names.isEmpty })
        let unknown = NIOLockedValueBox<Bool?>(nil)
        let stranger = Message(from: 1, to: 99, term: 8, body: .snapshot(metadata))
        one.transport.sendSnapshot(stranger, source: BytesSource([1])) { result in
            unknown.withLockedValue { $0 = result }
        }
        #expect(eventually { unknown.withLockedValue { $0 } == false })
        // The receiver is gone.
        two.close()
        #expect(send(one, [1]) == false)
        #expect(one.counters(2)?[.snapshotSendFailures] == 2)
    }

    @Test func outgoingTransfersAreBounded() throws {
        let one = try TestPeer(1)
        let mute = try SilentPeer(id: 2, answers: false)
        defer { one.close(); mute.close() }
        one.transport.setMembers(
            [Member(id: 2, name: "n2", peerURLs: ["http://127.0.0.1:1", mute.url], clientURLs: [])], removed: [])
        let outcomes = NIOLockedValueBox<[Int: Bool]>([:])
        for number in 0..<3 {
            one.transport.sendSnapshot(message, source: BytesSource([1])) { result in
                outcomes.withLockedValue { $0[number] = result }
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

/// A snapshot in memory.
private final class BytesSource: ByteSource {
    private let bytes: [UInt8]
    private let failsAt: UInt64

    init(_ bytes: [UInt8], failsAt: UInt64 = .max) {
        self.bytes = bytes
        self.failsAt = failsAt
    }

    var byteCount: UInt64 { UInt64(bytes.count) }

    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(DiskError) {
        let end = offset + UInt64(buffer.count)
        if end > failsAt { throw DiskError(.read, path: "memory", .snapshotTooOld) }
        buffer.copyBytes(from: bytes[Int(offset)..<Int(end)])
    }
}
