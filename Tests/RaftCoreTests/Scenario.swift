import RaftCore

/// Runs the commands of a scenario file and returns what each of them prints.
///
/// A command is a line of a verb, the member it concerns and arguments:
///
///     cluster voters=1,2,3 [learners=4] [join=5] [election=10] [prevote=off] [checkquorum=off]
///             [inflight=N] [inflightbytes=N] [messagebytes=N] [uncommitted=N] [promotion=N] [reads=N]
///             [retain=N] [catchup=N] [retainbytes=N] [noprevote=3]
///     campaign 1 · tick 1 [n] · ready 1 · persist 1 [batches] · install 1
///     deliver 2 [from 1] [n]      hand over messages to 2, oldest first, taking no Ready
///     drop 2 [from 1] · duplicate 2
///     settle [1,2,3]              ready, persist and deliver among these until quiet, with a trace
///     quietly                     the same without a trace
///     propose 1 a b c · change 1 [implicit|explicit] voter=4 learner=5 remove=2 | change 1 leave
///     read 2 77 · transfer 1 2 · resign 1 · compact 1 [index] · reported 1 2 ok|failed · unreachable 1 2
///     restream 1 3                the snapshot under way from 1 to 3 carries the present state of 1
///     inject 1->2 term=5 newerterm|timeoutnow|heartbeat|prevote|vote
///     inject 1->2 term=5 append prev=1@1 commit=1 2@4=payload …
///     cut 3 · heal · crash 2 [batches] · restart 2
///     log 1 · progress 1 · status
///
/// A member that is cut sends to nobody and hears nobody.
struct Scenario {
    private var hosts: [TestHost] = []
    private var network: [Envelope] = []
    private var isolated: [NodeID] = []
    private var output: [String] = []
    private var starts: UInt64 = 0

    /// Runs one command a line and returns all that they print.
    @discardableResult
    mutating func play(_ script: String) throws -> String {
        try script.split(separator: "\n")
            .map { try run($0.trimmingPrefix { $0 == " " }.description) }
            .joined(separator: "\n")
    }

    subscript(id: NodeID) -> TestHost {
        guard let host = hosts.first(where: { $0.core.id == id }) else {
            preconditionFailure("no member \(id)")
        }
        return host
    }

    /// What is under way to `id`.
    func inbox(_ id: NodeID) -> [Message] { network.map(\.message).filter { $0.to == id } }

    /// Lets `change` act on the core of member `id`.
    mutating func with<R>(_ id: NodeID, _ change: (inout RaftCore) throws -> R) rethrows -> R {
        guard let position = hosts.firstIndex(where: { $0.core.id == id }) else {
            preconditionFailure("no member \(id)")
        }
        return try change(&hosts[position].core)
    }

    mutating func run(_ command: String) throws -> String {
        output = []
        var words = command.split(separator: " ").map(String.init)
        let verb = words.removeFirst()
        switch verb {
        case "cluster": try makeCluster(words)
        case "settle": settle(words.first.map(ids) ?? hosts.map(\.core.id), isTraced: true)
        case "quietly": settle(hosts.map(\.core.id), isTraced: false)
        case "status": hosts.forEach { output.append(status($0)) }
        case "heal": isolated = []
        case "inject": try inject(words)
        default: try runOnMember(verb, words)
        }
        return output.isEmpty ? "ok" : output.joined(separator: "\n")
    }

