// Faults that etcd had in this part, each as a test of its own under etcd's issue number, and the
// rules that callers lean on. Random operations cover the same ground; these say what broke and why.

import KVCodec
import Testing

@testable import MVCC

@Suite struct RegressionTests {
    let store = MVCCStore()
    let records = InMemoryRecords()
    var reader: InMemoryReader { records.reader() }

    private func put(_ key: String, _ value: String, lease: Int64 = 0) {
        store.transact(records) { $0.put(bytes(key), bytes(value), lease: lease) }
    }

    private func delete(_ key: String) {
        store.transact(records) { $0.delete(bytes(key)) }
    }

    private func value(_ key: String, at revision: Int64 = 0) throws -> String? {
        try store.range(bytes(key), [], reader) { $0.revision = revision }.pairs.first.map {
            String(decoding: $0.value, as: UTF8.self)
        }
    }

    @Test func etcd17158_readAfterPutDeletePutThroughTheBufferAndAfterTheFlush() throws {
        store.beginBatch()
        for step in 0..<3 {
            store.begin(reader: reader)
            if step == 1 { store.delete(bytes("k")) } else { store.put(bytes("k"), bytes("\(step)")) }
            store.commit(reason: .client)
        }
        store.endBatch()
        func expectAll() throws {
            #expect(try value("k", at: 2) == "0")
            #expect(try value("k", at: 3) == nil)
            #expect(try value("k", at: 4) == "2")
            #expect(try value("k") == "2")
            #expect(try store.range(bytes("k"), [], reader).pairs.first?.version == 1)
            #expect(try store.allHistory(2, reader).map(\.isDelete) == [false, true, false])
        }
        try expectAll()
        let pending = try #require(store.freezePending())
        try expectAll()
        records.commit(pending)
        try expectAll()
        store.release(pending)
        try expectAll()
    }

    @Test func etcd17228_theSameKeyWrittenOutOfKeyOrderInOneTransaction() throws {
        store.transact(records) {
            $0.put(bytes("b"), bytes("1"))
            $0.put(bytes("a"), bytes("2"))
            $0.delete(bytes("b"))
            $0.put(bytes("b"), bytes("3"))
        }
        #expect(store.currentRevision == 2)
        #expect(try value("b") == "3")
        #expect(try value("a") == "2")
        store.flush(records)
        #expect(try value("b") == "3")
        #expect(records.records.map(\.revision.sub) == [0, 1, 2, 3])
    }

    @Test func etcd17780_revisionNeverGoesBackWhenTheNewestRecordsAreCompactedTombstones() throws {
        put("a", "1")
        put("b", "2")
        delete("a")
        delete("b")
        put("c", "3")
        delete("c")
        #expect(store.currentRevision == 7)
        store.flush(records)
        try store.compact(to: 7)
        store.finishCompaction(records)
        // Only the tombstone at the compaction revision is left; at the next one not even that.
        #expect(records.records.map(\.revision.main) == [7])
        records.commit(nil, deleting: [Revision(main: 7, sub: 0)])
        for (last, compacted) in [(Int64(7), Int64(-1)), (1, 7), (7, 7)] {
            let restored = MVCCStore()
            try restored.restore(
                reader: reader, lastRevision: last, compactRevision: compacted)
            #expect(restored.currentRevision == 7)
            restored.transact(records) { $0.put(bytes("d"), bytes("4")) }
            #expect(restored.currentRevision == 8)
        }
    }

