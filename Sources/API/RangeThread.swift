// Ranges too long for an event loop are read on a thread of their own, one after another.

import KVCodec
import MVCC
import Node
import RPC

/// Reads long ranges aside, so that a listing of everything does not stop other clients.
package final class RangeThread: Sendable {
    private enum Job: Sendable {
        case range(Work)
        case stop
    }

    /// One range and the way back to its loop.
    private final class Work: @unchecked Sendable {
        // Unchecked: written by the loop before it is queued, then by the thread, then read by
        // the loop; the queues order these.
        let message: [UInt8]
        let context: LoopContext
        /// Takes the outcome, on the loop.
        let done: (Work) -> Void
        var reply: [UInt8] = []
        var revision: Int64 = 0
        var status = RPCStatus.ok

        init(_ message: [UInt8], _ context: LoopContext, _ done: @escaping (Work) -> Void) {
            self.message = message
            self.context = context
            self.done = done
        }
    }

    private let jobs: Mailbox<Job>
    private let node: Node
    private let header: ResponseHeader
    private let fatal: FatalHandler

    /// - Parameter queueLength: ranges that may wait; one more is refused.
    package init(node: Node, queueLength: Int, fatal: @escaping FatalHandler) {
        self.node = node
        self.fatal = fatal
        jobs = Mailbox(capacity: queueLength)
        header = ResponseHeader(clusterID: node.clusterID, memberID: node.memberID)
    }

    /// Starts the thread; `stop` ends it.
    package func start() -> OwnedThread {
        OwnedThread(name: "range") { [self] in run() }
    }

    package func stop() { jobs.post(.stop) }

    /// Answers `call` with the range, in time. Called on the call's loop.
    func range(
        _ message: [UInt8], call: ServerCall, context: LoopContext, trail: AuditTrail?
    ) {
        offer(
            Work(message, context) { work in
                if work.status.code == .ok {
                    call.respond(work.reply)
                } else {
                    call.finish(work.status)
                }
                trail?.completed(work.status, revision: 0, index: 0, term: 0)
                context.observer.finished(call)
            })
    }

    /// Reads a range for the node itself. Called on the loop of `context`, and so is `then`.
    func read(
        _ message: [UInt8], _ context: LoopContext,
        _ then: @escaping (Result<(reply: [UInt8], revision: Int64), RPCStatus>) -> Void
    ) {
        offer(
            Work(message, context) { work in
                then(
                    work.status.code == .ok
                        ? .success((work.reply, work.revision)) : .failure(work.status))
            })
    }

    private func offer(_ work: Work) {
        if jobs.offer(.range(work)) { return }
        work.status = .tooManyRequests
        work.done(work)
    }

    private func run() {
        let reader: LMDBRecordReader
        do { reader = try node.makeReader() } catch { fatal("\(error)") }
        var batch: [Job] = []
        while true {
            batch.removeAll(keepingCapacity: true)
            jobs.take(into: &batch, deadline: monotonicNanoseconds() &+ 1_000_000_000)
            for job in batch {
                guard case .range(let work) = job else { return }
                let monitoring = work.context.monitoring
                monitoring.longReads.add(1, ordering: .relaxed)
                read(work, reader)
                monitoring.longReads.subtract(1, ordering: .relaxed)
                let loop = work.context.loop
                loop.eventLoop.execute { [work] in
                    loop.batch { work.done(work) }
                }
            }
        }
    }

    private func read(_ work: Work, _ reader: LMDBRecordReader) {
        work.message.withUnsafeBytes { bytes in
            do {
                let request = try RangeRequestView(bytes)
                var body = ByteWriter(capacity: 1 << 20)
                let result = try node.store.range(
                    RangeQuery(request), reader: reader, into: &body)
                body.bool(3, result.more)
                body.int64(4, result.count)
                var reply = ByteWriter(capacity: body.count + ResponseHeader.maximumSize)
                header.append(
                    to: &reply, revision: result.revision,
                    term: node.status.term.load(ordering: .relaxed))
                reply.raw(body.bytes)
                work.revision = result.revision
                let bound = work.context.options.maxResponseBytes
                if reply.count > bound {
                    work.status = .tooLarge(reply.count, bound)
                } else {
                    work.reply = reply.bytes
                }
            } catch let error as MVCCError {
                work.status = RPCStatus(error)
            } catch {
                work.status = RPCStatus(.internal, "\(error)")
            }
        }
    }
}
