// What waits for the peers' sockets: filled by the replica's turns, emptied by the event loop.

import NIOConcurrencyHelpers
import RaftCore
import Replica

/// A bounded queue for each peer, behind one lock: a turn takes it once.
final class PeerQueues: Sendable {
    struct Queued {
        var message: PeerMessage
        /// Its `encodedSizeBound`.
        var size: Int
    }

    fileprivate struct Queue {
        let counters: PeerCounters
        var isOpen = false
        /// Not yet taken by the event loop.
        var waiting: [Queued] = []
        /// All that is not encoded yet, taken or not.
        var messages = 0
        var bytes = 0
    }

    fileprivate struct State {
        var queues: [NodeID: Queue] = [:]
        var isScheduled = false
    }

    private let state = NIOLockedValueBox(State())
    private let maxMessages: Int
    private let maxBytes: Int
    private let maxMessageBytes: Int

    init(_ configuration: PeerConfiguration) {
        maxMessages = configuration.maxQueuedMessages
        maxBytes = configuration.maxQueuedBytes
        // The kind of the frame counts as well.
        maxMessageBytes = configuration.maxFrameBytes - 1
    }

    /// Queues messages, or drops and counts those that have no place. A message larger than the bound
    /// in bytes goes alone.
    ///
    /// - Returns: whether the event loop must be woken.
    func push(_ messages: [PeerMessage]) -> Bool {
        state.withLockedValue { state in
            var hasQueued = false
            for message in messages {
                if state.queues[message.to]?.push(message, maxMessages, maxBytes, maxMessageBytes) == true {
                    hasQueued = true
                }
            }
            guard hasQueued, !state.isScheduled else { return false }
            state.isScheduled = true
            return true
        }
    }

    /// The event loop begins to take; later pushes wake it again.
    func beginTaking() { state.withLockedValue { $0.isScheduled = false } }

    /// All that waits for one peer.
    func take(_ id: NodeID) -> [Queued] {
        state.withLockedValue { $0.queues[id]?.takeWaiting() ?? [] }
    }

    /// Taken messages were encoded and need no room any more.
    func encoded(_ id: NodeID, messages: Int, bytes: Int) {
        state.withLockedValue { state in
            state.queues[id]?.messages -= messages
            state.queues[id]?.bytes -= bytes
        }
    }

    func add(_ counters: PeerCounters) {
        state.withLockedValue { $0.queues[counters.id] = Queue(counters: counters) }
    }

    func remove(_ id: NodeID) { state.withLockedValue { $0.queues[id] = nil } }

    /// From now on messages are queued.
    func open(_ id: NodeID) { state.withLockedValue { $0.queues[id]?.isOpen = true } }

    /// From now on messages are dropped; those that wait, taken or not, are counted as failed.
    func close(_ id: NodeID) {
        state.withLockedValue { state in
            guard let queue = state.queues[id] else { return }
            queue.counters.addDropped(queue.messages)
            state.queues[id] = Queue(counters: queue.counters)
        }
    }

    /// The counters of every peer there is, by id.
    var counters: [PeerCounters] {
        state.withLockedValue { state in
            state.queues.values.map(\.counters).sorted { $0.id < $1.id }
        }
    }
}

extension PeerQueues.Queue {
    fileprivate mutating func takeWaiting() -> [PeerQueues.Queued] {
        var taken: [PeerQueues.Queued] = []
        swap(&taken, &waiting)
        return taken
    }

    fileprivate mutating func push(
        _ message: PeerMessage, _ maxMessages: Int, _ maxBytes: Int, _ maxMessageBytes: Int
    ) -> Bool {
        // A snapshot's message goes with its file, on a connection of its own.
        if case .raft(let raft) = message, case .snapshot = raft.body {
            counters.addDropped(1)
            return false
        }
        let size = message.encodedSizeBound
        let hasRoom = messages < maxMessages && (bytes + size <= maxBytes || messages == 0)
        guard isOpen, hasRoom, size <= maxMessageBytes else {
            counters.addDropped(1)
            return false
        }
        waiting.append(PeerQueues.Queued(message: message, size: size))
        messages += 1
        bytes += size
        return true
    }
}
