import Wire

/// `compaction`: forgets history before a revision.
enum CompactionCommand {
    static let command = Command(
        name: "compaction", usage: "compaction [options] <revision>",
        summary: "Compacts the event history",
        flags: [
            .bool(
                "physical",
                "'true' to wait for compaction to physically remove all old revisions")
        ],
        run: run)

    @Sendable private static func run(_ invocation: Invocation) async throws(CommandError) {
        let words = invocation.arguments
        if words.count != 1 { throw .badArguments("compaction command needs 1 argument") }
        var request = Etcdserverpb_CompactionRequest()
        request.physical = invocation.bool("physical")
        do throws(ValueError) {
            request.revision = try GoNumber.integer(
                String(decoding: words[0], as: UTF8.self), base: 10)
        } catch {
            throw CommandError(.error, error.reason)
        }
        let session = try Session(invocation, printing: nil)
        let _: Etcdserverpb_CompactionResponse = try await session.call(.compact, request)
        session.line("compacted revision \(request.revision)")
    }
}
