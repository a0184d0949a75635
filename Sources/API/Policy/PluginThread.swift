// The thread of the hooks beside requests: audit, on_event, metrics_collect, health.

import Events
import Logging
import MVCC
import Node
import Plugins
import Synchronization

/// Figures of the plugin thread for exposition.
struct PluginThreadFigures: Sendable {
    var auditDropped: UInt64 = 0
    var auditGaps: UInt64 = 0
    var eventRetries: UInt64 = 0
}

/// Owns the events side of all plugins.
final class PluginThread: Sendable {
    private enum Job: Sendable {
        case audit(AuditEntry, (@Sendable (String?) -> Void)?)
        case events
        case collect(@Sendable () -> Void)
        case replace(PluginSet, fallback: PluginSet, Reply)
        case stop
    }

    /// Where a reload waits for its result.
    private final class Reply: Sendable {
        let done = Mailbox<String?>(capacity: 1)
    }

    /// Records and requests that may wait. Best-effort records beyond it are dropped and counted;
    /// requests that need a required record are refused.
    private let jobs = Mailbox<Job>(capacity: 65_536)
    private let node: Node
    private let logger: Logger
    private let fatal: FatalHandler
    private let thread = Mutex<OwnedThread?>(nil)
    private let problem = Mutex<String?>(nil)
    private let counters = Mutex(PluginThreadFigures())
    private let subscriber: EventSubscriber

    /// Bytes of requests that waiting records hold, and their bound.
    private let queuedBytes = Atomic<Int>(0)
    private static let maxQueuedBytes = 64 << 20
    /// Bytes of waiting records from which the thread does not wait for more.
    private static let maxNapBytes = 4 << 20
    /// How long records that nobody waits for gather after others were written: one wake-up and one write serve
    /// all of them.
    private static let napNanoseconds: UInt64 = 10_000_000
    private static let tickNanoseconds: UInt64 = 1_000_000_000

    init(node: Node, logger: Logger, fatal: @escaping FatalHandler) {
        self.node = node
        self.logger = logger
        self.fatal = fatal
        let jobs = jobs
        subscriber = EventSubscriber(
            maxEvents: 8_192, maxBytes: 64 << 20, startRevision: node.store.currentRevision,
            isActive: false, notify: { jobs.post(.events) })
        node.bus.add(subscriber)
    }

    /// Builds the VMs on the calling thread, so that a failure is a start error, and starts.
    func start(_ set: PluginSet) throws {
        let view = PolicyStoreView(store: node.store, reader: try node.makeReader())
        let plugins = try EventsPlugins(set, storeView: view)
        // Handed over to the thread, which is its only user from here on.
        let box = Handover(plugins, view)
        let handle = OwnedThread(name: "plugins") { [self] in run(box.plugins, box.view) }
        thread.withLock { $0 = handle }
    }

    private final class Handover: @unchecked Sendable {
        // Unchecked: written before the thread starts, read by it once.
        let plugins: EventsPlugins
        let view: PolicyStoreView

        init(_ plugins: EventsPlugins, _ view: PolicyStoreView) {
            self.plugins = plugins
            self.view = view
        }
    }

    func stop() {
        jobs.post(.stop)
        thread.withLock { $0 }?.join()
    }

    // MARK: From other threads

    /// Queues a record that nobody waits for.
    func audit(_ record: AuditEntry) {
        if !offer(record, nil) { counters.withLock { $0.auditDropped += 1 } }
    }

    /// Queues a record; `done` hears nil once it is written, or why it is not, on this thread.
    func audit(_ record: AuditEntry, _ done: @escaping @Sendable (String?) -> Void) -> Bool {
        offer(record, done)
    }

    private func offer(_ record: AuditEntry, _ done: (@Sendable (String?) -> Void)?) -> Bool {
        let queued = queuedBytes.load(ordering: .relaxed)
        if queued > Self.maxQueuedBytes { return false }
        let isUrgent = done != nil || queued > Self.maxNapBytes
        // The thread may have given the entry back before `offer` returns.
        let bytes = record.bytes
        guard jobs.offer(.audit(record, done), urgent: isUrgent) else { return false }
        queuedBytes.add(bytes, ordering: .relaxed)
        return true
    }

    func collectMetrics(_ done: @escaping @Sendable () -> Void) -> Bool {
        jobs.offer(.collect(done))
    }

