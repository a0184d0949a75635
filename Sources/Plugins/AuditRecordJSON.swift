import Crypto

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

/// Writes records as lines of JSON, fields in fixed order, absent ones left out. Used for many records with the
/// same options, since making a key costs more than using it.
package struct AuditRecordJSON {
    private let options: AuditJSONOptions
    private let key: SymmetricKey?
    /// `"extra":{…}` with its comma, or nothing: the same for all records.
    private let extra: [UInt8]
    private var out: [UInt8] = []

    package init(options: AuditJSONOptions) {
        self.options = options
        key = options.hashKey.map { SymmetricKey(data: $0) }
        extra = Self.extra(options.extra)
    }

    package mutating func encode(_ record: AuditRecord) -> [UInt8] {
        out.removeAll(keepingCapacity: true)
        out.reserveCapacity(768)
        out.add("{\"id\":")
        out.add(json: record.id)
        out.add(record.stage == .decided ? ",\"stage\":\"decided\",\"time\":\"" : ",\"stage\":\"completed\",\"time\":\"")
        Timestamp.append(microseconds: record.microseconds, to: &out)
        out.add("\",\"cluster\":\"")
        out.add(String(record.clusterID, radix: 16))
        out.add("\",\"member\":\"")
        out.add(String(record.memberID, radix: 16))
        out.add("\"")
        add(record.identity)
        out.add(",\"rpc\":\"")
        out.add(record.request.rpc.name)
        out.add("\"")
        optional(",\"name\":", record.request.name)
        number(",\"lease\":", record.request.lease)
        number(",\"ttl\":", record.request.ttl)
        number(",\"at_revision\":", record.request.revision)
        if options.level != .metadata && !record.request.ops.isEmpty { add(record.request.ops) }
        out.add(record.isAllowed ? ",\"allowed\":true,\"code\":" : ",\"allowed\":false,\"code\":")
        out.add(decimal: Int64(record.code))
        optional(",\"message\":", record.message)
        if !record.decisions.isEmpty { add(record.decisions) }
        if record.stage == .completed { addOutcome(record) }
        out.append(contentsOf: extra)
        out.add("}")
        return out
    }

    private mutating func add(_ identity: PluginIdentity) {
        optional(",\"peer\":", identity.peer)
        optional(",\"user\":", identity.user)
        if !identity.roles.isEmpty {
            out.add(",\"roles\":[")
            for (i, role) in identity.roles.enumerated() {
                if i > 0 { out.add(",") }
                out.add(json: role)
            }
            out.add("]")
        }
        optional(",\"cn\":", identity.commonName)
        if identity.source != .none { optional(",\"source\":", identity.source.rawValue) }
    }

    private mutating func addOutcome(_ record: AuditRecord) {
        number(",\"revision\":", record.resultRevision)
        number(",\"term\":", Int64(clamping: record.term))
        number(",\"index\":", Int64(clamping: record.index))
        out.add(",\"us\":{\"hooks\":")
        out.add(decimal: record.hooksMicroseconds)
        out.add(",\"queue\":")
        out.add(decimal: record.queueMicroseconds)
        out.add(",\"raft\":")
        out.add(decimal: record.raftMicroseconds)
        out.add(",\"apply\":")
        out.add(decimal: record.applyMicroseconds)
        out.add(",\"total\":")
        out.add(decimal: record.totalMicroseconds)
        out.add("}")
    }

    private mutating func add(_ ops: [PluginOp]) {
        out.add(",\"ops\":[")
        for (i, op) in ops.enumerated() {
            out.add(i > 0 ? ",{\"kind\":\"" : "{\"kind\":\"")
            out.add(Self.kindName(op.kind))
            out.add("\"")
            optional(",\"path\":", op.path)
            let hashed = options.hashedPrefixes.contains { KeyMatch.hasPrefix(op.key, $0) }
            bytes(",\"key\":", ",\"key_b64\":", hashed ? ",\"key_hash\":" : nil, op.key)
            if !op.rangeEnd.isEmpty {
                bytes(",\"range_end\":", ",\"range_end_b64\":", hashed ? ",\"range_end_hash\":" : nil, op.rangeEnd)
            }
            if op.hasValue {
                out.add(",\"value_size\":")
                out.add(decimal: Int64(op.value.count))
                if options.level == .keysAndHash || options.level == .full {
                    out.add(",\"value_hash\":\"")
                    hash(op.value)
                    out.add("\"")
                }
                if options.level == .full { bytes(",\"value\":", ",\"value_b64\":", nil, op.value) }
            }
            number(",\"lease\":", op.lease)
            out.add("}")
        }
        out.add("]")
    }

    private mutating func add(_ decisions: [DecisionRecord]) {
        out.add(",\"plugins\":[")
        for (i, decision) in decisions.enumerated() {
            out.add(i > 0 ? ",{\"id\":" : "{\"id\":")
            out.add(json: decision.plugin.id)
            optional(",\"version\":", decision.plugin.version)
            optional(",\"hook\":", decision.hook.name)
            optional(",\"verdict\":", decision.verdict.name)
            if let detail = decision.detail {
                optional(",\"text\":", detail.text)
                if !detail.annotations.isEmpty {
                    out.add(",\"annotations\":{")
                    for (j, annotation) in detail.annotations.enumerated() {
                        if j > 0 { out.add(",") }
                        out.add(json: "\(decision.plugin.id)/\(annotation.name)")
                        out.add(":")
                        out.add(json: annotation.value)
                    }
                    out.add("}")
                }
            }
            out.add(",\"us\":")
            out.add(decimal: Int64(decision.microseconds))
            out.add("}")
        }
        out.add("]")
    }

    private static func extra(_ pairs: [LuaValue.Pair]) -> [UInt8] {
        guard !pairs.isEmpty else { return [] }
        var out: [UInt8] = []
        out.add(",\"extra\":{")
        for (i, pair) in pairs.sorted(by: { $0.key.described < $1.key.described }).enumerated() {
            if i > 0 { out.add(",") }
            out.add(json: pair.key.described)
            out.add(":")
            switch pair.value {
            case .boolean, .integer: out.add(pair.value.described)
            case .number(let value) where value.isFinite: out.add(pair.value.described)
            default: out.add(json: pair.value.described)
            }
        }
        out.add("}")
        return out
    }

    static func kindName(_ kind: PluginOp.Kind) -> StaticString {
        switch kind {
        case .put: "put"
        case .range: "range"
        case .deleteRange: "delete_range"
        case .compare: "compare"
        case .watch: "watch"
        }
    }

    private mutating func hash(_ bytes: [UInt8]) {
        if let key {
            Hex.append(HMAC<SHA256>.authenticationCode(for: bytes, using: key), to: &out)
        } else {
            Hex.append(SHA256.hash(data: bytes), to: &out)
        }
    }

    private mutating func optional(_ name: StaticString, _ value: String) {
        guard !value.isEmpty else { return }
        out.add(name)
        out.add(json: value)
    }

    private mutating func number(_ name: StaticString, _ value: Int64) {
        guard value != 0 else { return }
        out.add(name)
        out.add(decimal: value)
    }

    /// Bytes as text when they are UTF-8, else as base64 under another name; or hashed under a third.
    private mutating func bytes(_ name: StaticString, _ encoded: StaticString, _ hashed: StaticString?, _ value: [UInt8]) {
        if let hashed {
            out.add(hashed)
            out.add("\"")
            hash(value)
            out.add("\"")
        } else if value.isUTF8 {
            out.add(name)
            value.withUnsafeBufferPointer { out.add(json: $0) }
        } else {
            out.add(encoded)
            out.add(json: Base64.encode(value))
        }
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
