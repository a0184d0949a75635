import Peering
import RaftCore
import Replica
import StateMachine
import Testing

/// Pseudo-random numbers that are the same in every run.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}

/// One message of every kind and shape.
func sampleMessages(from: NodeID = 0x8e9e_05c5_2164_694d, to: NodeID = 3) -> [PeerMessage] {
    let known = Message.CommitPoint(index: 7, term: .max)
    let entries = [
        Entry(index: 11, term: 5, data: []),
        Entry(index: 12, term: 5, kind: .configChange, data: [1, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]),
        Entry(index: 13, term: 6, data: [UInt8](repeating: 0xAB, count: 300)),
    ]
    let gap = [Entry(index: 90, term: 1, data: [1]), Entry(index: 3, term: .max, data: [2])]
    let joint = ConfState(
        voters: [1, 2, 3], votersOutgoing: [3, 4, .max], learners: [7], learnersNext: [4],
        autoLeave: true)
    let bodies: [Message.Body] = [
        .voteRequest(.init(isPreVote: true, isTransfer: false, lastIndex: 1 << 40, lastTerm: 3, known: known)),
        .voteRequest(.init(isPreVote: false, isTransfer: true, lastIndex: .max, lastTerm: .max, known: known)),
        .voteResponse(.init(isPreVote: false, isGranted: true, known: known)),
        .append(.init(previousIndex: 10, previousTerm: 4, commit: 9, entries: entries)),
        .append(.init(previousIndex: .max, previousTerm: 0, commit: 0, entries: gap)),
        .append(.init(previousIndex: 0, previousTerm: 0, commit: 0, entries: [])),
        .appendResponse(.accepted(match: 12)),
        .appendResponse(.rejected(previous: 10, hintIndex: 4, hintTerm: 2)),
        .heartbeat(commit: 128, round: 1 << 63),
        .heartbeatResponse(round: 127),
        .snapshot(.init(index: 100, term: 4, confState: joint)),
        .snapshot(.init(index: 100, term: 4, confState: ConfState())),
        .newerTerm, .timeoutNow, .readRequest(id: 16384), .readResponse(id: 0, index: 1),
    ]
    let requests: [PeerRequest.Body] = [
        .propose([[1, 2, 3], [], [UInt8](repeating: 7, count: 200)]), .propose([]),
        .changeMembership([9, 9]), .renewLease(-1), .leaseTimeToLive(.min, withKeys: true),
    ]
    let replies: [PeerReply.Body] =
        NodeError.allCases.map { .refused($0) } + [
            .leaseRenewed(timeToLiveSeconds: nil), .leaseRenewed(timeToLiveSeconds: 60),
            .leaseTimeToLive(nil),
            .leaseTimeToLive(.init(grantedTTLSeconds: 10, remainingSeconds: nil, keys: [])),
            .leaseTimeToLive(.init(grantedTTLSeconds: 10, remainingSeconds: -3, keys: [[1], [], [2, 3]])),
        ]
    return bodies.map { .raft(Message(from: from, to: to, term: 77, body: $0)) }
        + requests.map { .request(PeerRequest(from: from, to: to, term: 5, run: .max, number: 300, body: $0)) }
        + replies.map { .reply(PeerReply(from: from, to: to, run: 1, number: 2, count: 3, body: $0)) }
        + [.report(CompactionReport(from: from, to: to, compactRevision: -5, hash: .max))]
}

private func decode(_ bytes: [UInt8]) throws(PeerMessageError) -> PeerMessage {
    try bytes.withUnsafeBufferPointer { buffer throws(PeerMessageError) in
        try PeerMessage(decoding: UnsafeRawBufferPointer(buffer))
    }
}

@Suite struct PeerMessageCodecTests {
    @Test func everyKindComesBackAsItWas() throws {
        for message in sampleMessages() {
            let bytes = message.encoded()
            #expect(bytes.count <= message.encodedSizeBound)
            #expect(try decode(bytes) == message)
        }
    }

