// Which members are accused when the hashes of a compaction differ: those that differ from a majority of
// the voters, each once; and bounds on what is remembered.

import Testing

@testable import Replica

@Suite struct DivergenceTests {
    @Test func equalHashesAccuseNobody() {
        var check = DivergenceCheck(limit: 10)
        for member in UInt64(1)...3 {
            #expect(check.add(member, revision: 5, hash: 7, voters: [1, 2, 3]) == [])
        }
        #expect(check.add(9, revision: 5, hash: 7, voters: [1, 2, 3]) == [], "a learner")
    }

    @Test func theOneThatDiffersIsAccusedInWhateverOrderTheyCome() {
        for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] as [[UInt64]] {
            var check = DivergenceCheck(limit: 10)
            var accused: [UInt64] = []
            for (place, member) in order.enumerated() {
                let found = check.add(
                    member, revision: 5, hash: member == 3 ? 8 : 7, voters: [1, 2, 3])
                #expect(place > 0 || found.isEmpty, "one hash alone proves nothing")
                accused += found
            }
            #expect(accused == [3])
        }
    }

    @Test func aLearnerIsAccusedAndHasNoSay() {
        var check = DivergenceCheck(limit: 10)
        #expect(check.add(8, revision: 5, hash: 1, voters: [1, 2, 3]) == [])
        #expect(check.add(9, revision: 5, hash: 1, voters: [1, 2, 3]) == [])
        #expect(check.add(1, revision: 5, hash: 2, voters: [1, 2, 3]) == [])
        #expect(check.add(2, revision: 5, hash: 2, voters: [1, 2, 3]) == [8, 9])
        #expect(check.add(3, revision: 5, hash: 2, voters: [1, 2, 3]) == [])
    }

    @Test func withoutAMajorityAllVotersAreAccusedOnceAllHaveSpoken() {
        var check = DivergenceCheck(limit: 10)
        #expect(check.add(1, revision: 5, hash: 1, voters: [1, 2]) == [])
        #expect(check.add(2, revision: 5, hash: 2, voters: [1, 2]) == [1, 2])
        #expect(check.add(1, revision: 6, hash: 1, voters: [1, 2, 3]) == [])
        #expect(check.add(2, revision: 6, hash: 2, voters: [1, 2, 3]) == [])
        #expect(check.add(3, revision: 6, hash: 3, voters: [1, 2, 3]) == [1, 2, 3])
    }

    @Test func aMemberIsAccusedOnceACompactionAndItsFirstWordCounts() {
        var check = DivergenceCheck(limit: 10)
        _ = check.add(1, revision: 5, hash: 1, voters: [1, 2, 3])
        _ = check.add(2, revision: 5, hash: 1, voters: [1, 2, 3])
        #expect(check.add(3, revision: 5, hash: 2, voters: [1, 2, 3]) == [3])
        #expect(check.add(3, revision: 5, hash: 2, voters: [1, 2, 3]) == [])
        #expect(check.add(3, revision: 5, hash: 3, voters: [1, 2, 3]) == [])
        _ = check.add(1, revision: 9, hash: 1, voters: [1, 2, 3])
        _ = check.add(2, revision: 9, hash: 1, voters: [1, 2, 3])
        #expect(check.add(3, revision: 9, hash: 2, voters: [1, 2, 3]) == [3], "and at the next again")
    }

    @Test func onlyTheNewestCompactionsAreRemembered() {
        var check = DivergenceCheck(limit: 2)
        for revision in [Int64(5), 6, 7] {
            _ = check.add(1, revision: revision, hash: 1, voters: [1, 2, 3])
            _ = check.add(2, revision: revision, hash: 1, voters: [1, 2, 3])
        }
        #expect(check.add(3, revision: 5, hash: 9, voters: [1, 2, 3]) == [], "forgotten")
        #expect(check.add(3, revision: 6, hash: 9, voters: [1, 2, 3]) == [3])
        #expect(check.add(3, revision: 7, hash: 9, voters: [1, 2, 3]) == [3])
        // A word on what is forgotten does not push out what is remembered.
        #expect(check.add(2, revision: 1, hash: 4, voters: [1, 2, 3]) == [])
        #expect(check.add(9, revision: 7, hash: 9, voters: [1, 2, 3]) == [9])
    }

    @Test func aNewLeaderBeginsAnew() {
        var check = DivergenceCheck(limit: 10)
        _ = check.add(1, revision: 5, hash: 1, voters: [1, 2, 3])
        check.restart()
        #expect(check.add(2, revision: 5, hash: 2, voters: [1, 2, 3]) == [])
        #expect(check.add(3, revision: 5, hash: 2, voters: [1, 2, 3]) == [])
        #expect(check.add(1, revision: 5, hash: 1, voters: [1, 2, 3]) == [1])
    }
}
