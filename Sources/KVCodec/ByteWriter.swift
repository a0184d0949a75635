// Protocol-buffers wire writing into one growing array.

import Glibc

/// Appends protobuf fields to a byte array. Zero values are left out, as proto3 encoders do.
package struct ByteWriter: Sendable {
    package var bytes: [UInt8]

    @inlinable package init(capacity: Int = 64) {
        bytes = []
        bytes.reserveCapacity(capacity)
    }

    @inlinable package init(reusing bytes: consuming [UInt8]) {
        self.bytes = bytes
    }

    @inlinable package var count: Int { bytes.count }

    @inlinable package mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest &>>= 7
        }
        bytes.append(UInt8(truncatingIfNeeded: rest))
    }

    @inlinable package mutating func tag(_ field: UInt32, _ wireType: UInt8) {
        varint(UInt64(field) &<< 3 | UInt64(wireType))
    }

    @inlinable package mutating func int64(_ field: UInt32, _ value: Int64) {
        uint64(field, UInt64(bitPattern: value))
    }

    @inlinable package mutating func uint64(_ field: UInt32, _ value: UInt64) {
        if value == 0 { return }
        tag(field, 0)
        varint(value)
    }

    @inlinable package mutating func bool(_ field: UInt32, _ value: Bool) {
        if value {
            tag(field, 0)
            bytes.append(1)
        }
    }

    @inlinable package mutating func raw(_ source: UnsafeRawBufferPointer) {
        bytes.append(contentsOf: source)
    }

    @inlinable package mutating func raw(_ source: [UInt8]) {
        bytes.append(contentsOf: source)
    }

    /// A `bytes`/`string` field; left out when empty.
    @inlinable package mutating func data(_ field: UInt32, _ source: UnsafeRawBufferPointer) {
        if source.isEmpty { return }
        message(field, source)
    }

    /// A `bytes`/`string` field; left out when empty.
    @inlinable package mutating func data(_ field: UInt32, _ source: [UInt8]) {
        source.withUnsafeBytes { data(field, $0) }
    }

    /// A `string` field; left out when empty.
    @inlinable package mutating func string(_ field: UInt32, _ source: String) {
        if source.isEmpty { return }
        tag(field, 2)
        varint(UInt64(source.utf8.count))
        bytes.append(contentsOf: source.utf8)
    }

    /// A length-delimited field that is written even when empty (messages, repeated bytes).
    @inlinable package mutating func message(_ field: UInt32, _ source: UnsafeRawBufferPointer) {
        tag(field, 2)
        varint(UInt64(source.count))
        bytes.append(contentsOf: source)
    }

    /// A length-delimited field that is written even when empty.
    @inlinable package mutating func message(_ field: UInt32, _ source: [UInt8]) {
        source.withUnsafeBytes { message(field, $0) }
    }

    /// A nested message whose size is not known beforehand: writes the body, then puts the length
    /// in front of it. One extra move of the body; use `message` where the size is at hand.
    @inlinable package mutating func nested(
        _ field: UInt32, _ body: (inout ByteWriter) -> Void
    ) {
        tag(field, 2)
        let start = bytes.count
        body(&self)
        let length = bytes.count &- start
        let width = varintSize(UInt64(length))
        for _ in 0..<width { bytes.append(0) }
        bytes.withUnsafeMutableBytes { all in
            guard let base = all.baseAddress else { return }
            memmove(base + start + width, base + start, length)
            var rest = UInt64(length)
            var position = start
            while rest >= 0x80 {
                all[position] = UInt8(truncatingIfNeeded: rest) | 0x80
                rest &>>= 7
                position &+= 1
            }
            all[position] = UInt8(truncatingIfNeeded: rest)
        }
    }
}

/// Bytes that `value` takes as a varint.
@inlinable package func varintSize(_ value: UInt64) -> Int {
    // ceil(significantBits / 7), at least one byte.
    (Int(64 &- (value | 1).leadingZeroBitCount) &* 9 &+ 64) / 64
}

/// Bytes of an `int64` field with a one-byte tag, zero when left out.
@inlinable package func int64FieldSize(_ value: Int64) -> Int {
    value == 0 ? 0 : 1 &+ varintSize(UInt64(bitPattern: value))
}

/// Bytes of a `bytes` field with a one-byte tag, zero when left out.
@inlinable package func dataFieldSize(_ count: Int) -> Int {
    count == 0 ? 0 : 1 &+ varintSize(UInt64(count)) &+ count
}
