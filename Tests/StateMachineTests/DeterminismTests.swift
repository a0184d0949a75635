// Property: the same log gives the same replies and the same state, whatever the clock says, whoever
// leads, and however often the process starts again. Method: random logs applied by machines that
// differ in all of that; every reply and the state's hash are compared.

import MVCC
import Testing

@testable import StateMachine

@Suite struct DeterminismTests {
    @Test(arguments: [1, 2, 3, 4, 5, 6] as [UInt64])
    func theSameLogGivesTheSame(seed: UInt64) throws {
        var commands = RandomCommands(seed: seed)
        var random = SplitMix(seed: seed &* 977)
        let plain = Machine()
        let leading = Machine()
        leading.clock = 5_000_000
        leading.state.promote(now: leading.now, extendMilliseconds: 10)
        var restarting = Machine()
        var restarts = 0
        var errors: Set<ApplyError> = []

        for step in 0..<1500 {
            if random.below(40) == 0 {
                let change = commands.membershipChange()
                let expected = describe(plain.change(change))
                #expect(describe(leading.change(change)) == expected)
                #expect(describe(restarting.change(change)) == expected, "step \(step)")
            }
            let entry = commands.command()
            let result = plain.apply(entry)
            let expected = describe(result)
            commands.revision = result.revision
            if let error = result.error { errors.insert(error) }

            leading.clock += Int64(random.below(5000))
            #expect(describe(leading.apply(entry)) == expected)
            #expect(describe(restarting.apply(entry)) == expected, "step \(step)")

            switch random.below(60) {
            case 0: _ = leading.state.expiredLeases(now: leading.now, max: 3)
            case 1: leading.state.demote()
            case 2: leading.state.promote(now: leading.now, extendMilliseconds: 0)
            case 3: _ = leading.state.leaseRenew(2, now: leading.now)
            case 4...6: restarting.commit()
            case 7...9: _ = restarting.state.compactionStep(maxKeys: 1 + random.below(4))
            case 11: try restarting.install(from: plain)
            case 10:
                restarting = try restarting.restarted()
                restarts += 1
            default: break
            }
            if step % 300 == 299 {
                let hash = plain.state.stateHash()
                #expect(leading.state.stateHash() == hash)
                #expect(restarting.state.stateHash() == hash)
                for id in 1...5 as ClosedRange<Int64> {
                    #expect(restarting.keys(ofLease: id) == plain.keys(ofLease: id))
                }
            }
        }
        #expect(restarts >= 10)
        #expect(plain.store.currentRevision > 100)
        #expect(!errors.isDisjoint(with: [.noSpace, .corrupt]))
        #expect(
            errors.isSuperset(of: [
                .duplicateKey, .leaseNotFound, .leaseExists, .keyNotFound, .compacted,
            ]), "\(errors)")
    }

    @Test func theHashNoticesEveryKindOfChange() {
        var hashes: [UInt32] = []
        let machine = Machine()
        let note = { hashes.append(machine.state.stateHash()) }
        note()
        machine.apply([])
        note()
        let sameIndex = { (entry: [UInt8]) in
            let other = Machine()
            other.grant(1, ttl: 60)
            other.put("a", "1")
            other.apply(entry)
            hashes.append(other.state.stateHash())
        }
        sameIndex([])
        sameIndex(Command.encode(kind: .put, body: Put("a", "2").message))
        sameIndex(Command.encode(kind: .put, body: Put("a", "1").message))
        sameIndex(Command.encode(kind: .put, body: Put("a", "1", lease: 1).message))
        sameIndex(Command.leaseGrant(id: 2, ttlSeconds: 60))
        sameIndex(Command.leaseRevoke(id: 1))
        sameIndex(Command.leaseCheckpoint([(id: 1, remainingSeconds: 5)]))
        sameIndex(Command.alarm(.activate, member: 1, type: .noSpace))
        sameIndex(Command.alarm(.activate, member: 1, type: .corrupt))
        sameIndex(
            Command.memberUpdate(Member(id: 1, name: "a", peerURLs: [], clientURLs: [])))
        sameIndex(Command.clusterVersion("3.6.0"))
        for change in [
            nil, .add(Member(id: 8, name: "", peerURLs: ["a"], clientURLs: [])),
            .add(Member(id: 8, name: "", peerURLs: ["b"], clientURLs: [])), .remove(7), .promote(7),
        ] as [MembershipChange?] {
            let other = Machine()
            other.found([Member(id: 7, name: "n", peerURLs: ["c"], clientURLs: [], isLearner: true)])
            other.change(change)
            hashes.append(other.state.stateHash())
        }
        sameIndex(Command.compact(revision: 1))
        sameIndex(Command.compact(revision: 2))
        #expect(Set(hashes).count == hashes.count)
    }
}
