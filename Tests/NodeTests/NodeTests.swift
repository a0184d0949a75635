// The running node over a real data directory: what was acknowledged is there after a restart,
// whether it was in the log only or in the backend already. And the small parts of the node's
// threads that have rules of their own.

import Foundation
import MVCC
import Replica
import StateMachine
import Synchronization
import Testing

@testable import Node

private func open(_ directory: String) throws -> Node {
    var options = NodeOptions()
    options.dataDirectory = directory
    options.initialMembers = [("default", ["http://localhost:2380"])]
    options.backend.mapBytes = 1 << 30
    options.wal.segmentBytes = 1 << 20
    options.replica.tickMilliseconds = 10
    options.replica.backendIntervalMilliseconds = 10
    let node = try Node(options: options) { message in fatalError(message) }
    node.start(sinks: [CollectingSink()])
    #expect(node.waitUntilReady(seconds: 10))
    return node
}

private func put(_ node: Node, _ key: String, _ value: String) -> ApplyResult? {
    let body: [UInt8] =
        [0x0A, UInt8(key.utf8.count)] + key.utf8 + [0x12, UInt8(value.utf8.count)]
        + value.utf8
    let waiter = Waiter()
    guard node.propose(Command.encode(kind: .put, body: body), waiter: waiter),
        case .applied(let result, _, _)? = waiter.wait()
    else { return nil }
    return result
}

private func exists(_ node: Node, _ key: String) -> Bool {
    Array(key.utf8).withUnsafeBytes { node.store.metadata(of: $0) != nil }
}

private func withDirectory(_ body: (String) throws -> Void) throws {
    let directory = FileManager.default.temporaryDirectory
        .appendingPathComponent("moonraft-\(UUID().uuidString)").path
    defer { try? FileManager.default.removeItem(atPath: directory) }
    try body(directory)
}

@Test func idsAreThoseThatEtcdComputes() {
    let member = Identity.memberID(peerURLs: ["http://localhost:2380"], token: "etcd-cluster")
    #expect(member == 0x8e9e_05c5_2164_694d)
    #expect(Identity.clusterID(memberIDs: [member]) == 0xcdf8_1819_4e3a_8c32)
}

