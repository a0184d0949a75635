import CLua
import Crypto

/// Why a host function refuses; becomes a Lua error with the script's position in front.
struct HostError: Error {
    let message: String
    init(_ message: String) { self.message = message }
}

/// The arguments of a host function. The bytes behind them are the VM's and valid during the call only.
struct HostArguments {
    let base: UnsafePointer<moonraft_value>?
    let count: Int

    private func value(_ index: Int) -> moonraft_value? {
        guard index < count, let base else { return nil }
        return base[index]
    }

    func isNil(_ index: Int) -> Bool {
        guard let value = value(index) else { return true }
        return value.type == MOONRAFT_NIL.int32
    }

    /// A string's bytes.
    func bytes(_ index: Int, _ name: String) throws(HostError) -> UnsafeRawBufferPointer {
        guard let value = value(index), value.type == MOONRAFT_STRING.int32 else { throw wrong(name, "a string") }
        return UnsafeRawBufferPointer(start: value.bytes, count: value.count)
    }

    func array(_ index: Int, _ name: String) throws(HostError) -> [UInt8] { Array(try bytes(index, name)) }

    func string(_ index: Int, _ name: String) throws(HostError) -> String {
        String(decoding: try bytes(index, name), as: UTF8.self)
    }

    func integer(_ index: Int, _ name: String) throws(HostError) -> Int64 {
        guard let value = value(index) else { throw wrong(name, "an integer") }
        if value.type == MOONRAFT_INTEGER.int32 { return value.integer }
        guard value.type == MOONRAFT_NUMBER.int32, let whole = Int64(exactly: value.number) else {
            throw wrong(name, "an integer")
        }
        return whole
    }

    func number(_ index: Int, _ name: String) throws(HostError) -> Double {
        guard let value = value(index), value.type == MOONRAFT_INTEGER.int32 || value.type == MOONRAFT_NUMBER.int32
        else { throw wrong(name, "a number") }
        return value.number
    }

    /// A string, number or boolean as text.
    func label(_ index: Int, _ name: String) throws(HostError) -> String {
        let value = self.any(index)
        switch value {
        case .string, .integer, .number, .boolean: return value.described
        default: throw wrong(name, "a string")
        }
    }

    /// The number of a handle of this kind.
    func handle(_ index: Int, _ kind: Int, _ name: String) throws(HostError) -> Int {
        guard let value = value(index), value.type == MOONRAFT_HANDLE.int32, value.handle_kind == kind.int32 else {
            throw wrong(name, "of its kind; call methods with a colon")
        }
        return Int(value.integer)
    }

    /// The encoded form of a table; empty for other values.
    func encoded(_ index: Int) -> UnsafeRawBufferPointer {
        guard let value = value(index), value.type == MOONRAFT_MAP.int32 || value.type == MOONRAFT_ARRAY.int32 else {
            return UnsafeRawBufferPointer(start: nil, count: 0)
        }
        return UnsafeRawBufferPointer(start: value.bytes, count: value.count)
    }

    func isHandle(_ index: Int, _ kind: Int) -> Bool {
        guard let value = value(index) else { return false }
        return value.type == MOONRAFT_HANDLE.int32 && value.handle_kind == kind.int32
    }

    func isString(_ index: Int) -> Bool { value(index)?.type == MOONRAFT_STRING.int32 }

    /// Any value; tables are decoded.
    func any(_ index: Int) -> LuaValue {
        guard let value = value(index) else { return .null }
        switch value.type {
        case MOONRAFT_FALSE.int32: return .boolean(false)
        case MOONRAFT_TRUE.int32: return .boolean(true)
        case MOONRAFT_INTEGER.int32: return .integer(value.integer)
        case MOONRAFT_NUMBER.int32: return .number(value.number)
        case MOONRAFT_STRING.int32: return .string(Array(UnsafeBufferPointer(start: value.bytes, count: value.count)))
        case MOONRAFT_MAP.int32, MOONRAFT_ARRAY.int32:
            return LuaDecoder.decode(UnsafeRawBufferPointer(start: value.bytes, count: value.count))
        case MOONRAFT_HANDLE.int32:
            return .handle(kind: value.handle_kind, number: Int32(truncatingIfNeeded: value.integer))
        case MOONRAFT_NULL.int32: return .jsonNull
        default: return .null
        }
    }

