import RPC
import Wire

/// `get`: reads one key or a range.
enum GetCommand {
    static let command = Command(
        name: "get", usage: "get [options] <key> [range_end]",
        summary: "Gets the key or a range of keys",
        flags: [
            .text("consistency", "l", "Linearizable(l) or Serializable(s)"),
            .bool("count-only", "Get only the count"),
            .bool(
                "from-key",
                "Get keys that are greater than or equal to the given key using byte compare"),
            .bool("keys-only", "Get only the keys"),
            .integer("limit", "Maximum number of results"),
            .integer("max-create-rev", "Maximum create revision"),
            .integer("max-mod-rev", "Maximum modification revision"),
            .integer("min-create-rev", "Minimum create revision"),
            .integer("min-mod-rev", "Minimum modification revision"),
            .text("order", "", "Order of results; ASCEND or DESCEND (ASCEND by default)"),
            .bool("prefix", "Get keys with matching prefix"),
            .bool(
                "print-value-only", "Only write values when using the \"simple\" output format"),
            .integer("rev", "Specify the kv revision"),
            .text("sort-by", "", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION"),
            .bool("stream", "Use the RangeStream RPC"),
        ],
        run: run)

    @Sendable private static func run(_ invocation: Invocation) async throws(CommandError) {
        let request = try request(invocation)
        let session = try Session(invocation, printing: nil)
        if request.countOnly && session.options.format != .fields {
            throw .badArguments("--count-only is only for `--write-out=fields`")
        }
        if invocation.bool("print-value-only") {
            if session.options.format != .simple {
                throw .badArguments("print-value-only is only for `--write-out=simple`")
            }
            session.style.valuesOnly = true
        }
        try session.require(Etcdserverpb_RangeResponse.self)
        let reply: Etcdserverpb_RangeResponse
        if invocation.bool("stream") {
            reply = try await readStream(request, session)
        } else {
            reply = try await session.call(.range, request)
        }
        try session.print(reply)
    }

    /// The request that the arguments ask for.
    static func request(
        _ invocation: Invocation
    ) throws(CommandError) -> Etcdserverpb_RangeRequest {
        let words = invocation.arguments
        if words.isEmpty {
            throw .badArguments(
                "get command needs one argument as key and an optional argument as range_end")
        }
        let span = try KeySpan(
            words, prefix: invocation.bool("prefix"), fromKey: invocation.bool("from-key"))
        var request = Etcdserverpb_RangeRequest()
        request.key = span.key
        request.rangeEnd = span.end
        request.keysOnly = invocation.bool("keys-only")
        request.countOnly = invocation.bool("count-only")
        if request.keysOnly && request.countOnly {
            throw .badArguments(
                "`--keys-only` and `--count-only` cannot be set at the same time, choose one")
        }
        switch invocation.text("consistency") {
        case "l": break
        case "s": request.serializable = true
        case let other:
            throw CommandError(.badFeature, "unknown consistency flag \(GoText.quote(other))")
        }
        request.limit = invocation.integer("limit")
        request.revision = max(0, invocation.integer("rev"))
        request.minCreateRevision = invocation.integer("min-create-rev")
        request.maxCreateRevision = invocation.integer("max-create-rev")
        request.minModRevision = invocation.integer("min-mod-rev")
        request.maxModRevision = invocation.integer("max-mod-rev")
        request.sortOrder = try order(invocation.text("order"))
        request.sortTarget = try target(invocation.text("sort-by"))
        // Keys come in ascending order by themselves; asked to sort, a server reads them all.
        if request.sortTarget == .key, request.sortOrder == .ascend { request.sortOrder = .none }
        return request
    }

    private static func order(
        _ text: String
    ) throws(CommandError) -> Etcdserverpb_RangeRequest.SortOrder {
        switch text.uppercased() {
        case "": return .none
        case "ASCEND": return .ascend
        case "DESCEND": return .descend
        default: throw CommandError(.badFeature, "bad sort order \(text)")
        }
    }

    private static func target(
        _ text: String
    ) throws(CommandError) -> Etcdserverpb_RangeRequest.SortTarget {
        switch text.uppercased() {
        case "", "KEY": return .key
        case "CREATE": return .create
        case "MODIFY": return .mod
        case "VALUE": return .value
        case "VERSION": return .version
        default: throw CommandError(.badFeature, "bad sort target \(text)")
        }
    }

    /// Reads in parts and puts them together.
    private static func readStream(
        _ request: Etcdserverpb_RangeRequest, _ session: Session
    ) async throws(CommandError) -> Etcdserverpb_RangeResponse {
        try await session.authenticate()
        do throws(RPCStatus) {
            let deadline = ContinuousClock.now + session.options.commandTimeout
            let stream = try await session.client.stream(.rangeStream, deadline: deadline)
            stream.send(try ClusterClient.encode(request))
            stream.closeSend()
            var whole = Etcdserverpb_RangeResponse()
            while true {
                let left = deadline - ContinuousClock.now
                switch stream.receive(timeout: max(.zero, left).timeAmount) {
                case .message(let bytes):
                    let part: Etcdserverpb_RangeStreamResponse = try ClusterClient.decode(bytes)
                    merge(part.rangeResponse, into: &whole)
                case .closed(let status, _):
                    if status.code == .ok { return whole }
                    throw status
                case .timedOut:
                    stream.cancel()
                    throw RPCStatus(.deadlineExceeded, "context deadline exceeded")
                }
            }
        } catch {
            session.explain(session.client)
            throw CommandError(.error, error.clientText)
        }
    }

    private static func merge(
        _ part: Etcdserverpb_RangeResponse, into whole: inout Etcdserverpb_RangeResponse
    ) {
        if part.hasHeader { whole.header = part.header }
        whole.kvs.append(contentsOf: part.kvs)
        if part.more { whole.more = true }
        if part.count != 0 { whole.count = part.count }
    }
}
