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
        /// Records that nobody waits for.
        case records(AuditBatch)
        /// A record that a request waits for, or one too large for a batch.
        case record(AuditEntry, (@Sendable (String?) -> Void)?)
        case events
        case collect(@Sendable () -> Void)
        case replace(PluginSet, fallback: PluginSet, Reply)
        case stop
    }

    /// Where a reload waits for its result.
    private final class Reply: Sendable {
        let done = Mailbox<String?>(capacity: 1)
    }

    /// Turns' records and requests that may wait, with the bound of bytes below. Best-effort records beyond it are
    /// dropped and counted; requests that need a required record are refused.
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

    /// Queues records that nobody waits for.
    func audit(_ records: AuditBatch) {
        if !offer(.records(records), bytes: records.heldBytes, urgent: false) {
            counters.withLock { $0.auditDropped += UInt64(records.count) }
        }
    }

    /// The same for one record, whose memory goes along.
    func audit(_ record: AuditEntry) {
        if !offer(.record(record, nil), bytes: record.bytes, urgent: false) {
            counters.withLock { $0.auditDropped += 1 }
        }
    }

    /// Queues a record; `done` hears nil once it is written, or why it is not, on this thread.
    func audit(_ record: AuditEntry, _ done: @escaping @Sendable (String?) -> Void) -> Bool {
        offer(.record(record, done), bytes: record.bytes, urgent: true)
    }

    /// `bytes` are those of the job's records.
    private func offer(_ job: Job, bytes: Int, urgent: Bool) -> Bool {
        let queued = queuedBytes.load(ordering: .relaxed)
        if queued > Self.maxQueuedBytes { return false }
        guard jobs.offer(job, urgent: urgent || queued > Self.maxNapBytes) else { return false }
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
        // The records of batches, one after the other.
        let entry = AuditEntry()
        var receipts: [Receipt] = []
        var isStopping = false
        var nextTick = monotonicNanoseconds() &+ Self.tickNanoseconds
        while true {
            jobs.take(
                into: &batch, deadline: min(nextTick, deliveries.nextRetry))
            var taken = 0
            for job in batch {
                switch job {
                case .records(let records):
                    taken += records.heldBytes
                    records.forEach(into: entry) {
                        let receipt = plugins.audit(entry)
                        if !receipt.isOptional { receipts.append(Receipt(receipt, entry.record.stage, nil)) }
                    }
                    continue
                case .record(let entry, let done):
                    taken += entry.bytes
                    receipts.append(Receipt(plugins.audit(entry), entry.record.stage, done))
                    continue
                default: if taken > 0 { finishAudit(plugins, &receipts) }
                }
                switch job {
                case .records, .record: break
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
            if taken > 0 {
                finishAudit(plugins, &receipts)
                queuedBytes.subtract(taken, ordering: .relaxed)
            }
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

    /// A record that somebody waits for or that a plugin requires, until it is flushed.
    private struct Receipt {
        let receipt: EventsPlugins.AuditReceipt
        let stage: AuditRecord.Stage
        let done: (@Sendable (String?) -> Void)?

        init(
            _ receipt: EventsPlugins.AuditReceipt, _ stage: AuditRecord.Stage, _ done: (@Sendable (String?) -> Void)?
        ) {
            self.receipt = receipt
            self.stage = stage
            self.done = done
        }
    }

    /// Flushes the sinks once for all records since the last time, and tells those who wait.
    private func finishAudit(_ plugins: EventsPlugins, _ receipts: inout [Receipt]) {
        let flush = plugins.flushAudit()
        for receipt in receipts {
            switch flush.outcome(receipt.receipt) {
            case .written: receipt.done?(nil)
            case .failed(let text):
                if receipt.stage == .completed { counters.withLock { $0.auditGaps += 1 } }
                receipt.done?(text)
            }
        }
        receipts.removeAll(keepingCapacity: true)
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