/// Records that had reached the backend were not found at start: the scan began at a negative
/// revision, which orders behind every record.
@Test func recordsInTheBackendAreThereAfterARestart() throws {
    try withDirectory { directory in
        var node = try open(directory)
        for number in 0..<50 { #expect(put(node, "k\(number)", "v")?.error == nil) }
        let revision = node.store.currentRevision
        node.stop()

        node = try open(directory)
        #expect(node.store.currentRevision == revision)
        #expect(node.replayedEntries == 0, "a clean stop leaves nothing to replay")
        for number in 0..<50 { #expect(exists(node, "k\(number)"), "k\(number)") }
        #expect(put(node, "k0", "w")?.revision == revision + 1)
        node.stop()

        node = try open(directory)
        #expect(node.store.currentRevision == revision + 1)
        node.stop()
    }
}

private func proposal(_ waiter: Waiter?, _ since: UInt64) -> QueuedProposal {
    QueuedProposal(proposal: Proposal(entry: [], waiter: waiter), since: since)
}

@Test func waitersGetTheAnswersOfTheirEntries() {
    var queue = WaiterQueue()
    let first = Waiter()
    let second = Waiter()
    queue.append(index: 5, term: 2, proposal(first, 10))
    queue.append(index: 6, term: 2, proposal(nil, 10))
    queue.append(index: 7, term: 2, proposal(second, 20))
    var lost = 0
    #expect(queue.take(index: 4, term: 2) { _ in lost += 1 } == nil)
    #expect(queue.take(index: 5, term: 2) { _ in lost += 1 }?.proposal.waiter === first)
    #expect(queue.take(index: 6, term: 2) { _ in lost += 1 }?.proposal.waiter == nil)
    #expect(queue.take(index: 7, term: 3) { _ in lost += 1 } == nil, "another leader's entry")
    #expect(lost == 1)
    #expect(queue.count == 0)
}

@Test func waitersThatWaitTooLongAreAnsweredOnce() {
    var queue = WaiterQueue()
    queue.append(index: 1, term: 1, proposal(Waiter(), 10))
    queue.append(index: 2, term: 1, proposal(Waiter(), 20))
    var expired = 0
    queue.expire(before: 15) { _ in expired += 1 }
    queue.expire(before: 15) { _ in expired += 1 }
    #expect(expired == 1)
    #expect(queue.take(index: 1, term: 1) { _ in } == nil)
    #expect(queue.take(index: 2, term: 1) { _ in } != nil)
}

@Test func mailboxRefusesAtItsBoundAndWakesItsConsumer() {
    let mailbox = Mailbox<Int>(capacity: 2)
    #expect(mailbox.offer(1) && mailbox.offer(2))
    #expect(!mailbox.offer(3))
    mailbox.post(4)
    var items: [Int] = []
    mailbox.take(into: &items, deadline: 0)
    #expect(items == [1, 2, 4])
    let thread = OwnedThread(name: "producer") {
        usleep(20_000)
        mailbox.post(5)
    }
    items = []
    let start = monotonicNanoseconds()
    mailbox.take(into: &items, deadline: start + 5_000_000_000)
    #expect(items == [5])
    #expect(monotonicNanoseconds() - start < 2_000_000_000)
    thread.join()
}

@Test func mailboxNapsUntilAnUrgentItem() {
    let mailbox = Mailbox<Int>(capacity: 8)
    // What may wait does not end a nap, and does end a sleep.
    #expect(mailbox.offer(1, urgent: false))
    var start = monotonicNanoseconds()
    mailbox.nap(until: start + 30_000_000)
    #expect(monotonicNanoseconds() - start >= 30_000_000)
    var items: [Int] = []
    mailbox.take(into: &items, deadline: start + 5_000_000_000)
    #expect(items == [1])
    for urgent in [true, false] {
        let thread = OwnedThread(name: "producer") {
            usleep(20_000)
            _ = mailbox.offer(2, urgent: urgent)
        }
        items = []
        start = monotonicNanoseconds()
        if urgent { mailbox.nap(until: start + 5_000_000_000) }
        mailbox.take(into: &items, deadline: start + 5_000_000_000)
        #expect(items == [2])
        #expect(monotonicNanoseconds() - start < 2_000_000_000)
        thread.join()
    }
    // An urgent item that is there already leaves nothing to wait for.
    mailbox.post(3)
    start = monotonicNanoseconds()
    mailbox.nap(until: start + 5_000_000_000)
    #expect(monotonicNanoseconds() - start < 2_000_000_000)
}

@Test func periodicCompactionKeepsAPeriod() {
    let hour: UInt64 = 3_600_000
    var compactor = AutoCompactor(.periodic(milliseconds: hour), now: 0)
    var compacted: [Int64] = []
    var now: UInt64 = 0
    while now <= 3 * hour {
        // One revision a minute.
        if let target = compactor.tick(now: now, currentRevision: Int64(now / 60_000) + 1) {
            compacted.append(target)
        }
        now += 60_000
    }
    #expect(compacted.count == 3)
    #expect(compacted == compacted.sorted())
    #expect((compacted.last ?? 0) <= 121, "what changed within the hour stays")
}

@Test func revisionCompactionKeepsTheLastRevisions() {
    var compactor = AutoCompactor(.revision(retention: 10), now: 0)
    #expect(compactor.tick(now: 1000, currentRevision: 100) == nil)
    #expect(compactor.tick(now: 300_000, currentRevision: 100) == 90)
    #expect(compactor.tick(now: 600_000, currentRevision: 100) == nil, "nothing new to compact")
    #expect(compactor.tick(now: 900_000, currentRevision: 105) == 95)
}
