import CLua

#if canImport(Glibc)
    import Glibc
#endif

// Sinks and audit records for scripts.
extension PluginVM {
    private static let maximumSinks = 8
    private static let maximumLineBytes = 1 << 20
    private static let maximumForms = 64

    func sinkOpen(_ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        guard sinks.count < Self.maximumSinks else { throw HostError("more than \(Self.maximumSinks) sinks") }
        let options = try sinkOptions(a.any(0))
        guard !sinks.contains(where: { $0.options.path == options.path }) else {
            throw HostError("the sink \(options.path) is already open")
        }
        var sink: (any PluginSink)?
        if role == .events && !isCheck {
            do {
                sink = try plugin.environment.openSink(options)
            } catch {
                throw HostError("cannot open the sink \(options.path): \(error.message)")
            }
        }
        sinks.append((options, sink))
        returnValue(vm, .handle(kind: MOONRAFT_HANDLE_SINK.int32, number: Int32(sinks.count)))
    }

    private func sinkOptions(_ value: LuaValue) throws(HostError) -> SinkOptions {
        guard let pairs = value.pairs, let path = value["path"]?.string else {
            throw HostError("sink.open takes a table with a path")
        }
        guard Self.isSinkPath(path) else {
            throw HostError("the path \"\(path)\" must be relative, of plain names, below the sink directory")
        }
        var options = SinkOptions(path: path)
        for pair in pairs {
            let value = pair.value
            func bad(_ expected: String) -> HostError { HostError("\(pair.key.described) must be \(expected)") }
            switch pair.key.string {
            case "path": break
            case "max_bytes":
                guard let bytes = value.integer, (1024...(1 << 40)).contains(bytes) else { throw bad("1 KiB to 1 TiB") }
                options.maximumBytes = Int(bytes)
            case "max_age":
                guard let age = value.number, age >= 0 else { throw bad("seconds, not negative") }
                options.maximumAge = age
            case "max_files":
                guard let files = value.integer, (0...10_000).contains(files) else { throw bad("0 to 10000") }
                options.maximumFiles = Int(files)
            case "mode":
                guard let text = value.string, let mode = UInt32(text, radix: 8), mode & ~0o666 == 0 else {
                    throw bad("an octal text such as \"0600\", without execute bits")
                }
                options.mode = mode
            case "sync":
                guard let text = value.string, let sync = SinkOptions.Sync(rawValue: text) else {
                    throw bad("\"always\", \"batch\", \"interval\" or \"never\"")
                }
                options.sync = sync
            case "chain":
                guard let chained = value.boolean else { throw bad("true or false") }
                options.isChained = chained
            case "chain_key":
                guard case .handle(let kind, let number) = value, kind == MOONRAFT_HANDLE_SECRET.int32,
                    plugin.secrets.indices.contains(Int(number) - 1)
                else { throw bad("a secret of the configuration") }
                options.chainKey = plugin.secrets[Int(number) - 1]
            default: throw HostError("unknown option \(pair.key.described)")
            }
        }
        return options
    }

