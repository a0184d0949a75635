import Storage
import Testing

/// A damaged log never yields an entry that was not written, and never silently loses what later
/// records prove to have been durable. Method: every byte of a small log is flipped, and the log is
/// cut at every byte; each variant either opens to a state that the log really had, not older than
/// its last but one batch, or is refused with segment and offset.
@Suite struct WALDamageTests {
    /// Judges one damaged disk. Returns true when it opened.
    @discardableResult
    private func judge(
        _ disk: MemoryDisk, _ log: RecordedLog, atLeast: Int, _ what: @autoclosure () -> String
    ) throws -> Bool {
        let before = disk.paths(under: "/wal").map { disk.content($0) }
        do throws(WALError) {
            let opened = try openLog(disk)
            let number = log.states.lastIndex(of: opened.log)
            guard let number, number >= atLeast else {
                Issue.record("\(what()): opened to state \(String(describing: number)) of \(atLeast)")
                return true
            }
            try opened.wal.append(
                WALHardState(
                    term: opened.log.hardState.term + 1, vote: 0,
                    commit: opened.log.hardState.commit))
            try opened.wal.flush()
            try opened.wal.close()
            var expected = opened.log
            expected.hardState.term += 1
            expected.hardState.vote = 0
            let again = try openLog(disk)
            if again.log != expected || again.replay.tornTail != nil {
                Issue.record("\(what()): differs when opened again")
            }
            return true
        } catch {
            switch error {
            case .corrupt(let segment, let offset, let reason):
                if !segment.hasSuffix(".wal") || offset > 1024 || reason.isEmpty {
                    Issue.record("\(what()): refused without a place: \(error)")
                }
            case .unsupportedVersion, .missing:
                break
            default:
                Issue.record("\(what()): \(error)")
            }
            // Evidence is not touched.
            if before != disk.paths(under: "/wal").map({ disk.content($0) }) {
                Issue.record("\(what()): refused, but changed")
            }
            if disk.openDescriptors != 0 {
                Issue.record("\(what()): \(disk.openDescriptors) files left open")
            }
            return false
        }
    }

    @Test func everyByteFlipped() throws {
        var log = try RecordedLog()
        try log.fill()
        let paths = log.disk.paths(under: "/wal")
        #expect(paths.count > 2)
        let confirmed = log.flushed[log.flushed.count - 2]
        var opened = 0
        var refused = 0
        for path in paths {
            let content = log.disk.content(path)
            for offset in content.indices {
                // One bit by position, so that all bits take part over the file.
                let disk = log.disk.clone()
                var bytes = content
                bytes[offset] ^= 1 << UInt8(offset % 8)
                disk.setContent(path, bytes)
                let ok = try judge(
                    disk, log, atLeast: confirmed, "\(path) flipped at \(offset)")
                if ok { opened += 1 } else { refused += 1 }
            }
        }
        // Flips behind the end and in the last batch open; all others are refused.
        #expect(refused > 1500)
        #expect(opened > 300)
    }

    /// A file that ends early is a prefix as far as its records go.
    @Test func cutAtEveryByte() throws {
        var log = try RecordedLog()
        try log.fill()
        let paths = log.disk.paths(under: "/wal")
        for (number, path) in paths.enumerated() {
            let content = log.disk.content(path)
            for length in 0..<content.count {
                let disk = log.disk.clone()
                disk.setContent(path, Array(content.prefix(length)))
                // Cut records leave no trace, so only files that others follow are known to be
                // incomplete.
                let opened = try judge(disk, log, atLeast: 0, "\(path) cut to \(length)")
                if opened, number < paths.count - 1 {
                    let end = content.lastIndex { $0 != 0 } ?? 0
                    if length <= end - 8 {
                        Issue.record("\(path) cut to \(length) opened though segments follow")
                    }
                }
            }
        }
    }

    /// As above with the cut part reading as zeros, the way a torn preallocated file looks.
    @Test func zerosFromEveryByte() throws {
        var log = try RecordedLog()
        try log.fill()
        let path = log.disk.paths(under: "/wal").last ?? ""
        let content = log.disk.content(path)
        for length in 0..<content.count {
            let disk = log.disk.clone()
            var bytes = Array(content.prefix(length))
            bytes += [UInt8](repeating: 0, count: content.count - length)
            disk.setContent(path, bytes)
            try judge(disk, log, atLeast: 0, "zeros from \(length)")
        }
    }

    @Test func aRecordBelowALaterBatchIsNotCut() throws {
        var log = try RecordedLog(configuration: WALConfiguration(segmentBytes: 4096))
        try log.write(
            TestBatch(hardState: WALHardState(term: 1, vote: 1), entries: entries(1...3, term: 1)))
        try log.write(
            TestBatch(
                hardState: WALHardState(term: 1, vote: 1, commit: 3), entries: entries(4...4, term: 1)))
        let path = log.disk.paths(under: "/wal")[0]
        var bytes = log.disk.content(path)
        // The second record: header 128, hard state 48; any byte of its payload.
        bytes[128 + 48 + 30] ^= 0x10
        log.disk.setContent(path, bytes)
        let error = #expect(throws: WALError.self) { try openLog(log.disk) }
        guard case .corrupt(let segment, 176, let reason)? = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(segment == "0000000000000001-0000000000000001.wal")
        #expect(reason.contains("written after everything here was durable"))
    }

