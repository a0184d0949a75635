// Runs a node until it is told to stop.

import API
import Configuration
import CSupport
import Foundation
import Logging
import Events
import Node
import Plugins
import RPC
import Synchronization

/// `serve`, the default verb.
enum ServeVerb {
    static func run(_ arguments: [String]) throws {
        let flags = try CommandLineFlags(arguments)
        if flags.wantsHelp { return print(Usage.text + "\n\n" + CommandLineFlags.help) }
        if flags.wantsVersion {
            return print("moonraft \(ProductVersion.moonraft), etcd API \(ProductVersion.server)")
        }
        let loaded = try LoadedConfiguration(
            flags: flags, environment: ProcessInfo.processInfo.environment)
        let settings = loaded.configuration
        let output = try LogOutput(outputs: settings.log.outputs)
        let logger = Logger(label: "moonraft") { label in
            StructuredLogHandler(
                label: label, level: settings.log.level, format: settings.log.format,
                output: output)
        }
        for warning in loaded.warnings { logger.warning("\(warning)") }
        signal(SIGPIPE, SIG_IGN)
        let signals = SignalWaiter([SIGTERM, SIGINT, SIGHUP])

        // Whatever leaves no safe way on ends the process at once: nothing that is not durable
        // may be acknowledged any more.
        let fatal: FatalHandler = { message in
            // LMDB reports a full disk as an I/O error; say what it is.
            let free = freeBytes(settings.member.dataDirectory)
            let cause = free < 1 << 20 ? " (no space left on the disk)" : ""
            logger.critical(
                "stopping", metadata: ["reason": "\(message)\(cause)", "free_bytes": "\(free)"])
            _exit(70)
        }
        if flags.forcesNewCluster { try forceNewCluster(settings, logger) }
        let running = try RunningNode(loaded, logger: logger, fatal: fatal)
        running.announce()
        while true {
            switch signals.wait() {
            case SIGHUP: running.reload()
            case let number:
                logger.info("stopping", metadata: ["signal": "\(number)"])
                try running.stop()
                logger.info("stopped")
                if let reason = running.expulsion { throw Expelled(description: reason) }
                return
            }
        }
    }

    /// Cuts the member loose before its data are opened.
    private static func forceNewCluster(
        _ settings: NodeConfiguration, _ logger: Logger
    ) throws {
        guard let done = try ForceNewCluster.run(NodeOptions(settings)) else {
            return logger.warning("--force-new-cluster has no effect: the data folder holds no member yet")
        }
        logger.warning(
            "this member goes on alone; start it without --force-new-cluster from now on",
            metadata: [
                "member": "\(String(done.memberID, radix: 16))",
                "cluster": "\(String(done.clusterID, radix: 16))",
                "dropped": "\(done.dropped.map { String($0, radix: 16) }.joined(separator: ","))",
                "last_entry": "\(done.lastIndex)",
            ])
    }
}

/// Bytes free for us on the file system of a path; a full disk explains many failures.
private func freeBytes(_ path: String) -> UInt64 {
    var figures = statvfs()
    guard statvfs(path, &figures) == 0 else { return 0 }
    return UInt64(figures.f_bavail) &* UInt64(figures.f_frsize)
}

/// Blocks signals in all threads started later and hands them out one by one.
struct SignalWaiter {
    private var set = sigset_t()

    init(_ signals: [Int32]) {
        sigemptyset(&set)
        for number in signals { sigaddset(&set, number) }
        pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    func wait() -> Int32 {
        var set = set
        var number: Int32 = 0
        while sigwait(&set, &number) != 0 {}
        return number
    }
}

/// This member was removed from its cluster: the process ends with code 1, as every later start will.
struct Expelled: Error, CustomStringConvertible {
    let description: String
}

/// Stops the node once, as if it had been told to. Set on another thread, read when the node has stopped.
private final class Expulsion: Sendable {
    private let text = Mutex<String?>(nil)
    var reason: String? { text.withLock { $0 } }

    func leave(_ reason: String, _ logger: Logger) {
        let message = "this member has been removed from the cluster: \(reason)"
        let isFirst = text.withLock { text -> Bool in
            defer { text = message }
            return text == nil
        }
        guard isFirst else { return }
        logger.error("\(message)")
        kill(getpid(), SIGTERM)
    }
}

/// A node with its server.
final class RunningNode {
    private let node: Node
    private let server: APIServer
    private let logger: Logger
    private let loaded: LoadedConfiguration
    private let policy: PolicyEngine?
    private let plugins: LoadedPlugins
    private let reloader: Reloader?
    private let peers: PeerWiring
    private let expelled: Expulsion

