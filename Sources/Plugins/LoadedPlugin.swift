import CLua
import Configuration
import Synchronization

#if canImport(Glibc)
    import Glibc
#endif

/// State of a binding that outlives a reload: what its scripts stored, counted and have open.
package final class PluginSharedState: Sendable {
    let store = PluginStore()
    /// Counters of every VM that ran for this binding; those of VMs that are gone are folded into `past`.
    private let counters = Mutex(
        (
            live: [ObjectIdentifier: HookCounters](),
            past: [HookFigures](repeating: HookFigures(), count: PluginHook.allCases.count)
        ))
    private let figures = Mutex(Figures())
    private let logBucket = Mutex((tokens: -1.0, last: 0.0))

    struct Figures {
        var memory: [ObjectIdentifier: Int] = [:]
        var rebuilds: UInt64 = 0
        var logDropped: UInt64 = 0
        var sinkErrors: UInt64 = 0
    }

    init() {}

    func attach(_ counters: HookCounters) {
        self.counters.withLock { $0.live[ObjectIdentifier(counters)] = counters }
    }

    func detach(_ counters: HookCounters) {
        self.counters.withLock { state in
            counters.add(to: &state.past)
            state.live.removeValue(forKey: ObjectIdentifier(counters))
        }
        figures.withLock { _ = $0.memory.removeValue(forKey: ObjectIdentifier(counters)) }
    }

    /// Figures by hook, in the order of ``PluginHook``'s cases.
    package var hookFigures: [HookFigures] {
        counters.withLock { state in
            var total = state.past
            for counters in state.live.values { counters.add(to: &total) }
            return total
        }
    }

    func memory(_ bytes: Int, of counters: HookCounters) {
        figures.withLock { $0.memory[ObjectIdentifier(counters)] = bytes }
    }

    func rebuilt() { figures.withLock { $0.rebuilds &+= 1 } }
    func sinkFailed() { figures.withLock { $0.sinkErrors &+= 1 } }

    package var memoryBytes: Int { figures.withLock { $0.memory.values.reduce(0, +) } }
    package var rebuilds: UInt64 { figures.withLock { $0.rebuilds } }
    package var logDropped: UInt64 { figures.withLock { $0.logDropped } }
    package var sinkErrors: UInt64 { figures.withLock { $0.sinkErrors } }

    /// Whether one more log line may be written; `now` in monotonic seconds.
    func mayLog(now: Double, perSecond: Int) -> Bool {
        let allowed = logBucket.withLock { bucket in
            let full = Double(perSecond)
            if bucket.tokens < 0 { bucket = (full, now) }
            bucket.tokens = min(full, bucket.tokens + max(0, now - bucket.last) * full)
            bucket.last = now
            guard bucket.tokens >= 1 else { return false }
            bucket.tokens -= 1
            return true
        }
        if !allowed { figures.withLock { $0.logDropped &+= 1 } }
        return allowed
    }
}

