/// A value of a TOML document together with the place it was written at.
package struct TOMLValue: Equatable, Sendable {
    /// The value itself, one case for each TOML type.
    package indirect enum Content: Equatable, Sendable {
        case string(String)
        case integer(Int)
        case float(Double)
        case boolean(Bool)
        /// A date, a time or both, as the text that stands in the document.
        case datetime(String)
        case array([TOMLValue])
        case table(TOMLTable)
    }

    package let content: Content
    /// Where the value starts; for a table made by a header, where its name stands in the header.
    package let location: TOMLLocation

    package init(_ content: Content, location: TOMLLocation) {
        self.content = content
        self.location = location
    }

    /// The text, when this is a string.
    package var string: String? {
        if case .string(let value) = content { return value }
        return nil
    }

    /// The number, when this is an integer.
    package var integer: Int? {
        if case .integer(let value) = content { return value }
        return nil
    }

    /// The number, when this is a float; an integer is not converted.
    package var float: Double? {
        if case .float(let value) = content { return value }
        return nil
    }

    /// The truth value, when this is a boolean.
    package var boolean: Bool? {
        if case .boolean(let value) = content { return value }
        return nil
    }

    /// The text of the date or time, when this is one.
    package var datetime: String? {
        if case .datetime(let value) = content { return value }
        return nil
    }

    /// The elements in document order, when this is an array or an array of tables.
    package var array: [TOMLValue]? {
        if case .array(let value) = content { return value }
        return nil
    }

    /// The table, when this is one.
    package var table: TOMLTable? {
        if case .table(let value) = content { return value }
        return nil
    }

    /// The type in words, with its article, for error messages: "a string", "an integer".
    package var typeName: String {
        switch content {
        case .string: "a string"
        case .integer: "an integer"
        case .float: "a float"
        case .boolean: "a boolean"
        case .datetime: "a date or time"
        case .array: "an array"
        case .table: "a table"
        }
    }
}

/// A table of a TOML document: its keys in document order, their values, and where each stands.
package struct TOMLTable: Equatable, Sendable {
    /// The keys in the order in which the document first names them.
    package private(set) var keys: [String] = []
    /// Where the table starts; the root table starts at line 1, column 1.
    package let location: TOMLLocation

    /// Invariant: has an entry for every key of `keys` and no other.
    private var entries: [String: Entry] = [:]

    private struct Entry: Equatable, Sendable {
        let value: TOMLValue
        let keyLocation: TOMLLocation
    }

    package init(location: TOMLLocation) {
        self.location = location
    }

    /// The value of a key of this table itself; a dotted name is not a path.
    package subscript(key: String) -> TOMLValue? { entries[key]?.value }

    /// Where a key is first written: the place to point at when the key itself is wrong.
    package func keyLocation(_ key: String) -> TOMLLocation? { entries[key]?.keyLocation }

    package var isEmpty: Bool { keys.isEmpty }

    mutating func append(key: String, value: TOMLValue, keyLocation: TOMLLocation) {
        if entries.updateValue(Entry(value: value, keyLocation: keyLocation), forKey: key) == nil {
            keys.append(key)
        }
    }
}
