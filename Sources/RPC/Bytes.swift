import CNGHTTP2

#if canImport(Glibc)
    import Glibc
#endif

/// Whether two byte ranges of equal length hold the same bytes.
@inline(__always)
func equalBytes(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Bool {
    guard let left = a.baseAddress, let right = b.baseAddress else { return a.count == b.count }
    return memcmp(left, right, a.count) == 0
}

extension UnsafeRawBufferPointer {
    /// Whether the bytes are exactly those of a literal.
    @inline(__always)
    func equals(_ literal: StaticString) -> Bool {
        guard let base = baseAddress else { return literal.utf8CodeUnitCount == 0 }
        return count == literal.utf8CodeUnitCount && memcmp(base, literal.utf8Start, count) == 0
    }

    /// Whether the bytes begin with those of a literal.
    @inline(__always)
    func hasPrefix(_ literal: StaticString) -> Bool {
        guard let base = baseAddress else { return literal.utf8CodeUnitCount == 0 }
        return count >= literal.utf8CodeUnitCount
            && memcmp(base, literal.utf8Start, literal.utf8CodeUnitCount) == 0
    }
}

extension UnsafeMutablePointer where Pointee == UInt8 {
    /// A literal's bytes under the mutable type that nghttp2's header structure asks for; with
    /// `NO_COPY` the library only reads them.
    static func literal(_ text: StaticString) -> UnsafeMutablePointer<UInt8> {
        UnsafeMutablePointer(mutating: text.utf8Start)
    }
}

extension nghttp2_nv {
    /// A header whose name and value live for the whole process and are not copied.
    init(_ name: StaticString, _ value: StaticString) {
        self.init(
            name: .literal(name), value: .literal(value), namelen: name.utf8CodeUnitCount,
            valuelen: value.utf8CodeUnitCount,
            flags: UInt8(NGHTTP2_NV_FLAG_NO_COPY_NAME.rawValue)
                | UInt8(NGHTTP2_NV_FLAG_NO_COPY_VALUE.rawValue))
    }
}
