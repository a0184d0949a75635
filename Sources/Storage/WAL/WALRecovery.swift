// Reading a log back and repairing its end. The rules for telling an unfinished last write, which
// is cut, from damage, which is refused, are argued in docs/storage-format.md, "Recovery".

/// One pass over all segments, oldest first. Nothing on the disk is changed before all checks have
/// passed.
struct WALRecovery {
    let disk: any Disk
    let directory: String
    /// One above the last entry that the state machine has durably applied.
    let replayFrom: UInt64
    /// Entries from here on are handed out, where the log still has them.
    let keepFrom: UInt64
    private(set) var segments: [WAL.Segment] = []
    /// The lowest index that the log still has.
    private var firstIndex: UInt64 = 0
    private var state = WALState(
        hardState: WALHardState(), snapshot: WALSnapshot(), lastIndex: 0, lastTerm: 0)
    /// The last index handed out; 0 for none.
    private var handedOut: UInt64 = 0

    init(disk: any Disk, directory: String, replayFrom: UInt64, keepFrom: UInt64) {
        self.disk = disk
        self.directory = directory
        self.replayFrom = replayFrom
        self.keepFrom = keepFrom
    }

    /// Where reading a segment stopped.
    private struct Scan {
        let reader: WALSegmentReader
        let header: WALSegmentHeader
        let tag: UInt32
        /// One past the last good record.
        var position: UInt64
        /// That record's checksum, or the tag when there is none.
        var previous: UInt32
        /// What that record said to be durable before it. Later bytes may never have been
        /// synchronized.
        var durable: UInt64
        /// The last record was an end record.
        var ended = false

        var isEmpty: Bool { position == UInt64(WALFormat.segmentHeaderBytes) }
    }

    mutating func run(
        names: [String], step: (WALReplayStep) -> Void
    ) throws(WALError) -> (tail: WAL.Tail, state: WALState, replay: WALReplay) {
        segments = try order(names)
        var open: [Scan] = []
        do throws(WALError) {
            for number in segments.indices {
                try visit(number, &open, step: step)
            }
            guard let last = open.last else {
                throw .missing(directory: directory)
            }
            return try finish(last, &open)
        } catch {
            for scan in open {
                try? disk.close(scan.reader.file)
            }
            throw error
        }
    }

    /// Reads segment `number`. `open` holds the one before, unless this is the first, and then this
    /// one. The last two stay open together, since repair may concern both.
    private mutating func visit(
        _ number: Int, _ open: inout [Scan], step: (WALReplayStep) -> Void
    ) throws(WALError) {
        let isLast = number == segments.count - 1
        var scan = try load(segments[number])
        if let before = open.last, !before.ended {
            defer { open.append(scan) }
            // A segment gets its name before the one ahead of it is finished, but no records until
            // then.
            guard isLast, try remains(of: scan).end == nil else {
                throw corrupt(before, "the segment breaks off here but \(scan.reader.name) follows")
            }
            return
        }
        do throws(WALError) {
            try enter(scan, after: open.last)
            try read(&scan, step: step)
        } catch {
            open.append(scan)
            throw error
        }
        if !isLast, let before = open.popLast() {
            try onDisk { () throws(DiskError) in try disk.close(before.reader.file) }
        }
        open.append(scan)
    }

    // MARK: - Reading

    /// Checks that the segment names form one unbroken sequence.
    private func order(_ names: [String]) throws(WALError) -> [WAL.Segment] {
        var found: [WAL.Segment] = []
        for name in names where name.hasSuffix(".wal") {
            guard let parsed = WALFormat.parseSegmentName(name) else {
                throw .corrupt(segment: name, offset: 0, reason: "not the name of a segment")
            }
            found.append(
                WAL.Segment(sequence: parsed.sequence, firstIndex: parsed.firstIndex, name: name))
        }
        found.sort { ($0.sequence, $0.name) < ($1.sequence, $1.name) }
        for (earlier, later) in zip(found, found.dropFirst())
        where later.sequence != earlier.sequence &+ 1 {
            let reason =
                earlier.sequence == later.sequence
                ? "segment \(earlier.name) has the same sequence"
                : "the segment before it is missing; \(earlier.name) is the last one found"
            throw .corrupt(segment: later.name, offset: 0, reason: reason)
        }
        return found
    }

    private func load(_ segment: WAL.Segment) throws(WALError) -> Scan {
        let file = try onDisk { () throws(DiskError) in
            try disk.open(directory + "/" + segment.name, .readWrite)
        }
        do throws(WALError) {
            return try load(segment.name, file)
        } catch {
            try? disk.close(file)
            throw error
        }
    }

