import Crypto
import CryptoExtras
import Foundation

// Verification of JSON web tokens (RFC 7515, 7517, 7518, 7519, 8037): synchronous, so that it can run inside a hook.
//
// Rules against the known attacks: the algorithm is taken from the key's type and the configured list, the header must
// agree; `none` does not exist here; a public key is never an HMAC secret, since key material has a type; critical
// header extensions are refused; everything is bounded.

/// The signature algorithms that are accepted.
package enum JWTAlgorithm: String, CaseIterable, Sendable {
    case rs256 = "RS256"
    case rs384 = "RS384"
    case rs512 = "RS512"
    case ps256 = "PS256"
    case ps384 = "PS384"
    case ps512 = "PS512"
    case es256 = "ES256"
    case es384 = "ES384"
    case es512 = "ES512"
    case edDSA = "EdDSA"
    case hs256 = "HS256"
    case hs384 = "HS384"
    case hs512 = "HS512"

    var isSymmetric: Bool { self == .hs256 || self == .hs384 || self == .hs512 }
}

/// Why a key set does not load or a token is refused. Texts hold nothing secret.
package struct JWTError: Error, Equatable, Sendable {
    package let message: String
    init(_ message: String) { self.message = message }
}

/// What a token must satisfy besides its signature.
package struct JWTOptions: Sendable {
    package var issuer: String?
    package var audience: String?
    /// Seconds by which clocks may differ.
    package var leeway = 60.0
    /// Seconds since `iat`.
    package var maximumAge: Double?
    package var required = ["exp"]
    package init() {}
}

/// Key sets by file and algorithms, so that the VMs of a binding parse a file once.
struct KeySetCache {
    private var sets: [String: JWTKeySet] = [:]

    mutating func load(_ path: String, _ algorithms: Set<JWTAlgorithm>?) throws(JWTError) -> JWTKeySet {
        let names = algorithms.map { $0.map(\.rawValue).sorted().joined(separator: ",") } ?? "*"
        let key = "\(names) \(path)"
        if let set = sets[key] { return set }
        let bytes: [UInt8]
        do {
            bytes = try FileReading.read(path, maximum: 1 << 20, followLinks: true)
        } catch {
            throw JWTError("\(path): \(error.message)")
        }
        let set = try JWTKeySet(file: bytes, algorithms: algorithms)
        sets[key] = set
        return set
    }
}

