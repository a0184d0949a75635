/// The flags of `moonraft`, in the form of Go's flag package, which etcd's users and their scripts know:
/// one dash or two, `--flag value` or `--flag=value`, a boolean alone means true, the last of several wins.
///
/// Every setting has a flag: etcd's name where etcd has the setting, and its key (`--raft.pre-vote`) always.
package struct CommandLineFlags: Sendable {
    /// One flag as it was given.
    package struct Occurrence: Sendable {
        package let setting: Setting
        /// With its dashes, as it was written.
        package let spelling: String
        package let value: Setting.Value
    }

    /// The file named by `--config`.
    package private(set) var file: String?
    /// The member of the file that `--member` picks.
    package private(set) var member: String?
    /// In the order given.
    package private(set) var occurrences: [Occurrence] = []
    package private(set) var wantsHelp = false
    package private(set) var wantsVersion = false
    /// `--force-new-cluster`. A flag and nothing else: in a file or a variable it would be found again
    /// at every start, and drop the members that were added since.
    package private(set) var forcesNewCluster = false
    /// Arguments that are no flags, for verbs that take some.
    package private(set) var operands: [String] = []

    /// Reads the arguments that follow the program's name (and its verb).
    ///
    /// - Parameter takesOperands: whether arguments that are no flags are kept; else they are errors.
    /// - Throws: an error without location that names the flag.
    package init(
        _ arguments: [String], takesOperands: Bool = false
    ) throws(ConfigurationError) {
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            guard argument.hasPrefix("-"), argument != "-" else {
                guard takesOperands else { throw Self.notAFlag(argument) }
                operands.append(argument)
                continue
            }
            if argument == "--" {
                if let next = rest.first { throw Self.notAFlag(next) }
                break
            }
            let dashes = argument.hasPrefix("--") ? "--" : "-"
            let body = argument.dropFirst(dashes.count)
            let name = String(body.prefix { $0 != "=" })
            guard !name.isEmpty, !name.hasPrefix("-") else {
                throw ConfigurationError(message: "bad flag syntax: \(argument)")
            }
            let inline = body.count > name.count ? String(body.dropFirst(name.count + 1)) : nil
            try read(name: name, spelling: dashes + name, inline: inline, rest: &rest)
        }
    }

    /// The same flags with `--member`.
    func picking(_ member: String) -> CommandLineFlags {
        var flags = self
        flags.member = member
        return flags
    }

    private mutating func read(
        name: String, spelling: String, inline: String?, rest: inout ArraySlice<String>
    ) throws(ConfigurationError) {
        switch name {
        case "config":
            file = try Self.argument(spelling, inline, &rest)
        case "member":
            member = try Self.argument(spelling, inline, &rest)
        case "h", "help":
            wantsHelp = true
        case "force-new-cluster":
            forcesNewCluster = try Self.truth(spelling, inline)
        case "version":
            wantsVersion = try Self.truth(spelling, inline)
        default:
            guard let setting = Self.settings[name] else { throw Self.unknown(name, spelling) }
            let text: String
            if setting.kind == .boolean {
                text = inline ?? "true"
            } else {
                text = try Self.argument(spelling, inline, &rest)
            }
            do {
                let value = try setting.value(text: text)
                occurrences.append(Occurrence(setting: setting, spelling: spelling, value: value))
            } catch {
                throw ConfigurationError(message: "\(spelling): \(error.message)")
            }
        }
    }

    private static func argument(
        _ spelling: String, _ inline: String?, _ rest: inout ArraySlice<String>
    ) throws(ConfigurationError) -> String {
        if let inline { return inline }
        guard let next = rest.popFirst() else {
            throw ConfigurationError(message: "flag needs an argument: \(spelling)")
        }
        return next
    }

    private static func truth(_ spelling: String, _ inline: String?) throws(ConfigurationError) -> Bool {
        guard let inline else { return true }
        do {
            return try SettingText.boolean(inline)
        } catch {
            throw ConfigurationError(message: "\(spelling): \(error.message)")
        }
    }

    /// Flag name without dashes to setting: etcd's names and our keys.
    static let settings: [String: Setting] = {
        var settings: [String: Setting] = [:]
        for setting in Setting.all {
            settings[setting.key] = setting
            if let flag = setting.flag { settings[flag.name] = setting }
        }
        return settings
    }()

    private static func notAFlag(_ argument: String) -> ConfigurationError {
        ConfigurationError(message: "\"\(argument)\" is not a valid flag")
    }

    private static func unknown(_ name: String, _ spelling: String) -> ConfigurationError {
        if let refusal = UnsupportedFlags.refusal(name) {
            return ConfigurationError(message: "\(spelling) \(refusal)")
        }
        let names =
            Setting.all.compactMap { $0.flag?.name } + Setting.all.map(\.key)
            + ["config", "force-new-cluster", "help", "member", "version"]
        let hint = EditDistance.nearest(to: name, among: names).map { "; the nearest is --\($0)" } ?? ""
        return ConfigurationError(message: "flag provided but not defined: \(spelling)\(hint)")
    }

    /// What `--help` prints about flags: name, default and reason of every setting.
    package static var help: String {
        var lines = [
            "  --config FILE",
            "      Settings in TOML; environment variables and flags override it.",
            "  --member NAME",
            "      Which [[cluster.member]] of the file this node is.",
            "  --force-new-cluster",
            "      Make this member the only one of its cluster and drop the others, which are lost for good. Give it",
            "      once, see docs/disaster-recovery.md.",
        ]
        for section in Setting.sections {
            lines.append("")
            lines.append("\(section.name): \(section.summary)")
            for setting in section.settings {
                lines.append("  --\(setting.flagName)  (\(Setting.text(setting.defaultValue)))")
                lines += TextWrap.lines(setting.reason, width: 92).map { "      " + $0 }
            }
        }
        return lines.joined(separator: "\n") + "\n"
    }
}

/// Breaks prose into lines.
enum TextWrap {
    static func lines(_ text: String, width: Int) -> [String] {
        var lines: [String] = []
        var line = ""
        for word in text.split(whereSeparator: \.isWhitespace) {
            if !line.isEmpty && line.count + 1 + word.count > width {
                lines.append(line)
                line = ""
            }
            line += line.isEmpty ? String(word) : " \(word)"
        }
        if !line.isEmpty { lines.append(line) }
        return lines
    }
}
