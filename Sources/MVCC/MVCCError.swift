/// Why the store refused a call.
package enum MVCCError: Error, Equatable, Sendable {
    /// The revision lies before the compaction revision, or is being compacted again.
    case compacted(compactRevision: Int64)
    /// The revision has not happened yet.
    case futureRevision(current: Int64)
    /// A stored record cannot be decoded; only `restore` reports it.
    case corruptRecord(Revision)
}
