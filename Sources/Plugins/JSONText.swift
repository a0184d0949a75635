/// A parsed JSON value. The reader is strict: repeated keys, lone surrogates, control characters and trailing
/// text are errors, because two readers could take them differently and tokens are signed bytes.
package indirect enum JSONText: Sendable, Equatable {
    case null
    case boolean(Bool)
    case integer(Int64)
    case number(Double)
    case string(String)
    case array([JSONText])
    case object([(key: String, value: JSONText)])

    package static func == (a: JSONText, b: JSONText) -> Bool { a.luaValue == b.luaValue }

    package struct Problem: Error, Equatable, Sendable {
        package let message: String
        package let offset: Int
    }

    static let maximumDepth = 32

    package static func parse(_ bytes: [UInt8]) throws(Problem) -> JSONText {
        var parser = Parser(bytes: bytes)
        let value = try parser.value(depth: 0)
        parser.skipSpace()
        guard parser.index == bytes.count else { throw parser.problem("text after the value") }
        return value
    }

    package subscript(_ key: String) -> JSONText? {
        guard case .object(let pairs) = self else { return nil }
        return pairs.first { $0.key == key }?.value
    }

    package var string: String? {
        if case .string(let text) = self { return text }
        return nil
    }

    package var number: Double? {
        switch self {
        case .integer(let value): Double(value)
        case .number(let value): value
        default: nil
        }
    }

    package var items: [JSONText]? {
        if case .array(let items) = self { return items }
        return nil
    }

    package var luaValue: LuaValue {
        switch self {
        case .null: .jsonNull
        case .boolean(let value): .boolean(value)
        case .integer(let value): .integer(value)
        case .number(let value): .number(value)
        case .string(let text): .text(text)
        case .array(let items): .array(items.map(\.luaValue))
        case .object(let pairs): .map(pairs.map { LuaValue.Pair($0.key, $0.value.luaValue) })
        }
    }

    private struct Parser {
        let bytes: [UInt8]
        var index = 0

        func problem(_ message: String) -> Problem { Problem(message: message, offset: index) }

        var current: UInt8? { index < bytes.count ? bytes[index] : nil }

        mutating func skipSpace() {
            while let byte = current, byte == 0x20 || byte == 0x09 || byte == 0x0A || byte == 0x0D { index += 1 }
        }

        mutating func take(_ byte: UInt8) -> Bool {
            guard current == byte else { return false }
            index += 1
            return true
        }

        mutating func word(_ text: StaticString) throws(Problem) {
            for i in 0..<text.utf8CodeUnitCount {
                guard take(text.utf8Start[i]) else { throw problem("unexpected character") }
            }
        }

        mutating func value(depth: Int) throws(Problem) -> JSONText {
            guard depth <= JSONText.maximumDepth else { throw problem("nested too deep") }
            skipSpace()
            switch current {
            case UInt8(ascii: "{"): return try object(depth: depth)
            case UInt8(ascii: "["): return try array(depth: depth)
            case UInt8(ascii: "\""): return .string(try string())
            case UInt8(ascii: "t"):
                try word("true")
                return .boolean(true)
            case UInt8(ascii: "f"):
                try word("false")
                return .boolean(false)
            case UInt8(ascii: "n"):
                try word("null")
                return .null
            case nil: throw problem("unexpected end")
            default: return try number()
            }
        }

        private mutating func object(depth: Int) throws(Problem) -> JSONText {
            index += 1
            var pairs: [(key: String, value: JSONText)] = []
            var seen: Set<String> = []
            skipSpace()
            if take(UInt8(ascii: "}")) { return .object(pairs) }
            while true {
                skipSpace()
                guard current == UInt8(ascii: "\"") else { throw problem("expected a key") }
                let key = try string()
                guard seen.insert(key).inserted else { throw problem("repeated key") }
                skipSpace()
                guard take(UInt8(ascii: ":")) else { throw problem("expected ':'") }
                pairs.append((key, try value(depth: depth + 1)))
                skipSpace()
                if take(UInt8(ascii: ",")) { continue }
                guard take(UInt8(ascii: "}")) else { throw problem("expected ',' or '}'") }
                return .object(pairs)
            }
        }

        private mutating func array(depth: Int) throws(Problem) -> JSONText {
            index += 1
            var items: [JSONText] = []
            skipSpace()
            if take(UInt8(ascii: "]")) { return .array(items) }
            while true {
                items.append(try value(depth: depth + 1))
                skipSpace()
                if take(UInt8(ascii: ",")) { continue }
                guard take(UInt8(ascii: "]")) else { throw problem("expected ',' or ']'") }
                return .array(items)
            }
        }

        private mutating func string() throws(Problem) -> String {
            index += 1
            var text: [UInt8] = []
            while let byte = current {
                index += 1
                switch byte {
                case UInt8(ascii: "\""):
                    guard let string = String(validating: text, as: UTF8.self) else {
                        throw problem("text that is not UTF-8")
                    }
                    return string
                case UInt8(ascii: "\\"): text.append(contentsOf: try escape())
                case 0..<0x20: throw problem("control character in a string")
                default: text.append(byte)
                }
            }
            throw problem("unfinished string")
        }

        private mutating func escape() throws(Problem) -> [UInt8] {
            guard let byte = current else { throw problem("unfinished string") }
            index += 1
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
            case UInt8(ascii: "b"): return [8]
            case UInt8(ascii: "f"): return [12]
            case UInt8(ascii: "n"): return [10]
            case UInt8(ascii: "r"): return [13]
            case UInt8(ascii: "t"): return [9]
            case UInt8(ascii: "u"): break
            default: throw problem("bad escape")
            }
            var code = try unit()
            if (0xD800..<0xDC00).contains(code) {
                guard take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) else { throw problem("lone surrogate") }
                let low = try unit()
                guard (0xDC00..<0xE000).contains(low) else { throw problem("lone surrogate") }
                code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
            }
            guard let scalar = Unicode.Scalar(code) else { throw problem("lone surrogate") }
            return Array(String(Character(scalar)).utf8)
        }

        private mutating func unit() throws(Problem) -> UInt32 {
            var value: UInt32 = 0
            for _ in 0..<4 {
                guard let byte = current, let digit = Character(UnicodeScalar(byte)).hexDigitValue else {
                    throw problem("bad \\u escape")
                }
                value = value << 4 | UInt32(digit)
                index += 1
            }
            return value
        }

        private mutating func digits() -> Int {
            let start = index
            while let byte = current, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) { index += 1 }
            return index - start
        }

        private mutating func number() throws(Problem) -> JSONText {
            let start = index
            var isInteger = true
            _ = take(UInt8(ascii: "-"))
            if !take(UInt8(ascii: "0")) && digits() == 0 { throw problem("unexpected character") }
            if take(UInt8(ascii: ".")) {
                isInteger = false
                guard digits() > 0 else { throw problem("bad number") }
            }
            if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
                isInteger = false
                if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
                guard digits() > 0 else { throw problem("bad number") }
            }
            guard index - start <= 63 else { throw problem("a number with more than 63 characters") }
            let text = String(decoding: bytes[start..<index], as: UTF8.self)
            if isInteger, let value = Int64(text) { return .integer(value) }
            guard let value = Double(text), value.isFinite else { throw problem("bad number") }
            return .number(value)
        }
    }
}

