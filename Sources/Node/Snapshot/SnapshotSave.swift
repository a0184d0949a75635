// A backup of a stopped node's data directory, in the form that the Snapshot stream has.

import RaftCore
import Replica
import StateMachine
import Storage

package enum SnapshotSave {
    /// What was saved.
    package struct Outcome: Equatable, Sendable {
        /// Entries of the log that the backend does not have yet, and the backup neither: the node was
        /// not stopped but killed. 0 after an orderly stop.
        package let missingEntries: UInt64
        package let byteCount: UInt64
    }

    /// Copies the backend of a closed data directory to a file of mode 0600, which appears only when
    /// it is whole and durable.
    package static func run(_ options: NodeOptions, to path: String) throws(SnapshotError) -> Outcome {
        do {
            let disk = PosixDisk()
            let directory = try DataDirectory(root: options.dataDirectory, disk: disk)
            defer { try? directory.close() }
            guard try WAL.exists(disk: disk, directory: directory.wal) else {
                throw SnapshotError("\"\(options.dataDirectory)\" holds no member")
            }
            let backend = try Backend(path: directory.database, configuration: options.backend)
            let applied = max(try backend.committedIndex(), RaftLog.founding.snapshotIndex)
            let (log, replay) = try WAL.open(
                disk: disk, directory: directory.wal, configuration: options.wal,
                replayFrom: applied + 1
            ) { _ in }
            try log.close()
            let bytes = try write(backend, directory.snapshots, to: path, disk)
            return Outcome(
                missingEntries: replay.lastIndex > applied ? replay.lastIndex - applied : 0,
                byteCount: bytes)
        } catch {
            throw SnapshotError("\(error)")
        }
    }

    private static func write(
        _ backend: Backend, _ scratch: String, to path: String, _ disk: PosixDisk
    ) throws -> UInt64 {
        let part = path + ".part"
        try? disk.remove(part)
        let file = try disk.open(part, .createNew)
        defer { try? disk.close(file) }
        let copy = try BackendCopy(of: backend, in: scratch)
        var offset: UInt64 = 0
        while true {
            let bytes = try copy.next(1 << 20)
            if bytes.isEmpty { break }
            try disk.write(file, at: offset, bytes)
            offset += UInt64(bytes.count)
        }
        try disk.write(file, at: offset, copy.digest)
        try disk.synchronize(file)
        try disk.rename(part, to: path)
        let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
        try disk.synchronizeDirectory(folder)
        return offset
    }
}
