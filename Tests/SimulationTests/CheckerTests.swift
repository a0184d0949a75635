// The judge must know a violation when it sees one.

import RaftCore
import Replica
import StateMachine
import Testing

@testable import Simulation

@Suite struct CheckerTests {
    private func batch(_ sequence: UInt64, _ entries: [Entry]) -> PersistBatch {
        PersistBatch(sequence: sequence, snapshot: nil, entries: entries, hardState: nil)
    }

    private func log(_ entries: [Entry]) -> LogMirror {
        LogMirror(snapshotIndex: 1, snapshotTerm: 1, entries: entries)
    }

    private let first = Entry(index: 2, term: 2, data: [1])
    private let other = Entry(index: 2, term: 3, data: [2])

    @Test func twoLeadersOfOneTerm() {
        let checker = Checker()
        checker.becameLeader(1, term: 5, log: log([]))
        checker.becameLeader(1, term: 5, log: log([]))
        #expect(checker.failure == nil)
        checker.becameLeader(2, term: 5, log: log([]))
        #expect(checker.failure?.contains("lead term 5") == true)
    }

    @Test func aLeaderWithoutACommittedEntry() {
        let checker = Checker()
        checker.committed(through: 2, after: 1, by: 1, log: log([first]))
        checker.becameLeader(2, term: 4, log: log([first]))
        #expect(checker.failure == nil)
        checker.becameLeader(3, term: 5, log: log([other]))
        #expect(checker.failure?.contains("without committed entry 2") == true)
    }

    @Test func aCommittedEntryThatChanges() {
        let checker = Checker()
        checker.committed(through: 2, after: 1, by: 1, log: log([first]))
        checker.committed(through: 2, after: 1, by: 2, log: log([first]))
        #expect(checker.failure == nil)
        checker.committed(through: 2, after: 1, by: 3, log: log([other]))
        #expect(checker.failure?.contains("commits another one") == true)
    }

    @Test func aVoteThatIsNotDurable() {
        let checker = Checker()
        var mirror = log([])
        let vote = Message(
            from: 1, to: 2, term: 7,
            body: .voteResponse(
                .init(isPreVote: false, isGranted: true, known: .init(index: 1, term: 1))))
        mirror.durableTerm = 7
        mirror.durableVote = 2
        checker.sending(vote, log: mirror, currentTerm: 7, role: .follower)
        #expect(checker.failure == nil)
        mirror.durableVote = 3
        checker.sending(vote, log: mirror, currentTerm: 7, role: .follower)
        #expect(checker.failure?.contains("durable vote is for 3") == true)
    }

    @Test func anEntryCountedWithoutAMajority() {
        let checker = Checker()
        let joint = ConfState(voters: [1, 2, 3], votersOutgoing: [3, 4, 5])
        checker.counted(index: 2, term: 2, leader: 1, memberships: [joint]) { [1, 2, 4, 5].contains($0) }
        #expect(checker.failure == nil)
        checker.counted(index: 2, term: 2, leader: 1, memberships: [joint]) { [1, 2, 3].contains($0) }
        #expect(checker.failure?.contains("no majority") == true)
    }

    @Test func aLeaseThatEndsBeforeItsTime() {
        let checker = Checker()
        let renewal = Operation(
            number: 1, client: 0, kind: .keepAlive(lease: 3), member: 1, invoked: 10 * second, floor: 1)
        checker.now = 11 * second
        checker.renewed(renewal, lease: 3, seconds: 5)
        checker.now = 16 * second
        checker.leaseRevoked(3, expired: true, proposed: 15 * second)
        #expect(checker.failure == nil)
        let early = Checker()
        early.now = 11 * second
        early.renewed(renewal, lease: 3, seconds: 5)
        early.leaseRevoked(3, expired: true, proposed: 14 * second)
        #expect(early.failure?.contains("promised until") == true)
    }

    @Test func whatADiskLost() {
        let checker = Checker()
        var old = log([first])
        old.durableTerm = 2
        old.durableVote = 1
        var new = old
        #expect(checker.loss(of: 1, old: old, new: new) == nil)
        new.durableVote = 3
        #expect(checker.loss(of: 1, old: old, new: new)?.contains("vote 3") == true)
        var short = log([])
        short.durableTerm = 2
        short.durableVote = 1
        #expect(checker.loss(of: 1, old: old, new: short)?.contains("log to 1") == true)
    }
}
