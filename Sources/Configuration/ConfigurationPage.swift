/// Writes configurations as TOML: the effective one of a node, and the reference page of all settings.
package enum ConfigurationPage {
    private static let width = 100

    // MARK: - Effective configuration

    /// The whole configuration in force, each value with where it came from. The result can be used as a file.
    ///
    /// - Parameter isSecret: whether a value of a plugin's `config` table must not be shown, asked with the
    ///   binding and the path of keys below `config`. Nothing but text and numbers in it is asked about.
    package static func effective(
        _ loaded: LoadedConfiguration, isSecret: (_ binding: TOMLTable, _ path: [String]) -> Bool
    ) -> String {
        var lines: [String] = []
        for section in Setting.sections {
            lines.append("[\(section.name)]")
            for setting in section.settings {
                let value = Setting.text(setting.read(loaded.configuration))
                lines.append("\(setting.name) = \(value)  # \(loaded.origin(of: setting.key))")
            }
            lines.append("")
        }
        for binding in loaded.configuration.plugins.bindings {
            lines.append("[[\(NodeConfiguration.pluginTableKey)]]  # \(binding.location)")
            for key in binding.keys {
                guard var value = binding[key] else { continue }
                if key == "config" { value = redacted(value, path: []) { isSecret(binding, $0) } }
                lines.append("\(TOMLText.key(key)) = \(TOMLText.value(value))  # \(value.location)")
            }
            lines.append("")
        }
        return lines.joined(separator: "\n")
    }

    private static func redacted(
        _ value: TOMLValue, path: [String], _ isSecret: ([String]) -> Bool
    ) -> TOMLValue {
        switch value.content {
        case .table(let table):
            var shown = TOMLTable(location: table.location)
            for key in table.keys {
                guard let inner = table[key] else { continue }
                shown.append(
                    key: key, value: redacted(inner, path: path + [key], isSecret),
                    keyLocation: table.keyLocation(key) ?? table.location)
            }
            return TOMLValue(.table(shown), location: value.location)
        case .array(let elements):
            return TOMLValue(
                .array(elements.map { redacted($0, path: path, isSecret) }), location: value.location)
        case .string, .integer, .float, .boolean, .datetime:
            return isSecret(path) ? TOMLValue(.string("(hidden)"), location: value.location) : value
        }
    }

    // MARK: - Reference page

    /// Everything up to and including this line of `config/moonraft.toml` is generated.
    package static let endOfReference =
        "# ---- end of the generated part; bindings of plugins follow, written by hand ----"

    /// The reference page: every key with its type, default, bounds, flag, variables and reason.
    package static var reference: String {
        var lines = TextWrap.lines(
            """
            Every setting of a Moonraft node, with its default. A line can be left out where the default is right. \
            Durations are strings such as "100ms", "5s" or "1h30m", sizes strings such as "64MiB" or plain numbers of \
            bytes. Environment variables override this file and flags override both: each setting has a flag of its key \
            (--raft.pre-vote=false), the flag of etcd named with it, the variable MOONRAFT_ and its key in capitals \
            (MOONRAFT_RAFT_PRE_VOTE), and etcd's ETCD_ variable where there is a flag of etcd. "moonraft check --config \
            FILE" checks a file, "moonraft config --effective" prints what is in force and why.
            """, width: width - 2
        ).map { "# " + $0 }
        lines.append("#")
        lines.append("# The settings are generated from the table in Sources/Configuration by `make docs`.")
        for section in Setting.sections {
            lines += ["", "# \(section.summary)", "[\(section.name)]"]
            for setting in section.settings {
                lines += ["", "# " + facts(setting)]
                lines += TextWrap.lines(setting.reason, width: width - 2).map { "# " + $0 }
                lines.append("\(setting.name) = \(Setting.text(setting.defaultValue))")
            }
        }
        lines += [
            "", "# One file can serve all members of a cluster: it lists what differs between them, and --member NAME",
        ]
        lines.append(
            "# (or MOONRAFT_MEMBER) picks the one that a node is. config/cluster.toml is an example. The keys:")
        lines += ["#", "# [[cluster.member]]"]
        for key in Setting.memberKeys {
            lines += TextWrap.lines(key.setting.reason, width: width - 4).map { "#   # " + $0 }
            lines.append("# \(key.setting.key.dropFirst("cluster.member.".count)) = \(Self.example(key.setting))")
        }
        lines += ["", endOfReference]
        return lines.joined(separator: "\n") + "\n"
    }

    private static func example(_ setting: Setting) -> String {
        switch setting.key {
        case "cluster.member.name": TOMLText.quoted("n1")
        case "cluster.member.data-dir": TOMLText.quoted("n1.moonraft")
        case let key where key.contains("peer"): "[\(TOMLText.quoted("http://127.0.0.1:2380"))]"
        default: "[\(TOMLText.quoted("http://127.0.0.1:2379"))]"
        }
    }

    private static func facts(_ setting: Setting) -> String {
        var facts = setting.typeName
        if !setting.bounds.isEmpty {
            switch setting.kind {
            case .choice: facts += " \(setting.bounds)"
            default: facts += ", \(setting.bounds)"
            }
        }
        facts += ". Default \(Setting.text(setting.defaultValue))."
        if let flag = setting.flag { facts += " Flag of etcd: --\(flag.name)." }
        return facts.prefix(1).uppercased() + facts.dropFirst()
    }
}
