// Records in memory: those that the backend has not committed yet, and a bounded number of those it
// has committed lately. Readers look here first, so a read never needs the backend's write
// transaction and never sees a state that was not (etcd 17158, 17228).

import Glibc

/// A run of records in ascending revision order. Filled by the replica, then frozen and handed
/// to the backend thread; immutable from then on and freed with the last reference.
package final class PendingRecords: @unchecked Sendable {
    /// Where one record lies.
    struct Item {
        var main: Int64
        var bytes: UnsafeMutableRawPointer
        var sub: UInt32
        var length: UInt32
        var isTombstone: Bool

        @inline(__always) var revision: Revision { Revision(main: main, sub: Int64(sub)) }
        @inline(__always) var record: UnsafeRawBufferPointer {
            UnsafeRawBufferPointer(start: bytes, count: Int(length))
        }
    }

    private(set) var items: UnsafeMutablePointer<Item>
    private var capacity: Int
    /// Number of records.
    package private(set) var count = 0
    /// Bytes of the records themselves.
    package private(set) var recordBytes = 0
    /// Bytes taken from the system for them.
    private(set) var reservedBytes = 0
    private var chunks: [UnsafeMutableRawPointer] = []
    private var next: UnsafeMutableRawPointer
    private var left = 0
    private var chunkBytes: Int
    private let maximumChunkBytes: Int

    init(chunkBytes: Int, maximumChunkBytes: Int) {
        self.chunkBytes = max(256, chunkBytes)
        self.maximumChunkBytes = max(256, maximumChunkBytes)
        capacity = 64
        items = .allocate(capacity: capacity)
        next = UnsafeMutableRawPointer(items)
        reservedBytes = capacity * MemoryLayout<Item>.stride
    }

    deinit {
        for chunk in chunks { free(chunk) }
        items.deallocate()
    }

    /// Room for the next record, to be written by the caller at once.
    func append(
        _ revision: Revision, isTombstone: Bool, length: Int
    ) -> UnsafeMutableRawPointer {
        precondition(length >= 0 && length <= Int(Int32.max), "record of \(length) bytes")
        if left < length { newChunk(atLeast: length) }
        if count == capacity { widen() }
        let bytes = next
        next += length
        left &-= length
        (items + count).initialize(
            to: Item(
                main: revision.main, bytes: bytes, sub: UInt32(truncatingIfNeeded: revision.sub),
                length: UInt32(length), isTombstone: isTombstone))
        count &+= 1
        recordBytes &+= length
        return bytes
    }

    /// The record at exactly this revision.
    @inline(__always) func find(_ revision: Revision) -> UnsafeRawBufferPointer? {
        if count == 0 { return nil }
        // One record a revision is the common case, and then the position is the distance.
        let guess = revision.main &- items[0].main
        if guess >= 0 && guess < count {
            let item = items[Int(guess)]
            if item.main == revision.main && Int64(item.sub) == revision.sub { return item.record }
        }
        let position = lowerBound(revision)
        if position == count || items[position].revision != revision { return nil }
        return items[position].record
    }

    /// Position of the first record with revision >= `revision`.
    func lowerBound(_ revision: Revision) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low &+ high) / 2
            if items[middle].revision < revision { low = middle &+ 1 } else { high = middle }
        }
        return low
    }

    /// Visits the records in ascending order. The bytes are valid as long as this object.
    package func forEach(
        _ body: (Revision, _ isTombstone: Bool, UnsafeRawBufferPointer) -> Void
    ) {
        for position in 0..<count {
            let item = items[position]
            body(item.revision, item.isTombstone, item.record)
        }
    }

    private func widen() {
        let wider = UnsafeMutablePointer<Item>.allocate(capacity: capacity * 2)
        wider.moveInitialize(from: items, count: count)
        items.deallocate()
        items = wider
        reservedBytes += capacity * MemoryLayout<Item>.stride
        capacity *= 2
    }

    private func newChunk(atLeast length: Int) {
        let size = max(chunkBytes, length)
        guard let chunk = malloc(size) else {
            preconditionFailure("out of memory: \(size) bytes for records")
        }
        chunks.append(chunk)
        reservedBytes += size
        next = chunk
        left = size
        chunkBytes = min(maximumChunkBytes, chunkBytes &* 2)
    }
}
