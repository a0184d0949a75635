// Host functions: what Lua calls. Entry from C, dispatch, results, and the small functions; setters, metrics and the
// store have files of their own.

import CLua
import Crypto

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
}
