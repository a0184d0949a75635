// Property (reliability.md S22): whatever bytes the log holds, applying them never stops the process
// and says the same every time. Method: valid commands cut at every length and with every byte
// changed, and random bytes behind valid headers; each log is applied by two machines.

import KVCodec
import MVCC
import Testing

@testable import StateMachine

@Suite struct PoisonedLogTests {
    private static let wild: [Int64] = [.min, -1, 0, 1, .max]

    /// Valid commands of every kind and shape, alarms left out.
    private func valid() -> [[UInt8]] {
        var commands: [[UInt8]] = []
        func add(_ kind: Command.Kind, _ message: [UInt8]) {
            commands.append(Command.encode(kind: kind, body: message))
        }
        add(.put, Put("key", "value", lease: 5, prevKV: true).message)
        add(.put, Put("key", ignoreValue: true, ignoreLease: true).message)
        add(.deleteRange, Delete("a", "z", prevKV: true).message)
        let nested = Txn(
            [
                Compare("key", "", Outcome.equal, .value("value")),
                Compare("a", "\0", Outcome.less, .mod(5), target: 2),
            ],
            then: [
                .put(Put("x", "1", lease: 5)), .get(Get("a", "z", limit: 2, revision: 3)),
                .delete(Delete("q")),
                .txn(Txn([Compare("x", "", Outcome.greater, .version(0))], else: [.put(Put("y"))])),
            ], else: [.put(Put("n", "2", prevKV: true))])
        add(.txn, nested.message)
        add(.memberUpdate, [0x08, 1, 0x12, 2, 0x61, 0x62, 0x1A, 1, 0x63, 0x22, 1, 0x64, 0x28, 1])
        commands.append(Command.memberURLs(id: 1, ["http://a", "http://b"]))
        commands.append(
            Command.tagged(Command.leaseGrant(id: 9, ttlSeconds: 60), tag: [UInt8](1...16)))
        commands.append(Command.leaseGrant(id: 5, ttlSeconds: 60))
        commands.append(Command.leaseGrant(id: 0x1122_3344_5566_7788, ttlSeconds: 99_999))
        commands.append(
            Command.leaseCheckpoint([(id: 5, remainingSeconds: 3), (id: 6, remainingSeconds: 4)]))
        commands.append(Command.leaseRevoke(id: 5, origin: .core))
        commands.append(Command.compact(revision: 300, physical: true))
        commands.append(Command.clusterVersion("3.6.0"))
        return commands
    }