    @Test func etcd18089_aDeleteAtTheCompactionRevisionIsStillSeenByWatchers() throws {
        put("k", "1")
        delete("k")
        put("other", "x")
        try store.compact(to: 3)
        for isFinished in [false, true] {
            if isFinished { store.finishCompaction(records) }
            #expect(
                try store.allHistory(3, reader).map(\.description) == [
                    "3 delete k", "4 put other=x create 4 mod 4 version 1 created",
                ])
            #expect(throws: MVCCError.compacted(compactRevision: 3)) {
                try store.allHistory(2, reader)
            }
        }
    }

    @Test func etcd19179_aWatchFromTheRevisionAfterTheCompactedDelete() throws {
        put("k", "1")
        delete("k")
        put("k", "2")
        try store.compact(to: 3)
        store.finishCompaction(records)
        #expect(
            try store.allHistory(4, reader).map(\.description)
                == ["4 put k=2 create 4 mod 4 version 1 created"])
        // The next compaction takes the tombstone too.
        try store.compact(to: 4)
        store.finishCompaction(records)
        #expect(records.records.map(\.revision.main) == [4])
    }

    @Test func etcd18667_aTransactionCanRefuseARangeBeforeItWrites() throws {
        put("a", "1")
        put("a", "2")
        try store.compact(to: 3)
        store.beginBatch()
        store.begin(reader: reader)
        let view = TransactionView(store)
        #expect(throws: MVCCError.compacted(compactRevision: 3)) { try view.check(revision: 2) }
        #expect(throws: MVCCError.futureRevision(current: 3)) { try view.check(revision: 4) }
        try view.check(revision: 3)
        try view.check(revision: 0)
        #expect(store.commit(reason: .transaction) == nil)
        store.endBatch()
        #expect(store.currentRevision == 3)
    }

    @Test func etcd10681_previousValueIsSilentlyAbsentOnceCompacted() throws {
        put("k", "1")
        let batch = try #require(store.transact(records) { $0.put(bytes("k"), bytes("2")) })
        let event = batch.events[0]
        let before = store.previousRecord(of: event, at: batch.revision, reader: reader)
        #expect(before == Pair(key: bytes("k"), value: bytes("1"), create: 2, mod: 2, version: 1, lease: 0).encoded)
        try store.compact(to: 2)
        #expect(store.previousRecord(of: event, at: batch.revision, reader: reader) != nil)
        try store.compact(to: 3)
        #expect(store.previousRecord(of: event, at: batch.revision, reader: reader) == nil)
    }

    @Test func aCrashBetweenTwoCompactionTransactionsNeverRevivesADeletedKey() throws {
        put("dead", "1")
        put("dead", "2")
        delete("dead")
        put("alive", "1")
        put("alive", "2")
        store.flush(records)
        try store.compact(to: 6)
        var order: [Revision] = []
        while let removed = store.compactionStep(maxKeys: 1) { order += removed }
        // Whatever prefix of the deletes reached the disk.
        for cut in 0...order.count {
            let copy = InMemoryRecords()
            let run = PendingRecords(chunkBytes: 256, maximumChunkBytes: 256)
            for record in records.records {
                run.append(record.revision, isTombstone: record.isTombstone, length: record.bytes.count)
                    .copyMemory(from: record.bytes.baseAddress!, byteCount: record.bytes.count)
            }
            copy.commit(run, deleting: Array(order.prefix(cut)))
            let restored = MVCCStore()
            try restored.restore(
                reader: copy.reader(), lastRevision: 6, compactRevision: -1,
                scheduledCompactRevision: 6)
            #expect(restored.compactRevision == 6)
            #expect(try restored.range([0], [0], copy.reader()).pairs.map(\.key) == [bytes("alive")])
            restored.finishCompaction(copy)
            #expect(copy.records.map(\.revision.main) == [6])
            #expect(restored.finishedCompactRevision == 6)
        }
    }

    @Test func compactionWaitsForAReadThatBeganBeforeIt() throws {
        put("k", "1")
        put("k", "2")
        let pin = try #require(store.pins.pin(2))
        try store.compact(to: 3)
        #expect(store.compactionStep(maxKeys: 10) == [])
        #expect(store.scheduledCompactRevision == 3)
        store.pins.unpin(pin)
        // A read at the compaction revision itself does not hold it up.
        let later = try #require(store.pins.pin(3))
        #expect(store.compactionStep(maxKeys: 10) == [Revision(main: 2, sub: 0)])
        #expect(store.compactionStep(maxKeys: 10) == nil)
        store.pins.unpin(later)
    }

    @Test func aHigherCompactionReplacesOneUnderWay() throws {
        for number in 0..<300 { put("k\(number)", "1") }
        for number in 0..<300 { put("k\(number)", "2") }
        try store.compact(to: 400)
        let first = store.compactionStep(maxKeys: 1) ?? []
        try store.compact(to: 601)
        var all = first
        while let removed = store.compactionStep(maxKeys: 50) { all += removed }
        #expect(all.map(\.main).sorted() == Array(2...301))
        #expect(store.finishedCompactRevision == 601)
    }

    @Test func onlyWhatNeedsTheBackendTouchesIt() throws {
        for number in 0..<10 { put("k\(number)", "\(number)") }
        var configuration = MVCCConfiguration()
        configuration.recentRecordBytes = 0
        store.flush(records)
        let cold = MVCCStore(configuration: configuration)
        try cold.restore(reader: reader, lastRevision: 11)
        let watched = reader
        for change: (inout RangeQuery) -> Void in [
            { $0.keysOnly = true }, { $0.countOnly = true },
            {
                $0.keysOnly = true; $0.sortTarget = SortTarget.mod; $0.sortOrder = SortOrder.descend
            },
        ] {
            #expect(try cold.range([0], [0], watched, change).result.count == 10)
        }
        #expect(watched.begun == 0, "keys_only and count_only answer from the index")
        #expect(try cold.range([0], [0], watched).pairs.count == 10)
        #expect(watched.begun == 1 && watched.reads == 10)
        // A record in memory needs no read transaction either.
        cold.transact(records) { $0.put(bytes("new"), bytes("x")) }
        #expect(try cold.range(bytes("new"), [], watched).pairs.count == 1)
        #expect(watched.begun == 1)
        #expect(try cold.allHistory(12, watched).count == 1)
        #expect(watched.begun == 1)
    }

    @Test func recentRecordsStayWithinTheirBound() throws {
        var configuration = MVCCConfiguration()
        configuration.recentRecordBytes = 100_000
        let store = MVCCStore(configuration: configuration)
        for number in 0..<300 {
            store.transact(records) { $0.put(bytes("k\(number % 7)"), Bytes(repeating: 1, count: 900)) }
            if number % 10 == 9 { store.flush(records) }
            #expect(store.statistics.recordMemoryBytes < 100_000 + 40_000)
        }
        #expect(store.statistics.pendingBytes == 0)
        for revision in stride(from: Int64(2), through: 301, by: 13) {
            #expect(
                try store.range(bytes("k\((revision - 2) % 7)"), [], reader) { $0.revision = revision }.pairs.first?.mod
                    == revision)
        }
    }

    @Test func aDamagedRecordIsReportedByRestore() throws {
        put("a", "1")
        store.flush(records)
        let run = PendingRecords(chunkBytes: 256, maximumChunkBytes: 256)
        run.append(Revision(main: 3, sub: 0), isTombstone: false, length: 1)
            .storeBytes(of: 0xFF, as: UInt8.self)
        records.commit(run)
        #expect(throws: MVCCError.corruptRecord(Revision(main: 3, sub: 0))) {
            try store.restore(reader: reader, lastRevision: 3)
        }
    }

    @Test func aLostRecordIsAnErrorNotAnEmptyAnswer() throws {
        put("a", "1")
        store.flush(records)
        var configuration = MVCCConfiguration()
        configuration.recentRecordBytes = 0
        let cold = MVCCStore(configuration: configuration)
        try cold.restore(reader: reader, lastRevision: 2)
        records.commit(nil, deleting: [Revision(main: 2, sub: 0)])
        #expect(throws: MVCCError.corruptRecord(Revision(main: 2, sub: 0))) {
            try cold.range(bytes("a"), [], reader)
        }
    }

    @Test func snapshotsAndTransactionsAnswerAlike() throws {
        put("a", "1")
        put("b", "2", lease: 7)
        func ask(_ view: inout some KeyView) throws -> [String] {
            var answers = ["revision \(view.revision) compacted \(view.compactRevision)"]
            try bytes("b").withUnsafeBytes { key in
                let metadata = try #require(view.metadata(of: key))
                answers.append("\(metadata)")
                answers.append(printable(Bytes(view.record(at: metadata.revision))))
                var writer = ByteWriter()
                let result = try view.range(
                    RangeQuery(key: key, rangeEnd: UnsafeRawBufferPointer(start: nil, count: 0)),
                    into: &writer)
                answers.append("\(result) \(pairs(writer.bytes))")
            }
            bytes("a").withUnsafeBytes { key in
                bytes("z").withUnsafeBytes { end in
                    view.metadataInRange(key: key, rangeEnd: end) { key, metadata in
                        answers.append(printable(Bytes(key)) + " \(metadata.lease)")
                        return true
                    }
                }
            }
            return answers
        }
        let outside = try store.withSnapshot(reader: reader) { try ask(&$0) }
        store.beginBatch()
        store.begin(reader: reader)
        var view = TransactionView(store)
        let inside = try ask(&view)
        #expect(inside == outside)
        store.put(bytes("c"), bytes("3"))
        #expect(view.revision == 4)
        store.commit(reason: .client)
        store.endBatch()
    }
}
