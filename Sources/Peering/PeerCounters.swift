// Counters of one peer, for the metrics `etcd_network_*`. Two threads write, each its own cells; any
// thread reads.

import Metrics
import RaftCore

/// What is counted of one peer.
package final class PeerCounters: Sendable {
    package let id: NodeID

    /// Written by the event loop.
    package enum Cell: Int, CaseIterable, Sendable {
        case sentBytes, receivedBytes, sentFailures, receivedFailures
        /// 1 while messages can be sent.
        case isActive
        case disconnects
        case snapshotsSending, snapshotsSent, snapshotSendFailures
        case snapshotsReceiving, snapshotsReceived, snapshotReceiveFailures
    }

    private let cells = CounterArray(count: Cell.allCases.count)
    /// Messages dropped before they reached the event loop; written under the lock of the queues.
    private let dropped = CounterArray(count: 1)

    /// Buckets as etcd has them (server/etcdserver/api/rafthttp/metrics.go).
    package let roundTrip = DurationHistogram(HistogramBuckets(start: 0.0001, factor: 2, count: 16))
    package let snapshotSend = DurationHistogram(HistogramBuckets(start: 0.1, factor: 2, count: 10))
    package let snapshotReceive = DurationHistogram(
        HistogramBuckets(start: 0.1, factor: 2, count: 10))

    init(id: NodeID) { self.id = id }

    /// Messages that were not sent: no connection, queue full, or too large.
    package var sentFailures: UInt64 { self[.sentFailures] &+ dropped[0] }

    package subscript(cell: Cell) -> UInt64 { cells[cell.rawValue] }

    func add(_ cell: Cell, _ amount: Int = 1) { cells.add(cell.rawValue, UInt64(amount)) }

    func set(_ cell: Cell, _ value: UInt64) { cells.set(cell.rawValue, value) }

    func addDropped(_ count: Int) { dropped.add(0, UInt64(count)) }
}
