// From a backup to the data directory of one member of a new cluster.
//
// Every member of the new cluster is restored from the same file with the same flags but its name, and
// all come out equal. The new cluster has ids of its own, so that no member of the old one can talk
// to it. Its members stand at the founding entry, as those of any new cluster; leases stay,
// alarms do not.
//
// Clients may have seen revisions that the backup does not hold. If the new cluster used these numbers
// again, a watcher that resumes from one would miss events, and a cache would take old values for new
// ones (etcd issue 16028). So the revision is raised far above everything that was given out, and all
// below counts as compacted: whoever asks for an old revision is told so and reads anew.

import CSupport
import Glibc
import RaftCore
import Replica
import StateMachine
import Storage

/// One restore.
package struct SnapshotRestore {
    /// More than a busy cluster writes in years, and room for nine billion restores.
    package static let defaultRevisionBump: UInt64 = 1_000_000_000

    package var snapshot: String
    /// Must not exist, or be empty.
    package var dataDirectory: String
    package var name: String
    /// All members of the new cluster by name, this one included.
    package var members: [(name: String, peerURLs: [String])]
    package var clusterToken: String
    /// Added to the revision, which is then marked compacted; 0: neither.
    package var revisionBump = Self.defaultRevisionBump
    package var skipsDigest = false
    package var wal = WALConfiguration()
    package var backend = BackendConfiguration()

    package init(
        snapshot: String, dataDirectory: String, name: String,
        members: [(name: String, peerURLs: [String])], clusterToken: String
    ) {
        self.snapshot = snapshot
        self.dataDirectory = dataDirectory
        self.name = name
        self.members = members
        self.clusterToken = clusterToken
    }

    /// What was made.
    package struct Outcome: Equatable, Sendable {
        package let clusterID: UInt64
        package let memberID: UInt64
        package let revision: Int64
        package let totalKeys: Int
    }

    /// Checks the backup, then makes the data directory. Until it is whole a node refuses to start
    /// from it.
    package func run() throws(SnapshotError) -> Outcome {
        let voters = members.map { member in
            Member(
                id: Identity.memberID(peerURLs: member.peerURLs, token: clusterToken),
                name: member.name, peerURLs: member.peerURLs, clientURLs: [])
        }
        guard let own = voters.first(where: { $0.name == name }) else {
            throw SnapshotError("couldn't find local name \"\(name)\" in the initial cluster configuration")
        }
        guard Set(voters.map(\.id)).count == voters.count else {
            throw SnapshotError("two members of the initial cluster have the same peer URLs")
        }
        try checkTarget()
        let file = try SnapshotFile(snapshot)
        if !skipsDigest { try file.checkDigest() }
        let report = try file.inspect()
        let meta = try foundingMeta(report.meta, voters: voters.map(\.id))

        let clusterID = Identity.clusterID(memberIDs: voters.map(\.id))
        do {
            try makeParents()
            let disk = PosixDisk()
            let directory = try DataDirectory(root: dataDirectory, disk: disk)
            try directory.beginRestore()
            try disk.createDirectory(directory.database)
            try file.copyData(to: directory.database + "/data.mdb")
            try rewrite(directory.database, report.totalBytes, meta, voters)
            let log = try WAL.create(
                disk: disk, directory: directory.wal, configuration: wal,
                metadata: WALMetadata(
                    clusterID: clusterID, memberID: own.id,
                    salt: UInt64.random(in: .min ... .max)),
                base: WALSnapshot(index: meta.appliedIndex, term: meta.appliedTerm))
            try log.close()
            try disk.synchronizeDirectory(directory.database)
            try directory.endRestore()
            try directory.close()
        } catch {
            throw SnapshotError(
                "\(error)\n\"\(dataDirectory)\" is incomplete and no node will start from it; remove it and "
                    + "restore again")
        }
        return Outcome(
            clusterID: clusterID, memberID: own.id, revision: meta.currentRevision,
            totalKeys: report.totalKeys)
    }

    /// - Throws: in etcd's words.
    private func checkTarget() throws(SnapshotError) {
        do throws(DiskError) {
            if try PosixDisk().list(dataDirectory).isEmpty { return }
        } catch {
            if error.reason == .system(ENOENT) { return }
        }
        throw SnapshotError("data-dir \"\(dataDirectory)\" not empty or could not be read")
    }

    private func makeParents() throws(DiskError) {
        var position = dataDirectory.startIndex
        while let slash = dataDirectory[position...].dropFirst().firstIndex(of: "/") {
            position = slash
            let parent = String(dataDirectory[..<slash])
            // An existing directory above the data is none of ours to judge.
            if mkdir(parent, 0o700) != 0 && errno != EEXIST {
                throw DiskError(.createDirectory, path: parent, .system(errno))
            }
        }
    }

    /// `meta` of a member that has applied the founding entry and nothing else.
    private func foundingMeta(
        _ old: StoredMeta, voters: [NodeID]
    ) throws(SnapshotError) -> StoredMeta {
        var meta = old
        meta.appliedIndex = RaftLog.founding.snapshotIndex
        meta.appliedTerm = RaftLog.founding.snapshotTerm
        meta.confState = ConfState(voters: voters).encoded()
        meta.forcedMembershipIndex = 0
        if revisionBump > 0 {
            let bump = Int64(exactly: revisionBump)
            let (sum, overflow) = old.currentRevision.addingReportingOverflow(bump ?? .max)
            guard bump != nil, !overflow, sum <= Int64.max / 2 else {
                throw SnapshotError(
                    "--bump-revision \(revisionBump) on top of revision \(old.currentRevision) leaves no "
                        + "room for new revisions")
            }
            meta.currentRevision = sum
            meta.scheduledCompactRevision = sum
        }
        return meta
    }

    private func rewrite(
        _ path: String, _ bytes: UInt64, _ meta: StoredMeta, _ voters: [Member]
    ) throws(BackendError) {
        var configuration = backend
        // Never smaller than the file, whatever the setting; and some pages are about to change.
        configuration.mapBytes = max(configuration.mapBytes, bytes + (16 << 20))
        let backend = try Backend(path: path, configuration: configuration)
        try backend.update { transaction throws(BackendError) in
            for bucket in [BackendBucket.members, .membersRemoved, .alarm] {
                try transaction.clear(bucket)
            }
            for member in voters { try transaction.make(StoredState.member(member)) }
            for change in meta.changes { try transaction.make(change) }
        }
    }
}
