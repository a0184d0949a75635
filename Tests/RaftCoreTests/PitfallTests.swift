import RaftCore
import Testing

/// One test for each known way to get Raft wrong, in the order of a list kept from published bug
/// reports (docs/consistency.md). The names begin with the number in that list. Members are driven
/// by scenario commands, and their state is asked for directly.
@Suite struct PitfallTests {
    /// A cluster whose member 1 leads term 2, with entry 2 applied everywhere.
    private func cluster(_ options: String = "voters=1,2,3") throws -> Scenario {
        var scenario = Scenario()
        try scenario.play("cluster \(options)\ncampaign 1\nquietly")
        #expect(scenario[1].core.role == .leader)
        return scenario
    }

    @Test func p01_entriesOfEarlierTermsAreNotCommittedByCounting() throws {
        // As in figure8_commit_rule.txt, seen from the leader of term 3 alone.
        let log = try RaftLog(
            snapshotIndex: 1, snapshotTerm: 1, entries: [Entry(index: 2, term: 2, data: [1])])
        var core = try RaftCore(
            configuration: RaftConfiguration(id: 1),
            hardState: HardState(term: 2, vote: 0, commit: 1),
            confState: ConfState(voters: [1, 2, 3]), log: log, appliedIndex: 1, randomSeed: 1)
        core.campaign()
        func from(_ id: NodeID, _ term: Term, _ body: Message.Body) -> Message {
            Message(from: id, to: 1, term: term, body: body)
        }
        let known = Message.CommitPoint(index: 1, term: 1)
        try core.step(
            from(2, 3, .voteResponse(.init(isPreVote: true, isGranted: true, known: known))))
        core.persisted(through: try #require(core.takeReady().persist).sequence)
        try core.step(
            from(2, 3, .voteResponse(.init(isPreVote: false, isGranted: true, known: known))))
        #expect(core.role == .leader)
        core.persisted(through: try #require(core.takeReady().persist).sequence)
        try core.step(from(2, 3, .appendResponse(.accepted(match: 2))))
        #expect(core.commitIndex == 1)
        try core.step(from(2, 3, .appendResponse(.accepted(match: 3))))
        #expect(core.commitIndex == 3)
    }

    @Test func p02_readWaitsForTheFirstCommitOfTheTerm() throws {
        var scenario = Scenario()
        try scenario.play("cluster voters=1\ncampaign 1\nready 1\npersist 1")
        #expect(scenario[1].core.role == .leader)
        #expect(!scenario[1].core.hasCommittedInTerm)
        try scenario.play("read 1 7")
        #expect(try scenario.play("ready 1").contains("read 7") == false)
        try scenario.play("persist 1")
        #expect(try scenario.play("ready 1").contains("read 7 at 2"))
    }

    /// etcd issue 20418.
    @Test func p03_readNeedsAQuorumThatAnsweredAfterIt() throws {
        var scenario = try cluster()
        try scenario.play("tick 1\nready 1\ndeliver 2\ndeliver 3\nready 2\nready 3")
        // These answers are to a heartbeat that was sent before the read came.
        try scenario.play("read 1 7\ndeliver 1")
        #expect(try scenario.play("ready 1").contains("read 7") == false)
        // Repeating them does not help; the next round does.
        try scenario.play("deliver 3\nready 3\nduplicate 1\ndeliver 1 from 3 1")
        #expect(try scenario.play("ready 1").contains("read 7 at 2"))
    }

    @Test func p04_readsAreNeverAnsweredByTheClockAlone() throws {
        // A leader that was confirmed this very moment, far within any lease, still asks.
        var scenario = try cluster()
        try scenario.play("tick 1\nquietly\ncut 2\ncut 3\nread 1 7")
        #expect(try scenario.play("settle 1").contains("read 7") == false)
    }

    @Test func p05_promisesLeaveAfterTheyAreDurable() throws {
        var scenario = Scenario()
        try scenario.play("cluster voters=1,2,3 prevote=off\ncampaign 1\nready 1")
        #expect(scenario.inbox(2).isEmpty, "the vote request left before the term was durable")
        try scenario.play("persist 1\nready 1\ndeliver 2\nready 2")
        #expect(scenario.inbox(1).isEmpty, "the vote left before it was durable")
        try scenario.play("persist 2\nready 2")
        #expect(scenario.inbox(1).count == 1)
        // A refusal waits too: it tells a term that is not durable yet.
        try scenario.play("inject 2->3 term=9 newerterm\ndeliver 3\nready 3")
        #expect(scenario.inbox(1).count == 1)
        try scenario.play("persist 3\nready 3")
        #expect(scenario.inbox(1).count == 2)
    }

    @Test func p05_ownVoteCountsAfterItIsDurable() throws {
        var scenario = Scenario()
        try scenario.play("cluster voters=1\ncampaign 1\nready 1")
        #expect(scenario[1].core.role == .candidate)
        try scenario.play("persist 1")
        #expect(scenario[1].core.role == .leader)
    }

    @Test func p06_leaderCountsItselfAfterItsOwnWrite() throws {
        var scenario = try cluster()
        try scenario.play("propose 1 a\nready 1")
        #expect(scenario.inbox(2).count == 1, "the append did not leave in parallel with the write")
        try scenario.play("settle 2\ndeliver 1")
        #expect(scenario[1].core.commitIndex == 2)
        try scenario.play("persist 1")
        #expect(scenario[1].core.commitIndex == 3)
    }

    /// etcd issue 14370.
    @Test func p06_singleVoterCommitsAfterItsOwnWrite() throws {
        var scenario = try cluster("voters=1")
        #expect(try scenario.play("propose 1 a\nready 1").contains("apply") == false)
        #expect(scenario[1].core.commitIndex == 2)
        try scenario.play("persist 1")
        #expect(try scenario.play("ready 1").contains("apply 3@2 a"))
    }

    @Test func p07_completionOfAnOverwrittenSuffixMakesNothingStable() throws {
        var scenario = Scenario()
        try scenario.play(
            """
            cluster voters=1,2,3
            inject 1->2 term=2 append prev=1@1 commit=1 2@2=A 3@2=A
            ready 2
            inject 3->2 term=3 append prev=2@2 commit=1 3@3=B
            ready 2
            inject 1->2 term=4 append prev=2@2 commit=1 3@2=A
            ready 2
            persist 2 1
            """)
        #expect(scenario[2].core.log.stableIndex == 2, "entry 2 was never overwritten, 3 was")
        try scenario.play("persist 2 1")
        #expect(scenario[2].core.log.stableIndex == 2)
        try scenario.play("persist 2 1")
        #expect(scenario[2].core.log.stableIndex == 3)
        #expect(scenario[2].disk.entries.map(\.term) == [2, 2])
        // Completions are counted, so an old one that comes again is nothing new.
        scenario.with(2) { $0.persisted(through: 1) }
        #expect(scenario[2].core.log.stableIndex == 3)
    }

    @Test func p07_completionOfALogThatASnapshotReplacedMakesNothingStable() throws {
        // 2 writes a tail up to 9 that will never be committed. A snapshot ends below it, and entries
        // of the new leader follow. The old write's completion says nothing about those.
        var scenario = Scenario()
        try scenario.play("cluster voters=1,2,3")
        var core = scenario[2].core
        func append(_ entries: ClosedRange<LogIndex>, _ term: Term, after previous: Term, from: NodeID) throws {
            try core.step(
                Message(
                    from: from, to: 2, term: term,
                    body: .append(
                        .init(
                            previousIndex: entries.lowerBound - 1, previousTerm: previous, commit: 1,
                            entries: entries.map { Entry(index: $0, term: term, data: [1]) }))))
        }
        try append(2...9, 2, after: 1, from: 1)
        let old = try #require(core.takeReady().persist)
        try core.step(
            Message(
                from: 3, to: 2, term: 4,
                body: .snapshot(.init(index: 5, term: 3, confState: ConfState(voters: [1, 2, 3])))))
        let snapshot = try #require(core.takeReady().persist)
        #expect(snapshot.snapshot?.index == 5)
        try append(6...9, 4, after: 3, from: 3)
        let new = try #require(core.takeReady().persist)
        core.persisted(through: old.sequence)
        #expect(core.log.stableIndex == 1)
        core.persisted(through: snapshot.sequence)
        #expect(core.log.stableIndex == 5)
        core.persisted(through: new.sequence)
        #expect(core.log.stableIndex == 9)
    }

    @Test func p08_returningMemberDoesNotDeposeTheLeader() throws {
        var scenario = try cluster()
        try scenario.play("cut 3\ntick 3 100\nheal\ntick 1\nquietly\ntick 3 30\nquietly\ntick 1\nquietly")
        #expect(scenario[1].core.role == .leader)
        #expect(scenario[1].core.term == 2)
        #expect(scenario[3].core.leader == 1)
    }

    @Test func p08_preCandidateOfAnOldTermLearnsTheTerm() throws {
        var scenario = Scenario()
        try scenario.play(
            "cluster voters=1,2\ninject 2->1 term=7 newerterm\nready 1\npersist 1\ncampaign 2\nquietly")
        #expect(scenario[2].core.term == 7)
        try scenario.play("campaign 2\nquietly")
        #expect(scenario[2].core.role == .leader)
    }

    @Test func p08_anOldPreVoteDoesNotCount() throws {
        // 2 asks for term 10. A grant for term 9 answers an earlier question.
        var scenario = Scenario()
        try scenario.play("cluster voters=1,2,3\ninject 1->2 term=9 newerterm\nready 2\npersist 2\ncampaign 2")
        func grant(_ term: Term) throws {
            let known = Message.CommitPoint(index: 1, term: 1)
            try scenario.with(2) {
                try $0.step(
                    Message(
                        from: 1, to: 2, term: term,
                        body: .voteResponse(.init(isPreVote: true, isGranted: true, known: known))))
            }
        }
        try grant(9)
        try grant(11)
        #expect(scenario[2].core.role == .preCandidate)
        try grant(10)
        #expect(scenario[2].core.role == .candidate)
    }

    @Test func p08_mixedPreVoteDoesNotDeadlock() throws {
        var scenario = try cluster("voters=1,2,3 noprevote=3 election=10")
        try scenario.play("cut 3\ntick 3 200\ncrash 1\nheal")
        for _ in 0..<60 where scenario[2].core.role != .leader && scenario[3].core.role != .leader {
            try scenario.play("tick 2\ntick 3\nquietly")
        }
        #expect(scenario[2].core.role == .leader || scenario[3].core.role == .leader)
    }

    @Test func p09_theVoteGoesToTheLaterTermNotToTheLongerLog() throws {
        var core = try RaftCore(
            configuration: RaftConfiguration(id: 1), hardState: HardState(term: 5, vote: 0, commit: 1),
            confState: ConfState(voters: [1, 2, 3]),
            log: RaftLog(
                snapshotIndex: 1, snapshotTerm: 1,
                entries: [Entry(index: 2, term: 3, data: [1]), Entry(index: 3, term: 5, data: [1])]),
            appliedIndex: 1, randomSeed: 1)
        for (index, term, isGranted) in [
            (LogIndex(100), Term(4), false), (2, 5, false), (3, 5, true), (2, 6, true),
        ] {
            try core.step(
                Message(
                    from: 2, to: 1, term: 9,
                    body: .voteRequest(
                        .init(
                            isPreVote: true, isTransfer: false, lastIndex: index, lastTerm: term,
                            known: .init(index: 0, term: 0)))))
            guard case .voteResponse(let answer)? = core.takeReady().messages.last?.body else {
                Issue.record("no answer")
                continue
            }
            #expect(answer.isGranted == isGranted, "log that ends in \(index)@\(term)")
        }
    }

    @Test func p09_membersInContactWithALeaderIgnoreCandidates() throws {
        var scenario = try cluster()
        try scenario.play("inject 3->2 term=9 vote\nquietly")
        #expect(scenario[2].core.term == 2)
        // For a whole election timeout of silence, and no longer.
        try scenario.play("tick 2 9\ninject 3->2 term=9 vote\nquietly")
        #expect(scenario[2].core.term == 2)
        try scenario.play("tick 2 1\ninject 3->2 term=9 vote\nquietly")
        #expect(scenario[2].core.term >= 9)
        // The leader's own wish passes.
        scenario = try cluster()
        try scenario.play("transfer 1 2\nquietly")
        #expect(scenario[2].core.role == .leader)
    }

    @Test func p10_transferStopsProposalsAndTimesOut() throws {
        var scenario = try cluster("voters=1,2,3 learners=4 election=5")
        try scenario.play("cut 2\ntransfer 1 2")
        #expect(try scenario.play("propose 1 a") == "error: transferring(to: 2)")
        #expect(try scenario.play("change 1 learner=9") == "error: transferring(to: 2)")
        try scenario.play("tick 1 4\nquietly")
        #expect(scenario[1].core.transferTarget == 2)
        try scenario.play("tick 1\nquietly")
        #expect(scenario[1].core.transferTarget == nil)
        #expect(try scenario.play("propose 1 a") == "3..<4")
        for (target, error) in [(1, "alreadyLeader"), (4, "notVoter"), (9, "unknownMember")] {
            #expect(try scenario.play("transfer 1 \(target)") == "error: \(error)")
        }
    }

    @Test func p10_transferWaitsUntilTheTargetHasCaughtUp() throws {
        var scenario = try cluster()
        try scenario.play("propose 1 a\nready 1\ndrop 2\npersist 1\nsettle 1,3\ndrop 2\ntransfer 1 2\nready 1")
        #expect(!scenario.inbox(2).contains { $0.body == .timeoutNow })
        try scenario.play("quietly")
        #expect(scenario[2].core.role == .leader)
        #expect(scenario[2].machine.commands == ["a"])
    }

    @Test func p11_changeIsInForceOnceAppliedAndOneAtATime() throws {
        var scenario = try cluster("voters=1,2,3 join=4")
        try scenario.play("change 1 learner=4")
        #expect(!scenario[1].core.confState.contains(4))
        #expect(try scenario.play("change 1 remove=3") == "error: configChangePending")
        try scenario.play("quietly")
        #expect(scenario[1].core.confState.isLearner(4))
    }

    @Test func p11_noElectionWithACommittedChangeUnapplied() throws {
        // Committed, handed out, not applied.
        let change = ConfigChange([.init(.addVoter, 4)])
        let log = try RaftLog(
            snapshotIndex: 1, snapshotTerm: 1,
            entries: [Entry(index: 2, term: 1, kind: .configChange, data: change.encoded())])
        var core = try RaftCore(
            configuration: RaftConfiguration(id: 1),
            hardState: HardState(term: 1, vote: 0, commit: 2),
            confState: ConfState(voters: [1, 2, 3]), log: log, appliedIndex: 1, randomSeed: 1)
        core.campaign()
        #expect(core.role == .follower)
        let entry = try #require(core.takeReady().committed.first)
        core.campaign()
        #expect(core.role == .follower)
        core.applyConfigChange(try ConfigChange(decoding: entry.data), at: entry.index)
        core.campaign()
        #expect(core.role == .preCandidate)
    }

    @Test func p11_newLeaderMindsTheChangeInItsTail() throws {
        var scenario = try cluster("voters=1,2,3 prevote=off checkquorum=off")
        try scenario.play("change 1 learner=4\nready 1\npersist 1\nsettle 2,3\ndrop 1\ndrop 2\ndrop 3\ncrash 1")
        try scenario.play("campaign 2\nready 2\npersist 2\nready 2\ndeliver 3\nready 3\npersist 3\nready 3\ndeliver 2")
        #expect(scenario[2].core.role == .leader)
        #expect(try scenario.play("change 2 learner=5") == "error: configChangePending")
    }

    @Test func p11_anElectionThatMustWaitFollowsOnceTheChangeIsApplied() throws {
        // 2 has the change, which is committed, and does not know. It is asked to lead: it must first
        // count the right members, and must not give up over that.
        var scenario = try cluster("voters=1,2,3 join=4")
        try scenario.play("change 1 learner=4\nready 1\npersist 1\nsettle 2,3\ndrop 1 from 3\ndeliver 1\ntransfer 1 2")
        try scenario.play("ready 1\ndeliver 2")
        #expect(scenario[2].core.role == .follower, "the change is committed and not applied")
        try scenario.play("ready 2")
        #expect(scenario[2].core.role == .candidate)
        try scenario.play("quietly")
        #expect(scenario[2].core.role == .leader)
        // One that learns of it from a vote starts over at once, as told in leader_removal.txt.
    }

    @Test func p11_aPostponedElectionIsOffOnceALeaderIsHeard() throws {
        var scenario = try cluster("voters=1,2,3 join=4")
        try scenario.play("change 1 learner=4\nready 1\npersist 1\nsettle 2,3\ndrop 1 from 3\ndeliver 1\ntransfer 1 2")
        try scenario.play("ready 1\ndeliver 2\ninject 3->2 term=9 heartbeat\nready 2\nready 2")
        #expect(scenario[2].core.role == .follower)
        #expect(scenario[2].core.leader == 3)
    }

    @Test func p11_allChangesButTheLastInALogAreCommitted() throws {
        // Who proposed the second one had applied the first. A commit index lost in a crash must
        // not let this member decide by the oldest membership.
        let entries = [ConfigChange.Step(.addVoter, 4), .init(.addVoter, 5)].enumerated().map {
            Entry(
                index: UInt64($0 + 2), term: 1, kind: .configChange,
                data: ConfigChange([$1]).encoded())
        }
        let core = try RaftCore(
            configuration: RaftConfiguration(id: 1), hardState: .founding,
            confState: ConfState(voters: [1, 2, 3]),
            log: RaftLog(snapshotIndex: 1, snapshotTerm: 1, entries: entries),
            appliedIndex: 1, randomSeed: 1)
        #expect(core.commitIndex == 2)
    }

    @Test func p11_whatAVoteTellsToBeCommittedMustBeTheSameEntry() throws {
        var core = try RaftCore(
            configuration: RaftConfiguration(id: 1), hardState: HardState(term: 3, vote: 0, commit: 1),
            confState: ConfState(voters: [1, 2, 3]),
            log: RaftLog(
                snapshotIndex: 1, snapshotTerm: 1,
                entries: [Entry(index: 2, term: 2, data: [1]), Entry(index: 3, term: 2, data: [1])]),
            appliedIndex: 1, randomSeed: 1)
        for (index, term, commit) in [(LogIndex(3), Term(3), LogIndex(1)), (9, 2, 1), (2, 2, 2), (1, 1, 2)] {
            try core.step(
                Message(
                    from: 2, to: 1, term: 3,
                    body: .voteResponse(
                        .init(isPreVote: false, isGranted: false, known: .init(index: index, term: term)))))
            #expect(core.commitIndex == commit)
        }
    }

    @Test func p12_changeNeedsACommitOfTheTermFirst() throws {
        var scenario = Scenario()
        try scenario.play("cluster voters=1\ncampaign 1\nready 1\npersist 1")
        #expect(scenario[1].core.role == .leader)
        #expect(try scenario.play("change 1 learner=2") == "error: notCommittedInTerm")
        try scenario.play("ready 1\npersist 1")
        #expect(try scenario.play("change 1 learner=2") == "at 3")
    }

    @Test func p12_learnerFirstKeepsTheQuorumWhole() throws {
        // From one voter to two, by way of a learner: until it is promoted its silence costs
        // nothing.
        var scenario = try cluster("voters=1 join=2")
        try scenario.play("cut 2\nchange 1 learner=2\nquietly\npropose 1 a\nquietly")
        #expect(scenario[1].machine.commands == ["a"])
        #expect(try scenario.play("change 1 voter=2").contains("learnerBehind(2)"))
    }

    @Test func p13_jointNeedsBothMajoritiesAndANewLeaderLeaves() throws {
        // Told step by step in joint_consensus.txt and joint_new_leader_leaves.txt.
        let conf = ConfState(voters: [1, 4, 5], votersOutgoing: [1, 2, 3])
        var scenario = try cluster("voters=1,2,3 join=4,5")
        try scenario.play("change 1 learner=4\nquietly\nchange 1 learner=5\nquietly\ntick 1\nquietly")
        try scenario.play("change 1 explicit voter=4 voter=5 remove=2 remove=3\nquietly")
        #expect(scenario[1].core.confState == conf)
        let commit = scenario[1].core.commitIndex
        try scenario.play("cut 4\ncut 5\npropose 1 a\nquietly")
        #expect(scenario[1].core.commitIndex == commit, "committed without the new majority")
        try scenario.play("heal\ntick 1\nquietly\ncut 2\ncut 3\npropose 1 b\nquietly")
        #expect(scenario[1].core.commitIndex == commit + 1, "committed without the old majority")
        try scenario.play("heal\ntick 1\nquietly\nchange 1 leave\nquietly")
        #expect(scenario[1].core.confState == ConfState(voters: [1, 4, 5]))
    }

    @Test func p13_aReadIsConfirmedByBothMajorities() throws {
        var scenario = try cluster("voters=1,2,3 join=4,5")
        try scenario.play("change 1 learner=4\nquietly\nchange 1 learner=5\nquietly\ntick 1\nquietly")
        try scenario.play("change 1 explicit voter=4 voter=5 remove=2 remove=3\nquietly\ntick 1\nquietly")
        for (context, absent) in [(7, "cut 2\ncut 3"), (8, "cut 4\ncut 5")] {
            let trace = try scenario.play("\(absent)\nread 1 \(context)\nsettle")
            #expect(!trace.contains("read \(context)"))
            #expect(try scenario.play("heal\ntick 1\nsettle").contains("1: read \(context) at"))
        }
    }

    @Test func p13_removedLeaderStepsDownAndTheRestCanElect() throws {
        // The liveness trap of changes in force at apply: the removal's commit message is lost, and
        // the removed leader has more entries than anybody, so nobody gets its vote.
        var scenario = try cluster("voters=1,2 election=10")
        try scenario.play("change 1 remove=1\nready 1\npersist 1\nsettle 2")
        try scenario.play("propose 1 x y z\ndeliver 1\nready 1\npersist 1\nready 1\ndrop 2")
        #expect(scenario[1].core.role == .follower)
        #expect(scenario[1].core.lastIndex > scenario[2].core.lastIndex)
        try scenario.play("tick 2 20\nquietly\ntick 2 20\nquietly")
        #expect(scenario[2].core.role == .leader)
    }

    @Test func p14_learnerAnswersVotesAndNeverCampaigns() throws {
        var scenario = try cluster("voters=1,2,3 learners=4")
        try scenario.play("tick 4 100\ncampaign 4")
        #expect(scenario[4].core.role == .follower)
        #expect(try scenario.play("ready 4") == "ok")
        try scenario.play("inject 3->4 term=3 prevote")
        #expect(try scenario.play("ready 4").contains("PreVote granted"))
    }

    @Test func p14_promotionNeedsACaughtUpLearner() throws {
        var scenario = try cluster("voters=1,2,3 learners=4")
        let payloads = (0..<98).map { "p\($0)" }.joined(separator: " ")
        try scenario.play("cut 4\npropose 1 \(payloads)\nquietly")
        #expect(try scenario.play("change 1 voter=4").contains("learnerBehind(4)"))
        // 90 % of the leader's 100 entries are enough.
        #expect(scenario[1].core.lastIndex == 100)
        scenario.with(1) {
            try? $0.step(
                Message(from: 4, to: 1, term: 2, body: .appendResponse(.accepted(match: 89))))
        }
        #expect(try scenario.play("change 1 voter=4").contains("learnerBehind(4)"))
        scenario.with(1) {
            try? $0.step(
                Message(from: 4, to: 1, term: 2, body: .appendResponse(.accepted(match: 90))))
        }
        #expect(try scenario.play("change 1 voter=4") == "at 101")
    }

    @Test func p15_removedMemberDisturbsNobody() throws {
        var scenario = try cluster("voters=1,2,3,4")
        try scenario.play("cut 4\nchange 1 remove=4\nquietly\nheal")
        for _ in 0..<10 { try scenario.play("tick 4 30\nquietly\ntick 1\nquietly") }
        #expect(scenario[1].core.role == .leader)
        #expect(scenario[1].core.term == 2)
        // One that knows of its removal does not even ask, before and after a restart.
        scenario = try cluster("voters=1,2,3,4 election=5")
        try scenario.play("change 1 remove=4\nready 1\npersist 1\nsettle 2,3,4\ndeliver 1\nready 1\nquietly")
        #expect(!scenario[4].core.isMember)
        for body in ["newerterm", "timeoutnow"] {
            try scenario.play("inject 4->1 term=50 \(body)")
        }
        scenario.with(1) {
            for body in [
                Message.Body.voteResponse(
                    .init(isPreVote: false, isGranted: false, known: .init(index: 0, term: 0))),
                .appendResponse(.accepted(match: 1)), .heartbeatResponse(round: 1),
                .readRequest(id: 1), .readResponse(id: 1, index: 1),
            ] { try? $0.step(Message(from: 4, to: 1, term: 50, body: body)) }
        }
        #expect(scenario[1].core.role == .leader && scenario[1].core.term == 2, "its term counts no more")
        try scenario.play("tick 4 100\ncampaign 4")
        #expect(scenario[4].core.role == .follower)
        try scenario.play("compact 4\ncrash 4\nrestart 4")
        #expect(!scenario[4].core.isMember)
    }

    @Test func p16_snapshotBringsItsMembershipAndOldOnesAreIgnored() throws {
        var scenario = try cluster("voters=1,2,3 join=4")
        try scenario.play("propose 1 a b c\nquietly\nchange 1 learner=4\nready 1\nquietly\ntick 1\nquietly")
        #expect(scenario[4].core.confState == ConfState(voters: [1, 2, 3], learners: [4]))
        #expect(scenario[4].core.appliedIndex == scenario[4].core.commitIndex)
        #expect(scenario[4].disk.hardState.commit == scenario[4].disk.snapshotIndex)
        // An older one changes nothing and is answered by what is committed.
        let commit = scenario[4].core.commitIndex
        scenario.with(4) {
            try? $0.step(
                Message(
                    from: 1, to: 4, term: 2,
                    body: .snapshot(
                        .init(index: 3, term: 2, confState: ConfState(voters: [4])))))
        }
        let answer = try scenario.play("ready 4")
        #expect(answer == "send 4->1 term=2 Accepted match=\(commit)")
    }

    @Test func p16_noSecondSnapshotWhileOneIsUnderWay() throws {
        var scenario = try cluster("voters=1,2,3 retain=0 checkquorum=off election=5")
        try scenario.play("cut 3\npropose 1 a b c\nquietly\ncompact 1\nheal\ntick 1\nready 1")
        try scenario.play("deliver 3\nready 3\ndeliver 1\nready 1\ndeliver 3\nready 3\ndeliver 1\nready 1")
        func snapshots() -> Int {
            scenario.inbox(3).count { if case .snapshot = $0.body { true } else { false } }
        }
        #expect(snapshots() == 1)
        // Late answers from before: what they ask for is gone from the log as well.
        for body in [
            Message.Body.appendResponse(.accepted(match: 2)), .heartbeatResponse(round: 1),
            .appendResponse(.rejected(previous: 5, hintIndex: 2, hintTerm: 2)),
        ] {
            scenario.with(1) { try? $0.step(Message(from: 3, to: 1, term: 2, body: body)) }
            try scenario.play("ready 1\ntick 1\nready 1")
            #expect(snapshots() == 1, "after \(trace(body))")
        }
    }

    /// etcd issue 18055.
    @Test func p16_twoSnapshotsCloseTogether() throws {
        // The second arrives while the first is being installed, and completions come in any order.
        var scenario = Scenario()
        try scenario.play("cluster voters=1,2")
        let conf = ConfState(voters: [1, 2])
        var core = scenario[2].core
        for index in [UInt64(10), 20] {
            try core.step(
                Message(
                    from: 1, to: 2, term: 2,
                    body: .snapshot(.init(index: index, term: 2, confState: conf))))
        }
        let batch = try #require(core.takeReady().persist)
        #expect(batch.snapshot?.index == 10)
        #expect(core.takeReady().isEmpty)
        // Entries that follow are taken and acknowledged, but applied only once it is in place.
        try core.step(
            Message(
                from: 1, to: 2, term: 2,
                body: .append(
                    .init(
                        previousIndex: 10, previousTerm: 2, commit: 11,
                        entries: [Entry(index: 11, term: 2, data: [1])]))))
        let next = try #require(core.takeReady().persist)
        core.persisted(through: next.sequence)
        let ready = core.takeReady()
        #expect(ready.messages.last?.body == .appendResponse(.accepted(match: 11)))
        #expect(ready.committed.isEmpty)
        core.installed(snapshot: try #require(batch.snapshot))
        #expect(core.takeReady().committed.map(\.index) == [11])
    }

    @Test func p18_followerCommitsOnlyWhatTheMessageProves() throws {
        var scenario = Scenario()
        try scenario.play(
            """
            cluster voters=1,2,3
            inject 1->2 term=2 append prev=1@1 commit=1 2@2=a 3@2=old
            inject 3->2 term=3 append prev=1@1 commit=9 2@2=a
            """)
        // 3 leads with commit 9, but entry 3 here may not be its own.
        #expect(scenario[2].core.commitIndex == 2)
        // The leader never tells a heartbeat's receiver more than it is known to hold.
        scenario = try cluster()
        try scenario.play("cut 3\npropose 1 a\nquietly\nheal\ntick 1\nready 1")
        let told = scenario.inbox(3).map(\.body)
        #expect(told.contains(.heartbeat(commit: 2, round: 1)))
        #expect(scenario[1].core.commitIndex == 3)
    }

    @Test func p18_anOldAppendProvesOnlyWhatIsCommitted() throws {
        // 2 has committed up to 3, and holds a tail of an earlier leader. An append that starts below
        // is not compared entry by entry, so it proves nothing beyond.
        var scenario = Scenario()
        let trace = try scenario.play(
            """
            cluster voters=1,2,3
            inject 1->2 term=2 append prev=1@1 commit=3 2@2=a 3@2=b 4@2=old
            ready 2
            persist 2
            ready 2
            inject 3->2 term=3 append prev=2@2 commit=3 3@2=b 4@3=new
            ready 2
            persist 2
            ready 2
            """)
        #expect(trace.hasSuffix("send 2->3 term=3 Accepted match=3"))
        #expect(scenario[2].core.commitIndex == 3)
    }

    @Test func p19_proposalsAreNeverForwarded() throws {
        // So the core never repeats one; the follower says whom to ask.
        var scenario = try cluster()
        #expect(try scenario.play("propose 2 a") == "error: notLeader(leader: Optional(1))")
        #expect(scenario.inbox(1).isEmpty)
    }

    @Test func p20_refusedProposalsSayWhy() throws {
        var scenario = try cluster("voters=1,2,3 uncommitted=4")
        scenario.with(1) { core in
            #expect(throws: ProposalError.emptyPayload) { try core.propose([[1], []]) }
            let huge = [UInt8](repeating: 0, count: core.configuration.maxEntryBytes + 1)
            #expect(throws: ProposalError.payloadTooLarge(bytes: huge.count)) {
                try core.propose([[1], huge])
            }
            #expect(core.lastIndex == 2, "a refused batch left something behind")
        }
        #expect(try scenario.play("propose 1 abc\npropose 1 de") == "3..<4\nerror: uncommittedFull")
        try scenario.play("quietly")
        #expect(scenario[1].core.uncommittedBytes == 0)
        #expect(try scenario.play("propose 1 de") == "4..<5")
    }

    @Test func p21_rejectionSkipsATermAndHeartbeatsEndAProbe() throws {
        // term_skip.txt shows the trace. Here the number of refusals is counted against long logs.
        var scenario = try cluster("voters=1,2,3 prevote=off checkquorum=off")
        let payloads = (0..<200).map { "p\($0)" }.joined(separator: " ")
        try scenario.play("cut 3\npropose 1 \(payloads)\nquietly\ncrash 1\nheal\ncut 1")
        try scenario.play("campaign 2\nready 2\npersist 2\nready 2\nsettle 3\ndeliver 2")
        let answer = try scenario.play("settle 2,3")
        #expect(scenario[3].core.lastIndex == 203)
        #expect(answer.components("Rejected") == 1)
        // A lost probe is repeated once a heartbeat is answered.
        try scenario.play("campaign 3\nready 3\npersist 3\nready 3\nsettle 2\ndeliver 3\nready 3\ndrop 2")
        #expect(scenario[3].core.progress.first { $0.id == 2 }?.isPaused == true)
        try scenario.play("tick 3\nquietly")
        #expect(scenario[2].core.lastIndex == 204)
    }

    @Test func p21_aMemberBelowTheLogGetsItsSnapshotAfterOneRefusal() throws {
        // A new leader begins at its own end. The refusal names an index that is gone, so there is no
        // use in asking at the log's beginning first.
        var scenario = try cluster("voters=1,2,3 retain=1 checkquorum=off")
        try scenario.play("cut 3\npropose 1 a b c d e f\nquietly\ncompact 2\ntransfer 1 2\nsettle 1,2\nheal")
        #expect(scenario[2].core.role == .leader)
        let trace = try scenario.play("tick 2\nsettle")
        #expect(trace.components("3: send 3->2 term=3 Rejected") == 1)
        #expect(scenario[3].machine == scenario[2].machine)
    }

    @Test func p22_electionTimeoutIsDrawnAnewForEachTerm() throws {
        // Silent members campaign after electionTicks ..< 2 electionTicks, at times that differ.
        var times: Set<Int> = []
        for seed in UInt64(0)..<40 {
            var configuration = RaftConfiguration(id: 1)
            configuration.preVote = false
            var core = try RaftCore(
                configuration: configuration, hardState: .founding,
                confState: ConfState(voters: [1, 2, 3]), log: .founding, appliedIndex: 1,
                randomSeed: seed)
            for term in 2...4 as ClosedRange<UInt64> {
                var ticks = 0
                while core.term < term {
                    core.tick()
                    ticks += 1
                }
                #expect((10..<20).contains(ticks))
                times.insert(ticks)
            }
        }
        #expect(times.count == 10)
    }

    @Test func p24_committedEntriesAreNeverReplacedAndGapsNeverFilled() throws {
        var scenario = try cluster()
        try scenario.play("propose 1 a\nquietly\ntick 1\nquietly")
        let conflict = try scenario.play("inject 3->2 term=9 append prev=2@2 commit=3 3@8=evil")
        #expect(conflict.contains("conflictBelowCommit(index: 3, commit: 3)"))
        #expect(scenario[2].core.log.term(at: 3) == 2)
        let gap = try scenario.play("inject 3->2 term=9 append prev=3@2 commit=3 5@9=gap")
        #expect(gap.contains("malformed"))
        try scenario.play("inject 3->2 term=9 append prev=7@9 commit=3 8@9=far\nready 2\npersist 2")
        #expect(scenario[2].core.lastIndex == 3)
        #expect(try scenario.play("ready 2").contains("Rejected prev=7 hint=3@2"))
        let lost = try scenario.play("inject 3->2 term=9 heartbeat=50")
        #expect(lost.contains("commitBeyondLog(commit: 50, lastIndex: 3)"))
    }
}

extension String {
    /// How often `part` occurs.
    fileprivate func components(_ part: String) -> Int {
        split(separator: part, omittingEmptySubsequences: false).count - 1
    }
}
