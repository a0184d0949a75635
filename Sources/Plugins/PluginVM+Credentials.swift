import CLua
import CSupport

// JSON web tokens and bcrypt for scripts.
extension PluginVM {
    static let maximumBcryptCost = 14
    static let maximumBcryptCalls = 2
    private static let maximumKeySets = 64

    func jwtKeys(_ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        guard keySets.count < Self.maximumKeySets else { throw HostError("more than \(Self.maximumKeySets) key sets") }
        var algorithms: Set<JWTAlgorithm>?
        if !a.isNil(1) {
            guard let pairs = a.any(1).pairs else { throw HostError("options must be a table") }
            for pair in pairs {
                guard pair.key.string == "algorithms", let names = pair.value.items else {
                    throw HostError("the options are { algorithms = { … } }")
                }
                var set: Set<JWTAlgorithm> = []
                for name in names {
                    guard let text = name.string, let algorithm = JWTAlgorithm(rawValue: text) else {
                        throw HostError("unknown algorithm \(name.described)")
                    }
                    set.insert(algorithm)
                }
                algorithms = set
            }
        }
        let keys: JWTKeySet
        do {
            if a.isHandle(0, MOONRAFT_HANDLE_SECRET) {
                keys = try JWTKeySet(secret: try secret(a, 0), algorithms: algorithms)
            } else {
                let number = try a.handle(0, MOONRAFT_HANDLE_FILE, "source")
                guard plugin.files.indices.contains(number - 1) else { throw HostError("no such file") }
                let path = plugin.files[number - 1].path
                keys = try plugin.keySets.withLock { (cache) throws(JWTError) in try cache.load(path, algorithms) }
            }
        } catch let error as JWTError {
            throw HostError(error.message)
        } catch let error as HostError {
            throw error
        } catch {
            throw HostError("\(error)")
        }
        keySets.append(keys)
        returnValue(vm, .handle(kind: MOONRAFT_HANDLE_KEYS.int32, number: Int32(keySets.count)))
    }

    func jwtVerify(_ a: HostArguments, _ vm: OpaquePointer) throws(HostError) {
        let token = try secretOrBytes(a, 0, "token")
        let number = try a.handle(1, MOONRAFT_HANDLE_KEYS, "keys")
        guard keySets.indices.contains(number - 1) else { throw HostError("no such key set") }
        var options = JWTOptions()
        if !a.isNil(2) { options = try Self.jwtOptions(a.any(2)) }
        moonraft_vm_charge(vm, UInt64(200 + token.count))
        do {
            let claims = try keySets[number - 1].verify(token, options, now: plugin.environment.clock.now())
            returnValue(vm, claims.luaValue)
        } catch {
            moonraft_vm_return_nil(vm)
            returnText(vm, error.message)
        }
    }

    private static func jwtOptions(_ value: LuaValue) throws(HostError) -> JWTOptions {
        guard let pairs = value.pairs else { throw HostError("options must be a table") }
        var options = JWTOptions()
        for pair in pairs {
            switch pair.key.string {
            case "issuer": options.issuer = pair.value.string
            case "audience": options.audience = pair.value.string
            case "leeway": options.leeway = pair.value.number ?? 60
            case "max_age": options.maximumAge = pair.value.number
            case "require":
                guard let names = pair.value.items else { throw HostError("require must be an array of claim names") }
                options.required = names.compactMap(\.string)
            default: throw HostError("unknown option \(pair.key.described)")
            }
        }
        return options
    }

    /// Verifies on worker VMs only: at cost 10 a check takes some 50 ms, which no event loop may spend.
    func verifyBcrypt(_ password: [UInt8], _ hash: String, _ vm: OpaquePointer) throws(HostError) {
        guard role == .worker else { throw HostError("bcrypt is not available on an event loop") }
        bcryptCalls += 1
        guard bcryptCalls <= Self.maximumBcryptCalls else {
            throw HostError("more than \(Self.maximumBcryptCalls) bcrypt checks in a call")
        }
        let parts = hash.split(separator: "$", omittingEmptySubsequences: false)
        guard parts.count == 4, hash.utf8.count == 60, let cost = Int(parts[2]) else {
            throw HostError("the hash is not a bcrypt hash")
        }
        guard cost <= Self.maximumBcryptCost else {
            throw HostError("the hash has cost \(cost); the highest that is checked is \(Self.maximumBcryptCost)")
        }
        // A password with a zero byte matches nothing: bcrypt would stop reading there.
        guard !password.contains(0) else {
            moonraft_vm_return_boolean(vm, 0)
            return
        }
        let start = moonraft_monotonic_nanoseconds()
        let result = password.withUnsafeBytes { moonraft_bcrypt_verify($0.baseAddress, $0.count, hash) }
        moonraft_vm_extend(vm, moonraft_monotonic_nanoseconds() &- start)
        guard result >= 0 else { throw HostError("the hash is not a bcrypt hash") }
        moonraft_vm_return_boolean(vm, result == 1 ? 1 : 0)
    }
}