    private func mutations(of command: [UInt8]) -> [[UInt8]] {
        var all: [[UInt8]] = (0...command.count).map { Array(command[..<$0]) }
        for position in command.indices {
            for change in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF] as [UInt8] {
                var changed = command
                changed[position] ^= change
                all.append(changed)
            }
            all.append(
                Array(command[..<position]) + [UInt8](repeating: 0xFF, count: 11)
                    + command[position...])
        }
        return all
    }

    /// Applies a log twice and expects the same; returns the replies.
    @discardableResult
    private func agree(_ log: [[UInt8]]) throws -> [String] {
        let first = Machine()
        let second = Machine()
        second.clock = 999_999
        second.state.promote(now: second.now, extendMilliseconds: 0)
        var replies: [String] = []
        for (step, entry) in log.enumerated() {
            let reply = describe(first.apply(entry))
            #expect(describe(second.apply(entry)) == reply, "\(entry)")
            replies.append(reply)
            if step % 400 == 0 { first.commit() }
        }
        #expect(first.state.stateHash() == second.state.stateHash())
        let restarted = try first.restarted()
        #expect(restarted.state.stateHash() == second.state.stateHash())
        return replies
    }

    @Test func cutAndChangedCommands() throws {
        var log: [[UInt8]] = []
        for command in valid() {
            for changed in mutations(of: command) {
                // A changed kind may raise an alarm, which would hide everything after it.
                if changed.count > 1, changed[1] == Command.Kind.alarm.rawValue { continue }
                log.append(Command.leaseGrant(id: 5, ttlSeconds: 60))
                log.append(changed)
            }
        }
        let replies = try agree(log)
        #expect(replies.count > 3000)
        let malformed = replies.filter { $0.hasPrefix("malformed") }.count
        let unknown = replies.filter { $0.hasPrefix("unknownCommand") }.count
        let fine = replies.filter { $0.hasPrefix("ok") }.count
        #expect(malformed > 500)
        #expect(unknown > 100)
        #expect(fine > 500)
    }

    @Test func cutAndChangedAlarms() throws {
        for alarm in [
            Command.alarm(.activate, member: 300, type: .corrupt),
            Command.alarm(.deactivate, member: 300, type: .noSpace),
        ] {
            try agree(mutations(of: alarm) + valid())
        }
    }

    @Test func randomBytesBehindEveryHeader() throws {
        var random = SplitMix(seed: 99)
        var log: [[UInt8]] = []
        for kind in Command.Kind.allCases where kind != .alarm {
            for _ in 0..<250 {
                let body = (0..<random.below(40)).map { _ -> UInt8 in
                    // Tags and small lengths more often than chance has them.
                    random.chance(60)
                        ? [0x08, 0x0A, 0x10, 0x12, 0x18, 0x1A, 0x20, 0x22, 1, 2, 3][
                            random.below(11)]
                        : UInt8(random.below(256))
                }
                log.append(Command.encode(kind: kind, body: body))
            }
        }
        for _ in 0..<500 {
            log.append((0..<random.below(30)).map { _ in UInt8(random.below(256)) })
        }
        try agree(log.filter { $0.count < 2 || $0[1] != Command.Kind.alarm.rawValue })
    }

    @Test func wildNumbersEverywhere() throws {
        var log: [[UInt8]] = [Command.leaseGrant(id: 7, ttlSeconds: 60)]
        for number in Self.wild {
            log.append(Command.encode(kind: .put, body: Put("a", "1", lease: number).message))
            log.append(Command.leaseGrant(id: number, ttlSeconds: 60))
            log.append(Command.leaseGrant(id: 100, ttlSeconds: number))
            log.append(Command.leaseRevoke(id: 100))
            log.append(Command.leaseRevoke(id: number))
            log.append(Command.leaseCheckpoint([(id: 7, remainingSeconds: number)]))
            for other in Self.wild {
                let get = Get(
                    "a", "\0", limit: number, revision: other, sortOrder: number % 3,
                    sortTarget: other % 5)
                log.append(Command.encode(kind: .txn, body: Txn(then: [.get(get)]).message))
                for operand in [
                    Compare.Operand.version(number), .create(number), .mod(number), .lease(number),
                ] {
                    let compare = Compare("a", "\0", other, operand, target: number)
                    log.append(
                        Command.encode(kind: .txn, body: Txn([compare]).message))
                }
            }
        }
        for number in Self.wild { log.append(Command.compact(revision: number)) }
        try agree(log)
    }

    @Test func deepAndWideTransactions() throws {
        // 10⁴ levels, built from the inside so that the test itself does not recurse.
        var message = Txn(then: [.put(Put("a"))]).message
        for _ in 0..<10_000 {
            var operation = ByteWriter()
            operation.message(4, message)
            var txn = ByteWriter()
            txn.message(2, operation.bytes)
            message = txn.bytes
            if message.count > 200_000 { break }
        }
        var log = [Command.encode(kind: .txn, body: message)]
        // As deep as is decoded, and one more.
        for depth in [maximumTxnNesting, maximumTxnNesting + 1] {
            var nested = Txn(then: [.put(Put("a", "deep"))])
            for _ in 0..<depth { nested = Txn(then: [.txn(nested)]) }
            log.append(Command.encode(kind: .txn, body: nested.message))
        }
        let wide = Txn(then: [Operation](repeating: .get(Get("a", "\0")), count: 20_000))
        log.append(Command.encode(kind: .txn, body: wide.message))
        let replies = try agree(log)
        #expect(replies[0].hasPrefix("malformed"))
        #expect(replies[1].hasPrefix("ok @2"))
        #expect(replies[2].hasPrefix("malformed"))
        // The number of operations is for who proposes to judge.
        #expect(replies[3].hasPrefix("ok @2"))
    }

    @Test func theMachineGoesOnAfterPoison() throws {
        let machine = Machine()
        machine.apply([0xFF])
        machine.apply([1, 3, 0, 0, 0x12, 0x7F])
        #expect(machine.put("a", "1").revision == 2)
        #expect(machine.state.appliedIndex == 3)
    }
}
