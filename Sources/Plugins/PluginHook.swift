import CLua

/// A point at which the host calls into a plugin. Raw values are the VM's phases.
package enum PluginHook: Int32, CaseIterable, Sendable {
    case initialize = 1
    case shutdown = 2
    case authn = 3
    case authz = 4
    case admitMutate = 5
    case admitValidate = 6
    case audit = 7
    case onEvent = 8
    case metricsCollect = 9
    case health = 10

    /// The name of the Lua function, also used in manifests, metrics and audit records.
    package var name: String {
        switch self {
        case .initialize: "init"
        case .shutdown: "shutdown"
        case .authn: "authn"
        case .authz: "authz"
        case .admitMutate: "admit_mutate"
        case .admitValidate: "admit_validate"
        case .audit: "audit"
        case .onEvent: "on_event"
        case .metricsCollect: "metrics_collect"
        case .health: "health"
        }
    }

    package init?(name: String) {
        guard let hook = Self.allCases.first(where: { $0.name == name }) else { return nil }
        self = hook
    }

    /// Hooks that run on an event loop while a request waits.
    package static let requestHooks: [PluginHook] = [.authn, .authz, .admitMutate, .admitValidate]
    /// Hooks that run in the events VM.
    package static let eventHooks: [PluginHook] = [.audit, .onEvent, .metricsCollect, .health]
    /// Hooks whose failure policy may be `open`.
    static let mayOpen: [PluginHook] = [.admitMutate, .admitValidate, .audit]

    package var set: HookSet { HookSet(rawValue: 1 << UInt32(rawValue)) }
}

/// A set of hooks, or of phases in which a host function is legal.
package struct HookSet: OptionSet, Sendable, Hashable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package static let authn = PluginHook.authn.set
    package static let authz = PluginHook.authz.set
    package static let admitMutate = PluginHook.admitMutate.set
    package static let admitValidate = PluginHook.admitValidate.set
    package static let audit = PluginHook.audit.set
    package static let onEvent = PluginHook.onEvent.set
    package static let metricsCollect = PluginHook.metricsCollect.set
    package static let health = PluginHook.health.set

    static let load = HookSet(rawValue: 1 << UInt32(MOONRAFT_PHASE_LOAD))
    static let initialize = PluginHook.initialize.set
    static let shutdown = PluginHook.shutdown.set
    static let test = HookSet(rawValue: 1 << UInt32(MOONRAFT_PHASE_TEST))

    package static let request: HookSet = [.authn, .authz, .admitMutate, .admitValidate]
    package static let everything = HookSet(rawValue: (1 << UInt32(MOONRAFT_PHASES)) - 1)
    static let running = everything.subtracting(.load)
    static let reading: HookSet = [request, .audit, .onEvent, .metricsCollect, .health, .test]

    package func contains(_ hook: PluginHook) -> Bool { rawValue & hook.set.rawValue != 0 }

    /// The hooks in it, in order.
    package var hooks: [PluginHook] { PluginHook.allCases.filter(contains) }
}
