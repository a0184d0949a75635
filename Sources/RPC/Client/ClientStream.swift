import NIOConcurrencyHelpers
import NIOCore

/// An open stream as a loop-based owner sees it: events arrive on the client's loop, commands may
/// come from any thread and take effect in order.
package final class ClientStream: Sendable {
    private let connection: ClientConnection
    private let call: NIOLoopBound<ClientCall>

    init(_ connection: ClientConnection, _ call: NIOLoopBound<ClientCall>) {
        self.connection = connection
        self.call = call
    }

    /// Queues one message; `.writable` events tell when a long queue has shrunk.
    package func send(_ message: [UInt8]) {
        connection.eventLoop.execute { [self] in connection.send(call.value, message) }
    }

    /// Tells the server that no more messages follow.
    package func closeSend() {
        connection.eventLoop.execute { [self] in connection.finishSending(call.value) }
    }

    /// Gives the call up; it closes with Cancelled unless it has ended already.
    package func cancel() {
        connection.eventLoop.execute { [self] in
            call.value.fail(RPCStatus(.cancelled, "context canceled"))
        }
    }

    func consumed(_ bytes: Int) {
        connection.eventLoop.execute { [self] in connection.consumed(call.value, bytes) }
    }
}

/// An open stream for code that may block: a command line tool, a test.
///
/// Messages that are not received stay within the stream's flow control window; the server then
/// stops sending. Safe from several threads.
package final class BlockingStream: Sendable {
    package enum Received: Sendable {
        case message([UInt8])
        /// The stream has ended; repeated by every later call.
        case closed(RPCStatus, trailers: [(name: String, value: String)])
        /// Nothing came in the time given.
        case timedOut
    }

    fileprivate struct State {
        var messages: [[UInt8]] = []
        var next = 0
        var end: (RPCStatus, [(name: String, value: String)])?
    }

    private static let idle = 0
    private static let ready = 1

    fileprivate let inbox = ConditionBox()
    private let stream: NIOLockedValueBox<ClientStream?> = NIOLockedValueBox(nil)

    /// A lock with a condition: 1 when there is something to take.
    fileprivate final class ConditionBox: @unchecked Sendable {
        let condition = ConditionLock(value: BlockingStream.idle)
        var state = State()
    }

    init() {}

    func attach(_ stream: ClientStream) { self.stream.withLockedValue { $0 = stream } }

    func received(_ event: ClientStreamEvent) {
        inbox.condition.lock()
        switch event {
        case .message(let message): inbox.state.messages.append(message)
        case .closed(let status, let trailers): inbox.state.end = (status, trailers)
        case .writable: break
        }
        let isReady = inbox.state.next < inbox.state.messages.count || inbox.state.end != nil
        inbox.condition.unlock(withValue: isReady ? Self.ready : Self.idle)
    }

    /// The next message or the end; waits for it, at most `timeout`.
    package func receive(timeout: TimeAmount = .hours(24)) -> Received {
        let seconds = Double(timeout.nanoseconds) / 1e9
        guard inbox.condition.lock(whenValue: Self.ready, timeoutSeconds: seconds) else {
            return .timedOut
        }
        let result: Received
        var taken = 0
        if inbox.state.next < inbox.state.messages.count {
            let message = inbox.state.messages[inbox.state.next]
            inbox.state.messages[inbox.state.next] = []
            inbox.state.next += 1
            if inbox.state.next == inbox.state.messages.count {
                inbox.state.messages.removeAll(keepingCapacity: true)
                inbox.state.next = 0
            }
            taken = message.count + 5
            result = .message(message)
        } else if let end = inbox.state.end {
            result = .closed(end.0, trailers: end.1)
        } else {
            result = .timedOut
        }
        let isReady = inbox.state.next < inbox.state.messages.count || inbox.state.end != nil
        inbox.condition.unlock(withValue: isReady ? Self.ready : Self.idle)
        if taken > 0 { stream.withLockedValue { $0 }?.consumed(taken) }
        return result
    }

    package func send(_ message: [UInt8]) { stream.withLockedValue { $0 }?.send(message) }

    package func closeSend() { stream.withLockedValue { $0 }?.closeSend() }

    package func cancel() { stream.withLockedValue { $0 }?.cancel() }
}
