// Property: a lease holds its keys until it is revoked, never ends early, and ends in the end.
// Method: scenarios with a clock that the test moves.

import KVCodec
import MVCC
import Testing

@testable import StateMachine

@Suite struct LeaseTests {
    /// A leader at time 0 with leases that may be as short as a second.
    private func leader(
        _ change: (inout StateMachineConfiguration) -> Void = { _ in }
    ) -> Machine {
        var configuration = StateMachineConfiguration()
        change(&configuration)
        let machine = Machine(configuration)
        machine.state.promote(now: machine.now, extendMilliseconds: 0)
        return machine
    }

    private func reply(_ result: ApplyResult) throws -> (id: Int64, ttl: Int64) {
        try result.body.withUnsafeBytes { bytes in
            let fields = try NumberFields(bytes)
            return (fields[2], fields[3])
        }
    }

    // MARK: Grant

    @Test func aGrantAnswersItsIdAndTTL() throws {
        let machine = leader()
        let granted = machine.grant(7, ttl: 60)
        #expect(try reply(granted) == (7, 60))
        #expect(granted.effect == .leaseGranted(id: 7, ttlSeconds: 60))
        #expect(granted.revision == 1)
        #expect(try reply(machine.grant(-5, ttl: 1)) == (-5, 1))
        #expect(try reply(machine.grant(8, ttl: 0)) == (8, 1))
        #expect(try reply(machine.grant(9, ttl: .min)) == (9, 1))
        #expect(try reply(machine.grant(10, ttl: 9_000_000_000)) == (10, 9_000_000_000))
    }

    @Test func aGrantIsRefusedForIdTTLAndExistence() {
        let machine = leader()
        #expect(machine.grant(0, ttl: 60).error == .leaseNotFound)
        #expect(machine.grant(1, ttl: 9_000_000_001).error == .leaseTTLTooLarge)
        #expect(machine.grant(1, ttl: .max).error == .leaseTTLTooLarge)
        #expect(machine.grant(1, ttl: 60).error == nil)
        #expect(machine.grant(1, ttl: 60).error == .leaseExists)
        #expect(machine.grant(1, ttl: .max).error == .leaseTTLTooLarge)
        #expect(machine.state.leaseIDs() == [1])
    }

    @Test func theListingIsByExpiryThenInTheOrderOfTheGrants() {
        let machine = leader()
        for (id, ttl) in [(9, 60), (2, 60), (5, 30), (7, 60)] as [(Int64, Int64)] {
            machine.grant(id, ttl: ttl)
        }
        #expect(machine.state.leaseIDs() == [5, 9, 2, 7])
    }

    // MARK: Keys

    @Test func keysAttachMoveAndDetach() {
        let machine = leader()
        machine.grant(1, ttl: 60)
        machine.grant(2, ttl: 60)
        machine.put("b", "1", lease: 1)
        machine.put("a", "1", lease: 1)
        machine.put("c", "1", lease: 1)
        #expect(machine.keys(ofLease: 1) == ["a", "b", "c"])
        machine.put("b", "2", lease: 2)
        #expect(machine.keys(ofLease: 1) == ["a", "c"])
        #expect(machine.keys(ofLease: 2) == ["b"])
        machine.put("c", "2")
        #expect(machine.keys(ofLease: 1) == ["a"])
        machine.put("a", "2", lease: 1)
        #expect(machine.keys(ofLease: 1) == ["a"])
        machine.delete("a", "c")
        #expect(machine.keys(ofLease: 1) == [])
        #expect(machine.keys(ofLease: 2) == [])
        machine.put("a", "3", lease: 2)
        #expect(machine.keys(ofLease: 2) == ["a"])
    }

    @Test func revokingDeletesAllKeysInOneRevisionInOrder() throws {
        let machine = leader()
        machine.grant(1, ttl: 60)
        for key in ["c", "a", "d", "b"] { machine.put(key, "1", lease: key == "d" ? 0 : 1) }
        let result = machine.revoke(1)
        #expect(result.error == nil)
        #expect(result.body.isEmpty)
        #expect(result.revision == 6)
        #expect(result.effect == .leaseRevoked(id: 1, expired: false, keys: 3))
        let events = try #require(result.events)
        #expect(events.revision == 6)
        #expect(events.events.map { text(events.bytes[$0.key]) } == ["a", "b", "c"])
        #expect(events.events.allSatisfy { $0.isDelete })
        #expect(try machine.pairs() == "[d=1(c4 m4 v1)]")
        #expect(machine.revoke(1).error == .leaseNotFound)
        #expect(machine.put("a", "1", lease: 1).error == .leaseNotFound)
    }

