// `--force-new-cluster`: one member goes on alone with what it has, when the others are lost for good
// (etcd server/etcdserver/bootstrap.go).
//
// The member keeps its data, its id and the cluster's id; it becomes the only voter, and the others
// count as removed, so that none of them is let in again. This is done to the closed data directory,
// in one backend transaction, before the node is opened: after a crash it is done or it is not.
//
// What the log holds beyond the applied index stays. Some of it may have been acknowledged by the old
// leader, and a follower cannot know which part, since its commit index lags; all of it is committed
// again by the sole voter. (etcd drops what lies beyond its commit index, and with it writes that were
// acknowledged.) Among these entries may be changes of membership: "add n4", proposed by the
// old leader, would give the forced member a peer that is lost as well, and its quorum with it;
// "remove n1" would remove the survivor. They must not take effect when they are applied. But the log
// cannot be cut or overwritten at a committed entry. So the transaction also records the last index of
// the log at that moment, `forcedMembershipIndex`, and every opening replaces changes of membership up
// to it by entries without a command (Replica/Recovery.swift). Later changes lie above it and count.
//
// A member that joins later never sees these entries: it starts from a snapshot that contains its own
// addition, which lies above the index. What the log's other entries say of old members (their names
// and client URLs) the state machine refuses, since they are members no more.

import RaftCore
import Replica
import StateMachine
import Storage

package enum ForceNewCluster {
    /// What was done.
    package struct Outcome: Equatable, Sendable {
        package let memberID: UInt64
        package let clusterID: UInt64
        /// Voters and learners that are members no more.
        package let dropped: [UInt64]
        /// The last entry of the log, which is all kept.
        package let lastIndex: UInt64
    }

    /// Makes the member of this data directory the only one of its cluster.
    ///
    /// - Returns: nil when the directory holds no member yet: it is then about to found a cluster.
    /// - Throws: also when another process uses the directory.
    package static func run(_ options: NodeOptions) throws(NodeStartError) -> Outcome? {
        do {
            let disk = PosixDisk()
            let directory = try DataDirectory(root: options.dataDirectory, disk: disk)
            defer { try? directory.close() }
            guard try WAL.exists(disk: disk, directory: directory.wal) else { return nil }
            let backend = try Backend(path: directory.database, configuration: options.backend)
            return try apply(to: backend, disk: disk, directory, options)
        } catch {
            throw NodeStartError(description: "--force-new-cluster: \(error)")
        }
    }

    private static func apply(
        to backend: Backend, disk: PosixDisk, _ directory: DataDirectory, _ options: NodeOptions
    ) throws -> Outcome {
        var (meta, members) = try stored(in: backend)
        let founding = RaftLog.founding
        let applied = max(meta.appliedIndex, founding.snapshotIndex)
        let (log, replay) = try WAL.open(
            disk: disk, directory: directory.wal, configuration: options.wal,
            replayFrom: applied + 1
        ) { _ in }
        try log.close()
        if replay.snapshot.index > applied {
            // A leader's snapshot had arrived, and the node ended before it was in the backend.
            let (index, term) = (replay.snapshot.index, replay.snapshot.term)
            let files = SnapshotFiles(directory: directory.snapshots)
            guard files.exists(index: index, term: term) else {
                throw NodeStartError(
                    description: "the log continues the snapshot at entry \(index), whose file is gone")
            }
            try backend.replace(withFile: files.path(index: index, term: term)).activate()
            (meta, members) = try stored(in: backend)
        }

        let id = replay.metadata.memberID
        var own =
            members.first { $0.id == id }
            ?? Member(
                id: id, name: options.name,
                peerURLs: options.initialMembers.first { $0.name == options.name }?.peerURLs ?? [],
                clientURLs: [])
        own.isLearner = false
        let known = ConfState(stored: meta.confState)?.members ?? []
        let dropped = Set(members.map(\.id) + known).subtracting([id]).sorted()
        if meta.appliedIndex == 0 {
            meta.appliedIndex = founding.snapshotIndex
            meta.appliedTerm = founding.snapshotTerm
        }
        meta.confState = ConfState(voters: [id]).encoded()
        meta.forcedMembershipIndex = replay.lastIndex
        try backend.update { transaction throws(BackendError) in
            for id in dropped {
                try transaction.make(StoredState.noMember(id))
                try transaction.make(StoredState.removedMember(id, isRemoved: true))
            }
            try transaction.make(StoredState.member(own))
            try transaction.make(StoredState.removedMember(id, isRemoved: false))
            for change in meta.changes { try transaction.make(change) }
        }
        return Outcome(
            memberID: id, clusterID: replay.metadata.clusterID, dropped: dropped,
            lastIndex: replay.lastIndex)
    }

    private static func stored(in backend: Backend) throws -> (StoredMeta, [Member]) {
        let reader = try backend.makeReader()
        try reader.renew()
        guard let meta = try reader.storedMeta() else {
            throw NodeStartError(description: "bucket meta of the backend cannot be read")
        }
        var members: [Member] = []
        try reader.scan(.members) { _, value in
            if let member = try? Member(value) { members.append(member) }
            return true
        }
        return (meta, members)
    }
}
