// Read-only transactions, answered on a reading thread without a log entry.

import KVCodec
import MVCC

/// Carries out transactions of ranges at one pinned revision, so that comparisons and ranges see
/// the same state whatever is applied meanwhile.
package enum TxnReader {
    /// Keys per read of a comparison over a range.
    static let compareChunkKeys: Int64 = 1000
    /// How often to start again when a compaction overtook the pinned revision.
    static let attempts = 8

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
        var left = attempts
        while true {
            left -= 1
            var revision: Int64 = 0
            do throws(ApplyError) {
                try execute(
                    request, at: &revision, store: store, reader: reader, into: &writer)
                return revision
            } catch {
                writer.bytes.removeSubrange(start...)
                // A range at a revision that the client named fails for good.
                if error == .compacted, revision < store.compactRevision, left > 0 { continue }
                throw error
            }
        }
    }

    private static func execute(
        _ request: TxnRequestView, at start: inout Int64, store: MVCCStore,
        reader: RecordReader, into writer: inout ByteWriter
    ) throws(ApplyError) {
        // Comparisons of single keys need one short look; what may be long is read in chunks at the
        // revision of that look.
        let look = store.withSnapshot(reader: reader) { snapshot in
            Look(
                revision: snapshot.revision,
                holds: request.compare.allSatisfy {
                    !$0.rangeEnd.isEmpty || holds($0, in: &snapshot)
                })
        }
        let revision = look.revision
        start = revision
        var succeeded = look.holds
        for compare in request.compare where succeeded && !compare.rangeEnd.isEmpty {
            succeeded = try holds(compare, at: revision, store: store, reader: reader)
        }
        let operations = succeeded ? request.success : request.failure
        for case .range(let range) in operations where range.revision != 0 {
            if range.revision > revision { throw .futureRevision }
            if range.revision < store.compactRevision { throw .compacted }
        }
        writer.bool(2, succeeded)
        for case .range(var range) in operations {
            if range.revision <= 0 { range.revision = revision }
            let start = writer.count
            writer.innerHeader(revision: revision)
            do throws(MVCCError) {
                let result = try store.range(RangeQuery(range), reader: reader, into: &writer)
                writer.bool(3, result.more)
                writer.int64(4, result.count)
            } catch {
                throw ApplyError(error)
            }
            writer.closeResponse(from: start, field: ResponseField.range)
        }
    }

    private struct Look {
        var revision: Int64
        var holds: Bool
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
            preconditionFailure("record at \(metadata.revision) does not decode: \(error)")
        }
    }

    /// A comparison over a range, in chunks.
    private static func holds(
        _ compare: CompareView, at revision: Int64, store: MVCCStore, reader: RecordReader
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
                    more = try store.range(query, reader: reader, into: &chunk).more
                } catch {
                    failure = ApplyError(error)
                }
            }
            if let failure { throw failure }
            let (holds, last) = judge(compare, chunk.bytes)
            if !holds { return false }
            if let last {
                found = true
                // The smallest key after the last one seen.
                next = last + [0]
            }
            if !more { return found || Comparison.holdsForNothing(compare) }
        }
    }

    /// Judges a run of records, each as field 2; also gives the last key.
    private static func judge(_ compare: CompareView, _ records: [UInt8]) -> (Bool, [UInt8]?) {
        records.withUnsafeBytes { bytes in
            var last: UnsafeRawBufferPointer?
            do throws(DecodeError) {
                var fields = ProtoReader(bytes)
                while let tag = try fields.next() {
                    let record = try KeyValueView(try fields.slice(tag))
                    if !Comparison.holds(compare, record) { return (false, nil) }
                    last = record.key
                }
            } catch {
                preconditionFailure("a stored record does not decode: \(error)")
            }
            return (true, last.map { [UInt8]($0) })
        }
    }
}
