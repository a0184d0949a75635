import CLua

/// What a VM is for; scripts see it as `plugin.vm`.
package enum VMRole: String, Sendable {
    /// On an event loop.
    case request
    /// On a thread that may block for tens of milliseconds: passwords.
    case worker
    /// On the thread of sinks, events and scrapes.
    case events
}

/// One Lua VM of one binding, confined to its owner's thread.
///
/// A VM whose call broke a budget may be half changed: it is thrown away and the next call builds a new one. While
/// building fails (`init` raises), calls fail at once and building is tried again each second.
final class PluginVM {
    struct Failure: Error {
        let kind: HookFailure
        let text: String
    }

    enum Verdict {
        case accepted
        case refused
        case table(LuaValue)
    }

    let plugin: LoadedPlugin
    let role: VMRole
    let scope: HookScope
    let counters = HookCounters()
    /// During the check of a set nothing outside the VM is touched: sinks are not opened.
    let isCheck: Bool

    private var handle: OpaquePointer?
    private var retryAt = 0.0
    private var buildFailure: Failure?
    private var isClosed = false

    // State of the handles that scripts hold.
    var sinks: [(options: SinkOptions, sink: (any PluginSink)?)] = []
    var keySets: [JWTKeySet] = []
    var bcryptCalls = 0
    /// The options of the last rec:json and the writer made from them.
    var recordOptions: [UInt8] = []
    var recordWriter: AuditRecordJSON?
    /// Forms of records that scripts write to sinks.
    var recordForms: [(sink: Int, writer: AuditRecordJSON)] = []
    /// Metrics that follow records.
    var recordCounter = RecordCounter()
    /// The labels of the metric that is counted, kept for its memory.
    var metricKey: [UInt8] = []
    /// Sinks with lines that are not flushed yet: a bit each.
    var dirtySinks: UInt64 = 0
    /// Set when lines were lost with a dropped VM; the next flush reports it.
    var lostLines: SinkError?

    /// Figures of the last call.
    private(set) var lastInstructions: UInt64 = 0
    private(set) var lastNanoseconds: UInt64 = 0
    /// The refusal's text and code, after a call that was refused.
    private(set) var refusalText = ""
    private(set) var refusalCode: [UInt8] = []

    init(_ plugin: LoadedPlugin, role: VMRole, scope: HookScope, isCheck: Bool = false) {
        self.plugin = plugin
        self.role = role
        self.scope = scope
        self.isCheck = isCheck
        plugin.shared.attach(counters)
    }

    deinit {
        closeSinks()
        moonraft_vm_destroy(handle)
        plugin.shared.detach(counters)
    }

    var vm: OpaquePointer? { handle }

    private func closeSinks() {
        for (_, sink) in sinks { sink?.close() }
        sinks.removeAll()
        dirtySinks = 0
    }

    // MARK: - Building

    /// Makes the VM ready: libraries, entry file, `init`.
    func build() throws(Failure) {
        guard handle == nil else { return }
        guard !isClosed else { throw Failure(kind: .lua, text: "the plugin has been shut down") }
        let now = plugin.environment.clock.monotonic()
        if let buildFailure, now < retryAt { throw buildFailure }
        do {
            try buildNow()
            buildFailure = nil
        } catch {
            drop()
            buildFailure = error
            retryAt = now + 1
            throw error
        }
    }

