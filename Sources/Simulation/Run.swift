// A run has two phases. In the first everything may go wrong and nothing that was promised may break. In the
// second nothing goes wrong any more, and the cluster must come to rest: one leader, equal members, no
// lease left, and new writes accepted. The second finds what the first cannot: a cluster that is safe
// because it stands still.

import RaftCore
import Replica
import StateMachine

/// What became of one seed.
package struct SimulationResult: Sendable {
    package var seed: UInt64
    /// What was violated; nil when the seed passed.
    package var failure: String?
    package var digest: UInt64
    package var knobs: String
    package var operations: Int
    package var answered: Int
    package var writes: Int
    package var reads: Int
    package var events: Int
    package var faults: Int
    package var compared: Int
    package var snapshots: Int
    package var simulatedSeconds: Int
}

extension Simulation {
    /// Nothing takes this long once nothing fails: the longest retry of a replica is a few election timeouts,
    /// the longest request timeout 7 s, the longest lease 12 s.
    private var restLimit: Nanoseconds { 60 * second + 60 * knobs.electionTimeout }

    /// Runs both phases.
    package static func run(seed: UInt64, operations: Int = 400, trace: Bool = false) -> SimulationResult {
        let simulation = Simulation(seed: seed, operations: operations, isTraced: trace)
        simulation.run()
        return simulation.result
    }

    private func run() {
        for member in members { start(member) }
        for client in 0..<knobs.clients { schedule(.client(client), after: workRandom.within(knobs.thinkTime)) }
        schedule(.operatorTurn, after: second)
        schedule(.compareStates, after: second)
        scheduleFault()
        // Bounded also when nothing is ever answered.
        let limit = 120 * second
        while issued < knobs.operations, now < limit {
            guard step() else { return }
        }
        trace.write(now, "the faults end")
        issued = max(issued, knobs.operations)
        endAllFaults()
        comeToRest()
    }

    private func comeToRest() {
        let limit = now + restLimit
        while true {
            guard step() else { return }
            if isAtRest { break }
            if now > limit { return checker.fail("no rest after \(restLimit / second) s: \(restReport)") }
        }
        checker.require(
            restIndex >= checker.acknowledgedIndex && restIndex >= checker.committedIndex,
            "the cluster rests at entry \(restIndex), acknowledged was \(checker.acknowledgedIndex), committed "
                + "\(checker.committedIndex)")
        for member in voters { takeStateHash(member) }
        writeAgain(limit: limit)
    }

    /// A write on every member must be accepted.
    private func writeAgain(limit: Nanoseconds) {
        for member in voters {
            let before = checker.writesAcknowledged
            while checker.writesAcknowledged == before {
                if active.isEmpty {
                    issue(.put(key: Array("last".utf8), value: [1], lease: 0), client: nil, to: member)
                }
                guard step() else { return }
                if now > limit { return checker.fail("member \(member.id) accepts no write: \(restReport)") }
            }
        }
    }

    /// The members of the membership in force, apart from those that are lost.
    private var voters: [SimulatedMember] {
        let newest = members.compactMap(\.process).max {
            $0.replica.machine.appliedIndex < $1.replica.machine.appliedIndex
        }
        let conf = newest?.replica.raft.confState
        return members.filter { $0.fate == .alive && conf?.contains($0.id) == true }
    }

    private var restIndex: LogIndex {
        voters.compactMap { $0.process?.replica.machine.appliedIndex }.min() ?? 0
    }

    /// One leader that all know, everything applied by all, no lease left, no question open.
    private var isAtRest: Bool {
        guard active.isEmpty, checker.failure == nil else { return false }
        let voters = voters
        guard let first = voters.first?.process else { return false }
        guard let leader = first.replica.leader else { return false }
        var leaders = 0
        for member in voters {
            guard let process = member.process else { return false }
            let replica = process.replica
            if replica.role == .leader { leaders += 1 }
            guard replica.leader == leader, replica.term == first.replica.term,
                replica.machine.appliedIndex == first.replica.machine.appliedIndex,
                replica.machine.appliedIndex == replica.lastIndex,
                replica.machine.leaseCount == 0, replica.pendingRequests == 0
            else { return false }
        }
        return leaders == 1
    }

    private var restReport: String {
        members.map { member in
            guard let process = member.process else { return "m\(member.id) \(member.fate)" }
            let replica = process.replica
            return "m\(member.id) \(replica.role) term \(replica.term) leader \(replica.leader ?? 0) applied "
                + "\(replica.machine.appliedIndex) commit \(replica.commitIndex) last \(replica.lastIndex) leases "
                + "\(replica.machine.leaseCount) waiting \(replica.pendingRequests) voters "
                + "\(replica.raft.confState.voters)"
        }.joined(separator: "; ") + "; open \(active.keys.sorted())"
    }

    private var result: SimulationResult {
        SimulationResult(
            seed: seed, failure: checker.failure.map { "at \(now / microsecond) µs: \($0)" },
            digest: trace.digest, knobs: knobs.summary, operations: Int(nextOperation) - 1,
            answered: checker.operationsAnswered, writes: checker.writesAcknowledged,
            reads: checker.readsChecked, events: eventsHandled, faults: faults.values.reduce(0, +),
            compared: checker.stateHashesCompared, snapshots: snapshotsInstalled,
            simulatedSeconds: Int(now / second))
    }
}
