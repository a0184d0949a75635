// Backups: what a copy holds, what damage does to it, and what a restore makes of it; and a member that
// goes on alone.

import Foundation
import MVCC
import RaftCore
import Replica
import Storage
import Testing

@testable import Node
@testable import StateMachine

/// A directory for one test.
private final class Scratch {
    let path = FileManager.default.temporaryDirectory
        .appendingPathComponent("moonraft-\(UUID().uuidString)").path

    init() throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

private func options(_ directory: String) -> NodeOptions {
    var options = NodeOptions()
    options.dataDirectory = directory
    options.initialMembers = [("default", ["http://localhost:2380"])]
    options.backend.mapBytes = 1 << 30
    options.wal.segmentBytes = 1 << 20
    options.replica.tickMilliseconds = 10
    options.replica.backendIntervalMilliseconds = 10
    return options
}

private func start(_ options: NodeOptions, seconds: Int = 10) throws -> Node {
    let node = try Node(options: options) { message in fatalError(message) }
    node.start(sinks: [CollectingSink()])
    #expect(node.waitUntilReady(seconds: seconds))
    return node
}

private func propose(_ node: Node, _ kind: Command.Kind, _ body: [UInt8]) -> ApplyResult? {
    let waiter = Waiter()
    guard node.propose(Command.encode(kind: kind, body: body), waiter: waiter),
        case .applied(let result, _, _)? = waiter.wait()
    else { return nil }
    return result
}

private func put(_ node: Node, _ key: String, _ value: String) {
    let body: [UInt8] =
        [0x0A, UInt8(key.utf8.count)] + key.utf8 + [0x12, UInt8(value.utf8.count)]
        + value.utf8
    #expect(propose(node, .put, body)?.error == nil)
}

private func delete(_ node: Node, _ key: String) {
    #expect(propose(node, .deleteRange, [0x0A, UInt8(key.utf8.count)] + key.utf8)?.error == nil)
}

private func exists(_ node: Node, _ key: String) -> Bool {
    Array(key.utf8).withUnsafeBytes { node.store.metadata(of: $0) != nil }
}

/// Saves as a client does: the copy, then its digest.
private func save(_ node: Node, to path: String) throws {
    let target = node.status.appliedIndex.load(ordering: .acquiring)
    let done = Mailbox<Backend>(capacity: 1)
    #expect(node.onBackend { done.post($0) })
    var found: [Backend] = []
    done.take(into: &found, deadline: monotonicNanoseconds() + 5_000_000_000)
    let backend = try #require(found.first)
    while try backend.committedIndex() < target { usleep(1000) }
    let copy = try BackendCopy(of: backend, in: node.snapshotDirectory)
    var bytes: [UInt8] = []
    while true {
        let next = try copy.next(10_000)
        if next.isEmpty { break }
        bytes += next
    }
    #expect(UInt64(bytes.count) == copy.byteCount)
    try Data(bytes + copy.digest).write(to: URL(fileURLWithPath: path))
    #expect(
        try FileManager.default.contentsOfDirectory(
            atPath: node.options.dataDirectory + "/member/snap"
        ).isEmpty)
}

/// A node with keys, deleted keys, a lease and an alarm, saved.
private func makeSnapshot(_ scratch: Scratch) throws -> (path: String, report: SnapshotReport) {
    let node = try start(options(scratch.path + "/data"))
    for number in 0..<200 { put(node, "k\(number)", String(repeating: "v", count: number % 100)) }
    for number in 0..<50 { delete(node, "k\(number)") }
    for number in 50..<60 { put(node, "k\(number)", "again") }
    // LeaseGrantRequest {1 TTL, 2 ID}, AlarmRequest {1 action, 2 memberID, 3 alarm}
    #expect(propose(node, .leaseGrant, [0x08, 60, 0x10, 7])?.error == nil)
    #expect(propose(node, .alarm, [0x08, 1, 0x10, 9, 0x18, 1])?.error == nil)
    let path = scratch.path + "/backup.db"
    try save(node, to: path)
    let revision = node.store.currentRevision
    node.stop()
    let file = try SnapshotFile(path)
    try file.checkDigest()
    let report = try file.inspect()
    #expect(report.revision == revision)
    return (path, report)
}

private let newMembers: [(name: String, peerURLs: [String])] = [
    ("a", ["http://localhost:3380"]), ("b", ["http://localhost:3381"]), ("c", ["http://localhost:3382"]),
]

