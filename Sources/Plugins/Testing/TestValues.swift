/// Requests, identities, credentials, records and events that tests write as tables.
enum TestValues {
    static func name(_ code: DenyCode) -> String {
        switch code {
        case .invalidArgument: "invalid_argument"
        case .permissionDenied: "permission_denied"
        case .resourceExhausted: "resource_exhausted"
        case .failedPrecondition: "failed_precondition"
        }
    }

    private static func check(_ value: LuaValue, _ what: String, _ known: [String]) throws(HostError) -> [LuaValue.Pair]
    {
        guard let pairs = value.pairs else { throw HostError("\(what) must be a table") }
        for pair in pairs where !known.contains(pair.key.described) {
            throw HostError("\(what) has an unknown field \(pair.key.described)")
        }
        return pairs
    }

    private static let opFields = [
        "kind", "path", "key", "range_end", "value", "lease", "limit", "revision", "prev_kv", "ignore_value",
        "ignore_lease",
        "keys_only", "count_only", "serializable", "target", "result", "number",
    ]
    private static let requestFields = ["rpc", "ops", "ttl", "lease", "lease_keys", "revision", "name"]

    static func request(_ value: LuaValue, also: [String] = []) throws(HostError) -> PluginRequest {
        _ = try check(value, "the request", requestFields + opFields + also)
        guard let name = value["rpc"]?.string, let rpc = RPCKind(name: name) else {
            throw HostError("the request needs rpc, the name of a call")
        }
        var request = PluginRequest(rpc: rpc)
        request.ttl = value["ttl"]?.integer ?? 0
        request.name = value["name"]?.string ?? ""
        if let ops = value["ops"] {
            guard let items = ops.items else { throw HostError("ops must be an array") }
            for item in items {
                _ = try check(item, "an op", opFields)
                guard let kind = item["kind"]?.string, let parsed = kinds[kind] else {
                    throw HostError("an op needs its kind")
                }
                request.ops.append(op(item, parsed))
            }
        } else if value["key"] != nil {
            let kind: PluginOp.Kind
            switch rpc {
            case .put: kind = .put
            case .deleteRange: kind = .deleteRange
            case .watch: kind = .watch
            default: kind = value["kind"]?.string.flatMap { kinds[$0] } ?? .range
            }
            request.ops = [op(value, kind)]
        } else {
            request.lease = value["lease"]?.integer ?? 0
            request.revision = value["revision"]?.integer ?? 0
        }
        if let keys = value["lease_keys"] {
            guard let items = keys.items else { throw HostError("lease_keys must be an array") }
            request.attach(leaseKeys: items.compactMap(\.bytes))
        }
        return request
    }

    private static let kinds: [String: PluginOp.Kind] = [
        "put": .put, "range": .range, "delete_range": .deleteRange, "compare": .compare, "watch": .watch,
    ]
    private static let targets = ["version", "create", "mod", "value", "lease"]
    private static let results = ["=", ">", "<", "!="]

    private static func op(_ value: LuaValue, _ kind: PluginOp.Kind) -> PluginOp {
        var op = PluginOp(
            kind: kind, key: value["key"]?.bytes ?? [], rangeEnd: value["range_end"]?.bytes ?? [],
            value: value["value"]?.bytes ?? [])
        op.path = value["path"]?.string ?? ""
        op.lease = value["lease"]?.integer ?? 0
        op.limit = value["limit"]?.integer ?? 0
        op.revision = value["revision"]?.integer ?? 0
        op.number = value["number"]?.integer ?? 0
        op.previousKV = value["prev_kv"]?.boolean ?? false
        op.ignoreValue = value["ignore_value"]?.boolean ?? false
        op.ignoreLease = value["ignore_lease"]?.boolean ?? false
        op.keysOnly = value["keys_only"]?.boolean ?? false
        op.countOnly = value["count_only"]?.boolean ?? false
        op.serializable = value["serializable"]?.boolean ?? false
        if let target = value["target"]?.string.flatMap({ targets.firstIndex(of: $0) }) {
            op.target = PluginOp.Target(rawValue: UInt8(target)) ?? .version
        }
        if let result = value["result"]?.string.flatMap({ results.firstIndex(of: $0) }) {
            op.result = PluginOp.Result(rawValue: UInt8(result)) ?? .equal
        }
        return op
    }

    /// A request as a test reads it back: the form it was written in.
    static func table(_ request: PluginRequest) -> LuaValue {
        var pairs: [(String, LuaValue)] = [("rpc", .text("\(request.rpc.name)"))]
        if request.rpc != .txn, let op = request.ops.first { pairs.append(contentsOf: fields(op)) }
        pairs.append(
            (
                "ops",
                .array(
                    request.ops.map {
                        .table(
                            [("kind", .text("\(AuditRecordJSON.kindName($0.kind))")), ("path", .text($0.path))]
                                + fields($0))
                    })
            ))
        return .table(pairs)
    }

    private static func fields(_ op: PluginOp) -> [(String, LuaValue)] {
        var pairs: [(String, LuaValue)] = [("key", .string(op.key))]
        if !op.rangeEnd.isEmpty { pairs.append(("range_end", .string(op.rangeEnd))) }
        if op.hasValue { pairs.append(("value", .string(op.value))) }
        if op.kind == .put { pairs.append(("lease", .integer(op.lease))) }
        if op.kind == .range { pairs.append(("limit", .integer(op.limit))) }
        return pairs
    }

