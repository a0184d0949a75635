// The stored record: one encoding from disk to wire.
//
// A record is an encoded `mvccpb.KeyValue` (1 key, 2 create_revision, 3 mod_revision, 4 version,
// 5 value, 6 lease). The same bytes lie in the backend, in range replies and in watch events, so
// reads splice them in without decoding. A tombstone is a KeyValue with key only (its revision is
// the backend key); watch events add mod_revision.

/// A decoded view of a record. Slices alias the record.
package struct KeyValueView {
    package var key = UnsafeRawBufferPointer(start: nil, count: 0)
    package var createRevision: Int64 = 0
    package var modRevision: Int64 = 0
    package var version: Int64 = 0
    package var value = UnsafeRawBufferPointer(start: nil, count: 0)
    package var lease: Int64 = 0

    @inlinable package init() {}

    /// Reads a record.
    ///
    /// - Throws: `DecodeError` when the bytes are not a KeyValue.
    @inlinable package init(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) {
        var reader = ProtoReader(bytes)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: key = try reader.slice(tag)
            case 2: createRevision = try reader.int64(tag)
            case 3: modRevision = try reader.int64(tag)
            case 4: version = try reader.int64(tag)
            case 5: value = try reader.slice(tag)
            case 6: lease = try reader.int64(tag)
            default: try reader.skip(tag)
            }
        }
    }

    /// Encoded size in bytes.
    @inlinable package var encodedSize: Int {
        dataFieldSize(key.count) &+ int64FieldSize(createRevision) &+ int64FieldSize(modRevision)
            &+ int64FieldSize(version) &+ dataFieldSize(value.count) &+ int64FieldSize(lease)
    }

    /// Writes the record in canonical field order.
    @inlinable package func encode(into writer: inout ByteWriter) {
        writer.data(1, key)
        writer.int64(2, createRevision)
        writer.int64(3, modRevision)
        writer.int64(4, version)
        writer.data(5, value)
        writer.int64(6, lease)
    }

    /// Writes the record at `target`, which must have room for `encodedSize` bytes.
    @inlinable package func encode(to target: UnsafeMutableRawPointer) {
        var cursor = RawCursor(target)
        cursor.data(1, key)
        cursor.int64(2, createRevision)
        cursor.int64(3, modRevision)
        cursor.int64(4, version)
        cursor.data(5, value)
        cursor.int64(6, lease)
    }
}

/// Writes fields with one-byte tags at a pointer; the caller has computed the size.
package struct RawCursor {
    package var pointer: UnsafeMutableRawPointer

    @inlinable package init(_ pointer: UnsafeMutableRawPointer) { self.pointer = pointer }

    @inlinable package mutating func byte(_ value: UInt8) {
        pointer.storeBytes(of: value, as: UInt8.self)
        pointer += 1
    }

    @inlinable package mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            byte(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest &>>= 7
        }
        byte(UInt8(truncatingIfNeeded: rest))
    }

    @inlinable package mutating func int64(_ field: UInt8, _ value: Int64) {
        if value == 0 { return }
        byte(field &<< 3)
        varint(UInt64(bitPattern: value))
    }

    @inlinable package mutating func data(_ field: UInt8, _ source: UnsafeRawBufferPointer) {
        guard let base = source.baseAddress, source.count > 0 else { return }
        byte(field &<< 3 | 2)
        varint(UInt64(source.count))
        pointer.copyMemory(from: base, byteCount: source.count)
        pointer += source.count
    }
}
