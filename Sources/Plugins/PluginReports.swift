import Configuration

/// The offline verbs about a package: what `plugin check` and `plugin digest` print.
package enum PluginReports {
    /// Checks a package alone: files, manifest, schema, syntax, declared hooks. `init` runs only when the configuration needs
    /// nothing (no required key), since a package alone has no binding.
    ///
    /// - Throws: the first thing that is wrong.
    package static func check(path: String) throws(PluginError) -> String {
        let package = try PluginPackage(directory: path)
        let manifest = try PluginManifest(package)
        try PluginCheck.syntax(package, tests: true)
        let needs = manifest.config.filter { $0.schema.isRequired }.map(\.name)
        let mode = needs.isEmpty ? "enforce" : "off"
        let toml = """
            [[plugin]]
            name = \(LuaText.quoted(manifest.name))
            path = \(LuaText.quoted(package.directory))
            mode = "\(mode)"
            """
        var environment = PluginEnvironment(configurationDirectory: package.directory, sinkDirectory: package.directory)
        environment.openSink = { _ throws(SinkError) in throw SinkError("no sinks during a check") }
        if needs.isEmpty {
            do {
                let table = try TOMLDocument.parse(text: toml, file: "plugin check")
                let bindings = try PluginBinding.parse((table["plugin"]?.array ?? []).compactMap(\.table))
                _ = try PluginSet(bindings: bindings, folder: "", environment: environment)
            } catch let error as ConfigurationError {
                throw PluginError(error)
            } catch let error as PluginError {
                // The binding is ours; its place would only confuse.
                throw PluginError(
                    location: error.location?.file == "plugin check" ? nil : error.location, orFile: error)
            } catch {
                throw PluginError(message: "\(error)")
            }
        }
        let bytes = package.files.reduce(0) { $0 + $1.bytes.count }
        var lines = [
            "\(manifest.name) \(manifest.version): ok",
            "  hooks         \(manifest.hooks.hooks.map(\.name).joined(separator: ", "))",
            "  capabilities  \(list(manifest.capabilities.map(\.rawValue).sorted()))",
            "  config        \(list(manifest.config.map(\.name)))",
            "  files         \(package.files.count), \(SettingText.text(size: bytes))",
            "  digest        \(package.digest)",
        ]
        if !needs.isEmpty { lines.append("  not run       init: it needs config \(needs.joined(separator: ", "))") }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func list(_ names: [String]) -> String { names.isEmpty ? "none" : names.joined(separator: ", ") }

    /// The digest of a package, as `digest` in a binding takes it.
    package static func digest(path: String) throws(PluginError) -> String {
        try PluginPackage(directory: path).digest + "\n"
    }

    /// Verifies the hash chain of files, oldest first: what `audit verify` prints.
    ///
    /// - Throws: the first line that does not hold.
    package static func verifyChain(_ paths: [String], key: [UInt8]?) throws(AuditChain.Defect) -> String {
        let report = try AuditChain.verify(paths, key: key)
        guard report.records > 0 else { return "no records\n" }
        return "\(report.records) records hold, \(report.firstSequence) to \(report.lastSequence)\n"
            + "last hash \(report.lastHash)\n"
            + (report.firstSequence > 1 ? "records 1 to \(report.firstSequence - 1) are not in these files\n" : "")
    }
}

extension PluginError {
    init(location: TOMLLocation?, orFile other: PluginError) {
        if let location {
            self.init(location: location, message: other.message)
        } else {
            self.init(file: other.file, message: other.message)
        }
    }
}
