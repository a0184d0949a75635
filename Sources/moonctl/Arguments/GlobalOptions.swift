import Glibc

/// What every command takes: where to connect, how long to wait, how to print.
struct GlobalOptions: Sendable {
    let endpoints: [String]
    let format: OutputFormat
    let isHex: Bool
    let dialTimeout: Duration
    let commandTimeout: Duration
    let keepaliveTime: Duration
    let keepaliveTimeout: Duration
    let credentials: Credentials?

    struct Credentials: Sendable {
        let user: String
        let password: String
    }

    static let flags: [Flag] = [
        Flag(
            "command-timeout", .duration(.seconds(5)),
            "timeout for short running command (excluding dial timeout)"),
        Flag("dial-timeout", .duration(.seconds(2)), "dial timeout for client connections"),
        Flag("endpoints", .list(["127.0.0.1:2379"]), "gRPC endpoints"),
        .bool("hex", "print byte strings as hex encoded strings"),
        Flag("keepalive-time", .duration(.seconds(2)), "keepalive time for client connections"),
        Flag("keepalive-timeout", .duration(.seconds(6)), "keepalive timeout for client connections"),
        .text("password", "", "password for authentication (then --user must not include one)"),
        .text(
            "user", "",
            "username[:password] for authentication (prompt if password is not supplied)"),
        Flag(
            "write-out", short: "w", .text(Array("simple".utf8)),
            "set the output format (fields, json, protobuf, simple, table)"),
    ]

    /// Takes flags first, then MOONCTL_ variables, then etcdctl's ETCDCTL_ variables.
    init(_ invocation: Invocation) throws(CommandError) {
        try Self.refuseTLSVariables()
        var invocation = invocation
        for flag in Self.flags where !invocation.isSet(flag.name) {
            if let value = try Self.environmentValue(flag) { invocation.set(flag.name, value) }
        }
        endpoints = invocation.list("endpoints").map(GoText.trimmed)
        isHex = invocation.bool("hex")
        dialTimeout = invocation.duration("dial-timeout")
        commandTimeout = invocation.duration("command-timeout")
        keepaliveTime = invocation.duration("keepalive-time")
        keepaliveTimeout = invocation.duration("keepalive-timeout")
        guard let format = OutputFormat(rawValue: invocation.text("write-out")) else {
            throw CommandError(.badFeature, "unsupported output format")
        }
        self.format = format
        credentials = try Self.credentials(
            user: invocation.text("user"), password: invocation.text("password"))
    }

    private static let prefixes = ["MOONCTL_", "ETCDCTL_"]

    private static func environmentValue(_ flag: Flag) throws(CommandError) -> Flag.Value? {
        let suffix = flag.name.uppercased().replacing("-", with: "_")
        for name in prefixes.map({ $0 + suffix }) {
            guard let text = environment(name) else { continue }
            do throws(ValueError) {
                return try flag.parse(Array(text.utf8))
            } catch {
                throw CommandError(
                    .error, "invalid value \(GoText.quote(text)) for \(name): \(error.reason)")
            }
        }
        return nil
    }

    /// Certificates cannot be honoured, and silence would send in clear what was to be encrypted.
    private static func refuseTLSVariables() throws(CommandError) {
        for name in prefixes.flatMap({ [$0 + "CACERT", $0 + "CERT", $0 + "KEY"] })
        where environment(name) != nil {
            throw .badArguments("\(name) is set, but TLS is not offered by this version")
        }
    }

    private static func credentials(
        user: String, password: String
    ) throws(CommandError) -> Credentials? {
        if user.isEmpty { return nil }
        if !password.isEmpty { return Credentials(user: user, password: password) }
        let parts = user.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        if parts.count == 2 {
            return Credentials(user: String(parts[0]), password: String(parts[1]))
        }
        return Credentials(user: user, password: try Terminal.askPassword())
    }
}

/// A variable that is set and not empty.
func environment(_ name: String) -> String? {
    guard let value = getenv(name), value.pointee != 0 else { return nil }
    return String(cString: value)
}

/// The terminal that the command was started from.
enum Terminal {
    /// Asks on standard error and reads one line without echo.
    static func askPassword() throws(CommandError) -> String {
        var output = Output()
        output.errorText("Password: ")
        output.flush()
        var saved = termios()
        let isTerminal = tcgetattr(STDIN_FILENO, &saved) == 0
        if isTerminal {
            var silent = saved
            silent.c_lflag &= ~tcflag_t(ECHO)
            tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent)
        }
        defer {
            if isTerminal {
                tcsetattr(STDIN_FILENO, TCSAFLUSH, &saved)
                output.error("")
                output.flush()
            }
        }
        var input = StandardInput()
        guard let line = input.line() else { throw CommandError(.error, "EOF") }
        return String(decoding: line, as: UTF8.self).trimmingSuffix("\r")
    }
}
