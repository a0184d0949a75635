// The clients and the operator: each asks one thing at a time, of any member, and gives up after a while
// without knowing what became of it.

import KVCodec
import MVCC
import RaftCore
import Replica
import StateMachine

extension Simulation {
    private static let allKeys: [UInt8] = [0]

    // MARK: Clients

    func clientTurn(_ client: Int) {
        if issued >= knobs.operations { return }
        let candidates = members.filter { $0.isRunning }
        guard !candidates.isEmpty else { return rest(client) }
        // Often of whoever takes itself for the leader, rightly or not.
        let leaders = candidates.filter { $0.process?.replica.role == .leader }
        let member =
            !leaders.isEmpty && workRandom.chance(350) ? workRandom.pick(leaders) : workRandom.pick(candidates)
        issue(kind(member), client: client, to: member)
    }

    private func rest(_ client: Int?) {
        if let client { schedule(.client(client), after: workRandom.within(knobs.thinkTime) + microsecond) }
    }

    func issue(_ kind: Operation.Kind, client: Int?, to member: SimulatedMember) {
        let number = nextOperation
        nextOperation += 1
        issued += client == nil ? 0 : 1
        let operation = Operation(
            number: number, client: client, kind: kind, member: member.id, invoked: now,
            floor: checker.acknowledgedRevision, committedIndex: checker.committedIndex,
            committedTerm: checker.committedTerm, promisedUntil: promise(of: kind))
        trace.note(now, 8, number, member.id)
        trace.write(now, "c\(client ?? -1) #\(number) \(kind.name) -> m\(member.id) floor \(operation.floor)")
        active[number] = operation
        schedule(.clientTimeout(number), after: knobs.clientTimeout)
        let waiter = OperationWaiter(number: number)
        if let command = kind.command(number) {
            return post(.propose(Proposal(entry: command, waiter: waiter)), to: member)
        }
        switch kind {
        case .keepAlive(let lease): post(.leaseRenew(lease, waiter), to: member)
        case .timeToLive(let lease): post(.leaseTimeToLive(lease, withKeys: false, waiter), to: member)
        case .members: post(.members(waiter), to: member)
        case .change(let changes): post(.changeMembership(changes, waiter), to: member)
        case .transfer(let target): post(.transferLeadership(to: target, waiter), to: member)
        case .read(_, let isSerializable, _):
            guard isSerializable else { return post(.read(waiter), to: member) }
            if let process = member.process, !process.isPaused { serve(operation, member, process) }
        case .put, .delete, .swap, .grant, .revoke, .compact: break
        }
    }

    private func promise(of kind: Operation.Kind) -> Nanoseconds {
        if case .timeToLive(let lease) = kind { return checker.leases[lease]?.promisedUntil ?? 0 }
        return 0
    }

    private func key() -> [UInt8] { Array("k\(workRandom.below(knobs.keys))".utf8) }

    private func kind(_ member: SimulatedMember) -> Operation.Kind {
        let value = Array("v\(nextOperation)".utf8)
        let current = checker.acknowledgedRevision
        switch workRandom.below(100) {
        case 0..<34:
            let lease = !liveLeases.isEmpty && workRandom.chance(250) ? workRandom.pick(liveLeases) : 0
            return .put(key: key(), value: value, lease: lease)
        case 34..<41: return .delete(key: key())
        case 41..<51:
            let key = key()
            let seen = checker.history.version(of: key, at: current)?.revision ?? 0
            return .swap(key: key, expected: seen, value: value)
        case 51..<75:
            return .read(key: workRandom.chance(700) ? key() : nil, isSerializable: false, revision: 0)
        case 75..<83:
            return .read(key: workRandom.chance(500) ? key() : nil, isSerializable: true, revision: 0)
        case 83..<85:
            return .read(key: nil, isSerializable: false, revision: max(1, current - Int64(workRandom.below(30))))
        case 85..<88 where liveLeases.count < knobs.leases:
            nextLease += 1
            return .grant(lease: nextLease, seconds: Int64(workRandom.within(1...12)))
        case 88..<95 where !liveLeases.isEmpty:
            return .keepAlive(lease: workRandom.pick(liveLeases))
        case 95..<96 where !liveLeases.isEmpty:
            return .revoke(lease: workRandom.pick(liveLeases))
        case 96..<97 where !liveLeases.isEmpty:
            return .timeToLive(lease: workRandom.pick(liveLeases))
        case 97..<99:
            return .compact(revision: max(1, current - Int64(workRandom.below(20))))
        case 99: return .members
        default: return .put(key: key(), value: value, lease: 0)
        }
    }

    func clientTimeout(_ number: UInt64) {
        guard let operation = active.removeValue(forKey: number) else { return }
        trace.write(now, "#\(number) is given up")
        finish(operation)
    }

    /// The process that was asked has ended: the connection breaks, the outcome is unknown.
    func abandonOperations(of member: NodeID) {
        for number in active.keys.sorted() {
            guard let operation = active[number], operation.member == member else { continue }
            active[number] = nil
            finish(operation)
        }
    }

    private func finish(_ operation: Operation) {
        if case .change = operation.kind { isChangingMembership = false }
        rest(operation.client)
    }

    // MARK: Answers

