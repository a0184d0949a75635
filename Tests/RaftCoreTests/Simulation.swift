@testable import RaftCore

/// Named probabilities and sizes of one simulated run, drawn from its seed.
struct SimulationOptions {
    var founders: Int
    var joiners: Int
    var preVote: Bool
    var checkQuorum: Bool
    var maxRetainedEntries: Int
    var maxInflightMessages: Int
    var maxEntriesBytesPerMessage: Int
    /// Bounds that are usually out of reach: now and then so small that they bite.
    var isTight: Bool
    var appliesLater: Bool
    var heartbeatTicks: Int
    /// Per thousand steps.
    var dropsPerMille: Int
    var duplicatesPerMille: Int
    var crashesPerMille: Int
    var partitionsPerMille: Int
    var changesPerMille: Int

    init(random: inout SimulationRandom) {
        founders = random.pick([1, 2, 3, 3, 3, 5])
        joiners = random.below(3)
        preVote = random.below(2) == 0
        // Without either, members that were removed unawares may hold elections for ever.
        checkQuorum = !preVote || random.below(2) == 0
        maxRetainedEntries = random.below(6)
        maxInflightMessages = 1 + random.below(4)
        maxEntriesBytesPerMessage = 1 + random.below(30)
        isTight = random.below(3) == 0
        appliesLater = random.below(2) == 0
        heartbeatTicks = random.pick([1, 1, 2])
        dropsPerMille = random.pick([0, 20, 100, 250])
        duplicatesPerMille = random.pick([0, 50, 150])
        crashesPerMille = random.pick([0, 3, 8])
        partitionsPerMille = random.pick([0, 3, 8])
        changesPerMille = random.pick([0, 100, 600])
    }
}

/// The simulation's own random numbers (xorshift64*), apart from those of the cores.
struct SimulationRandom {
    private var state: UInt64

    init(seed: UInt64) { state = (seed &+ 1) &* 0x9E37_79B9_7F4A_7C15 | 1 }

    mutating func next() -> UInt64 {
        state ^= state >> 12
        state ^= state << 25
        state ^= state >> 27
        return state &* 0x2545_F491_4F6C_DD1D
    }

    mutating func below(_ bound: Int) -> Int { Int(next() >> 33) % bound }
    mutating func pick<T>(_ options: [T]) -> T { options[below(options.count)] }
    mutating func chance(perMille: Int) -> Bool { below(1000) < perMille }
}

/// How often a run came to the places where Raft goes wrong. A simulation that does not go there proves
/// nothing about them.
struct Reached: Equatable {
    var leaders = 0
    var resignations = 0
    var overwrites = 0
    var snapshots = 0
    var entriesDuringInstall = 0
    var jointApplied = 0
    var leadersRemoved = 0
    var changesUnappliedAtElection = 0
    var postponedElections = 0
    var commitsLearnedFromVotes = 0
    var batchedReads = 0

    static func + (a: Reached, b: Reached) -> Reached {
        Reached(
            leaders: a.leaders + b.leaders, resignations: a.resignations + b.resignations,
            overwrites: a.overwrites + b.overwrites, snapshots: a.snapshots + b.snapshots,
            entriesDuringInstall: a.entriesDuringInstall + b.entriesDuringInstall,
            jointApplied: a.jointApplied + b.jointApplied,
            leadersRemoved: a.leadersRemoved + b.leadersRemoved,
            changesUnappliedAtElection: a.changesUnappliedAtElection + b.changesUnappliedAtElection,
            postponedElections: a.postponedElections + b.postponedElections,
            commitsLearnedFromVotes: a.commitsLearnedFromVotes + b.commitsLearnedFromVotes,
            batchedReads: a.batchedReads + b.batchedReads)
    }
}

/// A property that must always hold did not.
struct SimulationFailure: Error, CustomStringConvertible {
    var seed: UInt64
    var step: Int
    var what: String
    var description: String { "seed \(seed), step \(step): \(what)" }
}

/// A cluster on a bad network with crashing members. All choices come from one seed. The promises
/// of Raft (thesis figure 3.2) are checked after every input of every member.
struct Simulation {
    let seed: UInt64
    private(set) var hosts: [TestHost] = []
    private var random: SimulationRandom
    private let options: SimulationOptions
    private var network: [Envelope] = []
    /// Members hear each other when they have the same number.
    private var side: [Int]
    private var step = 0
    private var restarts: UInt64 = 0
    private var proposals = 0

