import Glibc
import Storage
import Testing

/// A directory of its own under /tmp, removed with the value.
final class TemporaryDirectory {
    let path: String

    init() {
        var template = Array("/tmp/moonraft-storage-XXXXXX".utf8CString)
        path = template.withUnsafeMutableBufferPointer { buffer in
            buffer.baseAddress.flatMap { mkdtemp($0) }.map { String(cString: $0) } ?? ""
        }
        precondition(!path.isEmpty, "no temporary directory")
    }

    deinit {
        Self.remove(path)
    }

    private static func remove(_ path: String) {
        if let names = try? PosixDisk().list(path) {
            for name in names { remove(path + "/" + name) }
            rmdir(path)
        } else {
            unlink(path)
        }
    }
}

/// The real files: what is refused, and that the log works on them as on the disk in memory.
@Suite struct PosixDiskTests {
    @Test func logOnRealFiles() throws {
        let temporary = TemporaryDirectory()
        let disk = PosixDisk()
        let directory = temporary.path + "/wal"
        #expect(try WAL.exists(disk: disk, directory: directory) == false)
        let wal = try WAL.create(
            disk: disk, directory: directory, configuration: small, metadata: testMetadata)
        try wal.append(WALHardState(term: 1, vote: 1))
        for index in 1...200 as ClosedRange<UInt64> {
            try wal.append(entries(index...index, term: 1)[0])
            try wal.append(WALHardState(term: 1, vote: 1, commit: index))
            try wal.flush()
            if index % 20 == 0 {
                if index % 40 == 0 { try wal.prepareSegment() }
                try wal.truncate(before: index - 10)
            }
        }
        #expect(wal.statistics.segmentsRecycled > 0 && wal.statistics.segmentsRemoved > 0)
        let first = wal.firstIndex
        try wal.close()
        let opened = try openLog(disk, directory, replayFrom: first)
        #expect(opened.log.entries == entries(first...200, term: 1))
        for name in try disk.list(directory) {
            var status = stat()
            #expect(stat(directory + "/" + name, &status) == 0)
            #expect(status.st_mode & 0o777 == 0o600)
        }
        #expect(throws: WALError.exists(directory: directory)) {
            try WAL.create(disk: disk, directory: directory, metadata: testMetadata)
        }
    }

    @Test func secondProcessIsRefusedByName() throws {
        let temporary = TemporaryDirectory()
        let root = temporary.path + "/data"
        let held = try DataDirectory(root: root, disk: PosixDisk())
        let error = #expect(throws: DiskError.self) {
            try DataDirectory(root: root, disk: PosixDisk())
        }
        #expect(error?.reason == .held(by: getpid()))
        #expect(error?.description.contains("process \(getpid()) is using") == true)
        try held.close()
        let again = try DataDirectory(root: root, disk: PosixDisk())
        try again.close()
    }

    @Test func widerDirectoriesAreRefused() throws {
        let temporary = TemporaryDirectory()
        let root = temporary.path + "/data"
        mkdir(root, 0o755)
        chmod(root, 0o755)
        let error = #expect(throws: DiskError.self) {
            try DataDirectory(root: root, disk: PosixDisk())
        }
        #expect(error?.reason == .permissions(0o755))
        #expect(error?.description.contains("mode 0755") == true)
        #expect(error?.description.contains("chmod 700") == true)
        chmod(root, 0o700)
        let directory = try DataDirectory(root: root, disk: PosixDisk())
        for path in [directory.root, directory.member, directory.snapshots] {
            var status = stat()
            #expect(stat(path, &status) == 0 && status.st_mode & 0o777 == 0o700)
        }
        try directory.close()
        chmod(root + "/member", 0o750)
        #expect(throws: DiskError.self) { try DataDirectory(root: root, disk: PosixDisk()) }
        chmod(root + "/member", 0o700)
        let file = temporary.path + "/file"
        close(open(file, O_CREAT | O_WRONLY, 0o600))
        #expect(throws: DiskError(.createDirectory, path: file, .notADirectory)) {
            try PosixDisk().createDirectory(file)
        }
    }

    @Test func linksAreNotFollowed() throws {
        let temporary = TemporaryDirectory()
        let disk = PosixDisk()
        let target = temporary.path + "/target"
        let link = temporary.path + "/link"
        try disk.close(try disk.open(target, .createNew))
        #expect(symlink(target, link) == 0)
        for mode in [.read, .readWrite, .createNew] as [DiskOpenMode] {
            #expect(throws: DiskError.self) { try disk.open(link, mode) }
        }
        #expect(throws: DiskError.self) { try disk.lock(link) }
    }

    @Test func errorsNamePathAndCause() throws {
        let error = #expect(throws: DiskError.self) {
            try PosixDisk().open("/nonexistent/file", .read)
        }
        #expect(
            error?.description
                == "cannot open \"/nonexistent/file\": No such file or directory (errno 2)")
        let full = try PosixDisk().open("/dev/full", .readWrite)
        let refused = #expect(throws: DiskError.self) {
            try PosixDisk().write(full, at: 0, [1, 2, 3])
        }
        #expect(refused?.reason == .system(ENOSPC))
        try PosixDisk().close(full)
    }
}
