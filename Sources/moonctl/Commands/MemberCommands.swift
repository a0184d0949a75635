import RPC
import Wire

/// `member list | add | remove | update | promote`, and `replace` in its own file.
enum MemberCommands {
    static let group = Command(
        name: "member", usage: "member <subcommand>", summary: "Membership related commands",
        subcommands: [addition, list, promotion, removal, MemberReplace.command, update])

    static let peerURLsFlag = "peer-urls"

    private static let list = Command(
        name: "list", usage: "list", summary: "Lists all members in the cluster"
    ) { invocation throws(CommandError) in
        let session = try Session(invocation, printing: Etcdserverpb_MemberListResponse.self)
        try session.print(try await members(session))
    }

    private static let addition = Command(
        name: "add", usage: "add <memberName> [options]", summary: "Adds a member into the cluster",
        flags: [
            .text(peerURLsFlag, "", "comma separated peer URLs for the new member."),
            .bool("learner", "indicates if the new member is raft learner"),
        ]
    ) { invocation throws(CommandError) in
        let words = invocation.arguments
        if words.isEmpty { throw .badArguments("member name not provided") }
        if words.count > 1 {
            let second = String(decoding: words[1], as: UTF8.self)
            let hint = second.hasPrefix("http://") ? ", did you mean --peer-urls=\(second)" : ""
            throw .badArguments("too many arguments\(hint)")
        }
        let session = try Session(invocation, printing: MemberAddReport.self)
        let urls = try peerURLs(invocation)
        let name = String(decoding: words[0], as: UTF8.self)
        try session.print(
            try await add(session, name: name, urls, asLearner: invocation.bool("learner")))
    }

    static func add(
        _ session: Session, name: String, _ urls: [String], asLearner: Bool
    ) async throws(CommandError) -> MemberAddReport {
        var request = Etcdserverpb_MemberAddRequest()
        request.peerUrls = urls
        request.isLearner = asLearner
        let reply: Etcdserverpb_MemberAddResponse = try await session.call(.memberAdd, request)
        return MemberAddReport(name: name, peerURLs: urls, reply: reply)
    }

    private static let removal = Command(
        name: "remove", usage: "remove <memberID>", summary: "Removes a member from the cluster"
    ) { invocation throws(CommandError) in
        let id = try onlyID(invocation)
        let session = try Session(invocation, printing: MemberChangeReport.self)
        try session.print(try await remove(session, id))
    }

    static func remove(
        _ session: Session, _ id: UInt64
    ) async throws(CommandError) -> MemberChangeReport {
        var request = Etcdserverpb_MemberRemoveRequest()
        request.id = id
        let reply: Etcdserverpb_MemberRemoveResponse = try await session.call(
            .memberRemove, request)
        return MemberChangeReport(
            id: id, what: "removed from", header: reply.header, members: reply.members, reply: reply)
    }

    private static let update = Command(
        name: "update", usage: "update <memberID> [options]",
        summary: "Updates a member in the cluster",
        flags: [.text(peerURLsFlag, "", "comma separated peer URLs for the updated member.")]
    ) { invocation throws(CommandError) in
        let id = try onlyID(invocation)
        let session = try Session(invocation, printing: MemberChangeReport.self)
        var request = Etcdserverpb_MemberUpdateRequest()
        request.id = id
        request.peerUrls = try peerURLs(invocation)
        let reply: Etcdserverpb_MemberUpdateResponse = try await session.call(
            .memberUpdate, request)
        try session.print(
            MemberChangeReport(
                id: id, what: "updated in", header: reply.header, members: reply.members,
                reply: reply))
    }

    private static let promotion = Command(
        name: "promote", usage: "promote <memberID>",
        summary: "Promotes a non-voting member in the cluster"
    ) { invocation throws(CommandError) in
        let id = try onlyID(invocation)
        let session = try Session(invocation, printing: MemberChangeReport.self)
        let reply: Etcdserverpb_MemberPromoteResponse = try await session.call(
            .memberPromote, promotionRequest(id))
        try session.print(
            MemberChangeReport(
                id: id, what: "promoted in", header: reply.header, members: reply.members,
                reply: reply))
    }

    static func promotionRequest(_ id: UInt64) -> Etcdserverpb_MemberPromoteRequest {
        var request = Etcdserverpb_MemberPromoteRequest()
        request.id = id
        return request
    }

