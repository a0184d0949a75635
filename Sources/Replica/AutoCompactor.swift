// When to compact by itself (etcd server/etcdserver/api/v3compactor).

/// What the operator asked for.
package enum AutoCompaction: Sendable, Equatable {
    case off
    /// Keep what changed within this many milliseconds.
    case periodic(milliseconds: UInt64)
    /// Keep this many revisions.
    case revision(retention: Int64)
}

/// Decides at which revision to compact. Pure: time and revision come in, a revision comes out.
///
/// Periodic: samples the revision ten times a period (of at most an hour) and, once a whole period
/// has been seen, compacts to the sample that is a period old, every min(period, 1 h). Revision:
/// every five minutes keeps the last N revisions.
package struct AutoCompactor {
    private let mode: AutoCompaction
    private var samples: [(time: UInt64, revision: Int64)] = []
    private var nextSample: UInt64 = 0
    private var nextCompaction: UInt64 = 0
    private var lastCompacted: Int64 = 0
    private static let revisionInterval: UInt64 = 5 * 60 * 1000
    private static let longestInterval: UInt64 = 60 * 60 * 1000

    /// - Parameter now: monotonic milliseconds.
    package init(_ mode: AutoCompaction, now: UInt64) {
        self.mode = mode
        switch mode {
        case .off: break
        case .periodic(let period): nextCompaction = now &+ period
        case .revision: nextCompaction = now &+ Self.revisionInterval
        }
    }

    /// The revision to compact to now, if any.
    package mutating func tick(now: UInt64, currentRevision: Int64) -> Int64? {
        switch mode {
        case .off:
            return nil
        case .revision(let retention):
            guard now >= nextCompaction else { return nil }
            nextCompaction = now &+ Self.revisionInterval
            return accept(currentRevision - retention)
        case .periodic(let period):
            let interval = Swift.min(period, Self.longestInterval)
            if now >= nextSample {
                nextSample = now &+ Swift.max(1, interval / 10)
                samples.append((now, currentRevision))
            }
            guard now >= nextCompaction else { return nil }
            nextCompaction = now &+ interval
            let horizon = now &- period
            var target: Int64 = 0
            while let first = samples.first, first.time <= horizon {
                target = first.revision
                samples.removeFirst()
            }
            return accept(target)
        }
    }

    private mutating func accept(_ revision: Int64) -> Int64? {
        guard revision > lastCompacted, revision > 0 else { return nil }
        lastCompacted = revision
        return revision
    }
}
