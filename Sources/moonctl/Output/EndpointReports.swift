import Wire

// What `endpoint` prints: one entry for each endpoint, in the order they were named.

/// Whether endpoints commit.
struct EndpointHealthReport: Report {
    struct Entry {
        let endpoint: String
        var isHealthy = false
        var took = ""
        /// Empty when healthy.
        var error = ""
    }

    static var formats: Set<OutputFormat> { [.simple, .fields, .json, .table] }

    let entries: [Entry]

    func simple(_ output: inout Output, _ style: OutputStyle) {
        for entry in entries {
            if entry.error.isEmpty {
                output.line(
                    "\(entry.endpoint) is healthy: successfully committed proposal: "
                        + "took = \(entry.took)")
            } else {
                output.error(
                    "\(entry.endpoint) is unhealthy: failed to commit proposal: \(entry.error)")
            }
        }
    }

    func fields(_ output: inout Output) {
        for entry in entries {
            output.line("\"Endpoint\" : \(GoText.quote(entry.endpoint))")
            output.line("\"Health\" : \(entry.isHealthy)")
            output.line("\"Took\" : \(entry.took)")
            output.line("\"Error\" : \(entry.error)")
            output.line("")
        }
    }

    func json(_ style: OutputStyle) -> JSONValue {
        .array(
            entries.map { entry in
                var object = JSONObject()
                object.set("endpoint", .string(entry.endpoint))
                object.set("health", .bool(entry.isHealthy))
                object.set("took", .string(entry.took))
                object.unlessEmpty("error", entry.error)
                return .object(object)
            })
    }

    func table() -> Table {
        Table(
            headings: ["endpoint", "health", "took", "error"],
            rows: entries.map { [$0.endpoint, "\($0.isHealthy)", $0.took, $0.error] })
    }
}

/// The state of endpoints.
struct EndpointStatusReport: Report {
    static var formats: Set<OutputFormat> { [.simple, .fields, .json, .table] }

    let entries: [(endpoint: String, status: Etcdserverpb_StatusResponse)]

    func simple(_ output: inout Output, _ style: OutputStyle) {
        for row in table().rows { output.line(row.joined(separator: ", ")) }
    }

    func fields(_ output: inout Output) {
        for (endpoint, status) in entries {
            output.fields(status.header)
            output.line("\"Version\" : \(GoText.quote(status.version))")
            output.line("\"DBSize\" : \(status.dbSize)")
            output.line("\"Leader\" : \(status.leader)")
            output.line("\"IsLearner\" : \(status.isLearner)")
            output.line("\"RaftIndex\" : \(status.raftIndex)")
            output.line("\"RaftTerm\" : \(status.raftTerm)")
            output.line("\"RaftAppliedIndex\" : \(status.raftAppliedIndex)")
            output.line("\"Errors\" : [\(status.errors.joined(separator: " "))]")
            output.line("\"Endpoint\" : \(GoText.quote(endpoint))")
            output.line("")
        }
    }

    func json(_ style: OutputStyle) -> JSONValue {
        .array(
            entries.map { endpoint, status in
                var object = JSONObject()
                object.set("Endpoint", .string(endpoint))
                object.set("Status", status.json)
                return .object(object)
            })
    }

    func table() -> Table {
        Table(
            headings: [
                "endpoint", "ID", "version", "db size", "is leader", "is learner", "raft term",
                "raft index", "raft applied index", "errors",
            ],
            rows: entries.map { endpoint, status in
                [
                    endpoint, String(status.header.memberID, radix: 16), status.version,
                    GoText.size(UInt64(clamping: status.dbSize)),
                    "\(status.leader == status.header.memberID)", "\(status.isLearner)",
                    "\(status.raftTerm)", "\(status.raftIndex)", "\(status.raftAppliedIndex)",
                    status.errors.joined(separator: ", "),
                ]
            })
    }
}

extension Etcdserverpb_StatusResponse {
    /// Members that only servers newer than 3.5 set come last.
    fileprivate var json: JSONValue {
        var object = JSONObject()
        if hasHeader { object.set("header", header.json) }
        object.unlessEmpty("version", version)
        object.unlessZero("dbSize", dbSize)
        object.unlessZero("leader", leader)
        object.unlessZero("raftIndex", raftIndex)
        object.unlessZero("raftTerm", raftTerm)
        object.unlessZero("raftAppliedIndex", raftAppliedIndex)
        object.unlessEmpty("errors", errors.map { .string($0) })
        object.unlessZero("dbSizeInUse", dbSizeInUse)
        object.ifTrue("isLearner", isLearner)
        object.unlessEmpty("storageVersion", storageVersion)
        object.unlessZero("dbSizeQuota", dbSizeQuota)
        if hasDowngradeInfo {
            var downgrade = JSONObject()
            downgrade.ifTrue("enabled", downgradeInfo.enabled)
            downgrade.unlessEmpty("targetVersion", downgradeInfo.targetVersion)
            object.set("downgradeInfo", .object(downgrade))
        }
        return .object(object)
    }
}

/// The hash of each endpoint's history.
struct EndpointHashReport: Report {
    static var formats: Set<OutputFormat> { [.simple, .fields, .json, .table] }

    let entries: [(endpoint: String, hash: Etcdserverpb_HashKVResponse)]

    func simple(_ output: inout Output, _ style: OutputStyle) {
        for (endpoint, hash) in entries { output.line("\(endpoint), \(hash.hash)") }
    }

    func fields(_ output: inout Output) {
        for (endpoint, hash) in entries {
            output.fields(hash.header)
            output.line("\"Endpoint\" : \(GoText.quote(endpoint))")
            output.line("\"Hash\" : \(hash.hash)")
            output.line("")
        }
    }

    func json(_ style: OutputStyle) -> JSONValue {
        .array(
            entries.map { endpoint, hash in
                var reply = JSONObject()
                if hash.hasHeader { reply.set("header", hash.header.json) }
                reply.unlessZero("hash", UInt64(hash.hash))
                reply.unlessZero("compact_revision", hash.compactRevision)
                reply.unlessZero("hash_revision", hash.hashRevision)
                var object = JSONObject()
                object.set("Endpoint", .string(endpoint))
                object.set("HashKV", .object(reply))
                return .object(object)
            })
    }

    func table() -> Table {
        Table(
            headings: ["endpoint", "hash"],
            rows: entries.map { [$0.endpoint, "\($0.hash.hash)"] })
    }
}
