/// One flag: its names, its value when not given, and what help says of it.
struct Flag: Sendable {
    /// A value, and by its case the kind of the flag.
    enum Value: Sendable, Equatable {
        case bool(Bool)
        case integer(Int64)
        case text([UInt8])
        case duration(Duration)
        /// Parts joined by commas; a flag given twice appends.
        case list([String])
    }

    let name: String
    var short: Character?
    let initial: Value
    let help: String

    init(_ name: String, short: Character? = nil, _ initial: Value, _ help: String) {
        self.name = name
        self.short = short
        self.initial = initial
        self.help = help
    }

    static func bool(_ name: String, short: Character? = nil, _ help: String) -> Flag {
        Flag(name, short: short, .bool(false), help)
    }

    static func text(_ name: String, _ initial: String = "", _ help: String) -> Flag {
        Flag(name, .text(Array(initial.utf8)), help)
    }

    static func integer(_ name: String, _ help: String) -> Flag { Flag(name, .integer(0), help) }

    var isBool: Bool { if case .bool = initial { true } else { false } }

    /// `--limit`, or `-w, --write-out`, as messages name the flag.
    var label: String { short.map { "-\($0), --\(name)" } ?? "--\(name)" }

    /// The value that `bytes` spell for this flag; the error is the reason, in Go's words.
    func parse(_ bytes: [UInt8]) throws(ValueError) -> Value {
        let text = String(decoding: bytes, as: UTF8.self)
        switch initial {
        case .bool:
            switch text {
            case "1", "t", "T", "true", "TRUE", "True": return .bool(true)
            case "0", "f", "F", "false", "FALSE", "False": return .bool(false)
            default: throw .syntax("strconv.ParseBool", text)
            }
        case .integer: return .integer(try GoNumber.integer(text))
        case .text: return .text(bytes)
        case .duration: return .duration(try GoDuration.parse(text))
        case .list: return .list(text.isEmpty ? [] : Self.parts(text))
        }
    }

    private static func parts(_ text: String) -> [String] {
        text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
    }
}

/// A value that a flag does not take.
struct ValueError: Error {
    let reason: String

    static func syntax(_ function: String, _ text: String) -> ValueError {
        ValueError(reason: "\(function): parsing \(GoText.quote(text)): invalid syntax")
    }

    static func range(_ function: String, _ text: String) -> ValueError {
        ValueError(reason: "\(function): parsing \(GoText.quote(text)): value out of range")
    }
}

/// Whole numbers as Go's strconv.ParseInt reads them.
enum GoNumber {
    /// A signed 64-bit number. Base 0 takes it from the prefix: 0x, 0o or 0, 0b, else decimal.
    static func integer(_ text: String, base: Int = 0) throws(ValueError) -> Int64 {
        let function = "strconv.ParseInt"
        var digits = Substring(text)
        let isNegative = digits.first == "-"
        if isNegative || digits.first == "+" { digits = digits.dropFirst() }
        var radix = base
        if base == 0 {
            radix = 10
            let lower = digits.lowercased()
            for (prefix, value) in [("0x", 16), ("0o", 8), ("0b", 2)] where lower.hasPrefix(prefix) {
                radix = value
                digits = digits.dropFirst(2)
            }
            if radix == 10, digits.count > 1, digits.first == "0" { radix = 8 }
        }
        let isNumber =
            !digits.isEmpty
            && digits.allSatisfy {
                $0.isASCII && ($0.hexDigitValue.map { $0 < radix } ?? false)
            }
        guard isNumber else { throw .syntax(function, text) }
        guard let value = Int64((isNegative ? "-" : "") + digits, radix: radix) else {
            throw .range(function, text)
        }
        return value
    }

    /// An unsigned 64-bit number in hexadecimal, without sign or prefix, as ParseUint reads it.
    static func hexadecimal(_ text: String) throws(ValueError) -> UInt64 {
        let function = "strconv.ParseUint"
        let isNumber = !text.isEmpty && text.allSatisfy { $0.isASCII && $0.isHexDigit }
        guard isNumber else { throw .syntax(function, text) }
        guard let value = UInt64(text, radix: 16) else { throw .range(function, text) }
        return value
    }
}
