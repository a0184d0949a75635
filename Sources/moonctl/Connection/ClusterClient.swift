import NIOCore
import RPC
import SwiftProtobuf
import Wire

/// Calls to whichever of several endpoints answers: the first that connects is kept until it is
/// lost, then the list is tried again from its beginning.
///
/// Used by one task at a time.
final class ClusterClient {
    let endpoints: [Endpoint]
    private let options: GlobalOptions
    private let configuration: RPCClientConfiguration
    private var client: RPCClient?
    private var metadata: [(String, String)] = []
    private var isAuthenticated: Bool
    /// Why the last attempt to connect failed; nil once connected.
    private(set) var connectFailure: String?

    /// Pauses between attempts grow from the first to the second.
    private static let pauses = (first: Duration.milliseconds(25), last: Duration.milliseconds(500))

    /// With `anonymous`, calls carry no token even when a user is named.
    init(_ endpoints: [Endpoint], _ options: GlobalOptions, anonymous: Bool = false) {
        self.endpoints = endpoints
        self.options = options
        isAuthenticated = anonymous || options.credentials == nil
        var configuration = RPCClientConfiguration()
        configuration.connectTimeout = options.dialTimeout.timeAmount
        configuration.userAgent = Moonctl.name
        // Servers refuse clients that ping oftener than every five seconds.
        configuration.keepaliveInterval = max(.seconds(10), options.keepaliveTime.timeAmount)
        configuration.keepaliveTimeout = options.keepaliveTimeout.timeAmount
        self.configuration = configuration
    }

    /// A client of another endpoint of the same cluster, with the token of `other`.
    init(_ endpoint: Endpoint, of other: ClusterClient) {
        endpoints = [endpoint]
        options = other.options
        configuration = other.configuration
        metadata = other.metadata
        isAuthenticated = other.isAuthenticated
    }

    deinit { client?.close() }

    // MARK: Connecting

    /// The live connection, or a new one; Unavailable when no endpoint can be reached just now.
    func connection() async throws(RPCStatus) -> RPCClient {
        if let client {
            if client.isActive { return client }
            drop()
        }
        for endpoint in endpoints {
            switch await endpoint.connect(configuration) {
            case .success(let new):
                client = new
                connectFailure = nil
                return new
            case .failure(let error): connectFailure = error.reason
            }
        }
        throw RPCStatus(.unavailable, "connection error: \(connectFailure ?? "no endpoints")")
    }

    /// Closes the connection; the next call opens another.
    func drop() {
        client?.close()
        client = nil
    }

    /// Gets a token for the user that the options name, once, within the dial timeout.
    ///
    /// A server that does not authenticate is as good as one that said yes.
    func authenticate() async throws(RPCStatus) {
        guard !isAuthenticated, let credentials = options.credentials else { return }
        var request = Etcdserverpb_AuthenticateRequest()
        request.name = credentials.user
        request.password = credentials.password
        do throws(RPCStatus) {
            let reply: Etcdserverpb_AuthenticateResponse = try await call(
                .authenticate, request, timeout: options.dialTimeout)
            metadata = [("token", reply.token)]
        } catch {
            if error.message != "etcdserver: authentication is not enabled" { throw error }
        }
        isAuthenticated = true
    }

    // MARK: Calls

    /// Sends one message and waits for the answer, connecting as long as the time allows.
    func call<Reply: SwiftProtobuf.Message>(
        _ method: Method, _ request: some SwiftProtobuf.Message, timeout: Duration? = nil
    ) async throws(RPCStatus) -> Reply {
        let deadline = ContinuousClock.now + (timeout ?? options.commandTimeout)
        let bytes = try Self.encode(request)
        var pause = Self.pauses.first
        while true {
            do throws(RPCStatus) {
                let client = try await connection()
                let left = deadline - ContinuousClock.now
                if left <= .zero { throw RPCStatus(.deadlineExceeded, "context deadline exceeded") }
                let result = await client.unary(
                    method.path, bytes, metadata: metadata, timeout: left.timeAmount)
                return try Self.decode(try result.get().message)
            } catch {
                // Only a call that never left, or one that may be sent twice, is tried again.
                let isRetried = error.code == .unavailable && (client == nil || method.isRepeatable)
                if !isRetried { throw error }
            }
            if ContinuousClock.now + pause >= deadline {
                throw RPCStatus(.deadlineExceeded, "context deadline exceeded")
            }
            try? await Task.sleep(for: pause)
            pause = min(pause * 2, Self.pauses.last)
        }
    }

    /// Opens a stream, connecting until `deadline`; without one, until it succeeds.
    /// - Parameter failed: told each time no endpoint could be reached.
    func stream(
        _ method: Method, metadata extra: [(String, String)] = [],
        deadline: ContinuousClock.Instant? = nil, failed: (String) -> Void = { _ in }
    ) async throws(RPCStatus) -> BlockingStream {
        var pause = Self.pauses.first
        while true {
            do throws(RPCStatus) {
                let client = try await connection()
                return try client.openStream(method.path, metadata: metadata + extra)
            } catch {
                if error.code != .unavailable { throw error }
                failed(connectFailure ?? error.message)
            }
            if let deadline, ContinuousClock.now + pause >= deadline {
                throw RPCStatus(.deadlineExceeded, "context deadline exceeded")
            }
            try? await Task.sleep(for: pause)
            pause = min(pause * 2, Self.pauses.last)
        }
    }

    static func encode(_ message: some SwiftProtobuf.Message) throws(RPCStatus) -> [UInt8] {
        do {
            return try message.serializedBytes()
        } catch {
            throw RPCStatus(.internal, "grpc: error while marshaling: \(error)")
        }
    }

    static func decode<Reply: SwiftProtobuf.Message>(_ bytes: [UInt8]) throws(RPCStatus) -> Reply {
        do {
            return try Reply(serializedBytes: bytes)
        } catch {
            throw RPCStatus(.internal, "grpc: failed to unmarshal the received message: \(error)")
        }
    }
}

extension Duration {
    var timeAmount: TimeAmount { .nanoseconds(nanoseconds) }
}
