// What the tests of a running node share: somebody who takes the answers, and somebody who waits for one.

import Replica

@testable import Node

/// Hands answers over on the thread that brings them.
final class CollectingSink: AnswerSink {
    func deliver(_ answers: [PendingAnswer]) {
        for answer in answers { answer.waiter.replicaAnswered(answer.answer) }
    }
}

/// Waits for one answer, five seconds at most.
final class Waiter: ReplyWaiter {
    let loopIndex = 0
    private let box = Mailbox<ReplicaAnswer>(capacity: 1)

    func replicaAnswered(_ answer: ReplicaAnswer) { box.post(answer) }

    func wait() -> ReplicaAnswer? {
        var answers: [ReplicaAnswer] = []
        box.take(into: &answers, deadline: monotonicNanoseconds() + 5_000_000_000)
        return answers.first
    }
}
