import CSupport
import Glibc
import NIOCore
import RaftCore
import Replica
import StateMachine
import Testing

@testable import Peering

@Suite struct PeerTransportTests {
    /// Two members that know each other.
    private func pair(_ configuration: PeerConfiguration = quickConfiguration()) throws -> (TestPeer, TestPeer) {
        let one = try TestPeer(1, configuration: configuration)
        let two = try TestPeer(2, configuration: configuration)
        for peer in [one, two] {
            peer.transport.setMembers([one.member, two.member], removed: [])
        }
        #expect(eventually { one.inbox.now.reachable == [2] && two.inbox.now.reachable == [1] })
        return (one, two)
    }

    @Test func messagesArriveInOrderAndWhole() throws {
        let (one, two) = try pair()
        defer { one.close(); two.close() }
        var sent: [PeerMessage] = []
        var random = SplitMix(state: 1)
        for batch in 0..<100 {
            var messages: [PeerMessage] = []
            for number in 0..<100 {
                let index = UInt64(batch * 100 + number)
                let size = number == 0 ? 100_000 : Int.random(in: 0...200, using: &random)
                let entry = Entry(index: index + 1, term: 1, data: [UInt8](repeating: UInt8(number), count: size))
                messages.append(
                    .raft(
                        Message(
                            from: 1, to: 2, term: 1,
                            body: .append(.init(previousIndex: index, previousTerm: 1, commit: 0, entries: [entry])))))
            }
            one.transport.send(messages)
            sent += messages
            // Within the bound of the queue.
            #expect(eventually { sent.count - two.inbox.now.messages.count < 3000 })
        }
        #expect(eventually { two.inbox.now.messages.count == sent.count })
        #expect(two.inbox.now.messages == sent)
        #expect(one.counters(2)?.sentFailures == 0)
        let bytes = one.counters(2)?[.sentBytes] ?? 0
        #expect(bytes > 10_000_000)
        #expect((two.counters(1)?[.receivedBytes] ?? 0) >= bytes)
        // Many messages are handed over in one call.
        #expect(two.inbox.now.calls < sent.count)
    }

    @Test func everyKindTravels() throws {
        let (one, two) = try pair()
        defer { one.close(); two.close() }
        let messages = sampleMessages(from: 1, to: 2).filter {
            if case .raft(let message) = $0, case .snapshot = message.body { return false }
            return true
        }
        one.transport.send(sampleMessages(from: 1, to: 2))
        #expect(eventually { two.inbox.now.messages.count == messages.count })
        #expect(two.inbox.now.messages == messages)
        // A snapshot's message goes with its file only.
        #expect(one.counters(2)?.sentFailures == 2)
    }

    @Test func roundTripsAreMeasured() throws {
        let (one, two) = try pair()
        defer { one.close(); two.close() }
        #expect(eventually { (one.counters(2)?.roundTrip.snapshot.counts.reduce(0, +) ?? 0) >= 2 })
        #expect(one.counters(2)?[.isActive] == 1)
    }

    @Test func aRestartedPeerIsReachedAgain() throws {
        let (one, two) = try pair()
        let port = two.port
        two.close()
        // Once before the first connection, once for its loss.
        #expect(eventually { one.inbox.now.unreachable == [2, 2] })
        #expect(one.counters(2)?[.disconnects] == 1)
        // Nobody is there: dropped and counted, not kept.
        one.transport.send([heartbeat(1, 2, 1)])
        #expect(one.counters(2)?.sentFailures == 1)
        let again = try TestPeer(2, port: port)
        defer { one.close(); again.close() }
        again.transport.setMembers([one.member, again.member], removed: [])
        #expect(eventually { one.inbox.now.reachable == [2, 2] })
        one.transport.send([heartbeat(1, 2, 2)])
        #expect(eventually { again.inbox.now.messages == [heartbeat(1, 2, 2)] })
        #expect(one.inbox.hasNote("lost the connection to member 2"))
        #expect(one.inbox.hasNote("connected to member 2"))
    }

    @Test func severalURLsAreTriedInTurn() throws {
        let one = try TestPeer(1)
        let two = try TestPeer(2)
        let stranger = try TestPeer(3)
        defer { one.close(); two.close(); stranger.close() }
        for peer in [two, stranger] { peer.transport.setMembers([one.member], removed: []) }
        var member = two.member
        // Not a URL, nobody, somebody else, and the right one.
        // The right one is a name, which may have several addresses.
        member.peerURLs = [
            "nonsense", "http://127.0.0.1:1", stranger.url, "http://localhost:\(two.port)",
        ]
        one.transport.setMembers([member], removed: [])
        #expect(eventually { one.inbox.now.reachable == [2] })
        #expect(one.inbox.hasNote("\"nonsense\" is not of the form"))
        #expect(one.inbox.hasNote("wants to reach member 2, this is member 3 (n3)"))
    }