/// A package bound once, checked: everything that its VMs need and that never changes while the set is loaded.
///
/// `@unchecked Sendable`: the C tables behind the pointers are written in `init` and freed in `deinit`, and
/// only read in between; `hooks` changes while the set is checked, before anyone else knows the object; the rest is
/// immutable or locked.
package final class LoadedPlugin: @unchecked Sendable {
    package let id: String
    package let manifest: PluginManifest
    package let binding: PluginBinding
    package let package: PluginPackage
    package let mode: PluginMode
    package let order: Int
    package let match: PluginMatch
    package let instructions: UInt64
    package let nanoseconds: UInt64
    package let memory: Int
    package let shared: PluginSharedState
    package let metrics: MetricRegistry
    package let environment: PluginEnvironment

    /// Hooks that run at all: none in mode `off`, none that `init` said it does not need.
    package private(set) var hooks: HookSet
    /// Hooks that a configuration may make needless. Whether a plugin checks credentials or writes records is told by
    /// its binding alone.
    static let skippable: HookSet = [.authz, .admitMutate, .admitValidate]
    private let openHooks: HookSet
    /// The configuration as `init` gets it, encoded.
    let configuration: [UInt8]
    let secrets: [[UInt8]]
    let files: [ConfiguredFile]
    let keySets: Mutex<KeySetCache>
    /// The host functions that this plugin's capabilities give it.
    let functions: UnsafeMutableBufferPointer<moonraft_function>
    let sources: OpaquePointer
    let prefixes: [[UInt8]]
    private let authzRPCs: RPCSet
    private let admissionRPCs: RPCSet
    let auditRPCs: RPCSet

    package var version: String { manifest.version }

    /// Checks a binding against its package.
    ///
    /// - Parameter previous: the binding with this id in the set that is to be replaced. Its store, counters and
    ///   sinks are taken over, its series as well unless the declarations changed.
    /// - Throws: the place of what does not fit.
    init(
        _ binding: PluginBinding, package: PluginPackage, manifest: PluginManifest, environment: PluginEnvironment,
        previous: LoadedPlugin?
    ) throws(PluginError) {
        id = binding.id
        self.binding = binding
        self.package = package
        self.manifest = manifest
        self.environment = environment
        mode = binding.mode
        order = binding.order ?? manifest.priority
        match = manifest.match.overridden(by: binding.match)
        prefixes = (match.prefixes ?? []).contains([]) ? [] : match.prefixes ?? []
        authzRPCs = (match.rpcs ?? .all).subtracting(RPCSet(.authenticate))
        admissionRPCs = match.rpcs.map { $0.intersection(.admissible) } ?? .writes
        auditRPCs = match.rpcs ?? .all
        hooks = binding.mode == .off ? [] : manifest.hooks
        do {
            try Self.check(binding, manifest, match, environment.limits)
            openHooks = try Self.openHooks(binding, manifest)
            let budget = manifest.budget.overridden(by: binding.budget)
            let limits = environment.limits
            func place(_ key: String) -> ConfigurationError {
                let table = binding.table["budget"]?.table
                return ConfigurationError(
                    location: table?[key]?.location ?? binding.location,
                    message: "plugin.budget.\(key) of \"\(binding.id)\"")
            }
            instructions = budget.instructions ?? limits.defaultInstructions
            guard instructions <= limits.maximumInstructions else {
                throw ConfigurationError(
                    location: place("instructions").location,
                    message: "\(place("instructions").message): at most \(limits.maximumInstructions)")
            }
            nanoseconds = budget.nanoseconds ?? limits.defaultNanoseconds
            guard nanoseconds <= limits.maximumNanoseconds else {
                throw ConfigurationError(
                    location: place("time").location,
                    message: "\(place("time").message): at most \(limits.maximumNanoseconds / 1_000_000)ms")
            }
            memory = budget.memory ?? limits.defaultMemory
            guard (limits.minimumMemory...limits.maximumMemory).contains(memory) else {
                throw ConfigurationError(
                    location: place("memory").location,
                    message: "\(place("memory").message): from \(SettingText.text(size: limits.minimumMemory)) to "
                        + SettingText.text(size: limits.maximumMemory))
            }
            var values = ConfigValues(directory: environment.configurationDirectory)
            let location = binding.config?.location ?? binding.location
            let config = try ConfigSchema.read(
                fields: manifest.config, reader: binding.config.map { TOMLReader($0, path: "plugin.config") },
                location: location, into: &values)
            configuration = LuaEncoder.encode(config)
            secrets = values.secrets
            files = values.files
        } catch let error as ConfigurationError {
            throw PluginError(error)
        } catch {
            throw PluginError(message: "\(error)")
        }
        if let digest = binding.digest, digest != package.digest {
            throw PluginError(
                location: binding.table["digest"]?.location ?? binding.location,
                message: "plugin.digest: \(package.directory) has the digest \(package.digest)")
        }
        shared = previous?.shared ?? PluginSharedState()
        let series = previous.flatMap { $0.metrics.declarations == manifest.metrics ? $0.metrics : nil }
        metrics = series ?? MetricRegistry(manifest.metrics)
        keySets = Mutex(KeySetCache())
        functions = HostFunction.table(for: manifest.capabilities, driver: false)
        sources = Self.sources(package)
    }

    deinit {
        functions.deallocate()
        moonraft_sources_destroy(sources)
    }

    private static func sources(_ package: PluginPackage) -> OpaquePointer {
        guard let sources = moonraft_sources_create() else { preconditionFailure("out of memory for plugin sources") }
        for (module, file) in package.modules {
            file.bytes.withUnsafeBufferPointer {
                moonraft_sources_add(sources, module, package.chunk(file), $0.baseAddress, $0.count)
            }
        }
        return sources
    }

    private static func check(
        _ binding: PluginBinding, _ manifest: PluginManifest, _ match: PluginMatch, _ limits: PluginLimits
    ) throws(ConfigurationError) {
        let matchTable = binding.table["match"]?.table
        func place(_ key: String) -> TOMLLocation { matchTable?[key]?.location ?? binding.location }
        if let prefixes = match.prefixes, prefixes.count > limits.maximumPrefixes {
            throw ConfigurationError(
                location: place("prefixes"),
                message: "plugin.match.prefixes: more than \(limits.maximumPrefixes) prefixes")
        }
        let admission: HookSet = [.admitMutate, .admitValidate]
        if let rpcs = match.rpcs, !manifest.hooks.isDisjoint(with: admission),
            manifest.hooks.isDisjoint(with: [.authz, .audit]),
            !rpcs.isSubset(of: .admissible)
        {
            let wrong = RPCKind.allCases.first { rpcs.contains($0) && !RPCSet.admissible.contains($0) }
            throw ConfigurationError(
                location: place("rpcs"),
                message: "plugin.match.rpcs: \(wrong.map { "\($0.name)" } ?? "") does not pass the admission hooks")
        }
    }

    private static func openHooks(
        _ binding: PluginBinding, _ manifest: PluginManifest
    ) throws(ConfigurationError) -> HookSet {
        var open = HookSet()
        for hook in PluginHook.mayOpen {
            let asked = manifest.failure[hook] ?? .closed
            let bound = binding.failure[hook] ?? asked
            if bound == .open && asked == .closed && !binding.allowsRelaxing {
                let table = binding.table["failure"]?.table
                throw ConfigurationError(
                    location: table?[hook.name]?.location ?? binding.location,
                    message: "plugin.failure.\(hook.name): the manifest says closed; set allow_relax = true to open it")
            }
            if bound == .open { open.insert(hook.set) }
        }
        return open
    }

    /// Leaves out a hook for good. For the check of a set only.
    func skip(_ hook: PluginHook) { hooks.subtract(hook.set) }

    package func failurePolicy(_ hook: PluginHook) -> FailurePolicy { openHooks.contains(hook) ? .open : .closed }

    func budget(_ hook: PluginHook) -> moonraft_budget {
        switch hook {
        case .initialize, .shutdown:
            moonraft_budget(
                instructions: instructions &* environment.limits.initializationFactor,
                nanoseconds: max(1_000_000_000, nanoseconds))
        default: moonraft_budget(instructions: instructions, nanoseconds: nanoseconds)
        }
    }

    /// The calls for which a hook runs.
    package func rpcs(_ hook: PluginHook) -> RPCSet {
        switch hook {
        case .authz: authzRPCs
        case .admitMutate, .admitValidate: admissionRPCs
        case .audit: auditRPCs
        default: []
        }
    }

    /// Whether keys, user and role of a request are those this binding is for. The call is not looked at.
    ///
    /// - Parameter anyKey: the request may touch any key, named in no operation.
    func matches(_ ops: [PluginOp], _ identity: PluginIdentity, anyKey: Bool = false) -> Bool {
        if !prefixes.isEmpty && !anyKey
            && !ops.contains(where: { op in prefixes.contains { KeyMatch.touches(op.key, op.rangeEnd, $0) } })
        {
            return false
        }
        guard match.users != nil || match.roles != nil else { return true }
        if let users = match.users, !identity.user.isEmpty, users.contains(identity.user) { return true }
        if let roles = match.roles, identity.roles.contains(where: roles.contains) { return true }
        return false
    }

    func log(_ level: PluginLogEntry.Level, _ message: String, _ fields: [(name: String, value: String)] = []) {
        environment.log(PluginLogEntry(plugin: id, level: level, message: message, fields: fields))
    }
}

