// Who runs the replica's turns: nothing that arrives is left lying, whoever was at work when it came.

import Foundation
import Glibc
import MVCC
import Replica
import StateMachine
import Storage
import Synchronization
import Testing

@testable import Node

/// Runs the turn where a loop would at the end of its round.
private final class Round: TurnScheduler {
    var isWanted = false
    func scheduleTurn() { isWanted = true }

    func end(_ node: Node) {
        guard isWanted else { return }
        isWanted = false
        node.runTurns()
    }
}

/// Counts what was applied, and notes the thread that brought the last one.
private final class CountingSink: AnswerSink {
    let count = Atomic<Int>(0)
    let thread = Atomic<UInt>(0)

    func deliver(_ batch: [PendingAnswer]) {
        thread.store(UInt(pthread_self()), ordering: .relaxed)
        for pending in batch {
            guard case .applied = pending.answer else { continue }
            count.add(1, ordering: .releasing)
        }
    }

    func wait(for wanted: Int, seconds: Int) -> Bool {
        let deadline = monotonicNanoseconds() + UInt64(seconds) * 1_000_000_000
        while count.load(ordering: .acquiring) < wanted {
            if monotonicNanoseconds() > deadline { return false }
            usleep(500)
        }
        return true
    }
}

private final class Nobody: ReplyWaiter {
    let loopIndex: Int
    init(_ loopIndex: Int) { self.loopIndex = loopIndex }
    func replicaAnswered(_ answer: ReplicaAnswer) {}
}

private func withNode(
    _ sinks: [CountingSink], _ change: (inout NodeOptions) -> Void = { _ in },
    _ body: (Node) throws -> Void
) throws {
    let directory = FileManager.default.temporaryDirectory
        .appendingPathComponent("moonraft-\(UUID().uuidString)").path
    defer { try? FileManager.default.removeItem(atPath: directory) }
    var options = NodeOptions()
    options.dataDirectory = directory
    options.initialMembers = [("default", ["http://localhost:2380"])]
    options.backend.mapBytes = 1 << 30
    options.wal.segmentBytes = 1 << 20
    change(&options)
    let node = try Node(options: options) { message in fatalError(message) }
    node.start(sinks: sinks)
    #expect(node.waitUntilReady(seconds: 10))
    try body(node)
    node.stop()
}

private func put(_ key: String) -> [UInt8] {
    Command.encode(
        kind: .put, body: [0x0A, UInt8(key.utf8.count)] + key.utf8 + [0x12, 1, UInt8(ascii: "v")])
}

/// Threads that ask at the same time find each other at work again and again. Each request that one of
/// them leaves to another is answered: a lost one would wait until a tick, or for ever.
@Test func whatIsLeftToTheOneAtWorkIsDone() throws {
    let threads = 4
    let requests = 3_000
    let sinks = (0..<threads).map { _ in CountingSink() }
    try withNode(sinks, { $0.replica.tickMilliseconds = 60_000 }) { node in
        let workers = (0..<threads).map { index in
            OwnedThread(name: "asker \(index)") {
                let round = Round()
                for number in 0..<requests {
                    // No more under way than the node takes.
                    if number >= 200, !sinks[index].wait(for: number - 200, seconds: 30) { return }
                    #expect(node.propose(put("\(index)/\(number % 50)"), waiter: Nobody(index), round))
                    // Rounds of different lengths.
                    if number % (index + 1) == 0 { round.end(node) }
                }
                round.end(node)
            }
        }
        for worker in workers { worker.join() }
        for (index, sink) in sinks.enumerated() {
            #expect(sink.wait(for: requests, seconds: 30), "loop \(index) has \(sink.count.load(ordering: .relaxed))")
        }
        #expect(node.store.currentRevision == Int64(threads * requests) + 1)
    }
}

/// A lone request goes through consensus, log and store on the thread that brought it.
@Test func aLoneRequestStaysOnItsThread() throws {
    let sink = CountingSink()
    try withNode([sink], { $0.replica.tickMilliseconds = 60_000 }) { node in
        let round = Round()
        var own = 0
        for number in 0..<50 {
            let before = sink.count.load(ordering: .acquiring)
            #expect(node.propose(put("k\(number)"), waiter: Nobody(0), round))
            #expect(sink.count.load(ordering: .acquiring) == before, "nothing happens before the round ends")
            round.end(node)
            #expect(sink.wait(for: before + 1, seconds: 5))
            if sink.thread.load(ordering: .relaxed) == UInt(pthread_self()) { own += 1 }
        }
        // A slow sync sends what follows it to the log's thread.
        #expect(own > 0, "every answer came from another thread")
    }
}

/// A backend commit becomes due by requests that the replica's thread has not seen; it is woken for it
/// although its own next duty is far away.
@Test func theReplicaThreadIsWokenForANearerDuty() throws {
    let sink = CountingSink()
    try withNode(
        [sink],
        {
            $0.replica.tickMilliseconds = 60_000
            $0.replica.backendIntervalMilliseconds = 200
        }
    ) { node in
        let round = Round()
        func isCommitted() -> Bool {
            let deadline = monotonicNanoseconds() + 5_000_000_000
            while node.status.pendingBytes.load(ordering: .relaxed) > 0 {
                if monotonicNanoseconds() > deadline { return false }
                usleep(1_000)
            }
            return true
        }
        // The first commit is made at once, and the thread sleeps again; the second has to wait.
        for number in 1...2 {
            #expect(node.propose(put("k"), waiter: Nobody(0), round))
            round.end(node)
            #expect(sink.wait(for: number, seconds: 5))
            #expect(isCommitted(), "commit \(number) never came")
            usleep(20_000)
        }
    }
}
