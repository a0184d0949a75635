// A few short runs in the debug build; the optimised binary runs many (scripts/test.sh).

import Testing

@testable import Simulation

@Suite struct SeedTests {
    @Test(arguments: 1...6) func seedPasses(seed: Int) {
        let result = Simulation.run(seed: UInt64(seed), operations: 60)
        #expect(result.failure == nil)
        #expect(result.answered > 0 && result.writes > 0 && result.faults > 0)
    }

    @Test func theSameSeedGivesTheSameRun() {
        let first = Simulation.run(seed: 77, operations: 80)
        let second = Simulation.run(seed: 77, operations: 80)
        #expect(first.digest == second.digest && first.events == second.events)
        #expect(Simulation.run(seed: 78, operations: 80).digest != first.digest)
    }
}
