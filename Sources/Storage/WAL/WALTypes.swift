/// Who a log belongs to; stated in every segment, fixed when the log is created.
package struct WALMetadata: Equatable, Sendable {
    package let clusterID: UInt64
    package let memberID: UInt64
    /// A number clients cannot know, chosen at random when the log is created. It enters every
    /// checksum, so that no value a client stores can pass for a record when a damaged log is
    /// searched.
    package let salt: UInt64

    package init(clusterID: UInt64, memberID: UInt64, salt: UInt64) {
        self.clusterID = clusterID
        self.memberID = memberID
        self.salt = salt
    }
}

/// Raft's persistent state beside the entries (Raft thesis, figure 3.1, and the commit index as a
/// hint).
package struct WALHardState: Equatable, Sendable {
    package var term: UInt64
    /// The member voted for in `term`; 0 for none.
    package var vote: UInt64
    package var commit: UInt64

    package init(term: UInt64 = 0, vote: UInt64 = 0, commit: UInt64 = 0) {
        self.term = term
        self.vote = vote
        self.commit = commit
    }
}

/// The last entry that a durable state machine contains.
package struct WALSnapshot: Equatable, Sendable {
    package var index: UInt64
    package var term: UInt64

    package init(index: UInt64 = 0, term: UInt64 = 0) {
        self.index = index
        self.term = term
    }
}

/// One log entry. The payload belongs to whoever hands it over and is valid during that call only.
package struct WALEntry {
    package let index: UInt64
    package let term: UInt64
    /// The caller's entry type; the log keeps it and does not look at it.
    package let kind: UInt8
    package let payload: UnsafeRawBufferPointer

    package init(index: UInt64, term: UInt64, kind: UInt8, payload: UnsafeRawBufferPointer) {
        self.index = index
        self.term = term
        self.kind = kind
        self.payload = payload
    }
}

/// What replay hands out, in log order.
package enum WALReplayStep {
    /// The next entry. Its index is one above that of the entry before it, or the first after a
    /// discard.
    case entry(WALEntry)
    /// Entries from this index on were overwritten later, or a received snapshot replaced the log
    /// (index 0): forget what was handed out from there on.
    case discard(from: UInt64)
}

/// What a log held when it was opened.
package struct WALReplay: Sendable {
    package let metadata: WALMetadata
    package let hardState: WALHardState
    package let snapshot: WALSnapshot
    /// The lowest index that the log can still hand out, or one above `lastIndex` when it holds
    /// none.
    package let firstIndex: UInt64
    package let lastIndex: UInt64
    /// The term of the entry at `lastIndex`, also when that entry is no longer in the log.
    package let lastTerm: UInt64
    /// Where an unfinished last write was cut off; nil after a clean end.
    package let tornTail: WALPosition?
}

/// A place in the log, for messages.
package struct WALPosition: Equatable, Sendable, CustomStringConvertible {
    /// The file name of the segment.
    package let segment: String
    package let offset: UInt64

    package var description: String { "\(segment) at byte \(offset)" }
}

/// The bounds of a log.
package struct WALConfiguration: Sendable {
    /// The size of a segment file in bytes, a multiple of 8 from 512 to 1 GiB. It bounds the
    /// largest entry (`maxEntryBytes`), the space lost at the end of the log and the work of one
    /// `truncate`.
    package var segmentBytes: Int = 64 << 20
    /// The encoded bytes held before `flush`. At this bound an append writes them out, not yet
    /// durable.
    package var bufferBytes: Int = 4 << 20

    package init() {}

    package init(segmentBytes: Int, bufferBytes: Int = 4 << 20) {
        self.segmentBytes = segmentBytes
        self.bufferBytes = bufferBytes
    }

    /// The largest payload of one entry: what fits an empty segment beside its header and end
    /// record.
    package var maxEntryBytes: Int {
        segmentBytes - WALFormat.segmentHeaderBytes - WALFormat.endRecordBytes
            - WALFormat.recordHeaderBytes - WALFormat.entryFieldsBytes
    }
}

/// Work done since the log was opened. Durations are measured by the caller: there is no clock
/// here.
package struct WALStatistics: Equatable, Sendable {
    package var entriesAppended: UInt64 = 0
    package var bytesWritten: UInt64 = 0
    /// Calls of fdatasync on the tail segment.
    package var synchronizations: UInt64 = 0
    package var segmentsCut: UInt64 = 0
    package var segmentsRecycled: UInt64 = 0
    package var segmentsRemoved: UInt64 = 0
}
