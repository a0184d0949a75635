// Series of plugins, and of their host (docs/plugin-api.md 10), as exposition text.

import Metrics
import Plugins

/// Builds the plugins' part of a scrape.
enum PolicyMetrics {
    static func text(_ set: PluginSet, _ thread: PluginThreadFigures) -> String {
        var out = Exposition()
        for family in set.metricFamilies() { append(family, to: &out) }
        host(set, &out)
        out.single(
            "moonraft_plugin_audit_dropped_total", .counter,
            "Best-effort audit records dropped because too many waited.",
            Double(thread.auditDropped))
        out.single(
            "moonraft_plugin_audit_gaps_total", .counter,
            "Completed requests whose required audit record could not be written.",
            Double(thread.auditGaps))
        out.single(
            "moonraft_plugin_event_retries_total", .counter,
            "Batches of events that a plugin did not take.", Double(thread.eventRetries))
        return out.text
    }

    private static func append(_ family: MetricFamily, to out: inout Exposition) {
        let type: MetricType
        switch family.kind {
        case .counter: type = .counter
        case .gauge: type = .gauge
        case .histogram: type = .histogram
        }
        out.family(family.name, type, family.help)
        for sample in family.samples {
            let labels = sample.labels.map { ($0.name, $0.value) }
            guard type == .histogram else {
                out.sample(family.name, labels: labels, sample.value)
                continue
            }
            // The registry's buckets are cumulative; exposition adds up by itself.
            var counts: [UInt64] = []
            var before: UInt64 = 0
            for count in sample.buckets {
                counts.append(count &- before)
                before = count
            }
            out.histogram(
                family.name, labels: labels, bounds: family.bounds, counts: counts,
                sum: sample.value)
        }
    }

    private static func host(_ set: PluginSet, _ out: inout Exposition) {
        let rows = set.plugins.map { plugin in (plugin, plugin.shared.hookFigures) }
        func family(
            _ name: String, _ help: String, _ value: (HookFigures) -> UInt64
        ) {
            out.family(name, .counter, help)
            for (plugin, figures) in rows {
                for hook in PluginHook.allCases where plugin.hooks.contains(hook) {
                    let index = Int(hook.rawValue) - 1
                    guard figures.indices.contains(index) else { continue }
                    out.sample(
                        name, labels: [("plugin", plugin.id), ("hook", hook.name)],
                        Double(value(figures[index])))
                }
            }
        }
        family("moonraft_plugin_calls_total", "Calls of a hook.") { $0.calls }
        family("moonraft_plugin_denies_total", "Requests that a hook denied.") { $0.denies }
        family("moonraft_plugin_warns_total", "Denials that did not count.") { $0.warns }
        family("moonraft_plugin_slow_calls_total", "Calls over 5 ms.") { $0.slow }
        family("moonraft_plugin_breaker_skips_total", "Calls skipped by the breaker.") { $0.skips }
        out.family("moonraft_plugin_errors_total", .counter, "Failed calls of a hook.")
        for (plugin, figures) in rows {
            for hook in PluginHook.allCases where plugin.hooks.contains(hook) {
                let index = Int(hook.rawValue) - 1
                guard figures.indices.contains(index) else { continue }
                for reason in HookFailure.allCases {
                    out.sample(
                        "moonraft_plugin_errors_total",
                        labels: [
                            ("plugin", plugin.id), ("hook", hook.name), ("reason", reason.name),
                        ],
                        Double(figures[index].errors[reason.rawValue]))
                }
            }
        }
        out.family("moonraft_plugin_duration_seconds", .histogram, "Time in a hook.")
        let bounds = HookFigures.bounds.map { Double($0) / 1e9 }
        for (plugin, figures) in rows {
            for hook in PluginHook.allCases where plugin.hooks.contains(hook) {
                let index = Int(hook.rawValue) - 1
                guard figures.indices.contains(index) else { continue }
                out.histogram(
                    "moonraft_plugin_duration_seconds",
                    labels: [("plugin", plugin.id), ("hook", hook.name)], bounds: bounds,
                    counts: figures[index].durations, sum: Double(figures[index].nanoseconds) / 1e9)
            }
        }
        perPlugin(rows.map(\.0), &out)
    }

    private static func perPlugin(_ plugins: [LoadedPlugin], _ out: inout Exposition) {
        func family(
            _ name: String, _ type: MetricType, _ help: String, _ value: (LoadedPlugin) -> Double
        ) {
            out.family(name, type, help)
            for plugin in plugins {
                out.sample(name, labels: [("plugin", plugin.id)], value(plugin))
            }
        }
        family("moonraft_plugin_vm_bytes", .gauge, "Memory of the plugin's machines.") {
            Double($0.shared.memoryBytes)
        }
        family("moonraft_plugin_vm_rebuilds_total", .counter, "Machines built anew.") {
            Double($0.shared.rebuilds)
        }
        family("moonraft_plugin_log_dropped_total", .counter, "Log lines over the rate.") {
            Double($0.shared.logDropped)
        }
        family("moonraft_plugin_sink_errors_total", .counter, "Failed writes of sinks.") {
            Double($0.shared.sinkErrors)
        }
        family("moonraft_plugin_series_dropped_total", .counter, "Samples over max_series.") {
            Double($0.metrics.dropped)
        }
        out.family("moonraft_plugin_info", .gauge, "What is loaded.")
        for plugin in plugins {
            out.sample(
                "moonraft_plugin_info",
                labels: [
                    ("plugin", plugin.id), ("name", plugin.manifest.name),
                    ("version", plugin.version), ("digest", plugin.package.digest),
                    ("mode", plugin.mode.rawValue),
                ], 1)
        }
    }
}
