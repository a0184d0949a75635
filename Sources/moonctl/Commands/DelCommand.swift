import Wire

/// `del`: deletes one key or a range.
enum DelCommand {
    static let command = Command(
        name: "del", usage: "del [options] <key> [range_end]",
        summary: "Removes the specified key or range of keys [key, range_end)",
        flags: [
            .bool(
                "from-key",
                "delete keys that are greater than or equal to the given key using byte compare"),
            .bool("prefix", "delete keys with matching prefix"),
            .bool("prev-kv", "return deleted key-value pairs"),
            .bool(
                "range", "accepted because newer etcdctl wait two seconds without it; no effect"),
        ],
        run: run)

    @Sendable private static func run(_ invocation: Invocation) async throws(CommandError) {
        let request = try request(invocation)
        let session = try Session(invocation, printing: Etcdserverpb_DeleteRangeResponse.self)
        let reply: Etcdserverpb_DeleteRangeResponse = try await session.call(.deleteRange, request)
        try session.print(reply)
    }

    /// The request that the arguments ask for.
    static func request(
        _ invocation: Invocation
    ) throws(CommandError) -> Etcdserverpb_DeleteRangeRequest {
        let words = invocation.arguments
        if words.isEmpty || words.count > 2 {
            throw .badArguments(
                "del command needs one argument as key and an optional argument as range_end")
        }
        let span = try KeySpan(
            words, prefix: invocation.bool("prefix"), fromKey: invocation.bool("from-key"))
        var request = Etcdserverpb_DeleteRangeRequest()
        request.key = span.key
        request.rangeEnd = span.end
        request.prevKv = invocation.bool("prev-kv")
        return request
    }
}
