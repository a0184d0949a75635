import FoundationEssentials

/// A JSON text in the making, with its members in order and the escapes of Go's encoding/json.
indirect enum JSONValue {
    case null
    case bool(Bool)
    case integer(Int64)
    case unsigned(UInt64)
    case string(String)
    case bytes(Data)
    case array([JSONValue])
    case object(JSONObject)

    var text: String {
        var text = ""
        write(&text)
        return text
    }

    private func write(_ text: inout String) {
        switch self {
        case .null: text += "null"
        case .bool(let value): text += "\(value)"
        case .integer(let value): text += "\(value)"
        case .unsigned(let value): text += "\(value)"
        case .string(let value): Self.write(value, &text)
        case .bytes(let value): text += "\"\(value.base64EncodedString())\""
        case .array(let values):
            text += "["
            for (index, value) in values.enumerated() {
                if index > 0 { text += "," }
                value.write(&text)
            }
            text += "]"
        case .object(let object):
            text += "{"
            for (index, member) in object.members.enumerated() {
                if index > 0 { text += "," }
                Self.write(member.name, &text)
                text += ":"
                member.value.write(&text)
            }
            text += "}"
        }
    }

    private static func write(_ string: String, _ text: inout String) {
        text += "\""
        for scalar in string.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\r": text += "\\r"
            case "\t": text += "\\t"
            case "<", ">", "&", "\u{2028}", "\u{2029}", "\0"..<" ":
                text += "\\u" + GoText.padded(String(scalar.value, radix: 16), 4)
            default: text.unicodeScalars.append(scalar)
            }
        }
        text += "\""
    }
}

/// The members of a JSON object, in the order they were set.
struct JSONObject {
    private(set) var members: [(name: String, value: JSONValue)] = []

    mutating func set(_ name: String, _ value: JSONValue) { members.append((name, value)) }

    /// Sets what Go's `omitempty` would show.
    mutating func unlessZero(_ name: String, _ value: Int64) {
        if value != 0 { set(name, .integer(value)) }
    }

    mutating func unlessZero(_ name: String, _ value: UInt64) {
        if value != 0 { set(name, .unsigned(value)) }
    }

    mutating func unlessEmpty(_ name: String, _ value: String) {
        if !value.isEmpty { set(name, .string(value)) }
    }

    mutating func unlessEmpty(_ name: String, _ value: Data) {
        if !value.isEmpty { set(name, .bytes(value)) }
    }

    mutating func unlessEmpty(_ name: String, _ values: [JSONValue]) {
        if !values.isEmpty { set(name, .array(values)) }
    }

    mutating func ifTrue(_ name: String, _ value: Bool) {
        if value { set(name, .bool(true)) }
    }
}
