/// A configuration that has passed all checks, and where each of its values came from.
///
/// Precedence: defaults, then the file, then environment variables, then flags. A setting given both by a
/// flag and by its variable is an error, as in etcd: one of the two would silently lose.
package struct LoadedConfiguration: Sendable {
    /// Where a value came from.
    package enum Origin: Equatable, Sendable, CustomStringConvertible {
        case standard
        case file(TOMLLocation)
        case environment(String)
        case flag(String)

        package var description: String {
            switch self {
            case .standard: "default"
            case .file(let location): location.description
            case .environment(let name): name
            case .flag(let spelling): spelling
            }
        }
    }

    package internal(set) var configuration = NodeConfiguration()
    /// The file that was read, as it was named.
    package private(set) var file: String?
    /// Sentences to log: unknown variables, values that etcd warns about.
    package internal(set) var warnings: [String] = []
    private var origins: [String: Origin] = [:]
    /// What `[[cluster.member]]` lists, in file order.
    private var clusterMembers: [ClusterMember] = []

    /// Where the value of the setting with this key came from.
    package func origin(of key: String) -> Origin { origins[key] ?? .standard }

    /// Reads all sources and checks the whole.
    ///
    /// - Parameters:
    ///   - arguments: what follows the program's name and verb.
    ///   - environment: the process's variables.
    ///   - readFile: reads the text of a file; replaced by tests.
    /// - Throws: the first problem, with file, line and column when it is in the file.
    package init(
        flags: CommandLineFlags, environment: [String: String],
        readFile: (String) throws(ConfigurationError) -> String = ConfigurationFile.read
    ) throws(ConfigurationError) {
        file = try Self.fileName(flags, environment)
        if let file {
            try apply(TOMLDocument.parse(text: try readFile(file), file: file))
        }
        try pickMember(try Self.memberName(flags, environment), flags: flags, environment: environment)
        try apply(environment, flags: flags)
        for occurrence in flags.occurrences {
            set(occurrence.setting, occurrence.value, .flag(occurrence.spelling))
        }
        try resolve()
    }

    /// Every member that the file lists, or the one picked, or the one there is.
    package static func all(
        flags: CommandLineFlags, environment: [String: String],
        readFile: (String) throws(ConfigurationError) -> String = ConfigurationFile.read
    ) throws(ConfigurationError) -> [LoadedConfiguration] {
        guard try memberName(flags, environment) == nil, let file = try fileName(flags, environment)
        else { return [try LoadedConfiguration(flags: flags, environment: environment, readFile: readFile)] }
        let text = try readFile(file)
        let table = try TOMLDocument.parse(text: text, file: file)
        guard let list = table["cluster"]?.table?["member"] else {
            return [try LoadedConfiguration(flags: flags, environment: environment) { _ in text }]
        }
        var all: [LoadedConfiguration] = []
        for member in try ClusterMember.list(list) {
            all.append(
                try LoadedConfiguration(
                    flags: flags.picking(member.name), environment: environment
                ) { _ in text })
        }
        return all
    }

    /// Reads the arguments and then all sources.
    package init(arguments: [String], environment: [String: String]) throws(ConfigurationError) {
        try self.init(flags: CommandLineFlags(arguments), environment: environment)
    }

    private mutating func set(_ setting: Setting, _ value: Setting.Value, _ origin: Origin) {
        setting.write(&configuration, value)
        origins[setting.key] = origin
    }

    // MARK: - Which member of the file

    private static let memberVariable = "MOONRAFT_MEMBER"

    private static func memberName(
        _ flags: CommandLineFlags, _ environment: [String: String]
    ) throws(ConfigurationError) -> String? {
        let variable = environment[memberVariable].flatMap { $0.isEmpty ? nil : $0 }
        if variable != nil && flags.member != nil { throw shadowed(memberVariable) }
        return flags.member ?? variable
    }

    /// The names that a file lists by `[[cluster.member]]`, in its order; empty when it lists none.
    package var memberNames: [String] { clusterMembers.map(\.name) }

    /// Takes what the file says of one member as if it stood in the sections for it.
    private mutating func pickMember(
        _ name: String?, flags: CommandLineFlags, environment: [String: String]
    ) throws(ConfigurationError) {
        guard let first = clusterMembers.first else {
            if let name {
                throw ConfigurationError(
                    message: "--member \(name): needs a configuration file with [[cluster.member]] tables")
            }
            return
        }
        let known = memberNames.joined(separator: ", ")
        for key in Setting.memberKeys.map(\.standsFor) + ["cluster.initial"] where origins[key] != nil {
            throw failure(key, "differs between members; say it in [[cluster.member]]")
        }
        guard let name else {
            throw ConfigurationError(
                location: first.location, message: "the file lists the members \(known); pick one by --member NAME")
        }
        guard let own = clusterMembers.first(where: { $0.name == name }) else {
            throw ConfigurationError(
                location: first.location, message: "--member: no member is called \"\(name)\"; the file lists \(known)")
        }
        if let other = flags.occurrences.first(where: { $0.setting.key == "member.name" }) {
            throw ConfigurationError(message: "\(other.spelling): the name comes from --member \(name)")
        }
        for variable in Self.settingsByKey["member.name"]?.environmentNames ?? []
        where environment[variable]?.isEmpty == false {
            throw ConfigurationError(message: "\(variable): the name comes from --member \(name)")
        }
        for entry in own.values {
            entry.setting.write(&configuration, entry.value)
            origins[entry.key] = .file(entry.location)
        }
        configuration.cluster.initial = InitialMember.text(clusterMembers.map(\.initialMember))
        origins["cluster.initial"] = .file(first.location)
    }

    // MARK: - File

    private static let fileVariable = "MOONRAFT_CONFIG"

    private static func fileName(
        _ flags: CommandLineFlags, _ environment: [String: String]
    ) throws(ConfigurationError) -> String? {
        let variable = environment[fileVariable].flatMap { $0.isEmpty ? nil : $0 }
        if variable != nil && flags.file != nil { throw shadowed(fileVariable) }
        return flags.file ?? variable
    }

    private static let settingsByKey: [String: Setting] = {
        var settings: [String: Setting] = [:]
        for setting in Setting.all { settings[setting.key] = setting }
        return settings
    }()

    private mutating func apply(_ root: TOMLTable) throws(ConfigurationError) {
        for name in root.keys {
            guard let value = root[name] else { continue }
            if name == NodeConfiguration.pluginTableKey {
                configuration.plugins.bindings = try Self.bindings(value)
            } else if Setting.sections.contains(where: { $0.name == name }) {
                try apply(section: name, value)
            } else {
                throw Self.unknownKey(name, root.keyLocation(name))
            }
        }
    }

    private mutating func apply(section: String, _ value: TOMLValue) throws(ConfigurationError) {
        guard let table = value.table else {
            throw ConfigurationError(
                location: value.location, message: "\(section): expected a table, found \(value.typeName)")
        }
        for name in table.keys {
            guard let value = table[name] else { continue }
            if section == "cluster", name == "member" {
                clusterMembers = try ClusterMember.list(value)
                continue
            }
            guard let setting = Self.settingsByKey["\(section).\(name)"] else {
                throw Self.unknownKey("\(section).\(name)", table.keyLocation(name))
            }
            set(setting, try setting.value(value), .file(value.location))
        }
    }

    private static func bindings(_ value: TOMLValue) throws(ConfigurationError) -> [TOMLTable] {
        let key = NodeConfiguration.pluginTableKey
        guard let elements = value.array else {
            throw ConfigurationError(
                location: value.location,
                message: "\(key): expected tables that start with [[\(key)]], found \(value.typeName)")
        }
        var tables: [TOMLTable] = []
        for element in elements {
            guard let table = element.table else {
                throw ConfigurationError(
                    location: element.location, message: "\(key): expected a table, found \(element.typeName)")
            }
            tables.append(table)
        }
        return tables
    }

    private static func unknownKey(_ key: String, _ location: TOMLLocation?) -> ConfigurationError {
        let isSection = !key.contains(".")
        let sections = Setting.sections.map(\.name) + [NodeConfiguration.pluginTableKey]
        let keys = Setting.all.map(\.key)
        var hint = EditDistance.nearestKey(to: key, among: keys)
        if isSection, let section = EditDistance.nearest(to: key, among: sections),
            EditDistance.between(key, section) <= 2
        {
            hint = section
        }
        return ConfigurationError(
            location: location, message: "unknown key \"\(key)\"" + (hint.map { "; the nearest is \"\($0)\"" } ?? ""))
    }

    // MARK: - Environment

    private mutating func apply(
        _ environment: [String: String], flags: CommandLineFlags
    ) throws(ConfigurationError) {
        var known: Set<String> = [Self.fileVariable, Self.memberVariable]
        let flagged = Set(flags.occurrences.map(\.setting.key))
        for setting in Setting.all {
            known.formUnion(setting.environmentNames)
            // An empty variable counts as unset, as in etcd.
            let given = setting.environmentNames.filter { environment[$0]?.isEmpty == false }
            guard let name = given.first, let text = environment[name] else { continue }
            if given.count > 1 {
                throw ConfigurationError(
                    message: "environment variables \(given.joined(separator: " and ")) set the same thing; unset one")
            }
            if flagged.contains(setting.key) { throw Self.shadowed(name) }
            do {
                set(setting, try setting.value(text: text), .environment(name))
            } catch {
                throw ConfigurationError(message: "\(name): \(error.message)")
            }
        }
        try checkUnknown(environment, known: known)
    }

    /// Variables of etcd that are not supported are refused like their flags; others that only look as if
    /// they were meant for us (a container platform makes some) are warned about.
    private mutating func checkUnknown(
        _ environment: [String: String], known: Set<String>
    ) throws(ConfigurationError) {
        let strangers = environment.filter { !$0.value.isEmpty && !known.contains($0.key) }.keys
            .filter { $0.hasPrefix("ETCD_") || $0.hasPrefix("MOONRAFT_") }.sorted()
        for name in strangers {
            for flag in UnsupportedFlags.names
            where Setting.environmentName(prefix: "ETCD", flag) == name {
                if let refusal = UnsupportedFlags.refusal(flag) {
                    throw ConfigurationError(message: "\(name): --\(flag) \(refusal)")
                }
            }
            warnings.append("unrecognized environment variable \(name)")
        }
    }

    private static func shadowed(_ variable: String) -> ConfigurationError {
        ConfigurationError(
            message: """
                conflicting environment variable "\(variable)" is shadowed by corresponding command-line flag \
                (either unset environment variable or disable flag)
                """)
    }

    // MARK: - Errors of the whole

    /// An error about a setting, at the place its value came from.
    func failure(_ key: String, _ message: String) -> ConfigurationError {
        switch origin(of: key) {
        case .standard: ConfigurationError(message: "\(key): \(message)")
        case .file(let location): ConfigurationError(location: location, message: "\(key): \(message)")
        case .environment(let name): ConfigurationError(message: "\(name): \(message)")
        case .flag(let spelling): ConfigurationError(message: "\(spelling): \(message)")
        }
    }
}
