// v3lockpb.Lock.Unlock and v3electionpb.Election but for Campaign and Observe: what needs no wait.

import KVCodec
import MVCC
import Node
import RPC
import StateMachine

/// The short calls of the Lock and Election services of one event loop.
final class ElectionService {
    private unowned let context: LoopContext

    init(_ context: LoopContext) { self.context = context }

    /// What a leader shows for itself: {1 name, 2 key, 3 create revision, 4 lease}.
    private struct LeaderKey {
        var key: [UInt8] = []
        var revision: Int64 = 0
        var lease: Int64 = 0

        init(_ message: UnsafeRawBufferPointer) throws(DecodeError) {
            var reader = ProtoReader(message)
            while let tag = try reader.next() {
                switch tag.field {
                case 2: key = [UInt8](try reader.slice(tag))
                case 3: revision = try reader.int64(tag)
                case 4: lease = try reader.int64(tag)
                default: try reader.skip(tag)
                }
            }
        }
    }

    /// The requests here: a leader, a key or a name in field 1, a value in field 2.
    private struct Fields {
        var first: UnsafeRawBufferPointer?
        var value: [UInt8] = []

        init(_ message: UnsafeRawBufferPointer) throws(DecodeError) {
            var reader = ProtoReader(message)
            while let tag = try reader.next() {
                switch tag.field {
                case 1: first = try reader.slice(tag)
                case 2: value = [UInt8](try reader.slice(tag))
                default: try reader.skip(tag)
                }
            }
        }
    }

    // MARK: Calls

    func unlock(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        answering(call) { () throws(DecodeError) in
            guard let key = try Fields(message).first, !key.isEmpty else {
                return call.finish(RPCStatus(.unknown, "etcdserver: key is not provided"))
            }
            var delete = ByteWriter(capacity: 16 + key.count)
            delete.data(1, key)
            context.carryOut(.deleteRange, .deleteRange, delete.bytes, for: Caller(call, context)) { [context] in
                switch $0 {
                case .refused(let status): call.finish(status)
                case .applied(let result):
                    context.respond(call, revision: result.revision, term: context.term)
                }
                context.observer.finished(call)
            }
        }
    }

    func proclaim(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        answering(call) { () throws(DecodeError) in
            let fields = try Fields(message)
            guard let leader = try fields.first.map(LeaderKey.init) else {
                return call.finish(.missingLeaderKey)
            }
            let caller = Caller(call, context)
            context.withLease(leader.lease, for: caller) { [self] lease in
                switch lease {
                case .failure(let status): call.finish(status)
                case .success(let lease):
                    // Who gave up while the lease was made proclaims nothing.
                    guard call.isOpen else { return }
                    let txn = QueueTxn.proclaim(
                        key: leader.key, madeAt: leader.revision, value: fields.value, lease: lease)
                    run(txn, caller) { $0 ? nil : .notLeader }
                }
            }
        }
    }

    /// A leader that is none any more has nothing to resign from; that is no error.
    func resign(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        answering(call) { () throws(DecodeError) in
            guard let leader = try Fields(message).first.map(LeaderKey.init) else {
                return call.finish(.missingLeaderKey)
            }
            let txn = QueueTxn.leave(key: leader.key, madeAt: leader.revision)
            run(txn, Caller(call, context)) { _ in nil }
        }
    }

    func leader(_ call: ServerCall, _ message: UnsafeRawBufferPointer) {
        answering(call) { () throws(DecodeError) in
            let prefix = try Fields(message).first.map { [UInt8]($0) } ?? []
            guard prefix.count <= QueueReads.maxNameBytes else { return call.finish(.nameTooLong) }
            context.whenHeadAdmitted(call, prefix + [UInt8(ascii: "/")]) { [context] range, trail in
                context.whenReadable(call, serializable: false, trail: trail) {
                    context.queueReads.first(range, while: { call.isOpen }) { outcome in
                        var status = RPCStatus.ok
                        switch outcome {
                        case .failure(let failure):
                            status = failure
                            call.finish(failure)
                        case .success((let found?, let revision)):
                            var body = ByteWriter(capacity: 16 + found.record.count)
                            body.message(2, found.record)
                            context.respond(
                                call, revision: revision, term: context.term, body: body.bytes)
                        case .success: call.finish(.noElectionLeader)
                        }
                        trail?.completed(status, revision: 0, index: 0, term: 0)
                        context.observer.finished(call)
                    }
                }
            }
        }
    }

    // MARK: Common

    /// Carries a transaction out and answers with the header, or what `problem` makes of its outcome.
    private func run(
        _ txn: [UInt8], _ caller: Caller, _ problem: @escaping (Bool) -> RPCStatus?
    ) {
        let call = caller.call
        context.carryOut(.txn, .txn, txn, for: caller) { [context] outcome in
            switch outcome {
            case .refused(let status): call.finish(status)
            case .applied(let result):
                if let status = problem(QueueTxn.succeeded(result.body)) {
                    call.finish(status)
                } else {
                    context.respond(call, revision: result.revision, term: context.term)
                }
            }
            context.observer.finished(call)
        }
    }

    private func answering(_ call: ServerCall, _ body: () throws(DecodeError) -> Void) {
        if let status = context.refusal(call) { return call.finish(status) }
        do throws(DecodeError) {
            try body()
        } catch {
            call.finish(.undecodable(error))
        }
    }
}
