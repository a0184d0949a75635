// Counters and histograms that one thread writes and any thread reads.
//
// A single writer needs no read-modify-write: a relaxed load and store compile to plain moves, so
// counting on the hot path costs what an ordinary increment costs, without a data race.

import Synchronization

/// A fixed number of 64-bit counters with one writing thread.
package final class CounterArray: @unchecked Sendable {
    // Unchecked: the pointer is set once; what it points to is only reached through atomics.
    private let cells: UnsafeMutablePointer<Atomic<UInt64>>
    package let count: Int

    package init(count: Int) {
        self.count = count
        cells = .allocate(capacity: count)
        for index in 0..<count { (cells + index).initialize(to: Atomic(0)) }
    }

    deinit {
        cells.deinitialize(count: count)
        cells.deallocate()
    }

    /// Adds to a counter; only the owning thread may call this.
    @inline(__always)
    package func add(_ index: Int, _ amount: UInt64 = 1) {
        precondition(index >= 0 && index < count, "counter \(index) of \(count)")
        let value = cells[index].load(ordering: .relaxed)
        cells[index].store(value &+ amount, ordering: .relaxed)
    }

    /// Sets a gauge; only the owning thread may call this.
    package func set(_ index: Int, _ value: UInt64) {
        precondition(index >= 0 && index < count, "counter \(index) of \(count)")
        cells[index].store(value, ordering: .relaxed)
    }

    /// The value now; any thread.
    package subscript(index: Int) -> UInt64 {
        precondition(index >= 0 && index < count, "counter \(index) of \(count)")
        return cells[index].load(ordering: .relaxed)
    }
}

/// Exponential buckets as etcd declares them: `start`, times `factor`, `count` of them.
package struct HistogramBuckets: Sendable, Equatable {
    package let upperBounds: [Double]

    package init(start: Double, factor: Double, count: Int) {
        var bounds: [Double] = []
        var bound = start
        for _ in 0..<count {
            bounds.append(bound)
            bound *= factor
        }
        upperBounds = bounds
    }
}

/// A histogram of durations with one writing thread.
package final class DurationHistogram: Sendable {
    package let buckets: HistogramBuckets
    private let boundsNanoseconds: [UInt64]
    // One cell a bucket, one for +Inf, one for the sum in nanoseconds.
    private let cells: CounterArray

    package init(_ buckets: HistogramBuckets) {
        self.buckets = buckets
        boundsNanoseconds = buckets.upperBounds.map { UInt64($0 * 1e9) }
        cells = CounterArray(count: buckets.upperBounds.count + 2)
    }

    /// Counts one duration; only the owning thread may call this.
    package func observe(nanoseconds: UInt64) {
        var index = 0
        while index < boundsNanoseconds.count && nanoseconds > boundsNanoseconds[index] {
            index += 1
        }
        cells.add(index)
        cells.add(boundsNanoseconds.count + 1, nanoseconds)
    }

    /// A consistent enough copy for exposition: counts per bucket, not cumulative.
    package var snapshot: (counts: [UInt64], sumSeconds: Double) {
        let counts = (0...boundsNanoseconds.count).map { cells[$0] }
        return (counts, Double(cells[boundsNanoseconds.count + 1]) / 1e9)
    }
}
