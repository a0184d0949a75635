import Storage
import Testing

/// A power cut at any moment loses nothing that `flush` returned for and is always recovered from,
/// whichever sectors of the unsynchronized writes had reached the medium. Method: a run of batches
/// with segment cuts and truncation is stopped at every disk operation; from there every subset of
/// the dirty sectors (or a sample of large ones) is made a disk and opened; opening itself is cut
/// off at every operation too.
@Suite struct WALCrashTests {
    private let medium = WALConfiguration(segmentBytes: 4096)

    /// Runs the script until the disk fails. Returns the log and how far it was acknowledged.
    private func run(failAt number: Int?) throws -> (log: RecordedLog, acknowledged: Int, done: Bool) {
        var log = try RecordedLog(configuration: medium)
        let disk = log.disk
        let base = disk.operations.count
        if let number {
            disk.failAt = (base + number, 5)
        }
        var next: UInt64 = 1
        do throws(WALError) {
            for round in 0..<13 as Range<UInt64> {
                let count = 1 + round % 4 * 3
                // Every third round rewrites the last, not committed entry, with a new term.
                let first = round % 3 == 2 ? next - 1 : next
                let batch = entries(
                    first...first + count, term: round + 1, bytes: Int(20 + round * 57))
                try log.write(
                    TestBatch(
                        hardState: WALHardState(term: round + 1, vote: 1, commit: max(1, first) - 1),
                        entries: batch))
                next = first + count + 1
                if round % 2 == 1 {
                    while try log.wal.prepareSegment() {}
                }
                if round == 5 {
                    try log.wal.truncate(before: first)
                }
            }
        } catch {
            guard case .disk = error else { throw error }
            #expect(throws: WALError.self) { try log.wal.flush() }
            return (log, log.flushed.last ?? 0, false)
        }
        disk.failAt = nil
        return (log, log.flushed.last ?? 0, true)
    }

    private func replayStart(_ state: TestLog) -> UInt64 {
        state.hardState.commit + 1
    }

    /// Opens the disk and checks what comes back; `from` bounds the entries compared.
    private func check(
        _ disk: MemoryDisk, _ log: RecordedLog, acknowledged: Int, _ what: @autoclosure () -> String
    ) throws {
        let start = replayStart(log.states[acknowledged])
        do throws(WALError) {
            let opened = try openLog(
                disk, configuration: medium, replayFrom: start)
            let expected = log.states[acknowledged...].contains { state in
                state.hardState == opened.log.hardState
                    && state.entries.filter { $0.index >= start } == opened.log.entries
            }
            if !expected {
                Issue.record("\(what()): opened to \(opened.log.hardState), not a state the log had")
            }
        } catch {
            Issue.record("\(what()): \(error)")
        }
    }

    private struct Random {
        var state: UInt64

