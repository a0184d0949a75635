/// The directories of one member, locked against a second process.
///
/// ```
/// DATA/                 mode 0700, wider is refused
/// DATA/member/lock      held while the process lives
/// DATA/member/wal/      the write-ahead log
/// DATA/member/db/       the backend
/// DATA/member/snap/     received snapshots
/// DATA/member/restoring stands while a backup is being restored into this directory
/// ```
package struct DataDirectory {
    package let root: String
    package var member: String { root + "/member" }
    package var wal: String { root + "/member/wal" }
    package var database: String { root + "/member/db" }
    package var snapshots: String { root + "/member/snap" }

    private let disk: any Disk
    private let lock: DiskFile

    /// Makes what is missing, checks what is there, and takes the lock.
    ///
    /// The parent of `root` must exist. The `wal` and `db` directories are made by the log and the
    /// backend. Throws `.held` when another process has the lock, `.permissions` when a directory is
    /// open to others, and `.incomplete` when a restore into it did not come to its end.
    package init(root: String, disk: any Disk) throws(DiskError) {
        self.root = root
        self.disk = disk
        try disk.createDirectory(root)
        try disk.createDirectory(root + "/member")
        lock = try disk.lock(root + "/member/lock")
        do throws(DiskError) {
            guard try !disk.list(root + "/member").contains(Self.restoreMarker) else {
                throw DiskError(.open, path: root, .incomplete)
            }
            try disk.createDirectory(root + "/member/snap")
            try disk.synchronizeDirectory(root + "/member")
            try disk.synchronizeDirectory(root)
        } catch {
            try? disk.close(lock)
            throw error
        }
    }

    private static let restoreMarker = "restoring"

    /// From here to `endRestore` nobody else opens the directory, also after a crash.
    package func beginRestore() throws(DiskError) {
        try disk.close(disk.open(member + "/" + Self.restoreMarker, .createNew))
        try disk.synchronizeDirectory(member)
    }

    /// Everything in the directory is durable and whole.
    package func endRestore() throws(DiskError) {
        try disk.synchronizeDirectory(member)
        try disk.remove(member + "/" + Self.restoreMarker)
        try disk.synchronizeDirectory(member)
        try disk.synchronizeDirectory(root)
    }

    /// Gives the lock back. The log and the backend must be closed before.
    package func close() throws(DiskError) {
        try disk.close(lock)
    }
}
