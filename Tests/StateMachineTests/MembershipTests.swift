// Property: members come, go and change by etcd's rules, an id that was removed never comes back, and
// all of it outlives a restart and travels in a snapshot. Method: scenarios, bytes written by hand.

import KVCodec
import Testing

@testable import StateMachine

private func member(
    _ id: UInt64, _ peerURLs: String..., isLearner: Bool = false
) -> Member {
    Member(id: id, name: "", peerURLs: peerURLs, clientURLs: [], isLearner: isLearner)
}

@Suite struct MembershipTests {
    private func cluster(_ configuration: StateMachineConfiguration = .init()) -> Machine {
        let machine = Machine(configuration)
        machine.found([
            Member(id: 1, name: "a", peerURLs: ["http://a"], clientURLs: ["http://no"]),
            Member(id: 2, name: "b", peerURLs: ["http://b", "http://b2"], clientURLs: []),
        ])
        return machine
    }

    @Test func aClusterIsFoundedOnce() throws {
        var machine = cluster()
        #expect(machine.state.appliedIndex == 1)
        let founded = [
            Member(id: 1, name: "a", peerURLs: ["http://a"], clientURLs: []),
            Member(id: 2, name: "b", peerURLs: ["http://b", "http://b2"], clientURLs: []),
        ]
        #expect(machine.state.members == founded)
        machine = try machine.restarted()
        #expect(machine.state.members == founded)
    }

    @Test func aMemberComesAsALearnerIsPromotedAndGoes() throws {
        var machine = cluster()
        let change = MembershipChange.add(member(3, "http://c", isLearner: true))
        let added = machine.change(change)
        #expect(added.error == nil)
        #expect(added.effect == .membershipChanged([change]))
        #expect(machine.state.members.last == member(3, "http://c", isLearner: true))

        machine.apply(
            Command.memberUpdate(
                Member(
                    id: 3, name: "c", peerURLs: ["http://else"], clientURLs: ["http://c:1"],
                    isLearner: false)))
        var third = Member(
            id: 3, name: "c", peerURLs: ["http://c"], clientURLs: ["http://c:1"], isLearner: true)
        #expect(machine.state.members.last == third)

        #expect(machine.change(.promote(3)).effect == .membershipChanged([.promote(3)]))
        third.isLearner = false
        #expect(machine.state.member(3) == third)
        #expect(machine.change(.promote(3)).error == .notLearner)

        #expect(machine.change(.remove(3)).effect == .membershipChanged([.remove(3)]))
        #expect(machine.state.members.map(\.id) == [1, 2])
        #expect(machine.state.removedMembers == [3])
        machine = try machine.restarted()
        #expect(machine.state.members.map(\.id) == [1, 2])
        #expect(machine.state.removedMembers == [3])
        #expect(machine.state.isRemoved(3))
        #expect(machine.state.appliedIndex == 6)
    }

    @Test func aRemovedMemberNeverComesBack() throws {
        var machine = cluster()
        machine.change(.add(member(3, "http://c")))
        machine.change(.remove(3))
        machine = try machine.restarted()
        let hash = machine.state.stateHash()
        #expect(machine.state.checkMembership(.add(member(3, "http://d"))) == .memberExists)
        #expect(machine.state.checkMembership(.remove(3)) == .memberNotFound)
        #expect(machine.state.checkMembership(.promote(3)) == .memberNotFound)
        #expect(machine.state.stateHash() == hash)
        #expect(machine.change(.add(member(3, "http://d"))).error == .memberExists)
        #expect(machine.apply(Command.memberUpdate(member(3))).error == .memberNotFound)
        #expect(machine.apply(Command.memberURLs(id: 3, ["http://d"])).error == .memberNotFound)
        #expect(machine.state.members.map(\.id) == [1, 2])

        // Not even when nobody is left.
        machine.change(.remove(1))
        machine.change(.remove(2))
        #expect(machine.apply(Command.memberUpdate(member(2))).error == .memberNotFound)
        #expect(machine.state.members.isEmpty)
    }

