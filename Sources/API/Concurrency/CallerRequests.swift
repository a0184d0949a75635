// What the Lock and Election services do on their caller's behalf. They are made of transactions, ranges
// and leases (etcd api/v3lock, api/v3election over client/v3/concurrency), and each of those passes the
// plugins as if the caller had sent it, so that a lock opens no way around a policy.

import KVCodec
import MVCC
import Node
import RPC
import Replica
import StateMachine

/// What came of a request made for a caller.
enum CallerOutcome {
    case applied(ApplyResult)
    case refused(RPCStatus)
}

/// A kv that heads a queue, or is looked for there.
struct QueuedKey: Equatable {
    var key: [UInt8]
    var createRevision: Int64
    var modRevision: Int64
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

extension LoopContext {
    /// Has a transaction, deletion or grant judged, proposed and applied for a caller.
    ///
    /// - Parameter method: `txn`, `deleteRange` or `leaseGrant`, what `message` is a request of.
    func carryOut(
        _ method: Method, _ kind: Command.Kind, _ message: [UInt8], for call: ServerCall,
        _ then: @escaping (CallerOutcome) -> Void
    ) {
        guard let gate, gate.selects(method) else { return propose(kind, message, nil, then) }
        message.withUnsafeBytes { bytes in
            gate.admit(call, method, bytes, refuse: { then(.refused($0)) }) { [self] final, trail in
                propose(kind, [UInt8](final), trail, then)
            }
        }
    }

    private func propose(
        _ kind: Command.Kind, _ message: [UInt8], _ trail: AuditTrail?,
        _ then: @escaping (CallerOutcome) -> Void
    ) {
        func refuse(_ status: RPCStatus) {
            then(.refused(status))
            trail?.completed(status, revision: 0, index: 0, term: 0)
        }
        if !hasSpace(cost: cost(kind, message)) { return refuse(Self.asCallersSee(.noSpace)) }
        let waiter = PendingQuery(loopIndex: loop.index) { answer in
            switch answer {
            case .applied(let result, let index, let term):
                let status = result.error.map { Self.asCallersSee($0) }
                then(status.map { .refused($0) } ?? .applied(result))
                trail?.completed(status ?? .ok, revision: result.revision, index: index, term: term)
            case .refused(let error): refuse(RPCStatus(error))
            default: preconditionFailure("a command was answered with \(answer)")
            }
        }
        if let error = offer(Command.encode(kind: kind, body: message), waiter) {
            refuse(RPCStatus(error))
        }
    }

    private func cost(_ kind: Command.Kind, _ message: [UInt8]) -> Int64 {
        switch kind {
        case .leaseGrant: QuotaCost.lease
        case .txn: message.withUnsafeBytes { (try? TxnRequestView($0)).map(QuotaCost.txn) ?? 0 }
        default: 0
        }
    }

    /// etcd's services pass the text of such an error on, and not its code.
    private static func asCallersSee(_ error: ApplyError) -> RPCStatus {
        RPCStatus(.unknown, RPCStatus(error).message)
    }

    /// The lease to use: the caller's, or for 0 a new one of 60 s that nobody renews, as etcd makes one.
    func withLease(
        _ lease: Int64, for call: ServerCall, _ then: @escaping (Result<Int64, RPCStatus>) -> Void
    ) {
        if lease != 0 { return then(.success(lease)) }
        let id = Int64.random(in: 1 ... .max)
        let seconds: Int64 = 60
        var grant = ByteWriter(capacity: 16)
        grant.int64(1, seconds)
        grant.int64(2, id)
        carryOut(.leaseGrant, .leaseGrant, grant.bytes, for: call) { outcome in
            switch outcome {
            case .applied: then(.success(id))
            case .refused(let status): then(.failure(status))
            }
        }
    }

    /// The oldest key below a prefix, the head of the queue, at the store's current revision; or the
    /// newest of those made before a revision.
    func queued(
        _ prefix: [UInt8], newestBefore revision: Int64? = nil
    ) -> Result<(found: QueuedKey?, revision: Int64), RPCStatus> {
        read(key: prefix, rangeEnd: Self.prefixEnd(prefix)) { query in
            query.sortTarget = SortTarget.create
            query.sortOrder = revision == nil ? SortOrder.ascend : SortOrder.descend
            query.maxCreateRevision = revision.map { $0 - 1 } ?? 0
        }
    }

    /// One key at the store's current revision.
    func stored(_ key: [UInt8]) -> Result<(found: QueuedKey?, revision: Int64), RPCStatus> {
        read(key: key, rangeEnd: []) { _ in }
    }

