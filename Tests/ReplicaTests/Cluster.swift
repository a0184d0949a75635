// A few replicas in one process over the production recovery and log, with the simulator's disks and
// backends. Nothing happens by chance: a test says which message goes where and when time passes. The big
// picture is the simulator's (Sources/Simulation); here single courses of events are written down.

import MVCC
import RaftCore
import StateMachine
import Storage
import Testing

@testable import Replica
@testable import Simulation

/// Notes what it was answered; the cluster takes the answers out of the effects.
final class Asked: ReplyWaiter, @unchecked Sendable {
    // Unchecked: one thread runs a test.
    var answers: [ReplicaAnswer] = []

    var loopIndex: Int { 0 }
    func replicaAnswered(_ answer: ReplicaAnswer) { answers.append(answer) }

    var wasApplied: Bool {
        if case .applied(let result, _, _)? = answers.first, answers.count == 1 { return result.error == nil }
        return false
    }

    var refusal: NodeError? {
        if case .refused(let error)? = answers.first, answers.count == 1 { return error }
        return nil
    }
}

/// One member: its disk and backend, and its replica while it runs.
final class ClusterMember {
    let member: SimulatedMember
    var replica: Replica?
    var wal: WAL?

    init(_ member: SimulatedMember) { self.member = member }
}

final class Cluster {
    static let millisecond: UInt64 = 1_000_000
    let ids: [NodeID]
    private(set) var members: [NodeID: ClusterMember] = [:]
    private(set) var now: UInt64 = 1_000_000_000
    private var runs: UInt64 = 0
    /// Messages under way, in order.
    private var wire: [PeerMessage] = []
    /// Everything that was sent since the start.
    private(set) var sent: [PeerMessage] = []
    /// Which messages get through.
    var passes: (PeerMessage) -> Bool = { _ in true }
    private(set) var snapshots: [(from: NodeID, request: SnapshotRequest)] = []
    /// Members whose snapshots were told to hurry, in order.
    private(set) var hurried: [NodeID] = []
    var configure: (inout RecoveryOptions) -> Void = { _ in }

    init(_ count: Int = 3) {
        ids = (1...UInt64(count)).map { $0 }
        let founders = ids.map {
            Member(id: $0, name: "m\($0)", peerURLs: ["http://m\($0)"], clientURLs: ["http://c\($0)"])
        }
        for id in ids { members[id] = ClusterMember(SimulatedMember(id: id, founders: founders)) }
    }

    func startAll() throws {
        for id in ids { try start(id) }
    }

    func options(_ id: NodeID) -> RecoveryOptions {
        runs += 1
        let founders = members[id]?.member.founders ?? []
        var options = RecoveryOptions(
            beginning: .found(founders), clusterID: 1, memberID: id,
            member: Member(
                id: id, name: "m\(id)", peerURLs: ["http://m\(id)"], clientURLs: ["http://c\(id)"]),
            walDirectory: "/wal", raft: RaftConfiguration(id: id), salt: runs, randomSeed: 77 * id + runs,
            run: 1000 * id + runs, now: now)
        options.wal = WALConfiguration(segmentBytes: 64 << 10)
        options.raft.maxEntryBytes = options.wal.maxEntryBytes
        configure(&options)
        return options
    }

    func start(_ id: NodeID) throws {
        guard let entry = members[id] else { return }
        let machine = StateMachine(
            store: MVCCStore(configuration: MVCCConfiguration()),
            reader: BackendStateRecordReader(entry.member.backend),
            configuration: StateMachineConfiguration())
        let recovered = try Recovered(
            machine: machine, host: SimulatedRecoveryHost(member: entry.member), disk: entry.member.disk,
            options: options(id))
        entry.replica = recovered.replica
        entry.wal = recovered.wal
    }

    /// The process ends at once; what was synchronized stays.
    func crash(_ id: NodeID) {
        members[id]?.replica = nil
        members[id]?.wal = nil
        var random = SimulationRandom(seed: 1)
        members[id]?.member.disk.crash(losesPower: true, keepPerMille: 0, random: &random)
    }

