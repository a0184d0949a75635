// Property: a transaction judges, checks and carries out as etcd's does. Method: scenarios with
// replies as text; `@` is the revision in an inner header.

import KVCodec
import MVCC
import Testing

@testable import StateMachine

@Suite struct TxnTests {
    /// a=1 at 2, b=2 at 3, b=3 at 4, c=4 with lease 7 at 5.
    private func filled() -> Machine {
        let machine = Machine()
        machine.grant(7, ttl: 60)
        machine.put("a", "1")
        machine.put("b", "2")
        machine.put("b", "3")
        machine.put("c", "4", lease: 7)
        return machine
    }

    private func holds(_ machine: Machine, _ compare: Compare...) throws -> Bool {
        try machine.reply(Txn(compare)).hasPrefix("then")
    }

    @Test func comparisonsJudgeEveryTarget() throws {
        let machine = filled()
        let table: [(Compare.Operand, Compare.Operand, Compare.Operand)] = [
            // below, equal to and above what key b (c for leases) has
            (.version(1), .version(2), .version(3)),
            (.create(2), .create(3), .create(4)),
            (.mod(3), .mod(4), .mod(5)),
            (.value("2"), .value("3"), .value("30")),
            (.lease(6), .lease(7), .lease(8)),
        ]
        for (below, equal, above) in table {
            let key = if case .lease = equal { "c" } else { "b" }
            for (operand, order) in [(below, 1), (equal, 0), (above, -1)] {
                let outcomes: [(Int64, Bool)] = [
                    (Outcome.equal, order == 0), (Outcome.notEqual, order != 0),
                    (Outcome.greater, order > 0), (Outcome.less, order < 0),
                ]
                for (outcome, expected) in outcomes {
                    #expect(
                        try holds(machine, Compare(key, "", outcome, operand)) == expected,
                        "\(operand) \(outcome)")
                }
            }
        }
    }

    @Test func aMissingKeyComparesAsZeroButItsValueWithNothing() throws {
        let machine = filled()
        #expect(try holds(machine, Compare("x", "", Outcome.equal, .version(0))))
        #expect(try holds(machine, Compare("x", "", Outcome.less, .create(1))))
        #expect(try holds(machine, Compare("x", "", Outcome.greater, .mod(-1))))
        #expect(try holds(machine, Compare("x", "", Outcome.notEqual, .lease(7))))
        for outcome in 0...3 as ClosedRange<Int64> {
            #expect(try !holds(machine, Compare("x", "", outcome, .value(""))))
            #expect(try !holds(machine, Compare("x", "z", outcome, .value("v"))))
        }
    }

    @Test func aRangeMustHoldForEveryKey() throws {
        let machine = filled()
        #expect(try holds(machine, Compare("a", "d", Outcome.greater, .version(0))))
        #expect(try !holds(machine, Compare("a", "d", Outcome.equal, .version(1))))
        #expect(try holds(machine, Compare("a", "b", Outcome.equal, .version(1))))
        #expect(try holds(machine, Compare("a", "\0", Outcome.less, .value("9"))))
        #expect(try !holds(machine, Compare("\0", "\0", Outcome.equal, .lease(0))))
        #expect(try holds(machine, Compare("x", "z", Outcome.equal, .version(0))))
        #expect(try holds(machine, Compare("c", "a", Outcome.equal, .create(0))))
    }

    @Test func anOperandOfAnotherTargetCountsAsUnset() throws {
        let machine = filled()
        #expect(try !holds(machine, Compare("b", "", Outcome.equal, .mod(2), target: 0)))
        #expect(try holds(machine, Compare("x", "", Outcome.equal, .mod(2), target: 0)))
        #expect(try holds(machine, Compare("x", "", Outcome.equal, nil)))
        machine.put("empty", "")
        #expect(try holds(machine, Compare("empty", "", Outcome.equal, .mod(2), target: 3)))
    }

    @Test func unknownTargetsAreEqualAndUnknownResultsHold() throws {
        let machine = filled()
        #expect(try holds(machine, Compare("b", "", Outcome.equal, .version(9), target: 77)))
        #expect(try !holds(machine, Compare("b", "", Outcome.notEqual, .version(9), target: 77)))
        #expect(try holds(machine, Compare("b", "", 9, .version(9))))
        #expect(try holds(machine, Compare("b", "", -1, .value("zzz"))))
        // A value that is not there fails whatever the result says.
        #expect(try !holds(machine, Compare("x", "", 9, .value(""))))
    }

    @Test func allComparisonsMustHold() throws {
        let machine = filled()
        let yes = Compare("a", "", Outcome.equal, .value("1"))
        let no = Compare("a", "", Outcome.equal, .value("2"))
        #expect(try holds(machine))
        #expect(try holds(machine, yes, yes))
        #expect(try !holds(machine, yes, no))
        #expect(try !holds(machine, no, yes))
    }

    @Test func operationsSeeTheWritesBeforeThemAtOneRevision() throws {
        let machine = filled()
        let reply = try machine.reply(
            Txn(then: [
                .get(Get("a", "c")),
                .put(Put("a", "x", prevKV: true)),
                .get(Get("a")),
                .delete(Delete("b", prevKV: true)),
                .get(Get("a", "c", countOnly: true)),
                .get(Get("b", revision: 5)),
            ]))
        #expect(
            reply
                == "then {get@5 [a=1(c2 m2 v1) b=3(c3 m4 v2)] of 2; put@6 was a=1(c2 m2 v1); "
                + "get@6 [a=x(c2 m6 v2)] of 1; delete@6 1 was [b=3(c3 m4 v2)]; get@6 [] of 1; "
                + "get@6 [b=3(c3 m4 v2)] of 1}")
        #expect(machine.store.currentRevision == 6)
    }

    @Test func aTransactionThatWritesNothingKeepsTheRevision() throws {
        let machine = filled()
        let result = machine.txn(
            Txn(then: [.get(Get("a")), .delete(Delete("x")), .txn(Txn(then: [.get(Get("b"))]))]))
        #expect(
            try Reply.txn(result.body)
                == "then {get@5 [a=1(c2 m2 v1)] of 1; delete@5 0; "
                + "then {get@5 [b=3(c3 m4 v2)] of 1}}")
        #expect(result.revision == 5)
        #expect(result.events == nil)
    }

    @Test func limitAndMoreWorkInside() throws {
        let machine = filled()
        #expect(
            try machine.reply(Txn(then: [.get(Get("a", "z", limit: 1))]))
                == "then {get@5 [a=1(c2 m2 v1)] more of 3}")
    }

    @Test func theOtherBranchAnswersSucceededFalse() throws {
        let machine = filled()
        let result = machine.txn(
            Txn([Compare("a", "", Outcome.equal, .version(9))], then: [.put(Put("x"))]))
        #expect(result.body.isEmpty)
        #expect(result.revision == 5)
        #expect(
            try machine.reply(
                Txn([Compare("a", "", Outcome.equal, .version(9))], else: [.put(Put("x", "y"))]))
                == "else {put@6}")
    }

    @Test func headersOfNestedRepliesAreEmpty() throws {
        let machine = Machine()
        let result = machine.txn(Txn(then: [.txn(Txn(then: [.put(Put("a"))]))]))
        // then, responses { response_txn { header {}, then, responses { response_put {
        // header { revision 2 } } } } }
        #expect(
            result.body == [
                0x10, 1, 0x1A, 14, 0x22, 12, 0x0A, 0, 0x10, 1, 0x1A, 6, 0x12, 4, 0x0A, 2, 0x18, 2,
            ])
    }

    @Test func nestedComparisonsLookAtTheStateBefore() throws {
        let machine = filled()
        let isOne = Compare("a", "", Outcome.equal, .value("1"))
        let reply = try machine.reply(
            Txn(then: [
                .put(Put("a", "9")),
                .txn(Txn([isOne], then: [.get(Get("a"))], else: [.put(Put("z"))])),
                .txn(
                    Txn(
                        [Compare("a", "", Outcome.equal, .value("9"))], then: [.put(Put("x"))],
                        else: [.txn(Txn([isOne], then: [.put(Put("y"))]))])),
            ]))
        #expect(
            reply
                == "then {put@6; then {get@6 [a=9(c2 m6 v2)] of 1}; else {then {put@6}}}")
        #expect(try machine.pairs("x", "\0") == "[y=(c6 m6 v1)]")
    }

    @Test func aBadRangeFailsBeforeAnyWrite() throws {
        // etcd issue 18667.
        let machine = filled()
        machine.compact(3)
        let attempts: [(Operation, String)] = [
            (.get(Get("a", revision: 2)), "compacted"),
            (.get(Get("a", revision: 6)), "futureRevision"),
            (.get(Get("a", revision: .max)), "futureRevision"),
            (.get(Get("a", revision: -1)), "compacted"),
            (.put(Put("y", lease: 99)), "leaseNotFound"),
            (.put(Put("y", ignoreValue: true)), "keyNotFound"),
            (.put(Put("y", ignoreLease: true)), "keyNotFound"),
        ]
        let before = try machine.pairs()
        for (operation, error) in attempts {
            #expect(
                try machine.reply(Txn(then: [.put(Put("x", "1")), .delete(Delete("b")), operation]))
                    == error)
            #expect(
                try machine.reply(
                    Txn(then: [.put(Put("x", "1")), .txn(Txn(then: [operation]))])) == error)
            // What is not taken is not checked.
            #expect(try machine.reply(Txn(else: [operation])) == "then {}")
        }
        #expect(try machine.pairs() == before)
        #expect(machine.store.currentRevision == 5)
        #expect(machine.put("x", "1").revision == 6)
    }

    @Test func aNegativeRevisionIsTheLatestUntilSomethingIsCompacted() throws {
        let machine = filled()
        #expect(
            try machine.reply(Txn(then: [.get(Get("a", revision: -1))]))
                == "then {get@5 [a=1(c2 m2 v1)] of 1}")
    }

    @Test func everythingCanBeClearedAndPutAgainAtOnce() throws {
        let machine = filled()
        let reply = try machine.reply(
            Txn(then: [.delete(Delete("\0", "\0")), .put(Put("b", "new", prevKV: true))]))
        #expect(reply == "then {delete@6 3; put@6}")
        #expect(try machine.pairs() == "[b=new(c6 m6 v1)]")
        #expect(machine.keys(ofLease: 7) == [])
    }

    @Test func keepingTheValueOfWhatTheTransactionDeletedIsKeyNotFound() throws {
        // etcd checks against the state before the transaction and panics when it gets to the put.
        let machine = filled()
        for put in [Put("b", ignoreValue: true), Put("c", "1", ignoreLease: true)] {
            #expect(
                try machine.reply(Txn(then: [.delete(Delete("b", "\0")), .put(put)]))
                    == "keyNotFound")
        }
        #expect(
            try machine.reply(
                Txn(then: [
                    .delete(Delete("b", "\0")), .delete(Delete("c", "\0")),
                    .put(Put("b", ignoreValue: true)),
                ])) == "keyNotFound")
        #expect(
            try machine.reply(
                Txn(then: [.delete(Delete("b", "\0")), .put(Put("a", ignoreValue: true))]))
                == "then {delete@6 2; put@6}")
        #expect(
            try machine.reply(
                Txn(then: [.put(Put("a", ignoreValue: true)), .delete(Delete("a", "\0"))]))
                == "then {put@7; delete@7 1}")
    }

    @Test func putsInsideKeepAndMoveLeases() throws {
        let machine = filled()
        machine.grant(8, ttl: 60)
        #expect(
            try machine.reply(
                Txn(then: [
                    .put(Put("c", "5", lease: 8)), .put(Put("a", prevKV: true, ignoreValue: true)),
                    .txn(Txn(then: [.put(Put("d", "1", lease: 8))])),
                ])) == "then {put@6; put@6 was a=1(c2 m2 v1); then {put@6}}")
        #expect(machine.keys(ofLease: 7) == [])
        #expect(machine.keys(ofLease: 8) == ["c", "d"])
        machine.txn(Txn(then: [.put(Put("c", "6", ignoreLease: true)), .delete(Delete("d"))]))
        #expect(machine.keys(ofLease: 8) == ["c"])
        #expect(try machine.pairs() == "[a=1(c2 m6 v2) b=3(c3 m4 v2) c=6(c5 m7 v3 l8)]")
    }

    /// Members may have different limits while the setting is changed one by one.
    @Test func theNumberOfOperationsIsNotJudgedAgainWhenApplied() {
        let machine = Machine(StateMachineConfiguration())
        let puts = (0..<1000).map { Operation.put(Put("k\($0)", "v")) }
        #expect(machine.txn(Txn(then: puts)).error == nil)
        #expect(machine.state.store.currentRevision == 2)
    }
}
