// Checks passwords beside the event loops: bcrypt is slow on purpose.

import Node
import Plugins
import Synchronization

/// One thread with its own script machines for `authn` of passwords.
final class CredentialWorker: Sendable {
    private enum Job: Sendable {
        case authenticate(AuthnRequest, @Sendable (AuthnOutcome) -> Void)
        case replace(PluginSet)
        case stop
    }

    /// Logins that may wait; one more is refused. It also bounds how much work a flood of logins
    /// can queue.
    private let jobs = Mailbox<Job>(capacity: 256)
    private let thread = Mutex<OwnedThread?>(nil)

    func start(_ set: PluginSet) {
        let handle = OwnedThread(name: "credentials") { [self] in run(set) }
        thread.withLock { $0 = handle }
    }

    /// `done` is called on the worker's thread. False when too many wait.
    func authenticate(
        _ request: AuthnRequest, _ done: @escaping @Sendable (AuthnOutcome) -> Void
    ) -> Bool {
        jobs.offer(.authenticate(request, done))
    }

    func replace(_ set: PluginSet) { jobs.post(.replace(set)) }

    func stop() {
        jobs.post(.stop)
        thread.withLock { $0 }?.join()
    }

    private func run(_ set: PluginSet) {
        var plugins = LoopPlugins(set, role: .worker)
        var batch: [Job] = []
        while true {
            batch.removeAll(keepingCapacity: true)
            jobs.take(into: &batch, deadline: monotonicNanoseconds() &+ 1_000_000_000)
            for job in batch {
                switch job {
                case .authenticate(let request, let done):
                    plugins.beginRequest()
                    done(plugins.authenticate(request))
                case .replace(let set):
                    plugins.shutdown()
                    plugins = LoopPlugins(set, role: .worker)
                case .stop:
                    plugins.shutdown()
                    return
                }
            }
        }
    }
}
