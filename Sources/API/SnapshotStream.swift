// Maintenance.Snapshot: a copy of the backend in pieces of 32 KiB, then SHA-256 of it (etcd
// api/v3rpc/maintenance.go). etcdctl writes the pieces one behind the other and looks for the digest.
//
// The copy is made and read on a thread of its own. It hands over a few pieces at a time and waits until
// the call wants more, so a slow client costs a file on disk and no memory, and holds up nothing.

import KVCodec
import NIOCore
import Node
import RPC
import Storage
import Synchronization

/// One Snapshot call. Confined to its loop.
final class SnapshotStream: CallHandler {
    private unowned let context: LoopContext
    private var hasRequest = false
    private var worker: SnapshotWorker?
    private var trail: AuditTrail?
    /// The worker has sent pieces and waits to be told that they went out.
    private var owesAnswer = false

    init(_ context: LoopContext) { self.context = context }

    func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall) {
        guard !hasRequest else { return }
        hasRequest = true
        guard let gate = context.gate, gate.selects(.snapshot) else { return begin(call) }
        gate.admit(call, .snapshot, message) { [self] _, trail in
            self.trail = trail
            begin(call)
        }
    }

    /// What is acknowledged is applied; the backend commits that first, as etcd's does.
    private func begin(_ call: ServerCall) {
        let query = PendingQuery(loopIndex: context.loop.index) { [self] answer in
            switch answer {
            case .committedToBackend: copy(call)
            case .refused(let error): refuse(call, RPCStatus(error))
            default: preconditionFailure("a commit was answered with \(answer)")
            }
        }
        if !context.node.commitToBackend(query) { refuse(call, .tooManyRequests) }
    }

    private func refuse(_ call: ServerCall, _ status: RPCStatus) {
        call.finish(status)
        completed(status)
    }

    private func copy(_ call: ServerCall) {
        guard call.isOpen else { return completed(RPCStatus(.cancelled, "context canceled")) }
        let back = LoopReturn { [self] (output: SnapshotWorker.Output) in take(output, call) }
        let loop = context.loop
        let worker = SnapshotWorker(
            monitoring: context.monitoring, directory: context.node.snapshotDirectory
        ) { output in
            loop.eventLoop.execute { loop.batch { back.body(output) } }
        }
        // The backend is reached through its own thread, behind commits that wait there.
        guard let worker, context.node.onBackend({ worker.start($0) }) else {
            worker?.giveUp()
            return refuse(call, .tooManyRequests)
        }
        self.worker = worker
    }

    private func take(_ output: SnapshotWorker.Output, _ call: ServerCall) {
        guard worker != nil else { return }
        switch output {
        case .pieces(let messages):
            for message in messages { call.send(message) }
            owesAnswer = true
            writable(call)
        case .ended(let status):
            worker = nil
            call.finish(status)
            completed(status)
        }
    }

    func writable(_ call: ServerCall) {
        guard owesAnswer, call.isOpen, call.isWritable else { return }
        owesAnswer = false
        worker?.answer(.more)
    }

    func closed(_ call: ServerCall) {
        worker?.answer(.stop)
        worker = nil
        completed(RPCStatus(.cancelled, "context canceled"))
    }

    private func completed(_ status: RPCStatus) {
        trail?.completed(status, revision: 0, index: 0, term: 0)
        trail = nil
    }
}

/// Makes and reads one copy, on a thread that ends with it.
final class SnapshotWorker: Sendable {
    enum Output: Sendable {
        /// Encoded responses, to be answered when there is room for more.
        case pieces([[UInt8]])
        case ended(RPCStatus)
    }

    enum Answer: Sendable { case more, stop }

    /// Copies at a time; each takes disk space and a thread.
    static let maxCopies = 4
    private static let pieceBytes = 32 << 10
    private static let piecesAtOnce = 8

    private let answers = Mailbox<Answer>(capacity: 4)
    private let monitoring: Monitoring
    private let directory: String
    private let output: @Sendable (Output) -> Void

    /// Nil when as many copies as allowed are under way.
    init?(monitoring: Monitoring, directory: String, output: @escaping @Sendable (Output) -> Void) {
        guard monitoring.beginCopy(limit: Self.maxCopies) else { return nil }
        self.monitoring = monitoring
        self.directory = directory
        self.output = output
    }

    /// From the call's loop.
    func answer(_ answer: Answer) { answers.post(answer) }

    /// Instead of `start`.
    func giveUp() { monitoring.endCopy() }

    func start(_ backend: Backend) {
        OwnedThread(name: "snapshot") { [self] in
            let status = run(backend)
            monitoring.endCopy()
            output(.ended(status))
        }.detach()
    }

    private func run(_ backend: Backend) -> RPCStatus {
        do {
            let start = monotonicNanoseconds()
            let copy = try BackendCopy(of: backend, in: directory)
            monitoring.copied(nanoseconds: monotonicNanoseconds() &- start)
            return try send(copy)
        } catch let error as BackendCopyError {
            guard case .noRoom = error else { return RPCStatus(.internal, "\(error)") }
            return RPCStatus(.resourceExhausted, "moonraft: \(error)")
        } catch {
            return RPCStatus(.internal, "\(error)")
        }
    }

    private func send(_ copy: BackendCopy) throws -> RPCStatus {
        var sent: UInt64 = 0
        while sent < copy.byteCount {
            var messages: [[UInt8]] = []
            while messages.count < Self.piecesAtOnce, sent < copy.byteCount {
                let piece = try copy.next(Self.pieceBytes)
                sent += UInt64(piece.count)
                messages.append(Self.message(piece, remaining: copy.byteCount - sent))
            }
            output(.pieces(messages))
            if wait() == .stop { return RPCStatus(.cancelled, "context canceled") }
        }
        output(.pieces([Self.message(copy.digest, remaining: 0)]))
        return .ok
    }

    /// SnapshotResponse {2 remaining_bytes, 3 blob, 4 version}; etcd leaves the header out, too.
    private static func message(_ blob: [UInt8], remaining: UInt64) -> [UInt8] {
        var writer = ByteWriter(capacity: blob.count + 32)
        writer.uint64(2, remaining)
        blob.withUnsafeBytes { writer.data(3, $0) }
        writer.string(4, ProductVersion.storage)
        return writer.bytes
    }

    private func wait() -> Answer {
        while true {
            var batch: [Answer] = []
            answers.take(into: &batch, deadline: monotonicNanoseconds() &+ 1_000_000_000)
            // A stop comes before anything else.
            if batch.contains(.stop) { return .stop }
            if let answer = batch.first { return answer }
        }
    }
}
