// Events for `on_event`: a cursor for every plugin, retries, and history where the queue was full.

import Events
import KVCodec
import MVCC
import Node
import Plugins

/// Delivers events to the plugins that want them, in revision order, at least once. Confined to the
/// plugin thread.
final class EventDeliveries {
    private struct Cursor {
        var index: Int
        let id: String
        /// First revision not taken by the plugin.
        var next: Int64
        var retryAt: UInt64 = 0
        var backoff: UInt64 = EventDeliveries.firstBackoff
    }

    private let node: Node
    private let fatal: FatalHandler
    private var reader: LMDBRecordReader?
    private var cursors: [Cursor] = []
    /// Everything up to here has been published.
    private var published: Int64 = 0
    /// Live batches not yet taken by all, oldest first; beyond the bound history is read instead.
    private var recent: [EventBatch] = []
    private var recentBytes = 0
    private var facts: [HookEvent] = []
    private var factNumber: UInt64 = 0
    private(set) var retries: UInt64 = 0
    private let source: String

    private static let firstBackoff: UInt64 = 100_000_000
    private static let lastBackoff: UInt64 = 30_000_000_000
    private static let maxRecent = 4_096
    private static let maxRecentBytes = 64 << 20
    private static let maxBatch = 1_000
    private static let maxFacts = 1_024

    init(node: Node, fatal: @escaping FatalHandler) {
        self.node = node
        self.fatal = fatal
        source = "\(String(node.clusterID, radix: 16))/\(String(node.memberID, radix: 16))"
    }

    /// Begins with the revision after `revision` for plugins that are new; others keep their place.
    func start(_ plugins: EventsPlugins, after revision: Int64) {
        let known = cursors
        cursors = plugins.subscribers.map { subscriber in
            let next = known.first { $0.id == subscriber.id }?.next ?? revision + 1
            return Cursor(index: subscriber.index, id: subscriber.id, next: next)
        }
    }

    /// When a plugin that failed gets its events again; the far future when none waits.
    var nextRetry: UInt64 {
        cursors.filter { $0.retryAt > 0 }.map(\.retryAt).min() ?? .max
    }

    func take(_ delivery: EventDelivery) {
        for event in delivery.events {
            if case .revision(let batch) = event {
                recent.append(batch)
                recentBytes += batch.bytes.count
                published = max(published, batch.revision)
            } else if let fact = hookEvent(event), facts.count < Self.maxFacts {
                facts.append(fact)
            }
        }
        if let gap = delivery.gap {
            recent.removeAll()
            recentBytes = 0
            published = max(published, gap.upperBound)
        }
        while recent.count > Self.maxRecent || recentBytes > Self.maxRecentBytes {
            recentBytes -= recent.removeFirst().bytes.count
        }
    }

    func deliver(to plugins: EventsPlugins) {
        let now = monotonicNanoseconds()
        if !facts.isEmpty {
            // Facts have no history to come back to: one try.
            for cursor in cursors { _ = plugins.deliver(facts, to: cursor.index) }
            facts.removeAll(keepingCapacity: true)
        }
        for position in cursors.indices where cursors[position].retryAt <= now {
            deliver(to: plugins, position, now)
        }
        let slowest = cursors.map(\.next).min() ?? .max
        while let first = recent.first, first.revision < slowest {
            recentBytes -= recent.removeFirst().bytes.count
        }
    }

    private func deliver(to plugins: EventsPlugins, _ position: Int, _ now: UInt64) {
        while cursors[position].next <= published {
            let (events, next) = events(from: cursors[position].next)
            if !events.isEmpty, plugins.deliver(events, to: cursors[position].index) != nil {
                retries &+= 1
                cursors[position].retryAt = now &+ cursors[position].backoff
                cursors[position].backoff = min(
                    cursors[position].backoff &* 2, Self.lastBackoff)
                return
            }
            cursors[position].next = max(next, cursors[position].next + 1)
            cursors[position].retryAt = 0
            cursors[position].backoff = Self.firstBackoff
        }
    }

