import KVCodec

// How the parts of a transaction's reply are laid out. Inner headers carry the revision only, the
// header of a nested transaction's reply nothing at all, as etcd's do.
extension ByteWriter {
    /// Field 1 of an inner response: ResponseHeader {3 revision}.
    mutating func innerHeader(revision: Int64) {
        tag(1, 2)
        varint(UInt64(int64FieldSize(revision)))
        int64(3, revision)
    }

    /// Field 1 of a nested transaction's response: an empty ResponseHeader.
    mutating func emptyHeader() {
        tag(1, 2)
        varint(0)
    }

    /// Makes what was written since `start` the content of `responses` (field 3 of TxnResponse):
    /// a ResponseOp whose member `field` is that content. One move of the content.
    mutating func closeResponse(from start: Int, field: UInt32) {
        let inner = count &- start
        let innerPrefix = 1 &+ varintSize(UInt64(inner))
        let outer = innerPrefix &+ inner
        var prefix = ByteWriter(capacity: 24)
        prefix.tag(3, 2)
        prefix.varint(UInt64(outer))
        prefix.tag(field, 2)
        prefix.varint(UInt64(inner))
        bytes.insert(contentsOf: prefix.bytes, at: start)
    }

    /// Renumbers a run of length-delimited fields, all `old`, as `new`; both below 16.
    mutating func retag(from old: UInt8, to new: UInt8) {
        var offset = 0
        while offset < bytes.count {
            precondition(bytes[offset] == old << 3 | 2, "field \(bytes[offset] >> 3) is not \(old)")
            bytes[offset] = new << 3 | 2
            offset += 1
            var length = 0
            var shift = 0
            while offset < bytes.count {
                let byte = bytes[offset]
                offset += 1
                length |= Int(byte & 0x7F) << shift
                shift += 7
                if byte < 0x80 { break }
            }
            offset += length
        }
    }
}

/// Members of ResponseOp.
enum ResponseField {
    static let range: UInt32 = 1, put: UInt32 = 2, deleteRange: UInt32 = 3, txn: UInt32 = 4
}
