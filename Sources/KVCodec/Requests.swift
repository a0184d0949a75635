// Views of the KV request messages. Slices alias the message bytes and live no longer than them.
// Field numbers: etcd rpc.proto.

/// Deepest nesting of transactions that is decoded. etcd bounds the operations, not the depth;
/// a bound on depth keeps the decoder's stack bounded.
package let maximumTxnNesting = 64

/// `RangeRequest.SortOrder`, raw so that an unknown value reaches validation.
package enum SortOrder { package static let none: Int32 = 0, ascend: Int32 = 1, descend: Int32 = 2 }

/// `RangeRequest.SortTarget`, raw so that an unknown value reaches validation.
package enum SortTarget {
    package static let key: Int32 = 0, version: Int32 = 1, create: Int32 = 2, mod: Int32 = 3,
        value: Int32 = 4
}

/// `etcdserverpb.RangeRequest`.
package struct RangeRequestView {
    package var key = UnsafeRawBufferPointer(start: nil, count: 0)
    package var rangeEnd = UnsafeRawBufferPointer(start: nil, count: 0)
    package var limit: Int64 = 0
    package var revision: Int64 = 0
    package var sortOrder: Int32 = 0
    package var sortTarget: Int32 = 0
    package var serializable = false
    package var keysOnly = false
    package var countOnly = false
    package var minModRevision: Int64 = 0
    package var maxModRevision: Int64 = 0
    package var minCreateRevision: Int64 = 0
    package var maxCreateRevision: Int64 = 0

    package init() {}

    package init(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) {
        var reader = ProtoReader(bytes)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: key = try reader.slice(tag)
            case 2: rangeEnd = try reader.slice(tag)
            case 3: limit = try reader.int64(tag)
            case 4: revision = try reader.int64(tag)
            case 5: sortOrder = try reader.int32(tag)
            case 6: sortTarget = try reader.int32(tag)
            case 7: serializable = try reader.bool(tag)
            case 8: keysOnly = try reader.bool(tag)
            case 9: countOnly = try reader.bool(tag)
            case 10: minModRevision = try reader.int64(tag)
            case 11: maxModRevision = try reader.int64(tag)
            case 12: minCreateRevision = try reader.int64(tag)
            case 13: maxCreateRevision = try reader.int64(tag)
            default: try reader.skip(tag)
            }
        }
    }

    /// True when any revision filter is set.
    package var hasRevisionFilter: Bool {
        minModRevision != 0 || maxModRevision != 0 || minCreateRevision != 0
            || maxCreateRevision != 0
    }
}

/// `etcdserverpb.PutRequest`.
package struct PutRequestView {
    package var key = UnsafeRawBufferPointer(start: nil, count: 0)
    package var value = UnsafeRawBufferPointer(start: nil, count: 0)
    package var lease: Int64 = 0
    package var prevKV = false
    package var ignoreValue = false
    package var ignoreLease = false

    package init() {}

    package init(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) {
        var reader = ProtoReader(bytes)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: key = try reader.slice(tag)
            case 2: value = try reader.slice(tag)
            case 3: lease = try reader.int64(tag)
            case 4: prevKV = try reader.bool(tag)
            case 5: ignoreValue = try reader.bool(tag)
            case 6: ignoreLease = try reader.bool(tag)
            default: try reader.skip(tag)
            }
        }
    }

    /// Writes the request as a PutRequest message.
    package func encode(into writer: inout ByteWriter) {
        writer.data(1, key)
        writer.data(2, value)
        writer.int64(3, lease)
        writer.bool(4, prevKV)
        writer.bool(5, ignoreValue)
        writer.bool(6, ignoreLease)
    }
}

/// `etcdserverpb.DeleteRangeRequest`.
package struct DeleteRangeRequestView {
    package var key = UnsafeRawBufferPointer(start: nil, count: 0)
    package var rangeEnd = UnsafeRawBufferPointer(start: nil, count: 0)
    package var prevKV = false

    package init() {}

    package init(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) {
        var reader = ProtoReader(bytes)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: key = try reader.slice(tag)
            case 2: rangeEnd = try reader.slice(tag)
            case 3: prevKV = try reader.bool(tag)
            default: try reader.skip(tag)
            }
        }
    }
}

