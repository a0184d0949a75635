#if canImport(Glibc)
    import Glibc
#endif

/// The text forms of durations, sizes, numbers and truth values: how settings are written and printed.
package enum SettingText {
    /// Why a text is not a value; the caller says which setting it was for.
    package struct Problem: Error, Equatable, Sendable {
        package let message: String
    }

    // MARK: - Durations

    private static let durationUnits: [(name: String, nanoseconds: Int64)] = [
        ("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000),
        ("ms", 1_000_000), ("us", 1_000), ("µs", 1_000), ("μs", 1_000), ("ns", 1),
    ]

    /// Reads Go's form of a duration: one or more numbers, each with a unit, largest first by custom
    /// ("1h30m", "1.5s", "100ms"); "0" needs no unit.
    package static func duration(_ text: String) throws(Problem) -> Duration {
        let problem = Problem(
            message: "expected a duration such as \"100ms\", \"5s\" or \"1h30m\", found \"\(text)\"")
        if text == "0" { return .zero }
        var rest = Substring(text)
        guard !rest.isEmpty else { throw problem }
        var total: Int64 = 0
        while !rest.isEmpty {
            let digits = rest.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
            rest = rest.dropFirst(digits.count)
            let name = rest.prefix { !($0.isASCII && ($0.isNumber || $0 == ".")) }
            rest = rest.dropFirst(name.count)
            guard let unit = durationUnits.first(where: { $0.name == name }),
                let part = decimal(digits, times: unit.nanoseconds)
            else { throw problem }
            let (sum, overflow) = total.addingReportingOverflow(part)
            guard !overflow else { throw problem }
            total = sum
        }
        return .nanoseconds(total)
    }

    /// Prints a duration with the largest unit that needs no fraction.
    package static func text(_ duration: Duration) -> String {
        let nanoseconds = duration.wholeNanoseconds
        guard nanoseconds != 0 else { return "0s" }
        for unit in durationUnits where nanoseconds % unit.nanoseconds == 0 {
            return "\(nanoseconds / unit.nanoseconds)\(unit.name)"
        }
        return "\(nanoseconds)ns"
    }

    // MARK: - Sizes

    private static let sizeUnits: [(name: String, bytes: Int64)] = [
        ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1),
    ]

    /// Reads a number of bytes: plain ("1572864") or with a unit ("1.5MiB", "64 KiB", "2GB").
    package static func size(_ text: String) throws(Problem) -> Int {
        let digits = text.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        let name = text.dropFirst(digits.count).drop { $0 == " " }
        let bytes = name.isEmpty && !digits.contains(".") ? 1 : sizeUnits.first { $0.name == name }?.bytes
        guard let bytes, let value = decimal(digits, times: bytes) else {
            throw Problem(
                message: "expected a size such as \"64MiB\", \"1.5MiB\" or a number of bytes, found \"\(text)\"")
        }
        return Int(value)
    }

    /// Prints a size with the largest binary unit that needs at most one decimal.
    package static func text(size: Int) -> String {
        guard size != 0 else { return "0B" }
        for unit in sizeUnits.prefix(4) where size >= unit.bytes {
            let bytes = Int(unit.bytes)
            if size % bytes == 0 { return "\(size / bytes)\(unit.name)" }
            if bytes % 2 == 0 && size % (bytes / 2) == 0 && size < 1024 * bytes {
                return "\(size / bytes).5\(unit.name)"
            }
        }
        return "\(size)B"
    }

    // MARK: - Numbers and truth values

    /// Reads a decimal integer with an optional sign.
    package static func integer(_ text: String) throws(Problem) -> Int {
        guard let value = Int(text) else {
            throw Problem(message: "expected an integer, found \"\(text)\"")
        }
        return value
    }

    /// Reads a truth value in any of the forms that Go's flags take.
    package static func boolean(_ text: String) throws(Problem) -> Bool {
        switch text {
        case "1", "t", "T", "true", "TRUE", "True": return true
        case "0", "f", "F", "false", "FALSE", "False": return false
        default: throw Problem(message: "expected true or false, found \"\(text)\"")
        }
    }

    /// `digits` ("12", "1.5", ".5") times `factor`, exact or nil: no rounding, no overflow.
    private static func decimal(_ digits: Substring, times factor: Int64) -> Int64? {
        let parts = digits.split(separator: ".", omittingEmptySubsequences: false)
        guard digits.contains(where: { $0 != "." }), let whole = parts.first, parts.count <= 2 else { return nil }
        var result: Int64 = 0
        if !whole.isEmpty {
            guard let number = Int64(whole) else { return nil }
            let (product, overflow) = number.multipliedReportingOverflow(by: factor)
            guard !overflow else { return nil }
            result = product
        }
        guard parts.count == 2, let fraction = parts.last, !fraction.isEmpty else { return result }
        guard fraction.count <= 12, let number = Int64(fraction) else { return nil }
        var scale: Int64 = 1
        for _ in fraction { scale *= 10 }
        let (product, overflow) = number.multipliedReportingOverflow(by: factor)
        guard !overflow, product % scale == 0 else { return nil }
        let (sum, sumOverflow) = result.addingReportingOverflow(product / scale)
        return sumOverflow ? nil : sum
    }
}

extension Duration {
    /// The whole nanoseconds of this duration; settings are bounded far below where this could overflow.
    package var wholeNanoseconds: Int64 {
        let (seconds, attoseconds) = components
        return seconds &* 1_000_000_000 &+ attoseconds / 1_000_000_000
    }
}
