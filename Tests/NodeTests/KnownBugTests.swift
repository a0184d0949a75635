// Data bugs that etcd had, at the seam between log, backend and state. Numbers are issues of etcd;
// docs/known-bugs.md lists them all.

import Foundation
import MVCC
import Replica
import StateMachine
import Storage
import Testing

@testable import Node

private func withDirectory(_ body: (String) throws -> Void) throws {
    let directory = FileManager.default.temporaryDirectory
        .appendingPathComponent("moonraft-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: directory) }
    try body(directory)
}

private func putCommand(_ key: String, _ value: String) -> [UInt8] {
    Command.encode(
        kind: .put,
        body: [0x0A, UInt8(key.utf8.count)] + key.utf8 + [0x12, UInt8(value.utf8.count)] + value.utf8)
}

@Suite struct KnownBugTests {
    // MARK: 13766

    private func machine(over backend: Backend) throws -> StateMachine {
        let machine = StateMachine(
            store: MVCCStore(configuration: MVCCConfiguration()),
            reader: try LMDBRecordReader(backend, fatal: { fatalError($0) }),
            configuration: StateMachineConfiguration())
        let reader = try backend.makeReader()
        try reader.renew()
        try machine.restore(from: BackendStateReader(reader: reader, fatal: { fatalError($0) }))
        return machine
    }

    private func apply(_ machine: StateMachine, _ index: UInt64, _ entry: [UInt8]) {
        machine.store.beginBatch()
        defer { machine.store.endBatch() }
        _ = machine.apply(index: index, term: 1, data: entry, now: LeaseTime(milliseconds: 0))
    }

    private func exists(_ machine: StateMachine, _ key: String) -> Bool {
        Array(key.utf8).withUnsafeBytes { machine.store.metadata(of: $0) != nil }
    }

    /// A commit that is cut short after everything was written leaves neither index nor data, and done again it
    /// brings both.
    @Test func etcd13766_theAppliedIndexAndItsDataAreOneTransaction() throws {
        try withDirectory { directory in
            let backend = try Backend(
                path: directory + "/db", configuration: BackendConfiguration(mapBytes: 64 << 20))
            let first = try machine(over: backend)
            apply(first, 1, putCommand("a", "1"))
            let before = try #require(first.freeze())
            try backend.update { transaction throws(BackendError) in
                try BackendThread.apply(before, to: transaction)
            }
            if let records = before.records { first.store.release(records) }
            for index in UInt64(2)...40 { apply(first, index, putCommand("b\(index)", "2")) }
            // LeaseGrantRequest {1 TTL, 2 ID}
            apply(first, 41, Command.encode(kind: .leaseGrant, body: [0x08, 60, 0x10, 7]))
            let pending = try #require(first.freeze())
            #expect(pending.appliedIndex == 41)
            #expect(throws: BackendError.self) {
                try backend.update { transaction throws(BackendError) in
                    try BackendThread.apply(pending, to: transaction)
                    throw BackendError.transactionFull
                }
            }
            let cut = try machine(over: backend)
            #expect(cut.appliedIndex == 1)
            #expect(cut.store.currentRevision == 2)
            #expect(exists(cut, "a") && !exists(cut, "b2") && cut.leaseIDs().isEmpty)
            try backend.update { transaction throws(BackendError) in
                try BackendThread.apply(pending, to: transaction)
            }
            let whole = try machine(over: backend)
            #expect(whole.appliedIndex == 41)
            #expect(whole.store.currentRevision == 41)
            #expect(exists(whole, "b40") && whole.leaseIDs() == [7])
        }
    }

    // MARK: 11652, 11888

    private func options(_ directory: String) -> NodeOptions {
        var options = NodeOptions()
        options.dataDirectory = directory
        options.initialMembers = [("default", ["http://localhost:2380"])]
        options.backend.mapBytes = 1 << 28
        options.wal.segmentBytes = 64 << 10
        options.replica.tickMilliseconds = 10
        options.replica.backendIntervalMilliseconds = 1
        options.replica.snapshotCount = 40
        options.replica.catchUpEntries = 10
        return options
    }

    private func start(_ directory: String) throws -> Node {
        let node = try Node(options: options(directory)) { message in fatalError(message) }
        node.start(sinks: [CollectingSink()])
        #expect(node.waitUntilReady(seconds: 10))
        return node
    }

    /// A database of any age beside the newest log: it is brought up by replay when the log still holds what it
    /// lacks, and refused by name when not. Never does a member serve anything between.
    @Test func etcd11652_everyDatabaseOlderThanTheLogIsBroughtUpOrRefused() throws {
        try withDirectory { directory in
            let value = String(repeating: "v", count: 120)
            let count = 2_400
            var copies: [String] = []
            var node = try start(directory + "/data")
            for number in stride(from: 0, to: count, by: 200) {
                let waiters = (0..<200).map { _ in Waiter() }
                for (offset, waiter) in waiters.enumerated() {
                    #expect(node.propose(putCommand("k\(number + offset)", value), waiter: waiter))
                }
                for waiter in waiters {
                    guard case .applied(let result, _, _)? = waiter.wait(), result.error == nil else {
                        Issue.record("no answer")
                        return
                    }
                }
                // The last copy is one that the log can bring up, however slow the commits were.
                while number + 200 == count, node.status.pendingBytes.load(ordering: .relaxed) > 0 {
                    usleep(1_000)
                }
                let path = directory + "/copy\(number)"
                let done = Mailbox<Bool>(capacity: 1)
                #expect(
                    node.onBackend { backend in
                        done.post((try? backend.copy(toFile: path, compacting: false)) != nil)
                    })
                var answers: [Bool] = []
                done.take(into: &answers, deadline: monotonicNanoseconds() + 5_000_000_000)
                #expect(answers == [true])
                copies.append(path)
            }
            let revision = node.store.currentRevision
            node.stop()

            let files = FileManager.default
            var broughtUp = 0
            var refused = 0
            for copy in copies {
                let data = directory + "/again"
                try files.copyItem(atPath: directory + "/data", toPath: data)
                try files.removeItem(atPath: data + "/member/db/data.mdb")
                try files.moveItem(atPath: copy, toPath: data + "/member/db/data.mdb")
                do {
                    node = try start(data)
                    #expect(node.store.currentRevision == revision)
                    #expect(node.store.keyCount == count)
                    node.stop()
                    broughtUp += 1
                } catch {
                    // Once one is new enough, all later ones are.
                    #expect(broughtUp == 0, "\(copy): \(error)")
                    #expect("\(error)".contains("log"), "\(error)")
                    refused += 1
                }
                try files.removeItem(atPath: data)
            }
            #expect(broughtUp > 0 && refused > 0, "\(broughtUp) brought up, \(refused) refused")
        }
    }
}
