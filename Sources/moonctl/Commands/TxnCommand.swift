import Wire

/// `txn`: reads compares, requests for success and requests for failure, each list ended by an
/// empty line, and sends them as one transaction.
enum TxnCommand {
    static let command = Command(
        name: "txn", usage: "txn [options]",
        summary: "Txn processes all the requests in one transaction",
        flags: [.bool("interactive", short: "i", "Input transaction in interactive mode")],
        run: run)

    @Sendable private static func run(_ invocation: Invocation) async throws(CommandError) {
        if !invocation.arguments.isEmpty {
            throw .badArguments("txn command does not accept argument")
        }
        let session = try Session(invocation, printing: Etcdserverpb_TxnResponse.self)
        let isInteractive = invocation.bool("interactive")
        var input = StandardInput()
        var request = Etcdserverpb_TxnRequest()
        if isInteractive { session.line("compares:") }
        for line in try paragraph(&input) { request.compare.append(try TxnText.compare(line)) }
        if isInteractive { session.line("success requests (get, put, del):") }
        for line in try paragraph(&input) { request.success.append(try operation(line)) }
        if isInteractive { session.line("failure requests (get, put, del):") }
        for line in try paragraph(&input) { request.failure.append(try operation(line)) }
        let reply: Etcdserverpb_TxnResponse = try await session.call(.txn, request)
        try session.print(reply)
    }

    /// The lines up to the next empty one.
    private static func paragraph(
        _ input: inout StandardInput
    ) throws(CommandError) -> [[UInt8]] {
        var lines: [[UInt8]] = []
        while true {
            guard let line = input.line() else { throw CommandError(.invalidInput, "EOF") }
            let trimmed = TxnText.trimmed(line)
            if trimmed.isEmpty { return lines }
            lines.append(trimmed)
        }
    }

    private static let operations = Command(
        name: "txn", usage: "", summary: "",
        subcommands: [PutCommand.command, GetCommand.command, DelCommand.command])

    /// A line that reads like the command `get`, `put` or `del` with its flags.
    static func operation(_ line: [UInt8]) throws(CommandError) -> Etcdserverpb_RequestOp {
        let text = String(decoding: line, as: UTF8.self)
        let words = try TxnText.words(line)
        if words.count < 2 {
            throw CommandError(.invalidInput, "invalid txn compare request: \(text)")
        }
        let invocation: Invocation
        do throws(CommandError) {
            invocation = try Invocation(words, root: operations)
        } catch {
            throw CommandError(.invalidInput, "invalid txn request: \(text)", hint: error.message)
        }
        var operation = Etcdserverpb_RequestOp()
        switch invocation.command.name {
        case "put": operation.requestPut = try PutCommand.request(invocation)
        case "get": operation.requestRange = try GetCommand.request(invocation)
        case "del": operation.requestDeleteRange = try DelCommand.request(invocation)
        default: throw CommandError(.invalidInput, "invalid txn request: \(text)")
        }
        return operation
    }
}