/// Base64 with the URL alphabet and without padding, as tokens and keys are written.
enum Base64URL {
    static func decode(_ text: some Collection<UInt8>) -> [UInt8]? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count * 3 / 4)
        var bits: UInt32 = 0
        var held = 0
        for byte in text {
            let digit: UInt32
            switch byte {
            case UInt8(ascii: "A")...UInt8(ascii: "Z"): digit = UInt32(byte - UInt8(ascii: "A"))
            case UInt8(ascii: "a")...UInt8(ascii: "z"): digit = UInt32(byte - UInt8(ascii: "a")) + 26
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = UInt32(byte - UInt8(ascii: "0")) + 52
            case UInt8(ascii: "-"): digit = 62
            case UInt8(ascii: "_"): digit = 63
            default: return nil
            }
            bits = bits << 6 | digit
            held += 6
            if held >= 8 {
                held -= 8
                bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(held)))
            }
        }
        // One encoding for one text: no half byte, no stray bits.
        guard held < 6, bits & (1 << UInt32(held) - 1) == 0 else { return nil }
        return bytes
    }

    static func encode(_ bytes: [UInt8]) -> String {
        let digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".utf8)
        var text: [UInt8] = []
        var bits: UInt32 = 0
        var held: UInt32 = 0
        for byte in bytes {
            bits = bits << 8 | UInt32(byte)
            held += 8
            while held >= 6 {
                held -= 6
                text.append(digits[Int(bits >> held & 63)])
            }
        }
        if held > 0 { text.append(digits[Int(bits << (6 - held) & 63)]) }
        return String(decoding: text, as: UTF8.self)
    }
}
