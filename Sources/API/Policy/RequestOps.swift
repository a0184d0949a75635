// Requests as plugins see them, and back.
//
// A transaction is flattened in the order of its bytes, each operation with the path to where it
// stands. When a plugin changed operations, the same walk over the same bytes puts the changed
// fields back, so nothing a plugin cannot see is lost.

import KVCodec
import Plugins

extension Method {
    /// The name under which plugins know this call.
    var pluginKind: RPCKind? {
        switch self {
        case .range, .rangeStream: .range
        case .put: .put
        case .deleteRange: .deleteRange
        case .txn: .txn
        case .compact: .compact
        case .watch: .watch
        case .leaseGrant: .leaseGrant
        case .leaseRevoke: .leaseRevoke
        case .leaseKeepAlive: .leaseKeepAlive
        case .leaseTimeToLive: .leaseTimeToLive
        case .leaseLeases: .leaseLeases
        case .alarm: .alarm
        case .status: .status
        case .defragment: .defragment
        case .hash: .hash
        case .hashKV: .hashKV
        case .moveLeader: .moveLeader
        case .snapshot: .snapshot
        case .memberAdd: .memberAdd
        case .memberRemove: .memberRemove
        case .memberUpdate: .memberUpdate
        case .memberPromote: .memberPromote
        case .memberList: .memberList
        case .authStatus: .authStatus
        case .authenticate: .authenticate
        default: nil
        }
    }
}

/// Builds plugin requests from messages and messages from changed requests.
enum RequestOps {
    /// Makes `request` the one of this message. What was in it before lends its memory only.
    static func fill(
        _ request: inout PluginRequest, _ method: Method, _ kind: RPCKind, _ message: UnsafeRawBufferPointer
    ) throws(DecodeError) {
        guard method == .put, request.ops.count == 1 else {
            request = try Self.request(method, kind, message)
            return
        }
        let put = try PutRequestView(message)
        request.become(kind)
        request.ops[0].become(.put, key: put.key, value: put.value)
        set(&request.ops[0], put)
    }

    static func request(
        _ method: Method, _ kind: RPCKind, _ message: UnsafeRawBufferPointer
    ) throws(DecodeError) -> PluginRequest {
        var request = PluginRequest(rpc: kind)
        switch method {
        case .put: request.ops = [op(try PutRequestView(message))]
        case .range, .rangeStream: request.ops = [op(try RangeRequestView(message))]
        case .deleteRange: request.ops = [op(try DeleteRangeRequestView(message))]
        case .txn: try flatten(message, path: "", into: &request.ops)
        case .compact: request.revision = try CompactionRequestView(message).revision
        case .watch: request.ops = [op(try WatchCreateRequest(message))]
        case .leaseGrant: (request.ttl, request.lease) = try LeaseNumbers.decode(message)
        case .leaseRevoke, .leaseKeepAlive, .leaseTimeToLive:
            request.lease = try LeaseNumbers.decode(message).0
        case .memberAdd: request.name = try firstText(message, field: 1)
        case .memberUpdate: request.name = try firstText(message, field: 2)
        case .memberRemove, .memberPromote, .moveLeader:
            let id = try LeaseNumbers.decode(message).0
            request.name = String(UInt64(bitPattern: id), radix: 16)
        default: break
        }
        return request
    }

    /// The first value of a repeated string; empty when there is none.
    private static func firstText(
        _ message: UnsafeRawBufferPointer, field: UInt32
    ) throws(DecodeError) -> String {
        var reader = ProtoReader(message)
        while let tag = try reader.next() {
            if tag.field == field { return String(decoding: try reader.slice(tag), as: UTF8.self) }
            try reader.skip(tag)
        }
        return ""
    }

