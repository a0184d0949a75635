import RaftCore

/// A message on its way, with the state machine's data if it announces a snapshot.
struct Envelope {
    var message: Message
    var data: TestMachine?

    /// Replaces a snapshot by one of what `sender` has applied since, as a host may that starts to stream
    /// late.
    mutating func restream(from sender: TestHost) {
        guard case .snapshot(let old) = message.body, message.from == sender.core.id,
            sender.machine.appliedIndex >= old.index, sender.core.snapshotBeingInstalled == nil,
            let term = sender.core.log.term(at: sender.machine.appliedIndex), term <= message.term
        else { return }
        data = sender.machine
        message.body = .snapshot(
            SnapshotMetadata(
                index: sender.machine.appliedIndex, term: term, confState: sender.machine.confState))
    }
}

/// A state machine that remembers every command, so that histories can be compared.
struct TestMachine: Equatable {
    var appliedIndex: LogIndex = 0
    var confState = ConfState()
    /// The commands that took effect, without the empty entries of new leaders.
    var commands: [String] = []
}

/// A disk that holds what was synced and nothing else.
struct TestDisk {
    var hardState = HardState()
    var snapshotIndex: LogIndex = 0
    var snapshotTerm: Term = 0
    var entries: [Entry] = []

    var lastIndex: LogIndex { snapshotIndex + UInt64(entries.count) }

    mutating func write(_ batch: PersistBatch) {
        if let snapshot = batch.snapshot {
            snapshotIndex = snapshot.index
            snapshotTerm = snapshot.term
            entries = []
        }
        write(batch.entries[...])
        if let hardState = batch.hardState { self.hardState = hardState }
    }

    mutating func write(_ new: ArraySlice<Entry>) {
        guard let first = new.first else { return }
        precondition(first.index > snapshotIndex && first.index <= lastIndex + 1)
        entries.removeSubrange(Int(first.index - snapshotIndex - 1)...)
        entries += new
    }

    mutating func compact(through index: LogIndex) {
        guard index > snapshotIndex else { return }
        let count = Int(index - snapshotIndex)
        snapshotTerm = entries[count - 1].term
        snapshotIndex = index
        entries.removeFirst(count)
    }
}

/// A host that does its duties as listed in RaftCore.swift, one step at a time on demand.
struct TestHost {
    let configuration: RaftConfiguration
    var core: RaftCore
    var isUp = true
    /// What survives a crash.
    var disk: TestDisk
    /// The state machine as of its last durable point.
    var checkpoint: TestMachine
    /// Batches handed out and not synced, each with the data of its snapshot.
    var unsynced: [(batch: PersistBatch, data: TestMachine?)] = []
    var machine: TestMachine
    /// A durable snapshot that is not in place yet.
    var uninstalled: (metadata: SnapshotMetadata, data: TestMachine)?
    private var received: [LogIndex: TestMachine] = [:]
    /// Entries handed out and not applied yet; always empty unless `appliesLater`.
    private(set) var unapplied: [Entry] = []
    /// Whether entries wait for `apply(_:)` instead of being applied with the `Ready`.
    var appliesLater = false

    /// Starts a founding member, or with nil one that will join.
    init(configuration: RaftConfiguration, founders: ConfState?, seed: UInt64) throws {
        self.configuration = configuration
        disk = TestDisk()
        checkpoint = TestMachine()
        if let founders {
            disk.hardState = .founding
            disk.snapshotIndex = 1
            disk.snapshotTerm = 1
            checkpoint.appliedIndex = 1
            checkpoint.confState = founders
        }
        machine = checkpoint
        core = try Self.start(configuration, disk, checkpoint, seed)
    }

    private static func start(
        _ configuration: RaftConfiguration, _ disk: TestDisk, _ machine: TestMachine, _ seed: UInt64
    ) throws(RestoreError) -> RaftCore {
        try RaftCore(
            configuration: configuration, hardState: disk.hardState,
            confState: machine.confState,
            log: RaftLog(
                snapshotIndex: disk.snapshotIndex, snapshotTerm: disk.snapshotTerm,
                entries: disk.entries),
            appliedIndex: machine.appliedIndex, randomSeed: seed)
    }

