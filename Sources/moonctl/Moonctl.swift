/// The command line client, under etcdctl's names, flags, output formats and exit codes.
@main
enum Moonctl {
    static let name = "moonctl"

    static func main() async {
        do throws(CommandError) {
            let invocation = try Invocation(arguments(), root: root, globals: GlobalOptions.flags)
            if let run = invocation.command.run, !invocation.wantsHelp {
                try await run(invocation)
            } else {
                var output = Output()
                output.text(HelpText.page(invocation))
                output.flush()
            }
        } catch {
            var output = Output()
            if let message = error.message { output.error("Error: \(message)") }
            if let hint = error.hint { output.error(hint) }
            output.flush()
            exitProcess(error.code)
        }
    }

    static let root = Command(
        name: name, usage: "\(name) <command>", summary: "A command line client for Moonraft and etcd.",
        subcommands: [
            AlarmCommands.group, AuthCommands.group, CompactionCommand.command,
            DefragCommand.command, DelCommand.command, EndpointCommands.group, GetCommand.command,
            helpCommand, LeaseCommands.group, MemberCommands.group, MoveLeaderCommand.command,
            PluginCommands.group, PutCommand.command, SnapshotCommands.group, TxnCommand.command,
            VersionCommand.command, WatchCommand.command,
        ])

    private static var helpCommand: Command {
        Command(name: "help", usage: "help [command]", summary: "Help about any command") {
            invocation throws(CommandError) in
            let page = try Invocation(invocation.arguments, root: root, globals: GlobalOptions.flags)
            var output = Output()
            output.text(HelpText.page(page))
            output.flush()
        }
    }

    /// The arguments as the bytes they are: a key need not be UTF-8.
    private static func arguments() -> [[UInt8]] {
        (1..<max(1, Int(CommandLine.argc))).compactMap { index in
            guard let argument = CommandLine.unsafeArgv[index] else { return nil }
            var bytes: [UInt8] = []
            var next = argument
            while next.pointee != 0 {
                bytes.append(UInt8(bitPattern: next.pointee))
                next += 1
            }
            return bytes
        }
    }
}
