/// A place in a TOML file: the file as it was named, and a line and a column that both start at 1.
///
/// Columns count Unicode code points, as the TOML parser does.
package struct TOMLLocation: Equatable, Hashable, Sendable, CustomStringConvertible {
    package let file: String
    package let line: Int
    package let column: Int

    package init(file: String, line: Int, column: Int) {
        self.file = file
        self.line = line
        self.column = column
    }

    package var description: String { "\(file):\(line):\(column)" }
}

/// A setting that cannot be used, with the place it was written at when it came from a file.
///
/// Printed as `file:line:column: message`, or as the message alone for flags and environment variables.
package struct ConfigurationError: Error, Equatable, Sendable, CustomStringConvertible {
    package let location: TOMLLocation?
    package let message: String

    package init(location: TOMLLocation? = nil, message: String) {
        self.location = location
        self.message = message
    }

    package var description: String {
        guard let location else { return message }
        return "\(location): \(message)"
    }
}
