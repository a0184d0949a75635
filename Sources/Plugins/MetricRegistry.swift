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
        var value = 0.0
        var counts: [UInt64] = []
        var count: UInt64 = 0
        let labels: [String]
    }

    private struct State {
        /// By metric, then by the labels' bytes, each ended by 0xff (which UTF-8 does not contain).
        var index: [[[UInt8]: Int]]
        var series: [[Series]]
        var dropped: UInt64 = 0
    }

    package let declarations: [MetricDeclaration]
    private let state: Mutex<State>

    package init(_ declarations: [MetricDeclaration]) {
        self.declarations = declarations
        var initial = State(index: declarations.map { _ in [:] }, series: declarations.map { _ in [] })
        // A metric without labels exists from the start, as 0.
        for (metric, declaration) in declarations.enumerated() where declaration.labels.isEmpty {
            initial.index[metric][[]] = 0
            initial.series[metric].append(Self.fresh(declaration, []))
        }
        state = Mutex(initial)
    }

    private static func fresh(_ declaration: MetricDeclaration, _ labels: [String]) -> Series {
        Series(counts: declaration.kind == .histogram ? [UInt64](repeating: 0, count: declaration.buckets.count + 1) : [],
            labels: labels)
    }

    enum Update { case add, set, observe }

    /// Changes one series; `key` is its labels as described at `State`.
    func update(_ metric: Int, _ update: Update, _ value: Double, key: [UInt8]) {
        let declaration = declarations[metric]
        state.withLock { state in
            let slot: Int
            if let known = state.index[metric][key] {
                slot = known
            } else if state.series[metric].count < declaration.maximumSeries {
                slot = state.series[metric].count
                state.index[metric][key] = slot
                state.series[metric].append(Self.fresh(declaration, Self.labels(key)))
            } else {
                state.dropped &+= 1
                slot = Self.overflow(metric, declaration, &state)
            }
            switch update {
            case .add: state.series[metric][slot].value += value
            case .set: state.series[metric][slot].value = value
            case .observe:
                let bucket = declaration.buckets.firstIndex { value <= $0 } ?? declaration.buckets.count
                state.series[metric][slot].counts[bucket] &+= 1
                state.series[metric][slot].count &+= 1
                state.series[metric][slot].value += value
            }
        }
    }

    private static func overflow(_ metric: Int, _ declaration: MetricDeclaration, _ state: inout State) -> Int {
        let labels = declaration.labels.map { _ in "other" }
        let key = Self.key(labels)
        if let known = state.index[metric][key] { return known }
        state.index[metric][key] = state.series[metric].count
        state.series[metric].append(fresh(declaration, labels))
        return state.series[metric].count - 1
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
        key.split(separator: 0xFF, omittingEmptySubsequences: false).dropLast().map { String(decoding: $0, as: UTF8.self) }
    }

    /// How often the series bound was hit.
    package var dropped: UInt64 { state.withLock { $0.dropped } }

    /// The value of a series (histogram: its sum and count), nil when there is none.
    func value(_ metric: Int, key: [UInt8]) -> (value: Double, count: UInt64)? {
        state.withLock { state in
            state.index[metric][key].map { (state.series[metric][$0].value, state.series[metric][$0].count) }
        }
    }

    /// All series, with the label `plugin` first; families in declared order, series in order of creation.
    package func families(plugin: String) -> [MetricFamily] {
        state.withLock { state in
            declarations.enumerated().map { metric, declaration in
                let samples = state.series[metric].map { series in
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
