// Tokens that Authenticate gave out: kept in memory, lost with a restart, as etcd's simple tokens.

import Node
import Plugins
import Synchronization

/// The tokens in use. Shared by all loops.
final class TokenTable: Sendable {
    private struct Entry {
        let identity: PluginIdentity
        var expires: UInt64
    }

    private let entries = Mutex<[[UInt8]: Entry]>([:])
    /// etcd's `auth-token-ttl`, refreshed on use.
    private static let lifetimeNanoseconds: UInt64 = 300_000_000_000
    /// Most tokens kept; at the bound the ones nearest their end go first.
    private static let maxTokens = 65_536

    /// A new token: sixteen letters, a dot, and the revision, in etcd's form.
    func issue(_ identity: PluginIdentity, revision: Int64) -> String {
        let letters = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".utf8)
        var token: [UInt8] = []
        var random = SystemRandomNumberGenerator()
        for _ in 0..<16 { token.append(letters[Int.random(in: 0..<letters.count, using: &random)]) }
        token += Array(".\(revision)".utf8)
        let now = monotonicNanoseconds()
        entries.withLock { entries in
            if entries.count >= Self.maxTokens { Self.shrink(&entries, now: now) }
            entries[token] = Entry(identity: identity, expires: now &+ Self.lifetimeNanoseconds)
        }
        return String(decoding: token, as: UTF8.self)
    }

    /// Whose token it is; its life is prolonged.
    func find(_ token: [UInt8]) -> PluginIdentity? {
        let now = monotonicNanoseconds()
        return entries.withLock { entries in
            guard let entry = entries[token] else { return nil }
            let hasEnded = entry.identity.expires.map {
                $0 <= Double(wallClockNanoseconds()) / 1e9
            }
            if entry.expires <= now || hasEnded == true {
                entries[token] = nil
                return nil
            }
            entries[token]?.expires = now &+ Self.lifetimeNanoseconds
            return entry.identity
        }
    }

    /// Forgets everything; a reload may have changed who may do what.
    func removeAll() { entries.withLock { $0.removeAll() } }

    private static func shrink(_ entries: inout [[UInt8]: Entry], now: UInt64) {
        entries = entries.filter { $0.value.expires > now }
        guard entries.count >= maxTokens else { return }
        let ends = entries.values.map(\.expires).sorted()
        let limit = ends[ends.count / 4]
        entries = entries.filter { $0.value.expires > limit }
    }
}
