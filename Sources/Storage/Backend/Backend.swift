import CLMDB
import CSupport
import Glibc
import Synchronization

/// The bounds of a backend.
package struct BackendConfiguration: Sendable {
    /// The most the file can grow to, in bytes, rounded up to whole pages. Only address space is
    /// reserved: the file grows as it is used. It is fixed while the backend is open, because LMDB
    /// moves the mapping when it changes, under the feet of every reader; so choose the quota plus
    /// room for pinned pages.
    package var mapBytes: UInt64
    /// The most readers that can exist at once.
    package var maxReaders: UInt32
    /// How much the file may grow while a snapshot of it is read, in bytes, since pages that the snapshot names
    /// are not used again meanwhile; beyond it reading the snapshot fails, and in any case before the map is
    /// full. Nil: a quarter of the map.
    package var maxGrowthUnderSnapshot: UInt64?

    package init(mapBytes: UInt64 = 16 << 30, maxReaders: UInt32 = 126) {
        self.mapBytes = mapBytes
        self.maxReaders = maxReaders
    }
}

/// Space figures of a backend.
package struct BackendSizes: Equatable, Sendable {
    /// Bytes of all pages ever allocated: the size of the file. Never 0.
    package let allocatedBytes: UInt64
    /// `allocatedBytes` less the pages that wait for reuse.
    package let inUseBytes: UInt64
    package let freePages: UInt64
    package let pageBytes: UInt64
}

