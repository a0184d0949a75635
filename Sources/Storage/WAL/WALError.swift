/// Why the log cannot be opened or used.
package enum WALError: Error, Equatable, Sendable {
    /// The disk refused. After this the log is poisoned: stop the process, and trust only what
    /// replay reads.
    case disk(DiskError)
    /// An earlier operation failed with this error; nothing more can be promised.
    case poisoned(DiskError)
    /// Bytes that must be there are not, or not as they were written. Never repaired by cutting.
    case corrupt(segment: String, offset: UInt64, reason: String)
    /// Written by a newer release.
    case unsupportedVersion(segment: String, found: UInt32, supported: UInt32)
    /// There is no log in the directory.
    case missing(directory: String)
    /// There already is a log in the directory.
    case exists(directory: String)
    /// The entry does not fit a segment; nothing was appended.
    case entryTooLarge(bytes: Int, limit: Int)
    case invalidConfiguration(String)
}

extension WALError: CustomStringConvertible {
    /// One line for a log: what, where, why.
    package var description: String {
        switch self {
        case .disk(let error):
            return "write-ahead log: \(error)"
        case .poisoned(let error):
            return "write-ahead log: unusable after an earlier failure: \(error)"
        case .corrupt(let segment, let offset, let reason):
            return "write-ahead log: segment \(segment) is damaged at byte \(offset): \(reason)"
        case .unsupportedVersion(let segment, let found, let supported):
            return "write-ahead log: segment \(segment) has format version \(found); "
                + "this release reads up to \(supported)"
        case .missing(let directory):
            return "write-ahead log: no log in \"\(directory)\""
        case .exists(let directory):
            return "write-ahead log: \"\(directory)\" already holds a log"
        case .entryTooLarge(let bytes, let limit):
            return "write-ahead log: entry of \(bytes) bytes, at most \(limit) fit a segment"
        case .invalidConfiguration(let reason):
            return "write-ahead log: \(reason)"
        }
    }
}

/// Runs disk operations whose failure is the log's failure.
func onDisk<Result>(_ body: () throws(DiskError) -> Result) throws(WALError) -> Result {
    do throws(DiskError) {
        return try body()
    } catch {
        throw .disk(error)
    }
}
