import CNGHTTP2

/// The request headers of a call that are the application's business.
///
/// Nothing is decoded until it is asked for: the entries are references into nghttp2's header
/// memory. Read it on the call's loop and before the call closes; afterwards it is empty.
/// Names are lower case. Values are arbitrary bytes.
package struct CallMetadata {
    fileprivate struct Field {
        let name: OpaquePointer
        let value: OpaquePointer
    }

    private var fields: [Field] = []

    package var isEmpty: Bool { fields.isEmpty }
    package var count: Int { fields.count }

    /// Calls `body` with the first value of `name`; the bytes are valid only inside.
    package func withValue<R>(
        _ name: StaticString, _ body: (UnsafeRawBufferPointer) throws -> R
    ) rethrows -> R? {
        for field in fields where rcbufBytes(field.name).equals(name) {
            return try body(rcbufBytes(field.value))
        }
        return nil
    }

    /// Whether a header of that name was sent.
    package func contains(_ name: StaticString) -> Bool {
        fields.contains { rcbufBytes($0.name).equals(name) }
    }

    /// The first value of `name`.
    package func bytes(_ name: StaticString) -> [UInt8]? {
        withValue(name) { Array($0) }
    }

    /// The first value of `name` as text, nil when absent or not valid UTF-8.
    package func string(_ name: StaticString) -> String? {
        withValue(name) { String(validating: $0, as: UTF8.self) } ?? nil
    }

    /// The first value of a `-bin` header, decoded from base64 with or without padding; nil when
    /// absent or malformed.
    package func binary(_ name: StaticString) -> [UInt8]? {
        withValue(name) { Base64.decode($0) } ?? nil
    }

    /// All values in the order they arrived.
    package func forEach(
        _ body: (_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Void
    ) {
        for field in fields { body(rcbufBytes(field.name), rcbufBytes(field.value)) }
    }

    /// All names and values; binary values stay encoded, invalid UTF-8 is repaired.
    package var strings: [(name: String, value: String)] {
        fields.map { field in
            (
                String(decoding: rcbufBytes(field.name), as: UTF8.self),
                String(decoding: rcbufBytes(field.value), as: UTF8.self)
            )
        }
    }

    mutating func append(name: OpaquePointer, value: OpaquePointer) {
        nghttp2_rcbuf_incref(name)
        nghttp2_rcbuf_incref(value)
        fields.append(Field(name: name, value: value))
    }

    /// Gives the references back; must run on the loop, the counts are not atomic.
    mutating func removeAll() {
        for field in fields {
            nghttp2_rcbuf_decref(field.name)
            nghttp2_rcbuf_decref(field.value)
        }
        fields.removeAll(keepingCapacity: fields.count <= 32)
    }
}

/// The bytes of one of nghttp2's counted buffers.
@inline(__always)
func rcbufBytes(_ buffer: OpaquePointer) -> UnsafeRawBufferPointer {
    let vector = nghttp2_rcbuf_get_buf(buffer)
    return UnsafeRawBufferPointer(start: vector.base, count: vector.len)
}

/// Base64 as gRPC's `-bin` headers use it: standard alphabet, padding optional.
enum Base64 {
    static func decode(_ text: UnsafeRawBufferPointer) -> [UInt8]? {
        var end = text.count
        while end > 0, text.count - end < 2, text[end - 1] == 0x3D { end -= 1 }
        if end % 4 == 1 { return nil }
        var out: [UInt8] = []
        out.reserveCapacity(end * 3 / 4)
        var bits: UInt32 = 0
        var bitCount = 0
        for index in 0..<end {
            let value: UInt8
            switch text[index] {
            case let c where c >= 0x41 && c <= 0x5A: value = c - 0x41
            case let c where c >= 0x61 && c <= 0x7A: value = c - 0x61 + 26
            case let c where c >= 0x30 && c <= 0x39: value = c - 0x30 + 52
            case 0x2B: value = 62
            case 0x2F: value = 63
            default: return nil
            }
            bits = (bits << 6 | UInt32(value)) & 0xFF_FFFF
            bitCount += 6
            if bitCount >= 8 {
                bitCount -= 8
                out.append(UInt8(truncatingIfNeeded: bits >> UInt32(bitCount)))
            }
        }
        return out
    }

    static func encode(_ bytes: [UInt8]) -> [UInt8] {
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
        var out: [UInt8] = []
        out.reserveCapacity((bytes.count * 4 + 2) / 3)
        var bits: UInt32 = 0
        var bitCount = 0
        for byte in bytes {
            bits = (bits << 8 | UInt32(byte)) & 0xFFFF
            bitCount += 8
            while bitCount >= 6 {
                bitCount -= 6
                out.append(alphabet[Int(bits >> UInt32(bitCount) & 63)])
            }
        }
        if bitCount > 0 { out.append(alphabet[Int(bits << UInt32(6 - bitCount) & 63)]) }
        return out
    }
}
