import Crypto

/// One stage of one request, as the `audit` hooks see it (docs/plugin-api.md 5.5).
///
/// It never holds a password, a token or the body of a user_admin call: the caller does not put them in.
package struct AuditRecord: Sendable {
    package typealias Stage = PluginMatch.Stage

    package var stage: Stage
    /// The same in all stages of a request.
    package var id: String
    package var microseconds: Int64
    package var clusterID: UInt64
    package var memberID: UInt64
    package var request: PluginRequest
    package var identity: PluginIdentity
    package var decisions: [DecisionRecord] = []
    /// No hook and no core check denied it.
    package var isAllowed = true
    /// gRPC code and text of the answer; in *decided* of the decision.
    package var code = 0
    package var message = ""
    package var resultRevision: Int64 = 0
    package var term: UInt64 = 0
    package var index: UInt64 = 0
    // Time spent, microseconds.
    package var hooksMicroseconds: Int64 = 0
    package var queueMicroseconds: Int64 = 0
    package var raftMicroseconds: Int64 = 0
    package var applyMicroseconds: Int64 = 0
    package var totalMicroseconds: Int64 = 0

    package init(
        stage: Stage, id: String, microseconds: Int64, clusterID: UInt64, memberID: UInt64, request: PluginRequest,
        identity: PluginIdentity
    ) {
        self.stage = stage
        self.id = id
        self.microseconds = microseconds
        self.clusterID = clusterID
        self.memberID = memberID
        self.request = request
        self.identity = identity
    }
}

/// What a record's JSON contains.
package struct AuditJSONOptions: Sendable {
    package enum Level: String, Sendable {
        case metadata, keys
        case keysAndHash = "keys+hash"
        case full
    }

    package var level = Level.metadata
    package var hashKey: [UInt8]?
    /// Keys below these prefixes are written as their hash.
    package var hashedPrefixes: [[UInt8]] = []
    package var extra: [LuaValue.Pair] = []

    package init() {}
}

