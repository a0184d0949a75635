// The server's command line: which verb, then that verb.

import Configuration
import Foundation
import Node

@main
enum Moonraft {
    static func main() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        let verb = arguments.first.flatMap { $0.hasPrefix("-") ? nil : $0 }
        let rest = verb == nil ? arguments : Array(arguments.dropFirst())
        do {
            switch verb {
            case nil, "serve": try ServeVerb.run(rest)
            case "check": try CheckVerb.run(rest)
            case "config": try ConfigVerb.run(rest)
            case "plugin": try PluginVerb.run(rest)
            case "audit": try AuditVerb.run(rest)
            case "snapshot": try SnapshotVerb.run(rest)
            case "version": print("moonraft \(ProductVersion.moonraft), etcd API \(ProductVersion.server)")
            case "help": print(Usage.text)
            case let other?:
                throw ConfigurationError(message: "unknown verb \"\(other)\"\n\(Usage.text)")
            }
        } catch {
            fail("\(error)")
        }
    }

    /// Ends the process with a message on standard error.
    static func fail(_ message: String, code: Int32 = 1) -> Never {
        FileHandle.standardError.write(Data("moonraft: \(message)\n".utf8))
        exit(code)
    }
}

enum Usage {
    static let text = """
        usage: moonraft [serve] [--config FILE] [flags]   run a node
               moonraft check [--config FILE] [flags]     check settings and plugins without starting
               moonraft config --effective [...]          print the settings that would be in force
               moonraft config --members --config FILE    list the members of a file with their client URLs
               moonraft plugin test|check|digest DIR...   work on plugins
               moonraft audit verify FILE                 check an audit log's hash chain
               moonraft snapshot status|verify FILE       what a backup holds, and whether it is sound
               moonraft snapshot restore FILE [flags]     make a data folder of a new cluster from a backup
               moonraft snapshot save FILE [flags]        back up the data folder of a stopped node
               moonraft version
        """
}

/// `config --effective`: what would be in force, and where each value comes from. `config --members`: one line
/// for each member that the file lists.
enum ConfigVerb {
    static func run(_ arguments: [String]) throws {
        if arguments.contains("--members") {
            return try listMembers(CommandLineFlags(arguments.filter { $0 != "--members" }))
        }
        guard arguments.contains("--effective") else {
            print(ConfigurationPage.reference)
            return
        }
        let flags = try CommandLineFlags(arguments.filter { $0 != "--effective" })
        let loaded = try LoadedConfiguration(
            flags: flags, environment: ProcessInfo.processInfo.environment)
        let plugins = try? LoadedPlugins(loaded, log: { _ in })
        print(
            ConfigurationPage.effective(
                loaded,
                isSecret: { table, path in
                    // What cannot be checked is not shown.
                    plugins?.isSecret(table, path) ?? true
                }))
    }

    private static func listMembers(_ flags: CommandLineFlags) throws {
        let configurations = try LoadedConfiguration.all(
            flags: flags, environment: ProcessInfo.processInfo.environment)
        for loaded in configurations {
            let urls = loaded.configuration.clients.advertise.map(\.description).joined(separator: ",")
            print("\(loaded.configuration.member.name) \(urls)")
        }
    }
}

/// `check`: everything a start would check, without starting; for each member of a file that lists several and
/// none was picked.
enum CheckVerb {
    static func run(_ arguments: [String]) throws {
        let configurations = try LoadedConfiguration.all(
            flags: CommandLineFlags(arguments), environment: ProcessInfo.processInfo.environment)
        for loaded in configurations {
            for warning in loaded.warnings { print("warning: \(warning)") }
            let plugins = try LoadedPlugins(loaded, log: { _ in })
            let whose = configurations.count > 1 ? "\(loaded.configuration.member.name): " : ""
            print("\(whose)configuration ok, \(plugins.set.plugins.count) plugins ok")
        }
    }
}
