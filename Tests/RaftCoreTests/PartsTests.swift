import Testing

@testable import RaftCore

/// The parts of the core that have an algebra of their own, each against a naive model or all of a
/// small input space.
@Suite struct PartsTests {
    /// Random appends, truncations, compactions and resets against a plain dictionary of entries.
    @Test func logAgreesWithANaiveModel() throws {
        var random = SimulationRandom(seed: 7)
        var log = try RaftLog()
        var model: [Entry] = []
        var dropped: (index: LogIndex, term: Term) = (0, 0)
        var term: Term = 1
        for _ in 0..<20_000 {
            let last = dropped.index + UInt64(model.count)
            switch random.below(10) {
            case 0..<6:
                if random.below(4) == 0 { term += 1 }
                for offset in 0..<1 + random.below(5) {
                    let data = [UInt8](repeating: 1, count: random.below(4))
                    let entry = Entry(index: last + UInt64(offset) + 1, term: term, data: data)
                    model.append(entry)
                    if random.below(2) == 0 {
                        log.append(term: term, kind: .normal, data: data)
                    } else {
                        log.append([entry][...])
                    }
                }
            case 6 where !model.isEmpty:
                let from = dropped.index + 1 + UInt64(random.below(model.count))
                log.truncate(from: from)
                model.removeSubrange(Int(from - dropped.index - 1)...)
                term = model.last?.term ?? max(dropped.term, 1)
            case 7 where !model.isEmpty:
                let through = dropped.index + UInt64(random.below(model.count) + 1)
                let count = Int(through - dropped.index)
                dropped = (through, model[count - 1].term)
                model.removeFirst(count)
                log.compact(through: through)
            case 8:
                log.markHandedOut()
            case 9 where random.below(50) == 0:
                dropped = (last + 5, term)
                model = []
                log.reset(index: last + 5, term: term, committed: 0)
            default: break
            }
            try #require(log.lastIndex == dropped.index + UInt64(model.count))
            try #require(log.lastTerm == model.last?.term ?? dropped.term)
            try #require(log.handedOutIndex <= log.lastIndex)
            try #require(log.stableIndex <= log.handedOutIndex)
            try #require(log.payloadBytes == model.reduce(0) { $0 + $1.data.count })
            if random.below(10) == 0, !model.isEmpty {
                // The longest tail up to `limit` that fits, counted from its end.
                let limit = random.below(model.count)
                let maxBytes = random.below(40)
                var first = limit + 1
                var bytes = 0
                while first > 0, bytes + model[first - 1].data.count <= maxBytes {
                    first -= 1
                    bytes += model[first].data.count
                }
                let index = log.index(
                    atLeast: dropped.index, keeping: maxBytes, before: model[limit].index)
                if log.payloadBytes <= maxBytes {
                    try #require(index == dropped.index)
                } else {
                    let kept = model[Int(index - dropped.index)..<limit + 1]
                    try #require(kept.reduce(0) { $0 + $1.data.count } == bytes)
                }
            }
            let probe = dropped.index + UInt64(random.below(model.count + 3))
            let expected =
                probe == dropped.index
                ? dropped.term : model.first { $0.index == probe }?.term
            try #require(log.term(at: probe) == expected)
            let limit = term &- UInt64(random.below(3))
            let best = model.last { $0.index <= probe && $0.term <= limit }?.index
            if dropped.term <= limit {
                try #require(
                    log.lastIndex(upTo: probe, termAtMost: limit) == best ?? dropped.index)
            }
        }
        #expect(log.entries(from: log.firstIndex, through: log.lastIndex) == model)
    }

    @Test func entriesAreCutByBytesButNeverToNothing() throws {
        var log = try RaftLog()
        for size in [10, 1, 1, 5] { log.append(term: 1, kind: .normal, data: Array(repeating: 0, count: size)) }
        func count(from: LogIndex, _ bytes: Int) -> Int {
            log.entries(from: from, through: 4, maxBytes: bytes).count
        }
        #expect(count(from: 1, 1) == 1)
        #expect(count(from: 1, 11) == 2)
        #expect(count(from: 2, 2) == 2)
        #expect(count(from: 2, 6) == 2)
        #expect(count(from: 2, 7) == 3)
        #expect(log.entries(from: 5, through: 4).isEmpty)
    }

    /// Dropping the front entry by entry must not move the rest each time, nor keep dropped
    /// payloads.
    @Test func compactionReleasesPayloads() throws {
        var log = try RaftLog()
        for _ in 0..<5_000 { log.append(term: 1, kind: .normal, data: [1]) }
        for index in 1...4_999 as ClosedRange<UInt64> { log.compact(through: index) }
        #expect(log.firstIndex == 5_000)
        #expect(log.entry(at: 5_000)?.data == [1])
        #expect(log.entry(at: 4_999) == nil)
        #expect(log.term(at: 4_999) == 1)
    }

    @Test func restoreRefusesBrokenLogs() {
        func entries(_ places: (LogIndex, Term)...) -> [Entry] {
            places.map { Entry(index: $0.0, term: $0.1, data: []) }
        }
        for bad in [entries((2, 1)), entries((1, 1), (3, 1)), entries((1, 2), (2, 1)), entries((1, 0))] {
            #expect(throws: RestoreError.brokenLog) { try RaftLog(entries: bad) }
        }
        #expect(throws: RestoreError.outOfRange) { try RaftLog(snapshotIndex: .max) }
        func start(_ hard: HardState, applied: LogIndex, id: NodeID = 1) throws -> RaftCore {
            try RaftCore(
                configuration: RaftConfiguration(id: id), hardState: hard,
                confState: ConfState(voters: [1]),
                log: RaftLog(snapshotIndex: 5, snapshotTerm: 2, entries: entries((6, 3))),
                appliedIndex: applied, randomSeed: 0)
        }
        #expect(throws: RestoreError.commitBeyondLog(commit: 7, lastIndex: 6)) {
            try start(HardState(term: 3, vote: 0, commit: 7), applied: 5)
        }
        for applied in [4, 7] as [LogIndex] {
            #expect(
                throws: RestoreError.appliedOutsideLog(
                    applied: applied, snapshotIndex: 5, lastIndex: 6)
            ) { try start(HardState(term: 3), applied: applied) }
        }
        #expect(throws: RestoreError.invalidConfiguration(field: "id")) {
            try start(HardState(term: 3), applied: 5, id: 0)
        }
        // A batch cut short: the term of the log is ahead of the hard state, whose vote is void.
        let core = try? start(HardState(term: 2, vote: 1, commit: 5), applied: 6)
        #expect(core?.hardState == HardState(term: 3, vote: 0, commit: 6))
    }

    /// All values of up to five voters, against sorting.
    @Test func quorumReachedAgreesWithSorting() {
        for count in 1...5 {
            let voters = (1...count).map(NodeID.init)
            for code in 0..<243 {
                var rest = code
                let values = voters.map { _ in
                    defer { rest /= 3 }
                    return UInt64(rest % 3)
                }
                let expected = values.sorted(by: >)[count / 2]
                let reached = Quorum.reached(voters) { values[Int($0) - 1] }
                #expect(reached == expected)
            }
        }
        let joint = ConfState(voters: [1, 2, 3], votersOutgoing: [3, 4, 5])
        let match: [NodeID: UInt64] = [1: 9, 2: 9, 3: 1, 4: 4, 5: 4]
        #expect(Quorum.reached(joint) { match[$0] ?? 0 } == 4)
    }

    /// All ways four voters can be silent, agree or refuse.
    @Test func electionOutcomeCountsMajorities() {
        let conf = ConfState(voters: [1, 2, 3, 4])
        for code in 0..<81 {
            let votes = [code % 3, code / 3 % 3, code / 9 % 3, code / 27 % 3]
            let (yes, no) = (votes.count { $0 == 1 }, votes.count { $0 == 2 })
            let expected: Quorum.Outcome = yes >= 3 ? .won : no >= 2 ? .lost : .pending
            let outcome = Quorum.outcome(conf) { id in
                [nil, true, false][votes[Int(id) - 1]]
            }
            #expect(outcome == expected)
        }
        let joint = ConfState(voters: [1], votersOutgoing: [2])
        #expect(Quorum.outcome(joint) { $0 == 1 ? true : nil } == .pending)
        #expect(Quorum.outcome(joint) { $0 == 1 } == .lost)
    }

    @Test func inflightsAgreeWithAQueue() {
        var random = SimulationRandom(seed: 3)
        var inflights = Inflights(capacity: 20, maxBytes: 100)
        var model: [(last: LogIndex, bytes: Int)] = []
        var next: LogIndex = 100
        var fullBy = (count: 0, bytes: 0)
        for _ in 0..<5_000 {
            if random.below(3) > 0, !inflights.isFull {
                next += 1 + UInt64(random.below(3))
                let bytes = random.pick([0, 1, 2, 3, 4, 5, random.below(20) == 0 ? 60 : 0])
                inflights.add(next, bytes: bytes)
                model.append((next, bytes))
            } else if random.below(40) == 0 {
                inflights.removeAll()
                model = []
            } else {
                let index = next - UInt64(random.below(60))
                inflights.free(through: index)
                model.removeAll { $0.last <= index }
            }
            let bytes = model.reduce(0) { $0 + $1.bytes }
            #expect(inflights.count == model.count)
            #expect(inflights.bytes == bytes)
            #expect(inflights.isFull == (model.count == 20 || bytes >= 100))
            if model.count == 20 { fullBy.count += 1 }
            if bytes >= 100 { fullBy.bytes += 1 }
        }
        #expect(fullBy.count > 0 && fullBy.bytes > 0)
    }

    @Test func configChangeRoundTripsAndRefusesGarbage() throws {
        let change = ConfigChange(
            [.init(.addVoter, 1), .init(.addLearner, .max), .init(.remove, 0x0102_0304_0506_0708)],
            transition: .jointExplicit, context: [9, 8, 7])
        let bytes = change.encoded()
        #expect(bytes.prefix(4) == [1, 2, 3, 0])
        #expect(bytes[12 + 9...20 + 9].elementsEqual([2, 8, 7, 6, 5, 4, 3, 2, 1].prefix(9)))
        #expect(try ConfigChange(decoding: bytes) == change)
        #expect(try ConfigChange(decoding: ConfigChange.leaveJoint.encoded()).isLeaveJoint)
        // Cut anywhere in the fixed part, it is refused and nothing traps.
        for length in 0..<bytes.count - 3 {
            #expect(throws: ConfigChangeDecodingError.truncated) {
                try ConfigChange(decoding: Array(bytes.prefix(length)))
            }
        }
        for (position, error) in [
            (0, ConfigChangeDecodingError.unknownVersion(0xFF)), (1, .unknownTransition(0xFF)),
            (2, .tooManyChanges(0xFF)), (3, .unknownStep(0xFF)),
        ] {
            var broken = bytes
            broken[position] = 0xFF
            #expect(throws: error) { try ConfigChange(decoding: broken) }
        }
    }

    @Test func membershipAlgebra() throws {
        let three = ConfState(voters: [3, 1, 2, 2])
        #expect(three.voters == [1, 2, 3])
        func after(_ conf: ConfState, _ steps: ConfigChange.Step...) throws -> ConfState {
            try conf.applying(ConfigChange(steps))
        }
        #expect(try after(three, .init(.addVoter, 4)) == ConfState(voters: [1, 2, 3, 4]))
        #expect(try after(three, .init(.remove, 1)) == ConfState(voters: [2, 3]))
        #expect(try after(three, .init(.addLearner, 3)) == ConfState(voters: [1, 2], learners: [3]))
        #expect(try after(three, .init(.remove, 9)) == three)
        #expect(try after(ConfState(), .init(.addVoter, 1)) == ConfState(voters: [1]))
        let joint = try after(three, .init(.addLearner, 3), .init(.addVoter, 4), .init(.remove, 1))
        #expect(
            joint
                == ConfState(
                    voters: [2, 4], votersOutgoing: [1, 2, 3], learnersNext: [3], autoLeave: true))
        #expect(joint.members == [1, 2, 3, 4])
        #expect(joint.isWellFormed)
        #expect(try joint.applying(.leaveJoint) == ConfState(voters: [2, 4], learners: [3]))
        #expect(throws: ConfigChangeError.noVoters) {
            try after(ConfState(voters: [1]), .init(.remove, 1))
        }
        #expect(throws: ConfigChangeError.alreadyJoint) { try after(joint, .init(.addVoter, 9)) }
        #expect(throws: ConfigChangeError.notJoint) { try three.applying(.leaveJoint) }
        #expect(throws: ConfigChangeError.invalidMember) { try after(three, .init(.addVoter, 0)) }
        for broken in [
            ConfState(voters: [0]), ConfState(voters: [1], learners: [1]),
            ConfState(voters: [1], learnersNext: [2]), ConfState(voters: [], votersOutgoing: [1]),
            ConfState(voters: [1], autoLeave: true),
        ] {
            #expect(!broken.isWellFormed)
        }
    }

    /// A change that a member must ignore has no effect anywhere, so that all stay alike.
    @Test func impossibleChangesHaveNoEffect() throws {
        let change = ConfigChange([.init(.remove, 1)])
        var core = try RaftCore(
            configuration: RaftConfiguration(id: 1),
            hardState: HardState(term: 1, vote: 0, commit: 3), confState: ConfState(voters: [1]),
            log: RaftLog(
                snapshotIndex: 1, snapshotTerm: 1,
                entries: (2...3).map {
                    Entry(index: $0, term: 1, kind: .configChange, data: change.encoded())
                }),
            appliedIndex: 1, randomSeed: 0)
        #expect(core.takeReady().committed.count == 2)
        #expect(core.applyConfigChange(change, at: 2) == ConfState(voters: [1]))
        #expect(core.applyConfigChange(nil, at: 3) == ConfState(voters: [1]))
        #expect(core.appliedIndex == 3)
    }

    /// Random messages with extreme numbers from members and strangers: every one is handled or
    /// refused.
    @Test func hostileMessagesNeverTrap() throws {
        var random = SimulationRandom(seed: 11)
        var refused = 0
        for round in 0..<300 {
            var scenario = Scenario()
            try scenario.play("cluster voters=1,2,3")
            if round % 2 == 0 { try scenario.play("campaign 1\nquietly\npropose 1 a b\nquietly") }
            for _ in 0..<40 {
                let message = hostileMessage(&random)
                scenario.with(1) { core in
                    do throws(StepError) {
                        try core.step(message)
                    } catch {
                        refused += 1
                    }
                    let ready = core.takeReady()
                    if let batch = ready.persist { core.persisted(through: batch.sequence) }
                    if let snapshot = ready.persist?.snapshot { core.installed(snapshot: snapshot) }
                    for entry in ready.committed where entry.kind == .configChange {
                        core.applyConfigChange(nil, at: entry.index)
                    }
                    if let last = ready.committed.last { core.applied(to: last.index) }
                    core.tick()
                }
            }
        }
        #expect(refused > 1_000)
    }

    private func hostileMessage(_ random: inout SimulationRandom) -> Message {
        func number(_ random: inout SimulationRandom) -> UInt64 {
            random.pick([0, 1, 2, 3, 4, 5, 1 << 62, 1 << 62 + 1, .max, .max - 1, random.next()])
        }
        let index = number(&random)
        let body: Message.Body
        switch random.below(12) {
        case 0:
            body = .voteRequest(
                .init(
                    isPreVote: random.below(2) == 0, isTransfer: random.below(2) == 0,
                    lastIndex: index, lastTerm: number(&random),
                    known: .init(index: number(&random), term: number(&random))))
        case 1:
            body = .voteResponse(
                .init(
                    isPreVote: random.below(2) == 0, isGranted: random.below(2) == 0,
                    known: .init(index: index, term: number(&random))))
        case 2, 3, 4:
            let entries = (0..<random.below(4)).map {
                Entry(
                    index: random.below(5) == 0 ? number(&random) : index &+ UInt64($0) &+ 1,
                    term: random.pick([1, 2, 3, number(&random)]),
                    kind: random.below(4) == 0 ? .configChange : .normal, data: [1])
            }
            body = .append(
                .init(
                    previousIndex: index, previousTerm: random.pick([1, 2, number(&random)]),
                    commit: number(&random), entries: entries))
        case 5: body = .appendResponse(.accepted(match: index))
        case 6:
            body = .appendResponse(
                .rejected(previous: index, hintIndex: number(&random), hintTerm: number(&random)))
        case 7: body = .heartbeat(commit: index, round: number(&random))
        case 8: body = .heartbeatResponse(round: index)
        case 9:
            let voters = (0..<random.below(4)).map { _ in number(&random) }
            body = .snapshot(
                .init(index: index, term: number(&random), confState: ConfState(voters: voters + [1])))
        case 10: body = .readRequest(id: index)
        default: body = random.pick([.timeoutNow, .newerTerm, .readResponse(id: 1, index: index)])
        }
        return Message(
            from: random.pick([0, 1, 2, 3, 9, .max]), to: random.below(20) == 0 ? 2 : 1,
            term: random.pick([1, 2, 2, 3, 4, 5, number(&random)]), body: body)
    }
}