    init(_ loaded: LoadedConfiguration, logger: Logger, fatal: @escaping FatalHandler) throws {
        self.loaded = loaded
        self.logger = logger
        expelled = Expulsion()
        let settings = loaded.configuration
        plugins = try LoadedPlugins(loaded) { entry in Self.log(entry, to: logger) }
        var options = NodeOptions(settings)
        options.askOthers(settings, plugins: plugins.set)
        node = try Node(options: options, fatal: fatal)
        if let cut = node.tornTail {
            logger.warning(
                "cut an unfinished write from the end of the log", metadata: ["at": "\(cut)"])
        }
        let cores = settings.transport.eventLoops
        let loops = cores > 0 ? cores : min(4, max(1, ProcessInfo.processInfo.activeProcessorCount))
        peers = try PeerWiring(
            node: node, settings: settings, plugins: plugins.set, logger: logger
        ) { [expelled] text in expelled.leave(text, logger) }
        let wiring = peers
        if plugins.set.isEmpty {
            policy = nil
            reloader = nil
        } else {
            let engine = PolicyEngine(
                set: plugins.set, folder: plugins.folder, environment: plugins.environment,
                node: node, logger: logger, fatal: fatal)
            try engine.start()
            policy = engine
            reloader = Reloader(engine, file: loaded.file, logger: logger, bus: node.bus) { set in
                wiring.setPlugins(set)
            }
        }
        server = try APIServer(
            node: node, options: APIOptions(settings),
            configuration: RPCServerConfiguration(settings), loopCount: loops, policy: policy,
            admin: reloader?.administration, peers: { wiring.counters }, logger: logger,
            fatal: fatal)
        node.start(
            sinks: server.sinks, peers: peers,
            note: { level, text in
                switch level {
                case .info: logger.info("\(text)")
                case .warning: logger.warning("\(text)")
                }
            },
            removed: { [expelled] in expelled.leave("its removal was applied", logger) })
        if node.isSoleVoter, !node.waitUntilReady(seconds: 60) {
            logger.warning("still applying the log; requests will wait")
        }
        // Clients that find the port open find this member in the list of members, as with etcd; but
        // one that cannot publish itself now still serves what needs no quorum.
        if !node.waitUntilPublished(seconds: 5) {
            logger.warning("not published yet; without a quorum only serializable reads are served")
        }
        try listen(settings.clients.listen, on: server.rpc)
        if !settings.metrics.listen.isEmpty {
            try listen(settings.metrics.listen, on: try server.makeMetricsServer())
        }
    }

    /// Why this member had to leave its cluster for good; nil when it did not.
    var expulsion: String? { expelled.reason }

    private func listen(_ urls: [EndpointURL], on rpc: RPCServer) throws {
        for url in urls {
            do {
                try rpc.bind(host: url.bindHost, port: url.port)
            } catch {
                throw ConfigurationError(message: "cannot listen on \(url): \(error)")
            }
        }
    }

    /// Says on one screen what runs where.
    func announce() {
        let settings = loaded.configuration
        logger.info(
            "ready",
            metadata: [
                "version": "\(ProductVersion.moonraft)", "api": "\(ProductVersion.server)",
                "name": "\(settings.member.name)",
                "member": "\(String(node.memberID, radix: 16))",
                "cluster": "\(String(node.clusterID, radix: 16))",
                "clients": "\(settings.clients.listen.map(\.description).joined(separator: ","))",
                "data": "\(settings.member.dataDirectory)",
                "revision": "\(node.store.currentRevision)",
                "replayed": "\(node.replayedEntries)",
                "plugins": "\(plugins.set.plugins.map { "\($0.id):\($0.mode.rawValue)" }.joined(separator: ","))",
            ])
    }

    /// Replaces the plugins by what the file says now; the old set stays when anything is wrong.
    func reload() {
        guard let reloader else {
            return logger.warning("nothing to reload: no plugin was bound at start")
        }
        _ = reloader.reload()
    }

    private static func log(_ entry: PluginLogEntry, to logger: Logger) {
        let level: Logger.Level
        switch entry.level {
        case .debug: level = .debug
        case .info: level = .info
        case .warning: level = .warning
        case .error: level = .error
        }
        var metadata: Logger.Metadata = ["plugin": "\(entry.plugin)"]
        for field in entry.fields { metadata[field.name] = "\(field.value)" }
        logger.log(level: level, "\(entry.message)", metadata: metadata)
    }

    /// Drains connections, then stops the node; everything applied is durable afterwards.
    func stop() throws {
        try server.drain()
        node.stop()
        peers.close()
        policy?.stop()
        try server.stop()
    }
}