/// Keys to verify tokens with. Immutable.
package final class JWTKeySet: Sendable {
    enum Material: Sendable {
        case rsa(_RSA.Signing.PublicKey)
        case p256(P256.Signing.PublicKey)
        case p384(P384.Signing.PublicKey)
        case p521(P521.Signing.PublicKey)
        case ed25519(Curve25519.Signing.PublicKey)
        case secret([UInt8])
    }

    struct Key: Sendable {
        let id: String?
        /// The only algorithm this key is for, when its set says so.
        let algorithm: JWTAlgorithm?
        let material: Material

        func fits(_ algorithm: JWTAlgorithm) -> Bool {
            if let only = self.algorithm, only != algorithm { return false }
            return switch (material, algorithm) {
            case (.rsa, .rs256), (.rsa, .rs384), (.rsa, .rs512), (.rsa, .ps256), (.rsa, .ps384), (.rsa, .ps512): true
            case (.p256, .es256), (.p384, .es384), (.p521, .es512), (.ed25519, .edDSA): true
            case (.secret(let bytes), .hs256): bytes.count >= 16
            case (.secret(let bytes), .hs384), (.secret(let bytes), .hs512): bytes.count >= 16
            default: false
            }
        }
    }

    package static let maximumKeys = 64
    package static let maximumTokenBytes = 16 << 10
    static let minimumRSABits = 2048

    let keys: [Key]
    /// Nil: every asymmetric algorithm that fits the key.
    private let algorithms: Set<JWTAlgorithm>?

    private init(keys: [Key], algorithms: Set<JWTAlgorithm>?) throws(JWTError) {
        guard !keys.isEmpty else { throw JWTError("the key set has no usable key") }
        guard keys.count <= Self.maximumKeys else { throw JWTError("more than \(Self.maximumKeys) keys") }
        self.keys = keys
        self.algorithms = algorithms
    }

    /// A shared secret for HS256, HS384, HS512; the algorithms must be listed.
    package convenience init(secret: [UInt8], algorithms: Set<JWTAlgorithm>?) throws(JWTError) {
        guard let algorithms, !algorithms.isEmpty, algorithms.allSatisfy(\.isSymmetric) else {
            throw JWTError("a secret needs algorithms = { \"HS256\" } or another HS algorithm, and no others")
        }
        guard secret.count >= 16 else { throw JWTError("an HS secret has at least 16 bytes") }
        try self.init(keys: [Key(id: nil, algorithm: nil, material: .secret(secret))], algorithms: algorithms)
    }

    /// JWKS (JSON) or public keys in PEM.
    package convenience init(file bytes: [UInt8], algorithms: Set<JWTAlgorithm>?) throws(JWTError) {
        let first = bytes.first { $0 != 0x20 && $0 != 0x09 && $0 != 0x0A && $0 != 0x0D }
        if first == UInt8(ascii: "{") {
            try self.init(keys: try Self.jwks(bytes, algorithms), algorithms: algorithms)
        } else {
            if let algorithms, algorithms.contains(where: \.isSymmetric) {
                throw JWTError("public keys in PEM cannot be used with HS algorithms")
            }
            try self.init(keys: try Self.pem(String(decoding: bytes, as: UTF8.self)), algorithms: algorithms)
        }
    }

    // MARK: - Reading keys

    private static func pem(_ text: String) throws(JWTError) -> [Key] {
        var keys: [Key] = []
        var lines: [Substring] = []
        var inside = false
        for line in text.split(separator: "\n", omittingEmptySubsequences: true) {
            let line = line.hasSuffix("\r") ? line.dropLast() : line
            if line.hasPrefix("-----BEGIN ") {
                guard line == "-----BEGIN PUBLIC KEY-----" || line == "-----BEGIN RSA PUBLIC KEY-----" else {
                    throw JWTError("only public keys are read from PEM, found \(line)")
                }
                inside = true
                lines = []
            }
            if inside { lines.append(line) }
            if inside && line.hasPrefix("-----END ") {
                inside = false
                keys.append(
                    Key(id: nil, algorithm: nil, material: try material(pem: lines.joined(separator: "\n") + "\n")))
            }
        }
        guard !inside else { throw JWTError("a PEM block is not finished") }
        return keys
    }

    private static func material(pem: String) throws(JWTError) -> Material {
        if let key = try? P256.Signing.PublicKey(pemRepresentation: pem) { return .p256(key) }
        if let key = try? P384.Signing.PublicKey(pemRepresentation: pem) { return .p384(key) }
        if let key = try? P521.Signing.PublicKey(pemRepresentation: pem) { return .p521(key) }
        if let key = ed25519(pem: pem) { return .ed25519(key) }
        if let key = try? _RSA.Signing.PublicKey(unsafePEMRepresentation: pem) { return .rsa(try checked(key)) }
        throw JWTError("a PEM block is no RSA, P-256, P-384, P-521 or Ed25519 public key")
    }

    private static func checked(_ key: _RSA.Signing.PublicKey) throws(JWTError) -> _RSA.Signing.PublicKey {
        guard (minimumRSABits...16384).contains(key.keySizeInBits) else {
            throw JWTError("RSA keys have 2048 to 16384 bits, this one has \(key.keySizeInBits)")
        }
        return key
    }

    /// A SubjectPublicKeyInfo for Ed25519 is a fixed header and the 32 bytes (RFC 8410).
    private static func ed25519(pem: String) -> Curve25519.Signing.PublicKey? {
        let body = pem.split(separator: "\n").dropFirst().dropLast().joined()
        let header: [UInt8] = [0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00]
        guard let der = Data(base64Encoded: body), der.count == 44, der.starts(with: header) else { return nil }
        return try? Curve25519.Signing.PublicKey(rawRepresentation: der.dropFirst(12))
    }

    private static func jwks(_ bytes: [UInt8], _ algorithms: Set<JWTAlgorithm>?) throws(JWTError) -> [Key] {
        let json: JSONText
        do {
            json = try JSONText.parse(bytes)
        } catch {
            throw JWTError("the key set is not JSON: \(error.message) at byte \(error.offset + 1)")
        }
        guard let items = json["keys"]?.items else { throw JWTError("the key set has no array \"keys\"") }
        var keys: [Key] = []
        for (index, item) in items.enumerated() {
            let place = "key \(index + 1)"
            // Keys for encryption, and types this verifier does not know, may stand beside ours.
            if let use = item["use"]?.string, use != "sig" { continue }
            if let operations = item["key_ops"]?.items, !operations.contains(where: { $0.string == "verify" }) {
                continue
            }
            var algorithm: JWTAlgorithm?
            if let name = item["alg"]?.string {
                guard let known = JWTAlgorithm(rawValue: name) else { continue }
                algorithm = known
            }
            guard let material = try material(item, place, algorithms) else { continue }
            keys.append(Key(id: item["kid"]?.string, algorithm: algorithm, material: material))
        }
        return keys
    }

    private static func material(
        _ item: JSONText, _ place: String, _ algorithms: Set<JWTAlgorithm>?
    ) throws(JWTError) -> Material? {
        func field(_ name: String) throws(JWTError) -> [UInt8] {
            guard let text = item[name]?.string, let bytes = Base64URL.decode(text.utf8), !bytes.isEmpty else {
                throw JWTError("\(place): the field \"\(name)\" is missing or not base64url")
            }
            return bytes
        }
        func point() throws(JWTError) -> [UInt8] {
            let x = try field("x")
            return [4] + x + (try field("y"))
        }
        do {
            switch (item["kty"]?.string, item["crv"]?.string) {
            case ("RSA", _): return .rsa(try checked(try _RSA.Signing.PublicKey(n: try field("n"), e: try field("e"))))
            case ("EC", "P-256"): return .p256(try P256.Signing.PublicKey(x963Representation: try point()))
            case ("EC", "P-384"): return .p384(try P384.Signing.PublicKey(x963Representation: try point()))
            case ("EC", "P-521"): return .p521(try P521.Signing.PublicKey(x963Representation: try point()))
            case ("OKP", "Ed25519"):
                return .ed25519(try Curve25519.Signing.PublicKey(rawRepresentation: try field("x")))
            case ("oct", _):
                guard let algorithms, algorithms.contains(where: \.isSymmetric) else {
                    throw JWTError("\(place): an oct key needs its HS algorithm in algorithms")
                }
                let secret = try field("k")
                guard secret.count >= 16 else { throw JWTError("\(place): an HS secret has at least 16 bytes") }
                return .secret(secret)
            default: return nil
            }
        } catch let error as JWTError {
            throw error
        } catch {
            throw JWTError("\(place): not a valid key")
        }
    }

    // MARK: - Verifying

    /// Verifies a compact token and its claims; `now` in seconds since 1970.
    ///
    /// - Returns: the claims, a JSON object.
    /// - Throws: the first reason against the token.
    package func verify(_ token: [UInt8], _ options: JWTOptions, now: Double) throws(JWTError) -> JSONText {
        guard token.count <= Self.maximumTokenBytes else { throw JWTError("the token is too large") }
        let parts = token.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard parts.count == 3 else { throw JWTError("not a token of three parts") }
        guard let headerBytes = Base64URL.decode(parts[0]), let header = try? JSONText.parse(headerBytes),
            case .object = header
        else { throw JWTError("malformed header") }
        guard let name = header["alg"]?.string, let algorithm = JWTAlgorithm(rawValue: name) else {
            throw JWTError("the algorithm is not accepted")
        }
        if let algorithms {
            guard algorithms.contains(algorithm) else { throw JWTError("the algorithm is not accepted") }
        } else if algorithm.isSymmetric {
            throw JWTError("the algorithm is not accepted")
        }
        guard header["crit"] == nil else { throw JWTError("critical header fields are not supported") }
        guard header["b64"] == nil else { throw JWTError("unencoded payloads are not supported") }
        guard let signature = Base64URL.decode(parts[2]), !signature.isEmpty else {
            throw JWTError("malformed signature")
        }
        let signed = token[..<(token.count - parts[2].count - 1)]
        let keyID = header["kid"]?.string
        var candidates = keys.filter { $0.fits(algorithm) }
        if let keyID {
            let named = candidates.filter { $0.id == keyID }
            // Keys without an id (PEM, a lone secret) may verify any token.
            candidates = named.isEmpty ? candidates.filter { $0.id == nil } : named
        }
        guard !candidates.isEmpty else { throw JWTError("no key for this token") }
        guard candidates.prefix(8).contains(where: { Self.isValid(signature, algorithm, $0.material, signed) }) else {
            throw JWTError("the signature does not match")
        }
        guard let payload = Base64URL.decode(parts[1]), let claims = try? JSONText.parse(payload), case .object = claims
        else { throw JWTError("malformed claims") }
        try check(claims, options, now)
        return claims
    }

    private static func isValid(
        _ signature: [UInt8], _ algorithm: JWTAlgorithm, _ material: Material, _ signed: ArraySlice<UInt8>
    ) -> Bool {
        func rsa(_ key: _RSA.Signing.PublicKey, _ padding: _RSA.Signing.Padding) -> Bool {
            let signature = _RSA.Signing.RSASignature(rawRepresentation: signature)
            return switch algorithm {
            case .rs256, .ps256: key.isValidSignature(signature, for: SHA256.hash(data: signed), padding: padding)
            case .rs384, .ps384: key.isValidSignature(signature, for: SHA384.hash(data: signed), padding: padding)
            default: key.isValidSignature(signature, for: SHA512.hash(data: signed), padding: padding)
            }
        }
        switch (material, algorithm) {
        case (.rsa(let key), .rs256), (.rsa(let key), .rs384), (.rsa(let key), .rs512):
            return rsa(key, .insecurePKCS1v1_5)
        case (.rsa(let key), .ps256), (.rsa(let key), .ps384), (.rsa(let key), .ps512): return rsa(key, .PSS)
        case (.p256(let key), .es256):
            guard let signature = try? P256.Signing.ECDSASignature(rawRepresentation: signature) else { return false }
            return key.isValidSignature(signature, for: signed)
        case (.p384(let key), .es384):
            guard let signature = try? P384.Signing.ECDSASignature(rawRepresentation: signature) else { return false }
            return key.isValidSignature(signature, for: signed)
        case (.p521(let key), .es512):
            guard let signature = try? P521.Signing.ECDSASignature(rawRepresentation: signature) else { return false }
            return key.isValidSignature(signature, for: signed)
        case (.ed25519(let key), .edDSA): return key.isValidSignature(signature, for: signed)
        case (.secret(let key), .hs256):
            return HMAC<SHA256>.isValidAuthenticationCode(
                signature, authenticating: signed, using: SymmetricKey(data: key))
        case (.secret(let key), .hs384):
            return HMAC<SHA384>.isValidAuthenticationCode(
                signature, authenticating: signed, using: SymmetricKey(data: key))
        case (.secret(let key), .hs512):
            return HMAC<SHA512>.isValidAuthenticationCode(
                signature, authenticating: signed, using: SymmetricKey(data: key))
        default: return false
        }
    }

    private func check(_ claims: JSONText, _ options: JWTOptions, _ now: Double) throws(JWTError) {
        func time(_ name: String) throws(JWTError) -> Double? {
            guard let value = claims[name] else { return nil }
            guard let number = value.number else { throw JWTError("the claim \(name) is not a number") }
            return number
        }
        for name in options.required {
            if claims[name] == nil || claims[name] == .null { throw JWTError("the claim \(name) is missing") }
        }
        if let expires = try time("exp"), now >= expires + options.leeway { throw JWTError("the token has expired") }
        if let start = try time("nbf"), now + options.leeway < start { throw JWTError("the token is not valid yet") }
        let issued = try time("iat")
        if let issued, now + options.leeway < issued { throw JWTError("the token was issued in the future") }
        if let maximum = options.maximumAge {
            guard let issued else { throw JWTError("the claim iat is missing") }
            if now >= issued + maximum + options.leeway { throw JWTError("the token is too old") }
        }
        if let issuer = options.issuer, claims["iss"]?.string != issuer { throw JWTError("the issuer is not accepted") }
        if let audience = options.audience {
            let found = claims["aud"]?.string.map { [$0] } ?? claims["aud"]?.items?.compactMap(\.string) ?? []
            guard found.contains(audience) else { throw JWTError("the audience is not accepted") }
        }
    }
}
