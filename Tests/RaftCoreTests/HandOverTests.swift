import Foundation
import RaftCore
import Testing

/// Leaving office, and the bounds on what a leader keeps and sends for others.
@Suite struct HandOverTests {
    /// A cluster whose member 1 leads term 2, with entry 2 applied everywhere.
    private func cluster(_ options: String = "voters=1,2,3") throws -> Scenario {
        var scenario = Scenario()
        try scenario.play("cluster \(options)\ncampaign 1\nquietly")
        #expect(scenario[1].core.role == .leader)
        return scenario
    }

    // MARK: Resigning

    @Test func resigningWakesTheBestSuccessorAtOnce() throws {
        // 2 lacks the entry that 3 has; the disk of 1 is stalled, so its own write never ends.
        var scenario = try cluster()
        try scenario.play("propose 1 a\nready 1\ndrop 2\nsettle 3\ndeliver 1\nresign 1")
        #expect(scenario[1].core.role == .follower)
        #expect(scenario[1].core.leader == nil)
        try scenario.play("ready 1")
        #expect(scenario.inbox(3).last?.body == .timeoutNow)
        #expect(!scenario.inbox(2).contains { $0.body == .timeoutNow })
        // No tick passes, and 1 never answers: 2's vote is enough.
        try scenario.play("settle 2,3")
        #expect(scenario[3].core.role == .leader)
        #expect(scenario[3].core.commitIndex == 4)
        #expect(scenario[2].machine.commands == ["a"])
    }

    @Test func whoResignedWaitsAnElectionTimeout() throws {
        for seed in 0..<20 {
            var scenario = try cluster("voters=1,2,3 prevote=off election=10")
            for _ in 0..<seed { try scenario.play("inject 2->1 term=2 newerterm") }
            try scenario.play("cut 2\ncut 3\ntick 1 \(seed % 9)\nresign 1\ntick 1 9")
            #expect(scenario[1].core.role == .follower)
            try scenario.play("tick 1 10")
            #expect(scenario[1].core.role == .candidate)
        }
    }

    @Test func resigningAbandonsReadsAndRefusesProposals() throws {
        var scenario = try cluster()
        try scenario.play("read 1 7\nresign 1")
        #expect(try scenario.play("propose 1 a") == "error: notLeader(leader: nil)")
        #expect(try scenario.play("ready 1").contains("read 7 abandoned"))
        try scenario.play("resign 2")
        #expect(scenario[2].core.role == .follower)
    }

    @Test func resigningWithNobodyInSightTellsNobody() throws {
        var scenario = try cluster("voters=1,2,3 checkquorum=off")
        try scenario.play("cut 2\ncut 3\ntick 1 10\nheal\nresign 1\nready 1")
        #expect(scenario[1].core.role == .follower)
        #expect(!(scenario.inbox(2) + scenario.inbox(3)).contains { $0.body == .timeoutNow })
        // A sole voter that resigns takes office again by itself.
        scenario = try cluster("voters=1")
        try scenario.play("resign 1\ntick 1 20\nquietly")
        #expect(scenario[1].core.role == .leader)
    }

    @Test func aHastySuccessorThatLacksACommittedEntryLoses() throws {
        // 3 alone has entry 3, so it is committed; the answer of 3 is lost, and then 3 falls silent.
        var scenario = try cluster("voters=1,2,3 checkquorum=off election=5")
        try scenario.play("propose 1 a\nready 1\ndrop 2\npersist 1\nsettle 1,3\ndrop 2\ncut 3")
        #expect(scenario[1].core.commitIndex == 3)
        for _ in 0..<5 { try scenario.play("tick 1\nready 1\ndrop 3\nsettle 2\ndeliver 1 from 2") }
        // What 2 lacks travels with the request or is refused to it; either way nothing is lost.
        try scenario.play("heal\nresign 1\nready 1\ndrop 2")
        try scenario.play("inject 1->2 term=2 timeoutnow\nquietly")
        for _ in 0..<40 { try scenario.play("tick 1\ntick 2\ntick 3\nquietly") }
        for id in 1...3 as ClosedRange<NodeID> {
            #expect(scenario[id].machine.commands == ["a"])
        }
    }

    // MARK: The best target

    @Test func theBestTargetIsAnActiveVoterThatHoldsMost() throws {
        var scenario = try cluster("voters=1,2,3 learners=4 checkquorum=off election=5")
        #expect(scenario[1].core.bestTransferTarget == 2, "all are level: the lowest id")
        #expect(scenario[2].core.bestTransferTarget == nil, "a follower does not know")
        try scenario.play("propose 1 a\nready 1\ndrop 2\npersist 1\nsettle 1,3,4")
        #expect(scenario[1].core.bestTransferTarget == 3)
        // 3 falls silent, and the learner never counts.
        try scenario.play("cut 3\nquietly")
        for _ in 0..<5 { try scenario.play("tick 1\nquietly") }
        #expect(!scenario[1].core.isRecentlyActive(3))
        #expect(scenario[1].core.bestTransferTarget == 2)
        try scenario.play("cut 2\ntick 1 5")
        #expect(scenario[1].core.bestTransferTarget == nil)
        try scenario.play("heal\ntick 1\nquietly")
        #expect(scenario[1].core.bestTransferTarget == 2)
    }

