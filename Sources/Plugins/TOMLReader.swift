import Configuration

/// Reads one table of a manifest or binding strictly: every key must be known, every value of its type, and every
/// error names the place.
struct TOMLReader {
    let table: TOMLTable
    /// The dotted name of the table in messages; empty for a document.
    let path: String

    init(_ table: TOMLTable, path: String) {
        self.table = table
        self.path = path
    }

    func name(_ key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }

    /// Refuses keys that are not in `known`, naming the nearest one.
    func allow(_ known: [String]) throws(ConfigurationError) {
        for key in table.keys where !known.contains(key) {
            var message = "unknown key \(name(key))"
            if let near = EditDistance.nearest(to: key, among: known), EditDistance.between(key, near) <= 3 {
                message += "; did you mean \(name(near))?"
            }
            throw ConfigurationError(location: table.keyLocation(key) ?? table.location, message: message)
        }
    }

    func error(_ key: String, _ message: String) -> ConfigurationError {
        ConfigurationError(
            location: table[key]?.location ?? table.keyLocation(key) ?? table.location,
            message: "\(name(key)): \(message)")
    }

    private func wrong(_ key: String, _ expected: String, _ value: TOMLValue) -> ConfigurationError {
        error(key, "expected \(expected), found \(value.typeName)")
    }

    func string(_ key: String) throws(ConfigurationError) -> String? {
        guard let value = table[key] else { return nil }
        guard let text = value.string else { throw wrong(key, "a string", value) }
        return text
    }

    func requiredString(_ key: String) throws(ConfigurationError) -> String {
        guard let text = try string(key) else {
            throw ConfigurationError(location: table.location, message: "\(name(key)) is missing")
        }
        return text
    }

    func integer(_ key: String) throws(ConfigurationError) -> Int? {
        guard let value = table[key] else { return nil }
        guard let number = value.integer else { throw wrong(key, "an integer", value) }
        return number
    }

    func boolean(_ key: String) throws(ConfigurationError) -> Bool? {
        guard let value = table[key] else { return nil }
        guard let flag = value.boolean else { throw wrong(key, "true or false", value) }
        return flag
    }

    /// Nanoseconds.
    func duration(_ key: String) throws(ConfigurationError) -> UInt64? {
        guard let text = try string(key) else { return nil }
        do { return UInt64(clamping: try SettingText.duration(text).wholeNanoseconds) } catch {
            throw self.error(key, error.message)
        }
    }

    /// Bytes.
    func size(_ key: String) throws(ConfigurationError) -> Int? {
        guard let text = try string(key) else { return nil }
        do { return try SettingText.size(text) } catch { throw self.error(key, error.message) }
    }

    func array(_ key: String) throws(ConfigurationError) -> [TOMLValue]? {
        guard let value = table[key] else { return nil }
        guard let array = value.array else { throw wrong(key, "an array", value) }
        return array
    }

    func strings(_ key: String) throws(ConfigurationError) -> [(text: String, location: TOMLLocation)]? {
        guard let array = try array(key) else { return nil }
        var result: [(text: String, location: TOMLLocation)] = []
        for item in array {
            guard let text = item.string else {
                throw ConfigurationError(
                    location: item.location, message: "\(name(key)): expected strings, found \(item.typeName)")
            }
            result.append((text, item.location))
        }
        return result
    }

    func table(_ key: String) throws(ConfigurationError) -> TOMLReader? {
        guard let value = table[key] else { return nil }
        guard let inner = value.table else { throw wrong(key, "a table", value) }
        return TOMLReader(inner, path: name(key))
    }
}

/// Names of plugins and bindings: `[a-z0-9][a-z0-9_-]{0,63}`, so that they are safe as file names, labels and
/// metadata.
enum PluginName {
    static func isValid(_ name: String) -> Bool {
        let bytes = Array(name.utf8)
        guard let first = bytes.first, bytes.count <= 64, isAlphanumeric(first) else { return false }
        return bytes.allSatisfy { isAlphanumeric($0) || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_") }
    }

    private static func isAlphanumeric(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte) || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }

    static let rule = "names are 1 to 64 of a-z, 0-9, '-' and '_', and start with a letter or digit"
}
