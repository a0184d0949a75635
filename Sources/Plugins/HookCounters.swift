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

    package static func += (a: inout HookFigures, b: HookFigures) {
        a.calls &+= b.calls
        a.denies &+= b.denies
        a.warns &+= b.warns
        a.slow &+= b.slow
        a.skips &+= b.skips
        a.nanoseconds &+= b.nanoseconds
        for i in a.errors.indices { a.errors[i] &+= b.errors[i] }
        for i in a.durations.indices { a.durations[i] &+= b.durations[i] }
    }
}

/// Counters that one VM writes and any thread reads. The lock is never contended but by a scrape.
final class HookCounters: Sendable {
    private let figures = Mutex([HookFigures](repeating: HookFigures(), count: PluginHook.allCases.count))

    private static func index(_ hook: PluginHook) -> Int { Int(hook.rawValue) - 1 }

    func called(_ hook: PluginHook, nanoseconds: UInt64, slow: Bool, failure: HookFailure?) {
        var bucket = 0
        while bucket < HookFigures.bounds.count && nanoseconds > HookFigures.bounds[bucket] { bucket += 1 }
        figures.withLock { figures in
            let i = Self.index(hook)
            figures[i].calls &+= 1
            figures[i].nanoseconds &+= nanoseconds
            figures[i].durations[bucket] &+= 1
            if slow { figures[i].slow &+= 1 }
            if let failure { figures[i].errors[failure.rawValue] &+= 1 }
        }
    }

    func denied(_ hook: PluginHook) { figures.withLock { $0[Self.index(hook)].denies &+= 1 } }
    func warned(_ hook: PluginHook) { figures.withLock { $0[Self.index(hook)].warns &+= 1 } }
    func skipped(_ hook: PluginHook) { figures.withLock { $0[Self.index(hook)].skips &+= 1 } }

    func add(to total: inout [HookFigures]) {
        figures.withLock { figures in
            for i in total.indices { total[i] += figures[i] }
        }
    }
}
