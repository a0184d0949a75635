import Synchronization

/// How a call of a hook can fail.
package enum HookFailure: Int, CaseIterable, Sendable {
    case lua, instructions, time, memory, result

    package var name: String {
        switch self {
        case .lua: "lua"
        case .instructions: "instructions"
        case .time: "time"
        case .memory: "memory"
        case .result: "result"
        }
    }
}

/// Figures of one hook of one binding.
package struct HookFigures: Sendable, Equatable {
    /// Upper bounds of the duration buckets, in nanoseconds; the last bucket is unbounded.
    package static let bounds: [UInt64] = [
        1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 50_000_000,
    ]

    package var calls: UInt64 = 0
    package var denies: UInt64 = 0
    package var warns: UInt64 = 0
    package var slow: UInt64 = 0
    package var skips: UInt64 = 0
    package var nanoseconds: UInt64 = 0
    package var errors = [UInt64](repeating: 0, count: HookFailure.allCases.count)
    package var durations = [UInt64](repeating: 0, count: bounds.count + 1)

    package init() {}
}

/// Counters that one VM writes and any thread reads. The lock is never contended but by a scrape.
final class HookCounters: Sendable {
    // One flat array, a row for each hook: calls, denies, warns, slow, skips, nanoseconds, errors, durations.
    private static let errors = 6
    private static let durations = errors + HookFailure.allCases.count
    private static let row = durations + HookFigures.bounds.count + 1
    private let cells = Mutex([UInt64](repeating: 0, count: row * PluginHook.allCases.count))

    private static func start(_ hook: PluginHook) -> Int { (Int(hook.rawValue) - 1) * row }

    /// The bucket of a duration, by comparison: the bounds are few and short calls stand first.
    private static func bucket(_ nanoseconds: UInt64) -> Int {
        var bucket = 0
        while bucket < HookFigures.bounds.count && nanoseconds > HookFigures.bounds[bucket] { bucket += 1 }
        return bucket
    }

    func called(_ hook: PluginHook, nanoseconds: UInt64, slow: Bool, failure: HookFailure?) {
        let start = Self.start(hook)
        let duration = start + Self.durations + Self.bucket(nanoseconds)
        cells.withLock { cells in
            cells[start] &+= 1
            cells[start + 5] &+= nanoseconds
            cells[duration] &+= 1
            if slow { cells[start + 3] &+= 1 }
            if let failure { cells[start + Self.errors + failure.rawValue] &+= 1 }
        }
    }

    func denied(_ hook: PluginHook) { cells.withLock { $0[Self.start(hook) + 1] &+= 1 } }
    func warned(_ hook: PluginHook) { cells.withLock { $0[Self.start(hook) + 2] &+= 1 } }
    func skipped(_ hook: PluginHook) { cells.withLock { $0[Self.start(hook) + 4] &+= 1 } }

    func add(to total: inout [HookFigures]) {
        let cells = cells.withLock { $0 }
        for (hook, i) in zip(PluginHook.allCases, total.indices) {
            let row = cells[Self.start(hook)..<Self.start(hook) + Self.row]
            let first = row.startIndex
            total[i].calls &+= row[first]
            total[i].denies &+= row[first + 1]
            total[i].warns &+= row[first + 2]
            total[i].slow &+= row[first + 3]
            total[i].skips &+= row[first + 4]
            total[i].nanoseconds &+= row[first + 5]
            for j in total[i].errors.indices { total[i].errors[j] &+= row[first + Self.errors + j] }
            for j in total[i].durations.indices { total[i].durations[j] &+= row[first + Self.durations + j] }
        }
    }
}
