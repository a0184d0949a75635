import CLua
import Configuration

#if canImport(Glibc)
    import Glibc
#endif

/// The typed schema of one configuration key of a plugin, read from its manifest.
package struct ConfigSchema: Sendable {
    package indirect enum Kind: Sendable {
        case string, integer, float, boolean, duration, time, size, file
        case array(ConfigSchema)
        case table([(name: String, schema: ConfigSchema)])
        case map(ConfigSchema)

        var name: String {
            switch self {
            case .string: "string"
            case .integer: "integer"
            case .float: "float"
            case .boolean: "boolean"
            case .duration: "duration"
            case .time: "time"
            case .size: "size"
            case .file: "file"
            case .array: "array"
            case .table: "table"
            case .map: "map"
            }
        }
    }

    package let kind: Kind
    let isSecret: Bool
    let isRequired: Bool
    let defaultValue: TOMLValue?
    /// Bounds: of the number, of seconds, or of the count of bytes or items.
    let minimum: Double?
    let maximum: Double?
    let allowed: [TOMLValue]
    let pattern: String?

    private static let keys = [
        "type", "help", "required", "default", "min", "max", "enum", "pattern", "secret", "items", "fields", "values",
    ]
    private static let kinds = [
        "string", "integer", "float", "boolean", "duration", "time", "size", "file", "array", "table", "map",
    ]
    /// Schemas nest at most this deep.
    private static let maximumDepth = 8

    /// Reads a schema.
    ///
    /// - Throws: the place of the first thing in it that is wrong, a default that breaks it included.
    static func parse(_ reader: TOMLReader, depth: Int = 0) throws(ConfigurationError) -> ConfigSchema {
        try reader.allow(keys)
        guard depth < maximumDepth else {
            throw ConfigurationError(location: reader.table.location, message: "\(reader.path): nested too deep")
        }
        let kindName = try reader.requiredString("type")
        let kind: Kind
        switch kindName {
        case "string": kind = .string
        case "integer": kind = .integer
        case "float": kind = .float
        case "boolean": kind = .boolean
        case "duration": kind = .duration
        case "time": kind = .time
        case "size": kind = .size
        case "file": kind = .file
        case "array": kind = .array(try inner(reader, "items", depth))
        case "map": kind = .map(try inner(reader, "values", depth))
        case "table":
            guard let fields = try reader.table("fields") else {
                throw ConfigurationError(
                    location: reader.table.location, message: "\(reader.name("fields")) is missing")
            }
            var schemas: [(name: String, schema: ConfigSchema)] = []
            for name in fields.table.keys {
                guard let field = try fields.table(name) else { continue }
                schemas.append((name, try parse(field, depth: depth + 1)))
            }
            kind = .table(schemas)
        default:
            throw reader.error("type", "unknown type \"\(kindName)\"; the types are \(kinds.joined(separator: ", "))")
        }
        let secret = try reader.boolean("secret") ?? false
        if secret, case .string = kind {} else if secret { throw reader.error("secret", "only a string can be secret") }
        let required = try reader.boolean("required") ?? false
        if required && reader.table["default"] != nil { throw reader.error("default", "a required key has no default") }
        let schema = ConfigSchema(
            kind: kind, isSecret: secret, isRequired: required, defaultValue: reader.table["default"],
            minimum: try bound(reader, "min", kind), maximum: try bound(reader, "max", kind),
            allowed: try reader.array("enum") ?? [], pattern: try reader.string("pattern"))
        if let pattern = schema.pattern {
            var message: UnsafePointer<CChar>?
            let found = pattern.utf8CString.withUnsafeBufferPointer { bytes in
                moonraft_pattern_test(bytes.baseAddress, bytes.count - 1, "", 0, 10_000, &message)
            }
            if found < 0 { throw reader.error("pattern", message.map { String(cString: $0) } ?? "malformed pattern") }
        }
        if let value = schema.defaultValue {
            var sink = ConfigValues(directory: "", isDefault: true)
            _ = try schema.read(value, name: reader.name("default"), into: &sink)
        }
        return schema
    }

    private static func inner(
        _ reader: TOMLReader, _ key: String, _ depth: Int
    ) throws(ConfigurationError) -> ConfigSchema {
        guard let table = try reader.table(key) else {
            throw ConfigurationError(location: reader.table.location, message: "\(reader.name(key)) is missing")
        }
        return try parse(table, depth: depth + 1)
    }

    private static func bound(_ reader: TOMLReader, _ key: String, _ kind: Kind) throws(ConfigurationError) -> Double? {
        guard let value = reader.table[key] else { return nil }
        switch kind {
        case .duration: return try reader.duration(key).map { Double($0) / 1e9 }
        case .size:
            if let number = value.integer { return Double(number) }
            return try reader.size(key).map(Double.init)
        case .float:
            if let number = value.float { return number }
            return try reader.integer(key).map(Double.init)
        case .boolean, .time, .file, .table: throw reader.error(key, "\(kind.name) has no bounds")
        default: return try reader.integer(key).map(Double.init)
        }
    }

    // MARK: - Values

    /// Checks a value and turns it into what Lua gets.
    func read(
        _ value: TOMLValue, name: String, into values: inout ConfigValues
    ) throws(ConfigurationError) -> LuaValue {
        func fail(_ message: String) -> ConfigurationError {
            ConfigurationError(location: value.location, message: "\(name): \(message)")
        }
        func expected(_ what: String) -> ConfigurationError { fail("expected \(what), found \(value.typeName)") }
        switch kind {
        case .string:
            if isSecret { return try secret(value, name: name, into: &values) }
            guard let text = value.string else { throw expected("a string") }
            try check(Double(text.utf8.count), "bytes", fail)
            try checkText(text, fail)
            if !allowed.isEmpty && !allowed.contains(where: { $0.string == text }) {
                throw fail(notAllowed("\"\(text)\""))
            }
            return .text(text)
        case .integer:
            guard let number = value.integer else { throw expected("an integer") }
            try check(Double(number), nil, fail)
            if !allowed.isEmpty && !allowed.contains(where: { $0.integer == number }) {
                throw fail(notAllowed("\(number)"))
            }
            return .integer(Int64(number))
        case .float:
            guard let number = value.float ?? value.integer.map(Double.init) else { throw expected("a number") }
            guard number.isFinite else { throw fail("must be finite") }
            try check(number, nil, fail)
            return .number(number)
        case .boolean:
            guard let flag = value.boolean else { throw expected("true or false") }
            return .boolean(flag)
        case .duration:
            guard let text = value.string else { throw expected("a duration as a string, such as \"10s\"") }
            let seconds: Double
            do { seconds = Double(try SettingText.duration(text).wholeNanoseconds) / 1e9 } catch {
                throw fail(error.message)
            }
            try check(seconds, "seconds", fail)
            return .number(seconds)
        case .time:
            guard let text = value.string, let seconds = Timestamp.parse(text) else {
                throw fail("expected a time in the form of RFC 3339, such as \"2030-01-01T00:00:00Z\"")
            }
            return .number(seconds)
        case .size:
            guard let text = value.string else { throw expected("a size as a string, such as \"64KiB\"") }
            let bytes: Int
            do { bytes = try SettingText.size(text) } catch { throw fail(error.message) }
            try check(Double(bytes), "bytes", fail)
            return .integer(Int64(bytes))
        case .file:
            guard let text = value.string else { throw expected("the path of a file") }
            return try values.addFile(text, fail)
        case .array(let items):
            guard let array = value.array else { throw expected("an array") }
            try check(Double(array.count), "items", fail)
            var result: [LuaValue] = []
            for (index, item) in array.enumerated() {
                result.append(try items.read(item, name: "\(name)[\(index + 1)]", into: &values))
            }
            return .array(result)
        case .map(let inner):
            guard let table = value.table else { throw expected("a table") }
            try check(Double(table.keys.count), "entries", fail)
            var result: [LuaValue.Pair] = []
            for key in table.keys {
                guard let item = table[key] else { continue }
                result.append(LuaValue.Pair(key, try inner.read(item, name: "\(name).\(key)", into: &values)))
            }
            return .map(result)
        case .table(let fields):
            guard let table = value.table else { throw expected("a table") }
            return try Self.read(
                fields: fields, reader: TOMLReader(table, path: name), location: value.location, into: &values)
        }
    }

    /// Reads a table by its fields: defaults filled in, required ones present, no other keys.
    static func read(
        fields: [(name: String, schema: ConfigSchema)], reader: TOMLReader?, location: TOMLLocation,
        into values: inout ConfigValues
    ) throws(ConfigurationError) -> LuaValue {
        try reader?.allow(fields.map(\.name))
        var result: [LuaValue.Pair] = []
        for (name, schema) in fields {
            let fullName = reader?.name(name) ?? "plugin.config.\(name)"
            if let value = reader?.table[name] {
                result.append(LuaValue.Pair(name, try schema.read(value, name: fullName, into: &values)))
            } else if let value = schema.defaultValue {
                result.append(LuaValue.Pair(name, try schema.read(value, name: fullName, into: &values)))
            } else if schema.isRequired {
                throw ConfigurationError(location: location, message: "\(fullName) is missing")
            }
        }
        return .map(result)
    }

    private func secret(
        _ value: TOMLValue, name: String, into values: inout ConfigValues
    ) throws(ConfigurationError) -> LuaValue {
        func fail(_ message: String) -> ConfigurationError {
            ConfigurationError(location: value.location, message: "\(name): \(message)")
        }
        let bytes: [UInt8]
        if let text = value.string {
            bytes = Array(text.utf8)
        } else if let table = value.table {
            let reader = TOMLReader(table, path: name)
            try reader.allow(["file", "env"])
            if let path = try reader.string("file"), table.keys.count == 1 {
                bytes = try values.readSecretFile(path, fail)
            } else if let variable = try reader.string("env"), table.keys.count == 1 {
                guard let text = getenv(variable) else { throw fail("the environment variable \(variable) is not set") }
                bytes = Array(String(cString: text).utf8)
            } else {
                throw fail("a secret is text, { file = \"…\" } or { env = \"…\" }")
            }
        } else {
            throw fail("expected a secret (text, { file = \"…\" } or { env = \"…\" }), found \(value.typeName)")
        }
        try check(Double(bytes.count), "bytes", fail)
        return values.addSecret(bytes)
    }

    private func check(
        _ measure: Double, _ unit: String?, _ fail: (String) -> ConfigurationError
    ) throws(ConfigurationError) {
        func shown(_ value: Double) -> String {
            (Int64(exactly: value).map { "\($0)" } ?? "\(value)") + (unit.map { " \($0)" } ?? "")
        }
        if let minimum, measure < minimum { throw fail("must be at least \(shown(minimum)), is \(shown(measure))") }
        if let maximum, measure > maximum { throw fail("must be at most \(shown(maximum)), is \(shown(measure))") }
    }

    private func checkText(_ text: String, _ fail: (String) -> ConfigurationError) throws(ConfigurationError) {
        guard let pattern else { return }
        var message: UnsafePointer<CChar>?
        let found = pattern.utf8CString.withUnsafeBufferPointer { p in
            text.utf8CString.withUnsafeBufferPointer { t in
                moonraft_pattern_test(p.baseAddress, p.count - 1, t.baseAddress, t.count - 1, 1_000_000, &message)
            }
        }
        if found != 1 { throw fail("\"\(text)\" does not match the pattern \(pattern)") }
    }

    private func notAllowed(_ found: String) -> String {
        let names = allowed.map { $0.string.map { "\"\($0)\"" } ?? $0.integer.map { "\($0)" } ?? "?" }
        return "must be one of \(names.joined(separator: ", ")), is \(found)"
    }
}

