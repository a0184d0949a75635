import CNGHTTP2

/// A short list of headers in the form nghttp2 takes them, for everything that is not constant.
///
/// All names and values are copied into one buffer; nghttp2 copies them again when the list is
/// submitted, so the list may be dropped at once.
struct HeaderList {
    private var storage: [UInt8] = []
    private var spans: [(name: Range<Int>, value: Range<Int>)] = []

    mutating func add(_ name: String, _ value: some Collection<UInt8>) {
        let start = storage.count
        storage.append(contentsOf: name.utf8)
        let middle = storage.count
        storage.append(contentsOf: value)
        spans.append((start..<middle, middle..<storage.count))
    }

    mutating func add(_ name: String, _ value: String) { add(name, value.utf8) }

    /// Calls `body` with the list; the pointers are valid only inside.
    mutating func withFields<R>(
        _ body: (UnsafeMutablePointer<nghttp2_nv>?, Int) -> R
    ) -> R {
        let spans = spans
        return storage.withUnsafeMutableBufferPointer { bytes in
            guard let base = bytes.baseAddress else { return body(nil, 0) }
            var fields = spans.map { span in
                nghttp2_nv(
                    name: base + span.name.lowerBound, value: base + span.value.lowerBound,
                    namelen: span.name.count, valuelen: span.value.count,
                    flags: UInt8(NGHTTP2_NV_FLAG_NONE.rawValue))
            }
            return fields.withUnsafeMutableBufferPointer { body($0.baseAddress, $0.count) }
        }
    }
}
