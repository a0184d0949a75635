// Which environment a backend works on, and who reads it.
//
// A backend's file is replaced by opening another environment beside the old one. LMDB must not have one
// lock file open twice in a process (closing either drops the locks of both), so the old one's name is
// removed first: its readers keep the file they have, and the new environment makes its own.

import Synchronization

/// The environment in force. Any thread.
final class BackendEnvironments: Sendable {
    private struct State: Sendable {
        var current: BackendEnvironment
        /// No longer in force; dropped by the writer's thread.
        var retired: [BackendEnvironment] = []
        var readers: [ObjectIdentifier: WeakReader] = [:]
    }

    private struct WeakReader: Sendable {
        weak let reader: BackendReader?
    }

    private let state: Mutex<State>
    /// Of the environment in force; compared without the lock.
    private let identity: Atomic<UInt>

    init(_ environment: BackendEnvironment) {
        state = Mutex(State(current: environment))
        identity = Atomic(Self.identity(environment))
    }

    var current: BackendEnvironment { state.withLock { $0.current } }

    func isReplaced(since environment: BackendEnvironment?) -> Bool {
        guard let environment else { return false }
        return identity.load(ordering: .sequentiallyConsistent) != Self.identity(environment)
    }

    /// From now on renewed readers see the other environment.
    func replace(by environment: BackendEnvironment) {
        state.withLock { state in
            state.retired.append(state.current)
            state.current = environment
            identity.store(Self.identity(environment), ordering: .sequentiallyConsistent)
        }
    }

    /// Takes readers at rest off environments that are no longer in force, and closes those that nobody reads. One
    /// that a reader is at work on waits for the next call: closing a large file takes long, and is the caller's.
    func letGo() {
        let (current, readers) = state.withLock { state in
            (state.current, state.retired.isEmpty ? [] : state.readers.values.compactMap(\.reader))
        }
        if readers.isEmpty && isEverythingClosed { return }
        for reader in readers { reader.leave(current) }
        let unread = state.withLock { state in
            var unread: [BackendEnvironment] = []
            for position in state.retired.indices.reversed()
            where isKnownUniquelyReferenced(&state.retired[position]) {
                unread.append(state.retired.remove(at: position))
            }
            return unread
        }
        // They end here, without the lock.
        _ = consume unread
    }

    private var isEverythingClosed: Bool { state.withLock { $0.retired.isEmpty } }

    func register(_ reader: BackendReader) {
        state.withLock { $0.readers[ObjectIdentifier(reader)] = WeakReader(reader: reader) }
    }

    func unregister(_ reader: BackendReader) {
        state.withLock { _ = $0.readers.removeValue(forKey: ObjectIdentifier(reader)) }
    }

    private static func identity(_ environment: BackendEnvironment) -> UInt {
        UInt(bitPattern: ObjectIdentifier(environment))
    }
}
