// Transactions (etcd txn/txn.go).
//
// In three passes, none of which can fail after the first write:
// 1. All comparisons, also those of nested transactions on the way, are judged against the state
//    before the transaction. That gives the path: one answer for each transaction taken, in order.
// 2. The operations on the path are checked against the same state: revisions of ranges, leases and
//    existing keys of puts (a compacted range fails here, before any write: etcd issue 18667).
// 3. The operations are carried out in order, each seeing the writes before it, all at one revision.

import KVCodec
import MVCC

extension StateMachine {
    func applyTxn(_ body: UnsafeRawBufferPointer, _ origin: Command.Origin) throws(ApplyError)
        -> ApplyResult
    {
        let request = try decode(body) { (bytes) throws(DecodeError) in
            try TxnRequestView(bytes)
        }
        // The number of operations was judged before the entry was proposed.
        try RequestCheck.txn(request, maxOps: .max)
        let cost = QuotaCost.txn(request)
        try refuseGrowth(cost: cost)
        let fits = fitsQuota(cost: cost)

        store.begin(reader: reader)
        var path: [Bool] = []
        judge(request, &path)
        do throws(ApplyError) {
            var check = PathCheck(path: path[...])
            try checkTaken(request, &check)
        } catch {
            _ = store.commit(reason: .transaction)
            throw error
        }
        var writer = ByteWriter(capacity: 0)
        var rest = path[...]
        carryOut(request, &rest, into: &writer)
        let events = store.commit(reason: reason(for: origin, otherwise: .transaction))
        if writer.count > configuration.maximumReplyBytes {
            // The writes stand; only the answer cannot be given.
            return ApplyResult(
                error: .replyTooLarge, revision: store.currentRevision, events: events)
        }
        return ApplyResult(
            error: fits ? nil : .noSpace, revision: store.currentRevision,
            body: fits ? writer.bytes : [], events: events)
    }

    // MARK: First pass

    private func judge(_ request: TxnRequestView, _ path: inout [Bool]) {
        let succeeded = request.compare.allSatisfy(holds)
        path.append(succeeded)
        for operation in succeeded ? request.success : request.failure {
            if case .txn(let nested) = operation { judge(nested, &path) }
        }
    }

    private func holds(_ compare: CompareView) -> Bool {
        if compare.rangeEnd.isEmpty {
            guard let metadata = store.metadata(inTransaction: compare.key) else {
                return Comparison.holdsForNothing(compare)
            }
            return holds(compare, metadata)
        }
        var found = false
        var result = true
        store.metadataInRange(key: compare.key, rangeEnd: compare.rangeEnd) { _, metadata in
            found = true
            result = holds(compare, metadata)
            return result
        }
        return found ? result : Comparison.holdsForNothing(compare)
    }

    private func holds(_ compare: CompareView, _ metadata: KeyMetadata) -> Bool {
        if compare.target != CompareTarget.value { return Comparison.holds(compare, metadata) }
        let record = keyValue(store.record(of: metadata), at: metadata.revision)
        return Comparison.holds(compare, record)
    }

    // MARK: Second pass

    /// Where the second pass stands.
    private struct PathCheck {
        var path: ArraySlice<Bool>
        /// The lowest key that an earlier "from key on" delete of the path deletes. Other deletes
        /// cannot meet a put of the same path (WriteSet), and no key is put twice on a path.
        var deletedFrom: KeySlice?
    }

    private func checkTaken(_ request: TxnRequestView, _ check: inout PathCheck)
        throws(ApplyError)
    {
        for operation in request.taken(&check.path) {
            switch operation {
            case .range(let range): try checkRevision(range.revision)
            case .put(let put): try checkPut(put, check)
            case .deleteRange(let delete):
                if KeyRange.isOpenEnd(delete.rangeEnd) {
                    let key = KeySlice(delete.key)
                    check.deletedFrom = min(check.deletedFrom ?? key, key)
                }
            case .txn(let nested): try checkTaken(nested, &check)
            case .none: break
            }
        }
    }

    private func checkPut(_ request: PutRequestView, _ check: PathCheck) throws(ApplyError) {
        if request.lease != 0 && !lessor.contains(request.lease) { throw .leaseNotFound }
        guard request.ignoreValue || request.ignoreLease else { return }
        if store.metadata(inTransaction: request.key) == nil { throw .keyNotFound }
        // etcd looks at the state before the transaction only, and panics when it comes to the put.
        if let first = check.deletedFrom, first <= KeySlice(request.key) { throw .keyNotFound }
    }

    private func checkRevision(_ revision: Int64) throws(ApplyError) {
        if revision == 0 { return }
        if revision > store.currentRevision { throw .futureRevision }
        if revision < store.compactRevision { throw .compacted }
    }

    // MARK: Third pass

    /// Writes fields 2 and 3 of TxnResponse.
    private func carryOut(
        _ request: TxnRequestView, _ path: inout ArraySlice<Bool>, into writer: inout ByteWriter
    ) {
        writer.bool(2, path.first ?? false)
        for operation in request.taken(&path) {
            let start = writer.count
            switch operation {
            case .range(let range):
                // A reply over its bound is given up; without this a transaction of many wide
                // ranges would exhaust memory, and again at every replay of the log.
                if writer.count > configuration.maximumReplyBytes { continue }
                carryOut(range, into: &writer)
                writer.closeResponse(from: start, field: ResponseField.range)
            case .put(let put):
                carryOut(put, into: &writer)
                writer.closeResponse(from: start, field: ResponseField.put)
            case .deleteRange(let delete):
                var reply = ByteWriter(capacity: 0)
                deleteRange(delete, into: &reply)
                writer.innerHeader(revision: store.transactionRevision)
                writer.raw(reply.bytes)
                writer.closeResponse(from: start, field: ResponseField.deleteRange)
            case .txn(let nested):
                writer.emptyHeader()
                carryOut(nested, &path, into: &writer)
                writer.closeResponse(from: start, field: ResponseField.txn)
            case .none: break
            }
        }
    }

    private func carryOut(_ request: RangeRequestView, into writer: inout ByteWriter) {
        writer.innerHeader(revision: store.transactionRevision)
        do throws(MVCCError) {
            let result = try store.range(inTransaction: RangeQuery(request), into: &writer)
            writer.bool(3, result.more)
            writer.int64(4, result.count)
        } catch {
            reader.damaged("range in a checked transaction failed: \(error)")
        }
    }

    private func carryOut(_ request: PutRequestView, into writer: inout ByteWriter) {
        var previous = ByteWriter(capacity: 0)
        if request.needsPrevious, let metadata = store.metadata(inTransaction: request.key) {
            put(request, over: metadata, into: &previous)
        } else {
            precondition(
                !request.ignoreValue && !request.ignoreLease, "checked put finds no previous pair")
            put(request.key, request.value, lease: request.lease)
        }
        writer.innerHeader(revision: store.transactionRevision)
        writer.raw(previous.bytes)
    }
}

extension TxnRequestView {
    /// The operations of the branch that the first answer of `path` chooses; takes that answer off.
    func taken(_ path: inout ArraySlice<Bool>) -> [RequestOpView] {
        guard let succeeded = path.popFirst() else {
            preconditionFailure("path of a transaction is too short")
        }
        return succeeded ? success : failure
    }
}
