// Property: credentials reach plugins as secrets, identities are checked and cached within their bounds, and a token is
// accepted only with the right key, algorithm and claims. Method: hooks over fixed credentials; tokens of every algorithm
// made with fresh keys, then spoiled one by one.

import CSupport
import Foundation
import Testing

@testable import Plugins

@Suite struct AuthnTests {
    @Test func outcomes() throws {
        let fixture = try PluginFixture()
        let loop = try fixture.loop(
            hook: "authn",
            body: """
                calls = calls + 1
                if a.kind == 'certificate' then return { user = a.cn, roles = {'cert'} } end
                assert(tostring(a.token) == '<secret>' and b.address == '10.0.0.1:9' and a:metadata('x-id') == '7' and a:metadata('y') == nil)
                if a.token:equals('good') then return { user = 'u' .. calls, expires = time.now() + 100 } end
                if a.token:equals('nocache') then return { user = 'u' .. calls, cache = 0 } end
                if a.token:equals('bad') then return false, 'known to be bad' end
                if a.token:equals('table') then return { user = 1 } end
                if a.token:equals('expired') then return { user = 'x', expires = time.now() } end
                if a.token:equals('extra') then return { user = 'x', admin = true } end
                """, head: "local calls = 0")
        func ask(_ token: String) -> String {
            var request = AuthnRequest(.token(Array(token.utf8)))
            request.peer = "10.0.0.1:9"
            request.metadata = [("x-id", "7")]
            switch loop.authenticate(request) {
            case .identity(let identity): return identity.user
            case .pass: return "pass"
            case .deny(let text): return text
            case .needsWorker: return "worker"
            }
        }
        #expect(ask("good") == "u1" && ask("good") == "u1")
        fixture.clock.advance(61)
        #expect(ask("good") == "u2")
        #expect(ask("nocache") == "u3" && ask("nocache") == "u4")
        #expect(ask("bad") == "p: known to be bad" && ask("other") == "pass")
        #expect(
            ask("table").contains("user must be a string") && ask("expired").contains("already expired")
                && ask("extra").contains("unknown field admin"))
        var certificate = AuthnRequest(.certificate)
        certificate.commonName = "host-a"
        guard case .identity(let identity) = loop.authenticate(certificate) else { Issue.record("no identity"); return }
        #expect(identity.user == "host-a" && identity.roles == ["cert"] && identity.source == .certificate)
        if case .needsWorker = loop.authenticate(AuthnRequest(.password(user: "a", password: [1]))) {
        } else {
            Issue.record("password on a loop")
        }
    }

    @Test func failingAuthnRefuses() throws {
        let fixture = try PluginFixture()
        let loop = try fixture.loop(hook: "authn", body: "error('x')")
        if case .deny = loop.authenticate(AuthnRequest(.token([1]))) {} else { Issue.record("not refused") }
    }

    @Test func passwordsOnTheWorker() throws {
        var salt = [UInt8](repeating: 7, count: 16)
        var out = [CChar](repeating: 0, count: Int(MOONRAFT_BCRYPT_HASH_BYTES))
        let password = Array("correct horse".utf8)
        #expect(moonraft_bcrypt_hash(password, password.count, 4, &salt, &out) == 0)
        let hash = String(decoding: out.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        let fixture = try PluginFixture()
        let loop = try fixture.loop(
            hook: "authn",
            body: """
                if a.user == 'twice' then for i = 1, 3 do a.password:verify_bcrypt(hash) end end
                if a.user == 'hash' then return a.password:sha256() end
                if a.user == 'costly' then a.password:verify_bcrypt((hash:gsub('%$04%$', '$31$'))) end
                if a.user == 'malformed' then a.password:verify_bcrypt('x') end
                if a.password:verify_bcrypt(hash) and bcrypt.verify(a.password, hash) then return { user = a.user } end
                return false, 'wrong password'
                """, capabilities: "\"bcrypt\"", head: "local hash = '\(hash)'")
        let worker = LoopPlugins(loop.set, role: .worker)
        func ask(_ user: String, _ password: String) -> String {
            switch worker.authenticate(AuthnRequest(.password(user: user, password: Array(password.utf8)))) {
            case .identity(let identity): identity.user
            case .deny(let text): text
            default: "pass"
            }
        }
        #expect(ask("ann", "correct horse") == "ann" && ask("ann", "wrong") == "p: wrong password")
        #expect(ask("ann", "correct horse\u{0}x") == "p: wrong password")
        #expect(
            ask("twice", "x").contains("more than 2 bcrypt checks")
                && ask("hash", "x").contains("a password has no sha256"))
        #expect(
            ask("costly", "x").contains("the highest that is checked is 14")
                && ask("malformed", "x").contains("not a bcrypt hash"))
        // On a loop bcrypt raises.
        let onLoop = try fixture.loop(
            hook: "authn", body: "return bcrypt.verify(a.token, '\(hash)')", capabilities: "\"bcrypt\"")
        if case .deny(let text) = onLoop.authenticate(AuthnRequest(.token([1]))) {
            #expect(text.contains("not available on an event loop"))
        } else {
            Issue.record("bcrypt ran")
        }
    }

    // MARK: - Tokens

    private static let now = 1_700_000_000.0
    private static let claims =
        "{\"sub\":\"ann\",\"iss\":\"me\",\"aud\":[\"x\",\"kv\"],\"exp\":1700000100,\"iat\":1699999900}"

    private func verify(_ keys: JWTKeySet, _ token: String, _ options: JWTOptions = JWTOptions(), now: Double = now)
        -> String
    {
        do {
            return try keys.verify(Array(token.utf8), options, now: now)["sub"]?.string ?? "?"
        } catch {
            return error.message
        }
    }

    private func keySet(_ keys: TestKeys, _ algorithms: Set<JWTAlgorithm>? = nil) throws -> JWTKeySet {
        try JWTKeySet(file: Array(keys.jwks.utf8), algorithms: algorithms)
    }

    @Test(arguments: JWTAlgorithm.allCases)
    func everyAlgorithm(_ algorithm: JWTAlgorithm) throws {
        let keys = TestKeys()
        try keys.add(id: "k", algorithm: algorithm)
        let set = try keySet(keys, algorithm.isSymmetric ? [algorithm] : nil)
        let header = "{\"alg\":\"\(algorithm.rawValue)\",\"kid\":\"k\"}"
        let token = try TestKeys.token(header: header, claims: Self.claims, key: keys.keys[0].key, algorithm: algorithm)
        #expect(verify(set, token) == "ann")
        // One bit in each part, and a cut.
        let bytes = Array(token.utf8)
        let parts = token.split(separator: ".")
        for position in [2, parts[0].count + 3, parts[0].count + parts[1].count + 10] {
            var spoiled = bytes
            spoiled[position] = spoiled[position] == UInt8(ascii: "A") ? UInt8(ascii: "B") : UInt8(ascii: "A")
            #expect(verify(set, String(decoding: spoiled, as: UTF8.self)) != "ann")
        }
        #expect(verify(set, String(token.dropLast(8))) != "ann")
        #expect(verify(set, parts[0] + "." + parts[1] + ".") == "malformed signature")
        // A fresh key of the same kind does not verify it.
        if !algorithm.rawValue.hasPrefix("RS") && !algorithm.rawValue.hasPrefix("PS") {
            let other = TestKeys()
            try other.add(id: "k", algorithm: algorithm)
            #expect(
                verify(try keySet(other, algorithm.isSymmetric ? [algorithm] : nil), token)
                    == "the signature does not match")
        }
    }

    /// RFC 7515 A.1 (HS256) and RFC 8037 A.4 (EdDSA).
    @Test func publishedVectors() throws {
        let key =
            "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow\"}]}"
        let token =
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        let set = try JWTKeySet(file: Array(key.utf8), algorithms: [.hs256])
        #expect(try set.verify(Array(token.utf8), JWTOptions(), now: 1_300_819_000)["iss"]?.string == "joe")
        #expect(verify(set, token) == "the token has expired")
        // The EdDSA vector signs a text that is no JSON: past the signature check, only the claims fail.
        let ed =
            "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}"
        let signed =
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
        #expect(verify(try JWTKeySet(file: Array(ed.utf8), algorithms: nil), signed) == "malformed claims")
    }

    @Test func knownAttacks() throws {
        let keys = TestKeys()
        try keys.add(id: "rsa", algorithm: .rs256)
        try keys.add(id: "ec", algorithm: .es256)
        let set = try keySet(keys)
        let payload = Base64URL.encode(Array(Self.claims.utf8))
        for none in ["none", "None", "nOnE", ""] {
            let header = Base64URL.encode(Array("{\"alg\":\"\(none)\"}".utf8))
            #expect(verify(set, "\(header).\(payload).") == "the algorithm is not accepted")
            #expect(verify(set, "\(header).\(payload).AAAA") == "the algorithm is not accepted")
        }
        // The public key as an HMAC secret.
        guard case .rsa(let key) = keys.keys[0].key else { return }
        for secret in [
            Array(key.publicKey.pemRepresentation.utf8), Array(key.publicKey.derRepresentation), Array(keys.jwks.utf8),
        ] {
            let forged = try TestKeys.token(
                header: "{\"alg\":\"HS256\",\"kid\":\"rsa\"}", claims: Self.claims, key: .secret(secret),
                algorithm: .hs256)
            #expect(verify(set, forged) == "the algorithm is not accepted")
            let mixed = try JWTKeySet(file: Array(keys.jwks.utf8), algorithms: [.rs256, .hs256])
            #expect(verify(mixed, forged) == "no key for this token")
        }
        #expect(throws: JWTError("public keys in PEM cannot be used with HS algorithms")) {
            try JWTKeySet(file: Array(key.publicKey.pemRepresentation.utf8), algorithms: [.hs256])
        }
        // RS key asked for PS, ES token with the key id of the RSA key, foreign key id.
        for header in [
            "{\"alg\":\"PS256\",\"kid\":\"rsa\"}", "{\"alg\":\"ES256\",\"kid\":\"rsa\"}",
            "{\"alg\":\"RS256\",\"kid\":\"other\"}",
        ] {
            let token = try TestKeys.token(
                header: header, claims: Self.claims, key: keys.keys[0].key, algorithm: .rs256)
            #expect(verify(set, token) == "no key for this token")
        }
        for extra in ["\"crit\":[\"exp\"]", "\"b64\":false"] {
            let token = try TestKeys.token(
                header: "{\"alg\":\"RS256\",\"kid\":\"rsa\",\(extra)}", claims: Self.claims, key: keys.keys[0].key,
                algorithm: .rs256)
            #expect(verify(set, token).hasSuffix("not supported"))
        }
        // An all-zero ECDSA signature, repeated members, size, garbage.
        let ec = Base64URL.encode(Array("{\"alg\":\"ES256\",\"kid\":\"ec\"}".utf8))
        #expect(
            verify(set, "\(ec).\(payload).\(Base64URL.encode([UInt8](repeating: 0, count: 64)))")
                == "the signature does not match")
        let twice = Base64URL.encode(Array("{\"alg\":\"RS256\",\"alg\":\"ES256\"}".utf8))
        #expect(verify(set, "\(twice).\(payload).AAAA") == "malformed header")
        #expect(verify(set, String(repeating: "a", count: 20_000)) == "the token is too large")
        for garbage in ["", ".", "..", "a.b", "a.b.c.d", "é.é.é", "{}.{}.{}"] { #expect(verify(set, garbage) != "ann") }
    }

    @Test func claims() throws {
        let keys = TestKeys()
        try keys.add(id: "k", algorithm: .edDSA)
        let set = try keySet(keys)
        func token(_ claims: String) throws -> String {
            try TestKeys.token(
                header: "{\"alg\":\"EdDSA\",\"kid\":\"k\"}", claims: claims, key: keys.keys[0].key, algorithm: .edDSA)
        }
        let good = try token(Self.claims)
        #expect(
            verify(set, good, now: 1_700_000_159) == "ann"
                && verify(set, good, now: 1_700_000_160) == "the token has expired")
        var strict = JWTOptions()
        (strict.issuer, strict.audience, strict.maximumAge, strict.leeway) = ("me", "kv", 100, 0)
        #expect(
            verify(set, good, strict, now: 1_699_999_999) == "ann"
                && verify(set, good, strict, now: 1_700_000_000) == "the token is too old")
        strict.maximumAge = nil
        strict.issuer = "you"
        #expect(verify(set, good, strict) == "the issuer is not accepted")
        (strict.issuer, strict.audience) = (nil, "other")
        #expect(verify(set, good, strict) == "the audience is not accepted")
        #expect(verify(set, try token("{\"sub\":\"ann\"}")) == "the claim exp is missing")
        #expect(verify(set, try token("{\"sub\":\"ann\",\"exp\":null}")) == "the claim exp is missing")
        #expect(verify(set, try token("{\"sub\":\"ann\",\"exp\":\"1800000000\"}")) == "the claim exp is not a number")
        #expect(verify(set, try token("{\"exp\":1800000000,\"nbf\":1700000061}")) == "the token is not valid yet")
        #expect(
            verify(set, try token("{\"exp\":1800000000,\"iat\":1700000061}")) == "the token was issued in the future")
        #expect(verify(set, try token("[1]")) == "malformed claims")
    }

    @Test func keySetsAreChecked() throws {
        func error(_ text: String, _ algorithms: Set<JWTAlgorithm>? = nil) -> String {
            do {
                _ = try JWTKeySet(file: Array(text.utf8), algorithms: algorithms)
                return "loaded"
            } catch { return error.message }
        }
        #expect(
            error("{}") == "the key set has no array \"keys\""
                && error("{\"keys\":[]}") == "the key set has no usable key")
        #expect(
            error("{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\"}]}")
                == "key 1: not a valid key")
        #expect(
            error("{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}]}").contains(
                "needs its HS algorithm"))
        #expect(error("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n").contains("only public keys"))
        #expect(error("hello") == "the key set has no usable key")
        #expect(throws: JWTError.self) { try JWTKeySet(secret: Array("short".utf8), algorithms: [.hs256]) }
        #expect(throws: JWTError.self) { try JWTKeySet(secret: [UInt8](repeating: 1, count: 32), algorithms: nil) }
        for algorithm in [JWTAlgorithm.rs256, .es256, .es384, .es512] {
            let key = try TestKeys.make(algorithm)
            let pem: String
            switch key {
            case .rsa(let key): pem = key.publicKey.pemRepresentation
            case .p256(let key): pem = key.publicKey.pemRepresentation
            case .p384(let key): pem = key.publicKey.pemRepresentation
            case .p521(let key): pem = key.publicKey.pemRepresentation
            default: continue
            }
            let set = try JWTKeySet(file: Array(pem.utf8), algorithms: nil)
            let token = try TestKeys.token(
                header: "{\"alg\":\"\(algorithm.rawValue)\"}", claims: Self.claims, key: key, algorithm: algorithm)
            #expect(verify(set, token) == "ann")
        }
        guard case .ed25519(let key) = try TestKeys.make(.edDSA) else { return }
        let der: [UInt8] =
            [0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00]
            + Array(key.publicKey.rawRepresentation)
        let pem = "-----BEGIN PUBLIC KEY-----\n\(Base64.encode(der))\n-----END PUBLIC KEY-----\n"
        let token = try TestKeys.token(
            header: "{\"alg\":\"EdDSA\"}", claims: Self.claims, key: .ed25519(key), algorithm: .edDSA)
        #expect(verify(try JWTKeySet(file: Array(pem.utf8), algorithms: nil), token) == "ann")
    }
}
