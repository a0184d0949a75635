// Who asks for what is applied to be in the backend gets it with the next commit, and is answered when that is done.

import RaftCore
import StateMachine
import Testing

@testable import Replica

@Suite struct BackendCommitTests {
    private func asked(_ cluster: Cluster) throws -> Asked {
        let asked = Asked()
        try cluster.give(.commitToBackend(asked), to: 1)
        return asked
    }

    private func isCommitted(_ asked: Asked) -> Bool {
        if case .committedToBackend? = asked.answers.first, asked.answers.count == 1 { return true }
        return false
    }

    @Test func theCommitDoesNotWaitForItsTime() throws {
        let cluster = Cluster(1)
        cluster.configure = { $0.replica.backendIntervalMilliseconds = 3_600_000 }
        try cluster.startAll()
        try cluster.elect(1)
        try cluster.put("a", by: 1)
        try cluster.pass(ticks: 1)
        let replica = try cluster.replica(1)
        #expect(replica.pendingBytes > 0)
        let first = try asked(cluster)
        #expect(first.answers.isEmpty)
        #expect(replica.nextWake <= cluster.now)
        replica.tick(now: cluster.now)
        try cluster.settle()
        #expect(isCommitted(first))
        #expect(replica.pendingBytes == 0)
        // Nothing to commit: an answer all the same.
        let second = try asked(cluster)
        replica.tick(now: cluster.now)
        try cluster.settle()
        #expect(isCommitted(second))
        #expect(replica.nextWake > cluster.now)
    }

    @Test func whoAsksDuringACommitWaitsForTheNext() throws {
        let cluster = Cluster(1)
        cluster.configure = { $0.replica.backendIntervalMilliseconds = 3_600_000 }
        try cluster.startAll()
        try cluster.elect(1)
        try cluster.put("a", by: 1)
        let replica = try cluster.replica(1)
        _ = try asked(cluster)
        replica.tick(now: cluster.now)
        // Frozen and not yet committed.
        let effects = replica.takeEffects(now: cluster.now)
        let pending = try #require(effects.commit)
        let late = Asked()
        replica.handle(.commitToBackend(late), now: cluster.now)
        replica.tick(now: cluster.now)
        #expect(replica.takeEffects(now: cluster.now).commit == nil)
        replica.handle(.backendCommitted(pending), now: cluster.now)
        let answers = replica.takeEffects(now: cluster.now).answers
        #expect(answers.count == 1 && !answers.contains { $0.waiter === late })
        replica.tick(now: cluster.now)
        let last = replica.takeEffects(now: cluster.now).answers
        #expect(last.contains { $0.waiter === late })
    }

    @Test func aReplicaThatStopsRefuses() throws {
        let cluster = Cluster(1)
        try cluster.startAll()
        try cluster.elect(1)
        let replica = try cluster.replica(1)
        let waiting = Asked()
        replica.handle(.commitToBackend(waiting), now: cluster.now)
        replica.refuseAll(.stopped)
        for pending in replica.takeEffects(now: cluster.now).answers { pending.waiter.replicaAnswered(pending.answer) }
        #expect(waiting.refusal == .stopped)
    }
}