/// The state machine's durable store: LMDB with one named database a bucket.
///
/// One thread writes, by `update`; any number of threads read, each with its own `BackendReader`. A
/// reader sees the last commit before its `renew` and keeps that state's pages from being reused,
/// so the caller bounds the time between `renew` and `reset`.
package final class Backend: Sendable {
    /// The format of the buckets' content, kept in `meta` under `formatKey`.
    package static let formatVersion: UInt32 = 1
    /// Its value is the version as a big-endian u32.
    package static let formatKey = "moonraftFormat"

    let environments: BackendEnvironments
    /// Where the environment in force lies.
    package let path: String
    let configuration: BackendConfiguration
    /// The text of the failed commit.
    private let poison = Mutex<String?>(nil)

    var environment: BackendEnvironment { environments.current }

    /// Opens the backend in a directory, which is made (mode 0700) when missing; a wider one is
    /// refused.
    ///
    /// Throws `.unsupportedFormat` for a newer format, and for a file with content but no version;
    /// `.corrupt` for a file whose structure cannot be followed.
    package init(
        path: String, configuration: BackendConfiguration = BackendConfiguration()
    ) throws(BackendError) {
        try onBackendDisk { () throws(DiskError) in try PosixDisk().createDirectory(path) }
        try Self.checkFile(Self.dataFile(path))
        self.path = path
        self.configuration = configuration
        environments = BackendEnvironments(try Self.open(path, configuration))
        // LMDB does not sync its directory, without which a new data file may be gone after a
        // power failure while the log has already been cut on the strength of what it held.
        try onBackendDisk { () throws(DiskError) in try PosixDisk().synchronizeDirectory(path) }
    }

    static func dataFile(_ path: String) -> String { path + "/data.mdb" }

    /// Opens a directory whose file has been checked.
    static func open(
        _ path: String, _ configuration: BackendConfiguration
    ) throws(BackendError) -> BackendEnvironment {
        let environment = try BackendEnvironment(path: path, configuration: configuration)
        let transaction = try environment.begin(writing: true)
        do throws(BackendError) {
            try environment.openBuckets(transaction)
            try checkFormat(environment, transaction)
        } catch {
            mdb_txn_abort(transaction)
            throw error
        }
        try environment.check(mdb_txn_commit(transaction), "commit to")
        return environment
    }

    /// LMDB maps the file and believes it: a page beyond the end would be a signal instead of an error.
    /// Costs reading every page but long values once, which loading the records then finds in the page cache where the
    /// file fits into it.
    static func checkFile(_ path: String) throws(BackendError) {
        let disk = PosixDisk()
        let file: DiskFile
        do throws(DiskError) {
            file = try disk.open(path, .read)
        } catch {
            if error.reason == .system(ENOENT) { return }
            throw .disk(error)
        }
        defer { try? disk.close(file) }
        let size = try onBackendDisk { () throws(DiskError) in try disk.size(file) }
        // LMDB takes an empty file for a new one, as a crash right after its creation leaves it.
        if size == 0 { return }
        do throws(BackendFileFault) {
            try BackendFile(disk: disk, file: file, byteCount: size, isLive: true).checkStructure()
        } catch {
            throw .corrupt(path: path, detail: error.description)
        }
    }

    // MARK: - Writing

    /// Runs one write transaction and makes it durable before returning. When `body` throws,
    /// nothing changes.
    ///
    /// One caller at a time; a second waits. A failed commit poisons the backend: the caller stops
    /// the process.
    package func update<Result>(
        _ body: (BackendTransaction) throws(BackendError) -> Result
    ) throws(BackendError) -> Result {
        if let text = poison.withLock({ $0 }) {
            throw .poisoned(text)
        }
        let environment = environment
        let transaction = BackendTransaction(
            environment, try environment.begin(writing: true))
        let result: Result
        do throws(BackendError) {
            result = try body(transaction)
        } catch {
            transaction.abort()
            throw error
        }
        do throws(BackendError) {
            try transaction.commit()
        } catch {
            poison.withLock { $0 = error.description }
            throw error
        }
        return result
    }

    // MARK: - Reading

    /// A reader for one thread. It takes one of `maxReaders` slots until it is released.
    package func makeReader() throws(BackendError) -> BackendReader {
        try BackendReader(environments)
    }

    /// The space figures as of the last commit. Takes time in proportion to the free list.
    package func sizes() throws(BackendError) -> BackendSizes {
        var information = MDB_envinfo()
        var statistics = MDB_stat()
        let environment = environment
        let transaction = try environment.begin(writing: false)
        defer { mdb_txn_abort(transaction) }
        try environment.check(mdb_env_info(environment.pointer, &information), "inspect")
        try environment.check(mdb_env_stat(environment.pointer, &statistics), "inspect")
        let page = UInt64(statistics.ms_psize)
        let allocated = UInt64(information.me_last_pgno) + 1
        let free = min(try Self.freePages(environment, transaction), allocated)
        return BackendSizes(
            allocatedBytes: allocated * page, inUseBytes: (allocated - free) * page,
            freePages: free, pageBytes: page)
    }

    /// LMDB keeps its free pages in database 0: transaction number to a list whose first word is
    /// its length.
    private static func freePages(
        _ environment: BackendEnvironment, _ transaction: OpaquePointer
    ) throws(BackendError) -> UInt64 {
        var cursor: OpaquePointer?
        try environment.check(mdb_cursor_open(transaction, 0, &cursor), "inspect")
        defer { mdb_cursor_close(cursor) }
        var key = MDB_val()
        var value = MDB_val()
        var pages: UInt64 = 0
        while true {
            let code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)
            if code == MDB_NOTFOUND {
                return pages
            }
            try environment.check(code, "inspect")
            if value.mv_size >= MemoryLayout<UInt>.size {
                pages += UInt64(value.bytes.loadUnaligned(as: UInt.self))
            }
        }
    }

    /// CRC32C over all buckets in name order, each as its name and then every key and value in key
    /// order, as etcd's backend hash is made. `ignoring` leaves out what may differ between equal
    /// members.
    package func hash(
        ignoring: (BackendBucket, UnsafeRawBufferPointer) -> Bool = { _, _ in false }
    ) throws(BackendError) -> UInt32 {
        let reader = try makeReader()
        try reader.renew()
        var hash: UInt32 = 0
        for bucket in BackendBucket.allCases {
            let name = Array(bucket.name.utf8)
            hash = moonraft_crc32c(hash, name, name.count)
            try reader.scan(bucket) { key, value in
                if !ignoring(bucket, key) {
                    hash = moonraft_crc32c(hash, key.baseAddress, key.count)
                    hash = moonraft_crc32c(hash, value.baseAddress, value.count)
                }
                return true
            }
        }
        return hash
    }

    // MARK: - Copies

    /// Writes a consistent copy of the file, as of now, while writing goes on. `compacting` leaves
    /// free pages out and takes more CPU. The caller owns the descriptor and synchronizes it when
    /// it is a file.
    package func copy(toDescriptor descriptor: Int32, compacting: Bool) throws(BackendError) {
        let flags = compacting ? UInt32(MDB_CP_COMPACT) : 0
        let environment = environment
        try environment.check(
            mdb_env_copyfd2(environment.pointer, descriptor, flags), "copy")
    }

    /// Writes such a copy to a new file of mode 0600. A directory with this file as `data.mdb` opens as
    /// a backend.
    ///
    /// - Parameter durable: makes the content durable; the caller synchronizes the directory. A copy
    ///   that is sent and removed need not reach the disk, and syncing it would hold up the log.
    package func copy(
        toFile path: String, compacting: Bool, durable: Bool = true
    ) throws(BackendError) {
        let disk = PosixDisk()
        let file = try onBackendDisk { () throws(DiskError) in try disk.open(path, .createNew) }
        do throws(BackendError) {
            try copy(toDescriptor: file.descriptor, compacting: compacting)
            if durable {
                try onBackendDisk { () throws(DiskError) in try disk.synchronize(file) }
            }
        } catch {
            try? disk.close(file)
            try? disk.remove(path)
            throw error
        }
        try onBackendDisk { () throws(DiskError) in try disk.close(file) }
    }

    // MARK: - Format

    private static func checkFormat(
        _ environment: BackendEnvironment, _ transaction: OpaquePointer
    ) throws(BackendError) {
        let meta = environment.handles[BackendBucket.meta.rawValue]
        var name = Array(formatKey.utf8)
        var found: UInt32?
        let code = name.withUnsafeMutableBytes { bytes -> Int32 in
            var key = MDB_val(UnsafeRawBufferPointer(bytes))
            var value = MDB_val()
            let code = mdb_get(transaction, meta, &key, &value)
            if code == 0, value.mv_size == 4 {
                found = UInt32(bigEndian: value.bytes.loadUnaligned(as: UInt32.self))
            }
            return code
        }
        if code == MDB_NOTFOUND {
            guard try isEmpty(environment, transaction) else {
                throw .unsupportedFormat(
                    path: environment.path, found: nil, supported: formatVersion)
            }
            var version = formatVersion.bigEndian
            let code = name.withUnsafeMutableBytes { bytes -> Int32 in
                var key = MDB_val(UnsafeRawBufferPointer(bytes))
                return withUnsafeBytes(of: &version) { raw in
                    var value = MDB_val(raw)
                    return mdb_put(transaction, meta, &key, &value, 0)
                }
            }
            try environment.check(code, "write the format version of")
            return
        }
        try environment.check(code, "read the format version of")
        guard let found, found >= 1, found <= formatVersion else {
            throw .unsupportedFormat(
                path: environment.path, found: found, supported: formatVersion)
        }
    }

    private static func isEmpty(
        _ environment: BackendEnvironment, _ transaction: OpaquePointer
    ) throws(BackendError) -> Bool {
        for handle in environment.handles {
            var statistics = MDB_stat()
            try environment.check(mdb_stat(transaction, handle, &statistics), "inspect")
            if statistics.ms_entries > 0 {
                return false
            }
        }
        return true
    }
}

/// Runs disk operations whose failure is the backend's failure.
func onBackendDisk<Result>(
    _ body: () throws(DiskError) -> Result
) throws(BackendError) -> Result {
    do throws(DiskError) {
        return try body()
    } catch {
        throw .disk(error)
    }
}