    /// Checks that the segment goes on where the one before ended; the first one sets the scene.
    private mutating func enter(_ scan: Scan, after before: Scan?) throws(WALError) {
        let header = scan.header
        guard let before else {
            state = WALState(
                hardState: header.hardState, snapshot: header.snapshot,
                lastIndex: header.firstIndex - 1, lastTerm: header.previousTerm)
            firstIndex = header.firstIndex
            guard state.hardState.commit <= state.lastIndex,
                state.snapshot.index <= state.hardState.commit,
                state.lastTerm <= state.hardState.term
            else {
                throw corruptHeader(scan, "the state in the header contradicts its first index")
            }
            return
        }
        guard header.metadata == before.header.metadata else {
            throw corruptHeader(scan, "the segment belongs to another member's log")
        }
        guard header.previous == before.previous, header.firstIndex - 1 == state.lastIndex,
            header.previousTerm == state.lastTerm, header.hardState == state.hardState,
            header.snapshot == state.snapshot
        else {
            throw corruptHeader(scan, "the segment does not continue \(before.reader.name)")
        }
    }

    /// Reads records while each one follows from the one before.
    private mutating func read(
        _ scan: inout Scan, step: (WALReplayStep) -> Void
    ) throws(WALError) {
        while !scan.ended {
            let found = try onDisk { () throws(DiskError) in
                try scan.reader.record(at: scan.position, tag: scan.tag)
            }
            guard let record = found, record.previous == scan.previous else {
                return
            }
            if let fault = apply(record, step: step) {
                throw corrupt(scan, fault)
            }
            scan.ended = record.type == .end
            scan.position = record.end
            scan.previous = record.checksum
            scan.durable = UInt64(record.durable)
        }
    }

    /// Returns what is wrong with a record whose checksum is right; nil when nothing is.
    private mutating func apply(_ record: WALRecord, step: (WALReplayStep) -> Void) -> String? {
        let payload = record.payload
        func word(_ number: Int) -> UInt64 {
            UInt64(littleEndian: payload.loadUnaligned(fromByteOffset: number * 8, as: UInt64.self))
        }
        do throws(WALState.Violation) {
            switch record.type {
            case .hardState where payload.count == 24:
                try state.admitHardState(
                    WALHardState(term: word(0), vote: word(1), commit: word(2)))
            case .entry where payload.count >= WALFormat.entryFieldsBytes:
                let overwrites = try state.admitEntry(index: word(0), term: word(1))
                let data = UnsafeRawBufferPointer(
                    rebasing: payload[WALFormat.entryFieldsBytes...])
                let entry = WALEntry(
                    index: word(0), term: word(1), kind: record.kind, payload: data)
                handOut(entry, overwrites: overwrites, step: step)
            case .snapshot where payload.count == 16 && record.kind <= 1:
                let snapshot = WALSnapshot(index: word(0), term: word(1))
                try state.admitSnapshot(snapshot, restartsLog: record.kind == 1)
                if record.kind == 1 {
                    restart(after: snapshot.index, step: step)
                }
            case .end where payload.count == 8:
                return word(0) == state.lastIndex
                    ? nil : "the end record names index \(word(0)) after \(state.lastIndex)"
            default:
                return "a \(record.type) record of kind \(record.kind) has \(payload.count) bytes"
            }
        } catch {
            return error.rawValue
        }
        return nil
    }

    private mutating func handOut(
        _ entry: WALEntry, overwrites: Bool, step: (WALReplayStep) -> Void
    ) {
        if overwrites {
            firstIndex = min(firstIndex, entry.index)
            if handedOut >= entry.index {
                step(.discard(from: entry.index))
                handedOut = entry.index - 1
            }
        }
        if entry.index >= keepFrom {
            step(.entry(entry))
            handedOut = entry.index
        }
    }

    private mutating func restart(after index: UInt64, step: (WALReplayStep) -> Void) {
        firstIndex = index &+ 1
        if handedOut > 0 {
            step(.discard(from: 0))
            handedOut = 0
        }
    }

    // MARK: - The end of the log

