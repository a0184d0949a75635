import MVCC
import Replica
import StateMachine
import Storage

/// Everything a node needs to be opened.
package struct NodeOptions: Sendable {
    package var name = "default"
    package var dataDirectory = ""
    /// Peer URLs of the founding members by name, this one included.
    package var initialMembers: [(name: String, peerURLs: [String])] = []
    /// What this member advertises to its peers; used to find itself in the initial cluster.
    package var ownPeerURLs: [String] = []
    package var clientURLs: [String] = []
    /// `initial-cluster-state existing`: a member without data joins a running cluster.
    package var joinsExisting = false
    /// Asks a running member about its cluster; used by a member that joins.
    package var lookup: (@Sendable () throws -> (clusterID: UInt64, members: [Member]))?
    package var clusterToken = "etcd-cluster"
    package var preVote = true
    package var replica = ReplicaConfiguration()
    package var wal = WALConfiguration()
    package var backend = BackendConfiguration()
    package var store = MVCCConfiguration()
    package var machine = StateMachineConfiguration()
    /// Requests queued for the replica (`limits.replica-mailbox`).
    package var mailboxCapacity = 16_384
    /// Syncs and commits longer than this are reported, in nanoseconds (`log.slow-disk`).
    package var slowDiskNanoseconds: UInt64 = 1_000_000_000
    /// Applying one batch for longer than this is counted as slow (`log.slow-apply`).
    package var slowApplyNanoseconds: UInt64 = 100_000_000
    package var maxEntryBytes = 16 << 20

    package init() { replica.clusterVersion = ProductVersion.cluster }
}

/// Why a node could not be opened; the text names file and place where there is one.
package struct NodeStartError: Error, CustomStringConvertible {
    package let description: String

    package init(description: String) { self.description = description }
}

/// How much a note of the node matters.
package enum NoteLevel: Sendable { case info, warning }

/// Takes what an operator should know of.
package typealias NoteHandler = @Sendable (NoteLevel, String) -> Void

extension NodeOptions {
    /// An election timeout in milliseconds (`election-timeout`).
    package var electionTimeoutMilliseconds: UInt64 { replica.electionNanoseconds / 1_000_000 }
}
