import Synchronization

/// One series of a metric as it is exposed.
package struct MetricSample: Sendable, Equatable {
    /// Label names and values in declared order.
    package var labels: [(name: String, value: String)]
    package var value: Double
    /// Histogram: cumulative counts per bucket (the last is all), with `value` the sum.
    package var buckets: [UInt64] = []

    package static func == (a: MetricSample, b: MetricSample) -> Bool {
        a.value == b.value && a.buckets == b.buckets && a.labels.elementsEqual(b.labels, by: ==)
    }
}

/// A metric with its series, ready to be exposed.
package struct MetricFamily: Sendable, Equatable {
    package var name: String
    package var kind: MetricDeclaration.Kind
    package var help: String
    /// Histogram: upper bounds of the buckets but the last.
    package var bounds: [Double] = []
    package var samples: [MetricSample]
}

/// The metrics that one plugin declares, shared by the VMs of a binding.
///
/// Bound: each metric's `max_series`; what would be one more is counted in a series whose labels are all
/// `other`.
package final class MetricRegistry: Sendable {
    static let maximumLabelBytes = 128

    private struct Series {
        /// The labels' bytes, each ended by 0xff (which UTF-8 does not contain).
        let key: [UInt8]
        let labels: [String]
        var value = 0.0
        var counts: [UInt64] = []
        var count: UInt64 = 0
    }

    private struct Metric {
        /// By the series' key.
        var index: [[UInt8]: Int] = [:]
        var series: [Series] = []
        /// The series changed last: a script mostly counts into the same one again and again.
        var latest = 0
    }

    private struct State {
        var metrics: [Metric]
        var dropped: UInt64 = 0
    }

    package let declarations: [MetricDeclaration]
    private let state: Mutex<State>

    package init(_ declarations: [MetricDeclaration]) {
        self.declarations = declarations
        // A metric without labels exists from the start, as 0.
        state = Mutex(
            State(
                metrics: declarations.map { declaration in
                    var metric = Metric()
                    if declaration.labels.isEmpty { _ = Self.append(declaration, key: [], labels: [], to: &metric) }
                    return metric
                }))
    }

    private static func append(
        _ declaration: MetricDeclaration, key: [UInt8], labels: [String], to metric: inout Metric
    ) -> Int {
        var series = Series(key: key, labels: labels)
        if declaration.kind == .histogram {
            series.counts = [UInt64](repeating: 0, count: declaration.buckets.count + 1)
        }
        metric.index[key] = metric.series.count
        metric.series.append(series)
        return metric.series.count - 1
    }

    enum Update { case add, set, observe }

    /// Changes one series; `key` is its labels as described at `Series`.
    func update(_ metric: Int, _ update: Update, _ value: Double, key: [UInt8]) {
        state.withLock { state in change(&state, metric, slot(metric, key, &state), update, value) }
    }

    /// The same for a series whose place is known from ``place(_:key:)``.
    func update(_ metric: Int, _ update: Update, _ value: Double, at place: Int) {
        state.withLock { state in change(&state, metric, place, update, value) }
    }

    /// Where a series is, which stays so: series are only ever added. Nil when the bound leaves no room for it; an
    /// update by its key then counts in the overflow series.
    func place(_ metric: Int, key: [UInt8]) -> Int? {
        state.withLock { state in
            let isKnown = state.metrics[metric].index[key] != nil
            guard isKnown || state.metrics[metric].series.count < declarations[metric].maximumSeries else { return nil }
            return slot(metric, key, &state)
        }
    }

    private func change(_ state: inout State, _ metric: Int, _ slot: Int, _ update: Update, _ value: Double) {
        switch update {
        case .add: state.metrics[metric].series[slot].value += value
        case .set: state.metrics[metric].series[slot].value = value
        case .observe:
            let buckets = declarations[metric].buckets
            var bucket = 0
            while bucket < buckets.count && !(value <= buckets[bucket]) { bucket += 1 }
            state.metrics[metric].series[slot].counts[bucket] &+= 1
            state.metrics[metric].series[slot].count &+= 1
            state.metrics[metric].series[slot].value += value
        }
    }

    private func slot(_ metric: Int, _ key: [UInt8], _ state: inout State) -> Int {
        let latest = state.metrics[metric].latest
        if latest < state.metrics[metric].series.count, state.metrics[metric].series[latest].key == key {
            return latest
        }
        let slot: Int
        if let known = state.metrics[metric].index[key] {
            slot = known
        } else if state.metrics[metric].series.count < declarations[metric].maximumSeries {
            slot = Self.append(declarations[metric], key: key, labels: Self.labels(key), to: &state.metrics[metric])
        } else {
            state.dropped &+= 1
            slot = Self.overflow(declarations[metric], &state.metrics[metric])
        }
        state.metrics[metric].latest = slot
        return slot
    }

    private static func overflow(_ declaration: MetricDeclaration, _ metric: inout Metric) -> Int {
        let labels = declaration.labels.map { _ in "other" }
        let key = Self.key(labels)
        return metric.index[key] ?? append(declaration, key: key, labels: labels, to: &metric)
    }

    static func key(_ labels: [String]) -> [UInt8] {
        var key: [UInt8] = []
        for label in labels {
            key.append(contentsOf: label.utf8)
            key.append(0xFF)
        }
        return key
    }

    private static func labels(_ key: [UInt8]) -> [String] {
        key.split(separator: 0xFF, omittingEmptySubsequences: false).dropLast().map {
            String(decoding: $0, as: UTF8.self)
        }
    }

    /// How often the series bound was hit.
    package var dropped: UInt64 { state.withLock { $0.dropped } }

    /// The value of a series (histogram: its sum and count), nil when there is none.
    func value(_ metric: Int, key: [UInt8]) -> (value: Double, count: UInt64)? {
        state.withLock { state in
            state.metrics[metric].index[key].map { slot in
                (state.metrics[metric].series[slot].value, state.metrics[metric].series[slot].count)
            }
        }
    }

    /// All series, with the label `plugin` first; families in declared order, series in order of creation.
    package func families(plugin: String) -> [MetricFamily] {
        state.withLock { state in
            declarations.enumerated().map { metric, declaration in
                let samples = state.metrics[metric].series.map { series in
                    var running: UInt64 = 0
                    let cumulative = series.counts.map { count in
                        running &+= count
                        return running
                    }
                    let labels = [("plugin", plugin)] + Array(zip(declaration.labels, series.labels))
                    return MetricSample(labels: labels, value: series.value, buckets: cumulative)
                }
                return MetricFamily(
                    name: "moonraft_\(declaration.name)", kind: declaration.kind, help: declaration.help,
                    bounds: declaration.buckets, samples: samples)
            }
        }
    }
}
