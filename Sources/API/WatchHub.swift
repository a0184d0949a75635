// All watchers of one event loop.
//
// The bus hands batches of events to the hub in revision order. For every batch the hub finds the
// groups of watchers it concerns, encodes the events once per group and variant, and queues a
// short private head and the shared events on each stream. Watchers that start in the past, or
// whose client did not read, catch up from history in bounded steps and then join the others.
// Everything here runs on one loop, so a watcher is in exactly one place at any time.

import Events
import KVCodec
import MVCC
import NIOCore
import RPC

/// The watch hub of one event loop.
final class WatchHub {
    private unowned let context: LoopContext
    private let live = WatcherIndex<Watcher>(seed: UInt64.random(in: .min ... .max))
    private let behind = WatcherIndex<Watcher>(seed: UInt64.random(in: .min ... .max))
    private var behindWatchers: [ObjectIdentifier: Watcher] = [:]
    private var allWatchers: [ObjectIdentifier: Watcher] = [:]
    private var subscriber: EventSubscriber?
    private var isActive = false
    private var isPassScheduled = false
    /// Everything up to here was given to the synced watchers.
    private(set) var deliveredRevision: Int64 = 0
    private(set) var streamCount = 0
    /// Watchers in whatever state.
    private(set) var watcherCount = 0
    private(set) var eventsSent: UInt64 = 0
    private var groups: [(group: WatcherGroup<Watcher>, events: [Int])] = []

    /// Events read from history in one step, before other work of the loop gets its turn.
    private static let eventsPerPass = 1_000
    private static let bytesPerPass = 1 << 20

    init(_ context: LoopContext) { self.context = context }

    /// Joins the bus. Queueing begins with the first watcher.
    func subscribe() {
        let loop = context.loop
        let handle = HubHandle(self)
        let subscriber = EventSubscriber(
            maxEvents: context.options.eventQueueLength, maxBytes: context.options.eventQueueBytes,
            startRevision: context.node.store.currentRevision, isActive: false,
            notify: { loop.eventLoop.execute { loop.batch { handle.hub?.drain() } } })
        self.subscriber = subscriber
        context.node.bus.add(subscriber)
    }

    /// Watchers that have not been told everything yet.
    var slowWatcherCount: Int { watcherCount - live.watcherCount }

    /// Revisions that watchers have still to be told, summed over those that lag.
    var pendingRevisions: Int {
        allWatchers.values.reduce(0) { sum, watcher in
            watcher.state == .synced
                ? sum : sum + Int(clamping: max(0, deliveredRevision - watcher.nextRevision + 1))
        }
    }

    // MARK: Streams and watchers

    func streamOpened() { streamCount += 1 }
    func streamClosed() { streamCount -= 1 }

    /// Adds a watcher whose creation was just answered. `startsNow`: it wants only what comes.
    func add(_ watcher: Watcher, startsNow: Bool) {
        activate()
        watcherCount += 1
        allWatchers[ObjectIdentifier(watcher)] = watcher
        if startsNow || watcher.nextRevision > deliveredRevision {
            join(watcher)
        } else {
            fallBehind(watcher)
        }
    }

    func remove(_ watcher: Watcher) {
        detach(watcher)
        allWatchers[ObjectIdentifier(watcher)] = nil
        watcherCount -= 1
        if watcherCount == 0 { deactivate() }
    }

    /// The stream takes output again: its stalled watchers go on.
    func resume(_ watcher: Watcher) {
        guard watcher.state == .stalled else { return }
        fallBehind(watcher)
    }

    private func activate() {
        guard !isActive, let subscriber else { return }
        isActive = true
        deliveredRevision = subscriber.activate()
    }

    private func deactivate() {
        isActive = false
        subscriber?.deactivate()
    }

    private func detach(_ watcher: Watcher) {
        if let token = watcher.token {
            if watcher.state == .synced { live.remove(token) } else { behind.remove(token) }
        }
        watcher.token = nil
        behindWatchers[ObjectIdentifier(watcher)] = nil
    }

    private func join(_ watcher: Watcher) {
        watcher.state = .synced
        watcher.token = Self.insert(watcher, into: live)
    }

    private func fallBehind(_ watcher: Watcher) {
        watcher.state = .unsynced
        watcher.token = Self.insert(watcher, into: behind)
        behindWatchers[ObjectIdentifier(watcher)] = watcher
        schedulePass()
    }

    private func stall(_ watcher: Watcher) {
        detach(watcher)
        watcher.state = .stalled
        watcher.stream.stalled(watcher)
    }

    private static func insert(
        _ watcher: Watcher, into index: WatcherIndex<Watcher>
    ) -> WatcherToken {
        watcher.key.withUnsafeBytes { key in
            watcher.rangeEnd.withUnsafeBytes { rangeEnd in
                index.add(key: key, rangeEnd: rangeEnd, watcher)
            }
        }
    }

