import Foundation
import Testing

/// Random runs: drop, duplicate, reorder, partition, crash with loss of what was not synced, torn
/// last batches, restarts, membership changes, transfers, compaction. The promises of Raft are
/// checked after every input, and each run must converge once the trouble ends. A failure names its
/// seed; `Simulation(seed:)` replays it.
@Suite struct SimulationTests {
    static let seedsPerBlock: UInt64 = 20
    /// `BLOCKS=n` runs n blocks of seeds instead, `FIRST=n` starts at block n.
    static let blocks: Range<UInt64> = {
        let environment = ProcessInfo.processInfo.environment
        let first = environment["FIRST"].flatMap(UInt64.init) ?? 0
        return first..<first + (environment["BLOCKS"].flatMap(UInt64.init) ?? 20)
    }()

    @Test(arguments: blocks)
    func promisesHold(block: UInt64) throws {
        var reads = 0
        for seed in block * Self.seedsPerBlock..<(block + 1) * Self.seedsPerBlock {
            var simulation = try Simulation(seed: seed)
            try simulation.run(steps: 1_500)
            reads += simulation.answeredReads
        }
        #expect(reads > 0, "no read was ever answered, so none was judged")
    }

    /// The runs come to the places that they are meant to judge.
    @Test func theTroubleIsReal() throws {
        var reached = Reached()
        for seed in 0..<300 as Range<UInt64> {
            var simulation = try Simulation(seed: seed)
            try simulation.run(steps: 1_500)
            reached = reached + simulation.reached
        }
        for (name, count) in Mirror(reflecting: reached).children {
            #expect(count as? Int ?? 0 > 0, "never: \(name ?? "?") in \(reached)")
        }
    }

    /// The same seed gives the same run, or failures could not be replayed.
    @Test(arguments: [3, 141, 592] as [UInt64])
    func seedsReplay(seed: UInt64) throws {
        var first = try Simulation(seed: seed)
        var second = try Simulation(seed: seed)
        try first.run(steps: 1_500)
        try second.run(steps: 1_500)
        #expect(first.fingerprint == second.fingerprint)
    }
}