    static func isSinkPath(_ path: String) -> Bool {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        guard (1...4).contains(parts.count), path.utf8.count <= 200 else { return false }
        return parts.allSatisfy { part in
            guard let first = part.utf8.first, first != UInt8(ascii: "."), first != UInt8(ascii: "-") else {
                return false
            }
            return part.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
                    true
                default: false
                }
            }
        }
    }

    private func sink(_ a: HostArguments) throws(HostError) -> Int {
        let number = try a.handle(0, MOONRAFT_HANDLE_SINK, "self")
        guard sinks.indices.contains(number - 1) else { throw HostError("no such sink") }
        return number - 1
    }

    func sinkWrite(_ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        let number = try sink(a)
        let line = try a.bytes(1, "line")
        guard line.baseAddress.map({ memchr($0, 0x0A, line.count) == nil }) ?? true else {
            throw HostError("the line has a newline inside")
        }
        try append(line, to: number, vm)
    }

    /// Appends a line without a newline inside.
    private func append(_ line: UnsafeRawBufferPointer, to number: Int, _ vm: OpaquePointer) throws(HostError) {
        guard line.count <= Self.maximumLineBytes else { throw HostError("the line is larger than 1 MiB") }
        moonraft_vm_charge(vm, UInt64(line.count / 64 + 20))
        guard let sink = sinks[number].sink else {
            moonraft_vm_return_boolean(vm, 0)
            returnText(vm, "the sink is not open here")
            return
        }
        do {
            try sink.write(line, now: plugin.environment.clock.now())
            dirtySinks |= 1 << UInt64(number)
            moonraft_vm_return_boolean(vm, 1)
        } catch {
            plugin.shared.sinkFailed()
            // False, not nil: `return out:write(line)` must be a refusal of the hook.
            moonraft_vm_return_boolean(vm, 0)
            returnText(vm, error.message)
        }
    }

    /// Writes out what the hooks of a batch wrote.
    ///
    /// - Throws: the first error; every sink is tried.
    func flushSinks() throws(SinkError) {
        var first = lostLines
        lostLines = nil
        for index in sinks.indices where dirtySinks & 1 << UInt64(index) != 0 {
            do {
                try sinks[index].sink?.flush(now: plugin.environment.clock.now())
            } catch {
                plugin.shared.sinkFailed()
                first = first ?? error
            }
        }
        dirtySinks = 0
        if let first { throw first }
    }

    func tickSinks() {
        for (_, sink) in sinks {
            do {
                try sink?.tick(now: plugin.environment.clock.now())
            } catch {
                plugin.shared.sinkFailed()
                plugin.log(.error, "sink failed", [("error", error.message)])
            }
        }
    }

    func recordDecisions(_ vm: OpaquePointer) throws(HostError) {
        guard let record = scope.record else { throw HostError("there is no record here") }
        returnValue(
            vm,
            .array(
                record.record.decisions.map { decision in
                    .table([
                        ("id", .text(decision.plugin.id)), ("version", .text(decision.plugin.version)),
                        ("hook", .text(decision.hook.name)), ("verdict", .text(decision.verdict.name)),
                        ("text", .text(decision.detail?.text ?? "")), ("us", .integer(Int64(decision.microseconds))),
                    ])
                }))
    }

    /// Renders the record. The options of the call before are kept with their parsed form, since a plugin asks for
    /// the same again and again.
    func recordJSON(_ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        guard let record = scope.record else { throw HostError("there is no record here") }
        let encoded = a.encoded(1)
        if recordWriter == nil || encoded.count != recordOptions.count || !recordOptions.elementsEqual(encoded) {
            recordWriter = AuditRecordJSON(options: a.isNil(1) ? AuditJSONOptions() : try jsonOptions(a.any(1)))
            recordOptions = Array(encoded)
        }
        guard let line = recordWriter?.encode(record) else { return }
        moonraft_vm_charge(vm, UInt64(line.count / 16 + 50))
        returnBytes(vm, line)
    }

    // MARK: - Records without a text in between

    func sinkRecords(_ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        let number = try sink(a)
        guard recordForms.count < Self.maximumForms else {
            throw HostError("more than \(Self.maximumForms) forms of records")
        }
        recordForms.append(
            (number, AuditRecordJSON(options: a.isNil(1) ? AuditJSONOptions() : try jsonOptions(a.any(1)))))
        returnValue(vm, .handle(kind: MOONRAFT_HANDLE_RECORDS.int32, number: Int32(recordForms.count)))
    }

    func recordsWrite(_ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        let number = try a.handle(0, MOONRAFT_HANDLE_RECORDS, "self") - 1
        guard recordForms.indices.contains(number) else { throw HostError("no such form of records") }
        guard a.isHandle(1, MOONRAFT_HANDLE_REC), let record = scope.record else {
            throw HostError("rec must be a record")
        }
        // JSON of one record has no newline inside.
        let line = recordForms[number].writer.encode(record)
        moonraft_vm_charge(vm, UInt64(line.count / 16 + 50))
        try append(line, to: recordForms[number].sink, vm)
    }

    func metricFromRecords(_ a: HostArguments) throws(HostError) {
        let index = try a.handle(0, MOONRAFT_HANDLE_METRIC, "self")
        guard plugin.metrics.declarations.indices.contains(index) else { throw HostError("no such metric") }
        try recordCounter.add(a.any(1), metric: index, plugin.metrics.declarations[index])
    }

    func recordCount(_ vm: OpaquePointer) throws(HostError) {
        guard let record = scope.record else { throw HostError("there is no record here") }
        moonraft_vm_charge(vm, UInt64(20 + recordCounter.count(record, into: plugin.metrics) / 4))
    }

    private func jsonOptions(_ value: LuaValue) throws(HostError) -> AuditJSONOptions {
        var options = AuditJSONOptions()
        guard let pairs = value.pairs else { throw HostError("options must be a table") }
        for pair in pairs {
            switch pair.key.string {
            case "level":
                guard let text = pair.value.string, let level = AuditJSONOptions.Level(rawValue: text) else {
                    throw HostError("level must be \"metadata\", \"keys\", \"keys+hash\" or \"full\"")
                }
                options.level = level
            case "hash_key":
                guard case .handle(let kind, let number) = pair.value, kind == MOONRAFT_HANDLE_SECRET.int32,
                    plugin.secrets.indices.contains(Int(number) - 1)
                else { throw HostError("hash_key must be a secret of the configuration") }
                options.hashKey = plugin.secrets[Int(number) - 1]
            case "key_hash":
                guard let items = pair.value.items else { throw HostError("key_hash must be an array of prefixes") }
                options.hashedPrefixes = items.compactMap(\.bytes)
            case "extra":
                guard let pairs = pair.value.pairs else { throw HostError("extra must be a table") }
                options.extra = pairs
            default: throw HostError("unknown option \(pair.key.described)")
            }
        }
        return options
    }
}
