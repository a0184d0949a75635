import KVCodec

/// A message whose interesting fields are all integers numbered 1 to 3; absent ones are 0.
struct NumberFields {
    private var values: (Int64, Int64, Int64) = (0, 0, 0)

    /// - Throws: `malformed`.
    init(_ bytes: UnsafeRawBufferPointer) throws(ApplyError) {
        do throws(DecodeError) {
            var reader = ProtoReader(bytes)
            while let tag = try reader.next() {
                switch tag.field {
                case 1: values.0 = try reader.int64(tag)
                case 2: values.1 = try reader.int64(tag)
                case 3: values.2 = try reader.int64(tag)
                default: try reader.skip(tag)
                }
            }
        } catch {
            throw .malformed
        }
    }

    subscript(field: Int) -> Int64 {
        switch field {
        case 1: values.0
        case 2: values.1
        default: values.2
        }
    }
}
