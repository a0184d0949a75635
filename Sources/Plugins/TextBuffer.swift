// Building lines of text as bytes on paths that run for every request: no String and no array is made on the way,
// and the memory is kept from line to line.

#if canImport(Glibc)
    import Glibc
#endif

/// Text under construction, as UTF-8. Confined to its owner's thread.
///
/// Grows as it must; who fills it bounds what goes in and calls ``clear(keeping:)`` between lines or batches.
final class TextBuffer {
    private var start: UnsafeMutablePointer<UInt8>
    private var capacity: Int
    private(set) var count = 0

    init(capacity: Int = 1024) {
        self.capacity = max(64, capacity)
        start = .allocate(capacity: self.capacity)
    }

    deinit { start.deallocate() }

    /// What is in it from `offset` on; valid until the next call that adds.
    func bytes(from offset: Int = 0) -> UnsafeRawBufferPointer {
        precondition(offset >= 0 && offset <= count, "offset \(offset) of \(count) bytes")
        return UnsafeRawBufferPointer(start: start + offset, count: count - offset)
    }

    /// Empties it. Memory of more than `keeping` bytes is given back.
    func clear(keeping: Int = .max) {
        count = 0
        guard capacity > keeping else { return }
        start.deallocate()
        capacity = max(64, keeping)
        start = .allocate(capacity: capacity)
    }

    /// Where the next byte goes, with room for `more` of them.
    @inline(__always)
    private func room(for more: Int) -> UnsafeMutablePointer<UInt8> {
        if capacity - count < more { grow(by: more) }
        return start + count
    }

    @inline(never)
    private func grow(by more: Int) {
        capacity = max(capacity * 2, count + more)
        let larger = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
        larger.update(from: start, count: count)
        start.deallocate()
        start = larger
    }

    // MARK: - Text

    @inline(__always)
    func add(byte: UInt8) {
        room(for: 1).pointee = byte
        count += 1
    }

    @inline(__always)
    func add(_ text: StaticString) {
        let length = text.utf8CodeUnitCount
        memcpy(room(for: length), text.utf8Start, length)
        count += length
    }

    @inline(__always)
    func add(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        memcpy(room(for: bytes.count), base, bytes.count)
        count += bytes.count
    }

    func add(_ bytes: [UInt8]) { bytes.withUnsafeBytes { add($0) } }

    func add(_ text: String) {
        var text = text
        text.withUTF8 { add(UnsafeRawBufferPointer($0)) }
    }

    // MARK: - Numbers

    func add(decimal value: Int64) {
        if value < 0 { add(byte: UInt8(ascii: "-")) }
        add(decimal: value.magnitude)
    }

    func add(decimal value: UInt64) {
        var digits = 1
        var bound: UInt64 = 10
        while value >= bound && digits < 20 {
            digits += 1
            bound = digits == 20 ? .max : bound &* 10
        }
        put(value, digits)
    }

    /// Exactly `width` digits; a number that has more loses its first ones.
    func add(padded value: Int64, _ width: Int) { put(value.magnitude, width) }

    /// The last `width` decimal digits of a number.
    @inline(__always)
    private func put(_ value: UInt64, _ width: Int) {
        let out = room(for: width)
        var rest = value
        var i = width
        while i > 0 {
            i -= 1
            out[i] = UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: rest % 10)
            rest /= 10
        }
        count += width
    }

    /// Lower-case hexadecimal without leading zeros.
    func add(hexadecimal value: UInt64) {
        let digits = max(1, (64 - value.leadingZeroBitCount + 3) / 4)
        let out = room(for: digits)
        for i in 0..<digits {
            out[i] = Self.digit(UInt8(truncatingIfNeeded: value >> UInt64(4 * (digits - 1 - i))) & 15)
        }
        count += digits
    }

    /// Lower-case hexadecimal, two digits a byte.
    func add(hex bytes: UnsafeRawBufferPointer) {
        let out = room(for: bytes.count * 2)
        for (i, byte) in bytes.enumerated() {
            out[2 * i] = Self.digit(byte >> 4)
            out[2 * i + 1] = Self.digit(byte & 15)
        }
        count += bytes.count * 2
    }

    @inline(__always)
    private static func digit(_ value: UInt8) -> UInt8 {
        value < 10 ? UInt8(ascii: "0") &+ value : UInt8(ascii: "a") &- 10 &+ value
    }

    // MARK: - JSON

    /// A JSON string with its quotes. The text must be UTF-8.
    func add(json text: UnsafeBufferPointer<UInt8>) {
        // Every byte may become six: `\u001f`.
        let first = room(for: text.count * 6 + 2)
        var out = first
        out.pointee = UInt8(ascii: "\"")
        out += 1
        for byte in text {
            if byte >= 0x20 && byte != 0x22 && byte != 0x5C && byte != 0x7F {
                out.pointee = byte
                out += 1
            } else {
                out = Self.escape(byte, out)
            }
        }
        out.pointee = UInt8(ascii: "\"")
        count += out + 1 - first
    }

    @inline(never)
    private static func escape(_ byte: UInt8, _ out: UnsafeMutablePointer<UInt8>) -> UnsafeMutablePointer<UInt8> {
        out[0] = UInt8(ascii: "\\")
        switch byte {
        case 0x22, 0x5C: out[1] = byte
        case 0x0A: out[1] = UInt8(ascii: "n")
        case 0x0D: out[1] = UInt8(ascii: "r")
        case 0x09: out[1] = UInt8(ascii: "t")
        default:
            out[1] = UInt8(ascii: "u")
            out[2] = UInt8(ascii: "0")
            out[3] = UInt8(ascii: "0")
            out[4] = digit(byte >> 4)
            out[5] = digit(byte & 15)
            return out + 6
        }
        return out + 2
    }

    func add(json text: String) {
        var text = text
        text.withUTF8 { add(json: $0) }
    }

    func add(json text: StaticString) {
        add(json: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }
}

/// Lower-case hexadecimal text.
enum Hex {
    static func encode(_ bytes: some Sequence<UInt8>) -> String {
        let text = TextBuffer(capacity: 64)
        Array(bytes).withUnsafeBytes { text.add(hex: $0) }
        return String(decoding: text.bytes(), as: UTF8.self)
    }
}

extension [UInt8] {
    /// Whether the bytes are well-formed UTF-8; plain ASCII is decided without a decoder.
    var isUTF8: Bool {
        allSatisfy { $0 < 0x80 } || String(validating: self, as: UTF8.self) != nil
    }
}
