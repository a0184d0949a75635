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
package final class AuditRecordJSON {
    private let options: AuditJSONOptions
    private let key: SymmetricKey?
    /// `"extra":{…}` with its comma, or nothing: the same for all records.
    private let extra: [UInt8]
    private let out = TextBuffer()
    private var time = Timestamp.Writer()
    private var node: (cluster: UInt64, member: UInt64, text: [UInt8]) = (0, 0, [])
    /// Memory kept for the next record.
    private static let keptBytes = 64 << 10

    package init(options: AuditJSONOptions) {
        self.options = options
        key = options.hashKey.map { SymmetricKey(data: $0) }
        extra = Self.extra(options.extra)
    }

    /// The record's line; its bytes are valid until the next call.
    func encode(_ entry: AuditEntry) -> UnsafeRawBufferPointer {
        out.clear(keeping: Self.keptBytes)
        out.add("{\"id\":")
        out.add(json: entry.record.id)
        out.add(
            entry.record.stage == .decided
                ? ",\"stage\":\"decided\",\"time\":\"" : ",\"stage\":\"completed\",\"time\":\"")
        time.append(microseconds: entry.record.microseconds, to: out)
        addNode(entry)
        add(entry.record.identity)
        out.add(",\"rpc\":\"")
        out.add(entry.record.request.rpc.name)
        out.add("\"")
        optional(",\"name\":", entry.record.request.name)
        number(",\"lease\":", entry.record.request.lease)
        number(",\"ttl\":", entry.record.request.ttl)
        number(",\"at_revision\":", entry.record.request.revision)
        if options.level != .metadata && !entry.record.request.ops.isEmpty { add(entry.record.request.ops) }
        out.add(entry.record.isAllowed ? ",\"allowed\":true,\"code\":" : ",\"allowed\":false,\"code\":")
        out.add(decimal: Int64(entry.record.code))
        optional(",\"message\":", entry.record.message)
        if !entry.record.decisions.isEmpty { add(entry.record.decisions) }
        if entry.record.stage == .completed { addOutcome(entry) }
        out.add(extra)
        out.add("}")
        return out.bytes()
    }

    /// The ids of cluster and member, the same in nearly all records.
    private func addNode(_ entry: AuditEntry) {
        if node.text.isEmpty || node.cluster != entry.record.clusterID || node.member != entry.record.memberID {
            node = (entry.record.clusterID, entry.record.memberID, [])
            let start = out.count
            out.add("\",\"cluster\":\"")
            out.add(hexadecimal: node.cluster)
            out.add("\",\"member\":\"")
            out.add(hexadecimal: node.member)
            out.add("\"")
            node.text = Array(out.bytes(from: start))
        } else {
            out.add(node.text)
        }
    }

    private func add(_ identity: PluginIdentity) {
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

    private func addOutcome(_ entry: AuditEntry) {
        number(",\"revision\":", entry.record.resultRevision)
        number(",\"term\":", Int64(clamping: entry.record.term))
        number(",\"index\":", Int64(clamping: entry.record.index))
        out.add(",\"us\":{\"hooks\":")
        out.add(decimal: entry.record.hooksMicroseconds)
        out.add(",\"queue\":")
        out.add(decimal: entry.record.queueMicroseconds)
        out.add(",\"raft\":")
        out.add(decimal: entry.record.raftMicroseconds)
        out.add(",\"apply\":")
        out.add(decimal: entry.record.applyMicroseconds)
        out.add(",\"total\":")
        out.add(decimal: entry.record.totalMicroseconds)
        out.add("}")
    }

    private func add(_ ops: [PluginOp]) {
        out.add(",\"ops\":[")
        ops.withUnsafeBufferPointer { ops in
            guard let first = ops.baseAddress else { return }
            for i in ops.indices {
                out.add(i > 0 ? ",{\"kind\":\"" : "{\"kind\":\"")
                add(first + i)
            }
        }
        out.add("]")
    }

    /// Takes the op where it lies: a copy would count references to each of its parts.
    private func add(_ op: UnsafePointer<PluginOp>) {
        out.add(Self.kindName(op.pointee.kind))
        out.add("\"")
        optional(",\"path\":", op.pointee.path)
        let hashed =
            !options.hashedPrefixes.isEmpty
            && options.hashedPrefixes.contains { KeyMatch.hasPrefix(op.pointee.key, $0) }
        bytes(",\"key\":", ",\"key_b64\":", hashed ? ",\"key_hash\":" : nil, op.pointee.key)
        if !op.pointee.rangeEnd.isEmpty {
            bytes(",\"range_end\":", ",\"range_end_b64\":", hashed ? ",\"range_end_hash\":" : nil, op.pointee.rangeEnd)
        }
        if op.pointee.hasValue {
            out.add(",\"value_size\":")
            out.add(decimal: Int64(op.pointee.value.count))
            if options.level == .keysAndHash || options.level == .full {
                out.add(",\"value_hash\":\"")
                hash(op.pointee.value)
                out.add("\"")
            }
            if options.level == .full { bytes(",\"value\":", ",\"value_b64\":", nil, op.pointee.value) }
        }
        number(",\"lease\":", op.pointee.lease)
        out.add("}")
    }

    private func add(_ decisions: [DecisionRecord]) {
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
        let out = TextBuffer()
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
        return Array(out.bytes())
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

    private func hash(_ bytes: [UInt8]) {
        if let key {
            HMAC<SHA256>.authenticationCode(for: bytes, using: key).withUnsafeBytes { out.add(hex: $0) }
        } else {
            SHA256.hash(data: bytes).withUnsafeBytes { out.add(hex: $0) }
        }
    }

    private func optional(_ name: StaticString, _ value: String) {
        guard !value.isEmpty else { return }
        out.add(name)
        out.add(json: value)
    }

    private func number(_ name: StaticString, _ value: Int64) {
        guard value != 0 else { return }
        out.add(name)
        out.add(decimal: value)
    }

    /// Bytes as text when they are UTF-8, else as base64 under another name; or hashed under a third.
    private func bytes(_ name: StaticString, _ encoded: StaticString, _ hashed: StaticString?, _ value: [UInt8]) {
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