    private static let identityFields = ["user", "roles", "cn", "peer", "source"]

    static func identity(_ value: LuaValue, also: [String] = []) throws(HostError) -> PluginIdentity {
        if case .null = value { return PluginIdentity() }
        _ = try check(value, "the identity", identityFields + also)
        let source = value["source"]?.string.flatMap { PluginIdentity.Source(rawValue: $0) }
        let user = value["user"]?.string ?? ""
        return PluginIdentity(
            user: user, roles: (value["roles"]?.items ?? []).compactMap(\.string),
            commonName: value["cn"]?.string ?? "",
            peer: value["peer"]?.string ?? "127.0.0.1:40000", source: source ?? (user.isEmpty ? .none : .plugin))
    }

    static func credential(_ value: LuaValue, _ peer: LuaValue) throws(HostError) -> AuthnRequest {
        _ = try check(value, "the credential", ["user", "password", "token", "cn", "metadata", "kind"])
        var request: AuthnRequest
        if let password = value["password"]?.bytes {
            request = AuthnRequest(.password(user: value["user"]?.string ?? "", password: password))
        } else if let token = value["token"]?.bytes {
            request = AuthnRequest(.token(token))
        } else {
            request = AuthnRequest(.certificate)
            guard value["cn"]?.string != nil else { throw HostError("the credential needs password, token or cn") }
        }
        request.commonName = value["cn"]?.string ?? ""
        request.metadata = (value["metadata"]?.pairs ?? []).map { ($0.key.described, $0.value.described) }
        request.peer = "127.0.0.1:40000"
        if peer.pairs != nil {
            _ = try check(peer, "the peer", ["address", "tls", "cn"])
            request.peer = peer["address"]?.string ?? request.peer
            request.isTLS = peer["tls"]?.boolean ?? false
            if let name = peer["cn"]?.string { request.commonName = name }
        }
        return request
    }

    private static let recordFields = [
        "id", "stage", "time", "code", "message", "allowed", "result_revision", "term", "index", "hooks_us", "queue_us",
        "raft_us",
        "apply_us", "total_us",
        // Accepted and left out, as the node leaves them out: tests show that nothing of them can appear.
        "token", "password",
    ]

    static func record(_ value: LuaValue, now: Double) throws(HostError) -> AuditRecord {
        let request = try request(value, also: recordFields + identityFields)
        let identity = try identity(value, also: recordFields + requestFields + opFields)
        let stageName = value["stage"]?.string ?? "decided"
        guard let stage = AuditRecord.Stage(rawValue: stageName) else { throw HostError("unknown stage \(stageName)") }
        let time = value["time"]?.number ?? now
        guard time.isFinite, abs(time) < 1e11 else { throw HostError("time is out of range") }
        var record = AuditRecord(
            stage: stage, id: value["id"]?.string ?? "test", microseconds: Int64((time * 1e6).rounded()),
            clusterID: 0xC1,
            memberID: 0x01, request: request, identity: identity)
        record.code = Int(value["code"]?.integer ?? 0)
        record.message = value["message"]?.string ?? ""
        record.isAllowed = value["allowed"]?.boolean ?? (record.code == 0)
        record.resultRevision = value["result_revision"]?.integer ?? 0
        record.term = UInt64(clamping: value["term"]?.integer ?? 0)
        record.index = UInt64(clamping: value["index"]?.integer ?? 0)
        record.hooksMicroseconds = value["hooks_us"]?.integer ?? 0
        record.queueMicroseconds = value["queue_us"]?.integer ?? 0
        record.raftMicroseconds = value["raft_us"]?.integer ?? 0
        record.applyMicroseconds = value["apply_us"]?.integer ?? 0
        record.totalMicroseconds = value["total_us"]?.integer ?? 0
        return record
    }

    static func event(_ value: LuaValue, number: Int, now: Double) throws(HostError) -> HookEvent {
        _ = try check(
            value, "an event",
            [
                "type", "id", "revision", "sub", "time", "source", "key", "value", "create_revision", "mod_revision",
                "version", "lease",
                "reason", "prev_value", "fields",
            ])
        guard let type = value["type"]?.string else { throw HostError("an event needs its type") }
        let revision = value["revision"]?.integer ?? Int64(number + 2)
        let sub = value["sub"]?.integer ?? 0
        var event = HookEvent(
            type: type, id: value["id"]?.string ?? "\(revision).\(sub)", revision: revision, sub: sub,
            time: value["time"]?.number ?? now, source: value["source"]?.string ?? "c1/1")
        if let key = value["key"]?.bytes {
            event.keyValue = PluginKeyValue(
                key: key, value: value["value"]?.bytes ?? [],
                createRevision: value["create_revision"]?.integer ?? revision,
                modRevision: value["mod_revision"]?.integer ?? revision, version: value["version"]?.integer ?? 1,
                lease: value["lease"]?.integer ?? 0)
            event.reason = value["reason"]?.string ?? "client"
        }
        event.previousValue = value["prev_value"]?.bytes
        event.fields = (value["fields"]?.pairs ?? []).map { ($0.key.described, $0.value) }
        return event
    }
}
