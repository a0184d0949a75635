// What goes wrong, when, and for how long.

import RaftCore
import Replica
import StateMachine
import Storage

/// The kinds of faults that are started one by one. Loss, delay, repetition and slow disks come from the knobs.
enum FaultKind: CaseIterable {
    case crash, crashLeader, crashMany
    /// The process stands still and its clock goes on, as after SIGSTOP.
    case pause, pauseLeader
    /// Two groups that do not hear each other.
    case partition
    /// One direction only.
    case oneWay
    /// The leader hears nobody, or nobody hears the leader, or both.
    case isolateLeader
    /// Links are held up one after the other and released in another order.
    case swizzle
    case transferLeadership
    /// Snapshots break on their way for a while.
    case breakTransfers
    case stopGracefully
    /// The disk fails an operation to come, or is full.
    case failDisk
    /// One bit of a log turns over while its process is down.
    case flipBit
}

/// The end of a fault.
enum FaultEnd {
    case restart(NodeID)
    case resume(NodeID, run: Int)
    case heal([(from: NodeID, to: NodeID)])
    case transfersWork
}

extension Simulation {
    func scheduleFault() {
        schedule(.fault, after: faultRandom.within(knobs.faultInterval / 4...knobs.faultInterval * 7 / 4))
    }

    func nextFault() {
        if isQuiet { return }
        scheduleFault()
        let total = knobs.faultWeights.reduce(0, +)
        guard total > 0 else { return }
        var draw = faultRandom.below(total)
        for (kind, weight) in zip(FaultKind.allCases, knobs.faultWeights) {
            if draw < weight {
                begin(kind)
                return
            }
            draw -= weight
        }
    }

    private var running: [SimulatedMember] { members.filter { $0.isRunning } }

    private var leader: SimulatedMember? { running.first { $0.process?.replica.role == .leader } }

    private func begin(_ kind: FaultKind) {
        guard !running.isEmpty else { return }
        faults[kind, default: 0] += 1
        trace.note(now, 10)
        switch kind {
        case .crash: crash([faultRandom.pick(running)])
        case .crashLeader: crash(leader.map { [$0] } ?? [])
        case .crashMany:
            let isAll = faultRandom.chance(300)
            crash(running.filter { _ in isAll || faultRandom.chance(500) })
        case .pause: pause(faultRandom.pick(running))
        case .pauseLeader: if let leader { pause(leader) }
        case .partition: partition()
        case .oneWay: cut([(faultRandom.pick(members).id, faultRandom.pick(members).id)])
        case .isolateLeader: if let leader { isolate(leader) }
        case .swizzle: swizzle()
        case .transferLeadership: transfer()
        case .breakTransfers:
            breaksTransfers = true
            schedule(.endFault(.transfersWork), after: faultDuration())
        case .stopGracefully: post(.stop, to: faultRandom.pick(running))
        case .failDisk where knobs.breaksDisks: failDisk(faultRandom.pick(running))
        case .flipBit where knobs.breaksDisks: flipBit()
        case .failDisk, .flipBit: break
        }
        // Whatever ended, by itself or by the fault, comes back some time.
        for member in members where !member.isRunning && member.fate == .alive {
            schedule(.endFault(.restart(member.id)), after: faultDuration())
        }
    }

    /// Mostly some election timeouts, sometimes much less or more.
    private func faultDuration() -> Nanoseconds {
        let timeout = knobs.electionTimeout
        switch faultRandom.below(10) {
        case 0..<2: return faultRandom.within(millisecond...timeout / 2)
        case 2..<8: return faultRandom.within(timeout / 2...timeout * 5)
        default: return faultRandom.within(timeout * 5...timeout * 20)
        }
    }

    // MARK: Processes

    private func crash(_ victims: [SimulatedMember]) {
        let losesPower = faultRandom.chance(knobs.powerLossPerMille)
        for victim in victims {
            stop(victim, losesPower: losesPower)
            schedule(.endFault(.restart(victim.id)), after: faultDuration())
        }
    }

