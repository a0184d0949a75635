import CSupport
import Storage

/// An entry with its own bytes, so that logs can be compared as values.
struct TestEntry: Equatable {
    var index: UInt64
    var term: UInt64
    var kind: UInt8 = 0
    var data: [UInt8]
}

/// One appended batch and what the log amounts to after it.
struct TestBatch {
    var hardState: WALHardState?
    var snapshot: WALSnapshot?
    var entries: [TestEntry]
}

/// The log a reader of all steps ends up with.
struct TestLog: Equatable {
    var hardState = WALHardState()
    var snapshot = WALSnapshot()
    var entries: [TestEntry] = []

    mutating func apply(_ step: WALReplayStep) {
        switch step {
        case .entry(let entry):
            entries.append(
                TestEntry(
                    index: entry.index, term: entry.term, kind: entry.kind,
                    data: Array(entry.payload)))
        case .discard(let index):
            entries.removeAll { $0.index >= index }
        }
    }

    /// The naive model of `WAL.append`.
    mutating func apply(_ batch: TestBatch) {
        if let snapshot = batch.snapshot {
            self.snapshot = snapshot
            entries = []
            hardState.commit = max(hardState.commit, snapshot.index)
        }
        for entry in batch.entries {
            entries.removeAll { $0.index >= entry.index }
            entries.append(entry)
        }
        if var state = batch.hardState {
            state.commit = max(state.commit, hardState.commit)
            hardState = state
        }
    }
}

let testMetadata = WALMetadata(
    clusterID: 0x1122_3344_5566_7788, memberID: 0x99aa_bbcc_ddee_ff00, salt: 0x0102_0304_0506_0708)

extension WAL {
    func append(_ batch: TestBatch) throws(WALError) {
        let bytes = batch.entries.flatMap(\.data)
        try bytes.withUnsafeBufferPointer { buffer throws(WALError) in
            let raw = UnsafeRawBufferPointer(buffer)
            var start = 0
            let entries = batch.entries.map { entry -> WALEntry in
                let payload = UnsafeRawBufferPointer(rebasing: raw[start..<start + entry.data.count])
                start += entry.data.count
                return WALEntry(
                    index: entry.index, term: entry.term, kind: entry.kind, payload: payload)
            }
            try append(hardState: batch.hardState, snapshot: batch.snapshot, entries: entries)
        }
    }

    func append(_ entry: TestEntry) throws(WALError) {
        try append(TestBatch(entries: [entry]))
    }
}

/// A log of several segments on a memory disk, with every state it went through.
struct RecordedLog {
    let disk = MemoryDisk()
    let wal: WAL
    /// The state after each record, in the order of writing; the first is the empty log.
    var states = [TestLog()]
    /// The position in `states` after each flushed batch.
    var flushed: [Int] = []

    init(configuration: WALConfiguration = small) throws(WALError) {
        wal = try WAL.create(
            disk: disk, directory: "/wal", configuration: configuration, metadata: testMetadata)
    }

    /// Appends and flushes; the states are noted first, since a failing disk may keep any of them.
    mutating func write(_ batch: TestBatch) throws(WALError) {
        note(batch)
        try wal.append(batch)
        try wal.flush()
        flushed.append(states.count - 1)
    }

    /// Notes the state after each record of the batch, in the order that `WAL.append` promises.
    private mutating func note(_ batch: TestBatch) {
        var state = states[states.count - 1]
        func next(_ part: TestBatch) {
            state.apply(part)
            states.append(state)
        }
        if var first = batch.hardState {
            first.commit = 0
            next(TestBatch(hardState: first, entries: []))
        }
        if let snapshot = batch.snapshot {
            next(TestBatch(snapshot: snapshot, entries: []))
        }
        for entry in batch.entries {
            next(TestBatch(entries: [entry]))
        }
        if let last = batch.hardState {
            next(TestBatch(hardState: last, entries: []))
        }
    }

    /// Seven batches: plain ones, one with overwritten entries, one over two segment borders, one
    /// with only a commit index, one with a received snapshot.
    mutating func fill() throws(WALError) {
        func state(_ term: UInt64, _ commit: UInt64) -> WALHardState {
            WALHardState(term: term, vote: term, commit: commit)
        }
        try write(TestBatch(hardState: state(1, 0), entries: entries(1...4, term: 1)))
        try write(TestBatch(hardState: state(1, 2), entries: entries(5...6, term: 1, bytes: 3)))
        try write(TestBatch(hardState: state(2, 3), entries: entries(4...9, term: 2)))
        try write(TestBatch(hardState: state(2, 9), entries: entries(10...35, term: 2, bytes: 40)))
        try write(TestBatch(hardState: state(2, 20), entries: []))
        try write(
            TestBatch(
                hardState: state(3, 50), snapshot: WALSnapshot(index: 50, term: 3),
                entries: entries(51...53, term: 3)))
        try write(TestBatch(hardState: state(3, 52), entries: entries(54...56, term: 3)))
    }
}

/// Opens the log and returns it with all it holds.
func openLog(
    _ disk: any Disk, _ directory: String = "/wal", configuration: WALConfiguration = small,
    replayFrom: UInt64 = 1
) throws(WALError) -> (wal: WAL, replay: WALReplay, log: TestLog) {
    var log = TestLog()
    let (wal, replay) = try WAL.open(
        disk: disk, directory: directory, configuration: configuration, replayFrom: replayFrom
    ) { log.apply($0) }
    log.hardState = replay.hardState
    log.snapshot = replay.snapshot
    return (wal, replay, log)
}

/// Segments of 1 KiB: a few entries fill one.
let small = WALConfiguration(segmentBytes: 1024)

func entries(_ range: ClosedRange<UInt64>, term: UInt64, bytes: Int = 24) -> [TestEntry] {
    range.map { index in
        TestEntry(
            index: index, term: term, kind: UInt8(truncatingIfNeeded: index & 3),
            data: (0..<bytes).map { UInt8(truncatingIfNeeded: Int(index) &* 31 &+ $0) })
    }
}

/// The checksum that a segment header with these bytes must carry.
func checksumOfHeader(_ bytes: [UInt8]) -> UInt32 {
    moonraft_crc32c(0, bytes, 124)
}