    // What is known from outside.
    /// All entries ever committed anywhere; the first one has index 2.
    private(set) var history: [Entry] = []
    private var leaders: [Term: NodeID] = [:]
    private var commitSeen: [LogIndex]
    private var leaderTermSeen: [Term]
    private var stateSeen: [(isLeader: Bool, isJoint: Bool)]
    /// What each pending read must at least see.
    private var reads: [UInt64: LogIndex] = [:]
    private var nextContext: UInt64 = 1
    private(set) var answeredReads = 0
    private(set) var reached = Reached()
    /// The largest payloads are membership changes of three steps.
    private static let maxPayloadBytes = 30

    init(seed: UInt64) throws {
        self.seed = seed
        random = SimulationRandom(seed: seed)
        options = SimulationOptions(random: &random)
        let members = ConfState(voters: (1...options.founders).map(NodeID.init))
        let total = options.founders + options.joiners
        for id in 1...total {
            var configuration = RaftConfiguration(id: NodeID(id))
            configuration.electionTicks = 5
            configuration.heartbeatTicks = options.heartbeatTicks
            configuration.maxCatchUpEntries = random.pick([0, 5, 50])
            // Members may be configured differently.
            if options.isTight {
                configuration.maxRetainedBytes = random.below(12)
                configuration.maxInflightBytes = 1 + random.below(12)
                configuration.maxUncommittedBytes = 1 + random.below(20)
                configuration.maxCommittedBytesPerReady = 1 + random.below(6)
                configuration.maxHeldMessages = 2 + random.below(6)
                configuration.maxPendingReads = 1 + random.below(3)
            }
            configuration.preVote = options.preVote
            configuration.checkQuorum = options.checkQuorum
            configuration.maxRetainedEntries = options.maxRetainedEntries
            configuration.maxInflightMessages = options.maxInflightMessages
            configuration.maxEntriesBytesPerMessage = options.maxEntriesBytesPerMessage
            hosts.append(
                try TestHost(
                    configuration: configuration,
                    founders: id <= options.founders ? members : nil, seed: random.next()))
            hosts[id - 1].appliesLater = options.appliesLater
        }
        side = Array(repeating: 0, count: total)
        commitSeen = hosts.map(\.core.commitIndex)
        leaderTermSeen = Array(repeating: 0, count: total)
        stateSeen = Array(repeating: (false, false), count: total)
    }

    /// Makes trouble for `steps` steps, then heals everything and demands that the cluster
    /// converges.
    mutating func run(steps: Int) throws {
        for _ in 0..<steps {
            step += 1
            try disturb()
            if step % 100 == 0 { try checkLogMatching() }
        }
        try converge()
        try checkLogMatching()
    }

    /// What two runs of one seed must have in common.
    var fingerprint: String {
        let members = hosts.map {
            "\($0.core.term) \($0.core.commitIndex) \($0.core.lastIndex) \($0.machine.commands)"
        }
        return "\(step) \(answeredReads) \(members)"
    }

    // MARK: Trouble

    private mutating func disturb() throws {
        var target = random.below(hosts.count)
        // Most of what can be asked of a member makes sense to a leader only.
        if random.below(3) == 0, let leader = hosts.firstIndex(where: { $0.isUp && $0.core.role == .leader }) {
            target = leader
        }
        if random.chance(perMille: options.crashesPerMille) {
            if hosts[target].isUp {
                hosts[target].crash(keeping: random.below(3), tornEntries: random.below(3))
                reads = reads.filter { $0.key >> 32 != hosts[target].core.id }
            }
        }
        if random.chance(perMille: options.partitionsPerMille) {
            for position in side.indices { side[position] = random.below(2) }
        }
        if random.chance(perMille: options.partitionsPerMille) {
            for position in side.indices { side[position] = 0 }
        }
        guard hosts[target].isUp else {
            if random.chance(perMille: 50) { try restart(target) }
            return
        }
        switch random.below(100) {
        case 0..<25: hosts[target].core.tick()
        case 25..<60: try deliver()
        case 60..<70: hosts[target].persist(1 + random.below(3))
        case 70..<72: hosts[target].install()
        case 72..<80: propose(on: target)
        case 80..<84: read(on: target)
        case 84..<86:
            hosts[target].compact()
            try checkRetained(target)
        case 86: try? hosts[target].core.transferLeadership(to: random.pick(hosts).core.id)
        case 87: hosts[target].core.reportUnreachable(random.pick(hosts).core.id)
        case 88 where random.chance(perMille: 100): hosts[target].core.campaign()
        case 88 where random.chance(perMille: 200):
            if hosts[target].core.role == .leader { reached.resignations += 1 }
            hosts[target].core.resign()
        case 89..<94: if random.chance(perMille: options.changesPerMille) { change(on: target) }
        default: hosts[target].apply(1 + random.below(3))
        }
        // Several inputs often share a Ready.
        if random.below(3) > 0 { try takeReady(target) }
        try check(target)
    }

