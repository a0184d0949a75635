import CLua
import Synchronization

/// All plugins of a node, loaded and checked: immutable, shared by the loops, replaced as a whole by a reload.
package final class PluginSet: Sendable {
    /// Every binding in file order, those in mode `off` included.
    package let plugins: [LoadedPlugin]
    package let environment: PluginEnvironment

    /// Indices into `plugins` by hook, in the order in which they run.
    private let chains: [[Int]]
    /// By call: the request and audit hooks that any plugin has for it.
    private let hooksByRPC: [HookSet]
    /// By call: the prefixes of the plugins bound to it, with their hooks; hooks bound to every key are in `always`.
    private let matchers: [Matcher]

    /// By call: what ``auditNeeds(_:_:)`` answers for every request; nil where it depends on the request.
    private let fixedNeeds: [(decided: AuditNeed, completed: AuditNeed)?]

    private struct Matcher: Sendable {
        var always = HookSet()
        var prefixes: [(prefix: [UInt8], hooks: HookSet)] = []
    }

    /// A set without plugins.
    package init(environment: PluginEnvironment) {
        plugins = []
        self.environment = environment
        chains = PluginHook.allCases.map { _ in [] }
        hooksByRPC = RPCKind.allCases.map { _ in [] }
        matchers = RPCKind.allCases.map { _ in Matcher() }
        fixedNeeds = RPCKind.allCases.map { _ in (.none, .none) }
    }

    /// Loads and checks every binding: package, manifest, digest, configuration, syntax, declared hooks, `init`.
    ///
    /// - Parameters:
    ///   - folder: where packages without a path of their own are.
    ///   - previous: the set to be replaced; stores and series of the same ids are taken over.
    /// - Throws: the first thing that is wrong. Nothing outside the new set has changed then.
    package convenience init(
        bindings: [PluginBinding], folder: String, environment: PluginEnvironment, previous: PluginSet? = nil
    ) throws(PluginError) {
        guard bindings.count <= environment.limits.maximumBindings else {
            throw PluginError(
                location: bindings.last?.location,
                message: "more than \(environment.limits.maximumBindings) plugins are bound")
        }
        var packages: [String: (PluginPackage, PluginManifest)] = [:]
        var plugins: [LoadedPlugin] = []
        for binding in bindings {
            let path = binding.path ?? "\(folder)/\(binding.name)"
            let (package, manifest): (PluginPackage, PluginManifest)
            if let known = packages[path] {
                (package, manifest) = known
            } else {
                do {
                    package = try PluginPackage(directory: path)
                } catch  where error.file == path {
                    throw PluginError(
                        location: binding.table["path"]?.location ?? binding.location,
                        message: "plugin \"\(binding.id)\": \(error)")
                }
                manifest = try PluginManifest(package)
                packages[path] = (package, manifest)
            }
            guard manifest.name == binding.name else {
                throw PluginError(
                    location: binding.table["name"]?.location ?? binding.location,
                    message: "plugin.name: the package at \(path) is \"\(manifest.name)\"")
            }
            plugins.append(
                try LoadedPlugin(
                    binding, package: package, manifest: manifest, environment: environment,
                    previous: previous?.plugins.first { $0.id == binding.id }))
        }
        try Self.checkOrder(plugins)
        for plugin in plugins { try PluginCheck.run(plugin) }
        self.init(plugins: plugins, environment: environment)
    }

    private init(plugins: [LoadedPlugin], environment: PluginEnvironment) {
        self.plugins = plugins
        self.environment = environment
        chains = PluginHook.allCases.map { hook in
            plugins.indices.filter { plugins[$0].hooks.contains(hook) }.sorted {
                (plugins[$0].order, $0) < (plugins[$1].order, $1)
            }
        }
        fixedNeeds = RPCKind.allCases.map { rpc in
            let auditors = plugins.filter { $0.hooks.contains(.audit) && $0.auditRPCs.contains(rpc) }
            if auditors.contains(where: \.looksAtRequests) { return nil }
            func need(_ stage: AuditRecord.Stage) -> AuditNeed {
                let asked = auditors.filter { $0.match.stages?.contains(stage) ?? true }
                if asked.contains(where: \.needsRecord) { return .required }
                return asked.isEmpty ? .none : .bestEffort
            }
            return (need(.decided), need(.completed))
        }
        var hooksByRPC: [HookSet] = []
        var matchers: [Matcher] = []
        for rpc in RPCKind.allCases {
            var hooks = HookSet()
            var matcher = Matcher()
            for plugin in plugins {
                var own = HookSet()
                for hook in [PluginHook.authz, .admitMutate, .admitValidate, .audit]
                where plugin.hooks.contains(hook) && plugin.rpcs(hook).contains(rpc) {
                    own.insert(hook.set)
                }
                guard !own.isEmpty else { continue }
                hooks.formUnion(own)
                if plugin.prefixes.isEmpty { matcher.always.formUnion(own) }
                for prefix in plugin.prefixes { matcher.prefixes.append((prefix, own)) }
            }
            hooksByRPC.append(hooks)
            matchers.append(matcher)
        }
        self.hooksByRPC = hooksByRPC
        self.matchers = matchers
    }

    /// Plugins whose decisions depend on who runs first must say so.
    private static func checkOrder(_ plugins: [LoadedPlugin]) throws(PluginError) {
        for (i, plugin) in plugins.enumerated() {
            for other in plugins[..<i] where other.order == plugin.order {
                guard
                    let hook = PluginHook.requestHooks.first(where: {
                        plugin.hooks.contains($0) && other.hooks.contains($0)
                    })
                else { continue }
                throw PluginError(
                    location: plugin.binding.table["order"]?.location ?? plugin.binding.location,
                    message: "plugin.order: \"\(plugin.id)\" and \"\(other.id)\" both have order \(plugin.order) and "
                        + "the hook \(hook.name); give one of them another order")
            }
        }
    }

    // MARK: - Selection

    package var isEmpty: Bool { plugins.isEmpty }
    package var hasAuthn: Bool { !chain(.authn).isEmpty }

    /// Indices into ``plugins`` of those that have the hook, in the order in which they run.
    package func chain(_ hook: PluginHook) -> [Int] { chains[Int(hook.rawValue) - 1] }

    /// The hooks that any plugin has for this call, whatever its keys: one array read.
    @inline(__always)
    package func selects(_ rpc: RPCKind) -> HookSet { hooksByRPC[Int(rpc.rawValue)] }

    /// The hooks that may run for a call on one key or range. A hook that is not in it need not be asked; for
    /// transactions take the union over the operations.
    package func selects(_ rpc: RPCKind, key: [UInt8], rangeEnd: [UInt8]) -> HookSet {
        let hooks = hooksByRPC[Int(rpc.rawValue)]
        if hooks.isEmpty { return hooks }
        let matcher = matchers[Int(rpc.rawValue)]
        var found = matcher.always
        for entry in matcher.prefixes where !found.isSuperset(of: entry.hooks) {
            if KeyMatch.touches(key, rangeEnd, entry.prefix) { found.formUnion(entry.hooks) }
        }
        return found
    }

    /// The same for one key. Each put asks, so nothing is copied.
    package func selects(_ rpc: RPCKind, key: UnsafeRawBufferPointer) -> HookSet {
        var found = matchers[Int(rpc.rawValue)].always
        for i in matchers[Int(rpc.rawValue)].prefixes.indices {
            let hooks = matchers[Int(rpc.rawValue)].prefixes[i].hooks
            if found.isSuperset(of: hooks) { continue }
            if KeyMatch.hasPrefix(key, matchers[Int(rpc.rawValue)].prefixes[i].prefix) { found.formUnion(hooks) }
        }
        return found
    }

    /// Whether any hook may run for a call on one key or range. Nothing is copied for hooks that are bound to every key.
    package func selectsAny(_ rpc: RPCKind, key: UnsafeRawBufferPointer, rangeEnd: UnsafeRawBufferPointer) -> Bool {
        if hooksByRPC[Int(rpc.rawValue)].isEmpty { return false }
        if !matchers[Int(rpc.rawValue)].always.isEmpty { return true }
        return !selects(rpc, key: Array(key), rangeEnd: Array(rangeEnd)).isEmpty
    }

    /// Whether a record of this stage is wanted, and whether the request must wait for it.
    package enum AuditNeed: Sendable { case none, bestEffort, required }

    /// The needs of both stages. Where no audit hook of the call looks at keys or callers, they were found beforehand.
    package func auditNeeds(
        _ request: PluginRequest, _ identity: PluginIdentity
    ) -> (decided: AuditNeed, completed: AuditNeed) {
        if let known = fixedNeeds[Int(request.rpc.rawValue)] { return known }
        return (auditNeed(.decided, request, identity), auditNeed(.completed, request, identity))
    }

    package func auditNeed(_ stage: AuditRecord.Stage, _ request: PluginRequest, _ identity: PluginIdentity)
        -> AuditNeed
    {
        guard selects(request.rpc).contains(.audit) else { return .none }
        var need = AuditNeed.none
        for index in chain(.audit) {
            let plugin = plugins[index]
            guard plugin.wantsAudit(stage, request, identity) else { continue }
            if plugin.needsRecord { return .required }
            need = .bestEffort
        }
        return need
    }

    // MARK: - Figures

    /// Series of the plugins' own metrics, merged by name: two bindings of one package share a family.
    package func metricFamilies() -> [MetricFamily] {
        var families: [MetricFamily] = []
        for plugin in plugins where plugin.mode != .off {
            for family in plugin.metrics.families(plugin: plugin.id) {
                if let known = families.firstIndex(where: { $0.name == family.name && $0.kind == family.kind }) {
                    families[known].samples.append(contentsOf: family.samples)
                } else {
                    families.append(family)
                }
            }
        }
        return families
    }

    /// Pairs of id and digest, for the comparison between members and for status.
    package var digests: [(id: String, digest: String)] { plugins.map { ($0.id, $0.package.digest) } }
}

