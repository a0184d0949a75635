/// The TOML parser in use reports where a syntax error stands but not where a value stands. This scan
/// reads the same text once more and records, for every key and value, the place it was written at.
///
/// It follows the shape of TOML and does not check it; where it cannot follow, it says so instead of guessing. The one thing
/// it checks is what the parser must not be given: text that makes it abort the process, by an assertion or by a
/// recursion without bound, where it should report an error. ``check(text:file:)`` looks for that beforehand.
struct TOMLPositions {
    /// The place of one value, and of the values inside it.
    final class Node {
        /// Where the key that names this value is first written; for an array element, the element's start.
        let key: TOMLLocation
        /// Where the value starts.
        var value: TOMLLocation
        /// The value as written, kept for values without quotes or brackets (dates need their text).
        var text: Substring.UTF8View = Substring().utf8
        /// Keys of a table in document order.
        var keys: [String] = []
        var children: [String: Node] = [:]
        /// Elements of an array.
        var elements: [Node] = []

        init(key: TOMLLocation) {
            self.key = key
            self.value = key
        }
    }

    /// The deepest nesting of tables and arrays that is followed. Walks over the result recurse.
    static let maximumDepth = 64

    private let file: String
    private let bytes: String.UTF8View
    private var index: String.UTF8View.Index
    private var line = 1
    private var column = 1
    /// Whether the error that was thrown is about text that the parser must not be given.
    private var isRefusal = false

    private init(text: String, file: String) {
        self.file = file
        self.bytes = text.utf8
        self.index = bytes.startIndex
        if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { index = bytes.index(index, offsetBy: 3) }
    }

    /// Refuses text that the parser would not survive. Other mistakes are left to the parser, which stops at the first
    /// and says what was expected there.
    static func check(text: String, file: String) throws(ConfigurationError) {
        var scan = TOMLPositions(text: text, file: file)
        do throws(ConfigurationError) {
            _ = try scan.document()
        } catch {
            if scan.isRefusal { throw error }
        }
    }

    /// Locates every key and value of `text`, which the TOML parser has accepted.
    static func scan(text: String, file: String) throws(ConfigurationError) -> Node {
        var scan = TOMLPositions(text: text, file: file)
        return try scan.document()
    }

    // MARK: - Structure

    private mutating func document() throws(ConfigurationError) -> Node {
        let root = Node(key: location)
        var current = root
        while true {
            skipBlank()
            guard let byte = peek() else { return root }
            if byte == UInt8(ascii: "[") {
                current = try header(root: root)
            } else {
                try keyValue(in: current, depth: 0)
            }
        }
    }

    /// `[a.b]` or `[[a.b]]`; returns the table that the following keys belong to.
    private mutating func header(root: Node) throws(ConfigurationError) -> Node {
        advance()
        let isArray = peek() == UInt8(ascii: "[")
        if isArray { advance() }
        skipSpaces()
        // The parser asserts it.
        switch peek() {
        case UInt8(ascii: "\""), UInt8(ascii: "'"), UInt8(ascii: "]"), nil: break
        case let byte? where Self.isBareKey(byte): break
        default: throw refusal("expected a key", at: location)
        }
        let path = try keyPath()
        var node = root
        for (offset, part) in path.enumerated() {
            let isLast = offset == path.count - 1
            let (child, isNew) = Self.child(of: node, part)
            if isLast && isArray {
                let element = Node(key: part.location)
                child.elements.append(element)
                node = element
            } else {
                if isLast && !isNew { child.value = part.location }
                node = child.elements.last ?? child
            }
        }
        while let byte = peek(), byte != UInt8(ascii: "\n") {
            if byte == UInt8(ascii: "#") { skipLine() } else { advance() }
        }
        return node
    }

    private mutating func keyValue(in table: Node, depth: Int) throws(ConfigurationError) {
        let path = try keyPath()
        var node = table
        for part in path { node = Self.child(of: node, part).node }
        skipSpaces()
        guard peek() == UInt8(ascii: "=") else { throw lost() }
        advance()
        skipSpaces()
        try value(into: node, depth: depth + path.count)
    }

    private typealias KeyPart = (name: String, location: TOMLLocation)

