import CLua

/// An event as `on_event` gets it (docs/plugin-api.md 5.8).
package struct HookEvent: Sendable {
    /// `put`, `delete`, `compact`, `lease_grant` …
    package var type: String
    /// `REVISION.SUB`, or `TERM.INDEX` for events without a revision.
    package var id: String
    package var revision: Int64
    package var sub: Int64
    /// Seconds since 1970.
    package var time: Double
    /// `CLUSTER/MEMBER` in hex.
    package var source: String
    /// Put and delete: the key; put: the value and its metadata.
    package var keyValue: PluginKeyValue?
    package var previousValue: [UInt8]?
    package var reason: String?
    /// Other events.
    package var fields: [(String, LuaValue)] = []

    package init(type: String, id: String, revision: Int64, sub: Int64, time: Double, source: String) {
        self.type = type
        self.id = id
        self.revision = revision
        self.sub = sub
        self.time = time
        self.source = source
    }

    var luaValue: LuaValue {
        var pairs: [(String, LuaValue)] = [
            ("type", .text(type)), ("id", .text(id)), ("revision", .integer(revision)), ("sub", .integer(sub)),
            ("time", .number(time)), ("source", .text(source)),
        ]
        if let kv = keyValue {
            pairs.append(("key", .string(kv.key)))
            pairs.append(("mod_revision", .integer(kv.modRevision)))
            if type == "put" {
                pairs.append(("value", .string(kv.value)))
                pairs.append(("create_revision", .integer(kv.createRevision)))
                pairs.append(("version", .integer(kv.version)))
                pairs.append(("lease", .integer(kv.lease)))
            }
        }
        if let previousValue { pairs.append(("prev_value", .string(previousValue))) }
        if let reason { pairs.append(("reason", .text(reason))) }
        if !fields.isEmpty { pairs.append(("fields", .table(fields))) }
        return .table(pairs)
    }
}

/// What a plugin says about itself.
package struct PluginHealth: Sendable, Equatable {
    package let id: String
    package let isHealthy: Bool
    /// A critical plugin that is not healthy makes the node not ready.
    package let isCritical: Bool
    package let text: String
}

