// The host's own metrics about plugins (docs/plugin-api.md 10): calls, failures, denials and time by hook, memory, drops.

extension PluginSet {
    /// Families in a fixed order; a hook that never ran has no series but in `calls`, where bound hooks start at 0.
    package func hostMetricFamilies() -> [MetricFamily] {
        var calls = family("calls_total", .counter, "Calls of hooks.")
        var errors = family("errors_total", .counter, "Failed calls of hooks, by reason.")
        var denies = family("denies_total", .counter, "Denials and refusals that counted.")
        var warns = family("warns_total", .counter, "Denials that did not count, in modes warn and audit.")
        var slow = family("slow_calls_total", .counter, "Calls above the warning time.")
        var skips = family("breaker_skips_total", .counter, "Calls left out by an open circuit breaker.")
        var duration = family("duration_seconds", .histogram, "Time in hooks.")
        duration.bounds = HookFigures.bounds.map { Double($0) / 1e9 }
        var memory = family("vm_bytes", .gauge, "Memory of the VMs of a binding.")
        var rebuilds = family("vm_rebuilds_total", .counter, "VMs thrown away after a broken budget.")
        var logDropped = family("log_dropped_total", .counter, "Log lines above the rate.")
        var seriesDropped = family("series_dropped_total", .counter, "Updates that went to the overflow series.")
        var sinkErrors = family("sink_errors_total", .counter, "Failed writes of sinks.")
        var info = family("info", .gauge, "Bound plugins; always 1.")
        for plugin in plugins {
            let id = ("plugin", plugin.id)
            info.samples.append(
                MetricSample(
                    labels: [
                        id, ("name", plugin.manifest.name), ("version", plugin.version),
                        ("digest", plugin.package.digest),
                        ("mode", plugin.mode.rawValue),
                    ], value: 1))
            guard plugin.mode != .off else { continue }
            for (hook, figures) in zip(PluginHook.allCases, plugin.shared.hookFigures)
            where plugin.hooks.contains(hook) && hook != .initialize && hook != .shutdown {
                let labels = [id, ("hook", hook.name)]
                add(&calls, labels, figures.calls, always: true)
                add(&denies, labels, figures.denies)
                add(&warns, labels, figures.warns)
                add(&slow, labels, figures.slow)
                add(&skips, labels, figures.skips)
                for failure in HookFailure.allCases {
                    add(&errors, labels + [("reason", failure.name)], figures.errors[failure.rawValue])
                }
                guard figures.calls > 0 else { continue }
                var running: UInt64 = 0
                let buckets = figures.durations.map { count in
                    running &+= count
                    return running
                }
                duration.samples.append(
                    MetricSample(labels: labels, value: Double(figures.nanoseconds) / 1e9, buckets: buckets))
            }
            memory.samples.append(MetricSample(labels: [id], value: Double(plugin.shared.memoryBytes)))
            add(&rebuilds, [id], plugin.shared.rebuilds, always: true)
            add(&logDropped, [id], plugin.shared.logDropped, always: true)
            add(&seriesDropped, [id], plugin.metrics.dropped, always: true)
            add(&sinkErrors, [id], plugin.shared.sinkErrors, always: true)
        }
        return [
            calls, errors, denies, warns, slow, skips, duration, memory, rebuilds, logDropped, seriesDropped,
            sinkErrors, info,
        ]
    }

    private func family(_ name: String, _ kind: MetricDeclaration.Kind, _ help: String) -> MetricFamily {
        MetricFamily(name: "moonraft_plugin_\(name)", kind: kind, help: help, samples: [])
    }

    private func add(
        _ family: inout MetricFamily, _ labels: [(name: String, value: String)], _ value: UInt64, always: Bool = false
    ) {
        guard value > 0 || always else { return }
        family.samples.append(MetricSample(labels: labels, value: Double(value)))
    }
}

extension PluginSet {
    /// What `plugin status` shows of one binding.
    package struct Status: Sendable {
        package let id: String
        package let name: String
        package let version: String
        package let digest: String
        package let mode: PluginMode
        package let order: Int
        package let hooks: [String]
        package let calls: UInt64
        package let denies: UInt64
        package let errors: UInt64
        package let memoryBytes: Int
    }

    /// One entry for each binding, in file order.
    package func status() -> [Status] {
        plugins.map { plugin in
            let figures = plugin.shared.hookFigures
            return Status(
                id: plugin.id, name: plugin.manifest.name, version: plugin.version, digest: plugin.package.digest,
                mode: plugin.mode, order: plugin.order, hooks: plugin.manifest.hooks.hooks.map(\.name),
                calls: figures.reduce(0) { $0 &+ $1.calls }, denies: figures.reduce(0) { $0 &+ $1.denies },
                errors: figures.reduce(0) { $0 &+ $1.errors.reduce(0, &+) }, memoryBytes: plugin.shared.memoryBytes)
        }
    }
}