/// `Compare.CompareResult`.
package enum CompareResult {
    package static let equal: Int32 = 0, greater: Int32 = 1, less: Int32 = 2, notEqual: Int32 = 3
}

/// `Compare.CompareTarget`.
package enum CompareTarget {
    package static let version: Int32 = 0, create: Int32 = 1, mod: Int32 = 2, value: Int32 = 3,
        lease: Int32 = 4
}

/// `etcdserverpb.Compare`. The operand is the last `target_union` member on the wire, as protobuf
/// says of a oneof; `operandField` is its field number, 0 when none was sent.
package struct CompareView {
    package var result: Int32 = 0
    package var target: Int32 = 0
    package var key = UnsafeRawBufferPointer(start: nil, count: 0)
    package var rangeEnd = UnsafeRawBufferPointer(start: nil, count: 0)
    package var operandField: UInt32 = 0
    package var number: Int64 = 0
    package var value = UnsafeRawBufferPointer(start: nil, count: 0)

    package init() {}

    package init(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) {
        var reader = ProtoReader(bytes)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: result = try reader.int32(tag)
            case 2: target = try reader.int32(tag)
            case 3: key = try reader.slice(tag)
            case 4, 5, 6, 8:
                number = try reader.int64(tag)
                operandField = tag.field
                value = UnsafeRawBufferPointer(start: nil, count: 0)
            case 7:
                value = try reader.slice(tag)
                operandField = 7
                number = 0
            case 64: rangeEnd = try reader.slice(tag)
            default: try reader.skip(tag)
            }
        }
    }

    /// The number to compare with: the operand when it belongs to `field`, else 0, as etcd's
    /// generated getters answer.
    package func number(ofField field: UInt32) -> Int64 { operandField == field ? number : 0 }
}

/// `etcdserverpb.RequestOp`: the last member of the oneof on the wire; `.none` when nothing was set.
package indirect enum RequestOpView {
    case none
    case range(RangeRequestView)
    case put(PutRequestView)
    case deleteRange(DeleteRangeRequestView)
    case txn(TxnRequestView)

    package init(_ bytes: UnsafeRawBufferPointer, depth: Int) throws(DecodeError) {
        self = .none
        var reader = ProtoReader(bytes)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: self = .range(try RangeRequestView(try reader.slice(tag)))
            case 2: self = .put(try PutRequestView(try reader.slice(tag)))
            case 3: self = .deleteRange(try DeleteRangeRequestView(try reader.slice(tag)))
            case 4: self = .txn(try TxnRequestView(try reader.slice(tag), depth: depth &+ 1))
            default: try reader.skip(tag)
            }
        }
    }
}

/// `etcdserverpb.TxnRequest`.
package struct TxnRequestView {
    package var compare: [CompareView] = []
    package var success: [RequestOpView] = []
    package var failure: [RequestOpView] = []

    package init() {}

    package init(_ bytes: UnsafeRawBufferPointer, depth: Int = 0) throws(DecodeError) {
        if depth > maximumTxnNesting { throw .nestingTooDeep }
        var reader = ProtoReader(bytes)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: compare.append(try CompareView(try reader.slice(tag)))
            case 2: success.append(try RequestOpView(try reader.slice(tag), depth: depth))
            case 3: failure.append(try RequestOpView(try reader.slice(tag), depth: depth))
            default: try reader.skip(tag)
            }
        }
    }
}

/// `etcdserverpb.CompactionRequest`.
package struct CompactionRequestView {
    package var revision: Int64 = 0
    package var physical = false

    package init(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) {
        var reader = ProtoReader(bytes)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: revision = try reader.int64(tag)
            case 2: physical = try reader.bool(tag)
            default: try reader.skip(tag)
            }
        }
    }
}
