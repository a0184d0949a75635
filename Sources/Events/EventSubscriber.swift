// One consumer's bounded queue on the bus.
//
// The publisher never waits and never blocks on a consumer. At the bound, revisions are not queued
// but recorded as a gap: the consumer reads them from the store's history instead, so a slow
// consumer loses nothing and holds bounded memory. Facts other than revisions have no history; at
// the bound they are dropped and counted.

import MVCC
import Synchronization

/// What a consumer takes from its queue: events in order, then possibly a gap that follows them.
package struct EventDelivery: Sendable {
    package var events: [NodeEvent]
    /// Revisions after `events` that must be read from history.
    package var gap: ClosedRange<Int64>?
    /// Facts without history that were dropped since the last delivery.
    package var droppedFacts: Int
}

/// A bounded queue from the replica to one consumer.
package final class EventSubscriber: Sendable {
    private struct State {
        var events: [NodeEvent] = []
        var queuedBytes = 0
        var gap: ClosedRange<Int64>?
        var droppedFacts = 0
        var isActive: Bool
        var isNotified = false
        /// The last revision that was published, queued or not.
        var lastPublished: Int64
    }

    private let state: Mutex<State>
    private let maxEvents: Int
    private let maxBytes: Int
    private let notify: @Sendable () -> Void

    /// - Parameters:
    ///   - maxEvents: most events queued (`limits.event-queue-length`).
    ///   - maxBytes: most bytes queued (`limits.event-queue-bytes`).
    ///   - isActive: false to start without queueing, until `activate()`.
    ///   - notify: called on the publishing thread when an idle queue gets something; must not
    ///     block.
    package init(
        maxEvents: Int, maxBytes: Int, startRevision: Int64, isActive: Bool,
        notify: @escaping @Sendable () -> Void
    ) {
        self.maxEvents = maxEvents
        self.maxBytes = maxBytes
        self.notify = notify
        self.state = Mutex(State(isActive: isActive, lastPublished: startRevision))
    }

    /// Starts queueing. Everything after the returned revision will be delivered.
    package func activate() -> Int64 {
        state.withLock { state in
            state.isActive = true
            return state.lastPublished
        }
    }

    /// Stops queueing and forgets what is queued.
    package func deactivate() {
        state.withLock { state in
            state.isActive = false
            state.events = []
            state.queuedBytes = 0
            state.gap = nil
            // The consumer may not take what it was notified of; the next activation must be.
            state.isNotified = false
        }
    }

    /// Queues a batch of events in order.
    package func publish(_ batch: [NodeEvent]) {
        let wake = state.withLock { state -> Bool in
            var queued = false
            for event in batch {
                let before = state.lastPublished
                switch event {
                case .revision(let change): state.lastPublished = change.revision
                case .restored(let revision): state.lastPublished = max(before, revision)
                default: break
                }
                guard state.isActive else { continue }
                queued = true
                if case .restored(let revision) = event {
                    if revision > before {
                        state.gap = (state.gap?.lowerBound ?? before + 1)...revision
                    }
                } else {
                    append(event, to: &state)
                }
            }
            if !queued || state.isNotified { return false }
            state.isNotified = true
            return true
        }
        if wake { notify() }
    }

    /// Takes everything queued. The next publication notifies again.
    package func take() -> EventDelivery {
        state.withLock { state in
            let delivery = EventDelivery(
                events: state.events, gap: state.gap, droppedFacts: state.droppedFacts)
            state.events = []
            state.queuedBytes = 0
            state.gap = nil
            state.droppedFacts = 0
            state.isNotified = false
            return delivery
        }
    }

    private func append(_ event: NodeEvent, to state: inout State) {
        let isFull = state.events.count >= maxEvents || state.queuedBytes >= maxBytes
        guard case .revision(let change) = event else {
            // Without a gap, order against revisions is kept; behind a gap a fact may come early.
            if isFull { state.droppedFacts += 1 } else { state.events.append(event) }
            return
        }
        if let gap = state.gap {
            state.gap = gap.lowerBound...change.revision
        } else if isFull {
            state.gap = change.revision...change.revision
        } else {
            state.events.append(event)
            state.queuedBytes += event.retainedBytes
        }
    }
}
