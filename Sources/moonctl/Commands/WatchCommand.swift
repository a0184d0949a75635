import FoundationEssentials
import RPC
import Wire

/// `watch`: prints events as they come, or runs a program for each, until the server ends it.
///
/// A lost connection is made again and the watch goes on after the last revision that was printed.
enum WatchCommand {
    static let command = Command(
        name: "watch",
        usage: "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
        summary: "Watches events stream on keys or prefixes",
        flags: [
            .bool("prefix", "Watch on a prefix if prefix is set"),
            .bool("prev-kv", "get the previous key-value pair before the event happens"),
            .bool("progress-notify", "get periodic watch progress notification from server"),
            .integer("rev", "Revision to start watching"),
        ],
        run: run)

    @Sendable private static func run(_ invocation: Invocation) async throws(CommandError) {
        let (words, program) = try split(invocation)
        if invocation.bool("prefix"), words.count > 1 {
            throw .badArguments("`range_end` and `--prefix` are mutually exclusive")
        }
        let span = try KeySpan(words, prefix: invocation.bool("prefix"), fromKey: false)
        var request = Etcdserverpb_WatchCreateRequest()
        request.key = span.key
        request.rangeEnd = span.end
        request.startRevision = invocation.integer("rev")
        request.prevKv = invocation.bool("prev-kv")
        request.progressNotify = invocation.bool("progress-notify")
        let session = try Session(invocation, printing: Etcdserverpb_WatchResponse.self)
        try await session.authenticate()
        var watch = Watch(request: request, program: program, session: session)
        try await watch.follow()
    }

    /// The key with its end, from the arguments or the environment, and the program after `--`.
    private static func split(
        _ invocation: Invocation
    ) throws(CommandError) -> (words: [[UInt8]], program: [[UInt8]]) {
        let key = variable("WATCH_KEY")
        let end = variable("WATCH_RANGE_END")
        if key == nil, let end {
            throw .badArguments(
                "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END=\(GoText.quote(end))")
        }
        let all = invocation.arguments
        let separator = invocation.separator ?? all.count
        var words = Array(all[..<separator])
        let program = Array(all[separator...])
        if invocation.separator != nil, program.isEmpty {
            throw .badArguments("bad number of arguments (found separator --, but no commands)")
        }
        if let key {
            if !words.isEmpty {
                throw .badArguments(
                    "bad number of arguments (found conflicting environment key)")
            }
            words = [key, end].compactMap { $0.map { Array($0.utf8) } }
        }
        if words.isEmpty || words.count > 2 { throw .badArguments("bad number of arguments") }
        return (words, program)
    }

    private static func variable(_ name: String) -> String? {
        environment("MOONCTL_" + name) ?? environment("ETCDCTL_" + name)
    }
}

/// One watch over however many connections it takes.
private struct Watch {
    private enum End: Error {
        /// The stream broke; the watch can go on over another.
        case lost
        case failed(CommandError)
    }

    private static let reconnectPause = Duration.milliseconds(100)
    private static let metadata = [("hasleader", "true")]

    var request: Etcdserverpb_WatchCreateRequest
    let program: [[UInt8]]
    let session: Session

    init(request: Etcdserverpb_WatchCreateRequest, program: [[UInt8]], session: Session) {
        self.request = request
        self.program = program
        self.session = session
    }

    /// Never returns without an error: a watch has no good end.
    mutating func follow() async throws(CommandError) {
        while true {
            let stream: BlockingStream
            do throws(RPCStatus) {
                var hasWarned = false
                stream = try await session.client.stream(.watch, metadata: Self.metadata) { reason in
                    if !hasWarned { session.warn("Warning: no connection to \(reason)") }
                    hasWarned = true
                }
                var message = Etcdserverpb_WatchRequest()
                message.createRequest = request
                stream.send(try ClusterClient.encode(message))
            } catch {
                throw canceled(error.clientText)
            }
            do throws(End) {
                try receive(stream)
            } catch {
                if case .failed(let error) = error { throw error }
            }
            session.client.drop()
            try? await Task.sleep(for: Self.reconnectPause)
        }
    }

    private mutating func receive(_ stream: BlockingStream) throws(End) {
        while true {
            switch stream.receive() {
            case .timedOut: continue
            case .closed(let status, _):
                switch status.code {
                case .unavailable, .internal, .ok: throw .lost
                default: throw .failed(canceled(status.clientText))
                }
            case .message(let bytes):
                do throws(CommandError) {
                    try take(bytes)
                } catch {
                    throw .failed(error)
                }
            }
        }
    }

    private mutating func take(_ bytes: [UInt8]) throws(CommandError) {
        let reply: Etcdserverpb_WatchResponse
        do throws(RPCStatus) {
            reply = try ClusterClient.decode(bytes)
        } catch {
            throw canceled(error.clientText)
        }
        if reply.created && !reply.canceled {
            // From here on nothing may be missed, whatever becomes of the connection.
            if request.startRevision <= 0 { request.startRevision = next(reply.header.revision) }
            return
        }
        if reply.canceled {
            session.warn("watch was canceled (\(Self.reason(reply)))")
            try session.print(reply)
            throw CommandError(.interrupted, "watch is canceled by the server")
        }
        if reply.events.isEmpty {
            if reply.header.revision == 0 { return }
            session.line("progress notify: \(reply.header.revision)")
            request.startRevision = max(request.startRevision, next(reply.header.revision))
        }
        try session.print(reply)
        for event in reply.events {
            try execute(event, revision: reply.header.revision)
            request.startRevision = max(request.startRevision, next(event.kv.modRevision))
        }
    }

    private func next(_ revision: Int64) -> Int64 { revision == .max ? revision : revision + 1 }

    private func canceled(_ reason: String) -> CommandError {
        session.warn("watch was canceled (\(reason))")
        return CommandError(.interrupted, "watch is canceled by the server")
    }

    private static func reason(_ reply: Etcdserverpb_WatchResponse) -> String {
        if reply.compactRevision != 0 {
            return "etcdserver: mvcc: required revision has been compacted"
        }
        if reply.cancelReason.isEmpty {
            return "etcdserver: mvcc: required revision is a future revision"
        }
        // A watch that never began is refused with the server's words alone.
        if reply.created { return reply.cancelReason }
        return RPCStatus(.failedPrecondition, reply.cancelReason).clientText
    }

    private func execute(_ event: Mvccpb_Event, revision: Int64) throws(CommandError) {
        if program.isEmpty { return }
        let variables = [
            "ETCD_WATCH_REVISION=\(revision)",
            "ETCD_WATCH_EVENT_TYPE=\(GoText.quote(event.type.text))",
            "ETCD_WATCH_KEY=\(GoText.quote(event.kv.key))",
            "ETCD_WATCH_VALUE=\(GoText.quote(event.kv.value))",
        ]
        if let failure = ChildProcess.run(program, adding: variables) {
            let words = program.map { GoText.quote($0) }.joined(separator: " ")
            session.warn("command [\(words)] error (\(failure))")
            throw CommandError(.error, nil)
        }
    }
}