extension LoadedPlugin {
    /// Whether a record that this plugin does not take refuses the request.
    var needsRecord: Bool { mode == .enforce && failurePolicy(.audit) == .closed }

    /// Whether the binding is for some keys or callers only.
    var looksAtRequests: Bool { !prefixes.isEmpty || match.users != nil || match.roles != nil }

    func wantsAudit(_ stage: AuditRecord.Stage, _ request: PluginRequest, _ identity: PluginIdentity) -> Bool {
        if let stages = match.stages, !stages.contains(stage) { return false }
        return auditRPCs.contains(request.rpc) && matches(request.ops, identity)
    }
}

/// The set in use, swapped atomically. Loops compare `generation` and make new ``LoopPlugins`` when it changed.
package final class PluginSetHolder: Sendable {
    private let held: Mutex<PluginSet>
    /// Counts the swaps. Read for each request, hence no lock; changed after the set, so that who sees a new number
    /// gets the new set.
    private let swaps = Atomic<UInt64>(1)

    package init(_ set: PluginSet) { held = Mutex(set) }

    package var current: PluginSet { held.withLock { $0 } }
    package var generation: UInt64 { swaps.load(ordering: .acquiring) }

    /// Swaps in a set that is loaded and whose sinks are open.
    package func replace(_ new: PluginSet) {
        held.withLock { $0 = new }
        swaps.add(1, ordering: .releasing)
    }

    /// Loads a new set and swaps it in.
    ///
    /// - Throws: why the new set does not load; the old one stays in use.
    package func reload(
        bindings: [PluginBinding], folder: String, environment: PluginEnvironment
    ) throws(PluginError) -> PluginSet {
        let new = try PluginSet(bindings: bindings, folder: folder, environment: environment, previous: current)
        replace(new)
        return new
    }
}
