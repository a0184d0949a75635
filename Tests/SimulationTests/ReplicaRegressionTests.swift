// Bugs of the replica that the simulator found, each as the few inputs that show it.

import RaftCore
import StateMachine
import Testing

@testable import Replica
@testable import Simulation

/// One replica of a founding member, without a cluster around it.
private struct Bench {
    let simulation = Simulation(seed: 1, operations: 0, isTraced: false)
    let replica: Replica
    var now: UInt64 = 1_000_000_000_000

    /// Member `id` of the founders 1, 2 and 3.
    init(member id: NodeID) throws {
        let founders = (1...3).map { Simulation.describe($0) }
        let member = SimulatedMember(id: id, founders: founders)
        simulation.start(member)
        replica = try #require(member.process?.replica)
    }

    /// Feeds an input and takes everything that follows, saying that each batch is durable.
    mutating func feed(_ input: ReplicaInput) -> [Effects] {
        replica.handle(input, now: now)
        var all: [Effects] = []
        while replica.hasEffects {
            let effects = replica.takeEffects(now: now)
            all.append(effects)
            if let batch = effects.persist { replica.handle(.persisted(sequence: batch.sequence), now: now) }
        }
        return all
    }

    mutating func feed(_ body: Message.Body, from sender: NodeID, term: Term) -> [Effects] {
        feed(.received(.raft(Message(from: sender, to: replica.raft.id, term: term, body: body))))
    }
}

@Suite struct ReplicaRegressionTests {
    /// A member that led, crashed and came back in the same term may have taken the request before. A refusal
    /// would make its sender propose the command a second time.
    @Test func requestsOfTermsBeforeTheRestartAreNotRefused() throws {
        var bench = try Bench(member: 1)
        func request(_ term: Term, _ number: UInt64) -> ReplicaInput {
            let tag = EntryTag(run: 9, number: number)
            let command = Command.tagged(Command.leaseRevoke(id: 1), tag: tag.bytes)
            return .received(
                .request(PeerRequest(from: 2, to: 1, term: term, run: 9, number: number, body: .propose([command]))))
        }
        #expect(bench.replica.term == 1)
        #expect(bench.feed(request(1, 1)).flatMap(\.messages).isEmpty)

        // In a later term it is certain that this member took nothing, and it says so.
        _ = bench.feed(.heartbeat(commit: 1, round: 1), from: 3, term: 5)
        let answers = bench.feed(request(5, 2)).flatMap(\.messages)
        guard case .reply(let reply)? = answers.first else {
            Issue.record("no answer: \(answers)")
            return
        }
        #expect(reply.body == .refused(.leaderChanged) && reply.number == 2)
    }

    /// The second copy of a snapshot is of no use, but its file is the one being installed.
    @Test func aSnapshotThatArrivesTwiceKeepsItsFile() throws {
        var bench = try Bench(member: 1)
        let snapshot = SnapshotMetadata(index: 50, term: 4, confState: ConfState(voters: [1, 2, 3]))
        let message = Message(from: 2, to: 1, term: 5, body: .snapshot(snapshot))
        let first = bench.feed(.snapshotArrived(message))
        #expect(first.contains { $0.install == snapshot })
        #expect(bench.feed(.snapshotArrived(message)).allSatisfy { $0.unusedSnapshot == nil })
        let older = SnapshotMetadata(index: 40, term: 4, confState: ConfState(voters: [1, 2, 3]))
        let late = Message(from: 2, to: 1, term: 5, body: .snapshot(older))
        #expect(bench.feed(.snapshotArrived(late)).contains { $0.unusedSnapshot == older })
    }

    /// What is applied and not committed to the backend is about to be replaced; waking up for its commit again
    /// and again would keep the thread spinning until the snapshot is loaded.
    @Test func nothingIsDueWhileASnapshotIsInstalled() throws {
        var bench = try Bench(member: 1)
        let entry = Entry(index: 2, term: 2, data: Command.leaseGrant(id: 7, ttlSeconds: 60))
        let append = Message.AppendRequest(previousIndex: 1, previousTerm: 1, commit: 2, entries: [entry])
        let applied = bench.feed(.append(append), from: 2, term: 2)
        #expect(applied.flatMap(\.applied).count == 1)
        let snapshot = SnapshotMetadata(index: 50, term: 2, confState: ConfState(voters: [1, 2, 3]))
        _ = bench.feed(.snapshotArrived(Message(from: 2, to: 1, term: 2, body: .snapshot(snapshot))))
        bench.now += 10 * second
        bench.replica.tick(now: bench.now)
        #expect(bench.replica.nextWake > bench.now)
    }

    /// Leaving through a joint configuration takes the old majority as well, which may need the vote of the
    /// member that leaves.
    @Test(arguments: [NodeID(1), NodeID(2)])
    func aLeavingMemberBelongsUntilTheJointConfigurationIsLeft(observer: NodeID) throws {
        var bench = try Bench(member: observer)
        let list = ChangeList([.add(Simulation.describe(4)), .remove(1)])
        let tag = EntryTag(run: 5, number: 1)
        let change = ConfigChange(list.steps, context: tag.bytes + (try #require(list.encoded)))
        func apply(_ index: LogIndex, _ change: ConfigChange) -> [Effects] {
            let entry = Entry(index: index, term: 2, kind: .configChange, data: change.encoded())
            let request = Message.AppendRequest(
                previousIndex: index - 1, previousTerm: index == 2 ? 1 : 2, commit: index, entries: [entry])
            return bench.feed(.append(request), from: 3, term: 2)
        }
        let joint = apply(2, change)
        #expect(bench.replica.raft.confState.isJoint)
        #expect(bench.replica.machine.removedMembers == [1])
        #expect(joint.allSatisfy { $0.removedPeers.isEmpty })
        #expect(!bench.replica.hasLeft)

        let left = apply(3, .leaveJoint)
        #expect(!bench.replica.raft.confState.isJoint)
        #expect(left.contains { $0.removedPeers == [1] })
        #expect(bench.replica.hasLeft == (observer == 1))
    }
}
