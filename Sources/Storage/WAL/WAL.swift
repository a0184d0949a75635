// The write-ahead log: what must be durable before the node answers. Files are defined in WALFormat.swift;
// opening and repair are in WALRecovery.swift. The argument why a crash loses nothing that `flush` returned
// for, and why a damaged log is refused rather than cut, is in docs/storage-format.md.

import CSupport

/// A write-ahead log of Raft entries and hard state.
///
/// Appending encodes into one buffer; `flush` writes it in one piece per segment and makes it durable. The
/// order of records within a batch keeps every prefix of it a valid Raft state: term and vote, then a
/// received snapshot, then entries, then the commit index.
///
/// Confined to one thread at a time. A failed disk operation poisons the log: every later call throws
/// `.poisoned`, and the process must stop, since what the medium holds is then unknown.
package final class WAL {
    package let directory: String
    package let configuration: WALConfiguration
    package let metadata: WALMetadata
    package private(set) var statistics = WALStatistics()

    /// What the log holds, counting what is appended and not flushed.
    private(set) var state: WALState

    private let disk: any Disk
    private var poison: DiskError?

    // What is on the disk.

    /// All segments, oldest first; the last is the one written to.
    private var segments: [Segment]
    private var file: DiskFile
    /// Where the buffer's first byte goes in `file`.
    private var fileOffset: UInt64
    private var spare: DiskFile?
    /// The bytes of the segment being encoded below which all is durable.
    private var durable: UInt32

    // What is being encoded.

    private var buffer: UnsafeMutableRawBufferPointer
    private var count = 0
    /// Where in the buffer a new segment begins, in order.
    private var cuts: [Cut] = []
    private var tag: UInt32
    private var sequence: UInt64
    /// Where the next record goes in its segment.
    private var position: UInt64
    private var capacity: UInt64
    /// The checksum of the last record, or the tag at the start of a segment.
    private var previous: UInt32
    /// Set when something was appended that a crash must not lose.
    private var needsSynchronization = false

    struct Segment {
        let sequence: UInt64
        let firstIndex: UInt64
        let name: String
    }

    private struct Cut {
        let bufferOffset: Int
        let header: WALSegmentHeader
    }

    /// A tail segment that is open, checked and durable up to `position`.
    struct Tail {
        var file: DiskFile
        var tag: UInt32
        var position: UInt64
        var capacity: UInt64
        var previous: UInt32
    }

    init(
        disk: any Disk, directory: String, configuration: WALConfiguration, metadata: WALMetadata,
        state: WALState, segments: [Segment], tail: Tail
    ) {
        precondition(!segments.isEmpty, "a log has at least one segment")
        self.disk = disk
        self.directory = directory
        self.configuration = configuration
        self.metadata = metadata
        self.state = state
        self.segments = segments
        file = tail.file
        fileOffset = tail.position
        durable = UInt32(clamping: tail.position)
        tag = tail.tag
        sequence = segments[segments.count - 1].sequence
        position = tail.position
        capacity = tail.capacity
        previous = tail.previous
        buffer = .allocate(byteCount: 64 << 10, alignment: 16)
    }

    deinit {
        buffer.deallocate()
    }

    // MARK: - Reading the state

    /// The hard state including what is not yet flushed.
    package var hardState: WALHardState { state.hardState }
    package var lastIndex: UInt64 { state.lastIndex }
    package var snapshot: WALSnapshot { state.snapshot }
    /// Encoded bytes that `flush` would write.
    package var pendingBytes: Int { count }
    package var segmentCount: Int { segments.count }
    /// The lowest index that the segments on disk may hold.
    package var firstIndex: UInt64 { segments[0].firstIndex }
    /// True when the next segment is not prepared yet; see `prepareSegment`.
    package var needsPreparation: Bool { spare == nil }

    // MARK: - Appending

    /// Appends what one Raft step wants persisted, in the order that keeps every prefix valid.
    ///
    /// `snapshot` is one received from a leader: it replaces the whole log. `hardState.commit` may cover the
    /// appended entries. Nothing is durable before `flush` returns. Throws `.entryTooLarge` with the entries
    /// before it appended, `.disk` or `.poisoned`.
    package func append(
        hardState: WALHardState?, snapshot: WALSnapshot? = nil, entries: some Sequence<WALEntry>
    ) throws(WALError) {
        if var first = hardState {
            first.commit = state.hardState.commit
            try append(first)
        }
        if let snapshot {
            try append(snapshot, restartsLog: true)
        }
        for entry in entries {
            try append(entry)
        }
        if var last = hardState {
            last.commit = max(last.commit, state.hardState.commit)
            try append(last)
        }
    }

    /// Appends one entry. Its index is at most one above the last and above the commit index; an index that
    /// is already there replaces the log from there on. Its term is at most the hard state's.
    package func append(_ entry: WALEntry) throws(WALError) {
        guard entry.payload.count <= configuration.maxEntryBytes else {
            throw .entryTooLarge(bytes: entry.payload.count, limit: configuration.maxEntryBytes)
        }
        try checkPoison()
        let length = WALFormat.entryFieldsBytes + entry.payload.count
        makeRoom(WALFormat.recordBytes(payload: length))
        do throws(WALState.Violation) {
            _ = try state.admitEntry(index: entry.index, term: entry.term)
        } catch {
            preconditionFailure(
                "\(error.rawValue): entry \(entry.index) of term \(entry.term) on \(state)")
        }
        let record = reserve(.entry, kind: entry.kind, length: length)
        let fields = record + WALFormat.recordHeaderBytes
        fields.storeBytes(of: entry.index.littleEndian, as: UInt64.self)
        fields.storeBytes(of: entry.term.littleEndian, toByteOffset: 8, as: UInt64.self)
        if let source = entry.payload.baseAddress {
            (fields + WALFormat.entryFieldsBytes).copyMemory(
                from: source, byteCount: entry.payload.count)
        }
        seal(record, length: length)
        needsSynchronization = true
        statistics.entriesAppended &+= 1
        try boundBuffer()
    }

    /// Appends the hard state when it differs. The term never decreases, the vote is set once in a term, the
    /// commit index never decreases and is not above the last entry. A mere commit change needs no
    /// synchronization: commitment is established again after a crash.
    package func append(_ hardState: WALHardState) throws(WALError) {
        try checkPoison()
        let before = state.hardState
        guard hardState != before else {
            return
        }
        makeRoom(WALFormat.recordBytes(payload: 24))
        do throws(WALState.Violation) {
            try state.admitHardState(hardState)
        } catch {
            preconditionFailure("\(error.rawValue): \(hardState) on \(state)")
        }
        appendWords(.hardState, kind: 0, hardState.term, hardState.vote, hardState.commit)
        if hardState.term != before.term || hardState.vote != before.vote {
            needsSynchronization = true
        }
        try boundBuffer()
    }

    /// Appends a snapshot marker. With `restartsLog` it is a snapshot received from a leader, and the log
    /// goes on at the index after it; otherwise it notes that the own state machine is durable up to there.
    package func append(_ snapshot: WALSnapshot, restartsLog: Bool) throws(WALError) {
        try checkPoison()
        makeRoom(WALFormat.recordBytes(payload: 16))
        do throws(WALState.Violation) {
            try state.admitSnapshot(snapshot, restartsLog: restartsLog)
        } catch {
            preconditionFailure("\(error.rawValue): \(snapshot) on \(state)")
        }
        appendWords(.snapshot, kind: restartsLog ? 1 : 0, snapshot.index, snapshot.term)
        needsSynchronization = needsSynchronization || restartsLog
        try boundBuffer()
    }

    // MARK: - Making durable

    /// Writes what was appended and makes it durable. Returns true when it synchronized, false when there was
    /// nothing that needs it (nothing at all, or only a commit index, which is then written but may be lost).
    @discardableResult
    package func flush() throws(WALError) -> Bool {
        try checkPoison()
        let synchronizes = needsSynchronization
        try guarded { () throws(DiskError) in
            try writeOut()
            if synchronizes {
                try disk.synchronize(file)
            }
        }
        if synchronizes {
            statistics.synchronizations &+= 1
            needsSynchronization = false
            durable = UInt32(clamping: fileOffset)
        }
        return synchronizes
    }

    /// Prepares the file of the next segment, so that a later cut does not wait for the space to be found.
    /// Call it when the log is idle; does nothing when one is ready.
    package func prepareSegment() throws(WALError) {
        try checkPoison()
        guard spare == nil else {
            return
        }
        try guarded { () throws(DiskError) in
            spare = try makeSpare()
        }
    }

    /// Gives up segments whose entries all lie below `index`, which must be durable in the state machine.
    /// One of them is kept as the next segment's file. The segment written to always stays.
    package func truncate(before index: UInt64) throws(WALError) {
        try checkPoison()
        precondition(
            index <= state.hardState.commit &+ 1,
            "truncate before \(index), above commit index \(state.hardState.commit)")
        try guarded { () throws(DiskError) in
            while segments.count > 1, segments[1].firstIndex <= index {
                try giveUp(segments[0])
                segments.removeFirst()
            }
        }
    }

    /// Flushes and closes the files. The log must not be used afterwards.
    package func close() throws(WALError) {
        try flush()
        try guarded { () throws(DiskError) in
            if let spare {
                self.spare = nil
                try disk.close(spare)
            }
            try disk.close(file)
        }
        poison = DiskError(.write, path: directory, .closed)
    }

    // MARK: - Encoding

    /// Grows the buffer for `bytes` more, and ends the segment when the record would not leave room for the
    /// end record behind it.
    private func makeRoom(_ bytes: Int) {
        if position + UInt64(bytes + WALFormat.endRecordBytes) > capacity {
            cut()
        }
        let needed = count + bytes + WALFormat.endRecordBytes
        guard needed > buffer.count else {
            return
        }
        let larger = UnsafeMutableRawBufferPointer.allocate(
            byteCount: max(needed, buffer.count * 2), alignment: 16)
        larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        buffer.deallocate()
        buffer = larger
    }

    /// Ends the segment being encoded and starts the next one, in the buffer only.
    private func cut() {
        // Room for the end record was kept by every makeRoom.
        appendWords(.end, kind: 0, state.lastIndex)
        sequence += 1
        let header = WALSegmentHeader(
            sequence: sequence, firstIndex: state.lastIndex + 1, metadata: metadata,
            hardState: state.hardState, snapshot: state.snapshot, previousTerm: state.lastTerm,
            previous: previous)
        cuts.append(Cut(bufferOffset: count, header: header))
        tag = header.encoded().tag
        previous = tag
        position = UInt64(WALFormat.segmentHeaderBytes)
        capacity = UInt64(configuration.segmentBytes)
        durable = UInt32(WALFormat.segmentHeaderBytes)
    }

    private func appendWords(_ type: WALRecordType, kind: UInt8, _ words: UInt64...) {
        let length = words.count * 8
        let record = reserve(type, kind: kind, length: length)
        for (number, word) in words.enumerated() {
            record.storeBytes(
                of: word.littleEndian, toByteOffset: WALFormat.recordHeaderBytes + number * 8,
                as: UInt64.self)
        }
        seal(record, length: length)
    }

    /// Writes the record header but for the checksum. The caller made room and fills the payload.
    @inline(__always)
    private func reserve(_ type: WALRecordType, kind: UInt8, length: Int) -> UnsafeMutableRawPointer {
        guard let base = buffer.baseAddress else {
            preconditionFailure("the log's buffer is empty")
        }
        precondition(
            count + WALFormat.recordBytes(payload: length) <= buffer.count,
            "no room for \(length) bytes at \(count) of \(buffer.count)")
        let record = base + count
        record.storeBytes(of: UInt32(length).littleEndian, toByteOffset: 4, as: UInt32.self)
        record.storeBytes(of: type.rawValue, toByteOffset: 8, as: UInt8.self)
        record.storeBytes(of: kind, toByteOffset: 9, as: UInt8.self)
        record.storeBytes(of: 0, toByteOffset: 10, as: UInt16.self)
        record.storeBytes(of: tag.littleEndian, toByteOffset: 12, as: UInt32.self)
        record.storeBytes(of: durable.littleEndian, toByteOffset: 16, as: UInt32.self)
        record.storeBytes(of: previous.littleEndian, toByteOffset: 20, as: UInt32.self)
        return record
    }

    @inline(__always)
    private func seal(_ record: UnsafeMutableRawPointer, length: Int) {
        let total = WALFormat.recordBytes(payload: length)
        let used = WALFormat.recordHeaderBytes + length
        if total > used {
            (record + used).initializeMemory(as: UInt8.self, repeating: 0, count: total - used)
        }
        let checksum = WALFormat.checksum(
            tag: tag, offset: position, UnsafeRawPointer(record), count: total)
        record.storeBytes(of: checksum.littleEndian, as: UInt32.self)
        previous = checksum
        position += UInt64(total)
        count += total
    }

    private func boundBuffer() throws(WALError) {
        if count >= configuration.bufferBytes {
            try guarded { () throws(DiskError) in try writeOut() }
        }
    }

    // MARK: - Files

    /// Writes the buffer to the segments it belongs to. Leaves the last one unsynchronized.
    private func writeOut() throws(DiskError) {
        var written = 0
        for cut in cuts {
            // The next segment gets its name before the end record of this one is written: so an end record
            // without a next segment means that the next segment was lost.
            let next = try makeSegment(cut.header)
            try write(from: written, to: cut.bufferOffset)
            try disk.synchronize(file)
            try disk.close(file)
            file = next
            fileOffset = UInt64(WALFormat.segmentHeaderBytes)
            written = cut.bufferOffset
            statistics.segmentsCut &+= 1
            statistics.synchronizations &+= 1
        }
        try write(from: written, to: count)
        cuts.removeAll(keepingCapacity: true)
        count = 0
        if buffer.count > 2 * max(configuration.bufferBytes, 64 << 10) {
            buffer.deallocate()
            buffer = .allocate(byteCount: 64 << 10, alignment: 16)
        }
    }

    private func write(from start: Int, to end: Int) throws(DiskError) {
        guard start < end else {
            return
        }
        try disk.write(file, at: fileOffset, UnsafeRawBufferPointer(rebasing: buffer[start..<end]))
        fileOffset += UInt64(end - start)
        statistics.bytesWritten &+= UInt64(end - start)
    }

    private func makeSegment(_ header: WALSegmentHeader) throws(DiskError) -> DiskFile {
        let prepared: DiskFile
        if let spare {
            prepared = spare
            self.spare = nil
        } else {
            prepared = try makeSpare()
        }
        let named = try WAL.name(prepared, header, disk: disk, directory: directory)
        segments.append(
            Segment(sequence: header.sequence, firstIndex: header.firstIndex, name: header.name))
        return named
    }

    private func makeSpare() throws(DiskError) -> DiskFile {
        try WAL.makeSpare(disk: disk, directory: directory, bytes: configuration.segmentBytes)
    }

    /// Makes the file of a future segment under its temporary name.
    static func makeSpare(
        disk: any Disk, directory: String, bytes: Int
    ) throws(DiskError) -> DiskFile {
        let file = try disk.open(directory + "/" + WALFormat.spareName, .createNew)
        try disk.preallocate(file, size: UInt64(bytes))
        return file
    }

    /// Turns the spare file into the segment with this header: content first, then the name.
    static func name(
        _ spare: DiskFile, _ header: WALSegmentHeader, disk: any Disk, directory: String
    ) throws(DiskError) -> DiskFile {
        try disk.write(spare, at: 0, header.encoded().bytes)
        try disk.synchronize(spare)
        let path = directory + "/" + header.name
        try disk.rename(directory + "/" + WALFormat.spareName, to: path)
        try disk.synchronizeDirectory(directory)
        return DiskFile(descriptor: spare.descriptor, path: path)
    }

    /// Recycles or removes a segment. Each step is made durable before the next, so that a crash leaves no
    /// hole in the sequence.
    private func giveUp(_ segment: Segment) throws(DiskError) {
        let path = directory + "/" + segment.name
        if spare == nil {
            let old = try disk.open(path, .readWrite)
            if try disk.size(old) == UInt64(configuration.segmentBytes) {
                let temporary = directory + "/" + WALFormat.spareName
                try disk.rename(path, to: temporary)
                spare = DiskFile(descriptor: old.descriptor, path: temporary)
                statistics.segmentsRecycled &+= 1
                try disk.synchronizeDirectory(directory)
                return
            }
            try disk.close(old)
        }
        try disk.remove(path)
        statistics.segmentsRemoved &+= 1
        try disk.synchronizeDirectory(directory)
    }

    // MARK: - Poison

    @inline(__always)
    private func checkPoison() throws(WALError) {
        if let poison {
            throw .poisoned(poison)
        }
    }

    private func guarded(_ body: () throws(DiskError) -> Void) throws(WALError) {
        do throws(DiskError) {
            try body()
        } catch {
            poison = error
            throw .disk(error)
        }
    }
}
