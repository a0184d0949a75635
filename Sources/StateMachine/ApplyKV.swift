// Put, delete and compaction (etcd txn/put.go, txn/delete.go, apply/backend.go).

import KVCodec
import MVCC

extension StateMachine {
    func applyPut(_ body: UnsafeRawBufferPointer, _ origin: Command.Origin) throws(ApplyError)
        -> ApplyResult
    {
        let request = try decode(body, as: PutRequestView.init)
        try RequestCheck.put(request)
        let cost = QuotaCost.put(request)
        try refuseGrowth(cost: cost)
        let fits = fitsQuota(cost: cost)
        if request.lease != 0 && !lessor.contains(request.lease) { throw .leaseNotFound }

        store.begin(reader: reader)
        var reply: [UInt8] = []
        if request.needsPrevious {
            guard let previous = store.metadata(inTransaction: request.key) else {
                if request.ignoreValue || request.ignoreLease {
                    _ = store.commit(reason: .client)
                    throw .keyNotFound
                }
                put(request.key, request.value, lease: request.lease)
                return finishPut(reply, origin, fits)
            }
            var writer = ByteWriter(reusing: reply)
            put(request, over: previous, into: &writer)
            reply = writer.bytes
        } else {
            put(request.key, request.value, lease: request.lease)
        }
        return finishPut(reply, origin, fits)
    }

    private func finishPut(_ reply: [UInt8], _ origin: Command.Origin, _ fits: Bool)
        -> ApplyResult
    {
        let events = store.commit(reason: reason(for: origin, otherwise: .client))
        return ApplyResult(
            error: fits ? nil : .noSpace, revision: store.currentRevision,
            body: fits ? reply : [], events: events)
    }

    func applyDeleteRange(_ body: UnsafeRawBufferPointer, _ origin: Command.Origin)
        throws(ApplyError) -> ApplyResult
    {
        let request = try decode(body, as: DeleteRangeRequestView.init)
        try RequestCheck.deleteRange(request)
        try refuseWhenCorrupt()
        store.begin(reader: reader)
        var writer = ByteWriter(capacity: 0)
        deleteRange(request, into: &writer)
        let events = store.commit(reason: reason(for: origin, otherwise: .client))
        return ApplyResult(revision: store.currentRevision, body: writer.bytes, events: events)
    }

    func applyCompact(_ body: UnsafeRawBufferPointer) throws(ApplyError) -> ApplyResult {
        let request = try decode(body, as: CompactionRequestView.init)
        try refuseWhenCorrupt()
        do throws(MVCCError) {
            try store.compact(to: request.revision)
        } catch {
            throw ApplyError(error)
        }
        return ApplyResult(
            revision: store.currentRevision,
            effect: .compactionStarted(revision: request.revision, physical: request.physical))
    }

    func reason(for origin: Command.Origin, otherwise reason: EventReason) -> EventReason {
        origin == .plugin ? .plugin : reason
    }

    // MARK: Inside the open transaction

    /// Writes a key and moves it from its old lease to the new one, which exists.
    @inline(__always)
    func put(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, lease: Int64) {
        let previous = store.put(key: key, value: value, lease: lease)
        let oldLease = previous?.lease ?? 0
        if oldLease == lease { return }
        if oldLease != 0 { lessor.detach(key, from: oldLease) }
        if lease != 0 { lessor.attach(key, to: lease) }
    }

    /// Carries out a put whose key exists and whose flags ask for the previous pair. Writes
    /// `prev_kv` (field 2 of PutResponse) when asked.
    func put(
        _ request: PutRequestView, over previous: KeyMetadata, into writer: inout ByteWriter
    ) {
        // Valid until the commit, whatever is written meanwhile.
        let record = store.record(of: previous)
        if request.prevKV { writer.message(2, record) }
        var value = request.value
        if request.ignoreValue {
            value = keyValue(record, at: previous.revision).value
        }
        put(request.key, value, lease: request.ignoreLease ? previous.lease : request.lease)
    }

    /// Decodes a stored record. That it decodes is an invariant of the store.
    func keyValue(_ record: UnsafeRawBufferPointer, at revision: Revision) -> KeyValueView {
        do throws(DecodeError) {
            return try KeyValueView(record)
        } catch {
            reader.damaged("record at \(revision) does not decode: \(error)")
        }
    }

    /// Deletes a range and detaches its keys. Writes fields 2 and 3 of DeleteRangeResponse.
    func deleteRange(_ request: DeleteRangeRequestView, into writer: inout ByteWriter) {
        var previous = ByteWriter(capacity: 0)
        if request.prevKV {
            rangeForDelete(request, into: &previous)
        }
        let lessor = self.lessor
        let deleted = store.deleteRange(key: request.key, rangeEnd: request.rangeEnd) {
            key, metadata in
            if metadata.lease != 0 { lessor.detach(key, from: metadata.lease) }
        }
        writer.int64(2, deleted)
        writer.raw(previous.bytes)
    }

    /// The pairs of a range as field 3, `prev_kvs`.
    private func rangeForDelete(_ request: DeleteRangeRequestView, into writer: inout ByteWriter) {
        do throws(MVCCError) {
            _ = try store.range(
                inTransaction: RangeQuery(key: request.key, rangeEnd: request.rangeEnd),
                into: &writer)
        } catch {
            reader.damaged("range at the latest revision failed: \(error)")
        }
        writer.retag(from: 2, to: 3)
    }
}

extension PutRequestView {
    /// True when the put cannot be carried out without looking at the previous pair.
    var needsPrevious: Bool { prevKV || ignoreValue || ignoreLease }
}

extension ApplyError {
    init(_ error: MVCCError) {
        switch error {
        case .compacted: self = .compacted
        case .futureRevision: self = .futureRevision
        case .corruptRecord: self = .corrupt
        }
    }
}