    /// Judges what lies behind the last good record, and repairs the end when that is allowed.
    private mutating func finish(
        _ last: Scan, _ open: inout [Scan]
    ) throws(WALError) -> (tail: WAL.Tail, state: WALState, replay: WALReplay) {
        let before = open.count > 1 ? open[0] : nil
        var tail = last
        var untouched: Scan?
        if let before, !before.ended {
            tail = before
            untouched = last
        } else if last.ended {
            throw corrupt(last, "the log goes on in a segment after this one, which is missing")
        }
        let remains = try remains(of: tail)
        if let witness = remains.witness {
            throw corrupt(
                tail,
                "the record at byte \(witness) was written after everything here was durable")
        }
        try checkRange(tail)
        try onDisk { () throws(DiskError) in
            try repair(tail, remains, untouched: untouched, before: untouched == nil ? before : nil)
        }
        open.removeAll()
        let torn = remains.end.map { _ in
            WALPosition(segment: tail.reader.name, offset: tail.position)
        }
        return (
            WAL.Tail(
                file: tail.reader.file, tag: tail.tag, position: tail.position,
                capacity: tail.reader.size, previous: tail.previous),
            state,
            WALReplay(
                metadata: tail.header.metadata, hardState: state.hardState,
                snapshot: state.snapshot, firstIndex: firstIndex, lastIndex: state.lastIndex,
                lastTerm: state.lastTerm, tornTail: torn)
        )
    }

    /// Checks that the log reaches from the state machine's last entry on.
    private func checkRange(_ tail: Scan) throws(WALError) {
        let applied = replayFrom == 0 ? 0 : replayFrom - 1
        guard state.lastIndex >= applied else {
            throw corrupt(
                tail,
                "the log ends at index \(state.lastIndex), "
                    + "but the state machine contains entries up to \(applied)")
        }
        guard firstIndex <= max(replayFrom, 1) || firstIndex == state.snapshot.index &+ 1 else {
            throw .corrupt(
                segment: segments.first?.name ?? directory, offset: 0,
                reason: "the log begins at index \(firstIndex), but the state machine needs "
                    + "entries from \(replayFrom) on")
        }
    }

    /// Makes durable what was read, and makes the rest of the last segment unreadable.
    ///
    /// Bytes that were never synchronized are written again: after a failed fdatasync the kernel
    /// may hold them as clean pages that are not on the medium, and a new fdatasync alone would not
    /// write them.
    private mutating func repair(
        _ tail: Scan, _ remains: WALSegmentReader.Remains, untouched: Scan?, before: Scan?
    ) throws(DiskError) {
        if let untouched {
            try disk.close(untouched.reader.file)
            try disk.remove(untouched.reader.file.path)
            segments.removeLast()
        }
        if let before {
            if tail.isEmpty {
                try rewrite(before, from: before.durable, to: before.position)
                try disk.synchronize(before.reader.file)
            }
            try disk.close(before.reader.file)
        }
        try rewrite(tail, from: tail.durable, to: tail.position)
        if let end = remains.end {
            try WAL.writeZeros(
                tail.reader.file, from: tail.position, count: end - tail.position, disk: disk)
        }
        try disk.synchronize(tail.reader.file)
    }

    private func rewrite(_ scan: Scan, from start: UInt64, to end: UInt64) throws(DiskError) {
        var at = start
        while at < end {
            let count = Int(min(end - at, 1 << 20))
            guard let bytes = try scan.reader.bytes(at: at, count: count) else {
                throw DiskError(.read, path: scan.reader.file.path, .unexpectedEnd)
            }
            try disk.write(scan.reader.file, at: at, bytes)
            at += UInt64(count)
        }
    }

    // MARK: - Small parts

    private func load(_ name: String, _ file: DiskFile) throws(WALError) -> Scan {
        let reader = try onDisk { () throws(DiskError) in
            try WALSegmentReader(disk: disk, file: file, name: name)
        }
        let count = Int(min(reader.size, UInt64(WALFormat.segmentHeaderBytes)))
        let raw = try onDisk { () throws(DiskError) in try reader.bytes(at: 0, count: count) }
        let (header, tag) = try WALSegmentHeader.decode(
            raw ?? UnsafeRawBufferPointer(start: nil, count: 0), name: name)
        let start = UInt64(WALFormat.segmentHeaderBytes)
        return Scan(
            reader: reader, header: header, tag: tag, position: start, previous: tag, durable: start)
    }

    private func remains(of scan: Scan) throws(WALError) -> WALSegmentReader.Remains {
        try onDisk { () throws(DiskError) in
            try scan.reader.remains(after: scan.position, tag: scan.tag)
        }
    }

    private func corrupt(_ scan: Scan, _ reason: String) -> WALError {
        .corrupt(segment: scan.reader.name, offset: scan.position, reason: reason)
    }

    private func corruptHeader(_ scan: Scan, _ reason: String) -> WALError {
        .corrupt(segment: scan.reader.name, offset: 0, reason: reason)
    }
}