    @Test func refusalsAreEtcdsInEtcdsOrder() {
        var configuration = StateMachineConfiguration()
        configuration.maximumMembers = 4
        let machine = cluster(configuration)
        machine.change(.add(member(3, "http://c", isLearner: true)))
        let check: (MembershipChange) -> ApplyError? = machine.state.checkMembership
        #expect(check(.add(member(1, "http://a", isLearner: true))) == .memberExists)
        #expect(check(.add(member(4, "http://d", "http://b2", isLearner: true))) == .peerURLExists)
        #expect(check(.add(member(4, "http://d"))) == nil)
        #expect(check(.remove(9)) == .memberNotFound)
        #expect(check(.remove(3)) == nil)
        #expect(check(.promote(9)) == .memberNotFound)
        #expect(check(.promote(1)) == .notLearner)
        #expect(check(.promote(3)) == nil)

        machine.change(.add(member(4, "http://d")))
        #expect(check(.add(member(5, "http://e"))) == .tooManyMembers)
        let before = machine.state.members
        for change in [
            .add(member(5, "http://e")), .add(member(5, "http://a")), .promote(1), .remove(9),
        ] as [MembershipChange] {
            let result = machine.change(change)
            #expect(result.error == check(change))
            #expect(result.effect == .none)
        }
        #expect(machine.state.members == before)
        #expect(machine.state.removedMembers.isEmpty)
    }

    @Test func anEntryWithoutAChangeOnlyCounts() {
        let machine = cluster()
        let members = machine.state.members
        let result = machine.change(nil)
        #expect(result.error == nil)
        #expect(result.effect == .none)
        #expect(machine.state.appliedIndex == 2)
        #expect(machine.state.members == members)
    }

    @Test func peerURLsChangeAndNothingElseDoes() throws {
        let machine = cluster()
        machine.change(.add(member(3, "http://c", isLearner: true)))
        let result = machine.apply(Command.memberURLs(id: 3, ["http://x", "http://y"]))
        #expect(result.error == nil)
        #expect(result.effect == .memberUpdated(id: 3))
        #expect(machine.state.member(3) == member(3, "http://x", "http://y", isLearner: true))

        var listed: [Member] = []
        try result.body.withUnsafeBytes { bytes in
            var reader = ProtoReader(bytes)
            while let tag = try reader.next() {
                #expect(tag.field == 2)
                listed.append(try Member(try reader.slice(tag)))
            }
        }
        #expect(listed == machine.state.members)

        // Its own URLs are not another's.
        #expect(machine.apply(Command.memberURLs(id: 3, ["http://y", "http://x"])).error == nil)
        #expect(machine.apply(Command.memberURLs(id: 3, ["http://b2"])).error == .peerURLExists)
        #expect(machine.apply(Command.memberURLs(id: 9, ["http://z"])).error == .memberNotFound)
        #expect(machine.apply(Command.memberURLs(id: 3, [])).error == .malformed)
        #expect(machine.state.member(3)?.peerURLs == ["http://y", "http://x"])
    }

    @Test func aStrangerCannotPublishItself() {
        let machine = cluster()
        #expect(machine.apply(Command.memberUpdate(member(9, "http://z"))).error == .memberNotFound)
        #expect(machine.state.members.map(\.id) == [1, 2])
    }

    @Test func aMemberComesAndGoesBetweenTwoCommits() throws {
        let machine = cluster()
        machine.commit()
        machine.change(.add(member(0xAB, "http://c")))
        machine.change(.remove(0xAB))
        machine.change(.add(member(0xCD, "http://c")))
        let commit = try #require(machine.state.freeze())
        let lines = commit.changes.filter { $0.bucket != .meta }.map { change in
            "\(change.bucket.rawValue) \(text(change.key)) \(change.value.map { "\($0.count)" } ?? "-")"
        }
        #expect(lines == ["members ab -", "members cd 13", "members_removed ab 7"])
    }

