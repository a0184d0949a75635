// Property: what a commit holds is the whole state, and a process that starts from it goes on as if
// nothing had happened. Method: scenarios over a backend in memory.

import KVCodec
import MVCC
import Testing

@testable import StateMachine

@Suite struct PersistenceTests {
    @Test func nothingToWriteMeansNoCommit() {
        let machine = Machine()
        #expect(machine.state.freeze() == nil)
        machine.apply([])
        let first = machine.state.freeze()
        #expect(first?.appliedIndex == 1)
        #expect(first?.records == nil)
        #expect(machine.state.freeze() == nil)
        machine.grant(1, ttl: 60)
        machine.alarm(.activate, .noSpace)
        machine.apply(Command.clusterVersion("3.6.0"))
        machine.apply(
            Command.memberUpdate(Member(id: 1, name: "m", peerURLs: [], clientURLs: [])))
        #expect(machine.state.freeze()?.changes.filter { $0.bucket != .meta }.count == 4)
        machine.apply([])
        #expect(machine.state.freeze()?.changes.allSatisfy { $0.bucket == .meta } == true)
        #expect(machine.state.freeze() == nil)
        machine.state.confState = [1, 2]
        #expect(
            machine.state.freeze()?.changes.contains {
                $0.key == bytes("confState") && $0.value == [1, 2]
            } == true)
        #expect(machine.state.freeze() == nil)
    }

    @Test func aCommitHoldsEachChangeOnceInOrder() throws {
        let machine = Machine()
        machine.grant(300, ttl: 60)
        machine.grant(2, ttl: 60)
        machine.grant(5, ttl: 60)
        machine.revoke(5)
        machine.apply(Command.leaseCheckpoint([(id: 2, remainingSeconds: 9)]))
        machine.alarm(.activate, .noSpace, member: 4)
        machine.alarm(.activate, .corrupt, member: 4)
        machine.alarm(.deactivate, .corrupt, member: 4)
        machine.apply(
            Command.memberUpdate(
                Member(id: 255, name: "m", peerURLs: [], clientURLs: ["http://a"])))
        machine.apply(Command.clusterVersion("3.6.0"))
        machine.alarm(.deactivate, .noSpace, member: 4)
        machine.put("a", "1")

        let commit = try #require(machine.state.freeze())
        #expect(commit.appliedIndex == 12)
        #expect(commit.appliedTerm == 1)
        let lines = commit.changes.map { change in
            let key =
                change.bucket == .lease || change.bucket == .alarm
                ? "\(change.key)" : text(change.key)
            return "\(change.bucket.rawValue) \(key) \(change.value.map { "\($0)" } ?? "deleted")"
        }
        let number = { (last: UInt8) in "\([0, 0, 0, 0, 0, 0, 0, last] as [UInt8])" }
        #expect(
            lines == [
                "alarm [8, 4, 16, 1] deleted",
                "alarm [8, 4, 16, 2] deleted",
                "cluster clusterVersion \(bytes("3.6.0"))",
                "lease \(number(2)) [8, 2, 16, 60, 24, 9]",
                "lease \(number(5)) deleted",
                "lease [0, 0, 0, 0, 0, 0, 1, 44] [8, 172, 2, 16, 60]",
                "members ff [8, 255, 1, 18, 1, 109, 34, 8, 104, 116, 116, 112, 58, 47, 47, 97]",
                "meta confState []",
                "meta consistent_index \(number(12))",
                "meta currentRevision \(number(2))",
                "meta term \(number(1))",
            ])
        var records = 0
        commit.records?.forEach { revision, isTombstone, _ in
            #expect(revision == Revision(main: 2, sub: 0))
            #expect(!isTombstone)
            records += 1
        }
        #expect(records == 1)
    }

    @Test func compactionRevisionsAreWritten() throws {
        let machine = Machine()
        for value in 1...5 { machine.put("a", "\(value)") }
        machine.compact(5)
        let scheduled = try #require(machine.state.freeze())
        machine.backend.write(scheduled)
        if let records = scheduled.records { machine.store.release(records) }
        #expect(scheduled.deletedRevisions.isEmpty)
        let revision = { (main: UInt8) in
            [0, 0, 0, 0, 0, 0, 0, main, UInt8(ascii: "_")] + [UInt8](repeating: 0, count: 8)
        }
        #expect(machine.backend.buckets[.meta]?[bytes("scheduledCompactRev")] == revision(5))
        #expect(machine.backend.buckets[.meta]?[bytes("finishedCompactRev")] == nil)

        while machine.state.compactionStep(maxKeys: 10) {}
        #expect(!machine.state.compactionStep(maxKeys: 10))
        let finished = try #require(machine.state.freeze())
        #expect(finished.deletedRevisions.map(\.main) == [2, 3, 4])
        machine.backend.write(finished)
        #expect(machine.backend.buckets[.meta]?[bytes("finishedCompactRev")] == revision(5))
        #expect(machine.backend.records.keys.map(\.main).sorted() == [5, 6])
        #expect(machine.state.freeze() == nil)
    }

    @Test func aCompactionGoesOnAfterARestart() throws {
        let machine = Machine()
        for value in 1...5 { machine.put("a", "\(value)") }
        machine.compact(5)
        let next = try machine.restarted()
        #expect(next.store.compactRevision == 5)
        #expect(next.compact(5).error == .compacted)
        while next.state.compactionStep(maxKeys: 10) {}
        next.commit()
        #expect(next.backend.records.keys.map(\.main).sorted() == [5, 6])
        let last = try next.restarted()
        #expect(!last.state.compactionStep(maxKeys: 10))
        #expect(try last.pairs() == "[a=5(c2 m6 v5)]")
    }

    @Test func theRevisionNeverGoesBack() throws {
        // etcd issue 17780: the newest records are tombstones and are compacted away.
        var machine = Machine()
        machine.put("a", "1")
        machine.put("b", "1")
        machine.delete("\0", "\0")
        machine.compact(4)
        while machine.state.compactionStep(maxKeys: 10) {}
        machine = try machine.restarted()
        #expect(machine.store.currentRevision == 4)
        #expect(machine.store.compactRevision == 4)
        #expect(machine.put("a", "2").revision == 5)
        #expect(try machine.pairs() == "[a=2(c5 m5 v1)]")
    }

    @Test func everythingComesBack() throws {
        var machine = Machine()
        machine.term = 3
        machine.state.confState = [9, 9, 9]
        machine.grant(5, ttl: 77)
        machine.put("a", "1", lease: 5)
        machine.put("b", "2")
        machine.alarm(.activate, .noSpace, member: .max)
        let member = Member(
            id: .max, name: "näme", peerURLs: ["http://p"], clientURLs: ["http://c", "http://d"],
            isLearner: true)
        machine.apply(Command.memberUpdate(member))
        machine.apply(Command.clusterVersion("3.7.1"))
        let hash = machine.state.stateHash()

        machine = try machine.restarted()
        #expect(machine.state.appliedIndex == 6)
        #expect(machine.state.appliedTerm == 3)
        #expect(machine.state.confState == [9, 9, 9])
        #expect(machine.state.alarms == [Alarm(member: .max, type: .noSpace)])
        #expect(machine.put("c", "1").error == .noSpace)
        #expect(machine.state.members == [member])
        #expect(machine.state.clusterVersion == "3.7.1")
        #expect(machine.keys(ofLease: 5) == ["a"])
        #expect(try machine.pairs() == "[a=1(c2 m2 v1 l5) b=2(c3 m3 v1)]")
        let again = try machine.restarted()
        #expect(again.state.appliedIndex == 8)
        #expect(hash != again.state.stateHash())
    }

    @Test func aFreshBackendGivesAFreshState() throws {
        let machine = try Machine(restoring: MemoryBackend())
        #expect(machine.state.appliedIndex == 0)
        #expect(machine.store.currentRevision == 1)
        #expect(machine.store.compactRevision == -1)
        #expect(machine.state.stateHash() == Machine().state.stateHash())
    }

    @Test(arguments: [
        (StateBucket.meta, "consistent_index", [1] as [UInt8]),
        (.meta, "term", []),
        (.meta, "currentRevision", [255, 0, 0, 0, 0, 0, 0, 0]),
        (.meta, "scheduledCompactRev", [0, 0, 0, 0, 0, 0, 0, 9]),
        (.meta, "finishedCompactRev", [UInt8](repeating: 255, count: 17)),
        (.lease, "12345678", []),
        (.lease, "12345678", [8, 1, 16]),
        (.alarm, "\u{8}", []),
        (.members, "ff", [8, 0]),
        (.cluster, "clusterVersion", [200]),
    ])
    func damageIsNamed(_ bucket: StateBucket, _ key: String, _ value: [UInt8]) {
        let backend = MemoryBackend()
        backend.put(bucket, bytes(key), value)
        #expect(throws: RestoreError.badBucket(bucket, key: bytes(key))) {
            try Machine(restoring: backend)
        }
    }

    @Test func aStoredLeaseOutsideTheBoundsIsTamed() throws {
        let backend = MemoryBackend()
        var writer = ByteWriter()
        writer.int64(1, 9)
        writer.int64(2, .max)
        writer.int64(3, .min)
        backend.put(.lease, [0, 0, 0, 0, 0, 0, 0, 9], writer.bytes)
        let machine = try Machine(restoring: backend)
        machine.state.promote(now: machine.now, extendMilliseconds: .max)
        #expect(
            machine.state.leaseTimeToLive(9, now: machine.now, withKeys: false)?
                .grantedTTLSeconds == 9_000_000_000)
        #expect(machine.state.expiredLeases(now: machine.now, max: 9) == [])
    }
}
