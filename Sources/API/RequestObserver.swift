// What operators want to know about requests: slow ones, in one line each, without values.

import Logging
import Metrics
import NIOCore
import RPC

/// Durations of calls by method and success, for one loop (`etcd_server_request_duration_seconds`).
struct CallDurations: Sendable {
    static let buckets = HistogramBuckets(start: 0.001, factor: 2, count: 14)
    /// One row for each method and outcome: a cell a bucket, +Inf, and the sum in nanoseconds.
    private var cells = [UInt64](repeating: 0, count: Method.allCases.count * 2 * rowWidth)
    private static let rowWidth = buckets.upperBounds.count + 2

    @inline(__always)
    mutating func observe(_ method: Int, isOK: Bool, nanoseconds: UInt64) {
        // The bounds double from one millisecond, so the bucket is a logarithm.
        let last = Self.rowWidth - 2
        let rounded = nanoseconds == 0 ? 0 : (nanoseconds - 1) / 1_000_000
        let bucket = min(last, UInt64.bitWidth - rounded.leadingZeroBitCount)
        let row = (method * 2 + (isOK ? 1 : 0)) * Self.rowWidth
        guard row >= 0, row + Self.rowWidth <= cells.count else { return }
        cells[row + bucket] &+= 1
        cells[row + last + 1] &+= nanoseconds
    }

    mutating func add(_ other: CallDurations) {
        for index in cells.indices { cells[index] &+= other.cells[index] }
    }

    func row(_ method: Method, isOK: Bool) -> (counts: [UInt64], sumSeconds: Double) {
        let start = (method.rawValue * 2 + (isOK ? 1 : 0)) * Self.rowWidth
        let counts = Array(cells[start..<start + Self.rowWidth - 1])
        return (counts, Double(cells[start + Self.rowWidth - 1]) / 1e9)
    }
}

/// Looks at finished calls of one loop.
final class RequestObserver {
    private let logger: Logger
    private let slow: UInt64
    private(set) var slowRequests: UInt64 = 0
    /// Lines per second; beyond it slow requests are only counted.
    private static let maxLinesPerSecond = 20
    /// Durations of unary calls by method, without and with errors.
    private(set) var durations = CallDurations()
    private var windowStart: UInt64 = 0
    private var linesInWindow = 0

    init(logger: Logger, slowNanoseconds: UInt64) {
        self.logger = logger
        slow = slowNanoseconds
    }

    /// Called once when a unary call was answered, on its loop.
    @inline(__always)
    func finished(_ call: ServerCall) {
        // The loop's time of the current cycle is close enough and costs no system call.
        let now = call.loop.now.uptimeNanoseconds
        let arrived = call.arrivedAt.uptimeNanoseconds
        let elapsed = now > arrived ? now - arrived : 0
        durations.observe(call.method.rawValue, isOK: call.code == .ok, nanoseconds: elapsed)
        if slow > 0 && elapsed > slow { report(call, elapsed, now) }
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
