// What a request looks like to plugins: one flat list of operations with literal bytes. Transactions are flattened
// by the caller, who also folds changed operations back.

/// One operation of a request. Which fields mean something depends on `kind`, as in docs/plugin-api.md 5.2.
package struct PluginOp: Sendable, Equatable {
    package enum Kind: UInt8, Sendable { case put, range, deleteRange, compare, watch }
    package enum Target: UInt8, Sendable { case version, create, mod, value, lease }
    /// The order is that of etcd's CompareResult.
    package enum Result: UInt8, Sendable { case equal, greater, less, notEqual }

    package var kind: Kind
    /// Where the operation stands in a transaction (`success.0`); empty outside one.
    package var path = ""
    package var key: [UInt8]
    /// Empty for a single key; one zero byte for every key from `key` on.
    package var rangeEnd: [UInt8] = []
    /// Put: the value. Compare on value: the value compared with.
    package var value: [UInt8] = []
    package var lease: Int64 = 0
    package var limit: Int64 = 0
    package var revision: Int64 = 0
    package var previousKV = false
    package var ignoreValue = false
    package var ignoreLease = false
    package var keysOnly = false
    package var countOnly = false
    package var serializable = false
    package var target = Target.version
    package var result = Result.equal
    /// Compare: the number compared with.
    package var number: Int64 = 0

    package init(kind: Kind, key: [UInt8], rangeEnd: [UInt8] = [], value: [UInt8] = []) {
        self.kind = kind
        self.key = key
        self.rangeEnd = rangeEnd
        self.value = value
    }

    /// Makes it another operation of one key; nothing stays of the one before but memory. Field by field: a whole new
    /// value in place of the old one is copied, with its references counted.
    package mutating func become(_ kind: Kind, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) {
        self.kind = kind
        if !path.isEmpty { path = "" }
        self.key.removeAll(keepingCapacity: true)
        self.key.append(contentsOf: key)
        if !rangeEnd.isEmpty { rangeEnd = [] }
        self.value.removeAll(keepingCapacity: true)
        self.value.append(contentsOf: value)
        (lease, limit, revision, number) = (0, 0, 0, 0)
        (previousKV, ignoreValue, ignoreLease) = (false, false, false)
        (keysOnly, countOnly, serializable) = (false, false, false)
        (target, result) = (.version, .equal)
    }

    package var isWrite: Bool { kind == .put || kind == .deleteRange }
    var hasValue: Bool { kind == .put || (kind == .compare && target == .value) }
}

/// A request as hooks see it.
package struct PluginRequest: Sendable, Equatable {
    package var rpc: RPCKind
    package var ops: [PluginOp]
    /// lease_grant: seconds.
    package var ttl: Int64 = 0
    /// Lease calls: the lease.
    package var lease: Int64 = 0
    /// lease_revoke: how many keys hang on the lease. They then are the ops, as deletes; nil, and no ops, when the
    /// lease is not known or has more than ``maximumLeaseKeys``.
    package private(set) var leaseKeys: Int?
    package static let maximumLeaseKeys = 1_000
    /// Compact: the revision.
    package var revision: Int64 = 0
    /// user_admin, role_admin: the user or role; member_add, member_update: the
    /// first peer URL; member_remove, member_promote, move_leader: the member's id in hexadecimal.
    package var name = ""

    package init(rpc: RPCKind, ops: [PluginOp] = []) {
        self.rpc = rpc
        self.ops = ops
    }

    /// Makes it another request of as many operations, which the caller fills anew.
    package mutating func become(_ rpc: RPCKind) {
        self.rpc = rpc
        (ttl, lease, revision) = (0, 0, 0)
        leaseKeys = nil
        if !name.isEmpty { name = "" }
    }

    /// Shows what a revocation deletes.
    package mutating func attach(leaseKeys keys: [[UInt8]]) {
        guard keys.count <= Self.maximumLeaseKeys else { return }
        leaseKeys = keys.count
        ops = keys.map { PluginOp(kind: .deleteRange, key: $0) }
    }

    /// Whether it deletes keys that are not told: a revocation whose lease is not known or has too many.
    package var touchesUnknownKeys: Bool { rpc == .leaseRevoke && leaseKeys == nil }

    /// Makes it again what the client asked for.
    package mutating func detachLeaseKeys() {
        guard leaseKeys != nil else { return }
        leaseKeys = nil
        ops = []
    }

    package var isWrite: Bool { rpc.changesState || (rpc == .txn && ops.contains { $0.isWrite }) }
}

/// Who asks. Made once for a connection or token and used for all its requests: hooks compare it by reference
/// to skip copying it again.
package final class PluginIdentity: Sendable {
    package enum Source: String, Sendable { case none, core, plugin, certificate, local }

    /// Empty when anonymous.
    package let user: String
    package let roles: [String]
    /// Common name of the client's certificate, or empty.
    package let commonName: String
    /// `ip:port` of the client.
    package let peer: String
    package let source: Source
    /// Seconds since 1970 after which the identity must not be used; nil for no end.
    package let expires: Double?

    package init(
        user: String = "", roles: [String] = [], commonName: String = "", peer: String = "",
        source: Source = .none, expires: Double? = nil
    ) {
        self.user = user
        self.roles = roles
        self.commonName = commonName
        self.peer = peer
        self.source = source
        self.expires = expires
    }
}

/// A credential to be checked by the `authn` hooks.
package struct AuthnRequest: Sendable {
    package enum Credential: Sendable {
        case password(user: String, password: [UInt8])
        case token([UInt8])
        case certificate
    }

    package var credential: Credential
    /// Common name of the verified client certificate, or empty.
    package var commonName = ""
    package var peer = ""
    package var isTLS = false
    /// Request metadata with lower-case names; `authorization` and `token` are never shown to plugins.
    package var metadata: [(name: String, value: String)] = []

    package init(_ credential: Credential) { self.credential = credential }
}

/// What the `authn` hooks made of a credential.
package enum AuthnOutcome: Sendable {
    case identity(PluginIdentity)
    /// No plugin knows the credential.
    case pass
    /// A plugin refused it or failed; the text is for log and audit, not for the client.
    case deny(text: String)
    /// A password on an event loop: give it to the worker's ``LoopPlugins``.
    case needsWorker
}
