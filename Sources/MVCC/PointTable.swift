import KVCodec

/// Open addressing with linear probing; removal closes the gap, so there are no deleted marks.
struct PointTable<Watcher> {
    private struct Cell {
        var hash: UInt64
        var group: WatcherGroup<Watcher>?
    }

    private var cells: [Cell]
    private let seed: UInt64
    private(set) var count = 0

    init(seed: UInt64) {
        self.seed = seed
        cells = Array(repeating: Cell(hash: 0, group: nil), count: 16)
    }

    private func hash(_ key: UnsafeRawBufferPointer) -> UInt64 {
        var hash = seed ^ (UInt64(key.count) &* 0x9E37_79B9_7F4A_7C15)
        var position = 0
        while position &+ 8 <= key.count {
            mix(&hash, key.loadUnaligned(fromByteOffset: position, as: UInt64.self).littleEndian)
            position &+= 8
        }
        var tail: UInt64 = 0
        while position < key.count {
            tail = tail &<< 8 | UInt64(key[position])
            position &+= 1
        }
        mix(&hash, tail)
        return hash
    }

    @inline(__always) private func mix(_ hash: inout UInt64, _ word: UInt64) {
        let product = (hash ^ word).multipliedFullWidth(by: 0xD6E8_FEB8_6659_FD93 ^ seed | 1)
        hash = product.high ^ product.low ^ (word &>> 29)
    }

    /// The cell that holds the key, or the empty one where it would go.
    private func cell(_ key: UnsafeRawBufferPointer, _ hash: UInt64) -> Int {
        let mask = cells.count - 1
        var position = Int(truncatingIfNeeded: hash) & mask
        while let group = cells[position].group {
            if cells[position].hash == hash, KeyRange.compare(group.key, key) == 0 { break }
            position = (position + 1) & mask
        }
        return position
    }

    func find(_ key: UnsafeRawBufferPointer) -> WatcherGroup<Watcher>? {
        cells[cell(key, hash(key))].group
    }

    mutating func findOrInsert(_ key: UnsafeRawBufferPointer) -> WatcherGroup<Watcher> {
        if (count + 1) * 4 > cells.count * 3 { widen() }
        let hash = hash(key)
        let position = cell(key, hash)
        if let group = cells[position].group { return group }
        let group = WatcherGroup<Watcher>(key, UnsafeRawBufferPointer(start: nil, count: 0))
        cells[position] = Cell(hash: hash, group: group)
        count += 1
        return group
    }

    mutating func remove(_ key: UnsafeRawBufferPointer) {
        let mask = cells.count - 1
        var gap = cell(key, hash(key))
        if cells[gap].group == nil { return }
        let removed = cells[gap].group
        cells[gap].group = nil
        count -= 1
        // Cells after the gap move up unless they already stand at or after their home.
        var position = (gap + 1) & mask
        while cells[position].group != nil {
            let home = Int(truncatingIfNeeded: cells[position].hash) & mask
            if (position - home) & mask >= (position - gap) & mask {
                cells.swapAt(gap, position)
                gap = position
            }
            position = (position + 1) & mask
        }
        // `key` may be memory of the group.
        withExtendedLifetime(removed) {}
    }

    private mutating func widen() {
        let old = cells
        cells = Array(repeating: Cell(hash: 0, group: nil), count: old.count * 2)
        for moved in old {
            guard let group = moved.group else { continue }
            cells[cell(group.key, moved.hash)] = moved
        }
    }
}
