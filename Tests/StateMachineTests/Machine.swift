// A state machine with a backend in memory, driven as the replica drives it.

import KVCodec
import MVCC

@testable import StateMachine

/// Committed records and buckets, as LMDB would hold them.
final class MemoryBackend: StateReader {
    struct Record {
        var isTombstone: Bool
        var bytes: UnsafeRawBufferPointer
    }

    private(set) var records: [Revision: Record] = [:]
    private(set) var buckets: [StateBucket: [[UInt8]: [UInt8]]] = [:]

    deinit { for record in records.values { record.bytes.deallocate() } }

    func write(_ commit: PendingCommit) {
        commit.records?.forEach { revision, isTombstone, bytes in
            insert(revision, isTombstone, bytes)
        }
        for revision in commit.deletedRevisions {
            records.removeValue(forKey: revision)?.bytes.deallocate()
        }
        for change in commit.changes {
            buckets[change.bucket, default: [:]][change.key] = change.value
        }
    }

    private func insert(_ revision: Revision, _ isTombstone: Bool, _ bytes: UnsafeRawBufferPointer) {
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        copy.copyMemory(from: bytes)
        records[revision] = Record(isTombstone: isTombstone, bytes: UnsafeRawBufferPointer(copy))
    }

    func forEach(
        in bucket: StateBucket, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Void
    ) {
        let pairs = buckets[bucket, default: [:]]
        for (key, value) in pairs.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
            key.withUnsafeBytes { key in value.withUnsafeBytes { body(key, $0) } }
        }
    }

    func replace(_ bucket: StateBucket, with other: MemoryBackend) {
        buckets[bucket] = other.buckets[bucket]
    }

    func replaceRecords(with other: MemoryBackend) {
        for record in records.values { record.bytes.deallocate() }
        records = [:]
        for (revision, record) in other.records {
            insert(revision, record.isTombstone, record.bytes)
        }
    }

    func put(_ bucket: StateBucket, _ key: [UInt8], _ value: [UInt8]) {
        buckets[bucket, default: [:]][key] = value
    }
}

final class MemoryReader: RecordReader {
    private let backend: MemoryBackend

    init(_ backend: MemoryBackend) { self.backend = backend }

    func begin() {}
    func end() {}

    func get(_ revision: Revision) -> UnsafeRawBufferPointer? { backend.records[revision]?.bytes }

    func scan(
        from: Revision, _ body: (Revision, _ isTombstone: Bool, UnsafeRawBufferPointer) -> Bool
    ) {
        for revision in backend.records.keys.filter({ $0 >= from }).sorted() {
            guard let record = backend.records[revision] else { continue }
            if !body(revision, record.isTombstone, record.bytes) { return }
        }
    }
}

final class Machine {
    let backend: MemoryBackend
    let store: MVCCStore
    let state: StateMachine
    private(set) var index: UInt64
    var term: UInt64 = 1
    /// Milliseconds on the clock of this process.
    var clock: Int64 = 0

    init(_ configuration: StateMachineConfiguration = StateMachineConfiguration()) {
        backend = MemoryBackend()
        store = MVCCStore(configuration: MVCCConfiguration())
        state = StateMachine(
            store: store, reader: MemoryReader(backend), configuration: configuration)
        index = 0
    }

    /// A new process over what `backend` holds.
    init(
        restoring backend: MemoryBackend,
        _ configuration: StateMachineConfiguration = StateMachineConfiguration()
    ) throws {
        self.backend = backend
        store = MVCCStore(configuration: MVCCConfiguration())
        state = StateMachine(
            store: store, reader: MemoryReader(backend), configuration: configuration)
        try state.restore(from: backend)
        index = state.appliedIndex
        term = max(1, state.appliedTerm)
    }

    var now: LeaseTime { LeaseTime(milliseconds: clock) }

    @discardableResult
    func apply(_ entry: [UInt8]) -> ApplyResult {
        index += 1
        store.beginBatch()
        defer { store.endBatch() }
        return state.apply(index: index, term: term, data: entry, now: now)
    }

    /// A configuration entry.
    @discardableResult
    func change(_ change: MembershipChange?) -> ApplyResult {
        index += 1
        store.beginBatch()
        defer { store.endBatch() }
        return state.applyMembership(change.map { [$0] } ?? [], index: index, term: term)
    }

    func found(_ members: [Member]) {
        index += 1
        state.found(members: members, index: index, term: term)
    }

    /// Takes over what another member's backend holds, as after its snapshot.
    func install(from other: Machine) throws {
        other.commit()
        for bucket in StateBucket.allCases { backend.replace(bucket, with: other.backend) }
        backend.replaceRecords(with: other.backend)
        state.reset()
        try state.restore(from: backend)
        index = state.appliedIndex
        term = max(term, state.appliedTerm)
    }

    /// Writes what changed to the backend.
    func commit() {
        guard let commit = state.freeze() else { return }
        backend.write(commit)
        if let records = commit.records { store.release(records) }
    }

    /// The process ends after a commit and another one starts.
    func restarted() throws -> Machine {
        commit()
        let next = try Machine(restoring: backend, state.configuration)
        next.clock = clock
        return next
    }

    // MARK: Requests

    @discardableResult
    func put(_ put: Put, origin: Command.Origin = .client) -> ApplyResult {
        apply(Command.encode(kind: .put, origin: origin, body: put.message))
    }

    @discardableResult
    func put(_ key: String, _ value: String, lease: Int64 = 0) -> ApplyResult {
        put(Put(key, value, lease: lease))
    }

    @discardableResult
    func delete(_ key: String, _ end: String = "", prevKV: Bool = false) -> ApplyResult {
        apply(Command.encode(kind: .deleteRange, body: Delete(key, end, prevKV: prevKV).message))
    }

    @discardableResult
    func txn(_ txn: Txn) -> ApplyResult {
        apply(Command.encode(kind: .txn, body: txn.message))
    }

    /// The reply to a transaction, or the name of its error.
    func reply(_ txn: Txn) throws -> String {
        let result = self.txn(txn)
        if let error = result.error { return "\(error)" }
        return try Reply.txn(result.body)
    }

    @discardableResult
    func grant(_ id: Int64, ttl: Int64) -> ApplyResult {
        apply(Command.leaseGrant(id: id, ttlSeconds: ttl))
    }

    @discardableResult
    func revoke(_ id: Int64, expired: Bool = false) -> ApplyResult {
        apply(Command.leaseRevoke(id: id, origin: expired ? .core : .client))
    }

    @discardableResult
    func compact(_ revision: Int64) -> ApplyResult {
        apply(Command.compact(revision: revision))
    }

    @discardableResult
    func alarm(_ action: AlarmAction, _ type: AlarmType?, member: UInt64 = 1) -> ApplyResult {
        apply(Command.alarm(action, member: member, type: type))
    }

    // MARK: State

    /// All pairs of a range as text.
    func pairs(_ key: String = "\0", _ end: String = "\0") throws -> String {
        let txn = Txn(then: [.get(Get(key, end))])
        return try reply(txn)
            .replacing(#/^then \{get@\d+ /#, with: "")
            .replacing(#/ of \d+\}$/#, with: "")
    }

    func keys(ofLease id: Int64) -> [String] {
        state.leaseTimeToLive(id, now: now, withKeys: true)?.keys.map { text($0) } ?? ["none"]
    }

    func secondsLeft(_ id: Int64) -> Int64? {
        state.leaseTimeToLive(id, now: now, withKeys: false)?.remainingSeconds
    }
}
