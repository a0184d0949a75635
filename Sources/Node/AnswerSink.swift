// Where the replica's answers go.

import Replica

/// Receives answers for one event loop; called in a turn, on any thread, with whole batches.
package protocol AnswerSink: AnyObject, Sendable {
    func deliver(_ answers: [PendingAnswer])
}
