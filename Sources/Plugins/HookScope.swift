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
        showOps()
    }

    func showOps() {
        moonraft_view_clear_ops(view)
        request.ops.withUnsafeBufferPointer { ops in
            for i in ops.indices { show(ops[i]) }
        }
        if let first = request.ops.first, first.kind == .range { set(MOONRAFT_INT_REVISION, first.revision) }
    }

    private func show(_ op: PluginOp) {
        var header = Self.header(op)
        var path = op.path
        path.withUTF8 { path in
            op.key.withUnsafeBufferPointer { key in
                op.rangeEnd.withUnsafeBufferPointer { end in
                    moonraft_view_add_op(
                        view, &header, path.baseAddress, path.count, key.baseAddress, key.count, end.baseAddress, end.count)
                }
            }
        }
    }

    /// Shows one changed op.
    func updateOp(_ index: Int) {
        let op = request.ops[index]
        var header = Self.header(op)
        op.key.withUnsafeBufferPointer { key in
            op.rangeEnd.withUnsafeBufferPointer { end in
                moonraft_view_update_op(
                    view, Int32(index), &header, key.baseAddress, key.count, end.baseAddress, end.count)
            }
        }
    }

    private static func header(_ op: PluginOp) -> moonraft_op {
        var flags = 0
        if op.previousKV { flags |= MOONRAFT_FLAG_PREV_KV }
        if op.ignoreValue { flags |= MOONRAFT_FLAG_IGNORE_VALUE }
        if op.ignoreLease { flags |= MOONRAFT_FLAG_IGNORE_LEASE }
        if op.keysOnly { flags |= MOONRAFT_FLAG_KEYS_ONLY }
        if op.countOnly { flags |= MOONRAFT_FLAG_COUNT_ONLY }
        if op.serializable { flags |= MOONRAFT_FLAG_SERIALIZABLE }
        if op.hasValue { flags |= MOONRAFT_FLAG_HAS_VALUE }
        return moonraft_op(
            kind: op.kind.rawValue, target: op.target.rawValue, result: op.result.rawValue, flags: UInt8(flags),
            value_size: UInt64(op.value.count), lease: op.lease, limit: op.limit, revision: op.revision, number: op.number)
    }

    func setText(_ field: Int, _ text: String) {
        var text = text
        text.withUTF8 { moonraft_view_set_text(view, field.int32, $0.baseAddress, $0.count) }
    }

    func set(_ field: Int, _ value: Int64) { moonraft_view_set_integer(view, field.int32, value) }

    func clearNotes() {
        if !warnings.isEmpty { warnings.removeAll() }
        if !annotations.isEmpty { annotations.removeAll() }
    }

    /// Forgets the view's identity: the next request copies it again. Needed when other code set the view.
    func forgetIdentity() { viewIdentity = nil }
}
