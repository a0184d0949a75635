// The bus: the replica publishes, every subscriber has its own bounded queue.

import Synchronization

/// Fans events out to subscribers. Publishing happens in the replica's turns, in order; subscribing anywhere.
package final class EventBus: Sendable {
    private let subscribers = Mutex<[EventSubscriber]>([])

    package init() {}

    /// Adds a subscriber; it sees what is published from now on.
    package func add(_ subscriber: EventSubscriber) {
        subscribers.withLock { $0.append(subscriber) }
    }

    /// Removes a subscriber.
    package func remove(_ subscriber: EventSubscriber) {
        subscribers.withLock { $0.removeAll { $0 === subscriber } }
    }

    /// Publishes a batch in order to all subscribers.
    package func publish(_ batch: [NodeEvent]) {
        if batch.isEmpty { return }
        let current = subscribers.withLock { $0 }
        for subscriber in current { subscriber.publish(batch) }
    }
}
