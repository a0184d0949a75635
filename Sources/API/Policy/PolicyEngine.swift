// The plugins of a node: the loaded set, the thread that runs what is beside requests, the worker
// that checks passwords, and the tokens.

import Configuration
import Logging
import MVCC
import NIOCore
import Node
import Plugins
import RPC
import Synchronization

/// All plugins of one node.
package final class PolicyEngine: Sendable {
    let holder: PluginSetHolder
    let thread: PluginThread
    let worker: CredentialWorker
    let tokens = TokenTable()
    /// Tells the requests of one start from those of another in audit records.
    let startID: String
    private let environment: PluginEnvironment
    private let folder: String
    private let logger: Logger

    /// Wraps a loaded, non-empty set. Nothing runs before `start`.
    package init(
        set: PluginSet, folder: String, environment: PluginEnvironment, node: Node, logger: Logger,
        fatal: @escaping FatalHandler
    ) {
        holder = PluginSetHolder(set)
        self.environment = environment
        self.folder = folder
        self.logger = logger
        startID = String(wallClockNanoseconds() / 1_000_000, radix: 36)
        thread = PluginThread(node: node, logger: logger, fatal: fatal)
        worker = CredentialWorker()
    }

    /// Starts the threads; throws when a plugin's sink cannot be opened.
    package func start() throws {
        try thread.start(holder.current)
        worker.start(holder.current)
    }

    /// Runs the `shutdown` hooks and ends the threads.
    package func stop() {
        worker.stop()
        thread.stop()
    }

    func makeGate(loop: ServerLoop, node: Node, options: APIOptions) throws -> PolicyGate {
        try PolicyGate(self, loop: loop, node: node, options: options)
    }

    /// Loads the bindings anew and swaps the set; the old one stays when the new fails its checks.
    @discardableResult
    package func reload(_ bindings: [PluginBinding]) throws -> PluginSet {
        let old = holder.current
        let new = try PluginSet(
            bindings: bindings, folder: folder, environment: environment, previous: old)
        // The sinks of the new set can only be opened once those of the old are closed, so the
        // plugin thread goes first, and back if it must.
        try thread.replace(new, fallback: old)
        holder.replace(new)
        worker.replace(new)
        tokens.removeAll()
        logger.info("plugins reloaded", metadata: ["plugins": "\(new.plugins.map(\.id))"])
        return new
    }

    /// What is loaded, for operators: one JSON array.
    package var listJSON: String {
        let rows = holder.current.plugins.map { plugin -> String in
            let figures = plugin.shared.hookFigures
            let calls = figures.reduce(UInt64(0)) { $0 &+ $1.calls }
            let denies = figures.reduce(UInt64(0)) { $0 &+ $1.denies }
            let errors = figures.reduce(UInt64(0)) { sum, figure in
                figure.errors.reduce(sum, &+)
            }
            let hooks = PluginHook.allCases.filter { plugin.hooks.contains($0) }
                .map { "\"\($0.name)\"" }.joined(separator: ",")
            return "{\"id\":\"\(plugin.id)\",\"name\":\"\(plugin.manifest.name)\","
                + "\"version\":\"\(JSONText.escape(plugin.version))\","
                + "\"digest\":\"\(plugin.package.digest)\",\"mode\":\"\(plugin.mode.rawValue)\","
                + "\"hooks\":[\(hooks)],\"calls\":\(calls),\"denies\":\(denies),"
                + "\"errors\":\(errors)}"
        }
        return "[\(rows.joined(separator: ","))]"
    }

    // MARK: Metrics

    /// Lets the plugins collect, then gives their series and the host's own as text.
    func metricsText(on loop: any EventLoop) -> EventLoopFuture<String> {
        let promise = loop.makePromise(of: String.self)
        let holder = holder
        let thread = thread
        let queued = thread.collectMetrics {
            promise.succeed(PolicyMetrics.text(holder.current, thread.figures))
        }
        if !queued { promise.succeed(PolicyMetrics.text(holder.current, thread.figures)) }
        return promise.futureResult
    }
}
