// Reloading plugins while the node runs.

import API
import Configuration
import Events
import Foundation
import Logging
import Plugins
import Synchronization

/// Reads the `[[plugin]]` tables of the node's file again and swaps the set.
final class Reloader: Sendable {
    private let engine: PolicyEngine
    private let file: String?
    private let logger: Logger
    private let bus: EventBus
    private let reloaded: @Sendable (PluginSet) -> Void
    /// One reload at a time.
    private let turn = Mutex(())

    /// - Parameter reloaded: hears of each new set that is in use.
    init(
        _ engine: PolicyEngine, file: String?, logger: Logger, bus: EventBus,
        reloaded: @escaping @Sendable (PluginSet) -> Void
    ) {
        self.reloaded = reloaded
        self.engine = engine
        self.file = file
        self.logger = logger
        self.bus = bus
    }

    /// Nil when the new set is in use, else why the old one stays.
    func reload() -> String? {
        turn.withLock { _ in
            do {
                guard let file else {
                    throw ConfigurationError(message: "the node was started without a file")
                }
                let text = try ConfigurationFile.read(file)
                let root = try TOMLDocument.parse(text: text, file: file)
                let tables = (root["plugin"]?.array ?? []).compactMap(\.table)
                let bindings = try PluginBinding.parse(tables)
                // An editor may have cut the file short just now; to run without any policy takes
                // a restart that says so.
                guard !bindings.isEmpty else {
                    throw ConfigurationError(message: "\(file) binds no plugin")
                }
                reloaded(try engine.reload(bindings))
                bus.publish([.plugin(PluginEvent(kind: .loaded, id: ""))])
                return nil
            } catch {
                logger.error(
                    "plugins not reloaded; the old set stays", metadata: ["reason": "\(error)"])
                bus.publish([.plugin(PluginEvent(kind: .failed, id: ""))])
                return "\(error)"
            }
        }
    }

    /// For the HTTP endpoint.
    var administration: PluginAdministration {
        PluginAdministration(
            list: { [engine] in engine.listJSON }, reload: { [self] in reload() })
    }
}