    private func pause(_ member: SimulatedMember) {
        guard let process = member.process, !process.isPaused else { return }
        process.isPaused = true
        trace.write(now, "m\(member.id) is paused")
        // Often longer than a lease.
        let time = faultRandom.chance(300) ? faultRandom.within(second...8 * second) : faultDuration()
        schedule(.endFault(.resume(member.id, run: member.run)), after: time)
    }

    func resume(_ member: SimulatedMember, _ process: MemberProcess) {
        guard process.isPaused else { return }
        process.isPaused = false
        trace.write(now, "m\(member.id) goes on")
        scheduleTurn(member, process)
    }

    private func failDisk(_ member: SimulatedMember) {
        let code = faultRandom.chance(500) ? SimulatedDisk.inputOutputError : SimulatedDisk.noSpace
        member.disk.fault = SimulatedDisk.Fault(after: faultRandom.within(0...20), code: code)
        trace.write(now, "m\(member.id) disk will fail with \(code)")
    }

    /// Damage is beyond what a cluster of f failures can lose only if it stays within one member.
    private func flipBit() {
        guard !members.contains(where: { $0.isDamaged }), running.count >= 3 else { return }
        let victim = faultRandom.pick(running)
        stop(victim, losesPower: false)
        victim.isDamaged = victim.disk.flipBit(inFilesEndingWith: ".wal", random: &faultRandom)
        trace.write(now, "m\(victim.id) log is damaged: \(victim.isDamaged)")
        schedule(.endFault(.restart(victim.id)), after: faultDuration())
    }

    // MARK: Network

    private func cut(_ routes: [(from: NodeID, to: NodeID)]) {
        for route in routes { network.cut(from: route.from, to: route.to) }
        trace.write(now, "cut \(routes.map { "\($0.from)>\($0.to)" })")
        schedule(.endFault(.heal(routes)), after: faultDuration())
    }

    private func partition() {
        let side = members.map { _ in faultRandom.chance(500) }
        var routes: [(NodeID, NodeID)] = []
        for (from, fromSide) in zip(members, side) {
            for (to, toSide) in zip(members, side) where fromSide != toSide {
                routes.append((from.id, to.id))
            }
        }
        cut(routes)
    }

    private func isolate(_ leader: SimulatedMember) {
        let directions = faultRandom.below(3)
        var routes: [(NodeID, NodeID)] = []
        for other in members where other.id != leader.id {
            if directions != 0 { routes.append((leader.id, other.id)) }
            if directions != 1 { routes.append((other.id, leader.id)) }
        }
        cut(routes)
    }

    private func swizzle() {
        for member in members where faultRandom.chance(600) {
            for other in members where other.id != member.id && faultRandom.chance(700) {
                network.clog(from: member.id, to: other.id, until: now + faultDuration() / 4)
            }
        }
    }

    private func transfer() {
        guard let leader, let process = leader.process else { return }
        let target = faultRandom.pick(process.replica.machine.members.map(\.id) + [leader.id])
        issue(.transfer(to: target), client: nil, to: leader)
    }

    // MARK: The end of a fault

    func endFault(_ end: FaultEnd) {
        switch end {
        case .restart(let id): if let member = member(id) { start(member) }
        case .resume(let id, let run):
            if let (member, process) = process(id, run) { resume(member, process) }
        case .heal(let routes):
            for route in routes { network.heal(from: route.from, to: route.to) }
        case .transfersWork: breaksTransfers = false
        }
    }

    /// No fault is started or goes on from now on; everybody runs.
    func endAllFaults() {
        isQuiet = true
        breaksTransfers = false
        network.healForGood()
        for member in members {
            member.disk.fault = nil
            if let process = member.process { resume(member, process) } else { start(member) }
        }
    }
}