    private static func child(of node: Node, _ part: KeyPart) -> (node: Node, isNew: Bool) {
        if let known = node.children[part.name] { return (known, false) }
        let new = Node(key: part.location)
        node.children[part.name] = new
        node.keys.append(part.name)
        return (new, true)
    }

    /// A key of one or more parts joined by dots, each bare or quoted.
    private mutating func keyPath() throws(ConfigurationError) -> [KeyPart] {
        var parts: [KeyPart] = []
        while true {
            skipSpaces()
            let start = location
            let name: String
            switch peek() {
            case UInt8(ascii: "\""), UInt8(ascii: "'"): name = try quoted()
            default: name = bareKey()
            }
            parts.append((name, start))
            guard parts.count <= Self.maximumDepth else {
                throw refusal("a key has more than \(Self.maximumDepth) parts", at: start)
            }
            skipSpaces()
            guard peek() == UInt8(ascii: ".") else { return parts }
            advance()
        }
    }

    private mutating func bareKey() -> String {
        let start = index
        while let byte = peek(), Self.isBareKey(byte) { advance() }
        return String(decoding: bytes[start..<index], as: UTF8.self)
    }

    // MARK: - Values

    private mutating func value(into node: Node, depth: Int) throws(ConfigurationError) {
        node.value = location
        guard depth <= Self.maximumDepth else {
            throw refusal("values are nested more than \(Self.maximumDepth) deep", at: node.value)
        }
        switch peek() {
        case UInt8(ascii: "\""), UInt8(ascii: "'"): _ = try quoted()
        case UInt8(ascii: "["): try array(into: node, depth: depth)
        case UInt8(ascii: "{"): try inlineTable(into: node, depth: depth)
        default:
            node.text = unquoted()
            guard Self.isTimeWhole(node.text) else { throw refusal("expected a time after the date", at: node.value) }
        }
    }

    /// False for a date followed by what begins like a time and is none; the parser asserts two digits there. As the
    /// parser does, underscores are passed over.
    private static func isTimeWhole(_ text: Substring.UTF8View) -> Bool {
        let digits = UInt8(ascii: "0")...UInt8(ascii: "9")
        func isDigit(_ byte: UInt8?) -> Bool { byte.map(digits.contains) ?? false }
        let bytes = Array(text.lazy.filter { $0 != UInt8(ascii: "_") }.prefix(13))
        guard bytes.count > 10, bytes[4] == UInt8(ascii: "-"), bytes[7] == UInt8(ascii: "-"),
            [0, 1, 2, 3, 5, 6, 8, 9].allSatisfy({ isDigit(bytes[$0]) })
        else { return true }
        let time = bytes[11...]
        switch bytes[10] {
        case UInt8(ascii: "T"), UInt8(ascii: "t"): return isDigit(time.first)
        case UInt8(ascii: " "): return !isDigit(time.first) || isDigit(time.dropFirst().first)
        default: return true
        }
    }

    private mutating func array(into node: Node, depth: Int) throws(ConfigurationError) {
        advance()
        while true {
            skipBlank()
            guard let byte = peek() else { throw lost() }
            switch byte {
            case UInt8(ascii: "]"):
                advance()
                return
            case UInt8(ascii: ","): advance()
            // The parser asserts that no end of a value stands here, which Unicode's spaces are to it as well.
            case UInt8(ascii: "}"), ..<0x20, 0x7F...: throw refusal("expected a value or ']'", at: location)
            default:
                let element = Node(key: location)
                try value(into: element, depth: depth + 1)
                node.elements.append(element)
            }
        }
    }

    private mutating func inlineTable(into node: Node, depth: Int) throws(ConfigurationError) {
        advance()
        while true {
            skipBlank()
            guard let byte = peek() else { throw lost() }
            switch byte {
            case UInt8(ascii: "}"):
                advance()
                return
            case UInt8(ascii: ","): advance()
            default: try keyValue(in: node, depth: depth + 1)
            }
        }
    }

    /// A number, a boolean or a date: everything up to what may follow a value, spaces at the end excluded.
    private mutating func unquoted() -> Substring.UTF8View {
        let start = index
        var end = index
        while let byte = peek() {
            switch byte {
            case UInt8(ascii: ","), UInt8(ascii: "]"), UInt8(ascii: "}"), UInt8(ascii: "#"),
                UInt8(ascii: "\n"), UInt8(ascii: "\r"):
                return bytes[start..<end]
            default:
                advance()
                if byte != UInt8(ascii: " ") && byte != UInt8(ascii: "\t") { end = index }
            }
        }
        return bytes[start..<end]
    }

