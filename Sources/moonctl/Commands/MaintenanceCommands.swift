import RPC
import Wire

/// `alarm list | disarm`.
enum AlarmCommands {
    static let group = Command(
        name: "alarm", usage: "alarm <subcommand>", summary: "Alarm related commands",
        subcommands: [disarm, list])

    private static let list = Command(
        name: "list", usage: "list", summary: "Lists all alarms"
    ) { invocation throws(CommandError) in
        if !invocation.arguments.isEmpty {
            throw .badArguments("alarm list command accepts no arguments")
        }
        let session = try Session(invocation, printing: Etcdserverpb_AlarmResponse.self)
        try session.print(try await alarms(session))
    }

    /// Disarms each alarm that is on, and prints those that were.
    private static let disarm = Command(
        name: "disarm", usage: "disarm", summary: "Disarms all alarms"
    ) { invocation throws(CommandError) in
        if !invocation.arguments.isEmpty {
            throw .badArguments("alarm disarm command accepts no arguments")
        }
        let session = try Session(invocation, printing: Etcdserverpb_AlarmResponse.self)
        var all = Etcdserverpb_AlarmResponse()
        for alarm in try await alarms(session).alarms {
            var request = Etcdserverpb_AlarmRequest()
            request.action = .deactivate
            request.memberID = alarm.memberID
            request.alarm = alarm.alarm
            let reply: Etcdserverpb_AlarmResponse = try await session.call(.alarm, request)
            all.alarms.append(contentsOf: reply.alarms)
        }
        try session.print(all)
    }

    private static func alarms(
        _ session: Session
    ) async throws(CommandError) -> Etcdserverpb_AlarmResponse {
        try await session.call(.alarm, Etcdserverpb_AlarmRequest())
    }
}

/// `defrag`: gives unused space of the backend back to the file system.
enum DefragCommand {
    static let command = Command(
        name: "defrag", usage: "defrag",
        summary: "Defragments the storage of the members with given endpoints",
        flags: [EndpointCommands.clusterFlag]
    ) { invocation throws(CommandError) in
        let session = try Session(invocation, printing: nil)
        let failure = try await EndpointCommands.each(
            invocation, session, "defragment etcd member[%]"
        ) { endpoint, client throws(RPCStatus) in
            let _: Etcdserverpb_DefragmentResponse = try await client.call(
                .defragment, Etcdserverpb_DefragmentRequest())
            session.line("Finished defragmenting etcd member[\(endpoint)]")
        }
        if failure != nil { throw CommandError(.error, nil) }
    }
}
