// Taking over another member's data file while clients read: the backend thread, the store and the readers
// together.

import Foundation
import KVCodec
import MVCC
import RaftCore
import Replica
import StateMachine
import Storage
import Synchronization
import Testing

@testable import Node

@Suite struct SnapshotInstallTests {
    private let path = FileManager.default.temporaryDirectory
        .appendingPathComponent("moonraft-install-\(UUID().uuidString)").path

    init() throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    private func backend(_ name: String) throws -> Backend {
        try Backend(path: path + "/" + name, configuration: BackendConfiguration(mapBytes: 256 << 20))
    }

    private func machine(_ backend: Backend) throws -> StateMachine {
        var store = MVCCConfiguration()
        // Everything is read from the backend, in several pieces.
        store.recentRecordBytes = 0
        store.rangeChunkKeys = 64
        let machine = StateMachine(
            store: MVCCStore(configuration: store),
            reader: try LMDBRecordReader(backend, fatal: { fatalError($0) }),
            configuration: StateMachineConfiguration())
        let reader = try backend.makeReader()
        try reader.renew()
        try machine.restore(from: BackendStateReader(reader: reader, fatal: { fatalError($0) }))
        return machine
    }

    /// Applies puts of `PREFIX-0000` and on, and commits.
    private func fill(
        _ backend: Backend, _ machine: StateMachine, _ prefix: String, count: Int
    ) throws {
        machine.confState = ConfState(voters: [1]).encoded()
        machine.store.beginBatch()
        let first = machine.appliedIndex + 1
        for number in 0..<count {
            let digits = String(number)
            let key = Array((prefix + String(repeating: "0", count: 4 - digits.count) + digits).utf8)
            let body = [0x0A, UInt8(key.count)] + key + [0x12, UInt8(key.count)] + key
            _ = machine.apply(
                index: first + UInt64(number), term: 1, data: Command.encode(kind: .put, body: body),
                now: LeaseTime(milliseconds: 0))
        }
        machine.store.endBatch()
        let pending = try #require(machine.freeze())
        try backend.update { transaction throws(BackendError) in
            try BackendThread.apply(pending, to: transaction)
        }
        if let records = pending.records { machine.store.release(records) }
    }

    private func thread(_ backend: Backend) -> BackendThread {
        BackendThread(
            backend: backend, slowNanoseconds: 1_000_000_000, status: NodeStatus(),
            fatal: { fatalError($0) }, onCommitted: { _ in }, onSlow: { _ in })
    }

    /// Reads all keys again and again until told to stop.
    ///
    /// - Returns: how often the old and the new state were seen.
    private func readAll(
        _ store: MVCCStore, _ backend: Backend, _ stop: borrowing Atomic<Bool>
    ) throws -> (old: Int, new: Int) {
        let reader = try LMDBRecordReader(backend, fatal: { fatalError($0) })
        var seen = (old: 0, new: 0)
        let all: [UInt8] = [0]
        while true {
            let isLast = stop.load(ordering: .acquiring)
            var writer = ByteWriter()
            do {
                _ = try all.withUnsafeBytes { all in
                    try store.range(
                        RangeQuery(key: all, rangeEnd: all), reader: reader, into: &writer)
                }
            } catch MVCCError.compacted {
                // The store changed between two pieces: a client is told so, and asks again.
                continue
            }
            let text = String(decoding: writer.bytes, as: UTF8.self)
            let old = text.components(separatedBy: "old-").count - 1
            let new = text.components(separatedBy: "new-").count - 1
            // Key and value of each record.
            #expect((old, new) == (600, 0) || (old, new) == (0, 1000))
            if old > 0 { seen.old += 1 } else { seen.new += 1 }
            if isLast { return seen }
        }
    }

    /// Records and index change for a reader in one moment, though the file changes a while before. (The two
    /// states have records of other keys at the same revisions.)
    @Test func readersNeverSeeIndexAndRecordsOfDifferentStates() throws {
        let leader = try backend("leader")
        let leaderMachine = try machine(leader)
        try fill(leader, leaderMachine, "new-", count: 500)
        let snapshot = try leader.snapshot()
        let metadata = try SnapshotFiles.metadata(of: snapshot)
        #expect(metadata == SnapshotMetadata(index: 500, term: 1, confState: ConfState(voters: [1])))
        var bytes = [UInt8](repeating: 0, count: Int(snapshot.byteCount))
        try bytes.withUnsafeMutableBytes { try snapshot.read(at: 0, into: $0) }
        let file = path + "/arrived"
        try Data(bytes).write(to: URL(fileURLWithPath: file))

        let follower = try backend("follower")
        let followerMachine = try machine(follower)
        try fill(follower, followerMachine, "old-", count: 300)
        let thread = thread(follower)
        thread.start()
        let stop = StopFlag()
        let results = Mailbox<(old: Int, new: Int)>(capacity: 4)
        let store = followerMachine.store
        let readers = (0..<2).map { number in
            OwnedThread(name: "reader \(number)") {
                do { results.post(try readAll(store, follower, stop.flag)) } catch { Issue.record(error) }
            }
        }
        usleep(50_000)
        let installed = Mailbox<InstalledSnapshot>(capacity: 1)
        thread.install(file: file, store: store.configuration) { installed.post($0) }
        var arrived: [InstalledSnapshot] = []
        installed.take(into: &arrived, deadline: monotonicNanoseconds() + 20_000_000_000)
        let taken = try #require(arrived.first)
        #expect(!FileManager.default.fileExists(atPath: file))
        // The new file is in its place, and the old state still serves.
        usleep(50_000)
        followerMachine.reset()
        try followerMachine.restore(
            from: taken.state, contents: taken.contents, activate: taken.activate)
        usleep(50_000)
        stop.flag.store(true, ordering: .releasing)
        for reader in readers { reader.join() }
        var seen: [(old: Int, new: Int)] = []
        results.take(into: &seen, deadline: 0)
        #expect(seen.count == 2 && seen.allSatisfy { $0.old > 0 && $0.new > 0 })

        #expect(followerMachine.appliedIndex == 500)
        #expect(followerMachine.store.currentRevision == leaderMachine.store.currentRevision)
        // It goes on from there, and opens again.
        try fill(follower, followerMachine, "new-", count: 501)
        thread.drain()
        thread.stop()
        let again = try machine(try backend("follower"))
        #expect(again.appliedIndex == 1001)
        #expect(again.store.keyCount == 501)
        try? FileManager.default.removeItem(atPath: path)
    }
}

/// Shared with threads.
private final class StopFlag: Sendable {
    let flag = Atomic(false)
}