        mutating func next() -> UInt64 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return state
        }
    }

    @Test func powerCutAtEveryOperation() throws {
        let whole = try run(failAt: nil)
        #expect(whole.done)
        #expect(whole.log.wal.statistics.segmentsCut >= 3)
        let operations = whole.log.disk.operations.count
        var variants = 0
        var torn = 0
        for number in 0..<operations {
            let (log, acknowledged, done) = try run(failAt: number)
            if done { break }
            for newNames in [false, true] {
                let dirty = log.disk.dirtySectors(newNames: newNames)
                let all: UInt64 = dirty.count <= 6 ? (1 << UInt64(dirty.count)) - 1 : 63
                var random = Random(state: UInt64(number) + 1)
                for subset in 0...all {
                    let mask = dirty.count <= 6 ? subset : random.next()
                    let disk = log.disk.afterPowerCut(newNames: newNames) { path, sector in
                        let place = dirty.firstIndex { $0.path == path && $0.sector == sector }
                        return place.map { mask >> UInt64($0 % 64) & 1 == 1 } ?? false
                    }
                    variants += 1
                    if mask != 0 { torn += 1 }
                    try check(
                        disk.clone(), log, acknowledged: acknowledged,
                        "operation \(number), sectors \(String(mask, radix: 2)), names \(newNames)")
                    if subset % 7 == 0 {
                        try cutDuringRecovery(disk, log, acknowledged, "operation \(number)")
                    }
                }
            }
        }
        #expect(variants > 500 && torn > 200, "\(variants) disks, \(torn) torn")
    }

    /// Recovery writes too; a power cut in the middle of it must leave a log that recovers.
    private func cutDuringRecovery(
        _ damaged: MemoryDisk, _ log: RecordedLog, _ acknowledged: Int, _ what: String
    ) throws {
        let start = replayStart(log.states[acknowledged])
        for number in 0..<60 {
            let disk = damaged.clone()
            disk.failAt = (number, 5)
            if (try? openLog(disk, configuration: medium, replayFrom: start)) != nil { return }
            for choice in 0..<3 {
                let again = disk.afterPowerCut(newNames: choice != 1) { _, sector in
                    choice == 0 || (choice == 2 && sector % 2 == 0)
                }
                try check(
                    again, log, acknowledged: acknowledged,
                    "\(what), recovery stopped at operation \(number), choice \(choice)")
            }
        }
        Issue.record("recovery takes too many operations")
    }

    /// What replay handed out is durable: a power cut right after opening changes nothing. This
    /// holds also when the last write was only in the page cache, and when a failed synchronize has
    /// left it there as clean.
    @Test func whatOpenReturnsIsDurable() throws {
        for number in 0..<400 {
            let (log, acknowledged, done) = try run(failAt: number)
            if done { break }
            // The process was killed: all writes are in the page cache, none is lost yet.
            let disk = log.disk.clone()
            let start = replayStart(log.states[acknowledged])
            let opened = try openLog(disk, configuration: medium, replayFrom: start)
            let after = disk.afterPowerCut(newNames: false) { _, _ in false }
            let again = try openLog(after, configuration: medium, replayFrom: start)
            #expect(again.log == opened.log, "operation \(number)")
        }
    }

    /// A full or failing disk stops the log: the error names operation, path and cause, and nothing
    /// works after.
    @Test func everyFailurePoisons() throws {
        for code in [5, 28] as [Int32] {
            var seen: Set<DiskError.Operation> = []
            for number in 0..<400 {
                var log = try RecordedLog()
                log.disk.failAt = (log.disk.operations.count + number, code)
                do throws(WALError) {
                    while try log.wal.prepareSegment() {}
                    try log.fill()
                    try log.wal.truncate(before: 40)
                    try log.wal.close()
                    break
                } catch {
                    guard case .disk(let cause) = error else {
                        Issue.record("\(error)")
                        continue
                    }
                    seen.insert(cause.operation)
                    #expect(cause.reason == .system(code))
                    let text = error.description
                    #expect(text.contains("/wal") && text.contains(cause.operation.rawValue))
                    #expect(
                        text.contains(code == 5 ? "Input/output error" : "No space left on device"))
                    let poisoned = WALError.poisoned(cause)
                    #expect(throws: poisoned) { try log.wal.flush() }
                    #expect(throws: poisoned) {
                        try log.wal.append(WALHardState(term: 99, vote: 0, commit: 0))
                    }
                    #expect(throws: poisoned) { try log.wal.append(entries(1...1, term: 1)[0]) }
                    #expect(throws: poisoned) { try log.wal.prepareSegment() }
                    #expect(throws: poisoned) { try log.wal.truncate(before: 0) }
                }
            }
            #expect(
                seen.isSuperset(of: [
                    .open, .preallocate, .write, .synchronize, .rename, .synchronizeDirectory, .close,
                ]))
        }
    }

    /// The same while opening and creating.
    @Test func failuresWhileOpening() throws {
        var log = try RecordedLog()
        try log.fill()
        for number in 0..<400 {
            let disk = log.disk.clone()
            disk.failAt = (number, 5)
            do throws(WALError) {
                _ = try openLog(disk)
                #expect(number > 10)
                break
            } catch {
                guard case .disk = error else {
                    Issue.record("\(error)")
                    continue
                }
            }
        }
        for number in 0..<30 {
            let disk = MemoryDisk()
            disk.failAt = (number, 28)
            do throws(WALError) {
                _ = try WAL.create(disk: disk, directory: "/wal", metadata: testMetadata)
                #expect(number > 5)
                break
            } catch {
                guard case .disk = error else {
                    Issue.record("\(error)")
                    continue
                }
                disk.failAt = nil
                // Either no log yet, which create replaces, or a whole one.
                if try WAL.exists(disk: disk, directory: "/wal") {
                    #expect(throws: Never.self) { try openLog(disk) }
                } else {
                    #expect(throws: Never.self) {
                        try WAL.create(disk: disk, directory: "/wal", metadata: testMetadata)
                    }
                }
            }
        }
    }

    /// Two batches were written to the same place, the first one torn and given up, and the later
    /// lost its end: what is left of the first must not continue the second.
    @Test func leftoversOfAnotherBatchDoNotContinueTheChain() throws {
        var first = try RecordedLog()
        try first.write(
            TestBatch(hardState: WALHardState(term: 9, vote: 1), entries: entries(1...2, term: 1)))
        let before = first.disk.clone()
        try first.write(TestBatch(entries: entries(3...6, term: 8)))
        let second = try openLog(before).wal
        for entry in entries(3...6, term: 9) { try second.append(entry) }
        try second.flush()
        let path = first.disk.paths(under: "/wal")[0]
        var bytes = first.disk.content(path)
        // The records of both are alike in size: 128 of header, 48 of hard state, 64 for each
        // entry.
        let third = 128 + 48 + 2 * 64
        bytes.replaceSubrange(third..<third + 64, with: before.content(path)[third..<third + 64])
        first.disk.setContent(path, bytes)
        let opened = try openLog(first.disk)
        #expect(opened.log.entries == entries(1...2, term: 1) + entries(3...3, term: 9))
    }

    /// A log that was created and used survives even when `create` was interrupted before its name
    /// was durable.
    @Test func namesLeftByAnInterruptedCreateBecomeDurable() throws {
        for number in 0..<30 {
            let disk = MemoryDisk()
            disk.failAt = (number, 5)
            if (try? WAL.create(disk: disk, directory: "/wal", metadata: testMetadata)) != nil { return }
            disk.failAt = nil
            guard try WAL.exists(disk: disk, directory: "/wal") else { continue }
            let wal = try openLog(disk).wal
            try wal.append(WALHardState(term: 1, vote: 1))
            try wal.flush()
            let after = disk.afterPowerCut(newNames: false) { _, _ in false }
            #expect(try openLog(after).log.hardState.term == 1)
        }
    }
}
