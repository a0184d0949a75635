import RPC
import Wire

/// `endpoint health | status | hashkv`: asks every endpoint by itself.
enum EndpointCommands {
    static let clusterFlag = Flag.bool("cluster", "use all endpoints from the cluster member list")

    static let group = Command(
        name: "endpoint", usage: "endpoint <subcommand>", summary: "Endpoint related commands",
        flags: [clusterFlag], subcommands: [hashKV, health, status])

    // MARK: health

    private static let health = Command(
        name: "health", usage: "health",
        summary: "Checks the healthiness of endpoints specified in `--endpoints` flag"
    ) { invocation throws(CommandError) in
        let session = try Session(invocation, printing: EndpointHealthReport.self)
        let endpoints = try await session.endpoints(cluster: invocation.bool("cluster"))
        let options = session.options
        let entries = await withTaskGroup(of: (Int, EndpointHealthReport.Entry).self) { group in
            for (index, endpoint) in endpoints.enumerated() {
                group.addTask { (index, await check(endpoint, options)) }
            }
            var entries = endpoints.map { EndpointHealthReport.Entry(endpoint: $0.text) }
            for await (index, entry) in group { entries[index] = entry }
            return entries
        }
        try session.print(EndpointHealthReport(entries: entries))
        if entries.contains(where: { !$0.error.isEmpty }) {
            throw CommandError(.error, "unhealthy cluster")
        }
    }

    /// Healthy is who answers a linearizable read and has no alarm. A refused permission counts as
    /// an answer: it was decided after the read had been agreed on.
    private static func check(
        _ endpoint: Endpoint, _ options: GlobalOptions
    ) async -> EndpointHealthReport.Entry {
        var entry = EndpointHealthReport.Entry(endpoint: endpoint.text)
        let client = ClusterClient([endpoint], options)
        do throws(RPCStatus) {
            try await client.authenticate()
        } catch {
            entry.error = error.clientText
            return entry
        }
        let start = ContinuousClock.now
        do throws(RPCStatus) {
            var request = Etcdserverpb_RangeRequest()
            request.key.append(contentsOf: Array("health".utf8))
            let _: Etcdserverpb_RangeResponse = try await client.call(.range, request)
            entry.isHealthy = true
        } catch {
            entry.isHealthy = error.message == "etcdserver: permission denied"
            if !entry.isHealthy { entry.error = error.clientText }
        }
        entry.took = GoDuration.text(ContinuousClock.now - start)
        if !entry.isHealthy { return entry }
        do throws(RPCStatus) {
            let reply: Etcdserverpb_AlarmResponse = try await client.call(
                .alarm, Etcdserverpb_AlarmRequest())
            if reply.alarms.isEmpty { return entry }
            entry.error = "Active Alarm(s): "
            for alarm in reply.alarms {
                let isKnown = alarm.alarm == .nospace || alarm.alarm == .corrupt
                entry.error += (isKnown ? alarm.alarm.text : "UNKNOWN") + " "
            }
        } catch {
            entry.error = "Unable to fetch the alarm list"
        }
        entry.isHealthy = false
        return entry
    }

    // MARK: status and hashkv

    private static let status = Command(
        name: "status", usage: "status",
        summary: "Prints out the status of endpoints specified in `--endpoints` flag"
    ) { invocation throws(CommandError) in
        let session = try Session(invocation, printing: EndpointStatusReport.self)
        var entries: [(endpoint: String, status: Etcdserverpb_StatusResponse)] = []
        let failure = try await each(invocation, session, "get the status of endpoint %") {
            endpoint, client throws(RPCStatus) in
            entries.append(
                (endpoint, try await client.call(.status, Etcdserverpb_StatusRequest())))
        }
        try session.print(EndpointStatusReport(entries: entries))
        if failure != nil { throw CommandError(.error, nil) }
    }

    private static let hashKV = Command(
        name: "hashkv", usage: "hashkv",
        summary: "Prints the KV history hash for each endpoint in --endpoints",
        flags: [.integer("rev", "maximum revision to hash (default: all revisions)")]
    ) { invocation throws(CommandError) in
        let session = try Session(invocation, printing: EndpointHashReport.self)
        var request = Etcdserverpb_HashKVRequest()
        request.revision = invocation.integer("rev")
        var entries: [(endpoint: String, hash: Etcdserverpb_HashKVResponse)] = []
        let failure = try await each(invocation, session, "get the hash of endpoint %") {
            endpoint, client throws(RPCStatus) in
            entries.append((endpoint, try await client.call(.hashKV, request)))
        }
        try session.print(EndpointHashReport(entries: entries))
        if let failure { throw CommandError(.error, failure) }
    }

    /// Does `body` with a client for each endpoint in turn, and says which failed.
    /// - Parameter purpose: what failed, with `%` where the endpoint goes.
    /// - Returns: the last failure.
    static func each(
        _ invocation: Invocation, _ session: Session, _ purpose: String,
        _ body: (String, ClusterClient) async throws(RPCStatus) -> Void
    ) async throws(CommandError) -> String? {
        try await session.authenticate()
        var failure: String?
        for endpoint in try await session.endpoints(cluster: invocation.bool("cluster")) {
            let client = ClusterClient(endpoint, of: session.client)
            do throws(RPCStatus) {
                try await body(endpoint.text, client)
            } catch {
                failure = error.clientText
                session.explain(client)
                let what = purpose.replacing("%", with: endpoint.text)
                session.warn("Failed to \(what) (\(error.clientText))")
            }
        }
        return failure
    }
}