    func answered(
        _ number: UInt64, _ answer: ReplicaAnswer, _ member: SimulatedMember, _ process: MemberProcess
    ) {
        guard let operation = active[number] else { return }
        checker.operationsAnswered += 1
        trace.note(now, 9, number)
        switch answer {
        case .applied(let result, let index, let term):
            checker.acknowledged(operation, result, index: index, term: term)
            noteLeases(operation, result)
            trace.write(now, "#\(number) applied at \(index), revision \(result.revision)")
        case .readReady(let term):
            checker.confirmed(operation, term: term, applied: process.replica.machine.appliedIndex)
            return serve(operation, member, process)
        case .leaseRenewed(let seconds):
            if case .keepAlive(let lease) = operation.kind {
                checker.renewed(operation, lease: lease, seconds: seconds)
                if seconds == nil { liveLeases.removeAll { $0 == lease } }
            }
            trace.write(now, "#\(number) renewed for \(String(describing: seconds))")
        case .leaseTimeToLive(let status):
            if case .timeToLive(let lease) = operation.kind {
                checker.toldTimeToLive(operation, lease: lease, status)
            }
        case .membershipChanged(let list): membershipChanged(operation, list)
        case .refused(let error):
            checker.refused(operation, error)
            trace.write(now, "#\(number) refused: \(error)")
        case .leaseKeys, .leases, .members, .alarms, .leadershipTransferred, .committedToBackend: break
        }
        active[number] = nil
        finish(operation)
    }

    private func noteLeases(_ operation: Operation, _ result: ApplyResult) {
        switch operation.kind {
        case .grant(let lease, _) where result.error == nil: liveLeases.append(lease)
        case .revoke(let lease): liveLeases.removeAll { $0 == lease }
        case .put(_, _, let lease) where result.error == .leaseNotFound:
            liveLeases.removeAll { $0 == lease }
        default: break
        }
    }

    /// Reads the store as an event loop does once the replica says that it may.
    private func serve(_ operation: Operation, _ member: SimulatedMember, _ process: MemberProcess) {
        guard case .read(let key, let isSerializable, let asked) = operation.kind else { return }
        active[operation.number] = nil
        defer { finish(operation) }
        let first = key ?? Self.allKeys
        let end = key == nil ? Self.allKeys : []
        var writer = ByteWriter()
        let outcome = first.withUnsafeBytes { first in
            end.withUnsafeBytes { end -> Result<RangeResult, MVCCError> in
                var query = RangeQuery(key: first, rangeEnd: end)
                query.revision = asked
                return Result { () throws(MVCCError) in
                    try process.replica.machine.store.range(query, reader: process.reader, into: &writer)
                }
            }
        }
        switch outcome {
        case .success(let result):
            checker.answered(
                operation, key: key, isSerializable: isSerializable, asked: asked, reply: writer.bytes,
                revision: result.revision)
            trace.write(now, "#\(operation.number) read at \(result.revision)")
        case .failure(.compacted(let compacted)):
            checker.require(
                asked > 0 && asked < compacted && compacted <= checker.compactRevision,
                "read \(operation.number) at \(asked) is refused as compacted at \(compacted)")
        case .failure(let error):
            checker.fail("read \(operation.number) at \(asked) on member \(member.id): \(error)")
        }
    }

    // MARK: The operator

    func operatorTurn() {
        schedule(.operatorTurn, after: workRandom.within(200 * millisecond...2 * second))
        guard knobs.changesMembership, !isQuiet, issued < knobs.operations else { return }
        // Mostly one change after the other, sometimes the next before the last is answered.
        if isChangingMembership, !workRandom.chance(300) { return }
        let running = members.filter { $0.isRunning }
        guard !running.isEmpty else { return }
        let asked = workRandom.pick(running)
        guard let process = asked.process else { return }
        let known = process.replica.machine.members
        let voters = known.filter { !$0.isLearner }
        let learners = known.filter(\.isLearner)
        let change: [MembershipChange]
        switch workRandom.below(10) {
        case 0..<3 where !learners.isEmpty:
            change = [.promote(workRandom.pick(learners).id)]
        case 3..<6 where known.count < 7:
            change = [.add(newMember(isLearner: workRandom.chance(700)))]
        case 6..<8 where voters.count > 3:
            change = [.remove(workRandom.pick(voters).id)]
        case 8..<10 where known.count < 6 && voters.count >= 3:
            // Several at once go through a joint configuration, at best with few members in both halves.
            let first = workRandom.below(voters.count)
            change = [
                .add(newMember(isLearner: false)), .add(newMember(isLearner: false)),
                .remove(voters[first].id), .remove(voters[(first + 1) % voters.count].id),
            ]
        case 6..<10 where !learners.isEmpty:
            change = [.remove(workRandom.pick(learners).id)]
        default: return
        }
        isChangingMembership = true
        trace.write(now, "operator: \(change)")
        issue(.change(change), client: nil, to: asked)
    }

    /// A new member, whose process starts at once and waits to be heard of.
    private func newMember(isLearner: Bool) -> Member {
        let member = SimulatedMember(id: nextMember, founders: [])
        nextMember += 1
        members.append(member)
        start(member)
        return Self.describe(member.id, isLearner: isLearner)
    }

    private func membershipChanged(_ operation: Operation, _ list: [Member]) {
        guard case .change(let changes) = operation.kind else { return }
        trace.write(now, "#\(operation.number) members are now \(list.map(\.id))")
        for change in changes {
            let isThere = list.contains { $0.id == change.memberID }
            if case .remove(let id) = change {
                checker.require(!isThere, "member \(id) was removed and is listed")
            } else {
                checker.require(isThere, "member \(change.memberID) was added or promoted and is not listed")
            }
        }
    }
}
