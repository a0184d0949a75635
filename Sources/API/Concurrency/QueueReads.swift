// Reads of queues. Finding the head of a queue, or who stands before a place, looks at every key below its
// prefix, and one deletion or one gap in the events may make many calls look at once. So they take turns:
// a round of the event loop looks at a bounded number of keys, and queues longer than the loop reads itself
// are read on the range thread.

import KVCodec
import MVCC
import NIOCore
import RPC
import StateMachine

/// The reads of one event loop's Lock and Election calls. Confined to that loop.
final class QueueReads {
    /// The first key of a range, and the revision at which it was read.
    typealias Outcome = Result<(found: QueuedKey?, revision: Int64), RPCStatus>

    private unowned let context: LoopContext
    /// What waits for its turn: one job of a call at most, so the calls bound it.
    private var jobs = CircularBuffer<() -> Void>()
    private var isScheduled = false
    /// How many keys this round may still look at.
    private var keysLeft: Int64 = 0
    /// Reads on the range thread. While there are ``maxLongReads`` the others wait, so that a loop's waiting
    /// calls never fill that thread's queue.
    private var longReads = 0
    /// The longest name of a lock or election: whoever waits holds it several times over.
    static let maxNameBytes = 64 << 10
    private static let maxKeysPerRound: Int64 = 4_000
    private static let maxLongReads = 8
    /// What looking up one key counts for.
    private static let lookupCost: Int64 = 8

    init(_ context: LoopContext) { self.context = context }

    /// Runs a short job, such as looking up one key, when its turn comes. Never at once.
    func inTurn(_ job: @escaping () -> Void) {
        jobs.append(job)
        schedule()
    }

    /// Reads the first key of a range when its turn comes. Never at once.
    ///
    /// - Parameters:
    ///   - range: a RangeRequest message.
    ///   - isWanted: asked when the turn comes; `then` hears a failure instead of what nobody wants any more.
    func first(_ range: [UInt8], while isWanted: @escaping () -> Bool, _ then: @escaping (Outcome) -> Void) {
        inTurn { [weak self] in
            guard isWanted() else { return then(.failure(RPCStatus(.cancelled, "context canceled"))) }
            self?.read(range, then)
        }
    }

    /// The create revision of a key that is there, and the store's revision.
    func creation(of key: [UInt8]) -> (createRevision: Int64?, revision: Int64) {
        context.node.store.withSnapshot(reader: context.reader) { snapshot in
            (key.withUnsafeBytes { snapshot.metadata(of: $0)?.createRevision }, snapshot.revision)
        }
    }

    private func schedule() {
        if isScheduled || jobs.isEmpty || longReads >= Self.maxLongReads { return }
        isScheduled = true
        let loop = context.loop
        let back = LoopReturn { [weak self] (_: Void) in self?.round() }
        loop.eventLoop.execute { loop.batch { back.body(()) } }
    }

    private func round() {
        isScheduled = false
        keysLeft = Self.maxKeysPerRound
        while keysLeft > 0, longReads < Self.maxLongReads, let job = jobs.popFirst() {
            keysLeft -= Self.lookupCost
            job()
        }
        schedule()
    }

    private func read(_ range: [UInt8], _ then: @escaping (Outcome) -> Void) {
        let outcome: Outcome? = range.withUnsafeBytes { bytes in
            let request: RangeRequestView
            do throws(DecodeError) {
                request = try RangeRequestView(bytes)
            } catch {
                return .failure(.undecodable(error))
            }
            let keys = context.keyCount(request.key, request.rangeEnd)
            if keys > context.options.maxLoopRangeKeys { return nil }
            keysLeft -= keys
            var writer = ByteWriter(capacity: 256)
            do throws(MVCCError) {
                let result = try context.node.store.range(
                    RangeQuery(request), reader: context.reader, into: &writer)
                return .success((writer.bytes.withUnsafeBytes(QueueRange.firstRecord), result.revision))
            } catch {
                return .failure(RPCStatus(error))
            }
        }
        if let outcome { return then(outcome) }
        longReads += 1
        context.rangeThread.read(range, context) { [self] result in
            longReads -= 1
            if case .failure(let status) = result, status == RPCStatus(ApplyError.compacted) {
                // A snapshot was taken over between two pieces; the range names no revision.
                inTurn { [weak self] in self?.read(range, then) }
            } else {
                then(result.map { ($0.reply.withUnsafeBytes(QueueRange.firstRecord), $0.revision) })
            }
            schedule()
        }
    }
}
