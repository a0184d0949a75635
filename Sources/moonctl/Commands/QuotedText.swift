/// Go string literals: `"…"` with escapes, or `` `…` `` as it stands.
enum QuotedText {
    /// Takes one literal off the front and returns its bytes; nil, and nothing taken, without one.
    static func take(_ rest: inout ArraySlice<UInt8>) -> [UInt8]? {
        var work = rest
        guard let quote = work.popFirst() else { return nil }
        var bytes: [UInt8] = []
        if quote == UInt8(ascii: "`") {
            guard let end = work.firstIndex(of: quote) else { return nil }
            bytes = Array(work[..<end])
            rest = work[(end + 1)...]
            return bytes
        }
        guard quote == UInt8(ascii: "\"") else { return nil }
        while let byte = work.popFirst() {
            switch byte {
            case quote:
                rest = work
                return bytes
            case UInt8(ascii: "\\"):
                guard let escaped = escape(&work) else { return nil }
                bytes += escaped
            case UInt8(ascii: "\n"): return nil
            default: bytes.append(byte)
            }
        }
        return nil
    }

    /// What stands for the escape whose backslash was taken already.
    private static func escape(_ rest: inout ArraySlice<UInt8>) -> [UInt8]? {
        guard let letter = rest.popFirst() else { return nil }
        switch Character(Unicode.Scalar(letter)) {
        case "a": return [7]
        case "b": return [8]
        case "f": return [12]
        case "n": return [10]
        case "r": return [13]
        case "t": return [9]
        case "v": return [11]
        case "\\", "\"": return [letter]
        case "x": return number(&rest, digits: 2, radix: 16).flatMap(UInt8.init(exactly:)).map { [$0] }
        case "u": return number(&rest, digits: 4, radix: 16).flatMap(utf8)
        case "U": return number(&rest, digits: 8, radix: 16).flatMap(utf8)
        case "0"..."7":
            var octal = [letter] + rest.prefix(2)
            rest = rest.dropFirst(octal.count - 1)
            return number(&octal[...], digits: 3, radix: 8).flatMap(UInt8.init(exactly:))
                .map { [$0] }
        default: return nil
        }
    }

    private static func utf8(_ value: UInt32) -> [UInt8]? {
        Unicode.Scalar(value).map { Array(String(Character($0)).utf8) }
    }

    private static func number(
        _ rest: inout ArraySlice<UInt8>, digits: Int, radix: Int
    ) -> UInt32? {
        let text = String(decoding: rest.prefix(digits), as: UTF8.self)
        guard text.count == digits, text.first != "+", text.first != "-" else { return nil }
        rest = rest.dropFirst(digits)
        return UInt32(text, radix: radix)
    }
}