/// The hooks that run beside requests: audit, events, metrics, health. One VM for each binding that has one of them.
/// Confined to the thread that owns it, which may block on files.
package final class EventsPlugins {
    package let set: PluginSet
    private let scope: HookScope
    private let vms: [PluginVM?]
    /// The plugins with an `audit` hook, in the order in which they run.
    private let auditors: [Auditor]

    private struct Auditor {
        let plugin: LoadedPlugin
        let vm: PluginVM
        /// A record that it does not take refuses the request.
        let isRequired: Bool
        /// Stages and calls it is bound to, and whether more must be looked at.
        let decided: Bool
        let completed: Bool
        let rpcs: RPCSet
        let looksAtRequests: Bool

        init(_ plugin: LoadedPlugin, _ vm: PluginVM) {
            self.plugin = plugin
            self.vm = vm
            isRequired = plugin.needsRecord
            decided = plugin.match.stages?.contains(.decided) ?? true
            completed = plugin.match.stages?.contains(.completed) ?? true
            rpcs = plugin.auditRPCs
            looksAtRequests = plugin.looksAtRequests
        }

        func wants(_ entry: AuditEntry) -> Bool {
            guard entry.record.stage == .decided ? decided : completed, rpcs.contains(entry.record.request.rpc)
            else { return false }
            return !looksAtRequests || plugin.matches(entry.record.request.ops, entry.record.identity)
        }
    }

    /// Builds the VMs, which opens their sinks. Before replacing an ``EventsPlugins`` by one of a new set, call
    /// ``shutdown()`` on the old: a sink's file has one writer.
    ///
    /// - Throws: the first plugin whose VM cannot be built, say because its sink cannot be opened.
    package init(_ set: PluginSet, storeView: (any PluginStoreView)? = nil) throws(PluginError) {
        self.set = set
        let scope = HookScope(environment: set.environment, storeView: storeView)
        self.scope = scope
        var vms: [PluginVM?] = []
        for plugin in set.plugins {
            guard !plugin.hooks.isDisjoint(with: [.audit, .onEvent, .metricsCollect, .health]) else {
                vms.append(nil)
                continue
            }
            let vm = PluginVM(plugin, role: .events, scope: scope)
            do {
                try vm.build()
            } catch {
                throw PluginError(
                    location: plugin.binding.location, message: "plugin \"\(plugin.id)\" does not start: \(error.text)")
            }
            vms.append(vm)
        }
        self.vms = vms
        auditors = set.chain(.audit).compactMap { index in
            vms[index].map { Auditor(set.plugins[index], $0) }
        }
        precondition(auditors.count <= UInt64.bitWidth, "\(auditors.count) plugins with an audit hook")
    }

    // MARK: - Audit

    /// Whether a record was written by every plugin that must.
    package enum AuditOutcome: Sendable, Equatable {
        case written
        /// A required sink failed: refuse the request with FailedPrecondition and this text (stage *decided*), or count a
        /// gap (stage *completed*).
        case failed(text: String)
    }

    /// What came of one record so far: whether it is written shows with ``flushAudit()``.
    package struct AuditReceipt: Sendable {
        /// The required plugins that it was given to, a bit each.
        fileprivate var takers: UInt64 = 0
        fileprivate var problem: String?
        /// Nobody requires it: the outcome is `written` whatever happens.
        package var isOptional: Bool { takers == 0 && problem == nil }
    }

    /// Required plugins whose sink failed, with the text for those who wait.
    package struct AuditFlush: Sendable {
        fileprivate var failures: [(taker: UInt64, text: String)] = []

        package func outcome(_ receipt: AuditReceipt) -> AuditOutcome {
            let failure = failures.last { $0.taker & receipt.takers != 0 }
            return (failure?.text ?? receipt.problem).map { .failed(text: $0) } ?? .written
        }
    }

    /// Runs the `audit` hooks on a record.
    package func audit(_ entry: AuditEntry) -> AuditReceipt {
        var receipt = AuditReceipt()
        var isShown = false
        for a in auditors.indices where auditors[a].wants(entry) {
            // All hooks see the record through the same view: none of them can change it.
            if !isShown {
                show(entry)
                isShown = true
            }
            let problem = auditOne(auditors[a].plugin, auditors[a].vm)
            guard auditors[a].isRequired else { continue }
            receipt.takers |= 1 << UInt64(a)
            if let problem { receipt.problem = "plugin \(auditors[a].plugin.id): \(problem)" }
        }
        if isShown {
            // The entry is used again: nothing here may hold on to its memory.
            scope.record = nil
            scope.request.ops = []
        }
        return receipt
    }

    /// Writes out what the hooks wrote since the last time.
    package func flushAudit() -> AuditFlush {
        var flush = AuditFlush()
        for a in auditors.indices {
            do {
                try auditors[a].vm.flushSinks()
            } catch {
                auditors[a].plugin.log(.error, "audit sink failed", [("error", error.message)])
                guard auditors[a].isRequired else { continue }
                let text = "plugin \(auditors[a].plugin.id): the audit record cannot be written"
                flush.failures.append((1 << UInt64(a), text))
            }
        }
        return flush
    }

    /// Both for a batch. Outcomes are in the order of `records`.
    package func audit(_ records: [AuditEntry]) -> [AuditOutcome] {
        let receipts = records.map { audit($0) }
        let flush = flushAudit()
        return receipts.map(flush.outcome)
    }

    private func show(_ entry: AuditEntry) {
        scope.record = entry
        scope.request = entry.record.request
        scope.show(entry.record.identity)
        scope.setText(MOONRAFT_TEXT_ID, entry.record.id)
        scope.setText(MOONRAFT_TEXT_STAGE, entry.record.stage.rawValue)
        if !entry.record.message.isEmpty { scope.setText(MOONRAFT_TEXT_MESSAGE, entry.record.message) }
        scope.set(MOONRAFT_INT_TIME_MICROSECONDS, entry.record.microseconds)
        scope.set(MOONRAFT_INT_CODE, Int64(entry.record.code))
        scope.set(MOONRAFT_INT_ALLOWED, entry.record.isAllowed ? 1 : 0)
        scope.set(MOONRAFT_INT_RESULT_REVISION, entry.record.resultRevision)
        scope.set(MOONRAFT_INT_TERM, Int64(clamping: entry.record.term))
        scope.set(MOONRAFT_INT_INDEX, Int64(clamping: entry.record.index))
        scope.set(MOONRAFT_INT_HOOKS, entry.record.hooksMicroseconds)
        scope.set(MOONRAFT_INT_QUEUE, entry.record.queueMicroseconds)
        scope.set(MOONRAFT_INT_RAFT, entry.record.raftMicroseconds)
        scope.set(MOONRAFT_INT_APPLY, entry.record.applyMicroseconds)
        scope.set(MOONRAFT_INT_TOTAL, entry.record.totalMicroseconds)
    }

    /// Nil, or why the record was not taken.
    private func auditOne(_ plugin: LoadedPlugin, _ vm: PluginVM) -> String? {
        do {
            guard case .refused = try vm.call(.audit, face1: MOONRAFT_HANDLE_REC) else { return nil }
            vm.counters.denied(.audit)
            let text = vm.refusalText.isEmpty ? "not written" : vm.refusalText
            plugin.log(.error, "audit record not written", [("error", text)])
            return "the audit record cannot be written"
        } catch {
            return "the audit record cannot be written"
        }
    }

    // MARK: - Events

    /// The plugins that want events, in order: index into the set and binding id. The caller keeps a cursor for each.
    package var subscribers: [(index: Int, id: String)] {
        self.set.chain(.onEvent).map { (index: $0, id: set.plugins[$0].id) }
    }

    /// Delivers a batch to one plugin. Events that its prefixes leave out are not shown to it.
    ///
    /// - Returns: nil when it took the batch; else why not: deliver the same batch again later.
    package func deliver(_ batch: [HookEvent], to index: Int) -> String? {
        guard set.plugins.indices.contains(index), let vm = vms[index] else { return nil }
        let plugin = set.plugins[index]
        let wanted = batch.filter { event in
            guard let key = event.keyValue?.key, !plugin.prefixes.isEmpty else { return true }
            return plugin.prefixes.contains { KeyMatch.hasPrefix(key, $0) }
        }
        guard !wanted.isEmpty else { return nil }
        scope.forgetIdentity()
        do {
            let verdict = try vm.call(.onEvent, data: LuaEncoder.encode(.array(wanted.map(\.luaValue))))
            try vm.flushSinks()
            guard case .refused = verdict else { return nil }
            return vm.refusalText.isEmpty ? "refused" : vm.refusalText
        } catch let failure as PluginVM.Failure {
            do { try vm.flushSinks() } catch { return error.message }
            return failure.text
        } catch let failure as SinkError {
            return failure.message
        } catch {
            return "\(error)"
        }
    }

    // MARK: - Metrics, health, time

    /// Runs the `metrics_collect` hooks; the series are then in ``PluginSet/metricFamilies()``.
    package func collectMetrics() {
        for index in set.chain(.metricsCollect) {
            _ = try? vms[index]?.call(.metricsCollect)
            vms[index]?.reportMemory()
        }
    }

    /// Asks the `health` hooks.
    package func health() -> [PluginHealth] {
        set.chain(.health).map { index in
            let plugin = set.plugins[index]
            var text = ""
            var healthy = true
            do {
                if case .refused = try vms[index]?.call(.health) {
                    healthy = false
                    text = vms[index]?.refusalText ?? ""
                }
            } catch {
                healthy = false
                text = (error as? PluginVM.Failure)?.text ?? "\(error)"
            }
            return PluginHealth(id: plugin.id, isHealthy: healthy, isCritical: plugin.manifest.isCritical, text: text)
        }
    }

    /// Work by time for sinks: rotation by age, syncs by interval. Call about once a second.
    package func tick() {
        for vm in vms { vm?.tickSinks() }
    }

    /// Runs the `shutdown` hooks, writes out and closes the sinks; the object must not be used afterwards.
    package func shutdown() {
        for (plugin, vm) in zip(set.plugins, vms) {
            guard let vm else { continue }
            if plugin.hooks.contains(.shutdown) { _ = try? vm.call(.shutdown) }
            vm.close()
        }
    }

    /// Figures of the last call of a plugin's VM, for the test runner.
    func lastFigures(_ index: Int) -> (instructions: UInt64, nanoseconds: UInt64) {
        (vms[index]?.lastInstructions ?? 0, vms[index]?.lastNanoseconds ?? 0)
    }
}