    private func wrong(_ name: String, _ expected: String) -> HostError { HostError("\(name) must be \(expected)") }
}

/// Secrets are numbered: those of the configuration from 1, those of a call from here on.
enum SecretNumber {
    static let password = 1_000_001
    static let token = 1_000_002
}

extension PluginVM {
    /// Entry from C. Never throws and never calls back into this VM.
    func hostCall(_ id: Int32, _ arguments: UnsafePointer<moonraft_value>?, _ count: Int32) -> Int32 {
        guard let vm, let function = HostFunction(rawValue: id) else { return 1 }
        let arguments = HostArguments(base: arguments, count: Int(count))
        do {
            try run(function, arguments, vm)
            return 0
        } catch {
            var message = error.message
            message.withUTF8 { moonraft_vm_set_error(vm, $0.baseAddress, $0.count) }
            return 1
        }
    }

    /// Counts where the set is checked, which is before any loop asks for the hooks of a plugin.
    private func skipHook(_ name: String) throws(HostError) {
        guard let hook = PluginHook(name: name), LoadedPlugin.skippable.contains(hook) else {
            throw HostError("name must be \"authz\", \"admit_mutate\" or \"admit_validate\"")
        }
        if isCheck { plugin.skip(hook) }
    }

    private func run(_ function: HostFunction, _ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        switch function {
        case .logDebug: try log(.debug, a)
        case .logInfo: try log(.info, a)
        case .logWarn: try log(.warning, a)
        case .logError: try log(.error, a)
        case .hookSkip: try skipHook(try a.string(0, "name"))
        case .hashSHA256: try hash(a, vm)
        case .hashHMAC: try hmac(a, vm)
        case .timeNow: moonraft_vm_return_number(vm, plugin.environment.clock.now())
        case .timeMonotonic: moonraft_vm_return_number(vm, plugin.environment.clock.monotonic())
        case .timeRFC3339:
            let time = a.isNil(0) ? plugin.environment.clock.now() : try a.number(0, "t")
            guard let text = Timestamp.rfc3339(time) else { throw HostError("t is out of range") }
            returnText(vm, text)
        case .timeParse:
            if let time = Timestamp.parse(try a.string(0, "text")) {
                moonraft_vm_return_number(vm, time)
            } else {
                moonraft_vm_return_nil(vm)
            }
        case .storeGet, .storeSet, .storeDelete, .storeIncrement: try store(function, a, vm)
        case .metricIncrement, .metricSet, .metricObserve: try metric(function, a)
        case .metricFromRecords: try metricFromRecords(a)
        case .kvGet, .kvRange, .kvCount, .kvStats, .kvRevision: try kv(function, a, vm)
        case .jwtKeys: try jwtKeys(a, vm)
        case .jwtVerify: try jwtVerify(a, vm)
        case .bcryptVerify: try verifyBcrypt(secretOrBytes(a, 0, "secret"), a.string(1, "hash"), vm)
        case .secretVerifyBcrypt: try verifyBcrypt(secret(a, 0), a.string(1, "hash"), vm)
        case .sinkOpen: try sinkOpen(a, vm)
        case .sinkWrite: try sinkWrite(a, vm)
        case .sinkRecords: try sinkRecords(a, vm)
        case .recordsWrite: try recordsWrite(a, vm)
        case .secretEquals:
            moonraft_vm_return_boolean(
                vm, constantTimeEquals(try secret(a, 0), try secretOrBytes(a, 1, "other")) ? 1 : 0)
        case .secretLength: moonraft_vm_return_integer(vm, Int64(try secret(a, 0).count))
        case .secretVerifySHA256: try verifySHA256(a, vm)
        case .secretSHA256:
            guard try a.handle(0, MOONRAFT_HANDLE_SECRET, "self") != SecretNumber.password else {
                throw HostError("a password has no sha256; use verify_bcrypt or verify_sha256")
            }
            returnText(vm, Hex.encode(SHA256.hash(data: try secret(a, 0))))
        case .filePath: returnText(vm, try file(a).path)
        case .fileRead:
            do {
                returnBytes(vm, try FileReading.read(try file(a).path, maximum: 1 << 20, followLinks: true))
            } catch let error as FileReading.Failure {
                throw HostError(error.message)
            } catch let error as HostError {
                throw error
            } catch {
                throw HostError("\(error)")
            }
        case .requestWarn:
            guard scope.warnings.count < 8 else { throw HostError("more than 8 warnings") }
            scope.warnings.append(cut(try a.string(1, "text"), 256))
        case .requestAnnotate:
            guard scope.annotations.count < 16 else { throw HostError("more than 16 annotations") }
            scope.annotations.append((cut(try a.string(1, "name"), 256), cut(try a.label(2, "value"), 256)))
        case .opSetValue, .opSetLease, .opSetKey, .opSetRangeEnd, .opSetLimit: try setOp(function, a)
        case .credentialMetadata:
            let name = try a.string(1, "name")
            if let value = scope.metadata.first(where: { $0.name == name })?.value {
                returnText(vm, value)
            } else {
                moonraft_vm_return_nil(vm)
            }
        case .recordDecisions: try recordDecisions(vm)
        case .recordJSON: try recordJSON(a, vm)
        case .recordCount: try recordCount(vm)
        case .jsonEncode, .jsonDecode, .jsonArray, .jsonIsArray, .jsonShape, .base64Encode, .base64Decode, .hexEncode,
            .hexDecode,
            .hashCRC32, .globMatch, .prefixOf, .test, .testCall:
            throw HostError("not a host function")
        }
    }

