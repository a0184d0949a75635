import CSupport

/// `Backend.hash`, made from pairs as they come: CRC32C over the name of each bucket and then its
/// keys and values. A bucket without pairs counts with its name.
package struct BackendHash {
    private var value: UInt32 = 0
    private var rest = BackendBucket.allCases[...]
    private var current: [UInt8]?

    package init() {}

    /// Adds one pair. Buckets come in the order of their names, keys in theirs.
    package mutating func add(
        bucket: [UInt8], key: UnsafeRawBufferPointer, value bytes: UnsafeRawBufferPointer
    ) {
        if bucket != current {
            while let next = rest.popFirst() {
                addName(next)
                if next.name.utf8.elementsEqual(bucket) { break }
            }
            current = bucket
        }
        value = moonraft_crc32c(value, key.baseAddress, key.count)
        value = moonraft_crc32c(value, bytes.baseAddress, bytes.count)
    }

    /// The hash of everything added.
    package mutating func finish() -> UInt32 {
        while let next = rest.popFirst() { addName(next) }
        return value
    }

    private mutating func addName(_ bucket: BackendBucket) {
        let name = Array(bucket.name.utf8)
        value = moonraft_crc32c(value, name, name.count)
    }
}
