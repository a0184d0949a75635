// Who runs the replica's turns.
//
// The replica has one owner at a time, but not one thread: whoever brings it input and finds it free runs
// the turn itself. A put of a lone client then stays on its event loop from the socket to the answer, and
// a peer's message on the transport's loop from one socket to the other; each thread that need not be
// woken saves 25 to 35 µs. Whoever finds the replica busy leaves the input to the one at work, who looks
// again when it lets go. The replica's own thread does what is due by the clock, what takes long, and
// what would keep a helping thread from its own work.

import Replica
import Synchronization

/// Sees to it that the calling event loop runs a turn at the end of its present round, so that one turn
/// takes all that the round brought. Called on that loop.
package protocol TurnScheduler: AnyObject {
    func scheduleTurn()
}

/// The replica's inbox, and the lock that makes a thread its owner for a turn.
final class ReplicaTurns: Sendable {
    private let mailbox: Mailbox<ReplicaInput>
    private let owned = Mutex<Owned>(Owned())
    /// Whether something arrived that only the replica's own thread should take, or it is stopping.
    private let isReserved = Atomic<Bool>(false)
    /// When the replica's thread wakes by itself, in monotonic nanoseconds.
    private let wakeTime = Atomic<UInt64>(0)

    private struct Owned: ~Copyable {
        // Unchecked by the compiler: ReplicaLoop is a class without locks, only reached under the mutex.
        nonisolated(unsafe) var loop: ReplicaLoop?
    }

    /// Turns that a thread runs for others in a row before the replica's own thread takes over.
    private static let helpingTurns = 8
    /// A duty that is due this much earlier than the thread wakes is worth waking it.
    private static let wakeSlackNanoseconds: UInt64 = 2_000_000

    init(mailbox: Mailbox<ReplicaInput>) { self.mailbox = mailbox }

    // MARK: Input

    /// Adds what must not be lost, and wakes the replica's thread.
    func post(_ input: ReplicaInput) { mailbox.post(input) }

    /// Adds what takes long or ends everything.
    func postReserved(_ input: ReplicaInput) {
        isReserved.store(true, ordering: .sequentiallyConsistent)
        mailbox.post(input)
    }

    /// Adds a request unless the mailbox is at its bound. The turn is the scheduler's, or without one the
    /// replica thread's.
    func offer(_ input: ReplicaInput, _ scheduler: (any TurnScheduler)?) -> Bool {
        guard mailbox.offer(input, wakes: scheduler == nil) else { return false }
        scheduler?.scheduleTurn()
        return true
    }

    /// Adds messages of a peer as far as there is room.
    ///
    /// - Returns: how many were added.
    func offer(_ messages: [PeerMessage], _ scheduler: (any TurnScheduler)?) -> Int {
        let added = mailbox.offer(messages, wakes: scheduler == nil) { .received($0) }
        if added > 0 { scheduler?.scheduleTurn() }
        return added
    }

    // MARK: Turns

    /// Runs turns until nothing waits, unless somebody else is at it. Any thread, with no lock held.
    func help() {
        for _ in 0..<Self.helpingTurns {
            // Behind the lock's release in the last round, and before the lock is tried in the next:
            // either this thread sees what another one added, or that one finds the lock free.
            atomicMemoryFence(ordering: .sequentiallyConsistent)
            if mailbox.isEmpty { return }
            if isReserved.load(ordering: .relaxed) { break }
            let isOwner: Void? = owned.withLockIfAvailable { owned in
                guard let loop = owned.loop else { return }
                loop.turn()
                if loop.isStopping {
                    isReserved.store(true, ordering: .sequentiallyConsistent)
                    mailbox.wakeConsumer()
                }
                let next = loop.nextWake
                if next &+ Self.wakeSlackNanoseconds < wakeTime.load(ordering: .relaxed) {
                    wakeTime.store(next, ordering: .relaxed)
                    mailbox.wakeConsumer()
                }
            }
            if isOwner == nil { return }
        }
        mailbox.wakeConsumer()
    }

    /// The replica thread: everything until the stop.
    func run(_ loop: sending ReplicaLoop) {
        nonisolated(unsafe) let given = loop
        var isStopping = owned.withLock { owned in
            given.begin()
            owned.loop = given
            wakeTime.store(given.nextWake, ordering: .relaxed)
            return given.isStopping
        }
        while !isStopping {
            mailbox.wait(until: wakeTime.load(ordering: .relaxed))
            isStopping = owned.withLock { owned in
                guard let loop = owned.loop else { return true }
                // The turn before may have been the last one, whoever ran it.
                if loop.isStopping { return true }
                isReserved.store(false, ordering: .sequentiallyConsistent)
                loop.turn()
                wakeTime.store(loop.nextWake, ordering: .relaxed)
                return loop.isStopping
            }
        }
        owned.withLock { owned in
            owned.loop = nil
            given.finish()
        }
    }
}
