import Wire

/// `lease grant | revoke | timetolive | list`, and `keep-alive` in its own file.
enum LeaseCommands {
    static let group = Command(
        name: "lease", usage: "lease <subcommand>", summary: "Lease related commands",
        subcommands: [grant, LeaseKeepAlive.command, list, revoke, timeToLive])

    private static let grant = Command(
        name: "grant", usage: "grant <ttl>", summary: "Creates leases"
    ) { invocation throws(CommandError) in
        let words = invocation.arguments
        if words.count != 1 { throw .badArguments("lease grant command needs TTL argument") }
        var request = Etcdserverpb_LeaseGrantRequest()
        do throws(ValueError) {
            request.ttl = try GoNumber.integer(String(decoding: words[0], as: UTF8.self), base: 10)
        } catch {
            throw .badArguments("bad TTL (\(error.reason))")
        }
        let session = try Session(invocation, printing: Etcdserverpb_LeaseGrantResponse.self)
        let reply: Etcdserverpb_LeaseGrantResponse = try await session.call(.leaseGrant, request) {
            "failed to grant lease (\($0))"
        }
        try session.print(reply)
    }

    private static let revoke = Command(
        name: "revoke", usage: "revoke <leaseID>", summary: "Revokes leases"
    ) { invocation throws(CommandError) in
        if invocation.arguments.count != 1 {
            throw .badArguments("lease revoke command needs 1 argument")
        }
        var request = Etcdserverpb_LeaseRevokeRequest()
        request.id = try id(invocation.arguments[0])
        let session = try Session(invocation, printing: LeaseRevokeReport.self)
        let reply: Etcdserverpb_LeaseRevokeResponse = try await session.call(
            .leaseRevoke, request
        ) { "failed to revoke lease (\($0))" }
        try session.print(LeaseRevokeReport(id: request.id, reply: reply))
    }

    private static let timeToLive = Command(
        name: "timetolive", usage: "timetolive <leaseID> [options]",
        summary: "Get lease information",
        flags: [.bool("keys", "Get keys attached to this lease")]
    ) { invocation throws(CommandError) in
        if invocation.arguments.count != 1 {
            throw .badArguments("lease timetolive command needs lease ID as argument")
        }
        var request = Etcdserverpb_LeaseTimeToLiveRequest()
        request.id = try id(invocation.arguments[0])
        request.keys = invocation.bool("keys")
        let session = try Session(invocation, printing: LeaseTimeReport.self)
        let reply: Etcdserverpb_LeaseTimeToLiveResponse = try await session.call(
            .leaseTimeToLive, request, failure: .badConnection)
        try session.print(LeaseTimeReport(reply: reply, showsKeys: request.keys))
    }

    private static let list = Command(
        name: "list", usage: "list", summary: "List all active leases"
    ) { invocation throws(CommandError) in
        let session = try Session(invocation, printing: Etcdserverpb_LeaseLeasesResponse.self)
        let reply: Etcdserverpb_LeaseLeasesResponse = try await session.call(
            .leaseLeases, Etcdserverpb_LeaseLeasesRequest(), failure: .badConnection)
        try session.print(reply)
    }

    /// A lease as outputs show it.
    static func id(_ word: [UInt8]) throws(CommandError) -> Int64 {
        do throws(ValueError) {
            return try GoNumber.integer(String(decoding: word, as: UTF8.self), base: 16)
        } catch {
            throw .badArguments("bad lease ID arg (\(error.reason)), expecting ID in Hex")
        }
    }
}
