import NIOConcurrencyHelpers
import NIOCore

/// Hands results from other threads to one event loop, with one wake-up per batch.
///
/// Any thread pushes; the loop gets everything pushed since its last turn in one call, in order,
/// and flushes each touched connection once afterwards. The bound on its length is that of the
/// requests in flight: every element answers one call or is one event batch of a bounded queue.
package final class LoopOutbox<Element>: @unchecked Sendable {
    private struct State {
        var pending: [Element] = []
        var isScheduled = false
    }

    private let state = NIOLockedValueBox(State())
    private let loop: ServerLoop
    /// Runs on the loop only, so it may use the loop's state.
    private let deliver: (borrowing [Element]) -> Void

    package init(_ loop: ServerLoop, deliver: @escaping (borrowing [Element]) -> Void) {
        self.loop = loop
        self.deliver = deliver
    }

    package func push(_ element: sending Element) {
        let mustWake = state.withLockedValue { state in
            state.pending.append(element)
            defer { state.isScheduled = true }
            return !state.isScheduled
        }
        if mustWake { wake() }
    }

    package func push(contentsOf elements: sending [Element]) {
        if elements.isEmpty { return }
        let mustWake = state.withLockedValue { state in
            state.pending.append(contentsOf: elements)
            defer { state.isScheduled = true }
            return !state.isScheduled
        }
        if mustWake { wake() }
    }

    private func wake() {
        loop.eventLoop.execute { [self] in
            let batch = state.withLockedValue { state in
                state.isScheduled = false
                var taken: [Element] = []
                swap(&taken, &state.pending)
                return taken
            }
            loop.batch { deliver(batch) }
        }
    }
}
