// Calls of one event loop that wait for keys to change: for the one before them in a queue, or for the
// keys under an election's name.
//
// Watchers of clients have the hub; these differ in that they are told of events and read the rest from
// the store themselves, so nothing is encoded for them and none can fall behind.

import Events
import KVCodec
import MVCC
import NIOCore
import RPC

/// Who waits for keys to change.
protocol RangeFollower: AnyObject {
    /// What it holds in memory while it waits, its names above all.
    var heldBytes: Int { get }
    /// One event on a key that is followed. Nothing is kept: what the follower wants later it copies.
    func changed(_ batch: EventBatch, _ event: EventRecord)
    /// Events were lost; the store holds what came of them.
    func eventsLost()
}

/// The followers of one event loop. Confined to that loop.
final class RangeFollowers {
    private unowned let context: LoopContext
    private let index = WatcherIndex<Place>(seed: UInt64.random(in: .min ... .max))
    private var places: [ObjectIdentifier: Place] = [:]
    private var subscriber: EventSubscriber?
    private var heldBytes = 0
    /// What all followers of a loop may hold; more are refused.
    private static let maxHeldBytes = 256 << 20

    /// A follower and where it stands in the index.
    private final class Place {
        let follower: any RangeFollower
        let heldBytes: Int
        var token: WatcherToken?

        init(_ follower: any RangeFollower) {
            self.follower = follower
            heldBytes = follower.heldBytes
        }
    }

    init(_ context: LoopContext) { self.context = context }

    /// Joins the bus. Queueing begins with the first follower.
    func subscribe() {
        let loop = context.loop
        let wake = LoopReturn { [weak self] (_: Void) in self?.drain() }
        let subscriber = EventSubscriber(
            maxEvents: context.options.eventQueueLength, maxBytes: context.options.eventQueueBytes,
            startRevision: context.node.store.currentRevision, isActive: false,
            notify: { loop.eventLoop.execute { loop.batch { wake.body(()) } } })
        self.subscriber = subscriber
        context.node.bus.add(subscriber)
    }

    /// From now on the follower is told of changes; one that follows already follows this range instead.
    /// What was there before is read by the caller after this call, so that nothing lies between.
    ///
    /// - Returns: why it cannot follow; nil when it does.
    func add(_ follower: any RangeFollower, key: [UInt8], rangeEnd: [UInt8]) -> RPCStatus? {
        remove(follower)
        let place = Place(follower)
        guard heldBytes + place.heldBytes <= Self.maxHeldBytes else {
            return RPCStatus(.resourceExhausted, "moonraft: too many calls wait for keys")
        }
        heldBytes += place.heldBytes
        if places.isEmpty { _ = subscriber?.activate() }
        place.token = key.withUnsafeBytes { key in
            rangeEnd.withUnsafeBytes { index.add(key: key, rangeEnd: $0, place) }
        }
        places[ObjectIdentifier(follower)] = place
        return nil
    }

    func remove(_ follower: any RangeFollower) {
        guard let place = places.removeValue(forKey: ObjectIdentifier(follower)) else { return }
        heldBytes -= place.heldBytes
        if let token = place.token { index.remove(token) }
        place.token = nil
        if places.isEmpty { subscriber?.deactivate() }
    }

    private func drain() {
        guard !places.isEmpty, let subscriber else { return }
        let delivery = subscriber.take()
        for fact in delivery.events {
            guard case .revision(let batch) = fact else { continue }
            for event in batch.events { tell(batch, event) }
        }
        if delivery.gap != nil {
            for place in Array(places.values) where place.token != nil { place.follower.eventsLost() }
        }
    }

    private func tell(_ batch: EventBatch, _ event: EventRecord) {
        // Followers come and go while they are told: go over a copy.
        var told: [Place] = []
        batch.with(event.key) { key in
            index.forEachGroup(matching: key) { told += $0.watchers }
        }
        for place in told where place.token != nil { place.follower.changed(batch, event) }
    }
}
