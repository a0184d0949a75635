// A named POSIX thread that can be joined: the replica, WAL, backend and plugin threads.

import CSupport
import Glibc
import Synchronization

/// Runs `body` once on a thread of its own. `join` waits for its end.
package final class OwnedThread: Sendable {
    private let handle = Mutex<pthread_t?>(nil)

    private final class Start {
        let name: String
        let nice: Int32
        let body: @Sendable () -> Void
        init(name: String, nice: Int32, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.nice = nice
            self.body = body
        }
    }

    /// Of bulk work that nobody waits for: a tenth of the processor time that others get when there is too
    /// little, all of what they leave otherwise.
    package static let bulkNice: Int32 = 10

    /// - Parameters:
    ///   - name: at most 15 bytes are shown by the system.
    ///   - nice: 0 for threads that clients wait for.
    package init(name: String, nice: Int32 = 0, body: @escaping @Sendable () -> Void) {
        let start = Unmanaged.passRetained(Start(name: name, nice: nice, body: body))
        var thread = pthread_t()
        let status = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
                _ = moonraft_thread_set_name(start.name)
                if start.nice != 0 { _ = moonraft_thread_set_nice(start.nice) }
                start.body()
                return nil
            }, start.toOpaque())
        precondition(status == 0, "pthread_create for \(name): errno \(status)")
        handle.withLock { $0 = thread }
    }

    /// Lets the thread end by itself.
    package func detach() {
        let thread = handle.withLock { handle -> pthread_t? in
            defer { handle = nil }
            return handle
        }
        if let thread { pthread_detach(thread) }
    }

    /// Waits for the thread to end; later calls return at once.
    package func join() {
        let thread = handle.withLock { handle -> pthread_t? in
            defer { handle = nil }
            return handle
        }
        if let thread { pthread_join(thread, nil) }
    }
}
