// Snapshots out and in, and recovery: what must not be answered wrongly and what must not stop a member.

import RaftCore
import StateMachine
import Testing

@testable import Replica
@testable import Simulation

@Suite struct SnapshotTests {
    /// A cluster whose member 3 lags so far that it needs a snapshot.
    private func lagging(_ body: (Cluster) throws -> Void) throws -> Cluster {
        let cluster = Cluster()
        cluster.configure = { options in
            options.raft.maxRetainedEntries = 2
            options.raft.maxCatchUpEntries = 2
            options.replica.backendIntervalMilliseconds = 50
        }
        try cluster.startAll()
        try cluster.elect(1)
        try body(cluster)
        return cluster
    }

    @Test func aChangeWithinASnapshotIsNotMadeAgain() throws {
        let asked = Asked()
        let added = Member(id: 9, name: "", peerURLs: ["http://m9"], clientURLs: [], isLearner: true)
        let cluster = try lagging { cluster in
            // Member 3 asks, and hears nothing more.
            cluster.passes = { $0.to != 3 }
            try cluster.give(.changeMembership([.add(added)], asked), to: 3)
            for number in 0..<20 { try cluster.put("k\(number)", by: 1) }
            try cluster.pass(ticks: 3)
            #expect(try cluster.replica(1).machine.members.contains { $0.id == 9 })
        }
        #expect(asked.answers.isEmpty)
        cluster.passes = { _ in true }
        try cluster.pass(ticks: 3)
        try cluster.sendSnapshots()
        try cluster.pass(ticks: 3)
        #expect(try cluster.replica(3).figures.snapshotsInstalled == 1)
        // Nobody can tell member 3 what became of its request; it must not claim a refusal.
        #expect(asked.refusal == .timedOutByLeaderFailure)
        try cluster.elect(2)
        try cluster.pass(ticks: 3)
        #expect(asked.answers.count == 1)
    }

    /// A snapshot's message without its data must not take the member down.
    @Test func aSnapshotMessageWithoutDataIsRefused() throws {
        let cluster = Cluster()
        try cluster.startAll()
        try cluster.elect(1)
        let metadata = SnapshotMetadata(index: 900, term: 1, confState: ConfState(voters: [1, 2, 3]))
        try cluster.give(
            .received(.raft(Message(from: 1, to: 2, term: 50, body: .snapshot(metadata)))), to: 2)
        #expect(try cluster.replica(2).raft.snapshotBeingInstalled == nil)
        try cluster.pass(ticks: 3)
        #expect(try cluster.put("a", by: 1).wasApplied)
        #expect(try cluster.version(of: "a", at: 2) == 1)
    }

    @Test func theSameSnapshotTwiceAndALaterOneMeanwhile() throws {
        let cluster = try lagging { cluster in
            cluster.passes = { $0.to != 3 }
            for number in 0..<20 { try cluster.put("k\(number)", by: 1) }
        }
        cluster.passes = { _ in true }
        try cluster.pass(ticks: 3)
        try cluster.sendSnapshots()
        try cluster.sendSnapshots()
        try cluster.pass(ticks: 3)
        #expect(try cluster.put("last", by: 3).wasApplied)
        #expect(try cluster.version(of: "k0", at: 3) == 1)
    }