    private func buildNow() throws(Failure) {
        keySets.removeAll()
        sinks.removeAll()
        recordForms.removeAll()
        recordCounter = RecordCounter()
        var options = moonraft_vm_options()
        options.memory_bytes = plugin.memory
        options.seed = plugin.environment.seed
        options.hook_period = plugin.environment.hookPeriod
        options.functions = UnsafePointer(plugin.functions.baseAddress)
        options.function_count = Int32(plugin.functions.count)
        options.sources = plugin.sources
        options.host.context = Unmanaged.passUnretained(self).toOpaque()
        options.host.call = { context, id, arguments, count in
            guard let context else { return 1 }
            let vm = Unmanaged<PluginVM>.fromOpaque(context).takeUnretainedValue()
            return vm.hostCall(id, arguments, count)
        }
        options.host.value = { context, index in
            guard let context else { return }
            Unmanaged<PluginVM>.fromOpaque(context).takeUnretainedValue().returnValue(of: Int(index))
        }
        options.host.now = { context in
            guard let context else { return 0 }
            return Unmanaged<PluginVM>.fromOpaque(context).takeUnretainedValue().plugin.environment.clock.now()
        }
        guard let created = moonraft_vm_create(&options) else {
            throw Failure(kind: .memory, text: "the memory budget does not hold Lua's libraries")
        }
        handle = created
        try setGlobals(created)
        guard let entry = plugin.package.file(plugin.manifest.entry) else {
            throw Failure(kind: .lua, text: "no entry file")
        }
        let budget = plugin.budget(.initialize)
        let status = entry.bytes.withUnsafeBufferPointer {
            moonraft_vm_load(created, plugin.package.chunk(entry), $0.baseAddress, $0.count, 0, budget)
        }
        if status != MOONRAFT_OK.int32 { throw failure(status) }
        if moonraft_vm_has_hook(created, PluginHook.initialize.rawValue) != 0 {
            let status = plugin.configuration.withUnsafeBufferPointer {
                moonraft_vm_call(
                    created, PluginHook.initialize.rawValue, nil, 0, 0, $0.baseAddress, $0.count, budget)
            }
            if status != MOONRAFT_OK.int32 { throw failure(status) }
            if moonraft_vm_outcome(created).pointee.verdict == 1 {
                readRefusal(created)
                throw Failure(kind: .lua, text: refusalText.isEmpty ? "init refused the configuration" : refusalText)
            }
        }
        plugin.shared.memory(moonraft_vm_memory(created), of: counters)
    }

    private func setGlobals(_ vm: OpaquePointer) throws(Failure) {
        let about = LuaEncoder.encode(
            .table([
                ("id", .text(plugin.id)), ("name", .text(plugin.manifest.name)), ("version", .text(plugin.version)),
                ("vm", .text(role.rawValue)),
            ]))
        try setGlobal(vm, "plugin", about)
        if plugin.manifest.capabilities.contains(.metrics) {
            let metrics = plugin.manifest.metrics.enumerated().map { index, metric in
                (metric.name, LuaValue.handle(kind: MOONRAFT_HANDLE_METRIC.int32, number: Int32(index)))
            }
            try setGlobal(vm, "metric", LuaEncoder.encode(.table(metrics)))
        }
    }

    private func setGlobal(_ vm: OpaquePointer, _ name: String, _ bytes: [UInt8]) throws(Failure) {
        let status = bytes.withUnsafeBufferPointer { moonraft_vm_set_global(vm, name, $0.baseAddress, $0.count) }
        if status != MOONRAFT_OK.int32 { throw failure(status) }
    }

    /// Throws the VM away; the next call builds a new one. Lines of earlier calls are written out first.
    private func drop() {
        do { try flushSinks() } catch { lostLines = error }
        closeSinks()
        moonraft_vm_destroy(handle)
        handle = nil
    }

    /// Ends the VM for good: lines are written out, sinks closed.
    func close() {
        drop()
        isClosed = true
    }

    /// The names of the function fields of the entry table.
    var hookNames: [String] {
        guard let handle else { return [] }
        var names: [String] = []
        var name: UnsafePointer<CChar>?
        var index: Int32 = 0
        while moonraft_vm_hook_name(handle, index, &name) != 0 {
            if let name { names.append(String(cString: name)) }
            index += 1
        }
        return names
    }

    // MARK: - Calls