    private func read(
        key: [UInt8], rangeEnd: [UInt8], _ refine: (inout RangeQuery) -> Void
    ) -> Result<(found: QueuedKey?, revision: Int64), RPCStatus> {
        key.withUnsafeBytes { key in
            rangeEnd.withUnsafeBytes { rangeEnd in
                var query = RangeQuery(key: key, rangeEnd: rangeEnd)
                query.limit = 1
                refine(&query)
                var writer = ByteWriter(capacity: 256)
                do throws(MVCCError) {
                    let result = try node.store.range(query, reader: reader, into: &writer)
                    return .success((Self.firstRecord(writer.bytes), result.revision))
                } catch {
                    return .failure(RPCStatus(error))
                }
            }
        }
    }

    /// The KeyValue in field 2 of a range's reply.
    static func firstRecord(_ reply: [UInt8]) -> QueuedKey? {
        reply.withUnsafeBytes { bytes in
            var reader = ProtoReader(bytes)
            while let tag = try? reader.next() {
                if tag.field == 2 { return (try? reader.slice(tag)).flatMap { try? QueuedKey($0) } }
                do { try reader.skip(tag) } catch { return nil }
            }
            return nil
        }
    }

    /// Where the keys with a prefix end. All prefixes here end with "/", so there is such a place.
    static func prefixEnd(_ prefix: [UInt8]) -> [UInt8] {
        prefix.dropLast() + [UInt8(ascii: "/") + 1]
    }
}

/// The transactions that locks and elections are made of.
enum QueueTxn {
    /// Puts the key unless it is there; either way the reply tells who heads the queue, and of a key that
    /// was there what it is. A plugin sees both reads, as it does from a client's own library.
    static func enter(key: [UInt8], value: [UInt8], lease: Int64, prefix: [UInt8]) -> [UInt8] {
        var txn = ByteWriter(capacity: 128 + 4 * key.count + value.count)
        compareCreation(of: key, with: 0, into: &txn)
        txn.nested(2) { op in
            op.nested(2) { put in
                put.data(1, key)
                put.data(2, value)
                put.int64(3, lease)
            }
        }
        txn.nested(2) { head(of: prefix, into: &$0) }
        txn.nested(3) { op in op.nested(1) { $0.data(1, key) } }
        txn.nested(3) { head(of: prefix, into: &$0) }
        return txn.bytes
    }

    /// Puts the key if it is the one made at that revision.
    static func proclaim(key: [UInt8], madeAt revision: Int64, value: [UInt8], lease: Int64) -> [UInt8] {
        var txn = ByteWriter(capacity: 64 + 2 * key.count + value.count)
        compareCreation(of: key, with: revision, into: &txn)
        txn.nested(2) { op in
            op.nested(2) { put in
                put.data(1, key)
                put.data(2, value)
                put.int64(3, lease)
            }
        }
        return txn.bytes
    }

    /// Deletes the key if it is the one made at that revision.
    static func leave(key: [UInt8], madeAt revision: Int64) -> [UInt8] {
        var txn = ByteWriter(capacity: 64 + 2 * key.count)
        compareCreation(of: key, with: revision, into: &txn)
        txn.nested(2) { op in op.nested(3) { $0.data(1, key) } }
        return txn.bytes
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

    private static func head(of prefix: [UInt8], into op: inout ByteWriter) {
        op.nested(1) { range in
            range.data(1, prefix)
            range.data(2, LoopContext.prefixEnd(prefix))
            range.int64(3, 1)
            range.int64(5, Int64(SortOrder.ascend))
            range.int64(6, Int64(SortTarget.create))
        }
    }

    /// What a transaction's reply says: whether the compares held, and the key that its first operation
    /// read.
    static func reply(_ body: [UInt8]) -> (succeeded: Bool, found: QueuedKey?) {
        body.withUnsafeBytes { bytes in
            var succeeded = false
            var found: QueuedKey?
            var isFirst = true
            var reader = ProtoReader(bytes)
            while let tag = try? reader.next() {
                do {
                    switch tag.field {
                    case 2: succeeded = try reader.bool(tag)
                    case 3:
                        let response = try reader.slice(tag)
                        if isFirst { found = range(response) }
                        isFirst = false
                    default: try reader.skip(tag)
                    }
                } catch {
                    break
                }
            }
            return (succeeded, found)
        }
    }

    private static func range(_ response: UnsafeRawBufferPointer) -> QueuedKey? {
        var reader = ProtoReader(response)
        while let tag = try? reader.next() {
            guard let slice = try? reader.slice(tag) else { return nil }
            if tag.field == 1 { return LoopContext.firstRecord([UInt8](slice)) }
        }
        return nil
    }
}
