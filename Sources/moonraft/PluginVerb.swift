// `moonraft plugin test|check|digest`: work on plugin packages without a node.

import Configuration
import Foundation
import Plugins

/// The offline verbs on plugin folders.
enum PluginVerb {
    static func run(_ arguments: [String]) throws {
        let rest = Array(arguments.dropFirst())
        let paths = rest.filter { !$0.hasPrefix("--") }
        guard !paths.isEmpty else {
            throw ConfigurationError(message: "name at least one plugin folder\n\(Usage.text)")
        }
        switch arguments.first {
        case "test": try test(paths, update: rest.contains("--update"))
        case "check": for path in paths { print(try PluginReports.check(path: path), terminator: "") }
        case "digest":
            for path in paths { print(try PluginReports.digest(path: path), terminator: "") }
        default: throw ConfigurationError(message: "unknown plugin verb\n\(Usage.text)")
        }
    }

    private static func test(_ paths: [String], update: Bool) throws {
        var passed = 0
        var failed = 0
        for path in paths {
            let report = try PluginTestRunner.run(path: path, updatesGolden: update)
            print(report.text, terminator: "")
            passed += report.cases.count - report.failures.count
            // A package without tests has proven nothing.
            failed += report.cases.isEmpty ? 1 : report.failures.count
        }
        print("\(passed) passed, \(failed) failed")
        if failed > 0 { exit(1) }
    }
}

/// `moonraft audit verify FILE...`: checks the hash chain of audit files, oldest first.
enum AuditVerb {
    static func run(_ arguments: [String]) throws {
        guard arguments.first == "verify" else {
            throw ConfigurationError(message: "unknown audit verb\n\(Usage.text)")
        }
        var files: [String] = []
        var key: [UInt8]?
        var rest = arguments.dropFirst()
        while let argument = rest.popFirst() {
            guard argument == "--key-file" else {
                files.append(argument)
                continue
            }
            guard let path = rest.popFirst() else {
                throw ConfigurationError(message: "--key-file needs a path")
            }
            guard let data = FileManager.default.contents(atPath: path) else {
                throw ConfigurationError(message: "cannot read \(path)")
            }
            key = Array(data)
            while key?.last == 0x0A || key?.last == 0x0D { key?.removeLast() }
        }
        guard !files.isEmpty else { throw ConfigurationError(message: "name an audit file") }
        print(try PluginReports.verifyChain(files, key: key), terminator: "")
    }
}