    /// A transfer that fails is repeated after waits that double up to a bound, and after a success they
    /// begin anew.
    @Test func failedTransfersAreRepeatedAfterGrowingWaits() throws {
        let cluster = Cluster()
        cluster.configure = { options in
            options.raft.maxRetainedEntries = 2
            options.raft.maxCatchUpEntries = 2
            options.replica.backendIntervalMilliseconds = 50
            options.replica.snapshotRetryMinimumMilliseconds = 200
            options.replica.snapshotRetryMaximumMilliseconds = 1000
        }
        try cluster.startAll()
        try cluster.elect(1)
        /// Ticks from a failure to the next attempt, for each of `count` failures.
        func waits(_ count: Int) throws -> [Int] {
            cluster.passes = { $0.to != 3 }
            for number in 0..<20 { try cluster.put("k\(number)", by: 1) }
            cluster.passes = { _ in true }
            try cluster.pass(ticks: 3)
            var waits: [Int] = []
            for _ in 0..<count {
                #expect(try cluster.failSnapshots() == 1)
                var ticks = 0
                while cluster.snapshots.isEmpty, ticks < 100 {
                    try cluster.pass(ticks: 1)
                    ticks += 1
                    // The others are served meanwhile.
                    #expect(try cluster.put("other", by: 2).wasApplied)
                }
                waits.append(ticks)
            }
            return waits
        }
        #expect(try waits(6) == [2, 4, 8, 10, 10, 10])
        try cluster.sendSnapshots()
        try cluster.pass(ticks: 3)
        #expect(try cluster.version(of: "k0", at: 3) == 1)
        #expect(try waits(2) == [2, 4])
        // A new leader owes nothing to the old one's failures.
        _ = try cluster.failSnapshots()
        try cluster.elect(2)
        try cluster.pass(ticks: 2)
        #expect(cluster.snapshots.map(\.from) == [2])
        try cluster.sendSnapshots()
        try cluster.pass(ticks: 3)
        #expect(try cluster.version(of: "k0", at: 3) == 2)
    }

    /// A transfer is slow on purpose, until the log would outrun it, by entries or by bytes.
    @Test(arguments: [(entries: 20, bytes: 1 << 20), (entries: 1000, bytes: 200)])
    func aTransferHurriesWhenTheLogWouldOutrunIt(entries: Int, bytes: Int) throws {
        let cluster = Cluster()
        cluster.configure = { options in
            options.raft.maxRetainedEntries = 2
            options.raft.maxCatchUpEntries = entries
            options.raft.maxRetainedBytes = bytes
            options.raft.maxInflightBytes = min(bytes - 1, options.raft.maxInflightBytes)
            options.replica.backendIntervalMilliseconds = 50
        }
        try cluster.startAll()
        try cluster.elect(1)
        cluster.passes = { $0.to != 3 }
        for number in 0..<60 { try cluster.put("k\(number)", by: 1) }
        cluster.passes = { _ in true }
        try cluster.pass(ticks: 15)
        #expect(cluster.snapshots.map(\.request.to) == [3])
        #expect(cluster.hurried == [])
        // Nine entries of about twelve bytes.
        for number in 0..<8 { try cluster.put("a\(number)", by: 1) }
        try cluster.pass(ticks: 2)
        #expect(cluster.hurried == [])
        for number in 0..<12 { try cluster.put("a\(number)", by: 1) }
        try cluster.pass(ticks: 5)
        #expect(cluster.hurried == [3])
        try cluster.sendSnapshots()
        try cluster.pass(ticks: 3)
        #expect(try cluster.version(of: "a0", at: 3) == 2)
        #expect(cluster.hurried == [3])
    }

    @Test func retriesAreKeptForEachMember() {
        var retries = SnapshotRetries()
        for _ in 0..<100 { retries.failed(7, now: 1000, first: 10, longest: 500) }
        retries.failed(8, now: 1000, first: 10, longest: 500)
        #expect(retries.takeDue(now: 1009) == [])
        #expect(retries.takeDue(now: 1010) == [8])
        #expect(retries.takeDue(now: 1499) == [])
        #expect(retries.takeDue(now: 1500) == [7])
        #expect(retries.takeDue(now: .max) == [])
        retries.failed(8, now: 2000, first: 10, longest: 500)
        #expect(retries.takeDue(now: 2019) == [])
        retries.succeeded(8)
        #expect(retries.takeDue(now: .max) == [])
        retries.failed(7, now: 0, first: 10, longest: 500)
        retries.keep([8])
        #expect(retries.takeDue(now: .max) == [])
    }

    /// Without its backend a member knows no membership. To found a cluster of its own instead would
    /// make it a second leader beside the others.
    @Test func aMemberWithoutBackendDoesNotFoundAnew() throws {
        let cluster = Cluster()
        try cluster.startAll()
        try cluster.elect(1)
        #expect(try cluster.put("a", by: 1).wasApplied)
        cluster.crash(2)
        cluster.members[2]?.member.backend.state = BackendState()
        cluster.configure = { $0.beginning = .found([]) }
        #expect(throws: RecoveryError.self) { try cluster.start(2) }
    }
}
