import CLua

/// What the hooks of one loop look at right now: the request, who asks, and what they have said so far.
/// Confined with its ``LoopPlugins`` or ``EventsPlugins``; the VMs' host functions reach it through their VM.
final class HookScope {
    let view: OpaquePointer
    let environment: PluginEnvironment
    weak var storeView: (any PluginStoreView)?

    var request = PluginRequest(rpc: .range)
    /// Valid during `authn` only.
    var password: [UInt8]?
    var token: [UInt8]?
    var metadata: [(name: String, value: String)] = []
    /// Valid during `audit` only.
    var record: AuditEntry?

    /// Collected by req:warn and req:annotate of the hook that runs.
    var warnings: [String] = []
    var annotations: [(name: String, value: String)] = []
    /// Set by the setters of ops.
    var isChanged = false
    /// Keys that the setters of ops took from the hook that runs. The view keeps each until the request is over, even
    /// when the next call replaces it.
    var keyBytesSet = 0
    static let maximumKeyBytesSet = 16 << 20

    private var viewIdentity: PluginIdentity?
    private(set) var identity = PluginIdentity()

    init(environment: PluginEnvironment, storeView: (any PluginStoreView)?) {
        guard let view = moonraft_view_create() else { preconditionFailure("out of memory for a view") }
        self.view = view
        self.environment = environment
        self.storeView = storeView
    }

    deinit { moonraft_view_destroy(view) }

    /// Makes the view show `request` and `identity`. The identity of the request before is not copied again.
    func show(_ identity: PluginIdentity) {
        if viewIdentity === identity {
            moonraft_view_rewind(view)
        } else {
            moonraft_view_reset(view)
            setText(MOONRAFT_TEXT_USER, identity.user)
            setText(MOONRAFT_TEXT_CN, identity.commonName)
            setText(MOONRAFT_TEXT_PEER, identity.peer)
            setText(MOONRAFT_TEXT_SOURCE, identity.source.rawValue)
            moonraft_view_clear_roles(view)
            for var role in identity.roles {
                role.withUTF8 { moonraft_view_add_role(view, $0.baseAddress, $0.count) }
            }
            moonraft_view_mark(view)
            viewIdentity = identity
        }
        self.identity = identity
        showRequest()
    }

    private func showRequest() {
        let name = request.rpc.name
        moonraft_view_set_text(view, MOONRAFT_TEXT_RPC.int32, name.utf8Start, name.utf8CodeUnitCount)
        if !request.name.isEmpty { setText(MOONRAFT_TEXT_NAME, request.name) }
        set(MOONRAFT_INT_WRITE, request.isWrite ? 1 : 0)
        if request.revision != 0 { set(MOONRAFT_INT_REVISION, request.revision) }
        if request.ttl != 0 { set(MOONRAFT_INT_TTL, request.ttl) }
        if request.lease != 0 { set(MOONRAFT_INT_LEASE, request.lease) }
        if let keys = request.leaseKeys { set(MOONRAFT_INT_LEASE_KEYS, Int64(keys) + 1) }
        showOps()
    }

    func showOps() {
        moonraft_view_clear_ops(view)
        request.ops.withUnsafeBufferPointer { ops in
            guard let first = ops.baseAddress else { return }
            for i in ops.indices { show(first + i) }
        }
        if !request.ops.isEmpty && request.ops[0].kind == .range {
            set(MOONRAFT_INT_REVISION, request.ops[0].revision)
        }
    }

    /// Takes the op where it lies: a copy would count references to each of its parts.
    private func show(_ op: UnsafePointer<PluginOp>) {
        var header = Self.header(op)
        op.pointee.key.withUnsafeBufferPointer { key in
            op.pointee.rangeEnd.withUnsafeBufferPointer { end in
                if op.pointee.path.isEmpty {
                    return moonraft_view_add_op(
                        view, &header, nil, 0, key.baseAddress, key.count, end.baseAddress, end.count)
                }
                var path = op.pointee.path
                path.withUTF8 { path in
                    moonraft_view_add_op(
                        view, &header, path.baseAddress, path.count, key.baseAddress, key.count, end.baseAddress,
                        end.count)
                }
            }
        }
    }

    /// Shows one changed op.
    func updateOp(_ index: Int) {
        let op = request.ops[index]
        var header = withUnsafePointer(to: op) { Self.header($0) }
        op.key.withUnsafeBufferPointer { key in
            op.rangeEnd.withUnsafeBufferPointer { end in
                moonraft_view_update_op(
                    view, Int32(index), &header, key.baseAddress, key.count, end.baseAddress, end.count)
            }
        }
    }

    private static func header(_ op: UnsafePointer<PluginOp>) -> moonraft_op {
        let kind = op.pointee.kind
        let target = op.pointee.target
        var flags = 0
        if op.pointee.previousKV { flags |= MOONRAFT_FLAG_PREV_KV }
        if op.pointee.ignoreValue { flags |= MOONRAFT_FLAG_IGNORE_VALUE }
        if op.pointee.ignoreLease { flags |= MOONRAFT_FLAG_IGNORE_LEASE }
        if op.pointee.keysOnly { flags |= MOONRAFT_FLAG_KEYS_ONLY }
        if op.pointee.countOnly { flags |= MOONRAFT_FLAG_COUNT_ONLY }
        if op.pointee.serializable { flags |= MOONRAFT_FLAG_SERIALIZABLE }
        if kind == .put || (kind == .compare && target == .value) { flags |= MOONRAFT_FLAG_HAS_VALUE }
        return moonraft_op(
            kind: kind.rawValue, target: target.rawValue, result: op.pointee.result.rawValue, flags: UInt8(flags),
            value_size: UInt64(op.pointee.value.count), lease: op.pointee.lease, limit: op.pointee.limit,
            revision: op.pointee.revision, number: op.pointee.number)
    }

    func setText(_ field: Int, _ text: String) {
        var text = text
        text.withUTF8 { moonraft_view_set_text(view, field.int32, $0.baseAddress, $0.count) }
    }

    func set(_ field: Int, _ value: Int64) { moonraft_view_set_integer(view, field.int32, value) }

    func clearNotes() {
        keyBytesSet = 0
        if !warnings.isEmpty { warnings.removeAll() }
        if !annotations.isEmpty { annotations.removeAll() }
    }

    /// Forgets the view's identity: the next request copies it again. Needed when other code set the view.
    func forgetIdentity() { viewIdentity = nil }
}
