// One key of the index: its newest version, a link to the older ones, and the key bytes behind.
//
// Layout in the arena (little-endian, 8-byte aligned):
//
//    0 modMain Int64     8 createMain Int64   16 version Int64 (0: a tombstone)
//   24 lease Int64      32 history pointer    40 modSub UInt32   44 recordSize UInt32
//   48 keyLength UInt32 52 key bytes
//
// Older versions lie in a block of their own, oldest first:
//
//    0 count UInt32      4 capacity UInt32     8 items of 16 bytes {main Int64, sub UInt32, flags UInt32}
//
// They hold the revision only; everything else is in the record. Example: put at 5, put at 7, delete
// at 9, put at 12 gives the entry {mod 12, create 12, version 1} and the items 5, 7, 9 (tombstone).

import Glibc

/// A version of a key as the history knows it.
struct KeyVersion: Equatable {
    var revision: Revision
    var isTombstone: Bool
}

/// A view of one entry. The index owns the memory; a view is valid while the lock is held, and key
/// bytes until the entry is removed by compaction.
struct KeyEntry {
    static let keyLengthOffset = 48
    static let keyOffset = 52
    private static let itemsOffset = 8
    private static let itemSize = 16
    private static let tombstoneFlag: UInt32 = 1

    let raw: UnsafeMutableRawPointer

    @inline(__always) init(_ raw: UnsafeMutableRawPointer) { self.raw = raw }