@Suite struct SnapshotTests {
    @Test func aSavedSnapshotHoldsWhatWasAcknowledged() throws {
        let scratch = try Scratch()
        let (_, report) = try makeSnapshot(scratch)
        #expect(report.totalKeys == 150)
        #expect(report.records == 260)
        #expect(report.hasDigest)
        #expect(report.totalBytes % 4096 == 0)
        #expect(report.meta.appliedIndex > 260)
    }

    /// Every place of the file in steps, and each byte of the digest: a flipped bit is always found.
    @Test func noFlippedBitPassesTheDigest() throws {
        let scratch = try Scratch()
        let (path, _) = try makeSnapshot(scratch)
        let sound = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        defer { try? handle.close() }
        var positions = Array(stride(from: 0, to: sound.count, by: 769))
        positions += (sound.count - 32)..<sound.count
        for (number, position) in positions.enumerated() {
            try handle.seek(toOffset: UInt64(position))
            try handle.write(contentsOf: [sound[position] ^ (1 << UInt8(number % 8))])
            #expect(throws: SnapshotError.self) { try SnapshotFile(path).checkDigest() }
            // Without the digest it is a fault or a result, never a signal.
            _ = try? SnapshotFile(path).inspect()
            try handle.seek(toOffset: UInt64(position))
            try handle.write(contentsOf: [sound[position]])
        }
        try SnapshotFile(path).checkDigest()
    }

    @Test func noCutFilePasses() throws {
        let scratch = try Scratch()
        let (path, _) = try makeSnapshot(scratch)
        let sound = try Data(contentsOf: URL(fileURLWithPath: path))
        let cut = scratch.path + "/cut.db"
        var lengths = Array(stride(from: 0, to: sound.count, by: 1021))
        lengths += [4096, 8192, 8192 + 32, sound.count - 1, sound.count - 32, sound.count - 4096]
        for length in lengths {
            try sound.prefix(length).write(to: URL(fileURLWithPath: cut))
            #expect(throws: SnapshotError.self) { try SnapshotFile(cut).checkDigest() }
            // Only the whole data without the digest is sound by itself.
            let isWhole = length == sound.count - 32
            #expect(((try? SnapshotFile(cut).inspect()) != nil) == isWhole, "\(length)")
        }
        #expect(throws: SnapshotError.self) { try SnapshotFile(scratch.path + "/none") }
        #expect(throws: SnapshotError.self) { try SnapshotFile(scratch.path).checkDigest() }
    }

    /// What cannot be seen in the pages is seen in the records: each kind of wrong content is named.
    @Test func wrongContentIsNamed() throws {
        let scratch = try Scratch()
        let (path, _) = try makeSnapshot(scratch)
        let cases: [(bucket: BackendBucket, key: [UInt8], value: [UInt8]?, says: String)] = [
            (.key, [1, 2, 3], [], "bucket key, record"),
            (.key, Array("0000000z_00000000".utf8), [0x0A], "cannot be decoded"),
            (.meta, Array("currentRevision".utf8), [0, 0, 0, 0, 0, 0, 0, 9], "but a record has"),
            (.meta, Array("confState".utf8), [0xFF], "membership"),
            (.meta, Array("consistent_index".utf8), [1], "bucket meta, key 0x"),
            (.meta, Array("moonraftFormat".utf8), [0, 0, 0, 200], "format version 200"),
            (.lease, [0, 0, 0, 0, 0, 0, 0, 8], [0x08, 7], "bucket lease"),
            (.members, Array("7".utf8), [0x08, 8], "bucket members"),
            (.cluster, Array("clusterVersion".utf8), Array("three".utf8), "bucket cluster"),
        ]
        for (number, wrong) in cases.enumerated() {
            let directory = scratch.path + "/edit\(number)"
            try FileManager.default.createDirectory(
                atPath: directory, withIntermediateDirectories: false,
                attributes: [.posixPermissions: 0o700])
            try SnapshotFile(path).copyData(to: directory + "/data.mdb")
            do {
                let backend = try Backend(
                    path: directory, configuration: BackendConfiguration(mapBytes: 1 << 30))
                try backend.update { transaction throws(BackendError) in
                    try wrong.key.withUnsafeBufferPointer { key throws(BackendError) in
                        try (wrong.value ?? []).withUnsafeBufferPointer { value throws(BackendError) in
                            try transaction.put(
                                wrong.bucket, key: UnsafeRawBufferPointer(key),
                                value: UnsafeRawBufferPointer(value))
                        }
                    }
                }
            }
            let file = try SnapshotFile(directory + "/data.mdb")
            let error = #expect(throws: SnapshotError.self) { try file.inspect() }
            #expect(error?.description.contains(wrong.says) == true, "\(error?.description ?? "")")
        }
    }