    private mutating func runOnMember(_ verb: String, _ words: [String]) throws {
        let node = try number(words.first)
        guard let position = hosts.firstIndex(where: { $0.core.id == node }) else {
            throw ScenarioError("no member \(node)")
        }
        let arguments = Array(words.dropFirst())
        switch verb {
        case "campaign":
            hosts[position].core.campaign()
        case "tick":
            for _ in 0..<(try arguments.first.map(number) ?? 1) { hosts[position].core.tick() }
        case "ready":
            ready(position, isTraced: true)
        case "persist":
            hosts[position].persist(Int(try arguments.first.map(number) ?? 1_000))
        case "install":
            hosts[position].install()
        case "deliver":
            try deliver(to: position, arguments)
        case "drop":
            let origin = arguments.first == "from" ? try number(arguments.last) : nil
            network.removeAll { $0.message.to == node && (origin ?? $0.message.from) == $0.message.from }
        case "duplicate":
            network += network.filter { $0.message.to == node }
        case "propose":
            output += outcome { () throws(ProposalError) in
                try "\(hosts[position].core.propose(arguments.map { Array($0.utf8) }))"
            }
        case "change":
            let change = try parseChange(arguments)
            output += outcome { () throws(ProposalError) in
                try "at \(hosts[position].core.proposeConfigChange(change))"
            }
        case "read":
            let context = try number(arguments.first)
            output += outcome { () throws(ReadIndexError) in
                try hosts[position].core.readIndex(context: context)
                return nil
            }
        case "transfer":
            let target = try number(arguments.first)
            output += outcome { () throws(TransferError) in
                try hosts[position].core.transferLeadership(to: target)
                return nil
            }
        case "restream":
            let target = try number(arguments.first)
            for index in network.indices where network[index].message.to == target {
                network[index].restream(from: hosts[position])
            }
        case "resign":
            hosts[position].core.resign()
        case "compact":
            hosts[position].compact(through: try arguments.first.map(number) ?? .max)
            output.append("first=\(hosts[position].core.log.firstIndex)")
        case "reported":
            hosts[position].core.snapshotReported(
                to: try number(arguments.first), succeeded: arguments.last == "ok")
        case "unreachable":
            hosts[position].core.reportUnreachable(try number(arguments.first))
        case "cut":
            isolated.append(node)
            network.removeAll { $0.message.to == node || $0.message.from == node }
        case "crash":
            hosts[position].crash(keeping: Int(try arguments.first.map(number) ?? 0))
        case "restart":
            starts += 1
            try hosts[position].restart(seed: starts)
            output.append(status(hosts[position]))
        case "log":
            let log = hosts[position].core.log
            output.append(
                "after \(log.snapshotIndex)@\(log.snapshotTerm) stable=\(log.stableIndex) "
                    + trace(hosts[position].disk.entries))
        case "progress":
            for peer in hosts[position].core.progress {
                output.append("\(peer.id) \(peer.state) match=\(peer.match) next=\(peer.next)")
            }
        default:
            throw ScenarioError("unknown command \(verb)")
        }
    }

    private mutating func makeCluster(_ words: [String]) throws {
        var options: [String: String] = [:]
        for word in words {
            let parts = word.split(separator: "=", maxSplits: 1).map(String.init)
            options[parts[0]] = parts.last
        }
        let founders = ConfState(
            voters: ids(options["voters"] ?? ""), learners: ids(options["learners"] ?? ""))
        let joining = ids(options["join"] ?? "")
        for id in founders.members + joining {
            var configuration = RaftConfiguration(id: id)
            configuration.preVote = options["prevote"] != "off"
            configuration.checkQuorum = options["checkquorum"] != "off"
            configuration.maxRetainedEntries = Int(try number(options["retain"] ?? "0"))
            configuration.maxCatchUpEntries = Int(try number(options["catchup"] ?? "0"))
            if let n = options["retainbytes"] { configuration.maxRetainedBytes = Int(try number(n)) }
            if let n = options["inflightbytes"] { configuration.maxInflightBytes = Int(try number(n)) }
            if let n = options["election"] { configuration.electionTicks = Int(try number(n)) }
            if let n = options["inflight"] { configuration.maxInflightMessages = Int(try number(n)) }
            if let n = options["uncommitted"] { configuration.maxUncommittedBytes = Int(try number(n)) }
            if let n = options["promotion"] { configuration.learnerPromotionPercent = Int(try number(n)) }
            if let n = options["reads"] { configuration.maxPendingReads = Int(try number(n)) }
            if let n = options["messagebytes"] {
                configuration.maxEntriesBytesPerMessage = Int(try number(n))
            }
            if ids(options["noprevote"] ?? "").contains(id) { configuration.preVote = false }
            starts += 1
            hosts.append(
                try TestHost(
                    configuration: configuration,
                    founders: joining.contains(id) ? nil : founders, seed: starts))
        }
        hosts.sort { $0.core.id < $1.core.id }
    }

    private mutating func ready(_ position: Int, isTraced: Bool) {
        let (ready, sent) = hosts[position].takeReady()
        if isTraced { output += trace(ready) }
        for envelope in sent {
            let message = envelope.message
            if isolated.contains(message.from) || isolated.contains(message.to) { continue }
            network.append(envelope)
        }
    }

    private mutating func deliver(to position: Int, _ arguments: [String]) throws {
        var arguments = arguments
        var origin: NodeID?
        if arguments.first == "from" {
            origin = try number(arguments[1])
            arguments.removeFirst(2)
        }
        var count = try arguments.first.map(number) ?? .max
        let node = hosts[position].core.id
        var rest: [Envelope] = []
        for envelope in network {
            let message = envelope.message
            guard message.to == node, (origin ?? message.from) == message.from, count > 0 else {
                rest.append(envelope)
                continue
            }
            count -= 1
            step(position, envelope, isTraced: true)
        }
        network = rest
    }

    private mutating func step(_ position: Int, _ envelope: Envelope, isTraced: Bool) {
        if isTraced { output.append(trace(envelope.message)) }
        do throws(StepError) {
            try hosts[position].step(envelope)
        } catch {
            output.append("error: \(error)")
        }
    }