    private mutating func restart(_ target: Int) throws {
        restarts += 1
        try hosts[target].restart(seed: random.next())
        let core = hosts[target].core
        // The commit index may go back to what was durable, but never below what was applied
        // durably.
        commitSeen[target] = core.commitIndex
        leaderTermSeen[target] = 0
    }

    private mutating func propose(on target: Int) {
        let payloads = (0..<1 + random.below(3)).map { Array("\(proposals + $0)".utf8) }
        if (try? hosts[target].core.propose(payloads)) != nil { proposals += payloads.count }
    }

    private mutating func read(on target: Int) {
        let context = hosts[target].core.id << 32 | nextContext
        nextContext += 1
        // Everything committed anywhere may have been acknowledged to somebody.
        if (try? hosts[target].core.readIndex(context: context)) != nil {
            reads[context] = UInt64(history.count) + 1
        }
    }

    private mutating func change(on target: Int) {
        let conf = hosts[target].core.confState
        var steps: [ConfigChange.Step] = []
        for _ in 0..<1 + random.below(3) {
            let id = hosts[random.below(hosts.count)].core.id
            switch random.below(4) {
            case 0 where !conf.contains(id) && Int(id) > options.founders:
                steps.append(.init(.addLearner, id))
            case 1 where conf.isLearner(id): steps.append(.init(.addVoter, id))
            case 2 where conf.isVoter(id): steps.append(.init(.addLearner, id))
            case 3 where conf.members.count > 1 && random.below(4) == 0:
                steps.append(.init(.remove, id))
            default: break
            }
        }
        if steps.isEmpty {
            _ = try? hosts[target].core.proposeConfigChange(.leaveJoint)
            return
        }
        let transition = random.pick([
            ConfigChange.Transition.automatic, .automatic, .jointImplicit, .jointExplicit,
        ])
        _ = try? hosts[target].core.proposeConfigChange(
            ConfigChange(steps, transition: transition))
    }

    private mutating func deliver() throws {
        guard !network.isEmpty else { return }
        let position = random.below(network.count)
        let envelope = network[position]
        if random.chance(perMille: options.duplicatesPerMille) {
            // It stays on its way as well.
        } else {
            network[position] = network[network.count - 1]
            network.removeLast()
        }
        try deliver(envelope, isLost: random.chance(perMille: options.dropsPerMille))
    }

    private mutating func deliver(_ envelope: Envelope, isLost: Bool) throws {
        let from = Int(envelope.message.from) - 1
        let to = Int(envelope.message.to) - 1
        let arrives = !isLost && side[from] == side[to] && hosts[to].isUp
        var envelope = envelope
        if hosts[from].isUp, random.below(2) == 0 { envelope.restream(from: hosts[from]) }
        if arrives {
            let before = hosts[to].core
            do throws(StepError) {
                try hosts[to].step(envelope)
                note(envelope.message.body, before, hosts[to].core)
            } catch {
                if error.isFatal { throw failure("\(trace(envelope.message)): \(error)") }
                if error == .malformed || error == .misaddressed {
                    throw failure("\(trace(envelope.message)): \(error)")
                }
            }
            try check(to)
        }
        if case .snapshot = envelope.message.body, hosts[from].isUp {
            hosts[from].core.snapshotReported(to: envelope.message.to, succeeded: arrives)
        }
    }

    /// Counts what a message led to.
    private mutating func note(_ body: Message.Body, _ before: RaftCore, _ after: RaftCore) {
        switch body {
        case .voteRequest, .voteResponse:
            if after.commitIndex > before.commitIndex { reached.commitsLearnedFromVotes += 1 }
            if after.role == .leader, before.role != .leader, !before.unappliedConfigChanges.isEmpty {
                reached.changesUnappliedAtElection += 1
            }
        case .append:
            if before.snapshotBeingInstalled != nil, after.lastIndex > before.lastIndex {
                reached.entriesDuringInstall += 1
            }
            if after.log.handedOutIndex < before.log.handedOutIndex { reached.overwrites += 1 }
        default:
            break
        }
        if after.postponedCampaign != nil, before.postponedCampaign == nil {
            reached.postponedElections += 1
        }
    }

