import Wire

/// `auth status`.
enum AuthCommands {
    static let group = Command(
        name: "auth", usage: "auth <subcommand>", summary: "Authentication related commands",
        subcommands: [status])

    private static let status = Command(
        name: "status", usage: "status", summary: "Returns authentication status"
    ) { invocation throws(CommandError) in
        if !invocation.arguments.isEmpty {
            throw .badArguments("auth status command does not accept any arguments")
        }
        let session = try Session(invocation, printing: Etcdserverpb_AuthStatusResponse.self)
        let reply: Etcdserverpb_AuthStatusResponse = try await session.call(
            .authStatus, Etcdserverpb_AuthStatusRequest())
        try session.print(reply)
    }
}

/// `version`.
enum VersionCommand {
    /// The same number as the node's.
    static let version = "0.2.0"
    /// The newest etcd API that the commands are written for.
    static let apiVersion = "3.7"

    static let command = Command(
        name: "version", usage: "version", summary: "Prints the version of \(Moonctl.name)"
    ) { _ throws(CommandError) in
        var output = Output()
        output.line("\(Moonctl.name) version: \(version)")
        output.line("API version: \(apiVersion)")
        output.flush()
    }
}