    /// The members as the leader knows them.
    static func members(
        _ session: Session
    ) async throws(CommandError) -> Etcdserverpb_MemberListResponse {
        var request = Etcdserverpb_MemberListRequest()
        request.linearizable = true
        return try await session.call(.memberList, request)
    }

    // MARK: Arguments

    private static func onlyID(_ invocation: Invocation) throws(CommandError) -> UInt64 {
        guard invocation.arguments.count == 1 else { throw .badArguments("member ID is not provided") }
        return try id(invocation.arguments[0])
    }

    /// A member as outputs show it.
    static func id(_ word: [UInt8]) throws(CommandError) -> UInt64 {
        do throws(ValueError) {
            return try GoNumber.hexadecimal(String(decoding: word, as: UTF8.self))
        } catch {
            throw .badArguments("bad member ID arg (\(error.reason)), expecting ID in Hex")
        }
    }

    /// The URLs of `--peer-urls`; etcdctl checks their form before it sends them, too.
    static func peerURLs(_ invocation: Invocation) throws(CommandError) -> [String] {
        let text = invocation.text(peerURLsFlag)
        if text.isEmpty { throw .badArguments("member peer urls not provided") }
        let urls = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        for url in urls {
            if let problem = problem(ofURL: url) { throw CommandError(.error, problem) }
        }
        return urls
    }

    /// Why this is no peer URL, in the words of etcd's client (client/pkg/types/urls.go).
    static func problem(ofURL url: String) -> String? {
        guard let colon = url.firstRange(of: "://") else {
            return "URL scheme must be http, https, unix, or unixs: \(url)"
        }
        switch url[..<colon.lowerBound] {
        case "http", "https":
            let address = url[colon.upperBound...].prefix { $0 != "/" }
            let port = address.split(separator: ":", omittingEmptySubsequences: false).last ?? ""
            guard address.contains(":"), !address.hasSuffix("]"), UInt16(port) != nil else {
                return "URL address does not have the form \"host:port\": \(url)"
            }
            return url.hasSuffix(address) ? nil : "URL must not contain a path: \(url)"
        case "unix", "unixs": return nil
        default: return "URL scheme must be http, https, unix, or unixs: \(url)"
        }
    }
}

/// `move-leader`: asks the member that leads, which must be among the endpoints, to hand over.
enum MoveLeaderCommand {
    static let command = Command(
        name: "move-leader", usage: "move-leader <transferee-member-id>",
        summary: "Transfers leadership to another etcd cluster member."
    ) { invocation throws(CommandError) in
        guard invocation.arguments.count == 1 else {
            throw .badArguments("move-leader command needs 1 argument")
        }
        let target: UInt64
        do throws(ValueError) {
            target = try GoNumber.hexadecimal(
                String(decoding: invocation.arguments[0], as: UTF8.self))
        } catch {
            throw .badArguments(error.reason)
        }
        let session = try Session(invocation, printing: MoveLeaderReport.self)
        guard let (client, leader) = try await findLeader(session) else {
            let endpoints = session.client.endpoints.map(\.text).joined(separator: " ")
            throw .badArguments("no leader endpoint given at [\(endpoints)]")
        }
        var request = Etcdserverpb_MoveLeaderRequest()
        request.targetID = target
        let reply: Etcdserverpb_MoveLeaderResponse
        do throws(RPCStatus) {
            reply = try await client.call(.moveLeader, request)
        } catch {
            throw CommandError(.error, error.clientText)
        }
        try session.print(MoveLeaderReport(from: leader, to: target, reply: reply))
    }

    /// The first endpoint whose member says that it leads. A member that cannot be reached does not
    /// lead anybody; etcdctl gives up there.
    private static func findLeader(
        _ session: Session
    ) async throws(CommandError) -> (ClusterClient, UInt64)? {
        try await session.authenticate()
        for endpoint in session.client.endpoints {
            let client = ClusterClient(endpoint, of: session.client)
            do throws(RPCStatus) {
                let status: Etcdserverpb_StatusResponse = try await client.call(
                    .status, Etcdserverpb_StatusRequest())
                if status.header.memberID == status.leader { return (client, status.leader) }
            } catch {
                session.explain(client)
                session.warn("Failed to get the status of endpoint \(endpoint.text) (\(error.clientText))")
            }
        }
        return nil
    }
}