    private mutating func takeReady(_ target: Int) throws {
        try check(target)
        guard hosts[target].core.hasReady else { return }
        let (ready, sent) = hosts[target].takeReady()
        if ready.persist?.snapshot != nil { reached.snapshots += 1 }
        if ready.readStates.count > 1 { reached.batchedReads += 1 }
        for envelope in sent { try checkDurable(envelope.message, at: target) }
        network += sent
        for state in ready.readStates {
            guard let required = reads.removeValue(forKey: state.context) else {
                throw failure("read \(state.context) answered twice or never asked")
            }
            answeredReads += 1
            if state.index < required {
                throw failure("stale read at \(state.index), committed \(required)")
            }
        }
        for context in ready.abandonedReads { reads[context] = nil }
        for entry in ready.committed where history[Int(entry.index) - 2] != entry {
            throw failure("\(hosts[target].core.id) applies \(trace(entry))")
        }
        let disk = hosts[target].disk
        for entry in ready.committed where entry.index > disk.snapshotIndex {
            let position = Int(entry.index - disk.snapshotIndex) - 1
            if position >= disk.entries.count || disk.entries[position] != entry {
                throw failure("\(hosts[target].core.id) applies \(trace(entry)) before it is durable")
            }
        }
    }

    // MARK: Promises

    private func failure(_ what: String) -> SimulationFailure {
        SimulationFailure(seed: seed, step: step, what: what)
    }

    /// Checks one member after an input: election safety, leader completeness, commit monotonic,
    /// and that what it takes for committed is what everybody takes for committed.
    private mutating func check(_ target: Int) throws {
        let core = hosts[target].core
        try checkBounds(target)
        if core.confState.isJoint, !stateSeen[target].isJoint { reached.jointApplied += 1 }
        if stateSeen[target].isLeader, core.role != .leader, !core.confState.isVoter(core.id) {
            reached.leadersRemoved += 1
        }
        stateSeen[target] = (core.role == .leader, core.confState.isJoint)
        if core.role == .leader, leaderTermSeen[target] != core.term {
            leaderTermSeen[target] = core.term
            if let other = leaders[core.term], other != core.id {
                throw failure("\(other) and \(core.id) lead term \(core.term)")
            }
            leaders[core.term] = core.id
            reached.leaders += 1
            for entry in history where entry.index > core.log.snapshotIndex {
                if core.log.term(at: entry.index) != entry.term {
                    throw failure("leader \(core.id) lacks committed \(trace(entry))")
                }
            }
        }
        if core.commitIndex < commitSeen[target] {
            throw failure("\(core.id) commit goes back to \(core.commitIndex)")
        }
        if core.appliedIndex > core.commitIndex || core.commitIndex > core.lastIndex {
            throw failure("\(core.id) applied, commit, last out of order")
        }
        guard core.commitIndex > commitSeen[target] else { return }
        let first = max(commitSeen[target] + 1, core.log.snapshotIndex + 1, 2)
        commitSeen[target] = core.commitIndex
        guard first <= core.commitIndex else { return }
        for index in first...core.commitIndex {
            let position = Int(index) - 2
            guard let entry = core.log.entry(at: index) else {
                throw failure("\(core.id) lacks its committed entry \(index)")
            }
            if position < history.count {
                if history[position] != entry {
                    throw failure("\(core.id) commits \(trace(entry)), not \(trace(history[position]))")
                }
            } else if position == history.count {
                history.append(entry)
            } else {
                throw failure("\(core.id) commits \(index) before anybody committed what precedes it")
            }
        }
    }

    /// Checks that what was compacted just now holds no more bytes than allowed.
    private func checkRetained(_ target: Int) throws {
        let core = hosts[target].core
        guard core.snapshotBeingInstalled == nil else { return }
        let limit = min(core.appliedIndex, core.log.stableIndex)
        guard core.log.firstIndex <= limit else { return }
        let bytes = (core.log.firstIndex...limit).reduce(0) { $0 + (core.log.entry(at: $1)?.data.count ?? 0) }
        if bytes > core.configuration.maxRetainedBytes {
            throw failure("\(core.id) retains \(bytes) bytes")
        }
    }