    /// Runs a hook. After a refusal ``refusalText`` and ``refusalCode`` hold what the script said.
    ///
    /// - Throws: why the call failed; the failure is counted, and a VM that broke a budget is dropped.
    func call(
        _ hook: PluginHook, face1: Int = 0, face2: Int = 0, data: [UInt8]? = nil
    ) throws(Failure) -> Verdict {
        if handle == nil {
            do {
                try build()
            } catch {
                counters.called(hook, nanoseconds: 0, slow: false, failure: error.kind)
                throw error
            }
        }
        guard let handle else { throw Failure(kind: .lua, text: "no VM") }
        bcryptCalls = 0
        let budget = plugin.budget(hook)
        let status: Int32
        if let data {
            status = data.withUnsafeBufferPointer {
                moonraft_vm_call(
                    handle, hook.rawValue, scope.view, face1.int32, face2.int32, $0.baseAddress, $0.count, budget)
            }
        } else {
            status = moonraft_vm_call(handle, hook.rawValue, scope.view, face1.int32, face2.int32, nil, 0, budget)
        }
        let outcome = moonraft_vm_outcome(handle).pointee
        lastInstructions = outcome.instructions
        lastNanoseconds = outcome.nanoseconds
        let slow = outcome.nanoseconds > plugin.environment.limits.slowNanoseconds && hook != .shutdown
        if status == MOONRAFT_OK.int32 {
            counters.called(hook, nanoseconds: outcome.nanoseconds, slow: slow, failure: nil)
            if slow { logSlow(hook, outcome.nanoseconds) }
            switch outcome.verdict {
            case 0: return .accepted
            case 1:
                readRefusal(handle)
                return .refused
            default:
                return .table(LuaDecoder.decode(UnsafeRawBufferPointer(start: outcome.data, count: outcome.data_count)))
            }
        }
        let failure = failure(status)
        counters.called(hook, nanoseconds: outcome.nanoseconds, slow: slow, failure: failure.kind)
        switch failure.kind {
        case .instructions, .time, .memory:
            drop()
            plugin.shared.rebuilt()
        case .lua, .result: break
        }
        plugin.log(
            .error, "hook failed", [("hook", hook.name), ("reason", failure.kind.name), ("error", failure.text)])
        throw failure
    }

    private func logSlow(_ hook: PluginHook, _ nanoseconds: UInt64) {
        if hook == .authn && bcryptCalls > 0 { return }
        if plugin.shared.mayLog(now: plugin.environment.clock.monotonic(), perSecond: 1) {
            plugin.log(.warning, "slow hook", [("hook", hook.name), ("microseconds", "\(nanoseconds / 1000)")])
        }
    }

    private func readRefusal(_ vm: OpaquePointer) {
        let outcome = moonraft_vm_outcome(vm).pointee
        refusalText = String(
            decoding: UnsafeBufferPointer(start: outcome.text, count: outcome.text_count), as: UTF8.self)
        refusalCode = Array(UnsafeBufferPointer(start: outcome.code, count: outcome.code_count))
    }

    private func failure(_ status: Int32) -> Failure {
        let kind: HookFailure
        switch status {
        case MOONRAFT_INSTRUCTIONS.int32: kind = .instructions
        case MOONRAFT_TIME.int32: kind = .time
        case MOONRAFT_MEMORY.int32: kind = .memory
        case MOONRAFT_BAD_RESULT.int32: kind = .result
        default: kind = .lua
        }
        guard let handle else { return Failure(kind: kind, text: "no VM") }
        let outcome = moonraft_vm_outcome(handle).pointee
        let text = String(decoding: UnsafeBufferPointer(start: outcome.text, count: outcome.text_count), as: UTF8.self)
        return Failure(kind: kind, text: text)
    }

    private func returnValue(of index: Int) {
        guard let handle else { return }
        guard scope.request.ops.indices.contains(index) else {
            moonraft_vm_return_nil(handle)
            return
        }
        scope.request.ops[index].value.withUnsafeBufferPointer {
            moonraft_vm_return_string(handle, $0.baseAddress, $0.count)
        }
    }

    /// Memory the VM uses now, for the gauge; called now and then, not for each request.
    func reportMemory() {
        if let handle { plugin.shared.memory(moonraft_vm_memory(handle), of: counters) }
    }
}
