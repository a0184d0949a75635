/// All records in memory: released ones kept for a while, frozen ones that the backend is committing,
/// and the active run that `put` and `delete` append to. Guarded by the store's lock.
///
/// Together the runs hold every record from `oldest` on, in ascending order without gaps.
final class RecordBuffer {
    private let configuration: MVCCConfiguration
    private(set) var active: PendingRecords
    /// Frozen, oldest first; not yet released.
    private var frozen: [PendingRecords] = []
    /// Released, oldest first.
    private var recent: [PendingRecords] = []
    private var recentBytes = 0
    /// The same runs in one ascending row without reference counting, for look-ups.
    private var row: UnsafeMutablePointer<Unmanaged<PendingRecords>>
    private var rowCapacity = 16
    private var rowCount = 0
    /// Main revision of the first record in memory; `Int64.max` when there is none.
    private(set) var oldestMain = Int64.max

    init(_ configuration: MVCCConfiguration) {
        self.configuration = configuration
        active = Self.run(configuration)
        row = .allocate(capacity: rowCapacity)
        rebuildRow()
    }

    deinit { row.deallocate() }

    private static func run(_ configuration: MVCCConfiguration) -> PendingRecords {
        PendingRecords(
            chunkBytes: configuration.recordChunkBytes,
            maximumChunkBytes: configuration.maximumRecordChunkBytes)
    }

    /// Bytes of records that the backend has not committed yet.
    var pendingBytes: Int { frozen.reduce(active.recordBytes) { $0 + $1.recordBytes } }
    /// Memory held, recent records included.
    var memoryBytes: Int { frozen.reduce(active.reservedBytes + recentBytes) { $0 + $1.reservedBytes } }

    @inline(__always) func append(
        _ revision: Revision, isTombstone: Bool, length: Int
    ) -> UnsafeMutableRawPointer {
        if oldestMain == .max { oldestMain = revision.main }
        return active.append(revision, isTombstone: isTombstone, length: length)
    }

    /// The record at exactly this revision, when it is in memory.
    @inline(__always) func find(_ revision: Revision) -> UnsafeRawBufferPointer? {
        if revision.main < oldestMain { return nil }
        var position = rowCount &- 1
        while position >= 0 {
            let hit: UnsafeRawBufferPointer?? = row[position]._withUnsafeGuaranteedRef { run in
                if run.count == 0 || revision < run.items[0].revision { return nil }
                return .some(run.find(revision))
            }
            if let hit { return hit }
            position &-= 1
        }
        return nil
    }

    /// Visits the records in memory with revision >= `from`, ascending, until `body` returns false.
    func scan(
        from: Revision, _ body: (Revision, _ isTombstone: Bool, UnsafeRawBufferPointer) -> Bool
    ) {
        for position in 0..<rowCount {
            let run = row[position].takeUnretainedValue()
            if run.count == 0 || run.items[run.count - 1].revision < from { continue }
            for item in run.lowerBound(from)..<run.count {
                let found = run.items[item]
                if !body(found.revision, found.isTombstone, found.record) { return }
            }
        }
    }

    /// Hands out what was written since the last freeze; nil when that is nothing.
    func freeze() -> PendingRecords? {
        if active.count == 0 { return nil }
        let run = active
        frozen.append(run)
        active = Self.run(configuration)
        rebuildRow()
        return run
    }

    /// The backend has committed `run`: readers find the records there from now on.
    func release(_ run: PendingRecords) {
        guard let first = frozen.first, first === run else {
            preconditionFailure("released out of order: \(frozen.count) frozen runs")
        }
        frozen.removeFirst()
        recent.append(run)
        recentBytes += run.reservedBytes
        while recentBytes > configuration.recentRecordBytes, let oldest = recent.first {
            recentBytes -= oldest.reservedBytes
            recent.removeFirst()
        }
        rebuildRow()
    }

    private func rebuildRow() {
        let runs = recent + frozen + [active]
        if runs.count > rowCapacity {
            row.deallocate()
            rowCapacity = runs.count * 2
            row = .allocate(capacity: rowCapacity)
        }
        for (position, run) in runs.enumerated() {
            (row + position).initialize(to: Unmanaged.passUnretained(run))
        }
        rowCount = runs.count
        oldestMain = runs.first { $0.count > 0 }.map { $0.items[0].main } ?? .max
    }
}