    /// A string of any of the four kinds; returns its text, which only keys need (keys have one line).
    private mutating func quoted() throws(ConfigurationError) -> String {
        guard let quote = peek() else { throw lost() }
        let isBasic = quote == UInt8(ascii: "\"")
        advance()
        if peek() == quote {
            advance()
            guard peek() == quote else { return "" }
            advance()
            try skipMultiline(quote: quote)
            return ""
        }
        var text: [UInt8] = []
        while let byte = peek() {
            if byte == quote {
                advance()
                return String(decoding: text, as: UTF8.self)
            }
            guard byte != UInt8(ascii: "\n") else { throw lost() }
            if byte == UInt8(ascii: "\\") && isBasic {
                text.append(contentsOf: try escape().utf8)
            } else {
                text.append(byte)
                advance()
            }
        }
        throw lost()
    }

    /// The rest of a multi-line string. Up to two quotes may stand directly before the closing three.
    private mutating func skipMultiline(quote: UInt8) throws(ConfigurationError) {
        var run = 0
        while let byte = peek() {
            if byte == quote {
                run += 1
                advance()
                if run == 5 { return }
                continue
            }
            if run >= 3 { return }
            run = 0
            if byte == UInt8(ascii: "\\") && quote == UInt8(ascii: "\"") {
                _ = try escape()
            } else {
                advance()
            }
        }
        guard run >= 3 else { throw lost() }
    }

    /// One escape sequence. U+0000 is refused here because the parser hands text on as C strings.
    private mutating func escape() throws(ConfigurationError) -> String {
        let start = location
        advance()
        guard let kind = peek() else { throw lost() }
        advance()
        let digits: Int
        switch kind {
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "f"): return "\u{C}"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "e"): return "\u{1B}"
        case UInt8(ascii: "x"): digits = 2
        case UInt8(ascii: "u"): digits = 4
        case UInt8(ascii: "U"): digits = 8
        default: return String(decoding: [kind], as: UTF8.self)
        }
        var scalar: UInt32 = 0
        for _ in 0..<digits {
            guard let byte = peek(), let digit = Character(UnicodeScalar(byte)).hexDigitValue else { throw lost() }
            scalar = scalar &* 16 &+ UInt32(digit)
            advance()
        }
        guard scalar != 0 else { throw error("the character U+0000 cannot be used in a string", at: start) }
        guard let unicode = UnicodeScalar(scalar) else { throw lost() }
        return String(unicode)
    }

    // MARK: - Cursor

    private var location: TOMLLocation { TOMLLocation(file: file, line: line, column: column) }

    private func peek() -> UInt8? { index < bytes.endIndex ? bytes[index] : nil }

    /// Moves over one byte; continuation bytes of a code point do not count as columns.
    private mutating func advance() {
        let byte = bytes[index]
        index = bytes.index(after: index)
        if byte == UInt8(ascii: "\n") {
            line += 1
            column = 1
        } else if byte & 0xC0 != 0x80 {
            column += 1
        }
    }

    private mutating func skipSpaces() {
        while let byte = peek(), byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") { advance() }
    }

    private mutating func skipLine() {
        while let byte = peek(), byte != UInt8(ascii: "\n") { advance() }
    }

    /// Skips spaces, line ends and comments.
    private mutating func skipBlank() {
        while let byte = peek() {
            switch byte {
            case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"), UInt8(ascii: "\n"): advance()
            case UInt8(ascii: "#"): skipLine()
            default: return
            }
        }
    }

    /// Bare keys are ASCII letters, digits, `-` and `_`.
    private static func isBareKey(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
            true
        default: false
        }
    }

    private func error(_ message: String, at location: TOMLLocation) -> ConfigurationError {
        ConfigurationError(location: location, message: message)
    }

    private mutating func refusal(_ message: String, at location: TOMLLocation) -> ConfigurationError {
        isRefusal = true
        return error(message, at: location)
    }

    private func lost() -> ConfigurationError {
        error("this TOML cannot be followed from here; write it in a simpler form", at: location)
    }
}