    // MARK: - Results

    func returnText(_ vm: OpaquePointer, _ text: String) {
        var text = text
        text.withUTF8 { moonraft_vm_return_string(vm, $0.baseAddress, $0.count) }
    }

    func returnBytes(_ vm: OpaquePointer, _ bytes: [UInt8]) {
        bytes.withUnsafeBufferPointer { moonraft_vm_return_string(vm, $0.baseAddress, $0.count) }
    }

    func returnBytes(_ vm: OpaquePointer, _ bytes: UnsafeRawBufferPointer) {
        let bytes = bytes.bindMemory(to: UInt8.self)
        moonraft_vm_return_string(vm, bytes.baseAddress, bytes.count)
    }

    func returnValue(_ vm: OpaquePointer, _ value: LuaValue) {
        LuaEncoder.encode(value).withUnsafeBufferPointer { moonraft_vm_return_encoded(vm, $0.baseAddress, $0.count) }
    }

    func cut(_ text: String, _ maximum: Int) -> String {
        text.utf8.count <= maximum ? text : String(decoding: text.utf8.prefix(maximum), as: UTF8.self)
    }

    // MARK: - Log, hashes

    private func log(_ level: PluginLogEntry.Level, _ a: HostArguments) throws(HostError) {
        let message = cut(try a.label(0, "message"), 1024)
        let environment = plugin.environment
        guard plugin.shared.mayLog(now: environment.clock.monotonic(), perSecond: environment.limits.logLinesPerSecond)
        else {
            return
        }
        var fields: [(name: String, value: String)] = []
        if !a.isNil(1) {
            guard let pairs = a.any(1).pairs else { throw HostError("fields must be a table with string keys") }
            for pair in pairs.prefix(32) {
                fields.append((cut(pair.key.described, 64), cut(pair.value.described, 1024)))
            }
            fields.sort { $0.name < $1.name }
        }
        plugin.log(level, message, fields)
    }