    @Test func aFullQueueDropsTheNewestAndCounts() throws {
        var configuration = quickConfiguration()
        configuration.maxQueuedMessages = 50
        configuration.maxQueuedBytes = 200_000
        let queues = PeerQueues(configuration)
        let counters = PeerCounters(id: 2)
        queues.add(counters)
        #expect(!queues.push([heartbeat(1, 2, 0)]))
        #expect(counters.sentFailures == 1)
        queues.open(2)
        #expect(queues.push((0..<60).map { heartbeat(1, 2, $0) }))
        #expect(counters.sentFailures == 11)
        // Already woken.
        #expect(!queues.push([heartbeat(1, 2, 99)]))
        let taken = queues.take(2)
        #expect(taken.map(\.message) == (0..<50).map { heartbeat(1, 2, $0) })
        // Taken but not encoded: there is no room yet.
        queues.beginTaking()
        #expect(!queues.push([heartbeat(1, 2, 100)]))
        queues.encoded(2, messages: 50, bytes: taken.reduce(0) { $0 + $1.size })
        #expect(counters.sentFailures == 13)
        // The bound in bytes; one message of any allowed size always goes.
        let large = PeerMessage.request(
            PeerRequest(
                from: 1, to: 2, term: 1, run: 1, number: 1, body: .propose([[UInt8](repeating: 0, count: 150_000)])))
        #expect(queues.push([large, large, heartbeat(1, 2, 101)]))
        #expect(queues.take(2).map(\.message) == [large, heartbeat(1, 2, 101)])
        #expect(counters.sentFailures == 14)
        // Whatever waits when the connection is lost has failed.
        queues.close(2)
        #expect(counters.sentFailures == 16)
        #expect(!queues.push([heartbeat(1, 9, 0)]))
    }

    @Test func aPeerThatDoesNotReadIsGivenUp() throws {
        var configuration = quickConfiguration()
        configuration.pingTimeout = .milliseconds(500)
        configuration.maxQueuedMessages = 100
        let one = try TestPeer(1, configuration: configuration)
        defer { one.close() }
        let silent = try SilentPeer(id: 2)
        defer { silent.close() }
        one.transport.setMembers([Member(id: 2, name: "n2", peerURLs: [silent.url], clientURLs: [])], removed: [])
        #expect(eventually { one.inbox.now.reachable == [2] })
        let payload = [UInt8](repeating: 1, count: 500_000)
        for number in 0..<200 {
            one.transport.send([
                .request(
                    PeerRequest(from: 1, to: 2, term: 1, run: 1, number: UInt64(number), body: .propose([payload])))
            ])
        }
        #expect(eventually { (one.counters(2)?.sentFailures ?? 0) > 0 })
        #expect(eventually { one.inbox.hasNote("messages to member 2 are dropped") })
        #expect(eventually { one.inbox.now.unreachable == [2, 2] })
        #expect(one.inbox.hasNote("no sign of life"))
    }

    // MARK: Handshake

    /// What member 1 with a changed identity hears from member 2.
    private func refusal(
        _ change: (inout PeerIdentity) -> Void, known: Bool = true, removed: Set<NodeID> = []
    ) throws -> (one: TestPeer, two: TestPeer) {
        var own = identity(1)
        change(&own)
        let one = try TestPeer(1, identity: own, port: nil)
        let two = try TestPeer(2)
        two.transport.setMembers(
            known ? [Member(id: 1, name: "n1", peerURLs: [], clientURLs: [])] : [], removed: removed)
        usleepMilliseconds(20)
        one.transport.setMembers([two.member], removed: [])
        return (one, two)
    }

    @Test func refusalsNameBothSides() throws {
        let table: [((inout PeerIdentity) -> Void, Bool, String)] = [
            (
                { $0.clusterID = 0x7e27_6521_22e8_b2ae }, true,
                "cluster id mismatch: member 1 (n1) at http://n1:2380 has cluster 7e27652122e8b2ae, this member (n2) has cdf818194e3a8c32"
            ),
            (
                {
                    $0.clusterID = 5; $0.clusterToken = "other"
                }, true,
                "the cluster tokens are \"other\" and \"token\""
            ),
            (
                { $0.clusterToken = "other" }, true,
                "cluster token mismatch: member 1 (n1) at http://n1:2380 has \"other\", this member (n2) has \"token\""
            ),
            (
                { $0.productVersion = "0.0.9" }, true,
                "product version mismatch: member 1 (n1) at http://n1:2380 has 0.0.9 and needs at least 0.1.0, this member (n2) has 0.2.0 and needs at least 0.1.0"
            ),
            ({ $0.lowestVersion = "0.3.0" }, true, "needs at least 0.3.0, this member (n2) has 0.2.0"),
            ({ $0.productVersion = "new" }, true, "product version mismatch"),
            (
                { $0.pluginDigest = "abc" }, true,
                "plugin digest mismatch: member 1 (n1) at http://n1:2380 has \"abc\", this member (n2) has \"digest\""
            ),
            (
                { _ in }, false,
                "member 1 (n1) at http://n1:2380 is not a member of the cluster cdf818194e3a8c32 as far as member 2 (n2) at http://n2:2380 knows"
            ),
        ]
        for (change, known, text) in table {
            let (one, two) = try refusal(change, known: known)
            #expect(eventually { one.inbox.hasNote(text) }, "\(text)\n\(one.inbox.now.notes)")
            #expect(two.inbox.hasNote(text))
            #expect(one.inbox.now.reachable.isEmpty)
            #expect(one.inbox.now.unreachable == [2])
            #expect(one.inbox.now.removal.isEmpty)
            // Logged once by the dialler, however often it is refused.
            #expect(one.inbox.now.notes.count { $0.contains(text) } == 1)
            one.close()
            two.close()
        }
    }