    /// Events from `revision` on, and the first revision that is not among them.
    private func events(from revision: Int64) -> ([HookEvent], Int64) {
        var events: [HookEvent] = []
        if let first = recent.first, first.revision <= revision {
            var next = revision
            for batch in recent where batch.revision >= revision {
                append(batch, to: &events)
                next = batch.revision + 1
                if events.count >= Self.maxBatch { break }
            }
            return (events, next)
        }
        if reader == nil { reader = try? node.makeReader() }
        guard let reader else { fatal("no reader for the plugins' events") }
        do throws(MVCCError) {
            let next = try node.store.history(
                from: revision, through: published, maxEvents: Self.maxBatch, maxBytes: 1 << 20,
                reader: reader
            ) { append($0, to: &events) }
            return (events, next)
        } catch {
            guard case .compacted(let compactRevision) = error else { fatal("history: \(error)") }
            // What was compacted cannot be told; the plugin hears that there is a gap.
            var gap = HookEvent(
                type: "gap", id: "\(revision).0", revision: revision, sub: 0, time: wallSeconds,
                source: source)
            gap.fields = [
                ("from", .integer(revision)), ("to", .integer(compactRevision - 1)),
            ]
            return ([gap], compactRevision)
        }
    }

    private func append(_ batch: EventBatch, to events: inout [HookEvent]) {
        for (sub, event) in batch.events.enumerated() {
            batch.with(event.record) { record in
                guard let view = try? KeyValueView(record) else { return }
                var hook = HookEvent(
                    type: event.isDelete ? "delete" : "put", id: "\(batch.revision).\(sub)",
                    revision: batch.revision, sub: Int64(sub), time: wallSeconds, source: source)
                hook.reason = batch.reason.pluginName
                hook.keyValue = PluginKeyValue(
                    key: view.key.array, value: view.value.array,
                    createRevision: view.createRevision, modRevision: view.modRevision,
                    version: view.version, lease: view.lease)
                events.append(hook)
            }
        }
    }

    private var wallSeconds: Double { Double(wallClockNanoseconds()) / 1e9 }

    private func hookEvent(_ event: NodeEvent) -> HookEvent? {
        factNumber &+= 1
        let term = node.status.term.load(ordering: .relaxed)
        var hook = HookEvent(
            type: "", id: "\(term).\(factNumber)", revision: 0, sub: 0, time: wallSeconds,
            source: source)
        switch event {
        case .revision, .restored: return nil
        case .lease(let lease):
            hook.type =
                lease.kind == .expired
                ? "lease_expire"
                : lease.kind == .granted ? "lease_grant" : "lease_revoke"
            hook.fields = [
                ("lease", .integer(lease.id)), ("ttl", .integer(lease.timeToLiveSeconds)),
            ]
        case .compaction(let revision):
            hook.type = "compact"
            hook.revision = revision
        case .alarm(let alarm):
            hook.type = "alarm"
            hook.fields = [
                ("raised", .boolean(alarm.raised)), ("alarm", .integer(Int64(alarm.type))),
            ]
        case .leader(let member, let term):
            hook.type = "leader"
            hook.fields = [
                ("member", .text(String(member, radix: 16))),
                ("term", .integer(Int64(clamping: term))),
            ]
        case .membership(let change):
            hook.type = "member"
            hook.fields = [
                ("kind", .text(change.kind.rawValue)),
                ("member", .text(String(change.memberID, radix: 16))),
            ]
        case .plugin(let plugin):
            hook.type = "plugin"
            hook.fields = [("kind", .text(plugin.kind.rawValue)), ("id", .text(plugin.id))]
        case .slowDisk(let operation, let microseconds):
            hook.type = "slow_disk"
            hook.fields = [
                ("operation", .text(operation.rawValue)),
                ("microseconds", .integer(Int64(clamping: microseconds))),
            ]
        }
        return hook
    }
}

extension EventReason {
    /// The word scripts see; history does not know the reason.
    var pluginName: String {
        switch self {
        case .client: "client"
        case .transaction: "txn"
        case .leaseExpired: "lease_expired"
        case .leaseRevoked: "lease_revoked"
        case .plugin: "plugin"
        case .unknown: "unknown"
        }
    }
}