    private func hash(_ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        let bytes = try a.bytes(0, "bytes")
        moonraft_vm_charge(vm, UInt64(bytes.count / 64 + 50))
        returnText(vm, Hex.encode(SHA256.hash(data: bytes)))
    }

    private func hmac(_ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        let key = try secretOrBytes(a, 0, "key")
        let bytes = try a.bytes(1, "bytes")
        moonraft_vm_charge(vm, UInt64(bytes.count / 64 + 100))
        returnText(vm, Hex.encode(HMAC<SHA256>.authenticationCode(for: bytes, using: SymmetricKey(data: key))))
    }

    // MARK: - Secrets and files

    /// The bytes of the secret at an argument.
    func secret(_ a: HostArguments, _ index: Int) throws(HostError) -> [UInt8] {
        let number = try a.handle(index, MOONRAFT_HANDLE_SECRET, "self")
        let bytes: [UInt8]?
        switch number {
        case SecretNumber.password: bytes = scope.password
        case SecretNumber.token: bytes = scope.token
        default: bytes = plugin.secrets.indices.contains(number - 1) ? plugin.secrets[number - 1] : nil
        }
        guard let bytes else { throw HostError("the secret is valid during the call it was given to only") }
        return bytes
    }

    func secretOrBytes(_ a: HostArguments, _ index: Int, _ name: String) throws(HostError) -> [UInt8] {
        if a.isHandle(index, MOONRAFT_HANDLE_SECRET) { return try secret(a, index) }
        guard a.isString(index) else { throw HostError("\(name) must be a string or a secret") }
        return try a.array(index, name)
    }

    private func file(_ a: HostArguments) throws(HostError) -> ConfiguredFile {
        let number = try a.handle(0, MOONRAFT_HANDLE_FILE, "self")
        guard plugin.files.indices.contains(number - 1) else { throw HostError("no such file") }
        return plugin.files[number - 1]
    }

    /// Equality whose time depends on the lengths only.
    private func constantTimeEquals(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        // Equal-length digests are compared, so that the lengths do not show either.
        let x = Array(SHA256.hash(data: a))
        let y = Array(SHA256.hash(data: b))
        var difference: UInt8 = 0
        for i in 0..<32 { difference |= x[i] ^ y[i] }
        return difference == 0
    }

    private func verifySHA256(_ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        let secret = try secret(a, 0)
        let expected = try a.string(1, "hex").lowercased()
        var hash = SHA256()
        if !a.isNil(2) { hash.update(bufferPointer: try a.bytes(2, "salt")) }
        hash.update(data: secret)
        moonraft_vm_charge(vm, 100)
        let equal = constantTimeEquals(Array(Hex.encode(hash.finalize()).utf8), Array(expected.utf8))
        moonraft_vm_return_boolean(vm, equal ? 1 : 0)
    }

    // MARK: - Setters

    private func setOp(_ function: HostFunction, _ a: HostArguments) throws(HostError) {
        let index = try a.handle(0, MOONRAFT_HANDLE_OP, "self")
        guard scope.request.ops.indices.contains(index) else { throw HostError("this request has no such op") }
        guard scope.request.leaseKeys == nil else { throw HostError("the keys of a lease cannot be changed") }
        let kind = scope.request.ops[index].kind
        func only(_ kinds: PluginOp.Kind...) throws(HostError) {
            guard kinds.contains(kind) else { throw HostError("this op cannot be changed so") }
        }
        switch function {
        case .opSetValue:
            try only(.put)
            scope.request.ops[index].value = try a.array(1, "value")
            scope.request.ops[index].ignoreValue = false
        case .opSetLease:
            try only(.put)
            scope.request.ops[index].lease = try a.integer(1, "id")
            scope.request.ops[index].ignoreLease = false
        case .opSetKey:
            try only(.put, .range, .deleteRange)
            let key = try a.array(1, "key")
            guard !key.isEmpty else { throw HostError("key must not be empty") }
            scope.request.ops[index].key = key
        case .opSetRangeEnd:
            try only(.range, .deleteRange)
            scope.request.ops[index].rangeEnd = a.isNil(1) ? [] : try a.array(1, "key")
        default:
            try only(.range)
            let limit = try a.integer(1, "n")
            guard limit >= 0 else { throw HostError("n must not be negative") }
            scope.request.ops[index].limit = limit
        }
        scope.isChanged = true
        scope.updateOp(index)
    }

