import CLua

/// The request hooks of one event loop (or of the worker that checks passwords): one VM for each binding, no
/// lock and no hop. Confined to its owner's thread.
///
/// For each request call ``beginRequest()``, then the stages in the order of docs/plugin-api.md 4; ``records``
/// then holds what was decided, for the audit record.
package final class LoopPlugins {
    package let set: PluginSet
    package let role: VMRole

    /// What was decided since ``beginRequest()``, in order.
    package private(set) var records: [DecisionRecord] = []

    private let scope: HookScope
    private let vms: [PluginVM?]
    /// By request hook, in the order in which they run.
    private let links: [[Link]]
    private let clock: PluginClock
    private var tokens = TokenCache()

    /// One hook of one plugin.
    private final class Link {
        let plugin: LoadedPlugin
        let vm: PluginVM
        let rpcs: RPCSet
        let isOpen: Bool
        /// Used when the hook's failure is open.
        var breaker = CircuitBreaker()

        init(_ plugin: LoadedPlugin, _ vm: PluginVM, _ hook: PluginHook) {
            self.plugin = plugin
            self.vm = vm
            rpcs = plugin.rpcs(hook)
            isOpen = plugin.failurePolicy(hook) == .open
        }
    }

    /// Builds the VMs. One whose `init` fails here, though it passed the check of the set, fails its calls by
    /// policy and is tried again.
    ///
    /// - Parameter storeView: what `kv.*` reads; held weakly.
    package init(_ set: PluginSet, role: VMRole = .request, storeView: (any PluginStoreView)? = nil) {
        precondition(role != .events, "request hooks do not run in the events VM")
        self.set = set
        self.role = role
        let scope = HookScope(environment: set.environment, storeView: storeView)
        self.scope = scope
        clock = set.environment.clock
        let vms = set.plugins.map { plugin -> PluginVM? in
            let hooks: HookSet = role == .worker ? .authn : .request
            guard !plugin.hooks.isDisjoint(with: hooks) else { return nil }
            let vm = PluginVM(plugin, role: role, scope: scope)
            do throws(PluginVM.Failure) {
                try vm.build()
            } catch {
                plugin.log(.error, "plugin VM cannot be built", [("error", error.text)])
            }
            return vm
        }
        self.vms = vms
        links = PluginHook.requestHooks.map { hook in
            set.chain(hook).compactMap { index in vms[index].map { Link(set.plugins[index], $0, hook) } }
        }
    }

    /// Forgets the records of the request before.
    package func beginRequest() {
        if !records.isEmpty { records.removeAll(keepingCapacity: true) }
    }

    /// Hands over the records; `memory` is used for those of the next request.
    package func takeRecords(_ memory: inout [DecisionRecord]) {
        swap(&records, &memory)
        records.removeAll(keepingCapacity: true)
    }

    // MARK: - Chains

    /// Runs the `authz` hooks. A denial is PermissionDenied with etcd's text; the plugin's is in ``records``.
    package func authorize(_ request: PluginRequest, _ identity: PluginIdentity) -> Decision {
        guard set.selects(request.rpc).contains(.authz) else { return .allow }
        return run(.authz, request, identity)
    }

    /// Runs the `admit_mutate` hooks, which may change the ops in place. When `changed` is true the caller checks
    /// the request again before the next stage.
    package func mutate(
        _ request: inout PluginRequest, _ identity: PluginIdentity
    ) -> (decision: Decision, changed: Bool) {
        guard set.selects(request.rpc).contains(.admitMutate) else { return (.allow, false) }
        scope.isChanged = false
        let decision = run(.admitMutate, request, identity)
        guard scope.isChanged, decision.isAllowed else { return (decision, false) }
        request.ops = scope.request.ops
        return (decision, true)
    }

    /// Runs the `admit_validate` hooks on the final ops.
    package func validate(_ request: PluginRequest, _ identity: PluginIdentity) -> Decision {
        guard set.selects(request.rpc).contains(.admitValidate) else { return .allow }
        return run(.admitValidate, request, identity)
    }

    private func run(_ hook: PluginHook, _ request: PluginRequest, _ identity: PluginIdentity) -> Decision {
        var warnings: [String] = []
        var isShown = false
        for link in links[Int(hook.rawValue - PluginHook.authn.rawValue)] {
            // What an earlier plugin changed decides whether a later one is asked.
            guard link.rpcs.contains(request.rpc),
                !link.plugin.looksAtRequests
                    || link.plugin.matches(
                        isShown ? scope.request.ops : request.ops, identity, anyKey: request.touchesUnknownKeys)
            else { continue }
            if !isShown {
                scope.request = request
                scope.show(identity)
                isShown = true
            }
            if let decision = runOne(hook, link, &warnings) { return decision }
        }
        return warnings.isEmpty ? .allow : .allow(warnings: warnings)
    }

    /// Nil: the chain goes on.
    private func runOne(_ hook: PluginHook, _ link: Link, _ warnings: inout [String]) -> Decision? {
        let plugin = link.plugin
        let vm = link.vm
        let isOpen = link.isOpen
        if isOpen && !link.breaker.allows(now: clock.monotonic()) {
            vm.counters.skipped(hook)
            note(plugin, hook, .skipped, vm: nil, text: "circuit breaker open")
            return nil
        }
        scope.clearNotes()
        let mayChange = hook == .admitMutate
        let before = mayChange ? scope.request.ops : []
        let changedBefore = scope.isChanged
        scope.isChanged = false
        var restores = false
        defer {
            if mayChange && restores && scope.isChanged {
                scope.request.ops = before
                scope.showOps()
                scope.isChanged = changedBefore
            } else {
                scope.isChanged = scope.isChanged || changedBefore
            }
        }
        do throws(PluginVM.Failure) {
            let verdict = try vm.call(hook, face1: MOONRAFT_HANDLE_REQ, face2: MOONRAFT_HANDLE_ID)
            if isOpen { link.breaker.succeeded() }
            guard case .refused = verdict else {
                restores = plugin.mode != .enforce
                if plugin.mode != .audit && !scope.warnings.isEmpty {
                    warnings.append(contentsOf: scope.warnings.map { "\(plugin.id): \($0)" })
                }
                note(plugin, hook, mayChange && scope.isChanged ? .changed : .allow, vm: vm)
                return nil
            }
            restores = true
            return try refused(hook, plugin, vm, &warnings)
        } catch {
            restores = true
            if isOpen { link.breaker.failed(now: clock.monotonic()) }
            note(plugin, hook, .error, vm: vm, text: "\(error.kind.name): \(error.text)")
            guard !isOpen, plugin.mode == .enforce else {
                if plugin.mode == .warn {
                    vm.counters.warned(hook)
                    warnings.append("\(plugin.id): policy could not be evaluated")
                }
                return nil
            }
            vm.counters.denied(hook)
            if hook == .authz { return .deny(code: .permissionDenied, text: Self.permissionDenied) }
            return .deny(
                code: .failedPrecondition, text: "plugin \(plugin.id): policy could not be evaluated")
        }
    }

    /// etcd's text for `PermissionDenied`; clients compare it.
    package static let permissionDenied = "etcdserver: permission denied"

    private func refused(
        _ hook: PluginHook, _ plugin: LoadedPlugin, _ vm: PluginVM, _ warnings: inout [String]
    ) throws(PluginVM.Failure) -> Decision? {
        let reason = vm.refusalText.isEmpty ? "denied" : vm.refusalText
        var code = DenyCode.invalidArgument
        if hook != .authz && !vm.refusalCode.isEmpty {
            let name = String(decoding: vm.refusalCode, as: UTF8.self)
            guard let known = DenyCode(name: Substring(name).utf8) else {
                throw PluginVM.Failure(kind: .result, text: "\"\(name)\" is not a code that a hook may use")
            }
            code = known
        }
        switch plugin.mode {
        case .enforce:
            vm.counters.denied(hook)
            note(plugin, hook, .deny, vm: vm, text: reason)
            if hook == .authz { return .deny(code: .permissionDenied, text: Self.permissionDenied) }
            return .deny(code: code, text: "plugin \(plugin.id): \(reason)")
        case .warn:
            vm.counters.warned(hook)
            warnings.append("\(plugin.id): \(reason)")
            plugin.log(.warning, "would deny", [("hook", hook.name), ("text", reason)])
            note(plugin, hook, .wouldDeny, vm: vm, text: reason)
            return nil
        case .audit, .off:
            vm.counters.warned(hook)
            note(plugin, hook, .wouldDeny, vm: vm, text: reason)
            return nil
        }
    }

    private func note(
        _ plugin: LoadedPlugin, _ hook: PluginHook, _ verdict: DecisionRecord.Verdict, vm: PluginVM?, text: String = ""
    ) {
        var detail: DecisionRecord.Detail?
        if !text.isEmpty || !scope.annotations.isEmpty {
            detail = DecisionRecord.Detail(text: text, annotations: scope.annotations)
        }
        records.append(
            DecisionRecord(
                plugin: plugin, hook: hook, verdict: verdict,
                microseconds: UInt32(clamping: (vm?.lastNanoseconds ?? 0) / 1000), detail: detail))
    }

    // MARK: - Authentication

    /// Asks the `authn` hooks in order. A password on an event loop answers `needsWorker`: bcrypt would hold the
    /// loop for tens of milliseconds.
    package func authenticate(_ request: AuthnRequest) -> AuthnOutcome {
        guard set.hasAuthn else { return .pass }
        var cacheKey: [UInt8]?
        scope.password = nil
        scope.token = nil
        switch request.credential {
        case .password(_, let password):
            guard role == .worker else { return .needsWorker }
            scope.password = password
        case .token(let token):
            let key = TokenCache.key(token, request)
            if let identity = tokens.find(key, now: clock.now()) { return .identity(identity) }
            cacheKey = key
            scope.token = token
        case .certificate: break
        }
        defer {
            scope.password = nil
            scope.token = nil
            scope.metadata = []
        }
        scope.metadata = request.metadata
        show(request)
        for link in links[0] {
            if let outcome = authenticateOne(link.plugin, link.vm, request, cacheKey) { return outcome }
        }
        return .pass
    }

    private func show(_ request: AuthnRequest) {
        scope.forgetIdentity()
        moonraft_view_reset(scope.view)
        scope.setText(MOONRAFT_TEXT_CN, request.commonName)
        scope.setText(MOONRAFT_TEXT_PEER, request.peer)
        scope.set(MOONRAFT_INT_TLS, request.isTLS ? 1 : 0)
        switch request.credential {
        case .password(let user, _):
            scope.setText(MOONRAFT_TEXT_CREDENTIAL, "password")
            scope.setText(MOONRAFT_TEXT_CREDENTIAL_USER, user)
            scope.set(MOONRAFT_INT_PASSWORD, Int64(SecretNumber.password))
        case .token:
            scope.setText(MOONRAFT_TEXT_CREDENTIAL, "token")
            scope.set(MOONRAFT_INT_TOKEN, Int64(SecretNumber.token))
        case .certificate: scope.setText(MOONRAFT_TEXT_CREDENTIAL, "certificate")
        }
    }

    private func authenticateOne(
        _ plugin: LoadedPlugin, _ vm: PluginVM, _ request: AuthnRequest, _ cacheKey: [UInt8]?
    ) -> AuthnOutcome? {
        let enforced = plugin.mode == .enforce
        scope.clearNotes()
        do throws(PluginVM.Failure) {
            switch try vm.call(.authn, face1: MOONRAFT_HANDLE_CRED, face2: MOONRAFT_HANDLE_PEER) {
            case .accepted: return nil
            case .refused:
                let text = vm.refusalText.isEmpty ? "refused" : vm.refusalText
                note(plugin, .authn, enforced ? .deny : .wouldDeny, vm: vm, text: text)
                guard enforced else {
                    vm.counters.warned(.authn)
                    return nil
                }
                vm.counters.denied(.authn)
                return .deny(text: "\(plugin.id): \(text)")
            case .table(let value):
                let (identity, cacheSeconds) = try Self.identity(value, request)
                let now = clock.now()
                if let expires = identity.expires, expires <= now {
                    throw PluginVM.Failure(kind: .result, text: "the identity has already expired")
                }
                note(plugin, .authn, .allow, vm: vm)
                guard enforced else { return nil }
                if let cacheKey, cacheSeconds > 0 {
                    tokens.keep(
                        cacheKey, identity, until: min(now + cacheSeconds, identity.expires ?? .infinity), now: now,
                        maximum: set.environment.limits.tokenCacheEntries)
                }
                return .identity(identity)
            }
        } catch {
            note(plugin, .authn, .error, vm: vm, text: "\(error.kind.name): \(error.text)")
            guard enforced else { return nil }
            vm.counters.denied(.authn)
            return .deny(text: "\(plugin.id): \(error.text)")
        }
    }

    private static func identity(
        _ value: LuaValue, _ request: AuthnRequest
    ) throws(PluginVM.Failure) -> (PluginIdentity, cacheSeconds: Double) {
        func bad(_ text: String) -> PluginVM.Failure { PluginVM.Failure(kind: .result, text: "authn's table: \(text)") }
        var user = ""
        var roles: [String] = []
        var expires: Double?
        var cache = 60.0
        for pair in value.pairs ?? [] {
            switch pair.key.string {
            case "user":
                guard let text = pair.value.string, text.utf8.count <= 256 else {
                    throw bad("user must be a string of at most 256 bytes")
                }
                user = text
            case "roles":
                guard let items = pair.value.items, items.count <= 64 else {
                    throw bad("roles must be an array of at most 64")
                }
                for item in items {
                    guard let role = item.string, role.utf8.count <= 256 else { throw bad("roles must be strings") }
                    roles.append(role)
                }
            case "expires":
                guard let number = pair.value.number, number.isFinite else { throw bad("expires must be a number") }
                expires = number
            case "cache":
                guard let number = pair.value.number, number >= 0 else {
                    throw bad("cache must be a number, not negative")
                }
                cache = min(number, 3600)
            default: throw bad("unknown field \(pair.key.described)")
            }
        }
        guard !user.isEmpty else { throw bad("user is missing") }
        let source: PluginIdentity.Source
        if case .certificate = request.credential { source = .certificate } else { source = .plugin }
        let identity = PluginIdentity(
            user: user, roles: roles, commonName: request.commonName, peer: request.peer, source: source,
            expires: expires)
        return (identity, cache)
    }

    // MARK: - End

    /// Runs the `shutdown` hooks; the object must not be used afterwards.
    package func shutdown() {
        for (plugin, vm) in zip(set.plugins, vms) {
            guard let vm, plugin.hooks.contains(.shutdown) else { continue }
            _ = try? vm.call(.shutdown)
        }
    }

    /// Publishes the VMs' memory for the gauges; call about once a second.
    package func reportMemory() {
        for vm in vms { vm?.reportMemory() }
    }

    /// Figures of the last call of a plugin's VM, for the test runner.
    func lastFigures(_ index: Int) -> (instructions: UInt64, nanoseconds: UInt64) {
        (vms[index]?.lastInstructions ?? 0, vms[index]?.lastNanoseconds ?? 0)
    }
}

/// Identities that plugins gave for tokens, so that a signature is not checked for each request. Keyed by the
/// token and the connection it came from, since a plugin may have looked at the peer.
struct TokenCache {
    private struct Entry {
        let identity: PluginIdentity
        let until: Double
    }

    private var entries: [[UInt8]: Entry] = [:]

    static func key(_ token: [UInt8], _ request: AuthnRequest) -> [UInt8] {
        token + [0] + request.peer.utf8 + [0] + request.commonName.utf8
    }

    func find(_ key: [UInt8], now: Double) -> PluginIdentity? {
        guard let entry = entries[key], entry.until > now else { return nil }
        return entry.identity
    }

    mutating func keep(_ key: [UInt8], _ identity: PluginIdentity, until: Double, now: Double, maximum: Int) {
        if entries.count >= maximum {
            entries = entries.filter { $0.value.until > now }
            // Still full: start over rather than search for the oldest on the hot path.
            if entries.count >= maximum { entries.removeAll(keepingCapacity: true) }
        }
        entries[key] = Entry(identity: identity, until: until)
    }
}
