import CLua

/// The functions that the host offers to scripts: the one table that registers them, says where they are legal and
/// what capability they need, and from which the editor types are generated.
enum HostFunction: Int32, CaseIterable {
    case logDebug, logInfo, logWarn, logError
    case hookSkip
    case jsonEncode, jsonDecode, jsonArray, jsonIsArray, jsonShape
    case base64Encode, base64Decode, hexEncode, hexDecode
    case hashSHA256, hashHMAC, hashCRC32
    case globMatch, prefixOf
    case timeNow, timeMonotonic, timeRFC3339, timeParse
    case storeGet, storeSet, storeDelete, storeIncrement
    case metricIncrement, metricSet, metricObserve, metricFromRecords
    case kvGet, kvRange, kvCount, kvStats, kvRevision
    case jwtKeys, jwtVerify, bcryptVerify
    case sinkOpen, sinkWrite, sinkRecords, recordsWrite
    case secretEquals, secretLength, secretVerifyBcrypt, secretVerifySHA256, secretSHA256
    case filePath, fileRead
    case requestWarn, requestAnnotate
    case opSetValue, opSetLease, opSetKey, opSetRangeEnd, opSetLimit
    case credentialMetadata
    case recordDecisions, recordJSON, recordCount
    // Only in the driver VM of a test file.
    case test, testCall

    struct Parameter: Sendable {
        let name: String
        let type: String
        init(_ name: String, _ type: String) {
            self.name = name
            self.type = type
        }
    }

    struct Definition: Sendable {
        /// "" for a global, ":kind" for a method of a handle.
        let module: String
        let name: String
        let phases: HookSet
        var capability: PluginCapability?
        /// Implemented in CLua.
        var isNative = false
        var isDriver = false
        let parameters: [Parameter]
        let returns: [String]
        let summary: String

        init(
            _ module: String, _ name: String, _ phases: HookSet, _ parameters: [Parameter], returns: [String] = [],
            needs capability: PluginCapability? = nil, native: Bool = false, driver: Bool = false, _ summary: String
        ) {
            self.module = module
            self.name = name
            self.phases = phases
            self.parameters = parameters
            self.returns = returns
            self.capability = capability
            isNative = native
            isDriver = driver
            self.summary = summary
        }
    }

