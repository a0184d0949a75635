import Crypto
import CryptoExtras
import Foundation

/// Signing keys made for a test, and tokens signed with them.
final class TestKeys {
    enum Key {
        case rsa(_RSA.Signing.PrivateKey)
        case p256(P256.Signing.PrivateKey)
        case p384(P384.Signing.PrivateKey)
        case p521(P521.Signing.PrivateKey)
        case ed25519(Curve25519.Signing.PrivateKey)
        case secret([UInt8])
    }

    private(set) var keys: [(id: String, algorithm: JWTAlgorithm, key: Key)] = []

    /// RSA keys take a tenth of a second to make; one serves all tests of a process.
    private static let sharedRSA = Result { try _RSA.Signing.PrivateKey(keySize: .bits2048) }

    static func make(_ algorithm: JWTAlgorithm) throws -> Key {
        switch algorithm {
        case .rs256, .rs384, .rs512, .ps256, .ps384, .ps512: .rsa(try sharedRSA.get())
        case .es256: .p256(P256.Signing.PrivateKey())
        case .es384: .p384(P384.Signing.PrivateKey())
        case .es512: .p521(P521.Signing.PrivateKey())
        case .edDSA: .ed25519(Curve25519.Signing.PrivateKey())
        case .hs256, .hs384, .hs512: .secret((0..<64).map { _ in UInt8.random(in: 0...255) })
        }
    }

    func add(id: String, algorithm: JWTAlgorithm) throws { keys.append((id, algorithm, try Self.make(algorithm))) }

    var jwks: String {
        let items = keys.map { entry in
            "{\"kid\":\"\(entry.id)\",\"alg\":\"\(entry.algorithm.rawValue)\",\(Self.jwk(entry.key))}"
        }
        return "{\"keys\":[\(items.joined(separator: ","))]}"
    }

    static func jwk(_ key: Key) -> String {
        func point(_ curve: String, _ x963: Data) -> String {
            let half = (x963.count - 1) / 2
            let x = Base64URL.encode(Array(x963.dropFirst().prefix(half)))
            let y = Base64URL.encode(Array(x963.suffix(half)))
            return "\"kty\":\"EC\",\"crv\":\"\(curve)\",\"x\":\"\(x)\",\"y\":\"\(y)\""
        }
        switch key {
        case .rsa(let key):
            guard let numbers = try? key.publicKey.getKeyPrimitives() else { return "\"kty\":\"RSA\"" }
            return "\"kty\":\"RSA\",\"n\":\"\(Base64URL.encode(Array(numbers.modulus)))\","
                + "\"e\":\"\(Base64URL.encode(Array(numbers.publicExponent)))\""
        case .p256(let key): return point("P-256", key.publicKey.x963Representation)
        case .p384(let key): return point("P-384", key.publicKey.x963Representation)
        case .p521(let key): return point("P-521", key.publicKey.x963Representation)
        case .ed25519(let key):
            return
                "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"\(Base64URL.encode(Array(key.publicKey.rawRepresentation)))\""
        case .secret(let bytes): return "\"kty\":\"oct\",\"k\":\"\(Base64URL.encode(bytes))\""
        }
    }

    /// A compact token. `algorithm` is what the header says; the key signs as that where it can.
    static func token(header: String, claims: String, key: Key, algorithm: JWTAlgorithm) throws -> String {
        let signed = Base64URL.encode(Array(header.utf8)) + "." + Base64URL.encode(Array(claims.utf8))
        let data = Data(signed.utf8)
        let signature: Data
        switch key {
        case .rsa(let key):
            let padding: _RSA.Signing.Padding = algorithm.rawValue.hasPrefix("PS") ? .PSS : .insecurePKCS1v1_5
            switch algorithm {
            case .rs384, .ps384:
                signature = try key.signature(for: SHA384.hash(data: data), padding: padding).rawRepresentation
            case .rs512, .ps512:
                signature = try key.signature(for: SHA512.hash(data: data), padding: padding).rawRepresentation
            default: signature = try key.signature(for: SHA256.hash(data: data), padding: padding).rawRepresentation
            }
        case .p256(let key): signature = try key.signature(for: data).rawRepresentation
        case .p384(let key): signature = try key.signature(for: data).rawRepresentation
        case .p521(let key): signature = try key.signature(for: data).rawRepresentation
        case .ed25519(let key): signature = try key.signature(for: data)
        case .secret(let bytes):
            let key = SymmetricKey(data: bytes)
            switch algorithm {
            case .hs384: signature = Data(HMAC<SHA384>.authenticationCode(for: data, using: key))
            case .hs512: signature = Data(HMAC<SHA512>.authenticationCode(for: data, using: key))
            default: signature = Data(HMAC<SHA256>.authenticationCode(for: data, using: key))
            }
        }
        return signed + "." + Base64URL.encode(Array(signature))
    }
}
