import FoundationEssentials

/// `plugin list | status | reload`: the plugins of the nodes at `--endpoints`.
///
/// A node answers these over plain HTTP and only to its own machine.
enum PluginCommands {
    static let group = Command(
        name: "plugin", usage: "plugin <subcommand>", summary: "Plugin related commands",
        subcommands: [list, reload, status])

    private static let list = Command(
        name: "list", usage: "list", summary: "Lists the plugins that are bound, in their order",
        run: show(PluginListReport.init))

    private static let status = Command(
        name: "status", usage: "status", summary: "Prints what each plugin was asked and decided",
        run: show(PluginStatusReport.init))

    private static let reload = Command(
        name: "reload", usage: "reload",
        summary: "Loads plugins and bindings anew; keeps the old set when the new one has a fault"
    ) { invocation throws(CommandError) in
        let session = try begin(invocation, printing: nil)
        var failures = 0
        for endpoint in session.client.endpoints {
            do throws(ConnectError) {
                let answer: ReloadAnswer = try ask("POST", "/plugins/reload", endpoint, session)
                if answer.ok {
                    session.line("Reloaded the plugins of \(endpoint.text)")
                    continue
                }
                failures += 1
                session.warn(
                    "Failed to reload the plugins of \(endpoint.text) (\(answer.error ?? "no reason"))")
            } catch {
                failures += 1
                session.warn("Failed to reload the plugins of \(error.reason)")
            }
        }
        if failures > 0 { throw CommandError(.error, nil) }
    }

    private struct ReloadAnswer: Decodable {
        let ok: Bool
        let error: String?
    }

    private static func begin(
        _ invocation: Invocation, printing report: (any Report.Type)?
    ) throws(CommandError) -> Session {
        if !invocation.arguments.isEmpty {
            throw .badArguments("\(invocation.title) command accepts no arguments")
        }
        return try Session(invocation, printing: report)
    }

    private static func show<Shown: Report & SendableMetatype>(
        _ report: @escaping @Sendable ([PluginEntry]) -> Shown
    ) -> Command.Body {
        { invocation throws(CommandError) in
            let session = try begin(invocation, printing: Shown.self)
            var entries: [PluginEntry] = []
            var isComplete = true
            for endpoint in session.client.endpoints {
                do throws(ConnectError) {
                    let plugins: [PluginEntry.Plugin] = try ask("GET", "/plugins", endpoint, session)
                    entries += plugins.map { PluginEntry(endpoint: endpoint.text, plugin: $0) }
                } catch {
                    isComplete = false
                    session.warn("Failed to get the plugins of \(error.reason)")
                }
            }
            try session.print(report(entries))
            if !isComplete { throw CommandError(.error, nil) }
        }
    }

    private static func ask<Answer: Decodable>(
        _ method: String, _ path: String, _ endpoint: Endpoint, _ session: Session
    ) throws(ConnectError) -> Answer {
        let reply = try HTTPExchange.send(
            method, path, to: endpoint, timeout: session.options.commandTimeout)
        do {
            return try JSONDecoder().decode(Answer.self, from: Data(reply.body))
        } catch {
            let text = GoText.trimmed(String(decoding: reply.body.prefix(200), as: UTF8.self))
            throw ConnectError("\(endpoint.text): HTTP status \(reply.status): \(text)")
        }
    }
}

/// One plugin of one node.
struct PluginEntry: Sendable {
    struct Plugin: Decodable, Sendable {
        let id: String
        let name: String
        let version: String
        let digest: String
        let mode: String
        let hooks: [String]
        let calls: UInt64
        let denies: UInt64
        let errors: UInt64
    }

    let endpoint: String
    let plugin: Plugin

    /// Everything the node says, the same for both commands.
    var json: JSONValue {
        var object = JSONObject()
        object.set("endpoint", .string(endpoint))
        object.set("id", .string(plugin.id))
        object.set("name", .string(plugin.name))
        object.set("version", .string(plugin.version))
        object.set("digest", .string(plugin.digest))
        object.set("mode", .string(plugin.mode))
        object.set("hooks", .array(plugin.hooks.map { .string($0) }))
        object.set("calls", .unsigned(plugin.calls))
        object.set("denies", .unsigned(plugin.denies))
        object.set("errors", .unsigned(plugin.errors))
        return .object(object)
    }

    func fields(_ output: inout Output) {
        for (name, text) in [
            ("Endpoint", endpoint), ("ID", plugin.id), ("Name", plugin.name),
            ("Version", plugin.version), ("Digest", plugin.digest), ("Mode", plugin.mode),
        ] { output.line("\"\(name)\" : \(GoText.quote(text))") }
        for hook in plugin.hooks { output.line("\"Hook\" : \(GoText.quote(hook))") }
        for (name, count) in [
            ("Calls", plugin.calls), ("Denies", plugin.denies), ("Errors", plugin.errors),
        ] { output.line("\"\(name)\" : \(count)") }
        output.line("")
    }
}

/// Which plugins there are.
struct PluginListReport: Report {
    static var formats: Set<OutputFormat> { [.simple, .fields, .json, .table] }

    let entries: [PluginEntry]

    func simple(_ output: inout Output, _ style: OutputStyle) {
        for row in table().rows { output.line(row.joined(separator: ", ")) }
    }

    func fields(_ output: inout Output) { for entry in entries { entry.fields(&output) } }

    func json(_ style: OutputStyle) -> JSONValue { .array(entries.map(\.json)) }

    func table() -> Table {
        Table(
            headings: ["endpoint", "ID", "name", "version", "mode", "digest"],
            rows: entries.map { entry in
                let plugin = entry.plugin
                return [
                    entry.endpoint, plugin.id, plugin.name, plugin.version, plugin.mode,
                    plugin.digest,
                ]
            })
    }
}

/// What the plugins have done since they were loaded.
struct PluginStatusReport: Report {
    static var formats: Set<OutputFormat> { [.simple, .fields, .json, .table] }

    let entries: [PluginEntry]

    func simple(_ output: inout Output, _ style: OutputStyle) {
        for row in table().rows { output.line(row.joined(separator: ", ")) }
    }

    func fields(_ output: inout Output) { for entry in entries { entry.fields(&output) } }

    func json(_ style: OutputStyle) -> JSONValue { .array(entries.map(\.json)) }

    func table() -> Table {
        Table(
            headings: ["endpoint", "ID", "mode", "hooks", "calls", "denies", "errors"],
            rows: entries.map { entry in
                let plugin = entry.plugin
                return [
                    entry.endpoint, plugin.id, plugin.mode, plugin.hooks.joined(separator: " "),
                    "\(plugin.calls)", "\(plugin.denies)", "\(plugin.errors)",
                ]
            })
    }
}
