// Read-only transactions, answered on a reading thread without a log entry.

import KVCodec
import MVCC

/// Carries out transactions of ranges at one pinned revision, so that comparisons and ranges see
/// the same state whatever is applied meanwhile.
package enum TxnReader {
    /// How often to read in chunks, giving the store's lock back in between, before the lock is kept
    /// throughout. Only a compaction that overtakes the pinned revision makes a second attempt.
    static let chunkedAttempts = 2
    /// Keys per chunk of a comparison over a range.
    /// Bytes of a reply; see `StateMachineConfiguration.maximumReplyBytes`.
    static let maximumReplyBytes = 256 << 20
    static let compareChunkKeys: Int64 = 1000

    private typealias RangeReading = (RangeQuery, inout ByteWriter) throws(MVCCError) ->
        RangeResult

    /// What the pinned revision is, and what its comparisons of single keys say.
    private struct Look {
        var revision: Int64
        var holds: Bool
    }

    /// Appends fields 2 and 3 of TxnResponse.
    ///
    /// `request` has passed `RequestCheck.txn` and is read-only (`isReadOnly`).
    /// - Returns: the revision for the reply's header.
    /// - Throws: `compacted`, `futureRevision`; the writer is then as it was.
    package static func execute(
        _ request: TxnRequestView, store: MVCCStore, reader: RecordReader,
        into writer: inout ByteWriter
    ) throws(ApplyError) -> Int64 {
        let start = writer.count
        for _ in 0..<chunkedAttempts {
            let look = store.withSnapshot(reader: reader) { Self.look(request, &$0) }
            do throws(ApplyError) {
                try answer(
                    request, look, compactRevision: store.compactRevision, into: &writer
                ) { (query, writer) throws(MVCCError) in
                    try store.range(query, reader: reader, into: &writer)
                }
                return look.revision
            } catch {
                writer.bytes.removeSubrange(start...)
                // A revision that the client named is refused for good.
                if error != .compacted || look.revision >= store.compactRevision { throw error }
            }
        }
        do throws(ApplyError) {
            return try store.withSnapshot(reader: reader) { (snapshot) throws(ApplyError) in
                let look = Self.look(request, &snapshot)
                try answer(
                    request, look, compactRevision: snapshot.compactRevision, into: &writer
                ) { (query, writer) throws(MVCCError) in
                    try snapshot.range(query, into: &writer)
                }
                return look.revision
            }
        } catch {
            writer.bytes.removeSubrange(start...)
            throw error
        }
    }

    /// Comparisons of single keys need one short look.
    private static func look(_ request: TxnRequestView, _ snapshot: inout StoreSnapshot) -> Look {
        var holds = true
        for compare in request.compare where holds && compare.rangeEnd.isEmpty {
            holds = Self.holds(compare, in: &snapshot)
        }
        return Look(revision: snapshot.revision, holds: holds)
    }

    private static func holds(_ compare: CompareView, in snapshot: inout StoreSnapshot) -> Bool {
        guard let metadata = snapshot.metadata(of: compare.key) else {
            return Comparison.holdsForNothing(compare)
        }
        if compare.target != CompareTarget.value { return Comparison.holds(compare, metadata) }
        do throws(DecodeError) {
            let record = snapshot.record(at: metadata.revision)
            return Comparison.holds(compare, try KeyValueView(record))
        } catch {
            snapshot.damaged("record at \(metadata.revision) does not decode: \(error)")
        }
    }

    /// What may be long is read at the revision of the look.
    private static func answer(
        _ request: TxnRequestView, _ look: Look, compactRevision: Int64,
        into writer: inout ByteWriter, reading: RangeReading
    ) throws(ApplyError) {
        var succeeded = look.holds
        for compare in request.compare where succeeded && !compare.rangeEnd.isEmpty {
            succeeded = try holds(compare, at: look.revision, reading: reading)
        }
        let operations = succeeded ? request.success : request.failure
        for case .range(let range) in operations where range.revision != 0 {
            if range.revision > look.revision { throw .futureRevision }
            if range.revision < compactRevision { throw .compacted }
        }
        let replyStart = writer.count
        writer.bool(2, succeeded)
        for case .range(var range) in operations {
            if writer.count - replyStart > maximumReplyBytes { throw .replyTooLarge }
            if range.revision <= 0 { range.revision = look.revision }
            let start = writer.count
            writer.innerHeader(revision: look.revision)
            do throws(MVCCError) {
                let result = try reading(RangeQuery(range), &writer)
                writer.bool(3, result.more)
                writer.int64(4, result.count)
            } catch {
                throw ApplyError(error)
            }
            writer.closeResponse(from: start, field: ResponseField.range)
        }
    }

    /// A comparison over a range, in chunks.
    private static func holds(
        _ compare: CompareView, at revision: Int64, reading: RangeReading
    ) throws(ApplyError) -> Bool {
        var chunk = ByteWriter(capacity: 256)
        var next = [UInt8](compare.key)
        var found = false
        while true {
            chunk.bytes.removeAll(keepingCapacity: true)
            var more = false
            var failure: ApplyError?
            next.withUnsafeBytes { key in
                var query = RangeQuery(key: key, rangeEnd: compare.rangeEnd)
                query.revision = revision
                query.limit = compareChunkKeys
                do throws(MVCCError) {
                    more = try reading(query, &chunk).more
                } catch {
                    failure = ApplyError(error)
                }
            }
            if let failure { throw failure }
            guard let (holds, last) = judge(compare, chunk.bytes) else { throw .corrupt }
            if !holds { return false }
            if let last {
                found = true
                // The smallest key after the last one seen.
                next = last + [0]
            }
            if !more { return found || Comparison.holdsForNothing(compare) }
        }
    }

    /// Judges a run of records, each as field 2; also gives the last key. Nil when a record does not decode.
    private static func judge(
        _ compare: CompareView, _ records: [UInt8]
    ) -> (holds: Bool, last: [UInt8]?)? {
        records.withUnsafeBytes { bytes -> (holds: Bool, last: [UInt8]?)? in
            var last: UnsafeRawBufferPointer?
            do throws(DecodeError) {
                var fields = ProtoReader(bytes)
                while let tag = try fields.next() {
                    let record = try KeyValueView(try fields.slice(tag))
                    if !Comparison.holds(compare, record) { return (false, nil) }
                    last = record.key
                }
            } catch {
                return nil
            }
            return (true, last.map { [UInt8]($0) })
        }
    }
}
