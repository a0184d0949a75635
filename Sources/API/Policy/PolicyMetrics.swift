// Series of plugins, and of their host (docs/plugin-api.md 10), as exposition text.

import Metrics
import Plugins

/// Builds the plugins' part of a scrape.
enum PolicyMetrics {
    static func text(_ set: PluginSet, _ thread: PluginThreadFigures) -> String {
        var out = Exposition()
        for family in set.metricFamilies() { append(family, to: &out) }
        for family in set.hostMetricFamilies() { append(family, to: &out) }
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
}
