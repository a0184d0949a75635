import KVCodec

/// One change before it is encoded as an event. `record` aliases the record buffer or a reader and
/// must be alive when the batch is built.
struct Change {
    var record: UnsafeRawBufferPointer
    var key: UnsafeRawBufferPointer
    var isDelete: Bool
    var created: Bool
    var lease: Int64
    var previous: Revision?
}

/// Encodes the changes of one revision: sizes first, then one allocation and one copy of each record.
enum EventBatchBuilder {
    private static let eventTag: UInt8 = 11 << 3 | 2
    private static let typeTag: UInt8 = 1 << 3
    private static let recordTag: UInt8 = 2 << 3 | 2
    private static let modRevisionField: UInt8 = 3

    /// Sizes of one event: the KeyValue, the Event message, the whole field.
    private static func sizes(
        _ change: Change, _ revision: Int64
    ) -> (record: Int, event: Int, field: Int) {
        let record =
            change.isDelete
            ? dataFieldSize(change.key.count) &+ int64FieldSize(revision) : change.record.count
        let event = (change.isDelete ? 2 : 0) &+ 1 &+ varintSize(UInt64(record)) &+ record
        return (record, event, 1 &+ varintSize(UInt64(event)) &+ event)
    }

    static func build(
        revision: Int64, reason: EventReason, changes: UnsafeBufferPointer<Change>
    ) -> EventBatch {
        var total = 0
        for change in changes { total &+= sizes(change, revision).field }
        var events: [EventRecord] = []
        events.reserveCapacity(changes.count)
        let bytes = [UInt8](unsafeUninitializedCapacity: total) { target, initialized in
            guard let base = UnsafeMutableRawPointer(target.baseAddress) else { return }
            var cursor = RawCursor(base)
            for change in changes {
                events.append(encode(change, revision, base, &cursor))
            }
            initialized = cursor.pointer - base
            precondition(initialized == total, "events took \(initialized) of \(total) bytes")
        }
        return EventBatch(revision: revision, reason: reason, bytes: bytes, events: events)
    }

    private static func encode(
        _ change: Change, _ revision: Int64, _ base: UnsafeMutableRawPointer,
        _ cursor: inout RawCursor
    ) -> EventRecord {
        let size = sizes(change, revision)
        let start = cursor.pointer - base
        cursor.byte(eventTag)
        cursor.varint(UInt64(size.event))
        if change.isDelete {
            cursor.byte(typeTag)
            cursor.byte(1)
        }
        cursor.byte(recordTag)
        cursor.varint(UInt64(size.record))
        let record = cursor.pointer - base
        if change.isDelete {
            cursor.data(1, change.key)
            cursor.int64(modRevisionField, revision)
        } else if let source = change.record.baseAddress {
            cursor.pointer.copyMemory(from: source, byteCount: change.record.count)
            cursor.pointer += change.record.count
        }
        let end = cursor.pointer - base
        let keyStart = record &+ 1 &+ varintSize(UInt64(change.key.count))
        return EventRecord(
            isDelete: change.isDelete, created: change.created, lease: change.lease,
            previous: change.previous, field: start..<end,
            key: change.key.isEmpty ? record..<record : keyStart..<(keyStart &+ change.key.count),
            record: record..<end)
    }
}
