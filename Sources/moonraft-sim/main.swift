// The simulator's command line. Exit code 0: every seed passed; 1: one failed; 2: wrong usage.

import Glibc
import Simulation

/// What the command line asks for.
struct Arguments {
    var seeds: ClosedRange<UInt64> = 1...1
    var operations = 400
    var isTraced = false
    var isVerbose = false
    /// Stop at the first seed that fails.
    var stopsAtFailure = false
    /// A deliberate bug to plant; only in a build that has them.
    var mutation: String?
    var runsMutations = false

    static let usage = """
        moonraft-sim: runs clusters of real replicas with simulated clock, network and disks.

          --seed N            one seed
          --seeds A..B        the seeds A to B
          --seeds N --from A  N seeds from A on (A is 1 when left out)
          --operations N      requests of clients in each run (400)
          --trace             print every event; the same seed gives the same trace
          --verbose           one line for each seed
          --stop              end at the first seed that fails
          --mutations         find every planted bug (only in the build of make sim-mutations)
          --mutation NAME     plant this one
        """

    init(_ arguments: ArraySlice<String>) throws(UsageError) {
        var rest = arguments
        var count: UInt64?
        var first: UInt64 = 1
        func number(_ text: String?, _ option: String) throws(UsageError) -> UInt64 {
            guard let text, let number = UInt64(text) else {
                throw UsageError(text: "\(option) needs a number")
            }
            return number
        }
        while let option = rest.popFirst() {
            switch option {
            case "--seed":
                let seed = try number(rest.popFirst(), option)
                seeds = seed...seed
            case "--seeds":
                let text = rest.popFirst() ?? ""
                if let dots = text.firstRange(of: "..") {
                    let low = try number(String(text[..<dots.lowerBound]), option)
                    let high = try number(String(text[dots.upperBound...]), option)
                    guard low <= high else { throw UsageError(text: "\(option) \(text) is empty") }
                    seeds = low...high
                } else {
                    count = try number(text, option)
                }
            case "--from": first = try number(rest.popFirst(), option)
            case "--operations":
                operations = Int(clamping: min(try number(rest.popFirst(), option), 1_000_000))
            case "--trace": isTraced = true
            case "--verbose": isVerbose = true
            case "--stop": stopsAtFailure = true
            case "--mutations": runsMutations = true
            case "--mutation": mutation = rest.popFirst()
            default: throw UsageError(text: "unknown option \(option)")
            }
        }
        if let count {
            guard count > 0, first <= .max - count else { throw UsageError(text: "no seeds") }
            seeds = first...first + count - 1
        }
    }
}

struct UsageError: Error {
    var text: String
}

func replayCommand(_ seed: UInt64, _ arguments: Arguments) -> String {
    let operations = arguments.operations == 400 ? "" : " --operations \(arguments.operations)"
    let mutation = arguments.mutation.map { " --mutation \($0)" } ?? ""
    return "bin/moonraft-sim --seed \(seed)\(operations)\(mutation) --trace"
}

func milliseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000 + UInt64(time.tv_nsec) / 1_000_000
}

/// What to say when a precondition of the replica ends the process in the middle of a seed. Written by a signal
/// handler, so it is made beforehand.
nonisolated(unsafe) var lastWords: UnsafeMutablePointer<CChar>?

func announceTraps() {
    for signal in [SIGILL, SIGTRAP, SIGABRT, SIGSEGV, SIGBUS] {
        _ = Glibc.signal(signal) { signal in
            fflush(nil)
            if let lastWords { _ = write(STDERR_FILENO, lastWords, strlen(lastWords)) }
            _ = Glibc.signal(signal, SIG_DFL)
            raise(signal)
        }
    }
}

func run(_ arguments: Arguments) -> Int32 {
    announceTraps()
    let start = milliseconds()
    var failed: [UInt64] = []
    var operations = 0
    var faults = 0
    var events = 0
    for seed in arguments.seeds {
        free(lastWords)
        lastWords = strdup("seed \(seed) trapped; replay: \(replayCommand(seed, arguments))\n")
        let result = Simulation.run(
            seed: seed, operations: arguments.operations, trace: arguments.isTraced)
        operations += result.operations
        faults += result.faults
        events += result.events
        if arguments.isVerbose || arguments.isTraced {
            print(
                "seed \(seed): digest \(String(result.digest, radix: 16)), \(result.simulatedSeconds) s simulated, "
                    + "\(result.operations) operations, \(result.answered) answered, \(result.writes) writes, "
                    + "\(result.reads) reads, \(result.faults) faults, \(result.snapshots) snapshots, "
                    + "\(result.compared) states compared, \(result.events) events")
        }
        if let failure = result.failure {
            failed.append(seed)
            print("seed \(seed) FAILED \(failure)")
            print("  knobs: \(result.knobs)")
            print("  replay: \(replayCommand(seed, arguments))")
            fflush(nil)
            if arguments.stopsAtFailure { break }
        }
    }
    let elapsed = max(1, milliseconds() - start)
    print(
        "\(arguments.seeds.count) seeds, \(failed.count) failed; \(operations) operations under \(faults) faults, "
            + "\(events) events in \(elapsed) ms: \(UInt64(operations) * 1_000 / elapsed) operations a second")
    return failed.isEmpty ? 0 : 1
}

func start(_ arguments: Arguments) throws(UsageError) -> Int32 {
    #if MOONRAFT_MUTATIONS
        if arguments.runsMutations { return findPlantedBugs() }
        if let name = arguments.mutation {
            guard let bug = PlantedBug.all.first(where: { $0.name == name }) else {
                throw UsageError(text: "no planted bug is called \(name)")
            }
            bug.plant()
        }
    #else
        if arguments.runsMutations || arguments.mutation != nil {
            throw UsageError(text: "this build has no planted bugs; make sim-mutations makes one that has")
        }
    #endif
    return run(arguments)
}

do throws(UsageError) {
    let arguments = CommandLine.arguments.dropFirst()
    if arguments.contains("--help") {
        print(Arguments.usage)
    } else {
        exit(try start(try Arguments(arguments)))
    }
} catch {
    let text = Array("moonraft-sim: \(error.text)\n\(Arguments.usage)\n".utf8)
    _ = write(STDERR_FILENO, text, text.count)
    exit(2)
}
