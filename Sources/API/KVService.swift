// etcdserverpb.KV: Range, Put, DeleteRange, Txn, Compact.
//
// Writes become log entries made of a header and the request's own bytes; reads are answered from
// the store on this loop. A request that no plugin is bound to is decoded once, checked, and on
// its way; one that is passes the gate first and comes back with its final bytes.

import KVCodec
import MVCC
import Node
import RPC
import StateMachine

/// The KV service of one event loop.
final class KVService {
    private unowned let context: LoopContext

    init(_ context: LoopContext) { self.context = context }

    // MARK: Put

    func put(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        if let status = context.refusal(call) { return call.finish(status) }
        do {
            let request = try PutRequestView(message)
            try RequestCheck.put(request)
            if let gate = context.gate {
                let hooks = gate.hooks(forPutOf: request.key)
                if hooks.isEmpty { return proposePut(call, request, message, nil) }
                let verdict = gate.judge(call, .put, message, hooks: hooks)
                if case .pass(let trail) = verdict { return proposePut(call, request, message, trail) }
                return gate.settle(verdict, call, message) { [self] message, trail in
                    guard let request = try? PutRequestView(message) else {
                        preconditionFailure("the gate let an undecodable put pass")
                    }
                    proposePut(call, request, message, trail)
                }
            }
            proposePut(call, request, message, nil)
        } catch {
            refuse(call, error)
        }
    }

    private func proposePut(
        _ call: ServerCall, _ request: PutRequestView, _ message: UnsafeRawBufferPointer,
        _ trail: AuditTrail?
    ) {
        propose(call, .put, message, cost: QuotaCost.put(request), trail)
    }

    // MARK: DeleteRange

    func deleteRange(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        if let status = context.refusal(call) { return call.finish(status) }
        do {
            let request = try DeleteRangeRequestView(message)
            try RequestCheck.deleteRange(request)
            if let gate = context.gate, gate.selects(.deleteRange, request.key, request.rangeEnd) {
                return gate.admit(call, .deleteRange, message) { [self] message, trail in
                    propose(call, .deleteRange, message, cost: 0, trail)
                }
            }
            propose(call, .deleteRange, message, cost: 0, nil)
        } catch {
            refuse(call, error)
        }
    }

    // MARK: Txn

    func txn(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        if let status = context.refusal(call) { return call.finish(status) }
        do {
            let request = try TxnRequestView(message)
            try RequestCheck.txn(request, maxOps: context.options.maxTxnOps)
            if let gate = context.gate, gate.selects(.txn, request) {
                return gate.admit(call, .txn, message) { [self] message, trail in
                    guard let request = try? TxnRequestView(message) else {
                        preconditionFailure("the gate let an undecodable txn pass")
                    }
                    runTxn(call, request, message, trail)
                }
            }
            runTxn(call, request, message, nil)
        } catch {
            refuse(call, error)
        }
    }

    private func runTxn(
        _ call: ServerCall, _ request: TxnRequestView, _ message: UnsafeRawBufferPointer,
        _ trail: AuditTrail?
    ) {
        guard isReadOnly(request) else {
            return propose(call, .txn, message, cost: QuotaCost.txn(request), trail)
        }
        if context.isReadable(serializable: isSerializable(request)) {
            return readTxn(call, request, trail)
        }
        let owned = [UInt8](message)
        context.whenReadable(call, serializable: false, trail: trail) { [self] in
            owned.withUnsafeBytes { bytes in
                guard let request = try? TxnRequestView(bytes) else { return }
                readTxn(call, request, trail)
            }
        }
    }

    private func readTxn(_ call: ServerCall, _ request: TxnRequestView, _ trail: AuditTrail?) {
        do throws(ApplyError) {
            try context.respond(call) { writer throws(ApplyError) in
                try TxnReader.execute(
                    request, store: context.node.store, reader: context.reader, into: &writer)
            }
            trail?.completed(.ok, revision: 0, index: 0, term: 0)
        } catch {
            call.finish(RPCStatus(error))
            trail?.completed(RPCStatus(error), revision: 0, index: 0, term: 0)
        }
        context.observer.finished(call)
    }