/// Prefixes against keys and ranges. The rules are those of `range_touches` in CLua.
enum KeyMatch {
    static func touches(_ key: [UInt8], _ rangeEnd: [UInt8], _ prefix: [UInt8]) -> Bool {
        if hasPrefix(key, prefix) { return true }
        if rangeEnd.isEmpty || prefix.lexicographicallyPrecedes(key) { return false }
        return rangeEnd == [0] || prefix.lexicographicallyPrecedes(rangeEnd)
    }

    /// Whether every key of the range lies below the prefix, as `range_within` in CLua.
    static func within(_ key: [UInt8], _ rangeEnd: [UInt8], _ prefix: [UInt8]) -> Bool {
        guard hasPrefix(key, prefix) else { return false }
        if rangeEnd.isEmpty || prefix.isEmpty { return true }
        if rangeEnd == [0] { return prefix.allSatisfy { $0 == 0xFF } }
        let bound = PluginVM.successor(prefix)
        return bound == [0] || !bound.lexicographicallyPrecedes(rangeEnd)
    }

    static func hasPrefix(_ key: [UInt8], _ prefix: [UInt8]) -> Bool {
        key.withUnsafeBytes { hasPrefix($0, prefix) }
    }

    static func hasPrefix(_ key: UnsafeRawBufferPointer, _ prefix: [UInt8]) -> Bool {
        guard key.count >= prefix.count else { return false }
        return prefix.withUnsafeBytes { prefix in
            guard let a = key.baseAddress, let b = prefix.baseAddress else { return prefix.isEmpty }
            return memcmp(a, b, prefix.count) == 0
        }
    }
}
