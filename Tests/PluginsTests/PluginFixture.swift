import Configuration
import Foundation
import Synchronization
import Testing

@testable import Plugins

/// A plugin folder written for one test, and ways to load it.
final class PluginFixture {
    let root: String
    let clock = ManualClock()
    let log = LogCapture()
    var environment: PluginEnvironment

    init() throws {
        root = NSTemporaryDirectory() + "moonraft-plugins-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
        environment = PluginEnvironment(configurationDirectory: root, sinkDirectory: root + "/sinks")
        let clock = clock
        let log = log
        environment.clock = PluginClock(now: { clock.now }, monotonic: { clock.now })
        environment.log = { log.add($0) }
    }

    deinit { try? FileManager.default.removeItem(atPath: root) }

    func write(_ path: String, _ text: String) throws {
        let full = "\(root)/\(path)"
        let folder = (full as NSString).deletingLastPathComponent
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        try Data(text.utf8).write(to: URL(fileURLWithPath: full))
    }

    /// Writes a package; the manifest's name, version and api come first.
    func package(_ name: String, manifest: String, lua: String, files: [String: String] = [:]) throws {
        try write("plugins/\(name)/plugin.toml", "name = \"\(name)\"\nversion = \"1.0.0\"\napi = \"1\"\n" + manifest)
        try write("plugins/\(name)/init.lua", lua)
        for (path, text) in files { try write("plugins/\(name)/\(path)", text) }
    }

    func bindings(_ toml: String) throws -> [PluginBinding] {
        let table = try TOMLDocument.parse(text: toml, file: "node.toml")
        return try PluginBinding.parse((table["plugin"]?.array ?? []).compactMap(\.table))
    }

    func load(_ toml: String, previous: PluginSet? = nil) throws -> PluginSet {
        try PluginSet(
            bindings: try bindings(toml), folder: root + "/plugins", environment: environment, previous: previous)
    }

    /// The error of a set that must not load.
    func loadError(_ toml: String) -> String {
        do {
            _ = try load(toml)
            return "loaded"
        } catch {
            return "\(error)"
        }
    }

    /// A package with one hook body, bound to everything, on one loop.
    func loop(
        hook: String, body: String, manifest: String = "", binding: String = "", capabilities: String = "",
        head: String = ""
    ) throws -> LoopPlugins {
        try package(
            "p", manifest: "hooks = [\"\(hook)\"]\ncapabilities = [\(capabilities)]\n" + manifest,
            lua: "\(head)\nreturn { \(hook) = function(a, b)\n\(body)\nend }\n")
        return LoopPlugins(try load("[[plugin]]\nname = \"p\"\n" + binding))
    }
}

/// A clock that tests move.
final class ManualClock: Sendable {
    private let time = Mutex(1_700_000_000.0)
    var now: Double { time.withLock { $0 } }
    func advance(_ seconds: Double) { time.withLock { $0 += seconds } }
}

/// What plugins and the host logged.
final class LogCapture: Sendable {
    private let entries = Mutex([PluginLogEntry]())
    func add(_ entry: PluginLogEntry) { entries.withLock { $0.append(entry) } }
    var all: [PluginLogEntry] { entries.withLock { $0 } }
}

func put(_ key: String, _ value: String = "v") -> PluginRequest {
    PluginRequest(rpc: .put, ops: [PluginOp(kind: .put, key: Array(key.utf8), value: Array(value.utf8))])
}

func get(_ key: String, end: String = "") -> PluginRequest {
    PluginRequest(rpc: .range, ops: [PluginOp(kind: .range, key: Array(key.utf8), rangeEnd: Array(end.utf8))])
}

let alice = PluginIdentity(user: "alice", roles: ["writer"], commonName: "cn-a", peer: "127.0.0.1:5", source: .core)
