import Configuration
import Synchronization

/// One plugin loaded by a test, in the real sandbox, with fake clock, store and sinks.
final class PluginUnderTest {
    /// Most that any call of a hook took.
    struct Maximum {
        var calls = 0
        var instructions: UInt64 = 0
        var nanoseconds: UInt64 = 0
    }

    private let set: PluginSet
    private let loop: LoopPlugins
    private let worker: LoopPlugins
    private let events: EventsPlugins
    let store = FakeStore()
    let sinks = Sinks()
    let clock: TestClock
    let log: Log
    private(set) var maxima: [PluginHook: Maximum] = [:]

    final class TestClock: Sendable {
        private let time: Mutex<(now: Double, monotonic: Double)>
        init(_ now: Double) { time = Mutex((now, 1000)) }
        var now: Double { time.withLock { $0.now } }
        var monotonic: Double { time.withLock { $0.monotonic } }
        func advance(_ seconds: Double) {
            time.withLock { time in
                time.now += seconds
                time.monotonic += max(0, seconds)
            }
        }
    }

    final class Log: Sendable {
        private let entries = Mutex([PluginLogEntry]())
        func add(_ entry: PluginLogEntry) { entries.withLock { $0.append(entry) } }
        var all: [PluginLogEntry] { entries.withLock { $0 } }
    }

    final class Sinks: Sendable {
        private let lines = Mutex([String: MemorySink.Lines]())
        func at(_ path: String) -> MemorySink.Lines {
            lines.withLock { lines in
                if let known = lines[path] { return known }
                let new = MemorySink.Lines()
                lines[path] = new
                return new
            }
        }
    }

    /// Loads the package with the binding that `options` describe.
    init(_ package: PluginPackage, options: LuaValue, seed: UInt64) throws(PluginError) {
        let manifest = try PluginManifest(package)
        let toml = try Self.binding(manifest, package, options)
        let clock = TestClock(options["now"]?.number ?? 1_700_000_000)
        let log = Log()
        let sinks = sinks
        self.clock = clock
        self.log = log
        var environment = PluginEnvironment(configurationDirectory: package.directory, sinkDirectory: "")
        environment.clock = PluginClock(now: { clock.now }, monotonic: { clock.monotonic })
        environment.log = { log.add($0) }
        environment.openSink = { options throws(SinkError) in
            try MemorySink(options: options, target: sinks.at(options.path))
        }
        environment.hookPeriod = 1
        environment.seed = seed
        let bindings: [PluginBinding]
        do {
            let table = try TOMLDocument.parse(text: toml, file: "t.plugin")
            bindings = try PluginBinding.parse((table["plugin"]?.array ?? []).compactMap(\.table))
        } catch {
            throw PluginError(error)
        }
        set = try PluginSet(bindings: bindings, folder: "", environment: environment)
        if let pairs = options["kv"]?.pairs {
            for pair in pairs {
                guard let key = pair.key.bytes, let value = pair.value.bytes else {
                    throw PluginError(message: "t.plugin: kv maps strings to strings")
                }
                store.put(key, value)
            }
        }
        loop = LoopPlugins(set, storeView: store)
        worker = LoopPlugins(set, role: .worker, storeView: store)
        events = try EventsPlugins(set, storeView: store)
    }

