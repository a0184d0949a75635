// Records on their way from a loop to the plugin thread.
//
// They are packed one behind the other, so that one core reads in order what another has written. Handing over the
// records' own objects was dearer: each is a dozen blocks of memory, which wandered between the caches of both cores
// for ever.

/// Records of one turn of a loop that nobody waits for, in order.
///
/// What they hold is bounded by who fills it: records larger than ``AuditEntryPool/keptBytes`` travel by themselves.
package struct AuditBatch: Sendable {
    private struct Item {
        /// Without its operations.
        let record: AuditRecord
        let operations: Int
    }

    /// An operation without its bytes, which stand in `bytes`: key, end of the range, value.
    private struct Operation {
        let kind: PluginOp.Kind
        let target: PluginOp.Target
        let result: PluginOp.Result
        let path: String
        let keyCount: Int
        let rangeEndCount: Int
        let valueCount: Int
        let lease: Int64
        let limit: Int64
        let revision: Int64
        let number: Int64
        let previousKV: Bool
        let ignoreValue: Bool
        let ignoreLease: Bool
        let keysOnly: Bool
        let countOnly: Bool
        let serializable: Bool
    }

    private var items: [Item] = []
    private var operations: [Operation] = []
    private var bytes: [UInt8] = []
    /// What the records count for in bounds of bytes.
    package private(set) var heldBytes = 0

    package init() {}

    /// Takes the room that a batch like `other` needs.
    package init(like other: AuditBatch) {
        items.reserveCapacity(other.items.count)
        operations.reserveCapacity(other.operations.count)
        bytes.reserveCapacity(other.bytes.count)
    }

    package var count: Int { items.count }

    // MARK: - Packing

    /// Adds a copy of the record; the entry can be used again.
    package mutating func append(_ entry: AuditEntry) {
        heldBytes += entry.bytes
        var ops: [PluginOp] = []
        swap(&ops, &entry.record.request.ops)
        ops.withUnsafeBufferPointer { ops in
            guard let first = ops.baseAddress else { return }
            for i in ops.indices { pack(first + i) }
        }
        items.append(Item(record: entry.record, operations: ops.count))
        swap(&ops, &entry.record.request.ops)
    }

    /// Takes the op where it lies: a copy would count references to each of its parts.
    private mutating func pack(_ op: UnsafePointer<PluginOp>) {
        bytes.append(contentsOf: op.pointee.key)
        bytes.append(contentsOf: op.pointee.rangeEnd)
        bytes.append(contentsOf: op.pointee.value)
        operations.append(
            Operation(
                kind: op.pointee.kind, target: op.pointee.target, result: op.pointee.result, path: op.pointee.path,
                keyCount: op.pointee.key.count, rangeEndCount: op.pointee.rangeEnd.count,
                valueCount: op.pointee.value.count, lease: op.pointee.lease, limit: op.pointee.limit,
                revision: op.pointee.revision, number: op.pointee.number, previousKV: op.pointee.previousKV,
                ignoreValue: op.pointee.ignoreValue, ignoreLease: op.pointee.ignoreLease,
                keysOnly: op.pointee.keysOnly, countOnly: op.pointee.countOnly,
                serializable: op.pointee.serializable))
    }

    // MARK: - Unpacking

    /// Makes `entry` each record in turn, in the memory that it has.
    package func forEach(into entry: AuditEntry, _ body: () -> Void) {
        var operation = 0
        var offset = 0
        bytes.withUnsafeBytes { bytes in
            for item in items {
                var ops: [PluginOp] = []
                swap(&ops, &entry.record.request.ops)
                if ops.count > item.operations { ops.removeLast(ops.count - item.operations) }
                while ops.count < item.operations { ops.append(PluginOp(kind: .put, key: [])) }
                ops.withUnsafeMutableBufferPointer { ops in
                    for i in ops.indices {
                        Self.unpack(operations[operation], bytes, &offset, into: &ops[i])
                        operation += 1
                    }
                }
                entry.record = item.record
                swap(&ops, &entry.record.request.ops)
                body()
            }
        }
    }

    private static func unpack(
        _ packed: Operation, _ bytes: UnsafeRawBufferPointer, _ offset: inout Int, into op: inout PluginOp
    ) {
        func take(_ count: Int) -> UnsafeRawBufferPointer {
            defer { offset += count }
            return UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
        }
        let key = take(packed.keyCount)
        let rangeEnd = take(packed.rangeEndCount)
        op.become(packed.kind, key: key, value: take(packed.valueCount))
        if packed.rangeEndCount > 0 { op.rangeEnd = Array(rangeEnd) }
        if !packed.path.isEmpty { op.path = packed.path }
        (op.lease, op.limit, op.revision, op.number) = (packed.lease, packed.limit, packed.revision, packed.number)
        (op.previousKV, op.ignoreValue, op.ignoreLease) = (packed.previousKV, packed.ignoreValue, packed.ignoreLease)
        (op.keysOnly, op.countOnly, op.serializable) = (packed.keysOnly, packed.countOnly, packed.serializable)
        (op.target, op.result) = (packed.target, packed.result)
    }
}
