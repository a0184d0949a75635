// Making and opening a log.

extension WAL {
    /// True when the directory holds a log (an interrupted `create` does not count).
    package static func exists(disk: any Disk, directory: String) throws(WALError) -> Bool {
        do throws(DiskError) {
            return try disk.list(directory).contains { WALFormat.parseSegmentName($0) != nil }
        } catch {
            if error.operation == .list, error.reason == .system(WAL.noSuchFile) {
                return false
            }
            throw .disk(error)
        }
    }

    /// Makes a new log, in the directory of that name, which is made when missing.
    ///
    /// `base` is the last entry that the state machine already contains, for a member that starts
    /// from a snapshot. Takes the time to write one segment of zeros (64 MiB: about 0.1 s). A crash
    /// on the way leaves either no log or a whole one.
    package static func create(
        disk: any Disk, directory: String, configuration: WALConfiguration = WALConfiguration(),
        metadata: WALMetadata, base: WALSnapshot = WALSnapshot()
    ) throws(WALError) -> WAL {
        try check(configuration)
        guard try !exists(disk: disk, directory: directory) else {
            throw .exists(directory: directory)
        }
        let state = WALState(
            hardState: WALHardState(term: base.term, vote: 0, commit: base.index),
            snapshot: base, lastIndex: base.index, lastTerm: base.term)
        let header = WALSegmentHeader(
            sequence: 1, firstIndex: base.index &+ 1, metadata: metadata,
            hardState: state.hardState, snapshot: base, previousTerm: base.term, previous: 0)
        let file = try onDisk { () throws(DiskError) in
            try disk.createDirectory(directory)
            try removeTemporaries(disk: disk, directory: directory)
            let spare = try makeSpare(
                disk: disk, directory: directory, bytes: configuration.segmentBytes)
            try writeZeros(spare, from: 0, count: UInt64(configuration.segmentBytes), disk: disk)
            let file = try name(spare, header, disk: disk, directory: directory)
            try disk.synchronizeDirectory(parent(of: directory))
            return file
        }
        let tag = header.encoded().tag
        return WAL(
            disk: disk, directory: directory, configuration: configuration, metadata: metadata,
            state: state,
            segments: [Segment(sequence: 1, firstIndex: header.firstIndex, name: header.name)],
            tail: Tail(
                file: file, tag: tag, position: UInt64(WALFormat.segmentHeaderBytes),
                capacity: UInt64(configuration.segmentBytes), previous: tag))
    }

    /// Opens a log, hands out what it holds, and leaves it ready for appending.
    ///
    /// `replayFrom` is one above the last entry that the state machine has durably applied: entries
    /// below it are not handed out, and a log that ends before it, or begins after it without a
    /// snapshot marker in between, has lost entries and is refused. Entries between `keepFrom` and
    /// `replayFrom` are handed out as well where the log still has them, for peers that lag. `step` is called in log order
    /// while the log is read; when `open` throws, what it was given must be dropped. All that was
    /// handed out is durable when `open` returns. Throws `.missing`, `.corrupt` with segment and
    /// offset, `.unsupportedVersion`, `.disk`.
    package static func open(
        disk: any Disk, directory: String, configuration: WALConfiguration = WALConfiguration(),
        replayFrom: UInt64, keepFrom: UInt64? = nil, step: (WALReplayStep) -> Void
    ) throws(WALError) -> (wal: WAL, replay: WALReplay) {
        try check(configuration)
        guard try exists(disk: disk, directory: directory) else {
            throw .missing(directory: directory)
        }
        var recovery = WALRecovery(
            disk: disk, directory: directory, replayFrom: replayFrom,
            keepFrom: min(keepFrom ?? replayFrom, replayFrom))
        let names = try onDisk { () throws(DiskError) in
            try disk.createDirectory(directory)
            try removeTemporaries(disk: disk, directory: directory)
            return try disk.list(directory)
        }
        let (tail, state, replay) = try recovery.run(names: names, step: step)
        // An interrupted `create` may have left the names visible and not durable.
        try onDisk { () throws(DiskError) in
            do throws(DiskError) {
                try disk.synchronizeDirectory(directory)
                try disk.synchronizeDirectory(parent(of: directory))
            } catch {
                try? disk.close(tail.file)
                throw error
            }
        }
        let wal = WAL(
            disk: disk, directory: directory, configuration: configuration,
            metadata: replay.metadata, state: state, segments: recovery.segments, tail: tail)
        return (wal, replay)
    }

    private static func check(_ configuration: WALConfiguration) throws(WALError) {
        let bytes = configuration.segmentBytes
        guard bytes >= WALFormat.minSegmentBytes, bytes <= WALFormat.maxSegmentBytes, bytes % 8 == 0
        else {
            throw .invalidConfiguration(
                "segment size \(bytes) is not a multiple of 8 from \(WALFormat.minSegmentBytes) "
                    + "to \(WALFormat.maxSegmentBytes)")
        }
        guard configuration.bufferBytes > 0 else {
            throw .invalidConfiguration("buffer size \(configuration.bufferBytes) is not positive")
        }
    }

    /// A spare file is worth less than the certainty of its state, so none survives a restart.
    private static func removeTemporaries(disk: any Disk, directory: String) throws(DiskError) {
        if try disk.list(directory).contains(WALFormat.spareName) {
            try disk.remove(directory + "/" + WALFormat.spareName)
        }
    }

    private static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else {
            return "."
        }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// ENOENT, the same on every Linux architecture.
    private static let noSuchFile: Int32 = 2
}
