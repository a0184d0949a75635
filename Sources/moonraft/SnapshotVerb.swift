// `moonraft snapshot status|verify|restore|save`: work on backups without a running node, under etcdutl's
// names, flags and texts.

import Configuration
import Foundation
import Node

/// The offline verbs on backups.
enum SnapshotVerb {
    static func run(_ arguments: [String]) throws {
        let rest = Array(arguments.dropFirst())
        switch arguments.first {
        case "status": try status(rest)
        case "verify": try verify(rest)
        case "restore": try restore(rest)
        case "save": try save(rest)
        default: throw ConfigurationError(message: "unknown snapshot verb\n\(Usage.text)")
        }
    }

    // MARK: status and verify

    private static func status(_ arguments: [String]) throws {
        var own = OwnFlags(arguments)
        let format = try own.text("write-out", "w") ?? "simple"
        let file = try own.onlyOperand("snapshot status requires exactly one argument")
        guard let report = SnapshotStatus(rawValue: format) else {
            Moonraft.fail("unsupported output format", code: 4)
        }
        let snapshot = try SnapshotFile(file)
        try snapshot.checkDigest(isRequired: false)
        print(report.text(try snapshot.inspect()), terminator: "")
    }

    private static func verify(_ arguments: [String]) throws {
        var own = OwnFlags(arguments)
        let skipsDigest = try own.truth("skip-hash-check") ?? false
        let file = try own.onlyOperand("snapshot verify requires exactly one argument")
        let snapshot = try SnapshotFile(file)
        if !skipsDigest { try snapshot.checkDigest() }
        let found = try snapshot.inspect()
        let digest = skipsDigest ? "sha256 not looked at" : "sha256 matches"
        print(
            "\(file): ok, \(digest), \(found.pages) pages, \(found.records) records, \(found.totalKeys) keys, "
                + "revision \(found.revision)")
    }

    // MARK: restore and save

    private static func restore(_ arguments: [String]) throws {
        var own = OwnFlags(arguments)
        let bumpText = try own.text("bump-revision")
        let marks = try own.truth("mark-compacted")
        let skipsDigest = try own.truth("skip-hash-check") ?? false
        let loaded = try own.configuration("snapshot restore requires exactly one argument")
        let settings = loaded.configuration

        var bump = SnapshotRestore.defaultRevisionBump
        if let bumpText {
            guard let number = UInt64(bumpText) else {
                throw ConfigurationError(message: "--bump-revision: expected a number, found \"\(bumpText)\"")
            }
            bump = number
        }
        guard marks ?? (bump > 0) == (bump > 0) else {
            // The one without the other would let a watcher miss events without being told.
            throw ConfigurationError(message: "--mark-compacted required if --bump-revision > 0")
        }
        let options = NodeOptions(settings)
        var restore = SnapshotRestore(
            snapshot: own.operand, dataDirectory: options.dataDirectory, name: options.name,
            members: options.initialMembers, clusterToken: options.clusterToken)
        restore.revisionBump = bump
        restore.skipsDigest = skipsDigest
        restore.wal = options.wal
        restore.backend = options.backend
        let outcome = try restore.run()
        let revision = bump > 0 ? "\(outcome.revision), compacted" : "\(outcome.revision)"
        print(
            """
            restored \(own.operand) to \(options.dataDirectory)
            member   \(String(outcome.memberID, radix: 16)) \(options.name)
            cluster  \(String(outcome.clusterID, radix: 16)), \(options.initialMembers.count) members
            revision \(revision), \(outcome.totalKeys) keys
            """)
    }

    private static func save(_ arguments: [String]) throws {
        var own = OwnFlags(arguments)
        let loaded = try own.configuration("snapshot save expects one argument")
        let outcome = try SnapshotSave.run(NodeOptions(loaded.configuration), to: own.operand)
        print("Snapshot saved at \(own.operand)")
        if outcome.missingEntries > 0 {
            FileHandle.standardError.write(
                Data(
                    """
                    moonraft: warning: the node was not stopped in order; the last \(outcome.missingEntries) entries of \
                    its log are not in the backup. Start and stop it once, then save again

                    """.utf8))
        }
    }
}

/// Takes a verb's own flags out of the arguments; what is left are settings and the file.
private struct OwnFlags {
    private var arguments: [String]
    /// Set by `onlyOperand` and `configuration`.
    private(set) var operand = ""

    init(_ arguments: [String]) { self.arguments = arguments }

    /// The value of a flag, the last one when it is given several times.
    mutating func text(_ names: String...) throws -> String? {
        var found: String?
        var position = 0
        while position < arguments.count {
            let (name, inline) = Self.parts(arguments[position])
            guard let name, names.contains(name) else {
                position += 1
                continue
            }
            let spelling = arguments.remove(at: position)
            if let inline {
                found = inline
            } else if position < arguments.count {
                found = arguments.remove(at: position)
            } else {
                throw ConfigurationError(message: "flag needs an argument: \(spelling)")
            }
        }
        return found
    }

    /// A flag without a value means true.
    mutating func truth(_ name: String) throws -> Bool? {
        var found: Bool?
        for (position, argument) in arguments.enumerated().reversed() {
            let (given, inline) = Self.parts(argument)
            guard given == name else { continue }
            arguments.remove(at: position)
            if found != nil { continue }
            switch inline {
            case nil, "true"?, "1"?, "t"?: found = true
            case "false"?, "0"?, "f"?: found = false
            case let other?:
                throw ConfigurationError(
                    message: "--\(name): expected true or false, found \"\(other)\"")
            }
        }
        return found
    }

    private static func parts(_ argument: String) -> (name: String?, inline: String?) {
        guard argument.hasPrefix("-"), argument != "-", argument != "--" else { return (nil, nil) }
        let body = argument.drop { $0 == "-" }
        let name = body.prefix { $0 != "=" }
        return (String(name), body.count > name.count ? String(body.dropFirst(name.count + 1)) : nil)
    }

    mutating func onlyOperand(_ refusal: String) throws -> String {
        if let flag = arguments.first(where: { $0.hasPrefix("-") && $0 != "-" }) {
            throw ConfigurationError(message: "flag provided but not defined: \(flag)")
        }
        guard arguments.count == 1 else { throw ConfigurationError(message: refusal) }
        operand = arguments[0]
        return operand
    }

    /// The settings that the rest of the arguments, the variables and the file give.
    mutating func configuration(_ refusal: String) throws -> LoadedConfiguration {
        let flags = try CommandLineFlags(arguments, takesOperands: true)
        guard flags.operands.count == 1 else { throw ConfigurationError(message: refusal) }
        operand = flags.operands[0]
        return try LoadedConfiguration(
            flags: flags, environment: ProcessInfo.processInfo.environment)
    }
}