    /// A commit index that was written without synchronizing still proves what it was written
    /// after.
    @Test func aCommitOnlyRecordConfirmsTheBatchBeforeIt() throws {
        var log = try RecordedLog()
        try log.write(
            TestBatch(hardState: WALHardState(term: 1, vote: 1), entries: entries(1...3, term: 1)))
        try log.wal.append(WALHardState(term: 1, vote: 1, commit: 3))
        #expect(try log.wal.flush() == false)
        let path = log.disk.paths(under: "/wal")[0]
        var bytes = log.disk.content(path)
        bytes[128 + 48 + 64 + 30] ^= 1
        log.disk.setContent(path, bytes)
        #expect(throws: WALError.self) { try openLog(log.disk) }
    }

    @Test func missingSegments() throws {
        var log = try RecordedLog()
        try log.fill()
        let paths = log.disk.paths(under: "/wal")
        for path in paths.dropFirst() {
            let disk = log.disk.clone()
            disk.delete(path)
            #expect(throws: WALError.self, "\(path)") { try openLog(disk) }
        }
        // The oldest may have been given up, since a snapshot follows; the entries up to it are
        // gone.
        let disk = log.disk.clone()
        disk.delete(paths[0])
        #expect(try openLog(disk).replay.firstIndex == 51)
        for path in paths {
            log.disk.delete(path)
        }
        #expect(throws: WALError.missing(directory: "/wal")) { try openLog(log.disk) }
    }

    @Test func swappedAndForeignSegments() throws {
        var log = try RecordedLog()
        try log.fill()
        let paths = log.disk.paths(under: "/wal")
        for first in paths {
            for second in paths where second != first {
                let disk = log.disk.clone()
                disk.setContent(first, log.disk.content(second))
                disk.setContent(second, log.disk.content(first))
                #expect(throws: WALError.self) { try openLog(disk) }
            }
        }
        // The same segment of another member, which differs in its metadata only.
        let foreign = MemoryDisk()
        let other = try WAL.create(
            disk: foreign, directory: "/wal", configuration: small,
            metadata: WALMetadata(clusterID: 1, memberID: 2, salt: 3))
        let last = paths[paths.count - 1]
        for path in paths.dropLast() {
            let disk = log.disk.clone()
            disk.setContent(path, foreign.content(paths[0]))
            #expect(throws: WALError.self) { try openLog(disk) }
        }
        #expect(other.lastIndex == 0)
        // An older copy of the newest segment has lost records, which its batch structure cannot
        // show, but the state machine's applied index does.
        var bytes = log.disk.content(last)
        bytes.replaceSubrange(128..., with: [UInt8](repeating: 0, count: bytes.count - 128))
        log.disk.setContent(last, bytes)
        #expect(throws: WALError.self) { try openLog(log.disk, replayFrom: 57) }
    }

    @Test func gapsAgainstTheStateMachineAreRefused() throws {
        let disk = MemoryDisk()
        let wal = try WAL.create(
            disk: disk, directory: "/wal", configuration: small, metadata: testMetadata)
        try wal.append(
            TestBatch(
                hardState: WALHardState(term: 1, vote: 1, commit: 60), entries: entries(1...60, term: 1)))
        try wal.flush()
        try wal.truncate(before: 40)
        let first = wal.firstIndex
        #expect(first > 1 && first <= 40)
        #expect(throws: Never.self) { try openLog(disk.clone(), replayFrom: first) }
        #expect(throws: Never.self) { try openLog(disk.clone(), replayFrom: 61) }
        #expect(throws: WALError.self) { try openLog(disk.clone(), replayFrom: first - 1) }
        #expect(throws: WALError.self) { try openLog(disk.clone(), replayFrom: 62) }
    }

    /// Bytes that a client stored are never taken for records, whatever they imitate.
    @Test func valuesThatLookLikeRecords() throws {
        let disk = MemoryDisk()
        let configuration = WALConfiguration(segmentBytes: 8192)
        let wal = try WAL.create(
            disk: disk, directory: "/wal", configuration: configuration, metadata: testMetadata)
        try wal.append(
            TestBatch(hardState: WALHardState(term: 1, vote: 1), entries: entries(1...4, term: 1)))
        try wal.flush()
        let path = disk.paths(under: "/wal")[0]
        // A value made of the log's own bytes, at the same distance from multiples of 8.
        let image = Array(disk.content(path)[128..<400])
        try wal.append(TestEntry(index: 5, term: 1, data: image))
        try wal.flush()
        var bytes = disk.content(path)
        let end = (bytes.lastIndex { $0 != 0 } ?? 0) & ~7
        bytes[end] ^= 1
        disk.setContent(path, bytes)
        let opened = try openLog(disk, configuration: configuration)
        #expect(opened.replay.lastIndex == 4)
        #expect(opened.replay.tornTail != nil)
    }

    @Test func newerVersionIsNamed() throws {
        let disk = MemoryDisk()
        _ = try WAL.create(
            disk: disk, directory: "/wal", configuration: small, metadata: testMetadata)
        let path = disk.paths(under: "/wal")[0]
        var bytes = disk.content(path)
        bytes[8] = 2
        let checksum = checksumOfHeader(bytes)
        for number in 0..<4 {
            bytes[124 + number] = UInt8(truncatingIfNeeded: checksum >> UInt32(8 * number))
        }
        disk.setContent(path, bytes)
        #expect(
            throws: WALError.unsupportedVersion(
                segment: "0000000000000001-0000000000000001.wal", found: 2, supported: 1)
        ) { try openLog(disk) }
    }
}
