// The language of `txn`:
//
//     compare   = target "(" quoted ")" operator quoted
//     target    = "value" | "val" | "create" | "c" | "mod" | "m" | "version" | "ver" | "lease"
//     operator  = "=" | "!=" | "<" | ">"
//     operation = a line of words for the commands get, put and del
//
// A quoted text is a Go string literal. Numbers are decimal, a lease is hexadecimal as everywhere.

import FoundationEssentials
import Wire

/// Reads the lines that make up a transaction.
enum TxnText {
    // MARK: Compares

    static func compare(_ line: [UInt8]) throws(CommandError) -> Etcdserverpb_Compare {
        let text = String(decoding: line, as: UTF8.self)
        let malformed = "malformed comparison: \(text)"
        guard let paren = line.firstIndex(of: UInt8(ascii: "(")) else {
            throw CommandError(.invalidInput, malformed)
        }
        let target = String(decoding: line[..<paren], as: UTF8.self)
        var rest = line[(paren + 1)...]
        var key: [UInt8] = []
        var sign = ""
        var operand: [UInt8] = []
        guard scan(&rest, &key, &sign, &operand) else {
            throw CommandError(
                .invalidInput,
                "\(malformed); got \(target)(\(GoText.quote(key))) \(sign) \(GoText.quote(operand))")
        }
        var compare = Etcdserverpb_Compare()
        compare.key = Data(key)
        guard let result = result(sign) else {
            throw CommandError(.invalidInput, "\(malformed) (unknown operator \(sign))")
        }
        compare.result = result
        let unreadable = CommandError(.invalidInput, "invalid txn compare request: \(text)")
        switch target {
        case "value", "val":
            compare.target = .value
            compare.value = Data(operand)
        case "version", "ver":
            compare.target = .version
            compare.version = try number(operand, 10, unreadable)
        case "create", "c":
            compare.target = .create
            compare.createRevision = try number(operand, 10, unreadable)
        case "mod", "m":
            compare.target = .mod
            compare.modRevision = try number(operand, 10, unreadable)
        case "lease":
            compare.target = .lease
            compare.lease = try number(operand, 16, unreadable)
        default:
            throw CommandError(.invalidInput, "\(malformed) (unknown target \(target))")
        }
        return compare
    }

    private static func result(_ sign: String) -> Etcdserverpb_Compare.CompareResult? {
        switch sign {
        case "=": .equal
        case "!=": .notEqual
        case "<": .less
        case ">": .greater
        default: nil
        }
    }

    private static func number(
        _ bytes: [UInt8], _ base: Int, _ failure: CommandError
    ) throws(CommandError) -> Int64 {
        do throws(ValueError) {
            return try GoNumber.integer(String(decoding: bytes, as: UTF8.self), base: base)
        } catch {
            throw failure
        }
    }

    /// `"key") sign "operand"`; false at the first part that is missing.
    private static func scan(
        _ rest: inout ArraySlice<UInt8>, _ key: inout [UInt8], _ sign: inout String,
        _ operand: inout [UInt8]
    ) -> Bool {
        skipSpace(&rest)
        guard let first = QuotedText.take(&rest) else { return false }
        key = first
        guard rest.popFirst() == UInt8(ascii: ")") else { return false }
        skipSpace(&rest)
        let word = rest.prefix { !isSpace($0) }
        sign = String(decoding: word, as: UTF8.self)
        rest = rest.dropFirst(word.count)
        skipSpace(&rest)
        guard !sign.isEmpty, let second = QuotedText.take(&rest) else { return false }
        operand = second
        return true
    }

    // MARK: Words

    /// Splits a line at spaces; `"…"` is a Go literal, `'…'` stands for itself.
    static func words(_ line: [UInt8]) throws(CommandError) -> [[UInt8]] {
        var words: [[UInt8]] = []
        var rest = line[...]
        skipSpace(&rest)
        while let first = rest.first {
            if first == UInt8(ascii: "\"") {
                guard let word = QuotedText.take(&rest) else {
                    throw CommandError(.invalidInput, "bad quoted text: \(text(rest))")
                }
                words.append(word)
            } else if first == UInt8(ascii: "'") {
                let body = rest.dropFirst()
                guard let end = body.firstIndex(of: first) else {
                    throw CommandError(.invalidInput, "bad quoted text: \(text(rest))")
                }
                words.append(Array(body[..<end]))
                rest = rest[(end + 1)...]
            } else {
                let word = rest.prefix { !isSpace($0) }
                words.append(Array(word))
                rest = rest.dropFirst(word.count)
            }
            skipSpace(&rest)
        }
        return words
    }

    static func trimmed(_ line: [UInt8]) -> [UInt8] {
        var rest = line[...]
        skipSpace(&rest)
        while let last = rest.last, isSpace(last) { rest = rest.dropLast() }
        return Array(rest)
    }

    private static func text(_ bytes: ArraySlice<UInt8>) -> String {
        String(decoding: bytes, as: UTF8.self)
    }

    private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (9...13).contains(byte) }

    private static func skipSpace(_ rest: inout ArraySlice<UInt8>) {
        rest = rest.drop(while: isSpace)
    }
}
