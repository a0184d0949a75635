// A backend for tests: committed records in memory, read through immutable snapshots, so that tests
// see exactly what a real read transaction would.

import KVCodec
import Synchronization

@testable import MVCC

/// A record whose bytes stay where they are.
final class StoredRecord: @unchecked Sendable {
    let revision: Revision
    let isTombstone: Bool
    let bytes: UnsafeRawBufferPointer

    init(_ revision: Revision, _ isTombstone: Bool, _ source: UnsafeRawBufferPointer) {
        self.revision = revision
        self.isTombstone = isTombstone
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: source.count, alignment: 1)
        copy.copyMemory(from: source)
        bytes = UnsafeRawBufferPointer(copy)
    }

    deinit { bytes.deallocate() }
}

final class InMemoryRecords: Sendable {
    private let state = Mutex<[StoredRecord]>([])

    var records: [StoredRecord] { state.withLock { $0 } }

    /// One backend transaction: the records, then the deletes.
    func commit(_ pending: PendingRecords?, deleting deleted: [Revision] = []) {
        var added: [StoredRecord] = []
        pending?.forEach { added.append(StoredRecord($0, $1, $2)) }
        let gone = Set(deleted)
        state.withLock { records in
            records += added
            if !gone.isEmpty { records.removeAll { gone.contains($0.revision) } }
        }
    }

    func reader() -> InMemoryReader { InMemoryReader(self) }
}

/// Checks the protocol's rules while it serves: begin before reads, end after begin.
final class InMemoryReader: RecordReader {
    private let source: InMemoryRecords
    private var snapshot: [StoredRecord]?
    private(set) var begun = 0
    private(set) var reads = 0
    var isOpen: Bool { snapshot != nil }

    init(_ source: InMemoryRecords) { self.source = source }

    func begin() {
        precondition(snapshot == nil, "begin of a reader that is open")
        snapshot = source.records
        begun += 1
    }

    func end() {
        precondition(snapshot != nil, "end of a reader that is not open")
        snapshot = nil
    }

    private func lowerBound(_ revision: Revision) -> Int {
        guard let snapshot else { preconditionFailure("read of a reader that is not open") }
        var low = 0
        var high = snapshot.count
        while low < high {
            let middle = (low + high) / 2
            if snapshot[middle].revision < revision { low = middle + 1 } else { high = middle }
        }
        return low
    }

    func get(_ revision: Revision) -> UnsafeRawBufferPointer? {
        reads += 1
        let position = lowerBound(revision)
        guard let snapshot, position < snapshot.count, snapshot[position].revision == revision
        else { return nil }
        return snapshot[position].bytes
    }

    func scan(
        from: Revision, _ body: (Revision, Bool, UnsafeRawBufferPointer) -> Bool
    ) {
        reads += 1
        var position = lowerBound(from)
        guard let snapshot else { return }
        while position < snapshot.count {
            let record = snapshot[position]
            if !body(record.revision, record.isTombstone, record.bytes) { return }
            position += 1
        }
    }
}
