// The write-ahead log: what must be durable before the node answers. Files are defined in
// WALFormat.swift; opening and repair are in WALRecovery.swift. The argument why a crash loses
// nothing that `flush` returned for, and why a damaged log is refused rather than cut, is in
// docs/storage-format.md.

/// A write-ahead log of Raft entries and hard state.
///
/// Appending encodes into one buffer; `flush` writes it in one piece per segment and makes it
/// durable. The order of records within a batch keeps every prefix of it a valid Raft state: term
/// and vote, then a received snapshot, then entries, then the commit index.
///
/// Confined to one thread at a time. A failed disk operation poisons the log: every later call
/// throws `.poisoned`, and the process must stop, since what the medium holds is then unknown.
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
    private var spare: Spare?

    private let encoder: WALEncoder
    /// Set when something was appended that a crash must not lose.
    private var needsSynchronization = false

    struct Segment {
        let sequence: UInt64
        let firstIndex: UInt64
        let name: String
    }

    /// The file of the next segment, under its temporary name.
    private struct Spare {
        let file: DiskFile
        /// How much of it has been written before. Overwriting such blocks needs no change of the
        /// file's metadata, which halves the time and CPU of a synchronize (measured: 34 KB, 200
        /// against 113 µs).
        var written: UInt64
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
        encoder = WALEncoder(
            tail, sequence: segments[segments.count - 1].sequence, metadata: metadata,
            configuration: configuration)
    }

    // MARK: - Reading the state

    /// The hard state including what is not yet flushed.
    package var hardState: WALHardState { state.hardState }
    package var lastIndex: UInt64 { state.lastIndex }
    package var snapshot: WALSnapshot { state.snapshot }
    /// Encoded bytes that `flush` would write.
    package var pendingBytes: Int { encoder.count }
    package var segmentCount: Int { segments.count }
    /// The lowest index that the segments on disk may hold.
    package var firstIndex: UInt64 { segments[0].firstIndex }
    /// True when the current segment is half full and the next one is not ready; see
    /// `prepareSegment`.
    package var needsPreparation: Bool {
        !isPrepared && fileOffset >= UInt64(configuration.segmentBytes / 2)
    }

    private var isPrepared: Bool {
        spare.map { $0.written >= UInt64(configuration.segmentBytes) } ?? false
    }

    // MARK: - Appending

    /// Appends what one Raft step wants persisted, in the order that keeps every prefix valid.
    ///
    /// `snapshot` is one received from a leader: it replaces the whole log. `hardState.commit` may
    /// cover the appended entries. Nothing is durable before `flush` returns. Throws
    /// `.entryTooLarge` with the entries before it appended, `.disk` or `.poisoned`.
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

    /// Appends one entry. Its index is at most one above the last and above the commit index; an
    /// index that is already there replaces the log from there on. Its term is at most the hard
    /// state's.
    package func append(_ entry: WALEntry) throws(WALError) {
        guard entry.payload.count <= configuration.maxEntryBytes else {
            throw .entryTooLarge(bytes: entry.payload.count, limit: configuration.maxEntryBytes)
        }
        try checkPoison()
        let length = WALFormat.entryFieldsBytes + entry.payload.count
        encoder.makeRoom(WALFormat.recordBytes(payload: length), state)
        do throws(WALState.Violation) {
            _ = try state.admitEntry(index: entry.index, term: entry.term)
        } catch {
            preconditionFailure(
                "\(error.rawValue): entry \(entry.index) of term \(entry.term) on \(state)")
        }
        encoder.append(entry)
        needsSynchronization = true
        statistics.entriesAppended &+= 1
        try boundBuffer()
    }

    /// Appends the hard state when it differs. The term never decreases, the vote is set once in a
    /// term, the commit index never decreases and is not above the last entry. A mere commit change
    /// needs no synchronization: commitment is established again after a crash.
    package func append(_ hardState: WALHardState) throws(WALError) {
        try checkPoison()
        let before = state.hardState
        guard hardState != before else {
            return
        }
        encoder.makeRoom(WALFormat.recordBytes(payload: 24), state)
        do throws(WALState.Violation) {
            try state.admitHardState(hardState)
        } catch {
            preconditionFailure("\(error.rawValue): \(hardState) on \(state)")
        }
        encoder.append(.hardState, hardState.term, hardState.vote, hardState.commit)
        #if MOONRAFT_MUTATIONS
            if StorageMutation.isOn(.voteWithoutSync) { return try boundBuffer() }
        #endif
        if hardState.term != before.term || hardState.vote != before.vote {
            needsSynchronization = true
        }
        try boundBuffer()
    }

    /// Appends a snapshot marker. With `restartsLog` it is a snapshot received from a leader, and
    /// the log goes on at the index after it; otherwise it notes that the own state machine is
    /// durable up to there.
    package func append(_ snapshot: WALSnapshot, restartsLog: Bool) throws(WALError) {
        try checkPoison()
        encoder.makeRoom(WALFormat.recordBytes(payload: 16), state)
        do throws(WALState.Violation) {
            try state.admitSnapshot(snapshot, restartsLog: restartsLog)
        } catch {
            preconditionFailure("\(error.rawValue): \(snapshot) on \(state)")
        }
        encoder.append(.snapshot, kind: restartsLog ? 1 : 0, snapshot.index, snapshot.term)
        needsSynchronization = needsSynchronization || restartsLog
        try boundBuffer()
    }

    // MARK: - Making durable

    /// Writes what was appended and makes it durable. Returns true when it synchronized, false when
    /// there was nothing that needs it (nothing at all, or only a commit index, which is then
    /// written but may be lost).
    @discardableResult
    package func flush() throws(WALError) -> Bool {
        try checkPoison()
        #if MOONRAFT_MUTATIONS
            if StorageMutation.isOn(.flushWithoutSync) { needsSynchronization = false }
        #endif
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
            encoder.durable = UInt32(clamping: fileOffset)
        }
        return synchronizes
    }

    /// Does one bounded step of preparing the next segment, so that a later cut does not wait for
    /// the space to be found: reserves the file, then writes and synchronizes 1 MiB of zeros a
    /// call. Returns true while there is more to do. Call it when the log is idle; a cut takes the
    /// file as far as it is.
    @discardableResult
    package func prepareSegment() throws(WALError) -> Bool {
        try checkPoison()
        try guarded { () throws(DiskError) in
            guard let spare else {
                self.spare = Spare(file: try makeSpare(), written: 0)
                return
            }
            let left =
                UInt64(configuration.segmentBytes)
                - min(
                    spare.written, UInt64(configuration.segmentBytes))
            if left > 0 {
                let step = min(left, UInt64(Self.preparationStepBytes))
                try WAL.writeZeros(spare.file, from: spare.written, count: step, disk: disk)
                try disk.synchronize(spare.file)
                self.spare?.written += step
            }
        }
        return !isPrepared
    }

    /// The zeros written by one step of `prepareSegment`.
    static let preparationStepBytes = 1 << 20

    /// Gives up segments whose entries all lie below `index`, which must be durable in the state
    /// machine. One of them is kept as the next segment's file. The segment written to always
    /// stays.
    package func truncate(before index: UInt64) throws(WALError) {
        try checkPoison()
        precondition(
            index <= state.hardState.commit &+ 1,
            "truncate before \(index), above commit index \(state.hardState.commit)")
        try guarded { () throws(DiskError) in
            #if MOONRAFT_MUTATIONS
                if StorageMutation.isOn(.truncatesLiveSegment), segments.count > 1 {
                    try giveUp(segments[0])
                    segments.removeFirst()
                }
            #endif
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
                try disk.close(spare.file)
            }
            try disk.close(file)
        }
        poison = DiskError(.write, path: directory, .closed)
    }

    // MARK: - Files

    private func boundBuffer() throws(WALError) {
        if encoder.count >= configuration.bufferBytes {
            try guarded { () throws(DiskError) in try writeOut() }
        }
    }

    /// Writes the buffer to the segments it belongs to. Leaves the last one unsynchronized.
    private func writeOut() throws(DiskError) {
        var written = 0
        for cut in encoder.cuts {
            // The next segment gets its name before the end record of this one is written: so an
            // end record without a next segment means that the next segment was lost.
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
        try write(from: written, to: encoder.count)
        encoder.clear()
    }

    private func write(from start: Int, to end: Int) throws(DiskError) {
        guard start < end else {
            return
        }
        try disk.write(file, at: fileOffset, encoder.bytes(start..<end))
        fileOffset += UInt64(end - start)
        statistics.bytesWritten &+= UInt64(end - start)
    }

    private func makeSegment(_ header: WALSegmentHeader) throws(DiskError) -> DiskFile {
        let prepared: DiskFile
        if let spare {
            prepared = spare.file
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

    /// Recycles or removes a segment. Each step is made durable before the next, so that a crash
    /// leaves no hole in the sequence.
    private func giveUp(_ segment: Segment) throws(DiskError) {
        let path = directory + "/" + segment.name
        if spare == nil {
            let old = try disk.open(path, .readWrite)
            if try disk.size(old) == UInt64(configuration.segmentBytes) {
                let temporary = directory + "/" + WALFormat.spareName
                try disk.rename(path, to: temporary)
                spare = Spare(
                    file: DiskFile(descriptor: old.descriptor, path: temporary),
                    written: UInt64(configuration.segmentBytes))
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