    /// The message with the operations' fields as they are now.
    static func message(
        _ method: Method, _ request: PluginRequest, original: [UInt8]
    ) throws(DecodeError) -> [UInt8] {
        var writer = ByteWriter(capacity: original.count + 64)
        var failure: DecodeError?
        original.withUnsafeBytes { bytes in
            do throws(DecodeError) {
                var rest = request.ops[...]
                switch method {
                case .txn: try rewrite(bytes, &rest, into: &writer)
                case .put, .range, .rangeStream, .deleteRange:
                    try rewriteOne(method, bytes, &rest, into: &writer)
                default: writer.raw(bytes)
                }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return writer.bytes
    }

    // MARK: Single operations

    private static func op(_ put: PutRequestView) -> PluginOp {
        var op = PluginOp(kind: .put, key: put.key.array, value: put.value.array)
        set(&op, put)
        return op
    }

    private static func set(_ op: inout PluginOp, _ put: PutRequestView) {
        op.lease = put.lease
        op.previousKV = put.prevKV
        op.ignoreValue = put.ignoreValue
        op.ignoreLease = put.ignoreLease
    }

    private static func op(_ range: RangeRequestView) -> PluginOp {
        var op = PluginOp(
            kind: .range, key: range.key.array, rangeEnd: range.rangeEnd.array)
        op.limit = range.limit
        op.revision = range.revision
        op.keysOnly = range.keysOnly
        op.countOnly = range.countOnly
        op.serializable = range.serializable
        return op
    }

    private static func op(_ delete: DeleteRangeRequestView) -> PluginOp {
        var op = PluginOp(
            kind: .deleteRange, key: delete.key.array, rangeEnd: delete.rangeEnd.array)
        op.previousKV = delete.prevKV
        return op
    }

    private static func op(_ compare: CompareView) -> PluginOp {
        var op = PluginOp(
            kind: .compare, key: compare.key.array, rangeEnd: compare.rangeEnd.array,
            value: compare.value.array)
        op.target = PluginOp.Target(rawValue: UInt8(truncatingIfNeeded: compare.target)) ?? .version
        op.result = PluginOp.Result(rawValue: UInt8(truncatingIfNeeded: compare.result)) ?? .equal
        op.number = compare.number
        return op
    }

    /// The watcher's key as the hub will use it: empty means the first key.
    private static func op(_ watch: WatchCreateRequest) -> PluginOp {
        var op = PluginOp(
            kind: .watch, key: watch.key.isEmpty ? [0] : watch.key, rangeEnd: watch.rangeEnd)
        op.revision = watch.startRevision
        op.previousKV = watch.variant.withPrevious
        return op
    }

    // MARK: Transactions

    private static func flatten(
        _ message: UnsafeRawBufferPointer, path: String, depth: Int = 0, into ops: inout [PluginOp]
    ) throws(DecodeError) {
        if depth > maximumTxnNesting { throw .nestingTooDeep }
        var counts = (compare: 0, success: 0, failure: 0)
        var reader = ProtoReader(message)
        while let tag = try reader.next() {
            switch tag.field {
            case 1:
                var op = op(try CompareView(try reader.slice(tag)))
                op.path = "\(path)compare.\(counts.compare)"
                counts.compare += 1
                ops.append(op)
            case 2:
                let here = "\(path)success.\(counts.success)"
                counts.success += 1
                try flattenOp(try reader.slice(tag), path: here, depth: depth, into: &ops)
            case 3:
                let here = "\(path)failure.\(counts.failure)"
                counts.failure += 1
                try flattenOp(try reader.slice(tag), path: here, depth: depth, into: &ops)
            default: try reader.skip(tag)
            }
        }
    }

    private static func flattenOp(
        _ message: UnsafeRawBufferPointer, path: String, depth: Int, into ops: inout [PluginOp]
    ) throws(DecodeError) {
        guard let (method, inner) = try member(message) else { return }
        var op: PluginOp
        switch method {
        case .range: op = self.op(try RangeRequestView(inner))
        case .put: op = self.op(try PutRequestView(inner))
        case .deleteRange: op = self.op(try DeleteRangeRequestView(inner))
        default:
            return try flatten(inner, path: path + ".", depth: depth + 1, into: &ops)
        }
        op.path = path
        ops.append(op)
    }

    /// The operation of a RequestOp: the last member on the wire counts.
    private static func member(
        _ message: UnsafeRawBufferPointer
    ) throws(DecodeError) -> (Method, UnsafeRawBufferPointer)? {
        var found: (Method, UnsafeRawBufferPointer)?
        var reader = ProtoReader(message)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: found = (.range, try reader.slice(tag))
            case 2: found = (.put, try reader.slice(tag))
            case 3: found = (.deleteRange, try reader.slice(tag))
            case 4: found = (.txn, try reader.slice(tag))
            default: try reader.skip(tag)
            }
        }
        return found
    }

    private static func rewrite(
        _ message: UnsafeRawBufferPointer, _ ops: inout ArraySlice<PluginOp>,
        into writer: inout ByteWriter
    ) throws(DecodeError) {
        var reader = ProtoReader(message)
        while let tag = try reader.next() {
            switch tag.field {
            case 1:
                // Compares cannot be changed.
                _ = ops.popFirst()
                writer.message(1, try reader.slice(tag))
            case 2, 3:
                guard let (method, inner) = try member(try reader.slice(tag)) else { continue }
                var body = ByteWriter(capacity: inner.count + 32)
                if method == .txn {
                    try rewrite(inner, &ops, into: &body)
                } else {
                    try rewriteOne(method, inner, &ops, into: &body)
                }
                writer.nested(tag.field) { $0.message(Self.field(method), body.bytes) }
            default: try reader.skip(tag)
            }
        }
    }

    private static func field(_ method: Method) -> UInt32 {
        switch method {
        case .range: 1
        case .put: 2
        case .deleteRange: 3
        default: 4
        }
    }

    private static func rewriteOne(
        _ method: Method, _ message: UnsafeRawBufferPointer, _ ops: inout ArraySlice<PluginOp>,
        into writer: inout ByteWriter
    ) throws(DecodeError) {
        guard let op = ops.popFirst() else {
            preconditionFailure("a plugin request lost operations")
        }
        switch method {
        case .put:
            let original = try PutRequestView(message)
            writer.data(1, op.key)
            writer.data(2, op.value)
            writer.int64(3, op.lease)
            writer.bool(4, original.prevKV)
            writer.bool(5, original.ignoreValue)
            writer.bool(6, original.ignoreLease)
        case .deleteRange:
            writer.data(1, op.key)
            writer.data(2, op.rangeEnd)
            writer.bool(3, op.previousKV)
        default:
            let original = try RangeRequestView(message)
            writer.data(1, op.key)
            writer.data(2, op.rangeEnd)
            writer.int64(3, op.limit)
            writer.int64(4, original.revision)
            writer.int64(5, Int64(original.sortOrder))
            writer.int64(6, Int64(original.sortTarget))
            writer.bool(7, original.serializable)
            writer.bool(8, original.keysOnly)
            writer.bool(9, original.countOnly)
            writer.int64(10, original.minModRevision)
            writer.int64(11, original.maxModRevision)
            writer.int64(12, original.minCreateRevision)
            writer.int64(13, original.maxCreateRevision)
        }
    }
}
