// What operators want to know about requests: slow ones, in one line each, without values.

import Logging
import NIOCore
import RPC

/// Looks at finished calls of one loop.
final class RequestObserver {
    private let logger: Logger
    private let slow: UInt64
    private(set) var slowRequests: UInt64 = 0
    /// Lines per second; beyond it slow requests are only counted.
    private static let maxLinesPerSecond = 20
    private var windowStart: UInt64 = 0
    private var linesInWindow = 0

    init(logger: Logger, slowNanoseconds: UInt64) {
        self.logger = logger
        slow = slowNanoseconds
    }

    /// Called once when a unary call was answered, on its loop.
    @inline(__always)
    func finished(_ call: ServerCall) {
        if slow == 0 { return }
        // The loop's time of the current cycle is close enough and costs no system call.
        let now = call.loop.now.uptimeNanoseconds
        let arrived = call.arrivedAt.uptimeNanoseconds
        if now > arrived && now - arrived > slow { report(call, now - arrived, now) }
    }

    private func report(_ call: ServerCall, _ nanoseconds: UInt64, _ now: UInt64) {
        guard let method = Method(rawValue: call.method.rawValue), method.flow == .unary else {
            return
        }
        slowRequests &+= 1
        if now &- windowStart > 1_000_000_000 {
            windowStart = now
            linesInWindow = 0
        }
        linesInWindow += 1
        guard linesInWindow <= Self.maxLinesPerSecond else { return }
        logger.warning(
            "slow request",
            metadata: [
                "method": "\(method.path)", "remote": "\(call.peer)",
                "took_ms": "\(nanoseconds / 1_000_000)",
            ])
    }
}
