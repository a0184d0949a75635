// Prometheus text exposition, format 0.0.4.

/// The type line of a metric family.
package enum MetricType: String, Sendable { case counter, gauge, histogram }

/// Builds one scrape. Families appear in the order they are written; a family's samples must be
/// written together, as the format demands.
package struct Exposition: Sendable {
    package private(set) var text = ""

    package init() { text.reserveCapacity(32 * 1024) }

    /// The content type to answer with.
    package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    /// Opens a family.
    package mutating func family(_ name: String, _ type: MetricType, _ help: String) {
        text += "# HELP \(name) \(Self.escapeHelp(help))\n# TYPE \(name) \(type.rawValue)\n"
    }

    /// One sample of the open family.
    package mutating func sample(
        _ name: String, labels: [(String, String)] = [], _ value: Double
    ) {
        text += name
        if !labels.isEmpty {
            text += "{"
            for (index, label) in labels.enumerated() {
                if index > 0 { text += "," }
                text += "\(label.0)=\"\(Self.escapeLabel(label.1))\""
            }
            text += "}"
        }
        text += " \(Self.number(value))\n"
    }

    /// A family with one unlabelled sample.
    package mutating func single(
        _ name: String, _ type: MetricType, _ help: String, _ value: Double
    ) {
        family(name, type, help)
        sample(name, value)
    }

    /// The samples of one histogram: cumulative buckets, sum and count.
    package mutating func histogram(
        _ name: String, labels: [(String, String)] = [], bounds: [Double], counts: [UInt64],
        sum: Double
    ) {
        var total: UInt64 = 0
        for (index, count) in counts.enumerated() {
            total &+= count
            let bound = index < bounds.count ? Self.number(bounds[index]) : "+Inf"
            sample("\(name)_bucket", labels: labels + [("le", bound)], Double(total))
        }
        sample("\(name)_sum", labels: labels, sum)
        sample("\(name)_count", labels: labels, Double(total))
    }

    /// A family with one unlabelled histogram.
    package mutating func histogram(_ name: String, _ help: String, _ histogram: DurationHistogram) {
        family(name, .histogram, help)
        let (counts, sum) = histogram.snapshot
        self.histogram(name, bounds: histogram.buckets.upperBounds, counts: counts, sum: sum)
    }

    /// Adds lines that are already in the format.
    package mutating func append(_ lines: String) { text += lines }

    /// A number as Prometheus prints it: integers without a fraction.
    package static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        if value == value.rounded() && value.magnitude < 1e15 { return String(Int64(value)) }
        return "\(value)"
    }

    static func escapeLabel(_ value: String) -> String {
        guard value.utf8.contains(where: { $0 == 0x5C || $0 == 0x22 || $0 == 0x0A }) else {
            return value
        }
        var out = ""
        for character in value.unicodeScalars {
            switch character {
            case "\\": out += "\\\\"
            case "\"": out += "\\\""
            case "\n": out += "\\n"
            default: out.unicodeScalars.append(character)
            }
        }
        return out
    }

    static func escapeHelp(_ value: String) -> String {
        var out = ""
        for character in value.unicodeScalars {
            switch character {
            case "\\": out += "\\\\"
            case "\n": out += "\\n"
            default: out.unicodeScalars.append(character)
            }
        }
        return out
    }
}
