// What differs from run to run besides the order of events. Every number is drawn from the seed, and most
// ranges reach into sizes that nobody would configure, because that is where branches become common.

/// The conditions of one run.
struct Knobs {
    // The cluster.
    var founders: Int
    var tick: Nanoseconds
    var electionTicks: Int
    var heartbeatTicks: Int
    var preVote: Bool
    var maxEntriesBytesPerMessage: Int
    var maxInflightMessages: Int
    var maxCommittedBytesPerReady: Int
    /// Entries kept for peers that lag.
    var catchUpEntries: Int
    /// Applied entries between two releases of the log.
    var snapshotCount: UInt64
    var backendInterval: Nanoseconds
    var backendBatchRecords: Int
    var segmentBytes: Int
    var requestTimeout: Nanoseconds
    var maxEntriesPerApplyBatch: Int
    var compactionBatch: Int

    // The network.
    var delay: ClosedRange<Nanoseconds>
    /// Per mille of the messages that take `slowDelay` instead.
    var slowPerMille: Int
    var slowDelay: ClosedRange<Nanoseconds>
    var lossPerMille: Int
    var duplicatePerMille: Int
    /// Whether messages of one link may overtake each other.
    var reorders: Bool
    /// Per mille of the messages that go through the codec of the wire.
    var codecPerMille: Int

    // The disks.
    var syncTime: ClosedRange<Nanoseconds>
    var commitTime: ClosedRange<Nanoseconds>
    var slowSyncPerMille: Int
    var slowSyncTime: ClosedRange<Nanoseconds>
    /// Per mille of the crashes that take the power away, not only the process.
    var powerLossPerMille: Int
    /// Per mille of the sectors not synchronized that such a crash leaves.
    var keptSectorsPerMille: Int

    // The members.
    var turnDelay: ClosedRange<Nanoseconds>

    // The clients.
    var clients: Int
    var keys: Int
    var leases: Int
    var thinkTime: ClosedRange<Nanoseconds>
    var clientTimeout: Nanoseconds
    var operations: Int

    // The faults.
    /// Mean time between two faults.
    var faultInterval: Nanoseconds
    /// Weights of the kinds of faults, in the order of `FaultKind.allCases`.
    var faultWeights: [Int]
    var changesMembership: Bool
    var breaksDisks: Bool

    init(random: inout SimulationRandom, operations: Int) {
        founders = random.pick([3, 3, 3, 3, 4, 5, 5, 5, 6, 7])
        tick = random.pick([10, 20, 50, 100]) * millisecond
        electionTicks = random.within(5...15)
        heartbeatTicks = random.chance(800) ? 1 : 2
        preVote = random.chance(800)
        maxEntriesBytesPerMessage = random.pick([1, 200, 2_000, 1 << 20])
        maxInflightMessages = random.pick([1, 2, 8, 256])
        maxCommittedBytesPerReady = random.pick([1, 500, 1 << 20])
        catchUpEntries = random.pick([0, 3, 10, 50, 1_000])
        snapshotCount = random.pick([1, 10, 50, 200])
        backendInterval = random.pick([5, 20, 100, 500]) * millisecond
        backendBatchRecords = random.pick([1, 10, 1_000])
        segmentBytes = random.pick([2_048, 4_096, 16_384])
        requestTimeout = random.pick([2, 3, 7]) * second
        maxEntriesPerApplyBatch = random.pick([1, 4, 256])
        compactionBatch = random.pick([1, 5, 1_000])

        let base = random.pick([50, 200, 1_000]) * microsecond
        delay = base...base * random.within(2...20)
        slowPerMille = random.pick([0, 5, 50])
        slowDelay = base * 50...base * 500
        lossPerMille = random.pick([0, 0, 10, 50, 150])
        duplicatePerMille = random.pick([0, 0, 10, 100])
        reorders = random.chance(500)
        codecPerMille = random.pick([0, 100, 1_000])

        let sync = random.pick([50, 300, 2_000]) * microsecond
        syncTime = sync...sync * 4
        commitTime = sync * 2...sync * 20
        slowSyncPerMille = random.pick([0, 5, 30])
        slowSyncTime = tick...tick * UInt64(electionTicks) * 4
        powerLossPerMille = random.pick([300, 700, 1_000])
        keptSectorsPerMille = random.pick([0, 300, 700])

        turnDelay = 0...random.pick([0, 50, 1_000]) * microsecond

        clients = random.within(2...10)
        keys = random.within(3...30)
        leases = random.within(1...5)
        let think = random.pick([1, 5, 20]) * millisecond
        thinkTime = 0...think * 2
        clientTimeout = requestTimeout + random.pick([0, 1]) * second
        self.operations = operations

        faultInterval = random.pick([200, 500, 1_500]) * millisecond
        faultWeights = FaultKind.allCases.map { _ in random.pick([0, 1, 1, 3]) }
        changesMembership = random.chance(600)
        breaksDisks = random.chance(300)
    }

    var electionTimeout: Nanoseconds { tick * UInt64(electionTicks) }

    /// One line for the trace and for a failing seed.
    var summary: String {
        "founders=\(founders) tick=\(tick / millisecond)ms election=\(electionTicks) heartbeat=\(heartbeatTicks) "
            + "preVote=\(preVote) loss=\(lossPerMille) duplicate=\(duplicatePerMille) reorders=\(reorders) "
            + "catchUp=\(catchUpEntries) snapshotCount=\(snapshotCount) segment=\(segmentBytes) "
            + "clients=\(clients) keys=\(keys) membership=\(changesMembership) disks=\(breaksDisks)"
    }
}
