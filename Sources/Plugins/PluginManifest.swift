import Configuration

/// What a plugin may be given besides the functions that everyone has.
package enum PluginCapability: String, CaseIterable, Sendable {
    case kvRead = "kv.read"
    case metrics
    case fileAppend = "file.append"
    case store
    case jwt
    case bcrypt
}

/// Whether a failing hook stops the request.
package enum FailurePolicy: String, Sendable { case closed, open }

/// Which requests a binding is for. Nil: not said here.
package struct PluginMatch: Sendable, Equatable {
    package enum Stage: String, CaseIterable, Sendable { case decided, completed }

    package var prefixes: [[UInt8]]?
    package var rpcs: RPCSet?
    package var users: [String]?
    package var roles: [String]?
    package var stages: [Stage]?

    static func parse(_ reader: TOMLReader?) throws(ConfigurationError) -> PluginMatch {
        var match = PluginMatch()
        guard let reader else { return match }
        try reader.allow(["prefixes", "rpcs", "users", "roles", "stages"])
        match.prefixes = try reader.strings("prefixes")?.map { Array($0.text.utf8) }
        if let names = try reader.strings("rpcs") {
            var set = RPCSet()
            for (name, location) in names {
                guard let kind = RPCKind(name: name) else {
                    let near = EditDistance.nearest(to: name, among: RPCKind.allCases.map { "\($0.name)" })
                    throw ConfigurationError(
                        location: location,
                        message: "\(reader.name("rpcs")): unknown call \"\(name)\"; did you mean \"\(near ?? "")\"?")
                }
                set.insert(RPCSet(kind))
            }
            match.rpcs = set
        }
        match.users = try reader.strings("users")?.map(\.text)
        match.roles = try reader.strings("roles")?.map(\.text)
        if let names = try reader.strings("stages") {
            var stages: [Stage] = []
            for (name, location) in names {
                guard let stage = Stage(rawValue: name) else {
                    throw ConfigurationError(
                        location: location,
                        message:
                            "\(reader.name("stages")): the stages are \"decided\" and \"completed\", not \"\(name)\"")
                }
                stages.append(stage)
            }
            match.stages = stages
        }
        return match
    }

    /// The binding's keys in place of the manifest's, one by one.
    func overridden(by other: PluginMatch) -> PluginMatch {
        PluginMatch(
            prefixes: other.prefixes ?? prefixes, rpcs: other.rpcs ?? rpcs, users: other.users ?? users,
            roles: other.roles ?? roles, stages: other.stages ?? stages)
    }
}

/// What one call may use. Nil: not said here.
package struct PluginBudget: Sendable, Equatable {
    package var instructions: UInt64?
    package var nanoseconds: UInt64?
    package var memory: Int?

    static func parse(_ reader: TOMLReader?) throws(ConfigurationError) -> PluginBudget {
        var budget = PluginBudget()
        guard let reader else { return budget }
        try reader.allow(["instructions", "time", "memory"])
        if let instructions = try reader.integer("instructions") {
            guard instructions > 0 else { throw reader.error("instructions", "must be positive") }
            budget.instructions = UInt64(instructions)
        }
        budget.nanoseconds = try reader.duration("time")
        if budget.nanoseconds == 0 { throw reader.error("time", "must be positive") }
        budget.memory = try reader.size("memory")
        return budget
    }

    func overridden(by other: PluginBudget) -> PluginBudget {
        PluginBudget(
            instructions: other.instructions ?? instructions, nanoseconds: other.nanoseconds ?? nanoseconds,
            memory: other.memory ?? memory)
    }
}

/// A metric a plugin declares.
package struct MetricDeclaration: Sendable, Equatable {
    package enum Kind: String, Sendable { case counter, gauge, histogram }

    package let name: String
    package let kind: Kind
    package let help: String
    package let labels: [String]
    /// Histogram: upper bounds, ascending; the last bucket is unbounded.
    package let buckets: [Double]
    package let maximumSeries: Int
}

