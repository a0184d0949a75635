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
        let session = try Session(invocation, printing: nil)
        let prompt = { (text: String) in
            if invocation.bool("interactive") { session.line(text) }
        }
        var input = StandardInput()
        var request = Etcdserverpb_TxnRequest()
        prompt("compares:")
        request.compare = try read(&input, TxnText.compare)
        prompt("success requests (get, put, del):")
        request.success = try read(&input, operation)
        prompt("failure requests (get, put, del):")
        request.failure = try read(&input, operation)
        try session.require(Etcdserverpb_TxnResponse.self)
        let reply: Etcdserverpb_TxnResponse = try await session.call(.txn, request)
        try session.print(reply)
    }

    /// Reads the lines up to the next empty one, each as soon as it is there.
    private static func read<Item>(
        _ input: inout StandardInput, _ parse: ([UInt8]) throws(CommandError) -> Item
    ) throws(CommandError) -> [Item] {
        var items: [Item] = []
        while true {
            guard let line = input.line() else { throw CommandError(.invalidInput, "EOF") }
            let trimmed = TxnText.trimmed(line)
            if trimmed.isEmpty { return items }
            items.append(try parse(trimmed))
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
