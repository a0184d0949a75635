// Feeding metrics from audit records without a script between them: metric:from_records declares in `init` what a metric
// follows, rec:count() carries it out (docs/plugin-api.md 6).

/// How one metric follows records.
private struct RecordRule {
    enum Label: String {
        case prefix, kind, result, rpc, stage
    }

    enum Value: String {
        /// One for each operation.
        case operations
        /// Bytes of keys and values of puts that succeeded.
        case writtenBytes = "written_bytes"
        /// Time of the request, once for each series that it has operations in.
        case seconds
    }

    let metric: Int
    let update: MetricRegistry.Update
    let value: Value
    let labels: [Label]
    /// Index of the prefixes, of which the longest that holds all keys of an operation is its label.
    let list: Int
    let except: RPCSet
    /// Places of series by what their labels come from. At most the metric's `max_series`.
    var places: [UInt64: Int] = [:]
}

/// The rules of one VM. Confined with it.
struct RecordCounter {
    private static let maximumRules = 16
    private static let maximumPrefixes = 128
    /// The label of an operation that no prefix holds.
    private static let other = Array("other".utf8)

    private var rules: [RecordRule] = []
    /// Prefixes, longest first; rules with equal ones share a list.
    private var lists: [[[UInt8]]] = []
    /// By list: index of the prefix that holds the operation at hand; past the end when none does.
    private var found: [Int] = []
    /// Series that the record at hand was timed in.
    private var timed: [UInt64] = []

    /// Adds what a script declared for a metric.
    mutating func add(_ rule: LuaValue, metric: Int, _ declaration: MetricDeclaration) throws(HostError) {
        guard let pairs = rule.pairs else { throw HostError("a rule is a table") }
        guard rules.count < Self.maximumRules else {
            throw HostError("more than \(Self.maximumRules) metrics follow records")
        }
        var value: RecordRule.Value?
        var labels: [RecordRule.Label] = []
        var prefixes: [[UInt8]] = []
        var except = RPCSet()
        for pair in pairs {
            switch pair.key.string {
            case "value":
                value = pair.value.string.flatMap(RecordRule.Value.init)
                guard value != nil else {
                    throw HostError("value must be \"operations\", \"written_bytes\" or \"seconds\"")
                }
            case "labels":
                for item in pair.value.items ?? [] {
                    guard let label = item.string.flatMap(RecordRule.Label.init) else {
                        throw HostError("labels are \"prefix\", \"kind\", \"result\", \"rpc\" and \"stage\"")
                    }
                    guard !labels.contains(label) else { throw HostError("the label \(label.rawValue) is given twice") }
                    labels.append(label)
                }
            case "prefixes":
                guard let items = pair.value.items, items.count <= Self.maximumPrefixes else {
                    throw HostError("prefixes must be an array of at most \(Self.maximumPrefixes)")
                }
                for item in items {
                    guard let prefix = item.bytes else { throw HostError("prefixes must be strings") }
                    prefixes.append(prefix)
                }
            case "except":
                for item in pair.value.items ?? [] {
                    guard let kind = item.string.flatMap(RPCKind.init(name:)) else {
                        throw HostError("except: unknown call \(item.described)")
                    }
                    except.insert(RPCSet(kind))
                }
            default: throw HostError("unknown field \(pair.key.described) in the rule")
            }
        }
        guard let value else { throw HostError("the rule needs a value") }
        guard labels.count == declaration.labels.count else {
            throw HostError("\(declaration.name) has \(declaration.labels.count) labels, got \(labels.count)")
        }
        let update: MetricRegistry.Update
        switch declaration.kind {
        case .counter: update = .add
        case .histogram: update = .observe
        case .gauge: throw HostError("\(declaration.name) is a gauge, which cannot follow records")
        }
        prefixes.sort { $0.count > $1.count }
        let list = lists.firstIndex(of: prefixes) ?? lists.count
        if list == lists.count {
            lists.append(prefixes)
            found.append(0)
        }
        rules.append(
            RecordRule(metric: metric, update: update, value: value, labels: labels, list: list, except: except))
    }

