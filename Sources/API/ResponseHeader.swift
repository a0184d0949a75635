// The header of every reply: {1 cluster_id, 2 member_id, 3 revision, 4 raft_term}.

import KVCodec
import Node
import RPC

/// Writes reply headers; the parts that never change are encoded once.
struct ResponseHeader {
    /// cluster_id and member_id.
    private let identity: [UInt8]

    init(clusterID: UInt64, memberID: UInt64) {
        var writer = ByteWriter(capacity: 24)
        writer.uint64(1, clusterID)
        writer.uint64(2, memberID)
        identity = writer.bytes
    }

    /// Upper bound of what `write` writes: tag, length, two ids, revision, term.
    static let maximumSize = 2 + 4 * 11

    /// Writes field 1 of a reply at `target`, which has room for `maximumSize` bytes.
    ///
    /// - Returns: bytes written.
    func write(
        to target: UnsafeMutableRawPointer, revision: Int64, term: UInt64
    ) -> Int {
        let size =
            identity.count &+ int64FieldSize(revision)
            &+ int64FieldSize(Int64(bitPattern: term))
        var cursor = RawCursor(target)
        cursor.byte(0x0A)
        cursor.byte(UInt8(size))
        identity.withUnsafeBytes { bytes in
            if let base = bytes.baseAddress {
                cursor.pointer.copyMemory(from: base, byteCount: bytes.count)
            }
            cursor.pointer += bytes.count
        }
        cursor.int64(3, revision)
        cursor.int64(4, Int64(bitPattern: term))
        return cursor.pointer - target
    }

    /// Appends field 1 of a reply.
    func append(to writer: inout ByteWriter, revision: Int64, term: UInt64) {
        withUnsafeTemporaryAllocation(byteCount: Self.maximumSize, alignment: 8) { buffer in
            guard let base = buffer.baseAddress else { return }
            let count = write(to: base, revision: revision, term: term)
            writer.raw(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count]))
        }
    }
}