    private mutating func settle(_ nodes: [NodeID], isTraced: Bool) {
        for _ in 0..<200 {
            var isQuiet = true
            for position in hosts.indices
            where nodes.contains(hosts[position].core.id) && hosts[position].isUp {
                let name = hosts[position].core.id
                if hosts[position].core.hasReady {
                    isQuiet = false
                    let before = output.count
                    ready(position, isTraced: isTraced)
                    let lines = output[before...].map { "\(name): \($0)" }
                    output.replaceSubrange(before..., with: lines)
                }
                if !hosts[position].unsynced.isEmpty {
                    isQuiet = false
                    hosts[position].persist()
                    hosts[position].install()
                }
            }
            let arriving = network
            network = []
            for envelope in arriving {
                let to = envelope.message.to
                guard nodes.contains(to) else {
                    network.append(envelope)
                    continue
                }
                guard let position = hosts.firstIndex(where: { $0.core.id == to }),
                    hosts[position].isUp
                else { continue }
                isQuiet = false
                step(position, envelope, isTraced: false)
                if case .snapshot = envelope.message.body,
                    let sender = hosts.firstIndex(where: { $0.core.id == envelope.message.from })
                {
                    hosts[sender].core.snapshotReported(to: to, succeeded: true)
                }
            }
            if isQuiet { return }
        }
        output.append("error: not quiet after 200 rounds")
    }

    private mutating func inject(_ words: [String]) throws {
        let ends = words[0].split(separator: ">")
        let from = try number(String(ends[0].dropLast()))
        let to = try number(String(ends[1]))
        let term = try number(String(words[1].dropFirst("term=".count)))
        let body: Message.Body
        switch words[2] {
        case "newerterm": body = .newerTerm
        case "timeoutnow": body = .timeoutNow
        case "heartbeat": body = .heartbeat(commit: 0, round: 1)
        case "prevote":
            body = .voteRequest(
                .init(
                    isPreVote: true, isTransfer: false, lastIndex: 100, lastTerm: term - 1,
                    known: .init(index: 0, term: 0)))
        case "vote":
            body = .voteRequest(
                .init(
                    isPreVote: false, isTransfer: false, lastIndex: 100, lastTerm: term - 1,
                    known: .init(index: 0, term: 0)))
        case "append":
            // prev=1@1 commit=1 2@2=A …
            let previous = words[3].dropFirst("prev=".count).split(separator: "@").map(String.init)
            body = .append(
                .init(
                    previousIndex: try number(previous[0]), previousTerm: try number(previous[1]),
                    commit: try number(String(words[4].dropFirst("commit=".count))),
                    entries: try words[5...].map { word in
                        let parts = word.split { $0 == "@" || $0 == "=" }.map(String.init)
                        return Entry(
                            index: try number(parts[0]), term: try number(parts[1]),
                            data: Array(parts[2].utf8))
                    }))
        case let word where word.hasPrefix("heartbeat="):
            body = .heartbeat(commit: try number(String(word.dropFirst("heartbeat=".count))), round: 1)
        default: throw ScenarioError("unknown message \(words[2])")
        }
        guard let position = hosts.firstIndex(where: { $0.core.id == to }) else {
            throw ScenarioError("no member \(to)")
        }
        step(position, Envelope(message: Message(from: from, to: to, term: term, body: body)), isTraced: true)
    }

    private func parseChange(_ words: [String]) throws -> ConfigChange {
        var change = ConfigChange([])
        for word in words {
            switch word {
            case "leave": break
            case "implicit": change.transition = .jointImplicit
            case "explicit": change.transition = .jointExplicit
            default:
                let parts = word.split(separator: "=").map(String.init)
                let kinds: [String: ConfigChange.StepKind] = [
                    "voter": .addVoter, "learner": .addLearner, "remove": .remove,
                ]
                guard let kind = kinds[parts[0]] else { throw ScenarioError("what is \(word)?") }
                change.changes.append(.init(kind, try number(parts.last)))
            }
        }
        return change
    }

    private func status(_ host: TestHost) -> String {
        let core = host.core
        guard host.isUp else { return "\(core.id): down" }
        return "\(core.id): \(core.role) term=\(core.term) leader=\(core.leader.map(String.init) ?? "-") "
            + "last=\(core.lastIndex) commit=\(core.commitIndex) applied=\(core.appliedIndex) "
            + trace(core.confState)
    }

    private func ids(_ list: String) -> [NodeID] { list.split(separator: ",").compactMap { NodeID($0) } }

    private func number(_ word: String?) throws -> UInt64 {
        guard let word, let value = UInt64(word) else {
            throw ScenarioError("not a number: \(word ?? "nothing")")
        }
        return value
    }
}

struct ScenarioError: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// The text of an action that may fail, or its error.
private func outcome<E: Error>(_ action: () throws(E) -> String?) -> [String] {
    do throws(E) {
        return try action().map { [$0] } ?? []
    } catch {
        return ["error: \(error)"]
    }
}
