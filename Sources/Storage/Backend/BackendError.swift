import CLMDB

/// Why the backend cannot be opened, read or written.
package enum BackendError: Error, Equatable, Sendable {
    /// The data does not fit the configured map; the transaction was dropped whole. The caller
    /// treats it as out of space: nothing can be written until the node is restarted with a larger
    /// map.
    case mapFull(limit: UInt64)
    /// One transaction changed more pages than LMDB can hold; split it.
    case transactionFull
    /// All reader slots are taken.
    case readersFull(limit: UInt32)
    /// An appended key is not above the last one of its bucket.
    case outOfOrder(bucket: BackendBucket)
    /// Keys are 1 to 511 bytes long.
    case keySize(bytes: Int)
    /// The file is not as LMDB wrote it.
    case corrupt(path: String, detail: String)
    /// Written by a newer release, or not by this program (found is nil).
    case unsupportedFormat(path: String, found: UInt32?, supported: UInt32)
    /// A file operation outside of LMDB failed.
    case disk(DiskError)
    /// LMDB or the system refused. After a failed commit stop the process: what the medium holds is
    /// unknown.
    case failed(operation: String, path: String, code: Int32, text: String)
    /// An earlier commit failed with this text; nothing more is written.
    case poisoned(String)

    init(_ code: Int32, _ operation: String, _ environment: BackendEnvironment) {
        let text = String(cString: mdb_strerror(code))
        switch code {
        case MDB_MAP_FULL: self = .mapFull(limit: environment.mapBytes)
        case MDB_TXN_FULL: self = .transactionFull
        case MDB_READERS_FULL: self = .readersFull(limit: environment.maxReaders)
        case MDB_CORRUPTED, MDB_PAGE_NOTFOUND, MDB_INVALID, MDB_VERSION_MISMATCH, MDB_PANIC:
            self = .corrupt(path: environment.path, detail: "\(operation): \(text)")
        default:
            self = .failed(
                operation: operation, path: environment.path, code: code, text: text)
        }
    }
}

extension BackendError: CustomStringConvertible {
    /// One line for a log: what, where, why.
    package var description: String {
        switch self {
        case .mapFull(let limit):
            return "backend: full: the data does not fit the map of \(limit) bytes"
        case .transactionFull:
            return "backend: one transaction changes too many pages"
        case .readersFull(let limit):
            return "backend: all \(limit) reader slots are taken"
        case .outOfOrder(let bucket):
            return "backend: key appended to bucket \(bucket.name) is not above its last key"
        case .keySize(let bytes):
            return "backend: key of \(bytes) bytes; 1 to 511 are possible"
        case .corrupt(let path, let detail):
            return "backend: \"\(path)\" is damaged: \(detail)"
        case .unsupportedFormat(let path, let found, let supported):
            let what = found.map { "has format version \($0)" } ?? "has no format version"
            return "backend: \"\(path)\" \(what); this release reads up to \(supported)"
        case .disk(let error):
            return "backend: \(error)"
        case .failed(let operation, let path, let code, let text):
            return "backend: cannot \(operation) \"\(path)\": \(text) (\(code))"
        case .poisoned(let text):
            return "backend: unusable after an earlier failure: \(text)"
        }
    }
}