    var definition: Definition {
        switch self {
        case .logDebug: Self.log("debug")
        case .logInfo: Self.log("info")
        case .logWarn: Self.log("warn")
        case .logError: Self.log("error")
        case .hookSkip:
            Definition(
                "hook", "skip", [.initialize], [.init("name", "\"authz\"|\"admit_mutate\"|\"admit_validate\"")],
                "The hook has nothing to do with this configuration, and is not called while the set is loaded.")
        case .jsonEncode:
            Definition(
                "json", "encode", .everything,
                [.init("value", "any"), .init("options?", "{invalid: \"error\"|\"replace\"}")],
                returns: ["string"], native: true, "JSON text with sorted keys.")
        case .jsonDecode:
            Definition(
                "json", "decode", .everything, [.init("text", "string")], returns: ["any", "string?"], native: true,
                "The value, or nil and why the text is not JSON.")
        case .jsonArray:
            Definition(
                "json", "array", .everything, [.init("t?", "table")], returns: ["table"], native: true,
                "Marks a table as a JSON array.")
        case .jsonIsArray:
            Definition(
                "json", "is_array", .everything, [.init("value", "any")], returns: ["boolean"], native: true,
                "Whether a table is a JSON array.")
        case .jsonShape:
            Definition(
                "json", "shape", .everything, [.init("fields", "table<string, string>"), .init("closed?", "boolean")],
                returns: ["fun(text: string): string?"], native: true,
                "A function that tells what is wrong with a JSON text, or nil; path of a field = its type.")
        case .base64Encode:
            Definition(
                "base64", "encode", .everything, [.init("bytes", "string"), .init("form?", "\"standard\"|\"url\"")],
                returns: ["string"], native: true, "Base64 text.")
        case .base64Decode:
            Definition(
                "base64", "decode", .everything, [.init("text", "string"), .init("form?", "\"standard\"|\"url\"")],
                returns: ["string?"], native: true, "The bytes, or nil.")
        case .hexEncode:
            Definition(
                "hex", "encode", .everything, [.init("bytes", "string")], returns: ["string"], native: true,
                "Lower-case hexadecimal text.")
        case .hexDecode:
            Definition(
                "hex", "decode", .everything, [.init("text", "string")], returns: ["string?"], native: true,
                "The bytes, or nil.")
        case .hashSHA256:
            Definition(
                "hash", "sha256", .everything, [.init("bytes", "string")], returns: ["string"],
                "SHA-256 as hexadecimal text.")
        case .hashHMAC:
            Definition(
                "hash", "hmac_sha256", .everything, [.init("key", "string|moonraft.secret"), .init("bytes", "string")],
                returns: ["string"], "HMAC-SHA256 as hexadecimal text.")
        case .hashCRC32:
            Definition(
                "hash", "crc32", .everything, [.init("bytes", "string")], returns: ["integer"], native: true,
                "CRC-32 (IEEE).")
        case .globMatch:
            Definition(
                "glob", "match", .everything, [.init("pattern", "string"), .init("text", "string")],
                returns: ["boolean"],
                native: true, "Whether a text matches a glob: * but '/', ** anything, ? one byte, [a-z].")
        case .prefixOf:
            Definition(
                "prefix", "of", .everything, [.init("list", "string[]"), .init("key", "string")],
                returns: ["integer?", "string?"], native: true,
                "Index and text of the longest prefix of the key in the list.")
        case .timeNow:
            Definition("time", "now", .everything, [], returns: ["number"], "Seconds since 1970.")
        case .timeMonotonic:
            Definition(
                "time", "monotonic", .everything, [], returns: ["number"], "Seconds on a clock that never goes back.")
        case .timeRFC3339:
            Definition(
                "time", "rfc3339", .everything, [.init("t?", "number")], returns: ["string"],
                "UTC time with microseconds.")
        case .timeParse:
            Definition(
                "time", "parse", .everything, [.init("text", "string")], returns: ["number?"],
                "Seconds since 1970 of an RFC 3339 text, or nil.")
        case .storeGet:
            Definition(
                "store", "get", .running, [.init("key", "string")], returns: ["string|number|boolean|nil"],
                needs: .store,
                "A value of the table that the VMs of this binding share.")
        case .storeSet:
            Definition(
                "store", "set", .running,
                [.init("key", "string"), .init("value", "string|number|boolean"), .init("ttl?", "number")],
                needs: .store,
                "Sets a shared value; ttl in seconds.")
        case .storeDelete:
            Definition("store", "delete", .running, [.init("key", "string")], needs: .store, "Forgets a shared value.")
        case .storeIncrement:
            Definition(
                "store", "incr", .running, [.init("key", "string"), .init("n?", "integer"), .init("ttl?", "number")],
                returns: ["integer"], needs: .store, "Adds to a shared integer and returns the sum.")
        case .metricIncrement:
            Definition(
                ":metric", "inc", .running, [.init("n?", "number"), .init("...", "string")], needs: .metrics,
                "Adds to a counter or gauge; labels in declared order.")
        case .metricSet:
            Definition(
                ":metric", "set", .running, [.init("value", "number"), .init("...", "string")], needs: .metrics,
                "Sets a gauge.")
        case .metricObserve:
            Definition(
                ":metric", "observe", .running, [.init("value", "number"), .init("...", "string")], needs: .metrics,
                "Adds an observation to a histogram.")
        case .metricFromRecords:
            Definition(
                ":metric", "from_records", [.initialize], [.init("rule", "moonraft.metric_rule")], needs: .metrics,
                "Makes rec:count() feed this counter or histogram.")
        case .kvGet:
            Definition(
                "kv", "get", .reading, [.init("key", "string")], returns: ["moonraft.kv?"], needs: .kvRead,
                "A key of the local store.")
        case .kvRange:
            Definition(
                "kv", "range", .reading, [.init("query", "moonraft.range")], returns: ["moonraft.kv[]", "boolean"],
                needs: .kvRead, "At most 100 keys and 1 MiB; true when there are more.")
        case .kvCount:
            Definition(
                "kv", "count", .reading, [.init("query", "moonraft.range")], returns: ["integer"], needs: .kvRead,
                "The number of keys, counted up to the limit.")
        case .kvStats:
            Definition(
                "kv", "stats", .reading, [.init("prefix", "string")], returns: ["{keys: integer, bytes: integer}?"],
                needs: .kvRead, "Keys and bytes below a prefix, when the core counts them.")
        case .kvRevision:
            Definition(
                "kv", "revision", .reading, [], returns: ["integer"], needs: .kvRead, "Revision of the local store.")
        case .jwtKeys:
            Definition(
                "jwt", "keys", [.initialize, .test],
                [.init("source", "moonraft.file|moonraft.secret"), .init("options?", "{algorithms: string[]}")],
                returns: ["moonraft.keys"], needs: .jwt, "A key set from a JWKS or PEM file, or a secret.")
        case .jwtVerify:
            Definition(
                "jwt", "verify", [.request, .test],
                [
                    .init("token", "moonraft.secret|string"), .init("keys", "moonraft.keys"),
                    .init("options?", "moonraft.jwt_options"),
                ],
                returns: ["table?", "string?"], needs: .jwt, "The claims, or nil and the reason.")
        case .bcryptVerify:
            Definition(
                "bcrypt", "verify", [.authn, .test],
                [.init("secret", "moonraft.secret|string"), .init("hash", "string")],
                returns: ["boolean"], needs: .bcrypt, "Whether a password matches a bcrypt hash; on worker VMs only.")
        case .sinkOpen:
            Definition(
                "sink", "open", [.initialize], [.init("options", "moonraft.sink_options")], returns: ["moonraft.sink"],
                needs: .fileAppend, "A file that lines are appended to.")
        case .sinkWrite:
            Definition(
                ":sink", "write", [.audit, .onEvent], [.init("line", "string")], returns: ["boolean", "string?"],
                needs: .fileAppend, "Appends a line; true, or false and the reason.")
        case .sinkRecords:
            Definition(
                ":sink", "records", [.initialize], [.init("options", "moonraft.record_options")],
                returns: ["moonraft.records"], needs: .fileAppend, "A writer of records in one form to this sink.")
        case .recordsWrite:
            Definition(
                ":records", "write", [.audit], [.init("rec", "moonraft.rec")], returns: ["boolean", "string?"],
                needs: .fileAppend, "Appends the record as one line of JSON; true, or false and the reason.")
        case .secretEquals:
            Definition(
                ":secret", "equals", .everything, [.init("other", "string|moonraft.secret")], returns: ["boolean"],
                "Compares in constant time.")
        case .secretLength:
            Definition(":secret", "length", .everything, [], returns: ["integer"], "Bytes.")
        case .secretVerifyBcrypt:
            Definition(
                ":secret", "verify_bcrypt", [.authn, .test], [.init("hash", "string")], returns: ["boolean"],
                needs: .bcrypt,
                "Whether it matches a bcrypt hash; on worker VMs only.")
        case .secretVerifySHA256:
            Definition(
                ":secret", "verify_sha256", .everything, [.init("hex", "string"), .init("salt?", "string")],
                returns: ["boolean"], "Whether SHA-256 of salt .. secret is this.")
        case .secretSHA256:
            Definition(
                ":secret", "sha256", .everything, [], returns: ["string"],
                "SHA-256 as hexadecimal text; not of a password.")
        case .filePath: Definition(":file", "path", .everything, [], returns: ["string"], "The path.")
        case .fileRead:
            Definition(":file", "read", [.initialize], [], returns: ["string"], "The content, at most 1 MiB.")
        case .requestWarn:
            Definition(
                ":req", "warn", [.authz, .admitMutate, .admitValidate], [.init("text", "string")],
                "Adds a warning to the reply.")
        case .requestAnnotate:
            Definition(
                ":req", "annotate", [.authz, .admitMutate, .admitValidate],
                [.init("name", "string"), .init("value", "string|number|boolean")], "Adds to the audit record.")
        case .opSetValue: Self.setter("set_value", .init("value", "string"), "Changes a put's value.")
        case .opSetLease: Self.setter("set_lease", .init("id", "integer"), "Changes a put's lease.")
        case .opSetKey: Self.setter("set_key", .init("key", "string"), "Changes the key.")
        case .opSetRangeEnd: Self.setter("set_range_end", .init("key?", "string"), "Changes the end of a range.")
        case .opSetLimit: Self.setter("set_limit", .init("n", "integer"), "Changes a range's limit.")
        case .credentialMetadata:
            Definition(
                ":cred", "metadata", [.authn], [.init("name", "string")], returns: ["string?"],
                "A metadata value of the request.")
        case .recordDecisions:
            Definition(
                ":rec", "decisions", [.audit], [], returns: ["moonraft.decision[]"], "What each plugin decided.")
        case .recordJSON:
            Definition(
                ":rec", "json", [.audit], [.init("options", "moonraft.record_options")], returns: ["string"],
                "The record as one line of JSON.")
        case .recordCount:
            Definition(
                ":rec", "count", [.audit], [], needs: .metrics,
                "Counts the record in every metric that follows records.")
        case .test:
            Definition(
                "", "test", .test, [.init("name", "string"), .init("fn", "fun(t: moonraft.test)")], native: true,
                driver: true,
                "Registers a test.")
        case .testCall:
            Definition(
                "host", "call", .test, [.init("name", "string"), .init("...", "any")], returns: ["any"], driver: true,
                "Reserved for the test library.")
        }
    }