    @Test func theFormatStays() {
        // Golden bytes: they change only along with the protocol version.
        let heartbeat = PeerMessage.raft(
            Message(from: 1, to: 2, term: 300, body: .heartbeat(commit: 5, round: 6)))
        #expect(heartbeat.encoded() == [6, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0xAC, 2, 5, 6])
        let append = PeerMessage.raft(
            Message(
                from: 1, to: 2, term: 1,
                body: .append(
                    .init(
                        previousIndex: 8, previousTerm: 1, commit: 7,
                        entries: [Entry(index: 9, term: 1, data: [0xAA, 0xBB])]))))
        #expect(
            Array(append.encoded().dropFirst(17)) == [1, 8, 1, 7, 1, 0, 1, 0, 2, 0xAA, 0xBB])
        #expect(
            sampleMessages().map { $0.encoded()[0] }.reduce(into: Set()) { $0.insert($1) }
                == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18, 19, 24, 25, 26, 32])
    }

    @Test func everyCutIsAnError() {
        for message in sampleMessages() {
            let bytes = message.encoded()
            for length in 0..<bytes.count {
                #expect(throws: PeerMessageError.self) { try decode(Array(bytes[..<length])) }
            }
            #expect(throws: PeerMessageError.trailingBytes(1)) { try decode(bytes + [0]) }
        }
    }

    @Test func everyFlippedBitIsAnErrorOrAnotherMessage() {
        for message in sampleMessages() {
            let bytes = message.encoded()
            for position in bytes.indices {
                for bit in 0..<8 {
                    var flipped = bytes
                    flipped[position] ^= 1 << bit
                    guard let other = try? decode(flipped) else { continue }
                    // What was read can be written and read again.
                    #expect((try? decode(other.encoded())) == other)
                }
            }
        }
    }

    @Test func hostileCountsAreRefusedBeforeAllocation() {
        let header: [UInt8] = [3] + [UInt8](repeating: 1, count: 16)
        let most: [UInt8] = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]
        #expect(throws: PeerMessageError.countTooLarge(.max)) { try decode(header + [1, 1, 1, 1] + most) }
        #expect(throws: PeerMessageError.countTooLarge(2)) {
            try decode(header + [1, 1, 1, 1, 2, 0, 0, 0, 0])
        }
        #expect(throws: PeerMessageError.countTooLarge(.max)) {
            try decode(header + [1, 1, 1, 1, 1, 0, 1, 0] + most)
        }
        #expect(throws: PeerMessageError.numberTooLarge) {
            try decode(header + [UInt8](repeating: 0xFF, count: 11))
        }
        let snapshot: [UInt8] = [8] + [UInt8](repeating: 1, count: 16) + [1, 1, 1]
        #expect(throws: PeerMessageError.countTooLarge(.max)) { try decode(snapshot + most) }
        #expect(throws: PeerMessageError.invalidMembership) {
            // A voter that is a learner as well.
            try decode(snapshot + [1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        #expect(throws: PeerMessageError.unknownKind(99)) { try decode([99] + header) }
    }

    @Test func randomBytesNeverTrap() {
        var random = SplitMix(state: 7)
        var accepted = 0
        for round in 0..<20_000 {
            let kinds: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 16, 17, 18, 19, 24, 25, 26, 32]
            var bytes: [UInt8] = [kinds[round % kinds.count]]
            for _ in 0..<Int.random(in: 16...60, using: &random) {
                // Small bytes reach deeper than uniform ones.
                bytes.append(
                    UInt8(
                        Int.random(in: 0...3, using: &random) == 0
                            ? Int.random(in: 0...255, using: &random) : Int.random(in: 0...2, using: &random)))
            }
            if let message = try? decode(bytes) {
                accepted += 1
                #expect((try? decode(message.encoded())) == message)
            }
        }
        #expect(accepted > 0)
    }
}
