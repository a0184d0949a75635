/// Texts in the forms that Go's fmt and strconv give them, which scripts around etcdctl parse.
enum GoText {
    static func quote(_ text: String) -> String { quote(Array(text.utf8)) }

    /// The bytes as a double-quoted Go literal (`%q`): printable text as it is, everything else and
    /// every byte that is not UTF-8 escaped.
    static func quote(_ bytes: some Collection<UInt8>) -> String {
        var out = "\""
        var decoder = UTF8Scanner(bytes)
        while let piece = decoder.next() {
            switch piece {
            case .invalid(let byte): out += "\\x" + hex(byte)
            case .scalar(let scalar): append(scalar, &out)
            }
        }
        return out + "\""
    }

    private static func append(_ scalar: Unicode.Scalar, _ out: inout String) {
        switch scalar {
        case "\"": out += "\\\""
        case "\\": out += "\\\\"
        case "\u{7}": out += "\\a"
        case "\u{8}": out += "\\b"
        case "\u{C}": out += "\\f"
        case "\n": out += "\\n"
        case "\r": out += "\\r"
        case "\t": out += "\\t"
        case "\u{B}": out += "\\v"
        case _ where isPrintable(scalar): out.unicodeScalars.append(scalar)
        case _ where scalar.value < 0x80: out += "\\x" + hex(UInt8(scalar.value))
        case _ where scalar.value < 0x10000:
            out += "\\u" + padded(String(scalar.value, radix: 16), 4)
        default: out += "\\U" + padded(String(scalar.value, radix: 16), 8)
        }
    }

    private static func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator,
            .paragraphSeparator:
            false
        case .spaceSeparator: scalar == " "
        default: true
        }
    }

    /// Every byte as `\xNN`, as `--hex` shows keys and values.
    static func hexEscaped(_ bytes: some Sequence<UInt8>) -> String {
        bytes.map { "\\x" + hex($0) }.joined()
    }

    private static func hex(_ byte: UInt8) -> String { padded(String(byte, radix: 16), 2) }

    static func padded(_ digits: String, _ width: Int) -> String {
        String(repeating: "0", count: max(0, width - digits.count)) + digits
    }

    /// `%016x` of a signed number.
    static func leaseID(_ id: Int64) -> String {
        id < 0
            ? "-" + padded(String(id.magnitude, radix: 16), 15) : padded(String(id, radix: 16), 16)
    }

    /// A size in decimal units with at most one decimal: `29 kB`, `2.1 MB` (go-humanize).
    static func size(_ bytes: UInt64) -> String {
        if bytes < 1000 { return "\(bytes) B" }
        var unit = 0
        var scale: UInt64 = 1
        while unit < 6, bytes / scale >= 1000 {
            scale *= 1000
            unit += 1
        }
        let tenths = Int((Double(bytes) / Double(scale) * 10 + 0.5).rounded(.down))
        let names = ["B", "kB", "MB", "GB", "TB", "PB", "EB"]
        // Numbers of two digits and more are rounded half to even, as printf does it.
        return tenths >= 100
            ? "\(Int((Double(tenths) / 10).rounded(.toNearestOrEven))) \(names[unit])"
            : "\(tenths / 10).\(tenths % 10) \(names[unit])"
    }

    /// `%16x`: at least 16 characters, with spaces in front.
    static func hex16(_ number: UInt64) -> String {
        let digits = String(number, radix: 16)
        return String(repeating: " ", count: max(0, 16 - digits.count)) + digits
    }

    static func trimmed(_ text: String) -> String {
        var rest = Substring(text)
        while let first = rest.first, first.isWhitespace { rest.removeFirst() }
        while let last = rest.last, last.isWhitespace { rest.removeLast() }
        return String(rest)
    }
}

extension String {
    func trimmingSuffix(_ suffix: String) -> String {
        hasSuffix(suffix) ? String(dropLast(suffix.count)) : self
    }
}

/// Walks over bytes as UTF-8, handing out the bytes that are not one at a time, as Go does.
struct UTF8Scanner {
    enum Piece: Equatable {
        case scalar(Unicode.Scalar)
        case invalid(UInt8)
    }

    private var rest: ArraySlice<UInt8>

    init(_ bytes: some Collection<UInt8>) { rest = Array(bytes)[...] }

    mutating func next() -> Piece? {
        guard let first = rest.first else { return nil }
        let length =
            switch first {
            case 0x00...0x7F: 1
            case 0xC2...0xDF: 2
            case 0xE0...0xEF: 3
            case 0xF0...0xF4: 4
            default: 0
            }
        let bytes = rest.prefix(length)
        if length > 0, bytes.count == length,
            let text = String(validating: bytes, as: UTF8.self), let scalar = text.unicodeScalars.first
        {
            rest = rest.dropFirst(length)
            return .scalar(scalar)
        }
        rest = rest.dropFirst()
        return .invalid(first)
    }
}
