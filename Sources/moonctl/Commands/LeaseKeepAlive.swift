import RPC
import Wire

/// `lease keep-alive`: renews a lease every third of its time, until it is gone.
enum LeaseKeepAlive {
    static let command = Command(
        name: "keep-alive", usage: "keep-alive [options] <leaseID>",
        summary: "Keeps leases alive (renew)",
        flags: [
            .bool("once", "Resets the keep-alive time to its original value and exits immediately")
        ],
        run: run)

    /// How long to wait before a lost connection is tried again.
    private static let reconnectPause = Duration.milliseconds(500)
    /// The most that a server may say, in seconds; etcd's own bound.
    private static let longestTTL: Int64 = 9_000_000_000

    @Sendable private static func run(_ invocation: Invocation) async throws(CommandError) {
        if invocation.arguments.count != 1 {
            throw .badArguments("lease keep-alive command needs lease ID as argument")
        }
        let id = try LeaseCommands.id(invocation.arguments[0])
        let session = try Session(invocation, printing: Etcdserverpb_LeaseKeepAliveResponse.self)
        try await session.authenticate()
        if invocation.bool("once") {
            try await renewOnce(id, session)
        } else {
            try await keepAlive(id, session)
            if session.options.format == .simple {
                session.line("lease \(GoText.leaseID(id)) expired or revoked.")
            }
        }
    }

    private static func renewOnce(_ id: Int64, _ session: Session) async throws(CommandError) {
        let deadline = ContinuousClock.now + session.options.commandTimeout
        let reply: Etcdserverpb_LeaseKeepAliveResponse
        do throws(RPCStatus) {
            let stream = try await session.client.stream(.leaseKeepAlive, deadline: deadline)
            guard let answer = try renew(id, stream, until: deadline) else {
                throw RPCStatus(.deadlineExceeded, "context deadline exceeded")
            }
            if answer.ttl <= 0 {
                throw RPCStatus(.notFound, "etcdserver: requested lease not found")
            }
            reply = answer
        } catch {
            session.explain(session.client)
            throw CommandError(.badConnection, error.clientText)
        }
        try session.print(reply)
    }

    /// Returns when the lease has expired or was revoked.
    private static func keepAlive(_ id: Int64, _ session: Session) async throws(CommandError) {
        var deadline = ContinuousClock.now + session.options.dialTimeout + .seconds(1)
        var stream: BlockingStream?
        while ContinuousClock.now < deadline {
            let reply: Etcdserverpb_LeaseKeepAliveResponse
            do throws(RPCStatus) {
                if stream == nil {
                    stream = try await session.client.stream(.leaseKeepAlive, deadline: deadline)
                }
                guard let stream, let answer = try renew(id, stream, until: deadline) else { return }
                reply = answer
            } catch {
                stream = nil
                switch error.code {
                case .deadlineExceeded: return
                case .unavailable:
                    try? await Task.sleep(for: reconnectPause)
                    continue
                default: throw CommandError(.badConnection, error.clientText)
                }
            }
            if reply.ttl <= 0 { return }
            let ttl = Duration.seconds(min(reply.ttl, longestTTL))
            deadline = ContinuousClock.now + ttl
            try session.print(reply)
            try? await Task.sleep(for: ttl / 3)
        }
    }

    /// Sends one renewal and waits for its answer; nil when the time ran out.
    private static func renew(
        _ id: Int64, _ stream: BlockingStream, until deadline: ContinuousClock.Instant
    ) throws(RPCStatus) -> Etcdserverpb_LeaseKeepAliveResponse? {
        var request = Etcdserverpb_LeaseKeepAliveRequest()
        request.id = id
        stream.send(try ClusterClient.encode(request))
        let left = max(.zero, deadline - ContinuousClock.now)
        switch stream.receive(timeout: left.timeAmount) {
        case .message(let bytes): return try ClusterClient.decode(bytes)
        case .closed(let status, _):
            throw status.code == .ok ? RPCStatus(.unavailable, "the server ended the stream") : status
        case .timedOut: return nil
        }
    }
}