    @inline(__always) var modMain: Int64 {
        get { raw.load(as: Int64.self) }
        nonmutating set { raw.storeBytes(of: newValue, as: Int64.self) }
    }
    @inline(__always) var createMain: Int64 {
        get { raw.load(fromByteOffset: 8, as: Int64.self) }
        nonmutating set { raw.storeBytes(of: newValue, toByteOffset: 8, as: Int64.self) }
    }
    /// Zero means that the newest version is a tombstone.
    @inline(__always) var version: Int64 {
        get { raw.load(fromByteOffset: 16, as: Int64.self) }
        nonmutating set { raw.storeBytes(of: newValue, toByteOffset: 16, as: Int64.self) }
    }
    @inline(__always) var lease: Int64 {
        get { raw.load(fromByteOffset: 24, as: Int64.self) }
        nonmutating set { raw.storeBytes(of: newValue, toByteOffset: 24, as: Int64.self) }
    }
    @inline(__always) private var history: UnsafeMutableRawPointer? {
        get { raw.load(fromByteOffset: 32, as: UnsafeMutableRawPointer?.self) }
        nonmutating set {
            raw.storeBytes(of: newValue, toByteOffset: 32, as: UnsafeMutableRawPointer?.self)
        }
    }
    @inline(__always) var modSub: UInt32 {
        get { raw.load(fromByteOffset: 40, as: UInt32.self) }
        nonmutating set { raw.storeBytes(of: newValue, toByteOffset: 40, as: UInt32.self) }
    }
    @inline(__always) var recordSize: UInt32 {
        get { raw.load(fromByteOffset: 44, as: UInt32.self) }
        nonmutating set { raw.storeBytes(of: newValue, toByteOffset: 44, as: UInt32.self) }
    }
    @inline(__always) var keyLength: Int {
        Int(raw.load(fromByteOffset: Self.keyLengthOffset, as: UInt32.self))
    }
    @inline(__always) var key: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: raw + Self.keyOffset, count: keyLength)
    }
    @inline(__always) var isLive: Bool { version != 0 }
    @inline(__always) var revision: Revision { Revision(main: modMain, sub: Int64(modSub)) }
    @inline(__always) var metadata: KeyMetadata {
        KeyMetadata(
            createRevision: createMain, modRevision: modMain, modSub: Int64(modSub),
            version: version, lease: lease, recordSize: Int(recordSize))
    }

    /// True when compaction may find something to take here.
    @inline(__always) var isDirty: Bool { history != nil || version == 0 }

    // MARK: Older versions

    @inline(__always) var olderCount: Int {
        guard let history else { return 0 }
        return Int(history.load(as: UInt32.self))
    }

    /// The older version at `position`, oldest first.
    @inline(__always) func older(_ position: Int) -> KeyVersion {
        guard let history, position >= 0, position < olderCount else {
            preconditionFailure("older version \(position) of \(olderCount)")
        }
        let item = history + (Self.itemsOffset &+ position &* Self.itemSize)
        return KeyVersion(
            revision: Revision(
                main: item.load(as: Int64.self),
                sub: Int64(item.load(fromByteOffset: 8, as: UInt32.self))),
            isTombstone: item.load(fromByteOffset: 12, as: UInt32.self) & Self.tombstoneFlag != 0)
    }

    /// Number of older versions with main revision <= `main`.
    func olderCount(upTo main: Int64) -> Int {
        guard let history else { return 0 }
        let items = history + Self.itemsOffset
        var low = 0
        var high = Int(history.load(as: UInt32.self))
        while low < high {
            let middle = (low &+ high) / 2
            if items.load(fromByteOffset: middle &* Self.itemSize, as: Int64.self) <= main {
                low = middle &+ 1
            } else {
                high = middle
            }
        }
        return low
    }

    /// The version that a read at main revision `main` sees, tombstones included.
    @inline(__always) func version(at main: Int64) -> KeyVersion? {
        if modMain <= main { return KeyVersion(revision: revision, isTombstone: !isLive) }
        let count = olderCount(upTo: main)
        return count == 0 ? nil : older(count &- 1)
    }

    /// Moves the newest version to the end of the older ones; the caller then writes the new one.
    func pushCurrent(_ arena: inout KeyArena) {
        var block: UnsafeMutableRawPointer
        var count = 0
        if let history {
            block = history
            count = Int(block.load(as: UInt32.self))
            let capacity = Int(block.load(fromByteOffset: 4, as: UInt32.self))
            if count == capacity {
                let wider = capacity &* 2
                block = arena.grow(
                    block, from: Self.blockSize(capacity), to: Self.blockSize(wider))
                block.storeBytes(of: UInt32(wider), toByteOffset: 4, as: UInt32.self)
            }
        } else {
            block = arena.allocate(Self.blockSize(1))
            block.storeBytes(of: 1, toByteOffset: 4, as: UInt32.self)
        }
        let item = block + (Self.itemsOffset &+ count &* Self.itemSize)
        item.storeBytes(of: modMain, as: Int64.self)
        item.storeBytes(of: modSub, toByteOffset: 8, as: UInt32.self)
        item.storeBytes(
            of: isLive ? 0 : Self.tombstoneFlag, toByteOffset: 12, as: UInt32.self)
        block.storeBytes(of: UInt32(count &+ 1), as: UInt32.self)
        history = block
    }

    /// Forgets the oldest `dropped` older versions.
    func dropOldest(_ dropped: Int, _ arena: inout KeyArena) {
        guard let block = history, dropped > 0 else { return }
        let count = Int(block.load(as: UInt32.self))
        let capacity = Int(block.load(fromByteOffset: 4, as: UInt32.self))
        precondition(dropped <= count, "drop \(dropped) of \(count) older versions")
        let left = count &- dropped
        if left == 0 {
            arena.release(block, Self.blockSize(capacity))
            history = nil
            return
        }
        let rest = block + (Self.itemsOffset &+ dropped &* Self.itemSize)
        var target = block
        if left <= capacity / 4 {
            target = arena.allocate(Self.blockSize(left))
            target.storeBytes(of: UInt32(left), toByteOffset: 4, as: UInt32.self)
        }
        memmove(target + Self.itemsOffset, rest, left &* Self.itemSize)
        target.storeBytes(of: UInt32(left), as: UInt32.self)
        if target != block { arena.release(block, Self.blockSize(capacity)) }
        history = target
    }

    @inline(__always) private static func blockSize(_ capacity: Int) -> Int {
        itemsOffset &+ capacity &* itemSize
    }

    // MARK: Life

    /// A new entry with this key; every other field is zero.
    static func make(_ key: UnsafeRawBufferPointer, _ arena: inout KeyArena) -> KeyEntry {
        precondition(key.count <= Int(Int32.max), "key of \(key.count) bytes")
        let raw = arena.allocate(keyOffset &+ key.count)
        memset(raw, 0, keyLengthOffset)
        raw.storeBytes(of: UInt32(key.count), toByteOffset: keyLengthOffset, as: UInt32.self)
        if let base = key.baseAddress, key.count > 0 {
            (raw + keyOffset).copyMemory(from: base, byteCount: key.count)
        }
        return KeyEntry(raw)
    }

    /// Before the arena goes: gives back what it does not hold in its own chunks.
    func releaseLargeBlocks(_ arena: inout KeyArena) {
        if let history {
            let capacity = Int(history.load(fromByteOffset: 4, as: UInt32.self))
            if Self.blockSize(capacity) > KeyArena.largestClass { dropOldest(olderCount, &arena) }
        }
        let size = Self.keyOffset &+ keyLength
        if size > KeyArena.largestClass { arena.release(raw, size) }
    }

    func destroy(_ arena: inout KeyArena) {
        dropOldest(olderCount, &arena)
        arena.release(raw, Self.keyOffset &+ keyLength)
    }
}
