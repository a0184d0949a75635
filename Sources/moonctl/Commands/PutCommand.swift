import FoundationEssentials
import Wire

/// `put`: writes one key; the value is the second argument or all of standard input.
enum PutCommand {
    static let command = Command(
        name: "put", usage: "put [options] <key> <value> (<value> can also be given from stdin)",
        summary: "Puts the given key into the store",
        flags: [
            .bool("ignore-lease", "updates the key using its current lease"),
            .bool("ignore-value", "updates the key using its current value"),
            .text("lease", "0", "lease ID (in hexadecimal) to attach to the key"),
            .bool("prev-kv", "return the previous key-value pair before modification"),
        ],
        run: run)

    private static let usageError = CommandError.badArguments(
        "put command needs 1 argument and input from stdin or 2 arguments")

    @Sendable private static func run(_ invocation: Invocation) async throws(CommandError) {
        var input = StandardInput()
        let request = try request(invocation, input: &input)
        let session = try Session(invocation, printing: Etcdserverpb_PutResponse.self)
        let reply: Etcdserverpb_PutResponse = try await session.call(.put, request)
        try session.print(reply)
    }

    /// The request that the arguments ask for. Without `input` the value must be an argument.
    static func request(_ invocation: Invocation) throws(CommandError) -> Etcdserverpb_PutRequest {
        if invocation.arguments.count < 2, !invocation.bool("ignore-value") { throw usageError }
        var unused = StandardInput()
        return try request(invocation, input: &unused)
    }

    private static func request(
        _ invocation: Invocation, input: inout StandardInput
    ) throws(CommandError) -> Etcdserverpb_PutRequest {
        let words = invocation.arguments
        guard let key = words.first else { throw usageError }
        var request = Etcdserverpb_PutRequest()
        request.key = Data(key)
        request.ignoreValue = invocation.bool("ignore-value")
        request.ignoreLease = invocation.bool("ignore-lease")
        request.prevKv = invocation.bool("prev-kv")
        if request.ignoreValue {
            if words.count > 1 {
                throw .badArguments("put command needs only 1 argument when 'ignore-value' is set")
            }
        } else if words.count > 1 {
            request.value = Data(words[1])
        } else {
            request.value = Data(input.rest())
            if request.value.isEmpty { throw usageError }
        }
        do throws(ValueError) {
            request.lease = try GoNumber.integer(invocation.text("lease"), base: 16)
        } catch {
            throw .badArguments("bad lease ID (\(error.reason)), expecting ID in Hex")
        }
        return request
    }
}