    @Test func nobodyOnTheWayOutIsATarget() throws {
        var scenario = try cluster("voters=1,2,3 join=4")
        try scenario.play("change 1 learner=4\nquietly\ntick 1\nquietly")
        try scenario.play("change 1 explicit voter=4 remove=2 remove=3\nquietly\ncut 4")
        #expect(scenario[1].core.bestTransferTarget == 4)
        for _ in 0..<10 { try scenario.play("tick 1\nquietly") }
        #expect(scenario[1].core.bestTransferTarget == nil)
    }

    // MARK: Who answers

    @Test func activityIsASlidingElectionTimeout() throws {
        var scenario = try cluster("voters=1,2,3 election=5")
        try scenario.play("cut 3")
        for tick in 1...12 {
            try scenario.play("tick 1\nquietly")
            // At no tick does a member that answers look silent.
            #expect(scenario[1].core.isRecentlyActive(2))
            #expect(scenario[1].core.isRecentlyActive(3) == (tick < 5))
        }
        #expect(scenario[1].core.isRecentlyActive(1))
        #expect(!scenario[1].core.isRecentlyActive(9))
        #expect(!scenario[2].core.isRecentlyActive(1))
        try scenario.play("heal\ntick 1\nquietly")
        #expect(scenario[1].core.isRecentlyActive(3))
    }

    @Test func activeQuorumIsJudgedInTheMembershipToCome() throws {
        var scenario = try cluster("voters=1,2,3 election=5")
        func has(_ voters: [NodeID], _ outgoing: [NodeID] = []) -> Bool {
            scenario[1].core.hasActiveQuorum(in: ConfState(voters: voters, votersOutgoing: outgoing))
        }
        try scenario.play("cut 3")
        for _ in 0..<5 { try scenario.play("tick 1\nquietly") }
        #expect(has([1, 2, 3]))
        #expect(has([1, 2]))
        #expect(!has([1, 3]), "without 2 the silent 3 would decide")
        #expect(!has([1, 2, 3, 4]), "4 is unknown, so silent")
        #expect(!has([1, 2], [1, 3]) && !has([1, 3], [1, 2]), "both halves count")
    }

    @Test func aTransferDoesNotPutTheQuorumCheckOff() throws {
        var scenario = try cluster("voters=1,2,3 election=5")
        try scenario.play("cut 2\ncut 3")
        for target in [2, 3, 2, 3, 2] {
            try scenario.play("transfer 1 \(target)\ntick 1")
        }
        #expect(scenario[1].core.role == .follower)
    }

    // MARK: Bounds

    @Test func theLogIsBoundedInBytes() throws {
        // Ten entries fit the count, but only three of them the bytes.
        var scenario = try cluster("voters=1,2,3 retain=100 retainbytes=30 checkquorum=off")
        try scenario.play("cut 3")
        for _ in 0..<20 { try scenario.play("propose 1 0123456789\nquietly\ncompact 1\ncompact 2") }
        for id in [1, 2] as [NodeID] {
            let log = scenario[id].core.log
            #expect(log.lastIndex == 22)
            #expect(log.firstIndex == 20)
            #expect(log.payloadBytes == 30)
        }
        // What is not applied yet is kept whatever its size, and pushes nothing out.
        try scenario.play("cut 2\npropose 1 \(String(repeating: "x", count: 500))\nready 1\ncompact 1")
        #expect(scenario[1].core.log.firstIndex == 20)
        #expect(scenario[1].core.log.payloadBytes == 530)
    }

    @Test func anAnsweringPeerIsKeptInTheLogLongerThanASilentOne() throws {
        var scenario = try cluster(
            "voters=1,2,3 retain=2 catchup=10 checkquorum=off election=5 inflight=1")
        func write(_ count: Int) throws {
            for _ in 0..<count { try scenario.play("propose 1 a\nready 1\nsettle 2\npersist 1\nsettle 1,2") }
            try scenario.play("compact 1")
        }
        // 3 answers heartbeats, but its appends are lost.
        try scenario.play("drop 3")
        try write(8)
        #expect(scenario[1].core.log.firstIndex == 3)
        try write(8)
        #expect(scenario[1].core.log.firstIndex == 9, "the bound for those that answer")
        // Silent for an election timeout: the smaller bound.
        for _ in 0..<5 { try scenario.play("tick 1\nsettle 1,2\ndrop 3") }
        try scenario.play("compact 1")
        #expect(scenario[1].core.log.firstIndex == 17)
    }

