// How a setting's value is read from TOML and from text, checked against its bounds, and printed.

extension Setting {
    typealias Problem = SettingText.Problem

    /// Reads a value of the file.
    ///
    /// - Throws: the place and the reason when the type is wrong, the text is malformed or the value is out
    ///   of bounds.
    package func value(_ toml: TOMLValue) throws(ConfigurationError) -> Value {
        do {
            return try checked(try unchecked(toml))
        } catch {
            throw ConfigurationError(location: toml.location, message: "\(key): \(error.message)")
        }
    }

    /// Reads a value of a flag or an environment variable.
    package func value(text: String) throws(SettingText.Problem) -> Value {
        switch kind {
        case .string, .choice, .retention: return try checked(.string(text))
        case .boolean: return .boolean(try SettingText.boolean(text))
        case .integer: return try checked(.integer(try SettingText.integer(text)))
        case .duration:
            if flag?.plainNumberIsMilliseconds == true, let milliseconds = Int32(text) {
                return try checked(.duration(.milliseconds(milliseconds)))
            }
            return try checked(.duration(try SettingText.duration(text)))
        case .size: return try checked(.size(try SettingText.size(text)))
        case .quota: return try checked(try quota(text: text))
        case .urls: return try checked(.urls(text.isEmpty ? [] : try EndpointURL.list(text).sorted()))
        case .strings:
            return .strings(text.split(separator: ",").map(String.init))
        }
    }

    private func unchecked(_ toml: TOMLValue) throws(Problem) -> Value {
        switch kind {
        case .string, .choice:
            guard let text = toml.string else { throw wrongType(toml) }
            return .string(text)
        case .boolean:
            guard let truth = toml.boolean else { throw wrongType(toml) }
            return .boolean(truth)
        case .integer:
            guard let number = toml.integer else { throw wrongType(toml) }
            return .integer(number)
        case .duration:
            guard let text = toml.string else { throw wrongType(toml) }
            return .duration(try SettingText.duration(text))
        case .size:
            if let bytes = toml.integer { return .size(bytes) }
            guard let text = toml.string else { throw wrongType(toml) }
            return .size(try SettingText.size(text))
        case .quota:
            if let bytes = toml.integer { return try quota(text: String(bytes)) }
            guard let text = toml.string else { throw wrongType(toml) }
            return try quota(text: text)
        case .retention:
            if let number = toml.integer { return .string(String(number)) }
            guard let text = toml.string else { throw wrongType(toml) }
            return .string(text)
        case .urls:
            var urls: [EndpointURL] = []
            for text in try texts(toml) { urls.append(try EndpointURL(text)) }
            return .urls(urls.sorted())
        case .strings: return .strings(try texts(toml))
        }
    }

    private func texts(_ toml: TOMLValue) throws(Problem) -> [String] {
        guard let elements = toml.array else { throw wrongType(toml) }
        var texts: [String] = []
        for element in elements {
            guard let text = element.string else { throw wrongType(element) }
            texts.append(text)
        }
        return texts
    }

    private func quota(text: String) throws(Problem) -> Value {
        if text == "off" { return .size(nil) }
        if let number = Int(text), number <= 0 {
            return .size(number == 0 ? NodeConfiguration.defaultQuotaBytes : nil)
        }
        return .size(try SettingText.size(text))
    }

    private func wrongType(_ toml: TOMLValue) -> Problem {
        Problem(message: "expected \(expectation), found \(toml.typeName)")
    }

    private func checked(_ value: Value) throws(Problem) -> Value {
        switch (kind, value) {
        case (.integer(let range), .integer(let number)):
            guard range.contains(number) else { throw outOfRange(Self.text(value)) }
        case (.duration(let range), .duration(let duration)):
            guard range.contains(duration) else { throw outOfRange(SettingText.text(duration)) }
        case (.size(let range), .size(let bytes?)), (.quota(let range), .size(let bytes?)):
            guard range.contains(bytes) else { throw outOfRange(SettingText.text(size: bytes)) }
        case (.choice(let choices), .string(let text)):
            guard choices.contains(text) else {
                throw Problem(message: "expected \(expectation), found \"\(text)\"")
            }
        case (.urls, .urls(let urls)):
            for (offset, url) in urls.enumerated() where urls[..<offset].contains(url) {
                throw Problem(message: "\(url) stands twice")
            }
        default: break
        }
        return value
    }

    private func outOfRange(_ found: String) -> Problem {
        Problem(message: "\(found) is out of range, expected \(bounds)")
    }

    /// The bounds in words; empty for kinds without.
    package var bounds: String {
        switch kind {
        case .integer(let range):
            range.upperBound == Int.max ? "\(range.lowerBound) or more" : "\(range.lowerBound) to \(range.upperBound)"
        case .duration(let range):
            "\(SettingText.text(range.lowerBound)) to \(SettingText.text(range.upperBound))"
        case .size(let range), .quota(let range):
            "\(SettingText.text(size: range.lowerBound)) to \(SettingText.text(size: range.upperBound))"
        case .choice(let choices): choices.map { "\"\($0)\"" }.joined(separator: ", ")
        case .string, .boolean, .retention, .urls, .strings: ""
        }
    }

    /// What the setting takes, in words, for error messages.
    private var expectation: String {
        switch kind {
        case .string: "a string"
        case .boolean: "true or false"
        case .integer: "an integer"
        case .duration: "a duration with its unit in quotes, such as \"100ms\" or \"5s\""
        case .size: "a size such as \"64MiB\", or a number of bytes"
        case .quota: "a size such as \"2GiB\", a number of bytes, or \"off\""
        case .retention: "a duration such as \"10m\", or a number of hours or of revisions"
        case .urls: "an array of URLs such as [\"http://127.0.0.1:2379\"]"
        case .strings: "an array of strings"
        case .choice(let choices): "one of " + choices.map { "\"\($0)\"" }.joined(separator: ", ")
        }
    }

    /// The type in words, for the reference page.
    package var typeName: String {
        switch kind {
        case .string: "string"
        case .boolean: "boolean"
        case .integer: unit.isEmpty ? "integer" : "integer, \(unit)"
        case .duration: "duration"
        case .size: "size"
        case .quota: "size or \"off\""
        case .retention: "duration or number"
        case .urls: "array of URLs"
        case .strings: "array of strings"
        case .choice: "one of"
        }
    }

    /// The value as it stands in a TOML file.
    package static func text(_ value: Value) -> String {
        switch value {
        case .string(let text): TOMLText.quoted(text)
        case .boolean(let truth): truth ? "true" : "false"
        case .integer(let number): String(number)
        case .duration(let duration): TOMLText.quoted(SettingText.text(duration))
        case .size(let bytes): TOMLText.quoted(bytes.map(SettingText.text(size:)) ?? "off")
        case .urls(let urls): "[" + urls.map { TOMLText.quoted($0.description) }.joined(separator: ", ") + "]"
        case .strings(let texts): "[" + texts.map(TOMLText.quoted).joined(separator: ", ") + "]"
        }
    }
}
