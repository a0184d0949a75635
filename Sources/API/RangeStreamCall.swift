// KV.RangeStream: a range in chunks at one revision (etcd 3.7, etcd-parity 1.1).
//
// The revision is pinned by the first chunk. The first chunk holds ten keys; later ones are sized
// so that a chunk comes near the largest request. Header, more and count come with the last chunk.

import KVCodec
import MVCC
import RPC
import StateMachine

/// One RangeStream call.
final class RangeStreamCall: CallHandler {
    private unowned let context: LoopContext
    private var message: [UInt8] = []
    /// Where the next chunk begins; nil before the first.
    private var nextKey: [UInt8]?
    private var revision: Int64 = 0
    private var headerRevision: Int64 = 0
    private var totalCount: Int64 = 0
    private var remaining: Int64?
    private var chunkKeys: Int64 = 10
    private var hasRequest = false
    private var isBusy = false
    private var trail: AuditTrail?

    init(_ context: LoopContext) { self.context = context }

    func received(_ bytes: UnsafeRawBufferPointer, _ call: ServerCall) {
        guard !hasRequest else { return }
        hasRequest = true
        do {
            let request = try RangeRequestView(bytes)
            try RequestCheck.range(request)
            let isSorted =
                request.sortOrder == SortOrder.descend
                || request.sortTarget != SortTarget.key
            if isSorted || request.hasRevisionFilter {
                return call.finish(
                    RPCStatus(
                        .unimplemented,
                        "RangeStream does not support sort options or revision filters"))
            }
            if let gate = context.gate, gate.selects(.rangeStream, request.key, request.rangeEnd) {
                return gate.admit(call, .rangeStream, bytes) { [self] message, trail in
                    self.trail = trail
                    begin([UInt8](message), call)
                }
            }
            begin([UInt8](bytes), call)
        } catch let error as DecodeError {
            call.finish(.undecodableMessage(error))
        } catch let error as ApplyError {
            call.finish(RPCStatus(error))
        } catch {
            preconditionFailure("unexpected error \(error)")
        }
    }

    private func begin(_ message: [UInt8], _ call: ServerCall) {
        self.message = message
        // The limit too may have been changed by a plugin.
        let isSerializable = message.withUnsafeBytes { bytes in
            guard let request = try? RangeRequestView(bytes) else { return false }
            remaining = request.limit > 0 ? request.limit : nil
            return request.serializable
        }
        // The trail is this call's alone: a refusal ends the call, and `closed` records that.
        context.whenReadable(call, serializable: isSerializable, trail: nil) { [self] in
            sendChunks(call)
        }
    }

    func writable(_ call: ServerCall) { sendChunks(call) }

    func closed(_ call: ServerCall) {
        if message.isEmpty { return }
        message = []
        completed(call.code == .ok ? RPCStatus(.cancelled, "context canceled") : call.status)
    }

    /// Records the outcome, once.
    private func completed(_ status: RPCStatus) {
        trail?.completed(status, revision: 0, index: 0, term: 0)
        trail = nil
    }

    private func sendChunks(_ call: ServerCall) {
        if isBusy || message.isEmpty { return }
        isBusy = true
        defer { isBusy = false }
        while call.isOpen && call.isWritable && !message.isEmpty {
            do throws(MVCCError) {
                if try sendChunk(call) {
                    message = []
                    call.finish(.ok)
                    completed(.ok)
                }
            } catch {
                message = []
                call.finish(RPCStatus(error))
                completed(RPCStatus(error))
            }
        }
    }

    /// Sends one chunk; true when it was the last.
    private func sendChunk(_ call: ServerCall) throws(MVCCError) -> Bool {
        var body = ByteWriter(capacity: 4096)
        var outcome: Result<RangeResult, MVCCError>?
        message.withUnsafeBytes { bytes in
            guard let request = try? RangeRequestView(bytes) else { return }
            var query = RangeQuery(request)
            if revision != 0 { query.revision = revision }
            query.limit = min(remaining ?? .max, chunkKeys)
            outcome = Result { () throws(MVCCError) in
                guard let nextKey else {
                    return try context.node.store.range(
                        query, reader: context.reader, into: &body)
                }
                let next: Result<RangeResult, MVCCError> = nextKey.withUnsafeBytes { key in
                    query.key = key
                    return Result { () throws(MVCCError) in
                        try context.node.store.range(query, reader: context.reader, into: &body)
                    }
                }
                return try next.get()
            }
        }
        guard let result = try outcome?.get() else { return true }
        if revision == 0 {
            revision = requestedRevision ?? result.revision
            headerRevision = result.revision
            totalCount = result.count
        }
        let (sent, last) = Self.keys(body.bytes)
        if let remaining { self.remaining = remaining - sent }
        let isLast = !result.more || remaining == 0
        var reply = ByteWriter(capacity: body.count + 64)
        reply.nested(1) { inner in
            if isLast {
                context.header.append(to: &inner, revision: headerRevision, term: context.term)
            }
            inner.raw(body.bytes)
            if isLast {
                inner.bool(3, result.more)
                inner.int64(4, totalCount)
            }
        }
        call.send(reply.bytes)
        if isLast { return true }
        nextKey = last + [0]
        // Aim at a chunk of the largest request's size.
        if body.count * 2 < context.options.maxRequestBytes {
            chunkKeys = min(chunkKeys * 2, 1 << 20)
        } else if body.count > context.options.maxRequestBytes {
            chunkKeys = max(1, chunkKeys / 2)
        }
        return false
    }

    private var requestedRevision: Int64? {
        message.withUnsafeBytes { bytes in
            guard let request = try? RangeRequestView(bytes), request.revision > 0 else {
                return nil
            }
            return request.revision
        }
    }

    /// How many records a run of field 2 holds, and the last one's key.
    private static func keys(_ records: [UInt8]) -> (Int64, [UInt8]) {
        records.withUnsafeBytes { bytes in
            var count: Int64 = 0
            var last: [UInt8] = []
            var reader = ProtoReader(bytes)
            while let tag = try? reader.next(), let record = try? reader.slice(tag) {
                count += 1
                if reader.isAtEnd, let view = try? KeyValueView(record) { last = [UInt8](view.key) }
            }
            return (count, last)
        }
    }
}
