import CLua

/// The part of loading that runs Lua: syntax of every file, the entry table against the manifest, `init`.
enum PluginCheck {
    static func run(_ plugin: LoadedPlugin) throws(PluginError) {
        try syntax(plugin.package, tests: false)
        guard plugin.mode != .off else { return }
        var roles: [VMRole] = []
        if !plugin.hooks.isDisjoint(with: .request) { roles.append(.request) }
        if !plugin.hooks.isDisjoint(with: [.audit, .onEvent, .metricsCollect, .health]) || roles.isEmpty {
            roles.append(.events)
        }
        for role in roles {
            let scope = HookScope(environment: plugin.environment, storeView: nil)
            let vm = PluginVM(plugin, role: role, scope: scope, isCheck: true)
            do {
                try vm.build()
            } catch {
                // A message of Lua starts with the file and line.
                throw PluginError(
                    location: plugin.binding.location, message: "plugin \"\(plugin.id)\" does not load: \(error.text)")
            }
            try hooks(plugin, vm.hookNames)
        }
    }

    private static func hooks(_ plugin: LoadedPlugin, _ names: [String]) throws(PluginError) {
        let file = "\(plugin.package.directory)/\(PluginManifest.fileName)"
        let declared = plugin.manifest.hooks.hooks.map(\.name)
        for name in names.sorted() where !declared.contains(name) {
            let message =
                PluginHook(name: name) == nil
                ? "\(plugin.manifest.entry) returns a function \"\(name)\", which is not a hook"
                : "\(plugin.manifest.entry) has the hook \"\(name)\", which hooks does not list"
            throw PluginError(file: file, message: message)
        }
        for name in declared where !names.contains(name) {
            throw PluginError(
                file: file, message: "hooks lists \"\(name)\", which \(plugin.manifest.entry) does not have")
        }
    }

    /// Compiles the Lua files of a package without running them.
    static func syntax(_ package: PluginPackage, tests: Bool) throws(PluginError) {
        var options = moonraft_vm_options()
        options.memory_bytes = 32 << 20
        options.hook_period = 100
        guard let vm = moonraft_vm_create(&options) else { throw PluginError(message: "out of memory") }
        defer { moonraft_vm_destroy(vm) }
        for file in package.files where file.path.hasSuffix(".lua") && (tests || !file.path.hasPrefix("tests/")) {
            let status = file.bytes.withUnsafeBufferPointer {
                moonraft_vm_check(vm, package.chunk(file), $0.baseAddress, $0.count)
            }
            guard status != MOONRAFT_OK.int32 else { continue }
            let outcome = moonraft_vm_outcome(vm).pointee
            let text = String(
                decoding: UnsafeBufferPointer(start: outcome.text, count: outcome.text_count), as: UTF8.self)
            throw PluginError(file: "\(package.directory)/\(file.path)", message: text)
        }
    }
}