    /// Checks the bounds on what is kept for others and sent ahead.
    private func checkBounds(_ target: Int) throws {
        let core = hosts[target].core
        let configuration = core.configuration
        for peer in core.progress where core.role == .leader && peer.id != core.id {
            let last = core.configuration.maxEntriesBytesPerMessage + Self.maxPayloadBytes
            if peer.inflights.bytes >= configuration.maxInflightBytes + last {
                throw failure("\(peer.inflights.bytes) bytes under way to \(peer.id)")
            }
        }
        if core.uncommittedBytes > configuration.maxUncommittedBytes + 3 * Self.maxPayloadBytes {
            throw failure("\(core.uncommittedBytes) bytes uncommitted")
        }
    }

    /// Checks that a promise leaves its member only after it is on its disk.
    private func checkDurable(_ message: Message, at target: Int) throws {
        let disk = hosts[target].disk
        let isCovered =
            switch message.body {
            case .voteRequest(let request):
                request.isPreVote || disk.hardState.term >= message.term
            case .voteResponse(let response):
                response.isPreVote || !response.isGranted
                    || disk.hardState.term > message.term
                    || (disk.hardState.term == message.term && disk.hardState.vote == message.to)
            case .appendResponse(.accepted(let match)):
                disk.hardState.term > message.term
                    || (disk.hardState.term == message.term && disk.lastIndex >= match)
            case .appendResponse(.rejected), .newerTerm:
                disk.hardState.term >= message.term
            default:
                true
            }
        if !isCovered { throw failure("not durable: \(trace(message))") }
    }

    /// Checks that two logs which agree at one index agree everywhere before it.
    private func checkLogMatching() throws {
        for (position, first) in hosts.enumerated() where first.isUp {
            for second in hosts[..<position] where second.isUp {
                let (a, b) = (first.core.log, second.core.log)
                var mustAgree = false
                var index = min(a.lastIndex, b.lastIndex)
                while index > max(a.snapshotIndex, b.snapshotIndex) {
                    let agrees = a.entry(at: index) == b.entry(at: index)
                    if mustAgree, !agrees {
                        throw failure("logs of \(first.core.id), \(second.core.id) differ at \(index)")
                    }
                    if a.term(at: index) == b.term(at: index) { mustAgree = true }
                    index -= 1
                }
            }
        }
    }

    // MARK: Recovery

    /// Ends all trouble and runs until the members agree on everything, including a last proposal.
    private mutating func converge() throws {
        for position in side.indices { side[position] = 0 }
        for position in hosts.indices where !hosts[position].isUp { try restart(position) }
        // A proposal may be lost along with its leader, and is then made again.
        var proposedTerm: Term?
        for _ in 0..<2_000 {
            step += 1
            for position in hosts.indices {
                hosts[position].core.tick()
                try check(position)
            }
            for _ in 0..<4 { try settleOnce() }
            guard
                let leader = hosts.filter({ $0.core.role == .leader })
                    .max(by: { $0.core.term < $1.core.term })
            else { continue }
            if proposedTerm != leader.core.term {
                let position = Int(leader.core.id) - 1
                if (try? hosts[position].core.propose([Array("end".utf8)])) != nil {
                    proposedTerm = leader.core.term
                }
                continue
            }
            if isAgreed(with: leader) { return }
        }
        let states = hosts.map {
            "\($0.core.id) \($0.core.role) term \($0.core.term) last \($0.core.lastIndex) "
                + "applied \($0.core.appliedIndex) \(trace($0.core.confState))"
        }
        throw failure("no agreement: \(states)")
    }

    private mutating func settleOnce() throws {
        for position in hosts.indices {
            try takeReady(position)
            hosts[position].persist()
            hosts[position].install()
            hosts[position].apply()
            try takeReady(position)
            try check(position)
        }
        let arriving = network
        network = []
        for envelope in arriving { try deliver(envelope, isLost: false) }
    }

    private func isAgreed(with leader: TestHost) -> Bool {
        guard leader.core.appliedIndex == leader.core.lastIndex,
            leader.machine.commands.last == "end"
        else { return false }
        return leader.core.confState.members.allSatisfy { id in
            hosts[Int(id) - 1].machine == leader.machine
        }
    }
}
