// Streams that asked for a leader (`hasleader: true`) are ended when there has been none for a while, so
// that their clients try another member (etcd api/v3rpc/interceptor.go, monitorLeader; etcd-parity G3).

import NIOCore
import RPC

/// The streams of one event loop that asked for a leader. Confined to that loop.
final class LeaderWatch {
    private unowned let context: LoopContext
    private var streams: [ObjectIdentifier: ServerCall] = [:]
    private var timer: RepeatedTask?
    /// Election timeouts in a row that ended without a leader.
    private var timeoutsWithoutLeader = 0
    /// A stream costs more to make again than a call, so it is given more time.
    private static let maxTimeoutsWithoutLeader = 3

    init(_ context: LoopContext) { self.context = context }

    /// The handler to use for a stream: itself, or one that ends with the leader.
    func guarding(_ call: ServerCall, _ handler: any CallHandler) -> any CallHandler {
        guard context.requiresLeader(call) else { return handler }
        streams[ObjectIdentifier(call)] = call
        startTimer()
        return LeaderBoundStream(handler, self)
    }

    fileprivate func closed(_ call: ServerCall) {
        streams[ObjectIdentifier(call)] = nil
        guard streams.isEmpty else { return }
        timer?.cancel()
        timer = nil
    }

    private func startTimer() {
        guard timer == nil else { return }
        timeoutsWithoutLeader = 0
        let timeout = TimeAmount.milliseconds(
            Int64(clamping: context.node.options.electionTimeoutMilliseconds))
        let tick = LoopReturn { [weak self] (_: Void) in self?.electionTimeoutPassed() }
        timer = context.loop.eventLoop.scheduleRepeatedTask(initialDelay: timeout, delay: timeout) {
            _ in tick.body(())
        }
    }

    private func electionTimeoutPassed() {
        if context.node.status.hasLeader {
            timeoutsWithoutLeader = 0
            return
        }
        timeoutsWithoutLeader += 1
        if timeoutsWithoutLeader < Self.maxTimeoutsWithoutLeader { return }
        let ending = streams.values
        context.loop.batch {
            for call in ending { call.finish(.noLeader) }
        }
    }
}

/// Passes everything on and tells the watch when the stream is over.
private final class LeaderBoundStream: CallHandler {
    private let handler: any CallHandler
    private unowned let watch: LeaderWatch

    init(_ handler: any CallHandler, _ watch: LeaderWatch) {
        self.handler = handler
        self.watch = watch
    }

    func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall) {
        handler.received(message, call)
    }
    func halfClosed(_ call: ServerCall) { handler.halfClosed(call) }
    func writable(_ call: ServerCall) { handler.writable(call) }
    func draining(_ call: ServerCall) { handler.draining(call) }
    func closed(_ call: ServerCall) {
        watch.closed(call)
        handler.closed(call)
    }
}
