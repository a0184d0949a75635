// A command that a member sends to the leader becomes one entry, whatever is lost, repeated or restarted.

import RaftCore
import StateMachine
import Testing

@testable import Replica

@Suite struct ForwardingTests {
    private func request(_ message: PeerMessage) -> PeerRequest? {
        if case .request(let request) = message { return request }
        return nil
    }

    @Test func aForwardedPutIsAppliedOnceAndAnswered() throws {
        let cluster = Cluster()
        try cluster.startAll()
        try cluster.elect(1)
        let asked = try cluster.put("a", by: 2)
        #expect(asked.wasApplied)
        for id in cluster.ids { #expect(try cluster.version(of: "a", at: id) == 1) }
    }

    /// Its removal is committed before it has answered; the leader's last message tells it, and so it can tell its
    /// client, at once.
    @Test func aMemberThatIsRemovedByItsOwnRequestAnswersIt() throws {
        let cluster = Cluster(4)
        try cluster.startAll()
        try cluster.elect(1)
        cluster.passes = { message in
            if case .raft = message { return message.from != 4 }
            return true
        }
        let asked = Asked()
        try cluster.give(.changeMembership([.remove(4)], asked), to: 4)
        guard case .membershipChanged(let members)? = asked.answers.first else {
            Issue.record("\(asked.answers)")
            return
        }
        #expect(members.map(\.id) == [1, 2, 3])
    }

    /// The leader took the command, died before anybody heard of it, and came back with a memory of
    /// nothing. A second copy of the request must not make it say that it never took the first.
    @Test func aRestartedLeaderDoesNotDenyWhatItTook() throws {
        let cluster = Cluster()
        try cluster.startAll()
        try cluster.elect(1)
        // The entry reaches member 3; that it did, nobody learns.
        cluster.passes = { message in
            if case .raft(let raft) = message, case .append = raft.body { return message.to == 3 }
            return message.to == 1 && message.from == 2
        }
        let asked = try cluster.put("a", by: 2)
        let request = try #require(cluster.sent.last(where: { self.request($0) != nil }))
        #expect(asked.answers.isEmpty)
        cluster.crash(1)
        try cluster.start(1)
        cluster.passes = { _ in true }
        try cluster.give(.received(request), to: 1)
        #expect(asked.answers.isEmpty)
        try cluster.pass(ticks: 10, for: [1, 2])
        try cluster.elect(3)
        try cluster.pass(ticks: 3)
        #expect(asked.wasApplied)
        for id in cluster.ids { #expect(try cluster.version(of: "a", at: id) == 1) }
    }

    /// The same when the leader forgot because it has heard of too many runs since.
    @Test func aLeaderThatForgotARunDoesNotDenyWhatItTook() throws {
        let cluster = Cluster()
        cluster.configure = { $0.replica.maxKnownRuns = 2 }
        try cluster.startAll()
        try cluster.elect(1)
        try cluster.put("z", by: 3)
        cluster.passes = { message in
            if case .raft(let raft) = message, case .append = raft.body { return message.to == 3 }
            return message.to == 1 && message.from == 2
        }
        let asked = try cluster.put("a", by: 2)
        let request = try #require(cluster.sent.last(where: { self.request($0) != nil }))
        // Member 1 leads again in a later term, and takes a command of a third run.
        cluster.passes = { $0.to != 2 }
        try cluster.elect(3)
        try cluster.elect(1)
        cluster.crash(3)
        try cluster.start(3)
        try cluster.pass(ticks: 2, for: [1, 3])
        try cluster.put("c", by: 3)
        cluster.passes = { $0.to != 2 || self.isReply($0) }
        try cluster.give(.received(request), to: 1)
        cluster.passes = { _ in true }
        try cluster.pass(ticks: 3)
        #expect(asked.wasApplied)
        for id in cluster.ids { #expect(try cluster.version(of: "a", at: id) == 1) }
    }

    private func isReply(_ message: PeerMessage) -> Bool {
        if case .reply = message { return true }
        return false
    }

    /// A leader that hands over refuses what is forwarded. Its followers must wait for the end of that, not
    /// ask again as fast as the network carries it.
    @Test func refusedCommandsWaitForATick() throws {
        let cluster = Cluster()
        try cluster.startAll()
        try cluster.elect(1)
        let handOver = Asked()
        cluster.passes = { message in
            if case .raft(let raft) = message, case .timeoutNow = raft.body { return false }
            return true
        }
        try cluster.give(.transferLeadership(to: 3, handOver), to: 1)
        let before = cluster.sent.count { request($0) != nil }
        let asked = try cluster.put("a", by: 2)
        try cluster.pass(ticks: 5)
        let requests = cluster.sent.count { request($0) != nil } - before
        #expect((1...7).contains(requests))
        cluster.passes = { _ in true }
        try cluster.pass(ticks: 12)
        #expect(asked.wasApplied)
        #expect(try cluster.version(of: "a", at: 1) == 1)
    }

    /// A reply names a range of numbers; one without end must cost nothing.
    @Test func aReplyForEveryNumberThereIsCostsNothing() throws {
        let cluster = Cluster()
        try cluster.startAll()
        try cluster.elect(1)
        for number in 0..<10 { try cluster.put("k\(number)", by: 2) }
        let run = try cluster.replica(2).run
        try cluster.give(
            .received(
                .reply(
                    PeerReply(
                        from: 1, to: 2, run: run, number: 0, count: .max, body: .refused(.leaderChanged)))),
            to: 2)
        #expect(try cluster.put("last", by: 2).wasApplied)
    }

    /// What a leader decided from its own clock is void once another leads: a lease that expired while
    /// leadership was handed over may have been renewed there.
    @Test func aRevocationIsNotForwardedToTheNextLeader() throws {
        let cluster = Cluster()
        try cluster.startAll()
        try cluster.elect(1)
        #expect(try cluster.propose(Command.leaseGrant(id: 7, ttlSeconds: 2), by: 1).wasApplied)
        try cluster.pass(ticks: 18)
        cluster.passes = { message in
            if case .raft(let raft) = message, case .timeoutNow = raft.body { return false }
            return true
        }
        let handOver = Asked()
        try cluster.give(.transferLeadership(to: 3, handOver), to: 1)
        // The lease expires while proposals are refused.
        try cluster.pass(ticks: 5)
        cluster.passes = { _ in true }
        let late = try #require(
            cluster.sent.last { message in
                if case .raft(let raft) = message, case .timeoutNow = raft.body { return true }
                return false
            })
        try cluster.give(.received(late), to: 3)
        #expect(try cluster.replica(3).role == .leader)
        let renewal = Asked()
        try cluster.give(.leaseRenew(7, renewal), to: 3)
        guard case .leaseRenewed(2)? = renewal.answers.first else {
            Issue.record("renewal: \(renewal.answers)")
            return
        }
        try cluster.pass(ticks: 10)
        #expect(try cluster.replica(3).machine.leaseIDs() == [7])
        let forwarded = cluster.sent.filter { message in
            guard let request = request(message), case .propose(let entries) = request.body else { return false }
            return entries.contains { $0[1] == Command.Kind.leaseRevoke.rawValue }
        }
        #expect(forwarded.isEmpty)
    }
}
