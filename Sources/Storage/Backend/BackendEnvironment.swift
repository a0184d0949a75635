import CLMDB

/// An open LMDB environment with its buckets. It is closed when the backend and every reader are
/// gone.
///
/// LMDB environments and database handles may be used from any thread; transactions may not be used
/// from two at once, which `Backend` and `BackendReader` take care of. Hence unchecked.
final class BackendEnvironment: @unchecked Sendable {
    let path: String
    let mapBytes: UInt64
    let maxReaders: UInt32
    let pointer: OpaquePointer
    /// Database handles by bucket; written once before the environment is shared.
    private(set) var handles: [MDB_dbi] = []

    init(path: String, configuration: BackendConfiguration) throws(BackendError) {
        self.path = path
        mapBytes = configuration.mapBytes
        maxReaders = configuration.maxReaders
        var created: OpaquePointer?
        let code = mdb_env_create(&created)
        guard code == 0, let created else {
            throw .failed(
                operation: "create environment for", path: path, code: code,
                text: String(cString: mdb_strerror(code)))
        }
        pointer = created
        try check(mdb_env_set_mapsize(pointer, Int(clamping: mapBytes)), "set map size of")
        try check(
            mdb_env_set_maxdbs(pointer, UInt32(BackendBucket.allCases.count)), "set buckets of")
        try check(mdb_env_set_maxreaders(pointer, maxReaders), "set readers of")
        try check(mdb_env_open(pointer, path, UInt32(MDB_NOTLS), 0o600), "open")
        // Slots of processes that were killed would pin their pages for ever.
        var stale: Int32 = 0
        try check(mdb_reader_check(pointer, &stale), "check readers of")
    }

    deinit {
        mdb_env_close(pointer)
    }

    @inline(__always)
    func check(_ code: Int32, _ operation: @autoclosure () -> String) throws(BackendError) {
        if code != 0 {
            throw BackendError(code, operation(), self)
        }
    }

    /// Up to here the file has ever been used, in bytes.
    func usedBytes() throws(BackendError) -> UInt64 {
        var information = MDB_envinfo()
        var statistics = MDB_stat()
        try check(mdb_env_info(pointer, &information), "inspect")
        try check(mdb_env_stat(pointer, &statistics), "inspect")
        return (UInt64(information.me_last_pgno) + 1) * UInt64(statistics.ms_psize)
    }

    func begin(writing: Bool) throws(BackendError) -> OpaquePointer {
        var transaction: OpaquePointer?
        let flags = writing ? 0 : UInt32(MDB_RDONLY)
        try check(mdb_txn_begin(pointer, nil, flags, &transaction), "begin a transaction on")
        guard let transaction else {
            preconditionFailure("LMDB began a transaction without giving it")
        }
        return transaction
    }

    /// Opens or makes all buckets; once, before the environment is used.
    func openBuckets(_ transaction: OpaquePointer) throws(BackendError) {
        precondition(handles.isEmpty, "buckets are opened once")
        for bucket in BackendBucket.allCases {
            var handle: MDB_dbi = 0
            try check(
                mdb_dbi_open(transaction, bucket.name, UInt32(MDB_CREATE), &handle),
                "open bucket \(bucket.name) of")
            handles.append(handle)
        }
    }
}

extension MDB_val {
    @inline(__always)
    init(_ bytes: UnsafeRawBufferPointer) {
        self.init(
            mv_size: bytes.count, mv_data: UnsafeMutableRawPointer(mutating: bytes.baseAddress))
    }

    /// The bytes that LMDB points at; valid as long as its transaction says.
    @inline(__always)
    var bytes: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: mv_data, count: mv_size)
    }
}
