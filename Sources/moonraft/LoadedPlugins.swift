// The plugins that a configuration binds, loaded and checked.

import Configuration
import Foundation
import Plugins

/// A checked set and what it was loaded from.
struct LoadedPlugins {
    let set: PluginSet
    let folder: String
    let environment: PluginEnvironment

    init(
        _ loaded: LoadedConfiguration, log: @escaping @Sendable (PluginLogEntry) -> Void
    ) throws {
        let settings = loaded.configuration
        let home = loaded.file.map { ($0 as NSString).deletingLastPathComponent } ?? ""
        let base = home.isEmpty ? "." : home
        var environment = PluginEnvironment(
            configurationDirectory: base,
            sinkDirectory: settings.member.dataDirectory + "/sinks")
        environment.log = log
        folder = Self.folder(settings.plugins.folder, base: base)
        self.environment = environment
        let bindings = try PluginBinding.parse(settings.plugins.bindings)
        set =
            bindings.isEmpty
            ? PluginSet(environment: environment)
            : try PluginSet(bindings: bindings, folder: folder, environment: environment)
    }

    /// The first of: beside the file, above it, the working directory.
    private static func folder(_ folder: String, base: String) -> String {
        if folder.hasPrefix("/") { return folder }
        for candidate in ["\(base)/\(folder)", "\(base)/../\(folder)"]
        where FileManager.default.fileExists(atPath: candidate) {
            return candidate
        }
        return folder
    }

    /// Whether a value of a binding's configuration must not be printed.
    func isSecret(_ table: TOMLTable, _ path: [String]) -> Bool {
        let name = table["id"]?.string ?? table["name"]?.string ?? ""
        guard let plugin = set.plugins.first(where: { $0.id == name }) else { return true }
        guard let first = path.first,
            let schema = plugin.manifest.config.first(where: { $0.name == first })?.schema
        else { return true }
        return schema.isSecret(at: path.dropFirst())
    }
}
