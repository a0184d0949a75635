/// A command, or a group of commands.
struct Command: Sendable {
    typealias Body = @Sendable (Invocation) async throws(CommandError) -> Void

    let name: String
    /// The line of help that shows the arguments.
    let usage: String
    let summary: String
    /// Taken by this command and everything below it.
    let flags: [Flag]
    let subcommands: [Command]
    /// Nil for a group, which shows its help.
    let run: Body?

    init(
        name: String, usage: String, summary: String, flags: [Flag] = [],
        subcommands: [Command] = [], run: Body? = nil
    ) {
        self.name = name
        self.usage = usage
        self.summary = summary
        self.flags = flags
        self.subcommands = subcommands
        self.run = run
    }

    /// The one of this name, or the only one whose name begins so.
    func subcommand(_ name: String) -> Command? {
        if let exact = subcommands.first(where: { $0.name == name }) { return exact }
        let matches = subcommands.filter { !name.isEmpty && $0.name.hasPrefix(name) }
        return matches.count == 1 ? matches[0] : nil
    }
}

/// The pages that `--help` shows, in the sections of etcdctl's.
enum HelpText {
    static func page(_ invocation: Invocation) -> String {
        let command = invocation.command
        var page = "NAME:\n\t\(command.name) - \(command.summary)\n\n"
        let parents = invocation.path.dropLast().map { $0.name + " " }.joined()
        page += "USAGE:\n\t\(parents)\(command.usage) [flags]\n\n"
        if !command.subcommands.isEmpty {
            page += "COMMANDS:\n" + columns(leaves(command, "")) + "\n"
        }
        let globals = GlobalOptions.flags
        let own = invocation.known.filter { flag in !globals.contains { $0.name == flag.name } }
        page += "OPTIONS:\n" + columns((own + [.bool("help", short: "h", "help for \(command.name)")]).map(row))
        return page + "\nGLOBAL OPTIONS:\n" + columns(globals.map(row))
    }

    private static func leaves(_ command: Command, _ prefix: String) -> [(String, String)] {
        command.subcommands.flatMap { child in
            child.subcommands.isEmpty
                ? [("\t\(prefix)\(child.name)", child.summary)]
                : leaves(child, "\(prefix)\(child.name) ")
        }
    }

    private static func row(_ flag: Flag) -> (String, String) {
        let short = flag.short.map { "  -\($0), " } ?? "      "
        return switch flag.initial {
        case .bool(let value): ("\(short)--\(flag.name)[=\(value)]", flag.help)
        case .integer(let value): ("\(short)--\(flag.name)=\(value)", flag.help)
        case .text(let value): ("\(short)--\(flag.name)=\(GoText.quote(value))", flag.help)
        case .duration(let value): ("\(short)--\(flag.name)=\(GoDuration.text(value))", flag.help)
        case .list(let value):
            ("\(short)--\(flag.name)=[\(value.joined(separator: ","))]", flag.help)
        }
    }

    private static func columns(_ rows: [(String, String)]) -> String {
        let width = rows.map(\.0.count).max() ?? 0
        return rows.map { name, help in
            name + String(repeating: " ", count: width - name.count + 2) + help + "\n"
        }.joined()
    }
}