    @Test func aRefusedMemberGetsInOnceItIsKnown() throws {
        let (one, two) = try refusal({ _ in }, known: false)
        defer { one.close(); two.close() }
        #expect(eventually { one.inbox.hasNote("is not a member") })
        two.transport.setMembers([Member(id: 1, name: "n1", peerURLs: [], clientURLs: [])], removed: [])
        #expect(eventually { one.inbox.now.reachable == [2] })
    }

    @Test func differentPluginsMayBeAllowed() throws {
        var configuration = quickConfiguration()
        configuration.pluginPolicy = .warn
        var own = identity(1)
        own.pluginDigest = "abc"
        let one = try TestPeer(1, identity: own, configuration: configuration)
        let two = try TestPeer(2, configuration: configuration)
        defer { one.close(); two.close() }
        for peer in [one, two] { peer.transport.setMembers([one.member, two.member], removed: []) }
        #expect(eventually { one.inbox.now.reachable == [2] && two.inbox.now.reachable == [1] })
        #expect(two.inbox.hasNote("plugin digest mismatch"))
    }

    @Test func aRemovedMemberIsToldToStop() throws {
        let (one, two) = try refusal({ _ in }, known: false, removed: [1])
        defer { one.close(); two.close() }
        #expect(eventually { one.inbox.now.removal.count == 1 })
        #expect(
            one.inbox.now.removal[0].contains(
                "member 1 (n1) at http://n1:2380 was removed from the cluster cdf818194e3a8c32; told by member 2 (n2)"))
        usleepMilliseconds(100)
        #expect(one.inbox.now.removal.count == 1)
    }

    @Test func aConnectedMemberIsToldOfItsRemoval() throws {
        var configuration = quickConfiguration()
        configuration.removalGrace = .seconds(1)
        let (one, two) = try pair(configuration)
        defer { one.close(); two.close() }
        two.transport.setMembers([two.member], removed: [1])
        // It can still be sent to, so that it learns by the log.
        two.transport.send([heartbeat(2, 1, 1)])
        #expect(eventually { one.inbox.now.messages == [heartbeat(2, 1, 1)] })
        #expect(one.inbox.now.removal.isEmpty)
        #expect(eventually { one.inbox.now.removal.count == 1 })
        #expect(eventually { two.transport.counters.isEmpty })
    }

    @Test func aStrangersWordDoesNotRemoveAnybody() throws {
        // A member of another cluster, behind the URL of member 2.
        let stranger = try SilentPeer(id: 2, cluster: 99, refusal: Refusal(code: .removed, text: "go away"))
        let one = try TestPeer(1)
        defer { one.close(); stranger.close() }
        one.transport.setMembers([Member(id: 2, name: "n2", peerURLs: [stranger.url], clientURLs: [])], removed: [])
        #expect(eventually { one.inbox.hasNote("go away") })
        #expect(one.inbox.now.removal.isEmpty)
    }

    @Test func aStrangerBehindAURLIsNotTalkedTo() throws {
        let stranger = try SilentPeer(id: 7)
        let one = try TestPeer(1)
        defer { one.close(); stranger.close() }
        one.transport.setMembers([Member(id: 2, name: "n2", peerURLs: [stranger.url], clientURLs: [])], removed: [])
        #expect(eventually { one.inbox.hasNote("answers in place of member 2") })
        #expect(one.inbox.now.reachable.isEmpty)
    }

    // MARK: Lookup

    @Test func aJoinerLooksTheClusterUp() throws {
        let two = try TestPeer(2)
        defer { two.close() }
        let joiner = PeerIdentity(
            clusterID: 0, memberID: 0, name: "new", peerURLs: [], productVersion: "0.2.0",
            lowestVersion: "0.1.0")
        let cluster = try lookupCluster(
            at: ["http://127.0.0.1:1", two.url], identity: joiner, timeout: .seconds(2))
        #expect(cluster == two.inbox.cluster)

        var foreign = joiner
        foreign.clusterToken = "other"
        do {
            _ = try lookupCluster(at: [two.url, "x"], identity: foreign, timeout: .seconds(2))
            Issue.record("a lookup with a wrong token succeeded")
        } catch {
            #expect(error.description.contains("cluster token mismatch"))
            #expect(error.description.contains("\"x\" is not of the form"))
        }
    }

    @Test func aLookupDoesNotWaitForEver() throws {
        let mute = try SilentPeer(id: 2, answers: false)
        defer { mute.close() }
        #expect(throws: ClusterLookupError.self) {
            try lookupCluster(at: [mute.url], identity: identity(1), timeout: .milliseconds(200))
        }
    }
}

func usleepMilliseconds(_ count: UInt32) { usleep(count * 1000) }
