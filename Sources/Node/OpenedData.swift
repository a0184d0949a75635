// Opening: directory, backend, store, log, replica, in the order that each needs.

import MVCC
import RaftCore
import Replica
import StateMachine
import Storage

/// What a data directory holds, opened and consistent.
struct OpenedData {
    let directory: DataDirectory
    let backend: Backend
    let files: SnapshotFiles
    let machine: StateMachine
    let recovered: Recovered
    /// Whom to talk with until the membership has arrived here; empty for a member that has it.
    let acquaintances: [Member]
    var clusterID: UInt64 { recovered.wal.metadata.clusterID }
    var memberID: UInt64 { recovered.wal.metadata.memberID }

    init(options: NodeOptions, fatal: @escaping FatalHandler) throws {
        let disk = PosixDisk()
        directory = try DataDirectory(root: options.dataDirectory, disk: disk)
        backend = try Backend(path: directory.database, configuration: options.backend)
        files = SnapshotFiles(directory: directory.snapshots)
        machine = StateMachine(
            store: MVCCStore(configuration: options.store),
            reader: try LMDBRecordReader(backend, fatal: fatal), configuration: options.machine)
        let isNew = try !WAL.exists(disk: disk, directory: directory.wal)
        let place = try isNew ? Place(options) : Place.known
        recovered = try Recovered(
            machine: machine, host: NodeRecovery(backend: backend, files: files, fatal: fatal),
            disk: disk, options: Self.recovery(options, place, directory.wal))
        files.removeAll()
        acquaintances = try Self.acquaintances(
            options, isNew ? place.others : nil, recovered, machine)
        if recovered.replica.hasLeft {
            throw NodeStartError(
                description: """
                    member \(String(recovered.wal.metadata.memberID, radix: 16)) has been removed from the cluster and \
                    cannot come back; remove "\(options.dataDirectory)" and add the member anew
                    """)
        }
    }

    /// A member that joins is given the membership by a snapshot of the leader, which it must know
    /// for a member to accept anything from it. One that stopped before that asks again.
    private static func acquaintances(
        _ options: NodeOptions, _ found: [Member]?, _ recovered: Recovered, _ machine: StateMachine
    ) throws -> [Member] {
        if !machine.members.isEmpty || recovered.replica.isSoleVoter { return [] }
        if let found { return found }
        guard let lookup = options.lookup else { return [] }
        let answer = try lookup()
        let clusterID = recovered.wal.metadata.clusterID
        guard answer.clusterID == clusterID else {
            throw NodeStartError(
                description: """
                    the initial cluster is cluster \(String(answer.clusterID, radix: 16)), but \
                    "\(options.dataDirectory)" belongs to cluster \(String(clusterID, radix: 16))
                    """)
        }
        return answer.members
    }

    private static func recovery(
        _ options: NodeOptions, _ place: Place, _ walDirectory: String
    ) -> RecoveryOptions {
        var raft = RaftConfiguration(id: max(1, place.memberID))
        raft.electionTicks = options.replica.electionTicks
        raft.preVote = options.preVote
        raft.maxRetainedEntries = Int(clamping: options.replica.catchUpEntries)
        raft.maxEntryBytes = min(options.maxEntryBytes, options.wal.maxEntryBytes)
        let member = Member(
            id: place.memberID, name: options.name, peerURLs: options.ownPeerURLs,
            clientURLs: options.clientURLs)
        var recovery = RecoveryOptions(
            beginning: place.beginning, clusterID: place.clusterID, memberID: place.memberID,
            member: member, walDirectory: walDirectory, raft: raft,
            salt: .random(in: .min ... .max), randomSeed: .random(in: .min ... .max),
            run: .random(in: .min ... .max), now: monotonicNanoseconds())
        recovery.wal = options.wal
        recovery.replica = options.replica
        return recovery
    }
}

/// Where a member belongs that has no log yet.
private struct Place {
    var beginning: RecoveryOptions.Beginning
    var clusterID: UInt64
    var memberID: UInt64
    /// The members of the cluster that is joined.
    var others: [Member] = []

    /// Of a member that has one: the ids in its log count.
    static let known = Place(beginning: .found([]), clusterID: 0, memberID: 0)

    private init(beginning: RecoveryOptions.Beginning, clusterID: UInt64, memberID: UInt64) {
        self.beginning = beginning
        self.clusterID = clusterID
        self.memberID = memberID
    }

    init(_ options: NodeOptions) throws {
        if options.joinsExisting {
            try self.init(joining: options)
            return
        }
        let members = options.initialMembers.map { member in
            Member(
                id: Identity.memberID(peerURLs: member.peerURLs, token: options.clusterToken),
                name: member.name, peerURLs: member.peerURLs, clientURLs: [])
        }
        guard let own = members.first(where: { $0.name == options.name }) else {
            throw NodeStartError(
                description: "couldn't find local name \"\(options.name)\" in the initial cluster")
        }
        self.init(
            beginning: .found(members),
            clusterID: Identity.clusterID(memberIDs: members.map(\.id)), memberID: own.id)
    }

    /// A member that was added to a running cluster asks one of the others who it is.
    private init(joining options: NodeOptions) throws {
        guard let lookup = options.lookup else {
            throw NodeStartError(
                description: """
                    "\(options.dataDirectory)" holds no data, and there is nobody to ask about the \
                    existing cluster
                    """)
        }
        let found = try lookup()
        let own = options.ownPeerURLs.sorted()
        guard let member = found.members.first(where: { $0.peerURLs.sorted() == own }) else {
            throw NodeStartError(
                description: """
                    cluster \(String(found.clusterID, radix: 16)) has no member with the peer URLs \
                    \(own.joined(separator: ",")); add it first (member add)
                    """)
        }
        let listed = Set(options.initialMembers.flatMap(\.peerURLs))
        guard found.members.count == options.initialMembers.count,
            found.members.allSatisfy({ $0.peerURLs.contains(where: listed.contains) })
        else {
            let known = found.members.map { $0.peerURLs.joined(separator: ",") }
            throw NodeStartError(
                description: """
                    the initial cluster names \(listed.sorted().joined(separator: " ")), but the members of cluster \
                    \(String(found.clusterID, radix: 16)) are \(known.joined(separator: " "))
                    """)
        }
        self.init(beginning: .join, clusterID: found.clusterID, memberID: member.id)
        others = found.members
    }
}