    /// Replaces the set; on failure `fallback` runs again and the error is thrown.
    func replace(_ set: PluginSet, fallback: PluginSet) throws {
        let reply = Reply()
        jobs.post(.replace(set, fallback: fallback, reply))
        var result: [String?] = []
        while result.isEmpty {
            reply.done.take(
                into: &result, deadline: monotonicNanoseconds() &+ 1_000_000_000)
        }
        if let text = result.first ?? nil { throw PolicyError(description: text) }
    }

    /// What a critical plugin says is wrong; nil when all is well.
    var criticalProblem: String? { problem.withLock { $0 } }
    var figures: PluginThreadFigures { counters.withLock { $0 } }

    // MARK: The thread

    private func run(_ first: EventsPlugins, _ view: PolicyStoreView) {
        var plugins = first
        let deliveries = EventDeliveries(node: node, fatal: fatal)
        watch(plugins, deliveries)
        var batch: [Job] = []
        var records: [AuditEntry] = []
        var waiting: [(@Sendable (String?) -> Void)?] = []
        var isStopping = false
        var nextTick = monotonicNanoseconds() &+ Self.tickNanoseconds
        while true {
            jobs.take(
                into: &batch, deadline: min(nextTick, deliveries.nextRetry))
            var taken = 0
            for job in batch {
                if case .audit(let record, let done) = job {
                    taken += record.bytes
                    records.append(record)
                    waiting.append(done)
                    continue
                }
                writeAudit(plugins, &records, &waiting)
                switch job {
                case .audit: break
                case .events: deliveries.take(subscriber.take())
                case .collect(let done):
                    plugins.collectMetrics()
                    done()
                case .replace(let set, let fallback, let reply):
                    plugins = replace(plugins, by: set, fallback: fallback, view, reply)
                    watch(plugins, deliveries)
                case .stop: isStopping = true
                }
            }
            writeAudit(plugins, &records, &waiting)
            if taken > 0 { queuedBytes.subtract(taken, ordering: .relaxed) }
            if isStopping { return plugins.shutdown() }
            deliveries.deliver(to: plugins)
            counters.withLock { $0.eventRetries = deliveries.retries }
            let now = monotonicNanoseconds()
            if now >= nextTick {
                nextTick = now &+ Self.tickNanoseconds
                tick(plugins)
            }
            batch.removeAll(keepingCapacity: true)
            if taken > 0 {
                jobs.nap(until: min(now &+ Self.napNanoseconds, nextTick, deliveries.nextRetry))
            }
        }
    }

    private func watch(_ plugins: EventsPlugins, _ deliveries: EventDeliveries) {
        if plugins.subscribers.isEmpty {
            subscriber.deactivate()
        } else {
            deliveries.start(plugins, after: subscriber.activate())
        }
    }

    private func writeAudit(
        _ plugins: EventsPlugins, _ records: inout [AuditEntry],
        _ waiting: inout [(@Sendable (String?) -> Void)?]
    ) {
        if records.isEmpty { return }
        let outcomes = plugins.audit(records)
        for (index, outcome) in outcomes.enumerated() {
            switch outcome {
            case .written: waiting[index]?(nil)
            case .failed(let text):
                if records[index].record.stage == .completed {
                    counters.withLock { $0.auditGaps += 1 }
                }
                waiting[index]?(text)
            }
        }
        for entry in records { entry.giveBack() }
        records.removeAll(keepingCapacity: true)
        waiting.removeAll(keepingCapacity: true)
    }

    private func tick(_ plugins: EventsPlugins) {
        plugins.tick()
        let sick = plugins.health().first { !$0.isHealthy && $0.isCritical }
        problem.withLock { $0 = sick.map { "plugin \($0.id): \($0.text)" } }
    }

    /// A sink's file has one writer, so the old set closes before the new one opens.
    private func replace(
        _ old: EventsPlugins, by set: PluginSet, fallback: PluginSet, _ view: PolicyStoreView,
        _ reply: Reply
    ) -> EventsPlugins {
        old.shutdown()
        do {
            let new = try EventsPlugins(set, storeView: view)
            reply.done.post(nil)
            return new
        } catch {
            reply.done.post("\(error)")
            do {
                return try EventsPlugins(fallback, storeView: view)
            } catch {
                fatal("plugins of the set in use cannot be opened again: \(error)")
            }
        }
    }
}

/// Why plugins could not be replaced.
package struct PolicyError: Error, CustomStringConvertible {
    package let description: String
}