/// What a checked configuration refers to besides plain values: secrets and files, by handle number.
struct ConfigValues: Sendable {
    private(set) var secrets: [[UInt8]] = []
    private(set) var files: [ConfiguredFile] = []
    private let directory: String
    /// Defaults are checked when a manifest is read, before there is a directory: files are not looked at.
    private let isDefault: Bool

    init(directory: String, isDefault: Bool = false) {
        self.directory = directory
        self.isDefault = isDefault
    }

    mutating func addSecret(_ bytes: [UInt8]) -> LuaValue {
        secrets.append(bytes)
        return .handle(kind: MOONRAFT_HANDLE_SECRET.int32, number: Int32(secrets.count))
    }

    mutating func addFile(
        _ path: String, _ fail: (String) -> ConfigurationError
    ) throws(ConfigurationError) -> LuaValue {
        let full = path.hasPrefix("/") ? path : directory.isEmpty ? path : "\(directory)/\(path)"
        if !isDefault {
            if let error = FileReading.problem(full) { throw fail("\(full): \(error)") }
        }
        files.append(ConfiguredFile(path: full))
        return .handle(kind: MOONRAFT_HANDLE_FILE.int32, number: Int32(files.count))
    }

    func readSecretFile(
        _ path: String, _ fail: (String) -> ConfigurationError
    ) throws(ConfigurationError) -> [UInt8] {
        guard !isDefault else { return [] }
        let full = path.hasPrefix("/") ? path : "\(directory)/\(path)"
        do {
            var bytes = try FileReading.read(full, maximum: 64 << 10, followLinks: true)
            // A file made with an editor or echo ends with a newline that is not part of the secret.
            while let last = bytes.last, last == 0x0A || last == 0x0D { bytes.removeLast() }
            return bytes
        } catch {
            throw fail("\(full): \(error.message)")
        }
    }
}

/// A file that the operator named in a plugin's configuration.
struct ConfiguredFile: Sendable, Hashable {
    let path: String
}

extension ConfigSchema {
    /// Whether the value at `path` below this one, indices left out, is a secret.
    package func isSecret(at path: ArraySlice<String>) -> Bool {
        switch kind {
        case .array(let items): return items.isSecret(at: path)
        case .map(let values): return values.isSecret(at: path.dropFirst())
        case .table(let fields):
            guard let name = path.first else { return false }
            return fields.first { $0.name == name }?.schema.isSecret(at: path.dropFirst()) ?? true
        default: return isSecret
        }
    }
}
