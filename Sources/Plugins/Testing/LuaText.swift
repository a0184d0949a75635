/// Values of Lua written as TOML and JSON, for bindings and tokens that tests describe in tables.
enum LuaText {
    /// Inline TOML; nil for what TOML cannot hold. The schema decides whether an empty table is an array.
    static func toml(_ value: LuaValue, _ schema: ConfigSchema? = nil) -> String? {
        switch value {
        case .null, .jsonNull, .handle: return nil
        case .boolean(let value): return value ? "true" : "false"
        case .integer(let value): return "\(value)"
        case .number(let value):
            guard value.isFinite else { return nil }
            return "\(value)"
        case .string(let bytes):
            guard let text = String(validating: bytes, as: UTF8.self) else { return nil }
            return quoted(text)
        case .array(let items):
            var inner: ConfigSchema?
            if case .array(let schema)? = schema?.kind { inner = schema }
            var parts: [String] = []
            for item in items {
                guard let part = toml(item, inner) else { return nil }
                parts.append(part)
            }
            return "[\(parts.joined(separator: ", "))]"
        case .map(let pairs):
            if pairs.isEmpty, case .array? = schema?.kind { return "[]" }
            var parts: [String] = []
            for pair in pairs.sorted(by: { $0.key.described < $1.key.described }) {
                var inner: ConfigSchema?
                switch schema?.kind {
                case .table(let fields)?: inner = fields.first { $0.name == pair.key.string }?.schema
                case .map(let values)?: inner = values
                default: break
                }
                guard let part = toml(pair.value, inner) else { return nil }
                parts.append("\(quoted(pair.key.described)) = \(part)")
            }
            return "{ \(parts.joined(separator: ", ")) }"
        }
    }

    static func quoted(_ text: String) -> String {
        var out = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": out += "\\\""
            case "\\": out += "\\\\"
            case "\n": out += "\\n"
            case "\r": out += "\\r"
            case "\t": out += "\\t"
            case _ where scalar.value < 0x20 || scalar.value == 0x7F:
                let hex = String(scalar.value, radix: 16)
                out += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out + "\""
    }

    static func json(_ value: LuaValue) -> String {
        switch value {
        case .null, .jsonNull, .handle: "null"
        case .boolean(let value): value ? "true" : "false"
        case .integer(let value): "\(value)"
        case .number(let value): value.isFinite ? "\(value)" : "null"
        case .string(let bytes): quoted(String(decoding: bytes, as: UTF8.self))
        case .array(let items): "[\(items.map(json).joined(separator: ","))]"
        case .map(let pairs):
            "{\(pairs.map { "\(quoted($0.key.described)):\(json($0.value))" }.joined(separator: ","))}"
        }
    }
}
