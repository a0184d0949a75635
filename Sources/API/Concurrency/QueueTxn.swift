// The messages that locks and elections are made of: three transactions, and the reads of a queue.

import KVCodec
import MVCC

/// A kv that heads a queue, or is looked for there.
struct QueuedKey: Equatable {
    var key: [UInt8]
    var createRevision: Int64
    var modRevision: Int64
    var value: [UInt8] {
        record.withUnsafeBytes { bytes in (try? KeyValueView(bytes)).map { [UInt8]($0.value) } ?? [] }
    }
    /// The whole KeyValue message.
    var record: [UInt8]

    init(_ record: UnsafeRawBufferPointer) throws(DecodeError) {
        let view = try KeyValueView(record)
        key = [UInt8](view.key)
        createRevision = view.createRevision
        modRevision = view.modRevision
        self.record = [UInt8](record)
    }
}

/// The reads of a queue, as RangeRequest messages.
enum QueueRange {
    /// The oldest key below a prefix: who heads the queue.
    static func head(of prefix: [UInt8]) -> [UInt8] {
        var range = ByteWriter(capacity: 32 + 2 * prefix.count)
        head(of: prefix, into: &range)
        return range.bytes
    }

    static func head(of prefix: [UInt8], into range: inout ByteWriter) {
        bounds(prefix, SortOrder.ascend, into: &range)
    }

    /// The newest of the keys below a prefix that were made before a revision: the one to wait for.
    static func newest(of prefix: [UInt8], before revision: Int64) -> [UInt8] {
        var range = ByteWriter(capacity: 48 + 2 * prefix.count)
        bounds(prefix, SortOrder.descend, into: &range)
        range.int64(13, revision - 1)
        return range.bytes
    }

    private static func bounds(_ prefix: [UInt8], _ order: Int32, into range: inout ByteWriter) {
        range.data(1, prefix)
        range.data(2, end(of: prefix))
        range.int64(3, 1)
        range.int64(5, Int64(order))
        range.int64(6, Int64(SortTarget.create))
    }

    /// Where the keys with a prefix end. All prefixes here end with "/", so there is such a place.
    static func end(of prefix: [UInt8]) -> [UInt8] { prefix.dropLast() + [UInt8(ascii: "/") + 1] }

    /// The first KeyValue of a range's reply, its field 2.
    static func firstRecord(_ reply: UnsafeRawBufferPointer) -> QueuedKey? {
        var reader = ProtoReader(reply)
        while let tag = try? reader.next() {
            if tag.field == 2 { return (try? reader.slice(tag)).flatMap { try? QueuedKey($0) } }
            do { try reader.skip(tag) } catch { return nil }
        }
        return nil
    }
}

/// The transactions, as TxnRequest messages.
enum QueueTxn {
    /// Puts the key unless it is there; either way the reply tells who heads the queue, and of a key that
    /// was there what it is. A plugin sees both reads, as it does from a client's own library.
    static func enter(key: [UInt8], value: [UInt8], lease: Int64, prefix: [UInt8]) -> [UInt8] {
        var txn = ByteWriter(capacity: 128 + 4 * key.count + value.count)
        compareCreation(of: key, with: 0, into: &txn)
        put(key: key, value: value, lease: lease, into: &txn)
        txn.nested(2) { op in op.nested(1) { QueueRange.head(of: prefix, into: &$0) } }
        txn.nested(3) { op in op.nested(1) { $0.data(1, key) } }
        txn.nested(3) { op in op.nested(1) { QueueRange.head(of: prefix, into: &$0) } }
        return txn.bytes
    }

    /// What the reply to ``enter(key:value:lease:prefix:)`` says.
    ///
    /// - Returns: the key where it was there before, and who heads the queue.
    static func entered(_ body: [UInt8]) -> (isNew: Bool, found: QueuedKey?, head: QueuedKey?) {
        let (succeeded, ranges) = reply(body)
        return (succeeded, succeeded ? nil : ranges.first ?? nil, ranges.count == 2 ? ranges[1] : nil)
    }

    /// Puts the key if it is the one made at that revision.
    static func proclaim(key: [UInt8], madeAt revision: Int64, value: [UInt8], lease: Int64) -> [UInt8] {
        var txn = ByteWriter(capacity: 64 + 2 * key.count + value.count)
        compareCreation(of: key, with: revision, into: &txn)
        put(key: key, value: value, lease: lease, into: &txn)
        return txn.bytes
    }

    /// Deletes the key if it is the one made at that revision.
    static func leave(key: [UInt8], madeAt revision: Int64) -> [UInt8] {
        var txn = ByteWriter(capacity: 64 + 2 * key.count)
        compareCreation(of: key, with: revision, into: &txn)
        txn.nested(2) { op in op.nested(3) { $0.data(1, key) } }
        return txn.bytes
    }

    /// Whether the compares of a transaction held, by its reply.
    static func succeeded(_ body: [UInt8]) -> Bool { reply(body).succeeded }

    private static func put(key: [UInt8], value: [UInt8], lease: Int64, into txn: inout ByteWriter) {
        txn.nested(2) { op in
            op.nested(2) { put in
                put.data(1, key)
                put.data(2, value)
                put.int64(3, lease)
            }
        }
    }

    /// CREATE = 1; a revision of 0 is left out and means 0.
    private static func compareCreation(
        of key: [UInt8], with revision: Int64, into txn: inout ByteWriter
    ) {
        txn.nested(1) { compare in
            compare.int64(2, 1)
            compare.data(3, key)
            compare.int64(5, revision)
        }
    }

    /// TxnResponse: {2 succeeded, 3 responses}; for each response the first key that it read.
    private static func reply(_ body: [UInt8]) -> (succeeded: Bool, ranges: [QueuedKey?]) {
        body.withUnsafeBytes { bytes in
            var succeeded = false
            var ranges: [QueuedKey?] = []
            var reader = ProtoReader(bytes)
            while let tag = try? reader.next() {
                do {
                    switch tag.field {
                    case 2: succeeded = try reader.bool(tag)
                    case 3: ranges.append(range(try reader.slice(tag)))
                    default: try reader.skip(tag)
                    }
                } catch {
                    break
                }
            }
            return (succeeded, ranges)
        }
    }

    /// ResponseOp: {1 RangeResponse, 2 PutResponse, …}.
    private static func range(_ response: UnsafeRawBufferPointer) -> QueuedKey? {
        var reader = ProtoReader(response)
        while let tag = try? reader.next() {
            guard let slice = try? reader.slice(tag) else { return nil }
            if tag.field == 1 { return QueueRange.firstRecord(slice) }
        }
        return nil
    }
}
