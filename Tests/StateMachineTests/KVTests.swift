// Property: put, delete and compaction answer and change what etcd's do. Method: scenarios.

import KVCodec
import MVCC
import Testing

@testable import StateMachine

@Suite struct KVTests {
    @Test func aKeyLivesThroughVersionsAndStartsAgainAfterADelete() throws {
        let machine = Machine()
        let first = machine.put("a", "1")
        #expect(first.error == nil)
        #expect(first.revision == 2)
        #expect(first.body.isEmpty)
        #expect(machine.put("a", "2").revision == 3)
        #expect(try machine.pairs() == "[a=2(c2 m3 v2)]")

        let deleted = machine.delete("a")
        #expect(deleted.revision == 4)
        #expect(try Reply.delete(deleted.body) == "delete 1")
        #expect(try machine.pairs() == "[]")

        machine.put("a", "3")
        #expect(try machine.pairs() == "[a=3(c5 m5 v1)]")
    }

    @Test func aDeleteThatHitsNothingKeepsTheRevision() throws {
        let machine = Machine()
        machine.put("a", "1")
        let result = machine.delete("b", "c", prevKV: true)
        #expect(result.error == nil)
        #expect(result.revision == 2)
        #expect(result.events == nil)
        #expect(try Reply.delete(result.body) == "delete 0")
    }

