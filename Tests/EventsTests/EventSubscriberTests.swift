// A subscriber's queue never loses a revision without saying so, never holds more than its bound,
// and never forgets to wake its consumer: checked with batches of a real store.

import KVCodec
import MVCC
import Synchronization
import Testing

@testable import Events

/// Batches of consecutive revisions, one put each.
private func batches(_ count: Int) -> [NodeEvent] {
    final class NoRecords: RecordReader {
        func begin() {}
        func end() {}
        func get(_ revision: Revision) -> UnsafeRawBufferPointer? { nil }
        func scan(
            from: Revision, _ body: (Revision, Bool, UnsafeRawBufferPointer) -> Bool
        ) {}
    }
    let store = MVCCStore()
    let reader = NoRecords()
    var events: [NodeEvent] = []
    let key = Array("k".utf8)
    for _ in 0..<count {
        store.beginBatch()
        store.begin(reader: reader)
        key.withUnsafeBytes { key in _ = store.put(key: key, value: key, lease: 0) }
        if let batch = store.commit(reason: .client) { events.append(.revision(batch)) }
        store.endBatch()
    }
    return events
}

private func revisions(_ delivery: EventDelivery) -> [Int64] {
    delivery.events.compactMap { event in
        if case .revision(let batch) = event { batch.revision } else { nil }
    }
}

@Test func revisionsArriveInOrderAndTheConsumerIsWokenOnce() {
    let wakes = Atomic<Int>(0)
    let subscriber = EventSubscriber(
        maxEvents: 100, maxBytes: 1 << 20, startRevision: 1, isActive: true,
        notify: { wakes.add(1, ordering: .relaxed) })
    for event in batches(5) { subscriber.publish([event]) }
    #expect(wakes.load(ordering: .relaxed) == 1)
    #expect(revisions(subscriber.take()) == [2, 3, 4, 5, 6])
    subscriber.publish([.compaction(revision: 3)])
    #expect(wakes.load(ordering: .relaxed) == 2)
}

@Test func aFullQueueLeavesAGapThatNamesWhatIsMissing() {
    let subscriber = EventSubscriber(
        maxEvents: 3, maxBytes: 1 << 20, startRevision: 1, isActive: true, notify: {})
    subscriber.publish(batches(8))
    let delivery = subscriber.take()
    #expect(revisions(delivery) == [2, 3, 4])
    #expect(delivery.gap == 5...9)
    #expect(subscriber.take().gap == nil)
}

@Test func factsBeyondTheBoundAreCounted() {
    let subscriber = EventSubscriber(
        maxEvents: 1, maxBytes: 1 << 20, startRevision: 1, isActive: true, notify: {})
    subscriber.publish([.compaction(revision: 1), .compaction(revision: 2)])
    #expect(subscriber.take().droppedFacts == 1)
}

@Test func activationTellsWhatWillNotBeDelivered() {
    let subscriber = EventSubscriber(
        maxEvents: 100, maxBytes: 1 << 20, startRevision: 1, isActive: false, notify: {})
    let events = batches(4)
    subscriber.publish(Array(events[..<2]))
    #expect(subscriber.activate() == 3)
    subscriber.publish(Array(events[2...]))
    #expect(revisions(subscriber.take()) == [4, 5])
}

/// The last watcher of a loop was cancelled between a publication and the loop's turn; every later
/// watcher of that loop then waited for ever.
@Test func deactivationWhileNotifiedDoesNotSilenceTheNextActivation() {
    let wakes = Atomic<Int>(0)
    let subscriber = EventSubscriber(
        maxEvents: 100, maxBytes: 1 << 20, startRevision: 1, isActive: true,
        notify: { wakes.add(1, ordering: .relaxed) })
    let events = batches(2)
    subscriber.publish([events[0]])
    subscriber.deactivate()
    _ = subscriber.activate()
    subscriber.publish([events[1]])
    #expect(wakes.load(ordering: .relaxed) == 2)
    #expect(revisions(subscriber.take()) == [3])
}
