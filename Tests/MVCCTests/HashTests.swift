// HashKV must be what etcd computes for the same history, and must not depend on how far physical
// compaction has come: checked against numbers taken from etcd 3.5.1 with the commands in comments.

import Testing

@testable import MVCC

@Suite struct HashTests {
    let store = MVCCStore()
    let records = InMemoryRecords()

    private func expect(_ hash: UInt32, at revision: Int64 = 0, _ line: Int = #line) throws {
        let reader = records.reader()
        #expect(try store.hash(revision: revision, reader: reader).hash == hash, "line \(line)")
    }

    private func put(_ key: String, _ value: String) {
        store.transact(records) { $0.put(bytes(key), bytes(value)) }
    }

    private func compact(_ revision: Int64, _ hash: UInt32) throws {
        try store.compact(to: revision)
        try expect(hash)
        _ = store.compactionStep(maxKeys: 1)
        try expect(hash)
        store.finishCompaction(records)
        try expect(hash)
        store.flush(records)
        try expect(hash)
        let reader = records.reader()
        #expect(try store.hash(revision: 0, reader: reader).compactRevision == revision)
    }

    @Test func equalsEtcdForTheSameHistory() throws {
        try expect(1_084_519_789)
        put("a", "1")
        put("b", "2")
        store.flush(records)
        put("a", "3")
        try expect(2_069_675_932)
        // Not the newest, as elsewhere, but one before every record.
        try expect(1_084_519_789, at: -1)
        // etcdctl del b
        store.transact(records) { $0.delete(bytes("b")) }
        try expect(1_125_682_900)
        // etcdctl txn: put c one, put d two, del a
        store.transact(records) {
            $0.put(bytes("c"), bytes("one"))
            $0.put(bytes("d"), bytes("two"))
            $0.delete(bytes("a"))
        }
        try expect(1_954_460_810)
        try expect(2_069_675_932, at: 4)
        try compact(4, 2_183_003_348)
        try expect(1_468_967_122, at: 5)
        put("b", "again")
        try expect(2_211_112_810)
        try compact(6, 732_375_350)
        // etcdctl del "" --prefix
        store.transact(records) { $0.delete([0], [0]) }
        try expect(426_862_437)
        // Nothing lives at the newest revision any more.
        try compact(7, 426_862_437)
        // A tombstone at the compaction revision is kept and not hashed.
        try compact(8, 1_084_519_789)
        put("z", "z")
        try expect(322_889_652)
    }

    @Test func refusesWhatItCannotKnow() throws {
        put("a", "1")
        put("a", "2")
        try store.compact(to: 3)
        #expect(throws: MVCCError.compacted(compactRevision: 3)) { try expect(0, at: 2) }
        #expect(throws: MVCCError.futureRevision(current: 3)) { try expect(0, at: 4) }
    }
}
