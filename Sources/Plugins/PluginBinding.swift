import Configuration

/// What a binding's decisions count for.
package enum PluginMode: String, CaseIterable, Sendable { case enforce, warn, audit, off }

/// One `[[plugin]]` table: which package, for which requests, with which configuration.
package struct PluginBinding: Sendable {
    package let id: String
    package let name: String
    /// The package's folder; nil: `name` below the plugin folder.
    package let path: String?
    /// The digest the package must have, or nil.
    package let digest: String?
    package let mode: PluginMode
    /// Nil: the manifest's priority. Lower runs first.
    package let order: Int?
    package let allowsRelaxing: Bool
    package let match: PluginMatch
    package let budget: PluginBudget
    package let failure: [PluginHook: FailurePolicy]
    /// The `config` table as written; checked against the manifest when the package is loaded.
    package let config: TOMLTable?
    package let location: TOMLLocation
    /// The `failure` and `budget` tables, for the places of errors found against the manifest.
    let table: TOMLTable

    /// Reads one `[[plugin]]` table.
    ///
    /// - Throws: the place of the first error.
    package init(_ table: TOMLTable) throws(ConfigurationError) {
        let reader = TOMLReader(table, path: "plugin")
        try reader.allow([
            "id", "name", "path", "digest", "mode", "order", "allow_relax", "match", "budget", "failure", "config",
        ])
        self.table = table
        location = table.location
        name = try reader.requiredString("name")
        guard PluginName.isValid(name) else { throw reader.error("name", PluginName.rule) }
        id = try reader.string("id") ?? name
        guard PluginName.isValid(id) else { throw reader.error("id", PluginName.rule) }
        path = try reader.string("path")
        digest = try reader.string("digest")
        if let digest {
            let hex = digest.dropFirst(7).utf8
            let digits = Set("0123456789abcdef".utf8)
            guard digest.hasPrefix("sha256:"), hex.count == 64, hex.allSatisfy(digits.contains) else {
                throw reader.error("digest", "expected sha256: and 64 hexadecimal digits")
            }
        }
        let modeName = try reader.string("mode") ?? "enforce"
        guard let mode = PluginMode(rawValue: modeName) else {
            throw reader.error("mode", "expected \"enforce\", \"warn\", \"audit\" or \"off\", found \"\(modeName)\"")
        }
        self.mode = mode
        order = try reader.integer("order")
        allowsRelaxing = try reader.boolean("allow_relax") ?? false
        match = try PluginMatch.parse(try reader.table("match"))
        budget = try PluginBudget.parse(try reader.table("budget"))
        failure = try PluginManifest.failure(try reader.table("failure"))
        config = try reader.table("config")?.table
    }

    /// Reads all `[[plugin]]` tables of a node.
    ///
    /// - Throws: the place of the first error, a repeated id included.
    package static func parse(_ tables: [TOMLTable]) throws(ConfigurationError) -> [PluginBinding] {
        var bindings: [PluginBinding] = []
        for table in tables {
            let binding = try PluginBinding(table)
            if let other = bindings.first(where: { $0.id == binding.id }) {
                throw ConfigurationError(
                    location: table["id"]?.location ?? table["name"]?.location ?? table.location,
                    message:
                        "plugin.id: \"\(binding.id)\" is already used at \(other.location); give this binding its own id"
                )
            }
            bindings.append(binding)
        }
        return bindings
    }
}