/// Writes a record as one line of JSON, fields in fixed order, absent ones left out.
package struct AuditRecordJSON {
    private let options: AuditJSONOptions
    private let key: SymmetricKey?
    private var out: [UInt8] = []

    package init(options: AuditJSONOptions) {
        self.options = options
        key = options.hashKey.map { SymmetricKey(data: $0) }
    }

    package mutating func encode(_ record: AuditRecord) -> [UInt8] {
        out.removeAll(keepingCapacity: true)
        out.reserveCapacity(512)
        raw("{\"id\":")
        string(record.id)
        text("stage", record.stage.rawValue)
        text("time", Timestamp.rfc3339(microseconds: record.microseconds) ?? "")
        text("cluster", String(record.clusterID, radix: 16))
        text("member", String(record.memberID, radix: 16))
        let identity = record.identity
        optional("peer", identity.peer)
        optional("user", identity.user)
        if !identity.roles.isEmpty {
            raw(",\"roles\":[")
            for (i, role) in identity.roles.enumerated() {
                if i > 0 { raw(",") }
                string(role)
            }
            raw("]")
        }
        optional("cn", identity.commonName)
        if identity.source != .none { text("source", identity.source.rawValue) }
        text("rpc", "\(record.request.rpc.name)")
        optional("name", record.request.name)
        number("lease", record.request.lease)
        number("ttl", record.request.ttl)
        number("at_revision", record.request.revision)
        if options.level != .metadata && !record.request.ops.isEmpty { ops(record.request.ops) }
        raw(",\"allowed\":\(record.isAllowed)")
        raw(",\"code\":\(record.code)")
        optional("message", record.message)
        if !record.decisions.isEmpty { decisions(record.decisions) }
        if record.stage == .completed {
            number("revision", record.resultRevision)
            number("term", Int64(clamping: record.term))
            number("index", Int64(clamping: record.index))
            raw(",\"us\":{\"hooks\":\(record.hooksMicroseconds),\"queue\":\(record.queueMicroseconds)")
            raw(",\"raft\":\(record.raftMicroseconds),\"apply\":\(record.applyMicroseconds)")
            raw(",\"total\":\(record.totalMicroseconds)}")
        }
        if !options.extra.isEmpty { extra() }
        raw("}")
        return out
    }

    private mutating func ops(_ ops: [PluginOp]) {
        raw(",\"ops\":[")
        for (i, op) in ops.enumerated() {
            raw(i > 0 ? ",{\"kind\":\"" : "{\"kind\":\"")
            raw(Self.kindName(op.kind))
            raw("\"")
            optional("path", op.path)
            bytes("key", op.key, hashed: isHashed(op.key))
            if !op.rangeEnd.isEmpty { bytes("range_end", op.rangeEnd, hashed: isHashed(op.key)) }
            if op.hasValue {
                number("value_size", Int64(op.value.count), always: true)
                if options.level == .keysAndHash || options.level == .full { text("value_hash", hash(op.value)) }
                if options.level == .full { bytes("value", op.value, hashed: false) }
            }
            number("lease", op.lease)
            raw("}")
        }
        raw("]")
    }

    private mutating func decisions(_ decisions: [DecisionRecord]) {
        raw(",\"plugins\":[")
        for (i, decision) in decisions.enumerated() {
            raw(i > 0 ? ",{\"id\":" : "{\"id\":")
            string(decision.plugin.id)
            text("version", decision.plugin.version)
            text("hook", decision.hook.name)
            text("verdict", decision.verdict.name)
            optional("text", decision.detail?.text ?? "")
            if let annotations = decision.detail?.annotations, !annotations.isEmpty {
                raw(",\"annotations\":{")
                for (j, annotation) in annotations.enumerated() {
                    if j > 0 { raw(",") }
                    string("\(decision.plugin.id)/\(annotation.name)")
                    raw(":")
                    string(annotation.value)
                }
                raw("}")
            }
            raw(",\"us\":\(decision.microseconds)}")
        }
        raw("]")
    }

    private mutating func extra() {
        raw(",\"extra\":{")
        for (i, pair) in options.extra.sorted(by: { $0.key.described < $1.key.described }).enumerated() {
            if i > 0 { raw(",") }
            string(pair.key.described)
            raw(":")
            switch pair.value {
            case .boolean, .integer: raw(pair.value.described)
            case .number(let value) where value.isFinite: raw(pair.value.described)
            default: string(pair.value.described)
            }
        }
        raw("}")
    }

    private func isHashed(_ key: [UInt8]) -> Bool { options.hashedPrefixes.contains { KeyMatch.hasPrefix(key, $0) } }

    private func hash(_ bytes: [UInt8]) -> String {
        if let key { return Hex.encode(HMAC<SHA256>.authenticationCode(for: bytes, using: key)) }
        return Hex.encode(SHA256.hash(data: bytes))
    }

    static func kindName(_ kind: PluginOp.Kind) -> String {
        switch kind {
        case .put: "put"
        case .range: "range"
        case .deleteRange: "delete_range"
        case .compare: "compare"
        case .watch: "watch"
        }
    }

    // MARK: - JSON

    private mutating func raw(_ text: String) { out.append(contentsOf: text.utf8) }

    private mutating func text(_ name: String, _ value: String) {
        raw(",\"\(name)\":")
        string(value)
    }

    private mutating func optional(_ name: String, _ value: String) {
        if !value.isEmpty { text(name, value) }
    }

    private mutating func number(_ name: String, _ value: Int64, always: Bool = false) {
        if value != 0 || always { raw(",\"\(name)\":\(value)") }
    }

    /// Bytes as text when they are UTF-8, else as base64 under `NAME_b64`; or hashed under `NAME_hash`.
    private mutating func bytes(_ name: String, _ value: [UInt8], hashed: Bool) {
        if hashed {
            text("\(name)_hash", hash(value))
        } else if let string = String(validating: value, as: UTF8.self) {
            text(name, string)
        } else {
            text("\(name)_b64", Base64.encode(value))
        }
    }

    private mutating func string(_ value: String) {
        out.append(UInt8(ascii: "\""))
        for byte in value.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                out.append(UInt8(ascii: "\\"))
                out.append(byte)
            case 0x0A: raw("\\n")
            case 0x0D: raw("\\r")
            case 0x09: raw("\\t")
            case 0..<0x20, 0x7F: raw("\\u00" + Hex.encode([byte]))
            default: out.append(byte)
            }
        }
        out.append(UInt8(ascii: "\""))
    }
}

/// Standard base64 with padding.
enum Base64 {
    static func encode(_ bytes: [UInt8]) -> String {
        var text = Base64URL.encode(bytes).replacing("-", with: "+").replacing("_", with: "/")
        while text.utf8.count % 4 != 0 { text += "=" }
        return text
    }
}