    // MARK: - Store and metrics

    private func store(_ function: HostFunction, _ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        let store = plugin.shared.store
        let now = plugin.environment.clock.monotonic()
        let key = try a.array(0, "key")
        guard key.count <= PluginStore.maximumKeyBytes else {
            throw HostError("a store key has at most \(PluginStore.maximumKeyBytes) bytes")
        }
        func ttl(_ index: Int) throws(HostError) -> Double? {
            if a.isNil(index) { return nil }
            let ttl = try a.number(index, "ttl")
            guard ttl > 0 else { throw HostError("ttl must be positive") }
            return ttl
        }
        switch function {
        case .storeGet: returnValue(vm, store.get(key, now: now) ?? .null)
        case .storeDelete: store.delete(key, now: now)
        case .storeSet:
            let value = a.any(1)
            switch value {
            case .integer, .number, .boolean: break
            case .string(let bytes):
                guard bytes.count <= PluginStore.maximumValueBytes else {
                    throw HostError("a store value has at most \(PluginStore.maximumValueBytes) bytes")
                }
            default: throw HostError("a store value is a string, number or boolean")
            }
            store.set(key, value, ttl: try ttl(2), now: now)
        default:
            let amount = a.isNil(1) ? 1 : try a.integer(1, "n")
            guard let sum = store.increment(key, by: amount, ttl: try ttl(2), now: now) else {
                throw HostError("the stored value is no integer, or the sum is out of range")
            }
            moonraft_vm_return_integer(vm, sum)
        }
    }

    private func metric(_ function: HostFunction, _ a: HostArguments) throws(HostError) {
        let index = try a.handle(0, MOONRAFT_HANDLE_METRIC, "self")
        let registry = plugin.metrics
        guard registry.declarations.indices.contains(index) else { throw HostError("no such metric") }
        let value = function == .metricIncrement && a.isNil(1) ? 1 : try a.number(1, "value")
        guard value.isFinite else { throw HostError("the value must be finite") }
        let update: MetricRegistry.Update
        switch (function, registry.declarations[index].kind) {
        case (.metricIncrement, .counter):
            guard value >= 0 else { throw HostError("a counter does not go down") }
            update = .add
        case (.metricIncrement, .gauge): update = .add
        case (.metricSet, .gauge): update = .set
        case (.metricObserve, .histogram): update = .observe
        default:
            let declaration = registry.declarations[index]
            throw HostError("\(declaration.name) is a \(declaration.kind.rawValue)")
        }
        let labels = max(0, a.count - 2)
        guard labels == registry.declarations[index].labels.count else {
            let declaration = registry.declarations[index]
            throw HostError("\(declaration.name) has \(declaration.labels.count) labels, got \(labels)")
        }
        metricKey.removeAll(keepingCapacity: true)
        for i in 0..<labels {
            if a.isString(i + 2) {
                let bytes = UnsafeRawBufferPointer(
                    rebasing: try a.bytes(i + 2, "label").prefix(MetricRegistry.maximumLabelBytes))
                // Labels are UTF-8; 0xff separates them in the key.
                if bytes.allSatisfy({ $0 < 0x80 }) {
                    metricKey.append(contentsOf: bytes)
                } else {
                    metricKey.append(contentsOf: String(decoding: bytes, as: UTF8.self).utf8)
                }
            } else {
                let text = try a.label(i + 2, registry.declarations[index].labels[i])
                metricKey.append(contentsOf: text.utf8.prefix(MetricRegistry.maximumLabelBytes))
            }
            metricKey.append(0xFF)
        }
        registry.update(index, update, value, key: metricKey)
    }

    // MARK: - Store view

