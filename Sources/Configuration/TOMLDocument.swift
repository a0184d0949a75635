import TOMLKit

/// Reads TOML 1.0 into a table whose keys and values know where they were written.
package enum TOMLDocument {
    /// The largest document that is read, in bytes. Configuration files and manifests are small; the bound
    /// keeps a wrong file name (a database, a log) from being read whole.
    package static let maximumBytes = 1 << 20

    /// Parses `text`; `file` is the name that locations carry.
    ///
    /// - Throws: ``ConfigurationError`` with the place of the first syntax error, or of a value outside
    ///   what is supported (U+0000, more than 64 levels of nesting, more than ``maximumBytes``).
    package static func parse(text: String, file: String) throws(ConfigurationError) -> TOMLTable {
        let start = TOMLLocation(file: file, line: 1, column: 1)
        guard text.utf8.count <= maximumBytes else {
            throw ConfigurationError(
                location: start,
                message: "the file has \(text.utf8.count) bytes; the most that is read is \(maximumBytes)")
        }
        // The parser takes a C string and would silently stop at a zero byte.
        guard !text.utf8.contains(0) else {
            throw ConfigurationError(location: start, message: "the file has a zero byte and is not TOML text")
        }
        try TOMLPositions.check(text: text, file: file)
        let parsed: TOMLKit.TOMLTable
        do {
            parsed = try TOMLKit.TOMLTable(string: text)
        } catch let error as TOMLParseError {
            let begin = error.source.begin
            throw ConfigurationError(
                location: TOMLLocation(file: file, line: begin.line, column: begin.column),
                message: error.description)
        } catch {
            throw ConfigurationError(location: start, message: "\(error)")
        }
        return try table(parsed, TOMLPositions.scan(text: text, file: file))
    }

    /// Joins what the parser read with where the scan found it. They must agree on every key and element.
    private static func table(
        _ parsed: TOMLKit.TOMLTable, _ node: TOMLPositions.Node
    ) throws(ConfigurationError) -> TOMLTable {
        var table = TOMLTable(location: node.value)
        guard parsed.count == node.keys.count else { throw mismatch(node) }
        for key in node.keys {
            guard let child = node.children[key], let value = parsed[key] else { throw mismatch(node) }
            table.append(key: key, value: try self.value(value, child), keyLocation: child.key)
        }
        return table
    }

    private static func value(
        _ parsed: any TOMLValueConvertible, _ node: TOMLPositions.Node
    ) throws(ConfigurationError) -> TOMLValue {
        let content: TOMLValue.Content?
        switch parsed.type {
        case .string: content = parsed.string.map { .string($0) }
        case .int: content = parsed.int.map { .integer($0) }
        case .double: content = parsed.double.map { .float($0) }
        case .bool: content = parsed.bool.map { .boolean($0) }
        case .date, .time, .dateTime: content = .datetime(String(decoding: node.text, as: UTF8.self))
        case .array:
            guard let array = parsed.array, array.count == node.elements.count else { throw mismatch(node) }
            var values: [TOMLValue] = []
            for (element, position) in zip(array, node.elements) {
                values.append(try value(element, position))
            }
            content = .array(values)
        case .table:
            guard let inner = parsed.table else { throw mismatch(node) }
            content = .table(try table(inner, node))
        }
        guard let content else { throw mismatch(node) }
        return TOMLValue(content, location: node.value)
    }

    private static func mismatch(_ node: TOMLPositions.Node) -> ConfigurationError {
        ConfigurationError(
            location: node.value, message: "this TOML cannot be followed from here; write it in a simpler form")
    }
}
