// Host functions that change or read something: operations of the request, the plugin's own store, its metrics, and the
// node's keys.

import CLua

extension PluginVM {
    // MARK: - Setters

    func setOp(_ function: HostFunction, _ a: HostArguments) throws(HostError) {
        let index = try a.handle(0, MOONRAFT_HANDLE_OP, "self")
        guard scope.request.ops.indices.contains(index) else { throw HostError("this request has no such op") }
        guard scope.request.leaseKeys == nil else { throw HostError("the keys of a lease cannot be changed") }
        let kind = scope.request.ops[index].kind
        func only(_ kinds: PluginOp.Kind...) throws(HostError) {
            guard kinds.contains(kind) else { throw HostError("this op cannot be changed so") }
        }
        // The view copies the op's keys anew, whatever is set.
        let isKey = function == .opSetKey || function == .opSetRangeEnd
        scope.keyBytesSet += scope.request.ops[index].key.count + scope.request.ops[index].rangeEnd.count
        if isKey && a.isString(1) { scope.keyBytesSet += try a.bytes(1, "key").count }
        guard scope.keyBytesSet <= HookScope.maximumKeyBytesSet else {
            throw HostError("one call sets at most \(HookScope.maximumKeyBytesSet >> 20) MiB of keys")
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

    func store(_ function: HostFunction, _ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
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

    func metric(_ function: HostFunction, _ a: HostArguments) throws(HostError) {
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

    func kv(_ function: HostFunction, _ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
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
