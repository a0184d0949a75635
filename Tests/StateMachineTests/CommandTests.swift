// Property: an entry has exactly the documented bytes, and anything else is refused without a trap.
// Method: bytes written by hand.

import Testing

@testable import StateMachine

@Suite struct CommandTests {
    @Test func headerAndBodyHaveTheDocumentedBytes() {
        #expect(
            Command.encode(kind: .put, origin: .plugin, body: Put("k", "v").message)
                == [1, 1, 2, 0, 0x0A, 1, 0x6B, 0x12, 1, 0x76])
        #expect(Command.encode(kind: .txn, body: []) == [1, 3, 0, 0])
        #expect(Command.leaseRevoke(id: 7, origin: .core) == [1, 6, 1, 0, 0x08, 7])
        #expect(Command.leaseGrant(id: 5, ttlSeconds: 60) == [1, 5, 0, 0, 0x08, 60, 0x10, 5])
        #expect(Command.compact(revision: 9, physical: true) == [1, 4, 0, 0, 0x08, 9, 0x10, 1])
        #expect(
            Command.leaseCheckpoint([(id: 5, remainingSeconds: 3)])
                == [1, 7, 1, 0, 0x0A, 4, 0x08, 5, 0x10, 3])
        #expect(
            Command.alarm(.activate, member: 3, type: .corrupt)
                == [1, 8, 0, 0, 0x08, 1, 0x10, 3, 0x18, 2])
        #expect(Command.clusterVersion("3.6.0") == [1, 10, 1, 0] + bytes("3.6.0"))
        #expect(
            Command.memberURLs(id: 9, ["a", "b"])
                == [1, 11, 0, 0, 0x08, 9, 0x1A, 1, 0x61, 0x1A, 1, 0x62])
    }

    @Test func everyKindComesBackFromItsBytes() throws {
        for kind in Command.Kind.allCases {
            for origin in Command.Origin.allCases {
                let entry = Command.encode(kind: kind, origin: origin, body: [1, 2, 3])
                try entry.withUnsafeBytes { bytes in
                    let command = try Command.parse(bytes)
                    #expect(command.kind == kind)
                    #expect(command.origin == origin)
                    #expect([UInt8](command.body) == [1, 2, 3])
                }
            }
        }
    }

    @Test func aTagStandsBetweenHeaderAndBodyAndMeansNothing() throws {
        let tag = [UInt8](1...16)
        for body in [[], [7], Put("k", "v").message] as [[UInt8]] {
            let plain = Command.encode(kind: .put, origin: .plugin, body: body)
            #expect(Command.tagBytes(of: plain) == nil)
            let tagged = Command.tagged(plain, tag: tag)
            #expect(tagged == [1, 1, 2, 1] + tag + body)
            #expect(Command.tagBytes(of: tagged).map { [UInt8]($0) } == tag)
            try tagged.withUnsafeBytes { bytes in
                let command = try Command.parse(bytes)
                #expect(command.kind == .put)
                #expect(command.origin == .plugin)
                #expect([UInt8](command.body) == body)
            }
        }
        #expect(Command.tagBytes(of: [1, 1, 0, 1] + [UInt8](repeating: 0, count: 15)) == nil)
        #expect(Command.tagBytes(of: []) == nil)

        let machine = Machine()
        machine.apply(
            Command.tagged(Command.encode(kind: .put, body: Put("k", "v").message), tag: tag))
        #expect(try machine.pairs() == "[k=v(c2 m2 v1)]")
    }

    @Test(
        arguments: [
            [1], [1, 1, 0], [0, 1, 0, 0], [2, 1, 0, 0], [1, 0, 0, 0], [1, 12, 0, 0], [1, 255, 0, 0],
            [1, 1, 3, 0], [1, 1, 0, 2], [1, 1, 0, 3] + [UInt8](repeating: 0, count: 40), [1, 1, 0, 1],
            [1, 1, 0, 1] + [UInt8](repeating: 0, count: 15),
        ] as [[UInt8]])
    func otherHeadersAreUnknown(_ entry: [UInt8]) {
        let machine = Machine()
        let result = machine.apply(entry)
        #expect(result.error == .unknownCommand)
        #expect(result.revision == 1)
        #expect(machine.state.appliedIndex == 1)
    }

    @Test func theEmptyEntryOfALeaderOnlyCounts() {
        let machine = Machine()
        let result = machine.apply([])
        #expect(result.error == nil)
        #expect(result.body.isEmpty)
        #expect(machine.state.appliedIndex == 1)
        #expect(machine.state.appliedTerm == 1)
    }
}