    // MARK: Compact

    func compact(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        if let status = context.refusal(call) { return call.finish(status) }
        do {
            _ = try CompactionRequestView(message)
            if let gate = context.gate, gate.selects(.compact) {
                return gate.admit(call, .compact, message) { [self] message, trail in
                    propose(call, .compact, message, cost: 0, trail)
                }
            }
            propose(call, .compact, message, cost: 0, nil)
        } catch {
            refuse(call, error)
        }
    }

    // MARK: Range

    func range(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        if let status = context.refusal(call) { return call.finish(status) }
        do {
            let request = try RangeRequestView(message)
            if context.isLearner && !request.serializable { return call.finish(.notForLearner) }
            try RequestCheck.range(request)
            if let gate = context.gate, gate.selects(.range, request.key, request.rangeEnd) {
                return gate.admit(call, .range, message) { [self] message, trail in
                    guard let request = try? RangeRequestView(message) else {
                        preconditionFailure("the gate let an undecodable range pass")
                    }
                    readRange(call, request, message, trail)
                }
            }
            readRange(call, request, message, nil)
        } catch {
            refuse(call, error)
        }
    }

    private func readRange(
        _ call: ServerCall, _ request: RangeRequestView, _ message: UnsafeRawBufferPointer,
        _ trail: AuditTrail?
    ) {
        if context.isReadable(serializable: request.serializable) {
            return answer(call, request, message, trail)
        }
        let owned = [UInt8](message)
        context.whenReadable(call, serializable: false, trail: trail) { [self] in
            owned.withUnsafeBytes { bytes in
                guard let request = try? RangeRequestView(bytes) else { return }
                answer(call, request, bytes, trail)
            }
        }
    }

    private func answer(
        _ call: ServerCall, _ request: RangeRequestView, _ message: UnsafeRawBufferPointer,
        _ trail: AuditTrail?
    ) {
        if isLong(request) {
            return context.rangeThread.range(
                [UInt8](message), call: call, context: context, trail: trail)
        }
        do throws(MVCCError) {
            try context.respond(call) { writer throws(MVCCError) in
                let result = try context.node.store.range(
                    RangeQuery(request), reader: context.reader, into: &writer)
                writer.bool(3, result.more)
                writer.int64(4, result.count)
                return result.revision
            }
            trail?.completed(.ok, revision: 0, index: 0, term: 0)
        } catch {
            call.finish(RPCStatus(error))
            trail?.completed(RPCStatus(error), revision: 0, index: 0, term: 0)
        }
        context.observer.finished(call)
    }

    /// Whether a range may look at so many keys that the loop's other clients would feel it.
    private func isLong(_ request: RangeRequestView) -> Bool {
        if request.rangeEnd.isEmpty || request.countOnly { return false }
        let bound = context.options.maxLoopRangeKeys
        let isPlain =
            !request.hasRevisionFilter && request.sortOrder == SortOrder.none
            && request.sortTarget == SortTarget.key
        if isPlain && request.limit > 0 && request.limit <= bound { return false }
        return context.keyCount(request.key, request.rangeEnd) > bound
    }

    // MARK: Common

    private func propose(
        _ call: ServerCall, _ kind: Command.Kind, _ message: UnsafeRawBufferPointer, cost: Int64,
        _ trail: AuditTrail?
    ) {
        let waiter = PendingWrite(call, context, trail: trail)
        if cost > 0 && !context.hasSpace(cost: cost) { return waiter.refuse(ApplyError.noSpace) }
        context.propose(Command.encode(kind: kind, body: message), waiter)
    }

    private func refuse(_ call: ServerCall, _ error: any Error) {
        switch error {
        case let error as ApplyError: call.finish(RPCStatus(error))
        case let error as DecodeError: call.finish(.undecodable(error))
        default: preconditionFailure("unexpected error \(error)")
        }
    }
}