    @Test func revokingALeaseWithoutKeysKeepsTheRevision() {
        let machine = leader()
        machine.grant(1, ttl: 60)
        let result = machine.revoke(1, expired: true)
        #expect(result.revision == 1)
        #expect(result.events == nil)
        #expect(result.effect == .leaseRevoked(id: 1, expired: true, keys: 0))
    }

    // MARK: Expiry

    @Test func aLeaseExpiresAtItsTimeAndNotBefore() {
        let machine = leader()
        machine.clock = 1000
        machine.grant(1, ttl: 5)
        machine.put("a", "1", lease: 1)
        machine.put("b", "1", lease: 1)
        #expect(machine.state.nextLeaseDeadline == LeaseTime(milliseconds: 6000))
        machine.clock = 5999
        #expect(machine.state.expiredLeases(now: machine.now, max: 100) == [])
        #expect(machine.secondsLeft(1) == 0)
        machine.clock = 6000
        #expect(machine.state.expiredLeases(now: machine.now, max: 100) == [1])
        #expect(machine.state.leaseRenew(1, now: machine.now) == .expired)
        let result = machine.revoke(1, expired: true)
        #expect(result.events?.reason == .leaseExpired)
        #expect(result.events?.events.count == 2)
        #expect(machine.state.leaseIDs() == [])
        machine.clock = 60_000
        #expect(machine.state.expiredLeases(now: machine.now, max: 100) == [])
        #expect(machine.state.nextLeaseDeadline == nil)
    }