    private static func log(_ level: String) -> Definition {
        Definition(
            "log", level, .everything, [.init("message", "string"), .init("fields?", "table<string, any>")],
            "Writes a line to the node's log.")
    }

    private static func setter(_ name: String, _ parameter: Parameter, _ summary: String) -> Definition {
        Definition(":op", name, [.admitMutate], [parameter], summary)
    }

    /// The C table for a VM; names live as long as the process. The caller frees the buffer.
    static func table(for capabilities: Set<PluginCapability>, driver: Bool) -> UnsafeMutableBufferPointer<
        moonraft_function
    > {
        let entries = cNames.filter { entry in
            let definition = entry.definition
            // A driver tests plugins from outside: pure functions and the test library.
            if driver { return definition.isDriver || definition.isNative || definition.module == "hash" }
            if definition.isDriver { return false }
            return definition.capability.map(capabilities.contains) ?? true
        }
        let buffer = UnsafeMutableBufferPointer<moonraft_function>.allocate(capacity: entries.count)
        for (i, entry) in entries.enumerated() {
            let id: Int32 = entry.definition.isNative ? -1 : entry.function.rawValue
            buffer.initializeElement(
                at: i,
                to: moonraft_function(
                    module: entry.module, name: entry.name, id: id, phases: entry.definition.phases.rawValue))
        }
        return buffer
    }

    /// C copies of the names, made once and never freed; `UnsafePointer` is safe to share since nobody writes.
    private struct CNames: @unchecked Sendable {
        let function: HostFunction
        let definition: Definition
        let module: UnsafePointer<CChar>
        let name: UnsafePointer<CChar>
    }

    private static let cNames: [CNames] = allCases.map { function in
        let definition = function.definition
        return CNames(
            function: function, definition: definition, module: copy(definition.module), name: copy(definition.name))
    }

    private static func copy(_ text: String) -> UnsafePointer<CChar> {
        let bytes = text.utf8CString
        let pointer = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count)
        for (i, byte) in bytes.enumerated() { pointer[i] = byte }
        return UnsafePointer(pointer)
    }
}