    // MARK: Restore

    private func restore(
        _ path: String, _ scratch: Scratch, _ name: String, bump: UInt64 = 1_000_000_000
    ) throws -> (outcome: SnapshotRestore.Outcome, directory: String) {
        var restore = SnapshotRestore(
            snapshot: path, dataDirectory: scratch.path + "/new/\(name)", name: name,
            members: newMembers, clusterToken: "fresh")
        restore.revisionBump = bump
        restore.wal.segmentBytes = 1 << 20
        restore.backend.mapBytes = 1 << 30
        return (try restore.run(), restore.dataDirectory)
    }

    private func machine(_ directory: String) throws -> (machine: StateMachine, hash: UInt32) {
        let backend = try Backend(
            path: directory + "/member/db", configuration: BackendConfiguration(mapBytes: 1 << 30))
        let store = MVCCStore(configuration: MVCCConfiguration())
        let machine = StateMachine(
            store: store, reader: try LMDBRecordReader(backend) { fatalError($0) })
        let reader = try backend.makeReader()
        try reader.renew()
        try machine.restore(from: BackendStateReader(reader: reader) { fatalError($0) })
        return (machine, try backend.hash())
    }

    @Test func threeMembersRestoredFromOneFileAreEqual() throws {
        let scratch = try Scratch()
        let (path, report) = try makeSnapshot(scratch)
        let all = try newMembers.map { try restore(path, scratch, $0.name) }
        #expect(Set(all.map(\.outcome.clusterID)).count == 1)
        #expect(Set(all.map(\.outcome.memberID)).count == 3)
        let ids = newMembers.map { Identity.memberID(peerURLs: $0.peerURLs, token: "fresh") }
        #expect(all.map(\.outcome.memberID) == ids)
        #expect(all[0].outcome.clusterID == Identity.clusterID(memberIDs: ids))

        var hashes: Set<UInt32> = []
        var keyHashes: Set<UInt32> = []
        for (restored, id) in zip(all, ids) {
            let (machine, hash) = try machine(restored.directory)
            hashes.insert(hash)
            let store = machine.store
            let reader = machine.reader
            keyHashes.insert(try store.hash(revision: 0, reader: reader).hash)
            #expect((machine.appliedIndex, machine.appliedTerm) == (1, 1))
            #expect(ConfState(stored: machine.confState) == ConfState(voters: ids))
            #expect(machine.members.map(\.id) == ids.sorted())
            #expect(machine.members.map(\.name).sorted() == ["a", "b", "c"])
            #expect(machine.alarms.isEmpty)
            #expect(store.currentRevision == report.revision + 1_000_000_000)
            #expect(store.compactRevision == store.currentRevision)
            let (wal, replay) = try WAL.open(
                disk: PosixDisk(), directory: restored.directory + "/member/wal",
                configuration: WALConfiguration(segmentBytes: 1 << 20), replayFrom: 2
            ) { _ in }
            try wal.close()
            #expect(replay.metadata.memberID == id)
            #expect(replay.metadata.clusterID == all[0].outcome.clusterID)
            #expect(replay.hardState == WALHardState(term: 1, vote: 0, commit: 1))
        }
        #expect(hashes.count == 1)
        #expect(keyHashes.count == 1)
    }