    func replica(_ id: NodeID) throws -> Replica { try #require(members[id]?.replica) }

    // MARK: Inputs

    func give(_ input: ReplicaInput, to id: NodeID) throws {
        try replica(id).handle(input, now: now)
        try settle()
    }

    @discardableResult
    func put(_ key: String, by id: NodeID) throws -> Asked {
        let body: [UInt8] = [0x0A, UInt8(key.utf8.count)] + key.utf8 + [0x12, 1, 0x78]
        return try propose(Command.encode(kind: .put, body: body), by: id)
    }

    func propose(_ entry: [UInt8], by id: NodeID) throws -> Asked {
        let asked = Asked()
        try give(.propose(Proposal(entry: entry, waiter: asked)), to: id)
        return asked
    }

    /// Lets a member lead: whoever leads hands over, or an election is held.
    func elect(_ id: NodeID) throws {
        for _ in 0..<50 where try replica(id).role != .leader {
            if let leader = ids.last(where: { members[$0]?.replica?.role == .leader }) {
                try give(.transferLeadership(to: id, Asked()), to: leader)
            } else {
                try replica(id).campaign()
                try settle()
            }
            try pass(ticks: 1)
        }
        #expect(try replica(id).role == .leader)
        try pass(ticks: 2)
    }

    /// Lets time pass, tick by tick, for everybody or for some.
    func pass(ticks: Int, for some: [NodeID]? = nil) throws {
        for _ in 0..<ticks {
            now += 100 * Self.millisecond
            for id in some ?? ids { members[id]?.replica?.tick(now: now) }
            try settle()
        }
    }

    // MARK: The host's work

    /// Does everything until nobody has anything left to do.
    func settle() throws {
        for _ in 0..<10_000 {
            var isQuiet = true
            for id in ids {
                while let replica = members[id]?.replica, replica.hasEffects {
                    isQuiet = false
                    try perform(replica.takeEffects(now: now), of: id)
                }
            }
            if !wire.isEmpty {
                isQuiet = false
                let arrived = wire
                wire = []
                for message in arrived { members[message.to]?.replica?.handle(.received(message), now: now) }
            }
            if isQuiet { return }
        }
        Issue.record("the cluster does not come to rest")
    }

    private func perform(_ effects: Effects, of id: NodeID) throws {
        guard let entry = members[id], let replica = entry.replica, let wal = entry.wal else { return }
        if let fatal = effects.fatal { Issue.record("member \(id): \(fatal)") }
        for message in effects.messages {
            sent.append(message)
            if passes(message) { wire.append(message) }
        }
        if let batch = effects.persist {
            try wal.append(batch)
            try wal.flush()
            replica.handle(.persisted(sequence: batch.sequence), now: now)
        }
        for pending in effects.answers { pending.waiter.replicaAnswered(pending.answer) }
        if let commit = effects.commit {
            entry.member.backend.state.apply(commit)
            replica.handle(.backendCommitted(commit), now: now)
        }
        if let metadata = effects.install {
            let file = try #require(entry.member.snapshots.first { $0.metadata == metadata })
            entry.member.backend.state = file.state
            replica.handle(.snapshotInstalled(InstalledSnapshot(state: file.state)), now: now)
        }
        if let release = effects.release { try wal.release(release) }
        for request in effects.snapshots { snapshots.append((id, request)) }
        hurried += effects.hurriedSnapshots
    }

    /// Lets the transfers of the snapshots that were asked for fail.
    ///
    /// - Returns: how many there were.
    func failSnapshots() throws -> Int {
        let waiting = snapshots
        snapshots = []
        for (from, request) in waiting {
            try give(.snapshotSent(to: request.to, succeeded: false), to: from)
        }
        return waiting.count
    }

    /// Copies and delivers the snapshots that were asked for.
    func sendSnapshots() throws {
        let waiting = snapshots
        snapshots = []
        for (from, request) in waiting {
            guard let sender = members[from], let receiver = members[request.to] else { continue }
            let state = sender.member.backend.state
            let stored = try #require(state.value(.meta, StateKey.confState))
            let metadata = SnapshotMetadata(
                index: state.appliedIndex, term: state.appliedTerm,
                confState: try #require(ConfState(stored: stored)))
            var message = request.message
            message.body = .snapshot(metadata)
            receiver.member.snapshots.append(SnapshotFile(metadata: metadata, state: state))
            receiver.replica?.handle(.snapshotArrived(message), now: now)
            sender.replica?.handle(.snapshotSent(to: request.to, succeeded: true), now: now)
        }
        try settle()
    }

    /// How often a put of this key was applied at a member: the version of the key.
    func version(of key: String, at id: NodeID) throws -> Int64 {
        let store = try replica(id).machine.store
        var version: Int64 = 0
        Array(key.utf8).withUnsafeBytes { key in
            version = store.metadata(of: key)?.version ?? 0
        }
        return version
    }
}
