// Building text as bytes on paths that run for every request: no String is made on the way.

/// Lower-case hexadecimal.
enum Hex {
    private static let digits: [UInt8] = Array("0123456789abcdef".utf8)

    static func append(_ bytes: some Sequence<UInt8>, to out: inout [UInt8]) {
        for byte in bytes {
            out.append(digits[Int(byte >> 4)])
            out.append(digits[Int(byte & 15)])
        }
    }

    static func encode(_ bytes: some Sequence<UInt8>) -> String {
        var text: [UInt8] = []
        append(bytes, to: &text)
        return String(decoding: text, as: UTF8.self)
    }
}

extension [UInt8] {
    mutating func add(_ text: StaticString) {
        append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    mutating func add(_ text: String) {
        var text = text
        text.withUTF8 { append(contentsOf: $0) }
    }

    mutating func add(decimal value: Int64) {
        if value < 0 { append(UInt8(ascii: "-")) }
        add(decimal: value.magnitude)
    }

    mutating func add(decimal value: UInt64) {
        if value < 10 {
            append(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: value))
            return
        }
        let start = count
        var rest = value
        while rest > 0 {
            append(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10))
            rest /= 10
        }
        self[start...].reverse()
    }

    /// Exactly `width` digits; `value` has no more.
    mutating func add(padded value: Int64, _ width: Int) {
        var divisor: Int64 = 1
        for _ in 1..<width { divisor *= 10 }
        while divisor > 0 {
            append(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: value / divisor % 10))
            divisor /= 10
        }
    }

    /// A JSON string with its quotes. The text must be UTF-8.
    mutating func add(json text: UnsafeBufferPointer<UInt8>) {
        append(UInt8(ascii: "\""))
        var kept = 0
        for (i, byte) in text.enumerated() where byte < 0x20 || byte == 0x22 || byte == 0x5C || byte == 0x7F {
            append(contentsOf: UnsafeBufferPointer(rebasing: text[kept..<i]))
            kept = i + 1
            append(UInt8(ascii: "\\"))
            switch byte {
            case 0x22, 0x5C: append(byte)
            case 0x0A: append(UInt8(ascii: "n"))
            case 0x0D: append(UInt8(ascii: "r"))
            case 0x09: append(UInt8(ascii: "t"))
            default:
                add("u00")
                Hex.append(CollectionOfOne(byte), to: &self)
            }
        }
        append(contentsOf: UnsafeBufferPointer(rebasing: text[kept...]))
        append(UInt8(ascii: "\""))
    }

    mutating func add(json text: String) {
        var text = text
        text.withUTF8 { add(json: $0) }
    }

    /// Whether the bytes are well-formed UTF-8; plain ASCII is decided without a decoder.
    var isUTF8: Bool {
        allSatisfy { $0 < 0x80 } || String(validating: self, as: UTF8.self) != nil
    }
}
