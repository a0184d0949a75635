// Memory for index entries, older versions and separators: bump allocation out of large chunks, and
// one free list per size class for reuse. There is no header per allocation; the owner knows sizes.

import Glibc

/// A bump allocator with size classes of 8 bytes up to 512 and of 64 bytes up to 4096; larger
/// requests go to malloc. Chunks are returned only when the arena goes.
struct KeyArena: ~Copyable {
    static let largestClass = 4096
    private static let fineLimit = 512
    private static let classCount = fineLimit / 8 + (largestClass - fineLimit) / 64 + 1

    private var chunks: IndexChunks
    private var next: UnsafeMutableRawPointer
    private var left = 0
    /// Heads of the free lists; a free block holds the address of the next in its first 8 bytes.
    private let free: UnsafeMutablePointer<UnsafeMutableRawPointer?>
    /// Bytes taken from the system in chunks, for metrics. What malloc gave beyond the classes is in
    /// `usedBytes` only.
    var reservedBytes: Int { chunks.reservedBytes }
    /// Bytes handed out and not given back, rounded to classes, for metrics and leak tests.
    private(set) var usedBytes = 0
    /// Blocks beyond the classes, which the owner has to release before the arena goes.
    private(set) var largeBlocks = 0

    init(chunkBytes: Int) {
        chunks = IndexChunks(maximumSize: chunkBytes)
        free = .allocate(capacity: Self.classCount)
        free.initialize(repeating: nil, count: Self.classCount)
        next = UnsafeMutableRawPointer(free)
    }

    deinit {
        free.deallocate()
    }

    /// The size an allocation of `size` really takes; growing within it needs no new allocation.
    @inline(__always) static func rounded(_ size: Int) -> Int {
        if size <= fineLimit { return max(8, (size &+ 7) & ~7) }
        if size <= largestClass { return (size &+ 63) & ~63 }
        return size
    }

    @inline(__always) private static func sizeClass(_ rounded: Int) -> Int {
        rounded <= fineLimit
            ? rounded / 8 &- 1 : fineLimit / 8 &+ (rounded &- fineLimit) / 64 &- 1
    }

    @inline(__always) mutating func allocate(_ size: Int) -> UnsafeMutableRawPointer {
        let rounded = Self.rounded(size)
        usedBytes &+= rounded
        if rounded > Self.largestClass {
            largeBlocks &+= 1
            return Self.system(rounded)
        }
        let sizeClass = Self.sizeClass(rounded)
        if let block = free[sizeClass] {
            free[sizeClass] = block.load(as: UnsafeMutableRawPointer?.self)
            return block
        }
        if left < rounded { newChunk() }
        let block = next
        next += rounded
        left &-= rounded
        return block
    }

    @inline(__always) mutating func release(_ block: UnsafeMutableRawPointer, _ size: Int) {
        let rounded = Self.rounded(size)
        usedBytes &-= rounded
        if rounded > Self.largestClass {
            largeBlocks &-= 1
            Glibc.free(block)
            return
        }
        let sizeClass = Self.sizeClass(rounded)
        block.storeBytes(of: free[sizeClass], as: UnsafeMutableRawPointer?.self)
        free[sizeClass] = block
    }

    /// Moves a block to a larger one. Blocks beyond the classes grow in place where the system can.
    mutating func grow(
        _ block: UnsafeMutableRawPointer, from size: Int, to newSize: Int
    ) -> UnsafeMutableRawPointer {
        if size > Self.largestClass && newSize > Self.largestClass {
            usedBytes &+= newSize &- size
            guard let grown = realloc(block, newSize) else {
                preconditionFailure("out of memory: \(newSize) bytes for the key index")
            }
            return grown
        }
        let grown = allocate(newSize)
        grown.copyMemory(from: block, byteCount: min(size, newSize))
        release(block, size)
        return grown
    }

    private mutating func newChunk() {
        // The rest of the old chunk serves later requests of its own class.
        while left >= 8 {
            let piece = left >= 64 ? min(Self.largestClass, left & ~63) : left & ~7
            let size = piece <= Self.fineLimit ? piece : piece & ~63
            let sizeClass = Self.sizeClass(size)
            next.storeBytes(of: free[sizeClass], as: UnsafeMutableRawPointer?.self)
            free[sizeClass] = next
            next += size
            left &-= size
        }
        (next, left) = chunks.make()
    }

    private static func system(_ size: Int) -> UnsafeMutableRawPointer {
        guard let block = malloc(size) else {
            preconditionFailure("out of memory: \(size) bytes for the key index")
        }
        return block
    }
}