    @Test func prevKVGivesThePairBefore() throws {
        let machine = Machine()
        #expect(try Reply.put(machine.put(Put("a", "1", prevKV: true)).body) == "put")
        #expect(
            try Reply.put(machine.put(Put("a", "2", prevKV: true)).body) == "put was a=1(c2 m2 v1)")
        machine.put("b", "x")
        machine.put("c", "y")
        #expect(
            try Reply.delete(machine.delete("a", "c", prevKV: true).body)
                == "delete 2 was [a=2(c2 m3 v2) b=x(c4 m4 v1)]")
    }

    @Test func fieldsOfADeleteReplyAreInOrder() {
        let machine = Machine()
        machine.put("a", "1")
        let body = machine.delete("a", prevKV: true).body
        #expect(body.prefix(3) == [0x10, 1, 0x1A])
    }

    @Test func ignoreValueKeepsTheValueAndIgnoreLeaseTheLease() throws {
        let machine = Machine()
        machine.grant(7, ttl: 60)
        machine.put("a", "1", lease: 7)
        #expect(machine.put(Put("a", ignoreValue: true)).error == nil)
        #expect(try machine.pairs() == "[a=1(c2 m3 v2)]")
        #expect(machine.keys(ofLease: 7) == [])

        machine.put(Put("a", lease: 7, ignoreValue: true))
        machine.put(Put("a", "2", ignoreLease: true))
        #expect(try machine.pairs() == "[a=2(c2 m5 v4 l7)]")
        #expect(machine.keys(ofLease: 7) == ["a"])

        let both = machine.put(Put("a", prevKV: true, ignoreValue: true, ignoreLease: true))
        #expect(try Reply.put(both.body) == "put was a=2(c2 m5 v4 l7)")
        #expect(try machine.pairs() == "[a=2(c2 m6 v5 l7)]")
    }

    @Test func ignoringNeedsAKeyThatExists() throws {
        let machine = Machine()
        machine.put("a", "1")
        for put in [Put("b", ignoreValue: true), Put("b", "x", ignoreLease: true)] {
            let result = machine.put(put)
            #expect(result.error == .keyNotFound)
            #expect(result.revision == 2)
            #expect(result.events == nil)
        }
        machine.delete("a")
        #expect(machine.put(Put("a", ignoreValue: true)).error == .keyNotFound)
        #expect(try machine.pairs() == "[]")
        #expect(machine.put("c", "1").revision == 4)
    }

    @Test func formIsCheckedAgainWhenApplied() {
        let machine = Machine()
        #expect(machine.put("", "v").error == .keyEmpty)
        #expect(machine.put(Put("k", "v", ignoreValue: true)).error == .valueProvided)
        #expect(machine.put(Put("k", lease: 3, ignoreLease: true)).error == .leaseProvided)
        #expect(machine.delete("").error == .keyEmpty)
        #expect(machine.txn(Txn(then: [.empty])).error == .keyNotFound)
        #expect(machine.store.currentRevision == 1)
    }

    @Test func aPutNeedsItsLease() throws {
        let machine = Machine()
        #expect(machine.put("a", "1", lease: 9).error == .leaseNotFound)
        #expect(machine.store.currentRevision == 1)
        // The lease is looked at before the key.
        #expect(machine.put(Put("a", lease: 9, ignoreValue: true)).error == .leaseNotFound)
    }

    @Test func eventsTellWhoChangedAKey() {
        let machine = Machine()
        machine.grant(7, ttl: 60)
        machine.grant(8, ttl: 60)
        #expect(machine.put("a", "1").events?.reason == .client)
        #expect(machine.put(Put("a", "1"), origin: .plugin).events?.reason == .plugin)
        #expect(machine.txn(Txn(then: [.put(Put("a"))])).events?.reason == .transaction)
        #expect(machine.delete("a").events?.reason == .client)
        machine.put("a", "1", lease: 7)
        machine.put("b", "1", lease: 8)
        #expect(machine.revoke(7).events?.reason == .leaseRevoked)
        #expect(machine.revoke(8, expired: true).events?.reason == .leaseExpired)
    }

    @Test func compactionRefusesThePastAndTheFuture() throws {
        let machine = Machine()
        for value in 1...5 { machine.put("a", "\(value)") }
        #expect(machine.compact(7).error == .futureRevision)
        let result = machine.compact(4)
        #expect(result.error == nil)
        #expect(result.revision == 6)
        #expect(result.events == nil)
        #expect(result.effect == .compactionStarted(revision: 4, physical: false))
        #expect(machine.compact(4).error == .compacted)
        #expect(machine.compact(3).error == .compacted)
        #expect(machine.compact(-1).error == .compacted)
        let physical = machine.apply(Command.compact(revision: 5, physical: true))
        #expect(physical.effect == .compactionStarted(revision: 5, physical: true))
        #expect(try machine.reply(Txn(then: [.get(Get("a", revision: 4))])) == "compacted")
        #expect(
            try machine.reply(Txn(then: [.get(Get("a", revision: 5))]))
                == "then {get@6 [a=4(c2 m5 v4)] of 1}")
    }

    @Test func overQuotaAWriteHappensYetIsAnsweredNoSpace() throws {
        var configuration = StateMachineConfiguration()
        configuration.quotaBytes = 10_000
        let machine = Machine(configuration)
        // 256 + 1 + 1 fit below the quota, one byte more does not.
        machine.state.storageBytes = 10_000 - 259
        #expect(machine.put("a", "1").error == nil)
        machine.state.storageBytes += 1
        let result = machine.put(Put("a", "2", prevKV: true))
        #expect(result.error == .noSpace)
        #expect(result.body.isEmpty)
        #expect(result.revision == 3)
        #expect(result.events?.revision == 3)
        #expect(try machine.pairs() == "[a=2(c2 m3 v2)]")

        machine.state.storageBytes = .max
        #expect(machine.delete("a").error == nil)
        #expect(machine.txn(Txn(then: [.delete(Delete("a"))])).error == nil)
        #expect(machine.txn(Txn(then: [.put(Put("b"))])).error == .noSpace)
        let grant = machine.grant(1, ttl: 60)
        #expect(grant.error == .noSpace)
        #expect(grant.effect == .leaseGranted(id: 1, ttlSeconds: 60))
        #expect(machine.state.leaseIDs() == [1])
    }

    @Test func theQuotaIsTwoGibibytesUnlessToldOtherwiseOrTurnedOff() {
        var configuration = StateMachineConfiguration()
        #expect(configuration.effectiveQuotaBytes == 2 << 30)
        configuration.quotaBytes = 5
        #expect(configuration.effectiveQuotaBytes == 5)
        configuration.quotaBytes = -1
        let machine = Machine(configuration)
        machine.state.storageBytes = .max
        #expect(machine.put("a", "1").error == nil)
    }
}
