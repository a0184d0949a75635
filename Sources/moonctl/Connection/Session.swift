import RPC
import SwiftProtobuf
import Wire

/// What a command works with: the options, a client, and a place to print.
final class Session {
    let options: GlobalOptions
    let client: ClusterClient
    var style: OutputStyle
    private var output = Output()

    /// Refuses a format that `report` does not have, before anything is sent.
    init(_ invocation: Invocation, printing report: (any Report.Type)?) throws(CommandError) {
        options = try GlobalOptions(invocation)
        style = OutputStyle(isHex: options.isHex)
        client = ClusterClient(try Self.parse(options.endpoints), options)
        try report?.require(options.format)
    }

    /// For commands that must look at the format or at their input before they know.
    func require(_ report: any Report.Type) throws(CommandError) {
        try report.require(options.format)
    }

    static func parse(_ texts: [String]) throws(CommandError) -> [Endpoint] {
        var endpoints: [Endpoint] = []
        for text in texts { endpoints.append(try Endpoint(text)) }
        return endpoints
    }

    /// Calls, as the user that the options name; a failure ends the command with `code`.
    func call<Reply: SwiftProtobuf.Message>(
        _ method: Method, _ request: some SwiftProtobuf.Message, failure code: ExitCode = .error,
        describe: (String) -> String = { $0 }
    ) async throws(CommandError) -> Reply {
        try await authenticate()
        do throws(RPCStatus) {
            return try await client.call(method, request)
        } catch {
            explain(client)
            throw CommandError(code, describe(error.clientText))
        }
    }

    /// Gets the token that streams need; calls do it by themselves.
    func authenticate() async throws(CommandError) {
        do throws(RPCStatus) {
            try await client.authenticate()
        } catch {
            explain(client)
            throw CommandError(.badConnection, error.clientText)
        }
    }

    /// Says why there is no connection; the error that follows only tells that time ran out.
    func explain(_ client: ClusterClient) {
        if let failure = client.connectFailure {
            warn("Warning: no connection to \(failure)")
        }
    }

    // MARK: Printing

    func print(_ report: some Report) throws(CommandError) {
        try report.write(options.format, style, &output)
        output.flush()
    }

    func line(_ text: String) {
        output.line(text)
        output.flush()
    }

    func warn(_ text: String) {
        output.error(text)
        output.flush()
    }

    // MARK: Endpoints

    /// The endpoints of the options, or with `cluster` those that the members advertise.
    func endpoints(cluster: Bool) async throws(CommandError) -> [Endpoint] {
        if !cluster { return client.endpoints }
        // Asked without a user: the list is open to all, and no password need be sent for it.
        let anonymous = ClusterClient(client.endpoints, options, anonymous: true)
        var request = Etcdserverpb_MemberListRequest()
        request.linearizable = true
        let reply: Etcdserverpb_MemberListResponse
        do throws(RPCStatus) {
            reply = try await anonymous.call(.memberList, request)
        } catch {
            explain(anonymous)
            throw CommandError(
                .error,
                "failed to fetch endpoints from etcd cluster member list: \(error.clientText)")
        }
        return try Self.parse(reply.members.flatMap(\.clientUrls))
    }
}