    /// Counts a record.
    ///
    /// - Returns: the work done, in comparisons and updates.
    mutating func count(_ entry: AuditEntry, into registry: MetricRegistry) -> Int {
        let ops = entry.record.request.ops.count
        timed.removeAll(keepingCapacity: true)
        var work = 0
        for i in 0..<ops {
            for list in lists.indices {
                found[list] = Self.place(entry.record.request.ops, i, lists[list])
                work += found[list] + 1
            }
            for rule in rules.indices where !rules[rule].except.contains(entry.record.request.rpc) {
                apply(rule, entry, i, isOnly: ops == 1, registry)
                work += 1
            }
        }
        return work
    }

    private static func place(_ ops: [PluginOp], _ i: Int, _ prefixes: [[UInt8]]) -> Int {
        ops.withUnsafeBufferPointer { ops in
            var place = 0
            while place < prefixes.count && !KeyMatch.within(ops[i].key, ops[i].rangeEnd, prefixes[place]) {
                place += 1
            }
            return place
        }
    }

    /// Applies one rule to one operation.
    private mutating func apply(_ rule: Int, _ entry: AuditEntry, _ i: Int, isOnly: Bool, _ registry: MetricRegistry) {
        let isOK = entry.record.code == 0
        let value: Double
        switch rules[rule].value {
        case .operations: value = 1
        case .writtenBytes:
            guard isOK, entry.record.request.ops[i].kind == .put else { return }
            value = Double(entry.record.request.ops[i].key.count + entry.record.request.ops[i].value.count)
        case .seconds: value = Double(entry.record.totalMicroseconds) / 1e6
        }
        // What the labels come from, a byte each: the same code is the same series.
        var code: UInt64 = 0
        for label in rules[rule].labels {
            let part: Int
            switch label {
            case .prefix: part = found[rules[rule].list]
            case .kind: part = Int(entry.record.request.ops[i].kind.rawValue)
            case .result: part = isOK ? 0 : entry.record.isAllowed ? 1 : 2
            case .rpc: part = Int(entry.record.request.rpc.rawValue)
            case .stage: part = entry.record.stage == .decided ? 0 : 1
            }
            code = code << 8 | UInt64(part)
        }
        if rules[rule].value == .seconds && !isOnly {
            // Rules differ in the uppermost byte: there are no eight kinds of labels.
            let mark = code ^ UInt64(rule) << 56
            if timed.contains(mark) { return }
            timed.append(mark)
        }
        if let place = rules[rule].places[code] {
            return registry.update(rules[rule].metric, rules[rule].update, value, at: place)
        }
        let key = key(entry, i, rule)
        if let place = registry.place(rules[rule].metric, key: key) {
            rules[rule].places[code] = place
            registry.update(rules[rule].metric, rules[rule].update, value, at: place)
        } else {
            registry.update(rules[rule].metric, rules[rule].update, value, key: key)
        }
    }

    /// The key of the series, as ``MetricRegistry`` has it.
    private func key(_ entry: AuditEntry, _ i: Int, _ rule: Int) -> [UInt8] {
        var key: [UInt8] = []
        for label in rules[rule].labels {
            switch label {
            case .prefix:
                let list = lists[rules[rule].list]
                let place = found[rules[rule].list]
                let text = place < list.count ? list[place] : Self.other
                // Labels are UTF-8; 0xff separates them in the key.
                key += String(decoding: text.prefix(MetricRegistry.maximumLabelBytes), as: UTF8.self).utf8
            case .kind: key += "\(AuditRecordJSON.kindName(entry.record.request.ops[i].kind))".utf8
            case .result: key += (entry.record.code == 0 ? "ok" : entry.record.isAllowed ? "failed" : "denied").utf8
            case .rpc: key += "\(entry.record.request.rpc.name)".utf8
            case .stage: key += entry.record.stage.rawValue.utf8
            }
            key.append(0xFF)
        }
        return key
    }
}