/// `plugin.toml`, checked.
package struct PluginManifest: Sendable {
    package let name: String
    package let version: String
    package let summary: String
    package let entry: String
    package let hooks: HookSet
    package let capabilities: Set<PluginCapability>
    package let priority: Int
    package let isCritical: Bool
    package let match: PluginMatch
    package let budget: PluginBudget
    package let failure: [PluginHook: FailurePolicy]
    package let config: [(name: String, schema: ConfigSchema)]
    package let metrics: [MetricDeclaration]

    static let fileName = "plugin.toml"

    /// Reads the manifest of a package.
    ///
    /// - Throws: the place of the first error.
    package init(_ package: PluginPackage) throws(PluginError) {
        let path = "\(package.directory)/\(Self.fileName)"
        guard let file = package.file(Self.fileName) else { throw PluginError(file: path, message: "no such file") }
        guard let text = String(validating: file.bytes, as: UTF8.self) else {
            throw PluginError(file: path, message: "not UTF-8 text")
        }
        do {
            try self.init(try TOMLDocument.parse(text: text, file: path), package: package)
        } catch {
            throw PluginError(error)
        }
    }

    private init(_ table: TOMLTable, package: PluginPackage) throws(ConfigurationError) {
        let reader = TOMLReader(table, path: "")
        try reader.allow([
            "name", "version", "api", "summary", "entry", "hooks", "capabilities", "priority", "critical", "match",
            "budget",
            "failure", "config", "metrics",
        ])
        name = try reader.requiredString("name")
        guard name == package.name else {
            throw reader.error("name", "\"\(name)\" is not the name of the folder, \"\(package.name)\"")
        }
        version = try reader.requiredString("version")
        guard !version.isEmpty, version.utf8.count <= 64 else {
            throw reader.error("version", "must have 1 to 64 bytes")
        }
        let api = try reader.requiredString("api")
        guard api == "1" else { throw reader.error("api", "this host has version \"1\" of the API, not \"\(api)\"") }
        summary = try reader.string("summary") ?? ""
        entry = try reader.string("entry") ?? "init.lua"
        guard package.file(entry) != nil else { throw reader.error("entry", "the package has no file \(entry)") }
        hooks = try Self.hooks(reader)
        capabilities = try Self.capabilities(reader)
        priority = try reader.integer("priority") ?? 1000
        isCritical = try reader.boolean("critical") ?? false
        match = try PluginMatch.parse(try reader.table("match"))
        budget = try PluginBudget.parse(try reader.table("budget"))
        failure = try Self.failure(try reader.table("failure"))
        var config: [(name: String, schema: ConfigSchema)] = []
        if let table = try reader.table("config") {
            for key in table.table.keys {
                guard let inner = try table.table(key) else { continue }
                config.append((key, try ConfigSchema.parse(inner)))
            }
        }
        self.config = config
        var metrics: [MetricDeclaration] = []
        if let table = try reader.table("metrics") {
            for key in table.table.keys {
                guard let inner = try table.table(key) else { continue }
                metrics.append(try Self.metric(key, inner))
            }
            guard metrics.count <= 64 else { throw reader.error("metrics", "more than 64 metrics") }
        }
        self.metrics = metrics
    }

    private static func hooks(_ reader: TOMLReader) throws(ConfigurationError) -> HookSet {
        guard let names = try reader.strings("hooks") else {
            throw ConfigurationError(location: reader.table.location, message: "hooks is missing")
        }
        var hooks = HookSet()
        for (name, location) in names {
            guard let hook = PluginHook(name: name) else {
                let near = EditDistance.nearest(to: name, among: PluginHook.allCases.map(\.name)) ?? ""
                throw ConfigurationError(
                    location: location, message: "hooks: \"\(name)\" is not a hook; did you mean \"\(near)\"?")
            }
            guard !hooks.contains(hook) else {
                throw ConfigurationError(location: location, message: "hooks: \"\(name)\" is listed twice")
            }
            hooks.insert(hook.set)
        }
        return hooks
    }

    private static func capabilities(_ reader: TOMLReader) throws(ConfigurationError) -> Set<PluginCapability> {
        var capabilities: Set<PluginCapability> = []
        for (name, location) in try reader.strings("capabilities") ?? [] {
            guard let capability = PluginCapability(rawValue: name) else {
                let known = PluginCapability.allCases.map(\.rawValue).joined(separator: ", ")
                throw ConfigurationError(
                    location: location, message: "capabilities: \"\(name)\" is unknown; there are \(known)")
            }
            capabilities.insert(capability)
        }
        return capabilities
    }

    static func failure(_ reader: TOMLReader?) throws(ConfigurationError) -> [PluginHook: FailurePolicy] {
        var policies: [PluginHook: FailurePolicy] = [:]
        guard let reader else { return policies }
        try reader.allow(PluginHook.requestHooks.map(\.name) + [PluginHook.audit.name])
        for key in reader.table.keys {
            guard let text = try reader.string(key), let hook = PluginHook(name: key) else { continue }
            guard let policy = FailurePolicy(rawValue: text) else {
                throw reader.error(key, "expected \"closed\" or \"open\", found \"\(text)\"")
            }
            guard policy == .closed || PluginHook.mayOpen.contains(hook) else {
                throw reader.error(key, "\(key) is always closed")
            }
            policies[hook] = policy
        }
        return policies
    }

    private static func metric(_ name: String, _ reader: TOMLReader) throws(ConfigurationError) -> MetricDeclaration {
        try reader.allow(["type", "help", "labels", "buckets", "max_series"])
        func fail(_ message: String) -> ConfigurationError {
            ConfigurationError(location: reader.table.location, message: "\(reader.path): \(message)")
        }
        guard isMetricName(name, maximum: 100) else {
            throw fail("metric names are a-z, 0-9 and '_', and start with a letter")
        }
        guard !name.hasPrefix("plugin_") else { throw fail("names that begin with plugin_ belong to the host") }
        let kindName = try reader.requiredString("type")
        guard let kind = MetricDeclaration.Kind(rawValue: kindName) else {
            throw reader.error("type", "expected \"counter\", \"gauge\" or \"histogram\", found \"\(kindName)\"")
        }
        guard kind != .counter || name.hasSuffix("_total") else { throw fail("a counter's name ends in _total") }
        let labels = try reader.strings("labels") ?? []
        guard labels.count <= 8 else { throw reader.error("labels", "more than 8 labels") }
        for (label, location) in labels {
            guard isMetricName(label, maximum: 64), label != "plugin", label != "le" else {
                throw ConfigurationError(
                    location: location, message: "\(reader.name("labels")): \"\(label)\" cannot be a label")
            }
        }
        guard Set(labels.map(\.text)).count == labels.count else { throw reader.error("labels", "a label is repeated") }
        var buckets: [Double] = []
        for item in try reader.array("buckets") ?? [] {
            guard let bound = item.float ?? item.integer.map(Double.init), bound.isFinite,
                bound > buckets.last ?? -.infinity
            else {
                throw ConfigurationError(
                    location: item.location, message: "\(reader.name("buckets")): expected ascending numbers")
            }
            buckets.append(bound)
        }
        guard buckets.count <= 32 else { throw reader.error("buckets", "more than 32 buckets") }
        if kind != .histogram && !buckets.isEmpty { throw reader.error("buckets", "only a histogram has buckets") }
        if kind == .histogram && buckets.isEmpty {
            buckets = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
        }
        let series = try reader.integer("max_series") ?? 1000
        guard (1...10_000).contains(series) else { throw reader.error("max_series", "must be 1 to 10000") }
        return MetricDeclaration(
            name: name, kind: kind, help: try reader.string("help") ?? "", labels: labels.map(\.text), buckets: buckets,
            maximumSeries: series)
    }

    private static func isMetricName(_ name: String, maximum: Int) -> Bool {
        let bytes = Array(name.utf8)
        guard let first = bytes.first, bytes.count <= maximum, (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(first)
        else { return false }
        return bytes.allSatisfy {
            (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0) || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
                || $0 == UInt8(ascii: "_")
        }
    }
}