    /// Takes what is ready, queues it for the disk, applies it, and returns what goes to the
    /// network.
    mutating func takeReady() -> (ready: Ready, sent: [Envelope]) {
        let ready = core.takeReady()
        let sent = ready.messages.map { message in
            var envelope = Envelope(message: message)
            if case .snapshot(let metadata) = message.body {
                precondition(
                    metadata.index == machine.appliedIndex
                        && metadata.confState == machine.confState)
                envelope.data = machine
            }
            return envelope
        }
        if let batch = ready.persist {
            unsynced.append((batch, batch.snapshot.flatMap { received[$0.index] }))
            precondition(batch.snapshot == nil || unsynced.last?.data != nil)
        }
        unapplied += ready.committed
        if !appliesLater { apply() }
        return (ready, sent)
    }

    /// Applies the oldest `count` entries handed out, all by default.
    mutating func apply(_ count: Int = .max) {
        guard core.snapshotBeingInstalled == nil else { return }
        let due = unapplied.prefix(count)
        for entry in due { apply(entry) }
        unapplied.removeFirst(due.count)
        if let last = due.last { core.applied(to: last.index) }
    }

    mutating func step(_ envelope: Envelope) throws(StepError) {
        if case .snapshot(let metadata) = envelope.message.body {
            received[metadata.index] = envelope.data
        }
        try core.step(envelope.message)
    }

    /// Syncs the oldest `count` batches, all by default, and completes them with one call.
    mutating func persist(_ count: Int = .max) {
        let done = unsynced.prefix(count)
        guard let last = done.last else { return }
        for (batch, data) in done { write(batch, data) }
        unsynced.removeFirst(done.count)
        core.persisted(through: last.batch.sequence)
    }

    /// Puts a durable snapshot in place.
    mutating func install() {
        guard let (metadata, data) = uninstalled else { return }
        machine = data
        unapplied = []
        uninstalled = nil
        core.installed(snapshot: metadata)
    }

    /// Makes the state machine durable and drops log entries that are no longer needed for it.
    mutating func compact(through index: LogIndex = .max) {
        guard uninstalled == nil, core.snapshotBeingInstalled == nil else { return }
        checkpoint = machine
        core.compactLog(through: min(index, machine.appliedIndex))
        disk.compact(through: core.log.snapshotIndex)
    }

    /// Stops without warning. The first `batches` unsynced batches reach the disk, and
    /// `tornEntries` entries of the one after them.
    mutating func crash(keeping batches: Int = 0, tornEntries: Int = 0) {
        for (batch, data) in unsynced.prefix(batches) { write(batch, data) }
        if let (batch, _) = unsynced.dropFirst(batches).first, batch.snapshot == nil {
            disk.write(batch.entries.prefix(tornEntries))
        }
        unsynced = []
        unapplied = []
        uninstalled = nil
        received = [:]
        isUp = false
    }

    mutating func restart(seed: UInt64) throws {
        machine = checkpoint
        core = try Self.start(configuration, disk, checkpoint, seed)
        isUp = true
    }

    private mutating func write(_ batch: PersistBatch, _ data: TestMachine?) {
        disk.write(batch)
        if let metadata = batch.snapshot, let data {
            // Durable, so a restart begins with it whether or not it was put in place.
            checkpoint = data
            uninstalled = (metadata, data)
        }
    }

    private mutating func apply(_ entry: Entry) {
        precondition(entry.index == machine.appliedIndex + 1, "applied out of order")
        machine.appliedIndex = entry.index
        switch entry.kind {
        case .normal:
            if !entry.data.isEmpty { machine.commands.append(String(decoding: entry.data, as: UTF8.self)) }
        case .configChange:
            machine.confState = core.applyConfigChange(
                try? ConfigChange(decoding: entry.data), at: entry.index)
        }
    }
}
