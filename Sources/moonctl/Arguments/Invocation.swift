// The rules are those of Go's pflag and cobra, as etcdctl's users know them: flags stand anywhere
// among the arguments, `--name value` or `--name=value`, `-w json`, `-w=json` or `-wjson`; a
// boolean alone means true; `--` ends the flags; a unique beginning of a command's name is enough.

/// One command line, taken apart.
struct Invocation: Sendable {
    /// From the root to the command that runs.
    private(set) var path: [Command]
    private(set) var arguments: [[UInt8]] = []
    /// How many of the arguments stand before `--`; nil without one.
    private(set) var separator: Int?
    private(set) var wantsHelp = false
    private(set) var known: [Flag]
    private var values: [String: Flag.Value] = [:]

    /// Fails with exit code 1, as cobra does.
    init(_ words: [[UInt8]], root: Command, globals: [Flag] = []) throws(CommandError) {
        path = [root]
        known = globals + root.flags
        var rest = words[...]
        while let word = rest.popFirst() {
            if separator != nil || word.count < 2 || word.first != Self.dash {
                try take(word)
            } else if word == [Self.dash, Self.dash] {
                separator = arguments.count
            } else if word[1] == Self.dash {
                try takeLong(word, &rest)
            } else {
                try takeShort(word, &rest)
            }
        }
    }

    private static let dash = UInt8(ascii: "-")

    var command: Command { path[path.count - 1] }
    var title: String { path.map(\.name).joined(separator: " ") }

    private mutating func take(_ word: [UInt8]) throws(CommandError) {
        guard separator == nil, !command.subcommands.isEmpty else {
            arguments.append(word)
            return
        }
        let name = String(decoding: word, as: UTF8.self)
        guard let next = command.subcommand(name) else {
            throw refusal("unknown command \(GoText.quote(name)) for \(GoText.quote(title))")
        }
        path.append(next)
        known += next.flags
    }

    private mutating func takeLong(
        _ word: [UInt8], _ rest: inout ArraySlice<[UInt8]>
    ) throws(CommandError) {
        let body = word.dropFirst(2)
        let end = body.firstIndex(of: UInt8(ascii: "=")) ?? body.endIndex
        let name = String(decoding: body[..<end], as: UTF8.self)
        if name.isEmpty || name.hasPrefix("-") {
            throw refusal("bad flag syntax: \(String(decoding: word, as: UTF8.self))")
        }
        guard let flag = known.first(where: { $0.name == name }) else {
            if name == "help" { wantsHelp = true } else { throw refusal("unknown flag: --\(name)") }
            return
        }
        if end < body.endIndex {
            try set(flag, Array(body[(end + 1)...]))
        } else if flag.isBool {
            values[name] = .bool(true)
        } else if let value = rest.popFirst() {
            try set(flag, value)
        } else {
            throw refusal("flag needs an argument: --\(name)")
        }
    }

    private mutating func takeShort(
        _ word: [UInt8], _ rest: inout ArraySlice<[UInt8]>
    ) throws(CommandError) {
        let text = String(decoding: word, as: UTF8.self)
        var body = word.dropFirst()
        while let byte = body.popFirst() {
            let letter = Character(Unicode.Scalar(byte))
            guard let flag = known.first(where: { $0.short == letter }) else {
                guard letter == "h" else {
                    throw refusal("unknown shorthand flag: '\(letter)' in \(text)")
                }
                wantsHelp = true
                continue
            }
            if body.first == UInt8(ascii: "=") {
                return try set(flag, Array(body.dropFirst()))
            } else if flag.isBool {
                values[flag.name] = .bool(true)
            } else if !body.isEmpty {
                return try set(flag, Array(body))
            } else if let value = rest.popFirst() {
                return try set(flag, value)
            } else {
                throw refusal("flag needs an argument: '\(letter)' in \(text)")
            }
        }
    }

    private mutating func set(_ flag: Flag, _ bytes: [UInt8]) throws(CommandError) {
        do throws(ValueError) {
            let value = try flag.parse(bytes)
            if case .list(let new) = value, case .list(let old)? = values[flag.name] {
                values[flag.name] = .list(old + new)
            } else {
                values[flag.name] = value
            }
        } catch {
            throw refusal(
                "invalid argument \(GoText.quote(bytes)) for \(GoText.quote(flag.label)) flag: "
                    + error.reason)
        }
    }

    private func refusal(_ message: String) -> CommandError {
        CommandError(.error, message, hint: "Run '\(title) --help' for usage.")
    }

    // MARK: Values

    func isSet(_ name: String) -> Bool { values[name] != nil }

    /// Gives a flag that the command line left open a value from elsewhere.
    mutating func set(_ name: String, _ value: Flag.Value) { values[name] = value }

    func bool(_ name: String) -> Bool {
        if case .bool(let value) = value(name) { return value }
        preconditionFailure("--\(name) is not a boolean")
    }

    func integer(_ name: String) -> Int64 {
        if case .integer(let value) = value(name) { return value }
        preconditionFailure("--\(name) is not a number")
    }

    func text(_ name: String) -> String {
        if case .text(let value) = value(name) { return String(decoding: value, as: UTF8.self) }
        preconditionFailure("--\(name) is not a text")
    }

    func duration(_ name: String) -> Duration {
        if case .duration(let value) = value(name) { return value }
        preconditionFailure("--\(name) is not a duration")
    }

    func list(_ name: String) -> [String] {
        if case .list(let value) = value(name) { return value }
        preconditionFailure("--\(name) is not a list")
    }

    private func value(_ name: String) -> Flag.Value {
        if let value = values[name] { return value }
        guard let flag = known.first(where: { $0.name == name }) else {
            preconditionFailure("\(title) has no flag --\(name)")
        }
        return flag.initial
    }
}