    @Test func restoredNodeServesAboveTheBump() throws {
        let scratch = try Scratch()
        let (path, report) = try makeSnapshot(scratch)
        var restore = SnapshotRestore(
            snapshot: path, dataDirectory: scratch.path + "/alone", name: "default",
            members: [("default", ["http://localhost:2380"])], clusterToken: "etcd-cluster")
        restore.wal.segmentBytes = 1 << 20
        let outcome = try restore.run()
        #expect(outcome.totalKeys == 150)
        let node = try start(options(scratch.path + "/alone"))
        #expect(node.clusterID == outcome.clusterID)
        #expect(node.memberID == outcome.memberID)
        #expect(exists(node, "k199"))
        #expect(!exists(node, "k0"))
        #expect(node.store.currentRevision == report.revision + 1_000_000_000)
        put(node, "new", "1")
        #expect(node.store.currentRevision == report.revision + 1_000_000_001)
        let reader = try node.makeReader()
        #expect(throws: MVCCError.self) {
            try node.store.hash(revision: report.revision, reader: reader)
        }
        node.stop()
        let again = try start(options(scratch.path + "/alone"))
        #expect(again.store.currentRevision == report.revision + 1_000_000_001)
        #expect(exists(again, "new"))
        again.stop()
    }

    @Test func withoutTheBumpNothingIsCompacted() throws {
        let scratch = try Scratch()
        let (path, report) = try makeSnapshot(scratch)
        let restored = try restore(path, scratch, "a", bump: 0)
        #expect(restored.outcome.revision == report.revision)
        let (machine, _) = try machine(restored.directory)
        #expect(machine.store.currentRevision == report.revision)
        #expect(machine.store.compactRevision == -1)
        #expect(throws: SnapshotError.self) {
            _ = try self.restore(path, scratch, "b", bump: UInt64(Int64.max))
        }
        #expect(!FileManager.default.fileExists(atPath: scratch.path + "/new/b"))
    }

    @Test func aRestoreNeverTouchesWhatIsThere() throws {
        let scratch = try Scratch()
        let (path, _) = try makeSnapshot(scratch)
        _ = try restore(path, scratch, "a")
        let error = #expect(throws: SnapshotError.self) { _ = try self.restore(path, scratch, "a") }
        #expect(
            error?.description
                == "data-dir \"\(scratch.path)/new/a\" not empty or could not be read")
        // An empty directory will do.
        try FileManager.default.createDirectory(
            atPath: scratch.path + "/new/b", withIntermediateDirectories: false,
            attributes: [.posixPermissions: 0o700])
        _ = try restore(path, scratch, "b")
        #expect(throws: SnapshotError.self) { _ = try self.restore(path, scratch, "d") }
    }

    @Test func anInterruptedRestoreDoesNotStart() throws {
        let scratch = try Scratch()
        let (path, _) = try makeSnapshot(scratch)
        let restored = try restore(path, scratch, "a")
        try Data().write(to: URL(fileURLWithPath: restored.directory + "/member/restoring"))
        var options = options(restored.directory)
        options.name = "a"
        options.initialMembers = newMembers
        let error = #expect(throws: NodeStartError.self) {
            _ = try Node(options: options) { fatalError($0) }
        }
        #expect(error?.description.contains("a restore into it was interrupted") == true)
    }

    // MARK: Going on alone

    /// One of three restored members has no quorum; forced, it serves everything it has.
    @Test func aForcedMemberServesAlone() throws {
        let scratch = try Scratch()
        let (path, report) = try makeSnapshot(scratch)
        let restored = try restore(path, scratch, "b", bump: 0)
        var options = options(restored.directory)
        options.name = "b"
        options.initialMembers = newMembers
        let outcome = try #require(try ForceNewCluster.run(options))
        #expect(outcome.memberID == restored.outcome.memberID)
        #expect(outcome.clusterID == restored.outcome.clusterID)
        #expect(outcome.dropped.count == 2)
        let node = try start(options)
        #expect(node.memberID == restored.outcome.memberID)
        #expect(node.store.currentRevision == report.revision)
        #expect(exists(node, "k199"))
        put(node, "alone", "1")
        node.stop()
        // Done again it finds nothing to drop, and loses nothing.
        #expect(try ForceNewCluster.run(options)?.dropped == [])
        let again = try start(options)
        #expect(exists(again, "alone"))
        again.stop()
    }

    @Test func forcingAnEmptyDirectoryDoesNothing() throws {
        let scratch = try Scratch()
        #expect(try ForceNewCluster.run(options(scratch.path + "/data")) == nil)
        let node = try start(options(scratch.path + "/data"))
        // A running member cannot be forced.
        #expect(throws: NodeStartError.self) { try ForceNewCluster.run(options(scratch.path + "/data")) }
        node.stop()
    }

    /// The log of a member that goes on alone holds "add voter X", "remove me", and puts around them, beyond what
    /// the backend has; some committed, some not. All puts come back, no membership does.
    @Test func oldChangesOfMembershipInTheLogAreVoid() throws {
        let scratch = try Scratch()
        let (path, _) = try makeSnapshot(scratch)
        let restored = try restore(path, scratch, "a", bump: 0)
        let own = restored.outcome.memberID
        let directory = restored.directory + "/member/wal"
        let disk = PosixDisk()
        let configuration = WALConfiguration(segmentBytes: 1 << 20)
        func command(_ key: String) -> [UInt8] {
            Command.encode(kind: .put, body: [0x0A, UInt8(key.utf8.count)] + key.utf8)
        }
        let payloads: [(EntryKind, [UInt8])] = [
            (.normal, command("before")),
            (.configChange, ConfigChange([.init(.addVoter, 0xABC)]).encoded()),
            (.normal, command("between")),
            (.configChange, ConfigChange([.init(.remove, own)]).encoded()),
            (.normal, command("after")),
        ]
        do {
            let (wal, _) = try WAL.open(
                disk: disk, directory: directory, configuration: configuration, replayFrom: 2
            ) { _ in }
            try wal.append(
                hardState: WALHardState(term: 2, vote: 0, commit: 1), entries: [WALEntry]())
            for (number, (kind, payload)) in payloads.enumerated() {
                try payload.withUnsafeBufferPointer { payload in
                    try wal.append(
                        WALEntry(
                            index: UInt64(number + 2), term: 2, kind: kind.rawValue,
                            payload: UnsafeRawBufferPointer(payload)))
                }
            }
            try wal.append(
                hardState: WALHardState(term: 2, vote: 0, commit: 4), entries: [WALEntry]())
            try wal.flush()
            try wal.close()
        }
        var options = options(restored.directory)
        options.name = "a"
        options.initialMembers = newMembers
        #expect(try ForceNewCluster.run(options)?.lastIndex == 6)

        var node = try start(options)
        #expect(node.replayedEntries == 5)
        for key in ["before", "between", "after"] { #expect(exists(node, key)) }
        #expect(members(node).map(\.id) == [own])
        // What is changed from now on counts, also after a restart that replays old and new.
        let waiter = Waiter()
        let learner = Member(
            id: 0xDEF, name: "", peerURLs: ["http://localhost:3999"], clientURLs: [], isLearner: true)
        #expect(node.changeMembership(.add(learner), waiter))
        guard case .membershipChanged(let all)? = waiter.wait() else {
            Issue.record("no answer to the addition")
            return
        }
        #expect(all.map(\.id).sorted() == [own, 0xDEF].sorted())
        node.stop()
        node = try start(options)
        #expect(members(node).map(\.id).sorted() == [own, 0xDEF].sorted())
        for key in ["before", "between", "after"] { #expect(exists(node, key)) }
        node.stop()

        let backend = try Backend(
            path: restored.directory + "/member/db",
            configuration: BackendConfiguration(mapBytes: 1 << 30))
        let reader = try backend.makeReader()
        try reader.renew()
        let other = Identity.memberID(peerURLs: newMembers[1].peerURLs, token: "fresh")
        #expect(try reader.get(.membersRemoved, hex: other) == Array("removed".utf8))
        #expect(try reader.storedMeta()?.forcedMembershipIndex == 6)
    }

    /// The same log without the forced start: the member counts on peers, and is not ready.
    @Test func withoutForceTheOldMembersCount() throws {
        let scratch = try Scratch()
        let (path, _) = try makeSnapshot(scratch)
        let restored = try restore(path, scratch, "a", bump: 0)
        var options = options(restored.directory)
        options.name = "a"
        options.initialMembers = newMembers
        let node = try Node(options: options) { message in fatalError(message) }
        node.start(sinks: [CollectingSink()])
        #expect(!node.waitUntilReady(seconds: 1))
        #expect(members(node).count == 3)
        node.stop()
    }
}

private func members(_ node: Node) -> [Member] {
    let waiter = Waiter()
    guard node.members(waiter), case .members(let members)? = waiter.wait() else { return [] }
    return members
}

extension BackendReader {
    fileprivate func get(_ bucket: BackendBucket, hex id: UInt64) throws -> [UInt8]? {
        let key = Array(String(id, radix: 16).utf8)
        return try key.withUnsafeBufferPointer { key throws(BackendError) in
            try get(bucket, key: UnsafeRawBufferPointer(key)).map { [UInt8]($0) }
        }
    }
}