    @Test(arguments: ["", "0", "xyz", "11111111111111111", "ä"])
    func aDamagedIDIsNamed(_ key: String) {
        let backend = MemoryBackend()
        backend.put(.membersRemoved, bytes(key), bytes("removed"))
        #expect(throws: RestoreError.badBucket(.membersRemoved, key: bytes(key))) {
            try Machine(restoring: backend)
        }
    }

    // MARK: Bytes

    @Test func aChangeHasTheDocumentedBytes() throws {
        let learner = Member(
            id: 5, name: "n", peerURLs: ["a", "b"], clientURLs: ["c"], isLearner: true)
        let expected: [(MembershipChange, [UInt8])] = [
            (
                .add(learner),
                [1, 1, 0x08, 5, 0x1A, 1, 0x61, 0x1A, 1, 0x62, 0x28, 1]
            ),
            (.remove(0x0102_0304_0506_0708), [1, 2, 8, 7, 6, 5, 4, 3, 2, 1]),
            (.promote(.max), [1, 3] + [UInt8](repeating: 255, count: 8)),
        ]
        for (change, bytes) in expected {
            #expect(change.encoded() == bytes)
            let decoded = try MembershipChange(decoding: bytes[...])
            if case .add = change {
                #expect(decoded == .add(member(5, "a", "b", isLearner: true)))
            } else {
                #expect(decoded == change)
            }
            #expect(decoded.memberID == change.memberID)
        }
        // What a later version may add to a member is passed over, names are not taken.
        let named = try MembershipChange(decoding: [1, 1, 0x08, 5, 0x12, 1, 0x6E, 0x22, 1, 0x63, 0x30, 1])
        #expect(named == .add(member(5)))
    }

    @Test(
        arguments: [
            ([], .unknownCommand), ([1], .unknownCommand), ([2, 1, 8, 5], .unknownCommand),
            ([1, 0, 8, 5], .unknownCommand), ([1, 4, 8, 5], .unknownCommand),
            ([1, 1], .malformed), ([1, 1, 8, 0], .malformed), ([1, 1, 8], .malformed),
            ([1, 1, 8, 5, 0x1A, 2, 0x61], .malformed), ([1, 1, 8, 5, 0x1A, 1, 0xFF], .malformed),
            ([1, 2], .malformed), ([1, 2, 1, 0, 0, 0, 0, 0, 0], .malformed),
            ([1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0], .malformed),
            ([1, 3, 0, 0, 0, 0, 0, 0, 0, 0], .malformed),
        ] as [([UInt8], ApplyError)])
    func otherBytesAreRefused(_ bytes: [UInt8], _ error: ApplyError) {
        #expect(throws: error) { try MembershipChange(decoding: bytes) }
    }

    // MARK: Another member's snapshot

    @Test func aSnapshotTakesThePlaceOfEverything() throws {
        let leader = cluster()
        leader.grant(7, ttl: 60)
        leader.put("a", "1", lease: 7)
        leader.put("b", "2")
        leader.change(.add(member(3, "http://c")))
        leader.change(.remove(3))
        leader.alarm(.activate, .corrupt, member: 2)
        leader.apply(Command.clusterVersion("3.6.0"))
        leader.state.confState = [1, 2, 3]

        let follower = cluster()
        follower.grant(8, ttl: 5)
        follower.put("old", "1", lease: 8)
        follower.change(.add(member(4, "http://d")))
        follower.alarm(.activate, .noSpace)
        follower.state.promote(now: follower.now, extendMilliseconds: 0)
        follower.commit()
        follower.put("lost", "1")
        try follower.install(from: leader)

        #expect(follower.state.stateHash() == leader.state.stateHash())
        #expect(follower.state.appliedIndex == leader.state.appliedIndex)
        #expect(follower.state.confState == [1, 2, 3])
        #expect(follower.state.members == leader.state.members)
        #expect(follower.state.removedMembers == [3])
        #expect(follower.state.alarms == [Alarm(member: 2, type: .corrupt)])
        #expect(follower.keys(ofLease: 7) == ["a"])
        #expect(follower.state.leaseIDs() == [7])
        // Leases do not run here until this member leads.
        follower.clock += 1_000_000
        #expect(follower.state.expiredLeases(now: follower.now, max: 9) == [])
        #expect(follower.state.freeze() == nil)

        let next = Command.alarm(.deactivate, member: 2, type: .corrupt)
        #expect(describe(follower.apply(next)) == describe(leader.apply(next)))
        #expect(describe(follower.put("c", "3")) == describe(leader.put("c", "3")))
        #expect(try follower.pairs() == "[a=1(c2 m2 v1 l7) b=2(c3 m3 v1) c=3(c4 m4 v1)]")
        let restarted = try follower.restarted()
        #expect(try restarted.pairs() == leader.pairs())
    }

    @Test func aSnapshotMayBeOfAnEmptyCluster() throws {
        let follower = cluster()
        follower.put("a", "1")
        follower.commit()
        try follower.install(from: Machine())
        #expect(follower.state.stateHash() == Machine().state.stateHash())
        #expect(follower.store.currentRevision == 1)
    }
}
