import Storage
import Testing

/// A log gives back what was appended, over segment borders, overwritten suffixes and snapshots:
/// the same batches are put into the log and into a naive list, and both are compared after
/// reopening.
@Suite struct WALTests {
    @Test func roundTrip() throws {
        let disk = MemoryDisk()
        let wal = try WAL.create(
            disk: disk, directory: "/wal", configuration: small, metadata: testMetadata)
        var model = TestLog()
        let batches = [
            TestBatch(hardState: WALHardState(term: 1, vote: 7), entries: entries(1...3, term: 1)),
            TestBatch(hardState: WALHardState(term: 1, vote: 7, commit: 3), entries: []),
            TestBatch(
                hardState: WALHardState(term: 2, vote: 0, commit: 10),
                entries: entries(4...20, term: 2)),
            TestBatch(
                hardState: WALHardState(term: 3, vote: 9, commit: 10),
                entries: entries(15...16, term: 3, bytes: 0)),
            TestBatch(
                hardState: WALHardState(term: 4, vote: 0, commit: 100),
                snapshot: WALSnapshot(index: 100, term: 4), entries: entries(101...140, term: 4)),
        ]
        for batch in batches {
            try wal.append(batch)
            try wal.flush()
            model.apply(batch)
            let opened = try openLog(disk.clone())
            #expect(opened.log == model)
            #expect(opened.replay.tornTail == nil)
            #expect(opened.replay.metadata == testMetadata)
        }
        #expect(wal.segmentCount > 3)
        try wal.close()
        #expect(disk.openDescriptors == 0)
    }

    @Test func appendingGoesOnAfterReopening() throws {
        let disk = MemoryDisk()
        var wal = try WAL.create(
            disk: disk, directory: "/wal", configuration: small, metadata: testMetadata)
        var model = TestLog()
        for round in 0..<60 as Range<UInt64> {
            let batch = TestBatch(
                hardState: WALHardState(term: round + 1, vote: 1, commit: round * 3),
                entries: entries(round * 3 + 1...round * 3 + 3, term: round + 1))
            try wal.append(batch)
            try wal.flush()
            model.apply(batch)
            try wal.close()
            let opened = try openLog(disk)
            #expect(opened.log == model)
            wal = opened.wal
        }
    }

    /// Old segments go, one becomes the next segment's file, and its stale records are never read.
    @Test func truncationRecyclesAndStaleRecordsStayUnread() throws {
        let disk = MemoryDisk()
        let wal = try WAL.create(
            disk: disk, directory: "/wal", configuration: small, metadata: testMetadata)
        try wal.append(WALHardState(term: 1, vote: 1))
        var next: UInt64 = 1
        for _ in 0..<200 {
            let batch = entries(next...next + 2, term: 1)
            for entry in batch { try wal.append(entry) }
            try wal.flush()
            next += 3
            try wal.append(WALHardState(term: 1, vote: 1, commit: next - 1))
            try wal.flush()
            guard next > 9 else { continue }
            try wal.truncate(before: next - 8)
            let opened = try openLog(disk.clone(), replayFrom: next - 8)
            #expect(opened.log.entries == entries(next - 8...next - 1, term: 1))
            #expect(opened.replay.lastIndex == next - 1)
            #expect(opened.replay.tornTail == nil)
        }
        #expect(wal.statistics.segmentsRecycled > 10)
        #expect(wal.segmentCount < 4)
    }

    /// The next segment is asked for from the middle of the current one on, made in bounded steps,
    /// and taken by the cut without making another.
    @Test func preparation() throws {
        let disk = MemoryDisk()
        let configuration = WALConfiguration(segmentBytes: 3 << 20)
        let wal = try WAL.create(
            disk: disk, directory: "/wal", configuration: configuration, metadata: testMetadata)
        try wal.append(WALHardState(term: 1, vote: 1))
        #expect(!wal.needsPreparation)
        try wal.append(entries(1...1, term: 1, bytes: 1_600_000)[0])
        try wal.flush()
        #expect(wal.needsPreparation)
        var steps = 0
        while wal.needsPreparation {
            let before = disk.operations.count
            try wal.prepareSegment()
            #expect(disk.operations.count - before <= 2)
            steps += 1
        }
        #expect(steps == 4)
        #expect(try wal.prepareSegment() == false)
        let before = disk.operations.count
        try wal.append(entries(2...2, term: 1, bytes: 1_600_000)[0])
        try wal.flush()
        #expect(wal.statistics.segmentsCut == 1)
        #expect(!disk.operations[before...].contains(.preallocate))
        #expect(try openLog(disk.clone(), configuration: configuration).replay.lastIndex == 2)
        #expect(throws: WALError.entryTooLarge(bytes: 3 << 20, limit: configuration.maxEntryBytes)) {
            try wal.append(entries(3...3, term: 1, bytes: 3 << 20)[0])
        }
        // The refused entry left nothing behind, and the largest one fits.
        try wal.append(entries(3...3, term: 1, bytes: configuration.maxEntryBytes)[0])
        try wal.flush()
        #expect(try openLog(disk.clone(), configuration: configuration).replay.lastIndex == 3)
    }
}