    private static func binding(
        _ manifest: PluginManifest, _ package: PluginPackage, _ options: LuaValue
    ) throws(PluginError) -> String {
        guard let pairs = options.pairs else { throw PluginError(message: "t.plugin takes a table") }
        var toml = "[[plugin]]\nname = \(LuaText.quoted(manifest.name))\npath = \(LuaText.quoted(package.directory))\n"
        let tables = ["config", "match", "failure", "budget"]
        for pair in pairs {
            let key = pair.key.described
            switch key {
            case "id", "mode", "order", "allow_relax":
                toml += "\(key) = \(LuaText.toml(pair.value) ?? "\"\"")\n"
            case "now", "kv": break
            case _ where tables.contains(key): break
            default: throw PluginError(message: "t.plugin: unknown option \(key)")
            }
        }
        for key in tables {
            guard let value = options[key] else { continue }
            guard let inner = value.pairs else { throw PluginError(message: "t.plugin: \(key) must be a table") }
            toml += "[plugin.\(key)]\n"
            for pair in inner {
                let schema = key == "config" ? manifest.config.first { $0.name == pair.key.string }?.schema : nil
                var text = LuaText.toml(pair.value, schema)
                if key == "match", let pairs = pair.value.pairs, pairs.isEmpty { text = "[]" }
                guard let text else {
                    throw PluginError(message: "t.plugin: \(key).\(pair.key.described) cannot be written as TOML")
                }
                toml += "\(LuaText.quoted(pair.key.described)) = \(text)\n"
            }
        }
        return toml
    }

    private func note(_ hook: PluginHook, _ figures: (instructions: UInt64, nanoseconds: UInt64)) {
        var maximum = maxima[hook] ?? Maximum()
        maximum.calls += 1
        maximum.instructions = max(maximum.instructions, figures.instructions)
        maximum.nanoseconds = max(maximum.nanoseconds, figures.nanoseconds)
        maxima[hook] = maximum
    }

    // MARK: - Hooks

    func decide(_ hook: PluginHook, _ request: LuaValue, _ identity: LuaValue) throws(HostError) -> LuaValue {
        var request = try TestValues.request(request)
        let identity = try TestValues.identity(identity)
        loop.beginRequest()
        let decision: Decision
        var changed = false
        switch hook {
        case .authz: decision = loop.authorize(request, identity)
        case .admitMutate: (decision, changed) = loop.mutate(&request, identity)
        default: decision = loop.validate(request, identity)
        }
        let record = loop.records.last
        if record != nil && record?.verdict != .skipped { note(hook, loop.lastFigures(0)) }
        var pairs: [(String, LuaValue)] = [("ran", .boolean(record != nil && record?.verdict != .skipped))]
        switch decision {
        case .allow(let warnings):
            pairs.append(("verdict", .text("allow")))
            pairs.append(("warnings", .array(warnings.map { .text($0) })))
        case .deny(let code, let text):
            pairs.append(("verdict", .text("deny")))
            pairs.append(("code", .text(TestValues.name(code))))
            pairs.append(("text", .text(text)))
            pairs.append(("warnings", .array([])))
        }
        var annotations: [(String, LuaValue)] = []
        if let record {
            switch record.verdict {
            case .error: pairs.append(("error", .text(record.detail?.text ?? "failed")))
            case .deny, .wouldDeny: pairs.append(("reason", .text(record.detail?.text ?? "")))
            case .allow, .changed, .skipped: break
            }
            annotations = (record.detail?.annotations ?? []).map { ($0.name, .text($0.value)) }
        }
        pairs.append(("annotations", .table(annotations)))
        pairs.append(("changed", .boolean(changed)))
        if hook == .admitMutate { pairs.append(("request", TestValues.table(request))) }
        return .table(pairs)
    }

    func authenticate(_ credential: LuaValue, _ peer: LuaValue) throws(HostError) -> LuaValue {
        let request = try TestValues.credential(credential, peer)
        let owner: LoopPlugins
        if case .password = request.credential { owner = worker } else { owner = loop }
        owner.beginRequest()
        let outcome = owner.authenticate(request)
        note(.authn, owner.lastFigures(0))
        var pairs: [(String, LuaValue)] = []
        switch outcome {
        case .identity(let identity):
            pairs = [("verdict", .text("identity")), ("user", .text(identity.user))]
            pairs.append(("roles", .array(identity.roles.map { .text($0) })))
            if let expires = identity.expires { pairs.append(("expires", .number(expires))) }
        case .pass, .needsWorker: pairs = [("verdict", .text("pass"))]
        case .deny: pairs = [("verdict", .text("deny"))]
        }
        if let record = owner.records.last {
            let text = record.detail?.text ?? ""
            switch record.verdict {
            case .error: pairs.append(("error", .text(text)))
            case .deny, .wouldDeny: pairs.append(("text", .text(text)))
            case .allow, .changed, .skipped: break
            }
        }
        return .table(pairs)
    }

    func audit(_ value: LuaValue) throws(HostError) -> LuaValue {
        let record = try TestValues.record(value, now: clock.now)
        let plugin = set.plugins[0]
        let before = plugin.shared.hookFigures
        let outcome = events.audit([AuditEntry(record)]).first ?? .written
        note(.audit, events.lastFigures(0))
        switch outcome {
        case .failed(let text): return Self.result(text)
        case .written:
            // A best-effort sink that failed still shows in a test.
            let after = plugin.shared.hookFigures
            let index = Int(PluginHook.audit.rawValue) - 1
            let failed = after[index].errors != before[index].errors || after[index].denies != before[index].denies
            let sinkErrors = log.all.last {
                $0.message == "audit sink failed" || $0.message == "audit record not written"
                    || $0.message == "hook failed"
            }
            return Self.result(failed ? sinkErrors?.fields.last?.value ?? "failed" : nil)
        }
    }

    func deliver(_ batch: LuaValue) throws(HostError) -> LuaValue {
        guard let items = batch.items else { throw HostError("on_event takes an array of events") }
        var events: [HookEvent] = []
        for (i, item) in items.enumerated() { events.append(try TestValues.event(item, number: i, now: clock.now)) }
        let problem = self.events.deliver(events, to: 0)
        note(.onEvent, self.events.lastFigures(0))
        return Self.result(problem)
    }

    func collectMetrics() -> LuaValue {
        let index = Int(PluginHook.metricsCollect.rawValue) - 1
        let before = set.plugins[0].shared.hookFigures[index].errors
        events.collectMetrics()
        note(.metricsCollect, events.lastFigures(0))
        let failed = set.plugins[0].shared.hookFigures[index].errors != before
        return Self.result(failed ? log.all.last { $0.message == "hook failed" }?.fields.last?.value ?? "failed" : nil)
    }

    func health() -> LuaValue {
        let health = events.health().first
        note(.health, events.lastFigures(0))
        guard let health, !health.isHealthy else { return Self.result(nil) }
        return Self.result(health.text)
    }

    func shutdown() -> LuaValue {
        loop.shutdown()
        worker.shutdown()
        events.shutdown()
        return Self.result(nil)
    }

    /// The value of a series; a histogram gives its count and sum.
    func metric(_ name: String, _ labels: [String]) throws(HostError) -> [LuaValue] {
        let registry = set.plugins[0].metrics
        guard let index = registry.declarations.firstIndex(where: { $0.name == name }) else {
            throw HostError("the manifest declares no metric \(name)")
        }
        guard let value = registry.value(index, key: MetricRegistry.key(labels)) else { return [.null] }
        if registry.declarations[index].kind == .histogram {
            return [.integer(Int64(value.count)), .number(value.value)]
        }
        return [Int64(exactly: value.value).map { .integer($0) } ?? .number(value.value)]
    }

    static func result(_ problem: String?) -> LuaValue {
        .table([("ok", .boolean(problem == nil))] + (problem.map { [("error", .text($0))] } ?? []))
    }
}
