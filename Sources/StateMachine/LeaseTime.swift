/// A moment on this process's monotonic clock, in milliseconds. It is an argument of everything
/// that depends on time and is never replicated: members compare durations, not moments.
package struct LeaseTime: Comparable, Hashable, Sendable {
    package var milliseconds: Int64

    @inlinable package init(milliseconds: Int64) { self.milliseconds = milliseconds }

    /// Later than every other moment: the expiry of a lease that nobody watches.
    package static let never = LeaseTime(milliseconds: .max)

    @inlinable package static func < (left: LeaseTime, right: LeaseTime) -> Bool {
        left.milliseconds < right.milliseconds
    }

    /// The moment `milliseconds` later; `never` when that cannot be told.
    package func adding(milliseconds more: Int64) -> LeaseTime {
        let (sum, overflow) = milliseconds.addingReportingOverflow(more)
        return overflow ? .never : LeaseTime(milliseconds: sum)
    }

    /// The moment `seconds` later; `never` when that cannot be told.
    package func adding(seconds: Int64) -> LeaseTime {
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1000)
        return overflow ? .never : adding(milliseconds: product)
    }

    /// Milliseconds from `earlier` to this moment; negative when it is later.
    func milliseconds(since earlier: LeaseTime) -> Int64 {
        let (difference, overflow) = milliseconds.subtractingReportingOverflow(earlier.milliseconds)
        if overflow { return milliseconds > earlier.milliseconds ? .max : .min }
        return difference
    }
}
