/// A key of bucket `key`: the revision in bytes whose order is that of the revisions.
///
/// ```
/// 0  main u64, big-endian
/// 8  '_'
/// 9  sub u64, big-endian
/// 17 't' when the record is a tombstone; absent otherwise
/// ```
///
/// The bytes are those of etcd (server/storage/mvcc/revision.go), so that buckets can be copied
/// either way.
package struct RevisionKey: Equatable, Sendable {
    package static let byteCount = 17
    package static let tombstoneByteCount = 18

    package let main: Int64
    package let sub: Int64
    package let isTombstone: Bool

    package init(main: Int64, sub: Int64, isTombstone: Bool = false) {
        self.main = main
        self.sub = sub
        self.isTombstone = isTombstone
    }

    /// Nil when the bytes are not a revision key.
    package init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count == Self.byteCount || bytes.count == Self.tombstoneByteCount,
            bytes[8] == UInt8(ascii: "_")
        else {
            return nil
        }
        isTombstone = bytes.count == Self.tombstoneByteCount
        guard !isTombstone || bytes[17] == UInt8(ascii: "t") else {
            return nil
        }
        main = Int64(bigEndian: bytes.loadUnaligned(fromByteOffset: 0, as: Int64.self))
        sub = Int64(bigEndian: bytes.loadUnaligned(fromByteOffset: 9, as: Int64.self))
    }

    /// Calls `body` with the key's 17 or 18 bytes, which are on the stack.
    @inline(__always)
    package func withBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        var words: (UInt64, UInt64, UInt64) = (0, 0, 0)
        return try withUnsafeMutableBytes(of: &words) { raw throws(Failure) in
            raw.storeBytes(of: main.bigEndian, as: Int64.self)
            raw.storeBytes(of: UInt8(ascii: "_"), toByteOffset: 8, as: UInt8.self)
            raw.storeBytes(of: sub.bigEndian, toByteOffset: 9, as: Int64.self)
            raw.storeBytes(of: UInt8(ascii: "t"), toByteOffset: 17, as: UInt8.self)
            let count = isTombstone ? Self.tombstoneByteCount : Self.byteCount
            return try body(UnsafeRawBufferPointer(rebasing: raw[..<count]))
        }
    }
}
