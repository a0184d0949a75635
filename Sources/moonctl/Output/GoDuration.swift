/// Lengths of time as Go writes them: `1m30s`, `1.892706ms`, `250µs`.
enum GoDuration {
    private static let units: [(name: String, nanoseconds: Int64)] = [
        ("ns", 1), ("us", 1000), ("µs", 1000), ("μs", 1000), ("ms", 1_000_000),
        ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000),
    ]

    static func parse(_ text: String) throws(ValueError) -> Duration {
        let invalid = ValueError(reason: "time: invalid duration \(GoText.quote(text))")
        var rest = Substring(text)
        let isNegative = rest.first == "-"
        if isNegative || rest.first == "+" { rest.removeFirst() }
        if rest == "0" { return .zero }
        if rest.isEmpty { throw invalid }
        var total = 0.0
        while !rest.isEmpty {
            let number = rest.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
            guard let value = Double(number.hasPrefix(".") ? "0" + number : number) else {
                throw invalid
            }
            rest = rest.dropFirst(number.count)
            let name = rest.prefix { !($0.isASCII && ($0.isNumber || $0 == ".")) }
            if name.isEmpty {
                throw ValueError(reason: "time: missing unit in duration \(GoText.quote(text))")
            }
            guard let unit = units.first(where: { $0.name == name }) else {
                throw ValueError(
                    reason: "time: unknown unit \(GoText.quote(String(name))) in duration "
                        + GoText.quote(text))
            }
            rest = rest.dropFirst(name.count)
            total += value * Double(unit.nanoseconds)
        }
        guard let nanoseconds = Int64(exactly: total.rounded()) else { throw invalid }
        return .nanoseconds(isNegative ? -nanoseconds : nanoseconds)
    }

    static func text(_ duration: Duration) -> String {
        let total = duration.nanoseconds
        if total == 0 { return "0s" }
        let sign = total < 0 ? "-" : ""
        let size = total.magnitude
        if size < 1000 { return "\(sign)\(size)ns" }
        if size < 1_000_000 { return sign + decimal(size, 1000) + "µs" }
        if size < 1_000_000_000 { return sign + decimal(size, 1_000_000) + "ms" }
        let seconds = decimal(size % 60_000_000_000, 1_000_000_000) + "s"
        let minutes = size / 60_000_000_000
        if minutes == 0 { return sign + seconds }
        return sign + (minutes >= 60 ? "\(minutes / 60)h" : "") + "\(minutes % 60)m" + seconds
    }

    private static func decimal(_ value: UInt64, _ unit: UInt64) -> String {
        var digits = GoText.padded(String(value % unit), String(unit).count - 1)
        while digits.last == "0" { digits.removeLast() }
        return "\(value / unit)" + (digits.isEmpty ? "" : "." + digits)
    }
}

extension Duration {
    /// Whole nanoseconds, at most about 292 years either way.
    var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let limit = Int64.max / 1_000_000_000 - 1
        return min(max(seconds, -limit), limit) * 1_000_000_000 + attoseconds / 1_000_000_000
    }
}