    @Test func renewingPutsTheExpiryOff() {
        let machine = leader()
        machine.grant(1, ttl: 5)
        for _ in 0..<10 {
            machine.clock += 4999
            #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [])
            #expect(machine.state.leaseRenew(1, now: machine.now) == .renewed(ttlSeconds: 5))
            #expect(machine.secondsLeft(1) == 5)
        }
        machine.clock += 2500
        #expect(machine.secondsLeft(1) == 2)
        machine.clock += 2499
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [])
        machine.clock += 1
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [1])
        #expect(machine.state.leaseRenew(2, now: machine.now) == .notFound)
    }

    @Test func timeToLiveOfAnUnknownLeaseIsNil() {
        let machine = leader()
        #expect(machine.state.leaseTimeToLive(1, now: machine.now, withKeys: true) == nil)
        machine.grant(1, ttl: 60)
        machine.put("a", "", lease: 1)
        machine.clock = 100
        #expect(
            machine.state.leaseTimeToLive(1, now: machine.now, withKeys: false)
                == LeaseStatus(grantedTTLSeconds: 60, remainingSeconds: 59, keys: []))
    }

    /// etcd issue 10686.
    @Test func aRevocationThatCameToNothingIsAskedForAgain() {
        let machine = leader()
        machine.grant(1, ttl: 1)
        machine.clock = 1000
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [1])
        for clock in [1001, 2000, 3999] as [Int64] {
            machine.clock = clock
            #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [])
        }
        #expect(machine.state.nextLeaseDeadline == LeaseTime(milliseconds: 4000))
        machine.clock = 4000
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [1])
        machine.clock = 6999
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [])
        machine.clock = 7000
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [1])
    }

    @Test func outstandingRevocationsAreBoundedButRetriesPass() {
        let machine = leader { $0.outstandingLeaseRevokes = 3 }
        for id in 1...10 as ClosedRange<Int64> { machine.grant(id, ttl: id < 6 ? 1 : 2) }
        machine.clock = 10_000
        #expect(machine.state.expiredLeases(now: machine.now, max: 2) == [1, 2])
        #expect(machine.state.expiredLeases(now: machine.now, max: 2) == [3])
        #expect(machine.state.expiredLeases(now: machine.now, max: 2) == [])
        #expect(machine.state.nextLeaseDeadline == LeaseTime(milliseconds: 13_000))
        machine.revoke(2, expired: true)
        #expect(machine.state.expiredLeases(now: machine.now, max: 2) == [4])
        machine.clock = 13_000
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [1, 3, 4])
        // A client may revoke what is being revoked.
        machine.revoke(3)
        machine.revoke(1)
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [5, 6])
        for id in [4, 5, 6] as [Int64] { machine.revoke(id, expired: true) }
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [7, 8, 9])
    }

    @Test func revocationsASecondAreBounded() {
        let machine = leader {
            $0.outstandingLeaseRevokes = 1000
            $0.leaseRevokesPerSecond = 4
        }
        for id in 1...10 as ClosedRange<Int64> { machine.grant(id, ttl: 1) }
        machine.clock = 5000
        #expect(machine.state.expiredLeases(now: machine.now, max: 99) == [1, 2, 3, 4])
        for id in 1...4 as ClosedRange<Int64> { machine.revoke(id, expired: true) }
        #expect(machine.state.nextLeaseDeadline == LeaseTime(milliseconds: 6000))
        machine.clock = 5999
        #expect(machine.state.expiredLeases(now: machine.now, max: 99) == [])
        machine.clock = 6000
        #expect(machine.state.expiredLeases(now: machine.now, max: 3) == [5, 6, 7])
        #expect(machine.state.expiredLeases(now: machine.now, max: 3) == [8])
    }

    @Test func manyLeasesExpireInOrderAndAllInTheEnd() {
        let machine = leader { $0.outstandingLeaseRevokes = 1000 }
        var random = SplitMix(seed: 5)
        for id in 1...2000 as ClosedRange<Int64> {
            machine.grant(id, ttl: Int64(1 + random.below(30)))
        }
        var renewed: [Int64: Int64] = [:]
        var gone: [Int64] = []
        while machine.state.leaseCount > 0, machine.clock < 200_000 {
            machine.clock += 50
            for _ in 0..<3 where machine.clock < 20_000 {
                let id = Int64(1 + random.below(2000))
                if case .renewed(let ttl) = machine.state.leaseRenew(id, now: machine.now) {
                    renewed[id] = machine.clock + ttl * 1000
                }
            }
            for id in machine.state.expiredLeases(now: machine.now, max: 64) {
                #expect(machine.clock >= renewed[id] ?? 1000)
                gone.append(id)
                machine.revoke(id, expired: true)
            }
        }
        #expect(gone.count == 2000)
        #expect(Set(gone).count == 2000)
        #expect(machine.clock < 60_000)
    }

    @Test func queuesDoNotGrowWithLeasesThatComeAndGo() throws {
        let machine = leader()
        machine.grant(1, ttl: 9_000_000_000)
        for id in 2...3000 as ClosedRange<Int64> {
            machine.grant(id, ttl: 9_000_000_000)
            machine.revoke(id)
        }
        // A client that asks again and again while a checkpoint is taken back.
        machine.clock = 300_000
        #expect(machine.state.leaseCheckpoints(now: machine.now) != nil)
        for _ in 0..<1000 {
            machine.clock += 1
            _ = machine.state.leaseRenew(1, now: machine.now)
        }
        #expect(machine.state.lessor.queuedCount < 200)
        // What remains is still in order.
        machine.grant(5000, ttl: 1)
        machine.clock += 1000
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [5000])
        machine.clock += 300_000
        #expect(try checkpoints(machine.state.leaseCheckpoints(now: machine.now)).count == 1)
    }

    // MARK: Leadership

    @Test func withoutLeadershipNothingExpires() {
        let machine = leader()
        machine.grant(1, ttl: 5)
        machine.state.demote()
        machine.grant(2, ttl: 5)
        machine.clock = 1_000_000
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [])
        #expect(machine.state.leaseCheckpoints(now: machine.now) == nil)
        #expect(machine.state.leaseRenew(1, now: machine.now) == .notLeader)
        #expect(machine.secondsLeft(1) == nil)
        #expect(machine.state.nextLeaseDeadline == nil)

        machine.state.promote(now: machine.now, extendMilliseconds: 1500)
        machine.clock += 6499
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [])
        machine.clock += 1
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [1, 2])
    }

    @Test func aNewTermForgetsRevocationsOnTheirWay() {
        let machine = leader { $0.outstandingLeaseRevokes = 1 }
        machine.grant(1, ttl: 1)
        machine.grant(2, ttl: 9)
        machine.clock = 1000
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [1])
        machine.state.promote(now: machine.now, extendMilliseconds: 0)
        #expect(machine.state.leaseRenew(1, now: machine.now) == .renewed(ttlSeconds: 1))
        machine.clock = 2000
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [1])
    }

    // MARK: Checkpoints

    /// What a checkpoint command says, as `id:seconds`.
    private func checkpoints(_ entry: [UInt8]?) throws -> [String] {
        guard let entry else { return [] }
        return try entry.dropFirst(4).withUnsafeBytes { bytes in
            var reader = ProtoReader(bytes)
            var lines: [String] = []
            while let tag = try reader.next() {
                let fields = try NumberFields(try reader.slice(tag))
                lines.append("\(fields[1]):\(fields[2])")
            }
            return lines
        }
    }

    @Test func longLeasesAreCheckpointedEveryFiveMinutesRoundedUp() throws {
        let machine = leader()
        machine.grant(1, ttl: 300)
        machine.grant(2, ttl: 1000)
        machine.clock = 299_999
        #expect(machine.state.leaseCheckpoints(now: machine.now) == nil)
        machine.clock = 300_400
        let first = try #require(machine.state.leaseCheckpoints(now: machine.now))
        #expect(try checkpoints(first) == ["2:700"])
        #expect(machine.apply(first).effect == .leasesCheckpointed(count: 1))
        #expect(machine.state.leaseCheckpoints(now: machine.now) == nil)
        machine.clock = 600_400
        let second = try #require(machine.state.leaseCheckpoints(now: machine.now))
        #expect(try checkpoints(second) == ["2:400"])
        machine.apply(second)
        machine.clock = 900_400
        let third = try #require(machine.state.leaseCheckpoints(now: machine.now))
        #expect(try checkpoints(third) == ["2:100"])
        machine.apply(third)
        machine.clock = 999_999
        #expect(machine.state.leaseCheckpoints(now: machine.now) == nil)
    }

    @Test func oneCommandHoldsABoundedNumberOfCheckpoints() throws {
        let machine = leader { $0.leaseCheckpointsPerCommand = 10 }
        for id in 1...25 as ClosedRange<Int64> { machine.grant(id, ttl: 1000) }
        machine.clock = 300_000
        var sizes: [Int] = []
        while let entry = machine.state.leaseCheckpoints(now: machine.now) {
            sizes.append(try checkpoints(entry).count)
        }
        #expect(sizes == [10, 10, 5])
    }

    @Test func renewingTakesACheckpointBackBeforeItIsAnswered() throws {
        let machine = leader()
        machine.grant(1, ttl: 1000)
        machine.clock = 400_000
        let entry = try #require(machine.state.leaseCheckpoints(now: machine.now))

        // On its way: a renewal must not be answered either.
        let renewal = machine.state.leaseRenew(1, now: machine.now)
        guard case .checkpointFirst(let clear) = renewal else {
            Issue.record("\(renewal)")
            return
        }
        #expect(try checkpoints(clear) == ["1:0"])
        machine.apply(entry)
        #expect(machine.state.leaseRenew(1, now: machine.now) == .checkpointFirst(clear))
        machine.apply(clear)
        machine.clock = 401_000
        #expect(machine.state.leaseRenew(1, now: machine.now) == .renewed(ttlSeconds: 1000))

        // What was answered holds for the next leader too.
        machine.state.promote(now: machine.now, extendMilliseconds: 0)
        #expect(machine.secondsLeft(1) == 1000)
        // And the next checkpoint comes.
        machine.clock += 300_000
        #expect(try checkpoints(machine.state.leaseCheckpoints(now: machine.now)) == ["1:700"])
    }

    @Test func aLeaseThatWasRenewedIsCheckpointedAgain() throws {
        let machine = leader()
        machine.grant(1, ttl: 1000)
        var written: [String] = []
        for _ in 0..<40 {
            machine.clock += 50_000
            if case .checkpointFirst(let clear) = machine.state.leaseRenew(1, now: machine.now) {
                machine.apply(clear)
                #expect(
                    machine.state.leaseRenew(1, now: machine.now) == .renewed(ttlSeconds: 1000))
            }
            machine.clock += 10_000
            if let entry = machine.state.leaseCheckpoints(now: machine.now) {
                written += try checkpoints(entry)
                machine.apply(entry)
            }
        }
        #expect(written.count >= 5)
        #expect(written.allSatisfy { $0 == "1:990" })
    }

    @Test func aLostCheckpointIsNotTheLast() throws {
        let machine = leader()
        machine.grant(1, ttl: 500)
        machine.clock = 300_000
        #expect(try checkpoints(machine.state.leaseCheckpoints(now: machine.now)) == ["1:200"])
        // It never reached the log. The client renews:
        guard case .checkpointFirst(let clear) = machine.state.leaseRenew(1, now: machine.now)
        else {
            Issue.record("renewed over a checkpoint that may still come")
            return
        }
        machine.apply(clear)
        #expect(machine.state.leaseRenew(1, now: machine.now) == .renewed(ttlSeconds: 500))
        machine.clock = 600_000
        #expect(try checkpoints(machine.state.leaseCheckpoints(now: machine.now)) == ["1:200"])
    }

    @Test func checkpointsOfUnknownLeasesPassAndWildNumbersAreTamed() throws {
        let machine = leader()
        machine.grant(1, ttl: 60)
        machine.grant(2, ttl: 60)
        let result = machine.apply(
            Command.leaseCheckpoint([
                (id: 99, remainingSeconds: 5), (id: 1, remainingSeconds: .max),
                (id: 2, remainingSeconds: .min),
            ]))
        #expect(result.effect == .leasesCheckpointed(count: 2))
        machine.state.promote(now: machine.now, extendMilliseconds: 0)
        #expect(machine.secondsLeft(1) == 60)
        #expect(machine.secondsLeft(2) == 60)
    }

    // MARK: Restart

    /// etcd issues 13205, 14253.
    @Test func aRestartKeepsLeasesKeysAndTheRestOfTheirTime() throws {
        var machine = leader()
        machine.grant(1, ttl: 1000)
        machine.grant(2, ttl: 1000)
        machine.grant(3, ttl: 5)
        machine.put("a", "1", lease: 1)
        machine.put("b", "1", lease: 1)
        machine.commit()
        machine.put("b", "2", lease: 2)
        machine.put("c", "1", lease: 2)
        machine.delete("c")
        machine.clock = 300_000
        machine.apply(Command.leaseCheckpoint([(id: 1, remainingSeconds: 700)]))
        machine.revoke(3)

        machine = try machine.restarted()
        #expect(machine.state.leaseIDs() == [1, 2])
        #expect(machine.keys(ofLease: 1) == ["a"])
        #expect(machine.keys(ofLease: 2) == ["b"])
        #expect(machine.secondsLeft(1) == nil)
        machine.clock = 7_000_000
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [])

        machine.state.promote(now: machine.now, extendMilliseconds: 1000)
        #expect(machine.secondsLeft(1) == 701)
        #expect(machine.secondsLeft(2) == 1001)
        machine.clock += 701_000
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [1])
        #expect(machine.revoke(1, expired: true).events?.events.count == 1)
        #expect(try machine.pairs() == "[b=2(c3 m4 v2 l2)]")
    }

    /// etcd issue 14253.
    @Test func noLeaseEndsBeforeWhatWasAnsweredWhateverFails() {
        // Random renewals, checkpoints that are applied late or lost, changes of leader: the expiry
        // in force never lies before the last TTL that a client was told. What is on its way is
        // applied or lost within a checkpoint interval.
        var random = SplitMix(seed: 42)
        let machine = leader {
            $0.leaseCheckpointIntervalMilliseconds = 10_000
            $0.outstandingLeaseRevokes = 100
        }
        let ids = Array(1...20 as ClosedRange<Int64>)
        var promised: [Int64: Int64] = [:]
        var pipeline: [(entry: [UInt8], since: Int64)] = []
        for id in ids {
            machine.grant(id, ttl: 30)
            promised[id] = 30_000
        }
        var revoked = 0
        for _ in 0..<20_000 {
            machine.clock += Int64(random.below(300))
            while let first = pipeline.first, machine.clock - first.since > 9000 {
                machine.apply(pipeline.removeFirst().entry)
            }
            switch random.below(10) {
            case 0...3:
                let id = ids[random.below(20)]
                switch machine.state.leaseRenew(id, now: machine.now) {
                case .renewed(let ttl): promised[id] = machine.clock + ttl * 1000
                case .checkpointFirst(let entry): pipeline.append((entry, machine.clock))
                case .notFound, .expired, .notLeader: break
                }
            case 4:
                if let entry = machine.state.leaseCheckpoints(now: machine.now) {
                    pipeline.append((entry, machine.clock))
                }
            case 5, 6:
                if !pipeline.isEmpty { machine.apply(pipeline.removeFirst().entry) }
            case 7 where random.chance(3):
                // A new leader; what the old one had on its way is applied first or lost.
                if random.chance(50) { pipeline.forEach { machine.apply($0.entry) } }
                pipeline = []
                machine.state.demote()
                machine.state.promote(now: machine.now, extendMilliseconds: 0)
            default:
                for id in machine.state.expiredLeases(now: machine.now, max: 5) {
                    #expect(machine.clock >= promised[id] ?? 0)
                    // The log keeps its order.
                    pipeline.forEach { machine.apply($0.entry) }
                    pipeline = []
                    machine.revoke(id, expired: true)
                    revoked += 1
                    machine.grant(id, ttl: 30)
                    promised[id] = machine.clock + 30_000
                }
            }
        }
        #expect(revoked > 100)
    }
}