    @Test func entriesWrittenDuringASnapshotAreKept() throws {
        var scenario = try cluster("voters=1,2,3 retain=1 catchup=50 election=5")
        try scenario.play("cut 3\npropose 1 a b c d e")
        for _ in 0..<5 { try scenario.play("quietly\ntick 1") }
        try scenario.play("quietly\ncompact 1\nheal\ntick 1")
        try scenario.play("ready 1\ndeliver 3\nready 3\ndeliver 1\nready 1\ndeliver 3\nready 3\ndeliver 1\nready 1")
        guard case .snapshot(let pending) = scenario[1].core.progress[2].state else {
            Issue.record("no snapshot under way")
            return
        }
        // The transfer takes long, and the log goes on.
        for _ in 0..<20 { try scenario.play("propose 1 x\nsettle 1,2\ncompact 1") }
        #expect(scenario[1].core.log.firstIndex <= pending + 1)
        let trace = try scenario.play("deliver 3\nready 3\npersist 3\ninstall 3\nreported 1 3 ok\nsettle")
        #expect(!trace.contains("send 1->3 term=2 Snapshot"), "outdated on arrival")
        #expect(scenario[3].machine == scenario[1].machine)
    }

    @Test func aSlowPeerPinsABoundedNumberOfBytes() throws {
        var scenario = try cluster("voters=1,2,3 inflightbytes=25 messagebytes=10")
        try scenario.play("tick 1\nquietly")
        for _ in 0..<10 { try scenario.play("propose 1 0123456789\nready 1\nsettle 2\npersist 1\nsettle 1,2") }
        func bytesUnderWay() -> Int {
            scenario.inbox(3).reduce(0) { sum, message in
                guard case .append(let request) = message.body else { return sum }
                return sum + request.entries.reduce(0) { $0 + $1.data.count }
            }
        }
        #expect(bytesUnderWay() == 30, "the message that reaches the bound still goes")
        #expect(scenario[1].core.progress[2].isPaused)
        // An answer gives room for as much again.
        try scenario.play("deliver 3 1\nready 3\npersist 3\nready 3\ndeliver 1 from 3\nready 1")
        #expect(bytesUnderWay() == 30)
        try scenario.play("quietly")
        #expect(scenario[3].core.lastIndex == scenario[1].core.lastIndex)
    }

    // MARK: Reads share rounds

    @Test func readsOfOneReadyShareARound() throws {
        var scenario = try cluster()
        scenario.with(1) { core in
            for context in 1...1_000 as ClosedRange<UInt64> { try? core.readIndex(context: context) }
        }
        try scenario.play("ready 1")
        #expect(scenario.inbox(2).count == 1)
        #expect(scenario.inbox(3).count == 1)
        #expect(try scenario.play("settle").components(separatedBy: "read ").count == 1_001)
    }

    @Test func readsThatComeDuringARoundShareTheNext() throws {
        var scenario = try cluster()
        var rounds = 0
        var answered = 0
        for batch in 0..<10 as Range<UInt64> {
            scenario.with(1) { core in
                for read in 0..<100 as Range<UInt64> { try? core.readIndex(context: batch * 100 + read) }
            }
            let trace = try scenario.play("ready 1")
            rounds += trace.components(separatedBy: "1->2 term=2 Heartbeat").count - 1
            answered += trace.components(separatedBy: "\nread ").count - 1
        }
        #expect(rounds == 1, "nine batches wait for the first round to come back")
        #expect(answered == 0)
        let trace = try scenario.play("settle")
        #expect(trace.components(separatedBy: "1->2 term=2 Heartbeat").count - 1 == 1)
        #expect(trace.components(separatedBy: "1: read ").count - 1 == 1_000)
    }

    @Test func aLostRoundIsRepeatedWithTheNextHeartbeat() throws {
        var scenario = try cluster()
        try scenario.play("read 1 1\nready 1\nread 1 2\nready 1\ndrop 2\ndrop 3")
        #expect(try scenario.play("settle").contains("read") == false)
        let trace = try scenario.play("tick 1\nsettle")
        #expect(trace.contains("1: read 1 at 2") && trace.contains("1: read 2 at 2"))
    }

    @Test func anEntryLargerThanTheWindowIsSent() throws {
        var scenario = try cluster("voters=1,2,3 inflightbytes=5 messagebytes=5")
        try scenario.play("propose 1 \(String(repeating: "x", count: 100)) small\nquietly")
        #expect(scenario[3].machine.commands.last == "small")
    }
}
