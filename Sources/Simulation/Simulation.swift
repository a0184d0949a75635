// One run: a cluster of real replicas, with time, network and disks made up from a seed.
//
// Everything happens on one thread, one event after the other, and every choice comes from the seed; so the
// same seed gives the same run, in any process. Files: Host (a member's process), Workload (clients),
// Faults (what goes wrong), Run (the two phases and the verdict).

import MVCC
import RaftCore
import Replica
import StateMachine

/// What can happen next.
enum SimulationEvent {
    /// A member's replica takes what is in its mailbox.
    case turn(NodeID, run: Int)
    /// The moment a replica asked to be woken.
    case wake(NodeID, run: Int)
    case deliver(PeerMessage)
    /// A broken connection is tried again.
    case connect(from: NodeID, run: Int, to: NodeID)
    case logDone(NodeID, run: Int)
    case backendDone(NodeID, run: Int)
    case snapshotArrives(SnapshotTransfer)
    case snapshotEnds(SnapshotTransfer, succeeded: Bool)
    /// A client thinks of its next request.
    case client(Int)
    case clientTimeout(UInt64)
    case operatorTurn
    case fault
    case endFault(FaultEnd)
    case compareStates
}

/// A snapshot on its way.
struct SnapshotTransfer {
    var from: NodeID
    var fromRun: Int
    var to: NodeID
    var message: Message
    var file: SnapshotFile
}

/// A cluster under attack.
package final class Simulation {
    /// Some twenty times what a long run needs; time may stand still only so long.
    private static let maxEvents = 20_000_000

    let seed: UInt64
    let knobs: Knobs
    let checker = Checker()
    var trace: Trace

    var now: Nanoseconds = 0
    var queue = EventQueue<SimulationEvent>()
    var network: SimulatedNetwork
    /// In the order in which they came to be.
    var members: [SimulatedMember] = []

    var hostRandom: SimulationRandom
    var workRandom: SimulationRandom
    var faultRandom: SimulationRandom

    // Workload.
    var active: [UInt64: Operation] = [:]
    var nextOperation: UInt64 = 1
    var issued = 0
    var nextLease: Int64 = 1
    var liveLeases: [Int64] = []
    var nextMember: NodeID = 1
    /// Members that the operator wants in or has asked out.
    var isChangingMembership = false

    // Faults.
    var isQuiet = false
    var breaksTransfers = false
    var faults: [FaultKind: Int] = [:]
    var eventsHandled = 0
    var snapshotsInstalled = 0

    init(seed: UInt64, operations: Int, isTraced: Bool) {
        self.seed = seed
        var random = SimulationRandom(seed: seed)
        knobs = Knobs(random: &random, operations: operations)
        network = SimulatedNetwork(knobs: knobs, random: random.fork())
        hostRandom = random.fork()
        workRandom = random.fork()
        faultRandom = random.fork()
        trace = Trace(isOn: isTraced)
        trace.write(0, "seed \(seed): \(knobs.summary)")
        let ids = (1...NodeID(knobs.founders)).map { $0 }
        let founders = ids.map { Self.describe($0) }
        members = ids.map { SimulatedMember(id: $0, founders: founders) }
        nextMember = NodeID(knobs.founders) + 1
    }

    static func describe(_ id: NodeID, isLearner: Bool = false) -> Member {
        Member(
            id: id, name: "", peerURLs: ["http://m\(id)"], clientURLs: [], isLearner: isLearner)
    }

    func member(_ id: NodeID) -> SimulatedMember? { members.first { $0.id == id } }

    /// The member of `run`, if that process still runs.
    func process(_ id: NodeID, _ run: Int) -> (SimulatedMember, MemberProcess)? {
        guard let member = member(id), member.run == run, let process = member.process else { return nil }
        return (member, process)
    }

    func schedule(_ event: SimulationEvent, after delay: Nanoseconds) {
        queue.schedule(event, at: now + delay)
    }

    /// Handles the next event; false when there is none or the run has failed.
    func step() -> Bool {
        guard checker.failure == nil, let (time, event) = queue.next() else { return false }
        now = time
        checker.now = time
        eventsHandled += 1
        if eventsHandled > Self.maxEvents { checker.fail("no end after \(eventsHandled) events") }
        handle(event)
        return checker.failure == nil
    }

    private func handle(_ event: SimulationEvent) {
        switch event {
        case .turn(let id, let run): turn(id, run)
        case .wake(let id, let run): wake(id, run)
        case .deliver(let message): deliver(message)
        case .connect(let from, let run, let to): connect(from: from, run: run, to: to)
        case .logDone(let id, let run): logDone(id, run)
        case .backendDone(let id, let run): backendDone(id, run)
        case .snapshotArrives(let transfer): snapshotArrives(transfer)
        case .snapshotEnds(let transfer, let succeeded): snapshotEnds(transfer, succeeded)
        case .client(let client): clientTurn(client)
        case .clientTimeout(let number): clientTimeout(number)
        case .operatorTurn: operatorTurn()
        case .fault: nextFault()
        case .endFault(let end): endFault(end)
        case .compareStates: compareStates()
        }
    }

    /// Takes the hash of every state; equal indexes must have equal hashes.
    func compareStates() {
        for member in members { takeStateHash(member) }
        schedule(.compareStates, after: 700 * millisecond)
    }

    func takeStateHash(_ member: SimulatedMember) {
        guard let process = member.process else { return }
        let machine = process.replica.machine
        checker.stateHash(machine.stateHash(), at: machine.appliedIndex, of: member.id)
    }
}

/// Writes what happens, when asked to, and always keeps a digest of it.
struct Trace {
    let isOn: Bool
    private(set) var digest: UInt64 = 0xCBF2_9CE4_8422_2325

    init(isOn: Bool) { self.isOn = isOn }

    /// A line of the trace.
    mutating func write(_ time: Nanoseconds, _ line: @autoclosure () -> String) {
        guard isOn else { return }
        print("\(time / 1_000) \(line())")
    }

    /// Something that happened, as numbers: part of the digest even when no trace is written.
    mutating func note(_ time: Nanoseconds, _ numbers: UInt64...) {
        digest = (digest ^ time) &* 0x100_0000_01B3
        for number in numbers { digest = (digest ^ number) &* 0x100_0000_01B3 }
        digest ^= digest >> 31
    }
}