    // MARK: Live events

    /// Takes what the bus has queued. Also called before a progress answer, so that the answer
    /// covers everything that was acknowledged before it was asked for.
    func drain() {
        guard isActive, let subscriber else { return }
        let delivery = subscriber.take()
        for event in delivery.events {
            guard case .revision(let batch) = event else { continue }
            deliver(batch, to: live)
            deliveredRevision = max(deliveredRevision, batch.revision)
        }
        if let gap = delivery.gap {
            // The queue was full. What was not queued is in the store: everybody catches up.
            for watcher in allWatchers.values
            where watcher.state == .synced && watcher.nextRevision <= gap.upperBound {
                // It was told of everything before the gap, whether it concerned it or not.
                watcher.nextRevision = max(watcher.nextRevision, gap.lowerBound)
                detach(watcher)
                fallBehind(watcher)
            }
            deliveredRevision = max(deliveredRevision, gap.upperBound)
        }
    }

    private func deliver(_ batch: EventBatch, to index: WatcherIndex<Watcher>) {
        collectGroups(batch, index)
        if groups.isEmpty { return }
        var head = BatchHead(context, revision: batch.revision)
        for (group, events) in groups {
            var encodings = EventEncodings()
            // Sending may stall a watcher and so change the group: go over a copy.
            let watchers = group.watchers
            for watcher in watchers where watcher.nextRevision <= batch.revision {
                guard
                    let payload = encodings.payload(
                        watcher.variant, batch: batch, events: events, context: context)
                else {
                    watcher.nextRevision = batch.revision + 1
                    continue
                }
                guard watcher.stream.isWritable else {
                    // Everything before this batch has been offered to it.
                    watcher.nextRevision = batch.revision
                    stall(watcher)
                    continue
                }
                watcher.stream.send(watcher, &head, payload)
                watcher.nextRevision = batch.revision + 1
                eventsSent &+= UInt64(payload.eventCount)
            }
        }
        groups.removeAll(keepingCapacity: true)
    }

    /// Finds the groups that a batch concerns, each with the positions of its events.
    private func collectGroups(_ batch: EventBatch, _ index: WatcherIndex<Watcher>) {
        groups.removeAll(keepingCapacity: true)
        for (position, event) in batch.events.enumerated() {
            batch.with(event.key) { key in
                index.forEachGroup(matching: key) { group in
                    if batch.events.count > 1,
                        let known = groups.lastIndex(where: { $0.group === group })
                    {
                        groups[known].events.append(position)
                    } else {
                        groups.append((group, [position]))
                    }
                }
            }
        }
    }

    // MARK: Catching up

    private func schedulePass() {
        guard !isPassScheduled else { return }
        isPassScheduled = true
        let handle = HubHandle(self)
        let loop = context.loop
        loop.eventLoop.execute { loop.batch { handle.hub?.pass() } }
    }

    /// One step of catching up for all unsynced watchers together.
    private func pass() {
        isPassScheduled = false
        guard let from = behindWatchers.values.map(\.nextRevision).min() else { return }
        guard from <= deliveredRevision else { return joinCaughtUp() }
        do throws(MVCCError) {
            let next = try context.node.store.history(
                from: from, through: deliveredRevision, maxEvents: Self.eventsPerPass,
                maxBytes: Self.bytesPerPass, reader: context.reader
            ) { batch in deliver(batch, to: behind) }
            for watcher in behindWatchers.values where watcher.nextRevision < next {
                watcher.nextRevision = next
            }
        } catch {
            guard case .compacted(let compactRevision) = error else {
                context.reader.damaged("history from \(from): \(error)")
            }
            for watcher in sortedBehind where watcher.nextRevision < compactRevision {
                watcher.stream.compacted(watcher, compactRevision)
            }
        }
        joinCaughtUp()
        if !behindWatchers.isEmpty { schedulePass() }
    }

    private func joinCaughtUp() {
        for watcher in sortedBehind where watcher.nextRevision > deliveredRevision {
            detach(watcher)
            join(watcher)
        }
    }

    private var sortedBehind: [Watcher] {
        behindWatchers.values.sorted {
            $0.nextRevision != $1.nextRevision
                ? $0.nextRevision < $1.nextRevision : $0.id < $1.id
        }
    }
}

/// Lets the bus and the loop reach a hub without keeping it alive or sharing it.
private final class HubHandle: @unchecked Sendable {
    // Unchecked: dereferenced on the hub's own loop only.
    weak var hub: WatchHub?

    init(_ hub: WatchHub) { self.hub = hub }
}
