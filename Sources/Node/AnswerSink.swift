// Where the replica thread's answers go.

import Replica

/// Receives answers for one event loop; called on the replica thread with whole batches.
package protocol AnswerSink: AnyObject, Sendable {
    func deliver(_ answers: [PendingAnswer])
}