    static let maximumRangeKeys = 100
    static let maximumRangeBytes = 1 << 20
    static let maximumCount = 100_000

    private func kv(_ function: HostFunction, _ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        guard let store = scope.storeView else { throw HostError("the store cannot be read here") }
        switch function {
        case .kvRevision: moonraft_vm_return_integer(vm, store.revision)
        case .kvGet:
            moonraft_vm_charge(vm, 50)
            guard let kv = store.get(try a.array(0, "key")), kv.value.count <= Self.maximumRangeBytes else {
                moonraft_vm_return_nil(vm)
                return
            }
            returnValue(vm, Self.encode(kv, keysOnly: false))
        case .kvStats:
            guard let stats = store.stats(try a.array(0, "prefix")) else {
                moonraft_vm_return_nil(vm)
                return
            }
            returnValue(vm, .table([("keys", .integer(stats.keys)), ("bytes", .integer(stats.bytes))]))
        case .kvCount:
            let query = try Self.query(a.any(0), defaultLimit: Self.maximumCount, maximum: Self.maximumCount)
            let count = store.count(query.key, query.end, limit: query.limit)
            moonraft_vm_charge(vm, UInt64(50 + max(0, count) / 8))
            moonraft_vm_return_integer(vm, Int64(count))
        default:
            let query = try Self.query(a.any(0), defaultLimit: Self.maximumRangeKeys, maximum: Self.maximumRangeKeys)
            let (keys, more) = store.range(
                query.key, query.end, limit: query.limit, maximumBytes: Self.maximumRangeBytes, keysOnly: query.keysOnly
            )
            moonraft_vm_charge(vm, UInt64(50 + keys.count * 10))
            returnValue(vm, .array(keys.prefix(query.limit).map { Self.encode($0, keysOnly: query.keysOnly) }))
            moonraft_vm_return_boolean(vm, more ? 1 : 0)
        }
    }

    private static func encode(_ kv: PluginKeyValue, keysOnly: Bool) -> LuaValue {
        var pairs: [(String, LuaValue)] = [("key", .string(kv.key))]
        if !keysOnly { pairs.append(("value", .string(kv.value))) }
        pairs.append(("create_revision", .integer(kv.createRevision)))
        pairs.append(("mod_revision", .integer(kv.modRevision)))
        pairs.append(("version", .integer(kv.version)))
        pairs.append(("lease", .integer(kv.lease)))
        return .table(pairs)
    }

    private static func query(
        _ value: LuaValue, defaultLimit: Int, maximum: Int
    ) throws(HostError) -> (key: [UInt8], end: [UInt8], limit: Int, keysOnly: Bool) {
        guard let pairs = value.pairs else { throw HostError("the query must be a table") }
        var key: [UInt8]?
        var end: [UInt8] = []
        var limit = defaultLimit
        var keysOnly = false
        for pair in pairs {
            switch pair.key.string {
            case "key": key = pair.value.bytes
            case "range_end": end = pair.value.bytes ?? []
            case "prefix":
                guard let prefix = pair.value.bytes else { throw HostError("prefix must be a string") }
                key = prefix.isEmpty ? [0] : prefix
                end = prefix.isEmpty ? [0] : successor(prefix)
            case "limit":
                guard let asked = pair.value.integer, asked > 0 else {
                    throw HostError("limit must be a positive integer")
                }
                limit = Int(min(asked, Int64(maximum)))
            case "keys_only": keysOnly = pair.value.boolean ?? false
            default: throw HostError("unknown field \(pair.key.described) in the query")
            }
        }
        guard let key, !key.isEmpty else { throw HostError("the query needs key or prefix") }
        return (key, end, limit, keysOnly)
    }

    /// The end of the range of all keys with a prefix.
    static func successor(_ prefix: [UInt8]) -> [UInt8] {
        var end = prefix
        while let last = end.popLast() {
            if last < 0xFF {
                end.append(last + 1)
                return end
            }
        }
        return [0]
    }
}
