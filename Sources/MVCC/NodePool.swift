// Memory for index nodes: cache-line aligned, cut from large chunks, reused through two free lists.

/// Hands out leaf and inner nodes. Chunks are returned only when the pool goes.
struct NodePool: ~Copyable {
    private var leafChunks: IndexChunks
    private var innerChunks: IndexChunks
    private var freeLeaf: UnsafeMutableRawPointer?
    private var freeInner: UnsafeMutableRawPointer?
    /// Bytes taken from the system, for metrics.
    var reservedBytes: Int { leafChunks.reservedBytes + innerChunks.reservedBytes }
    /// Nodes handed out and not given back, for leak tests.
    private(set) var nodesInUse = 0

    init(chunkBytes: Int) {
        leafChunks = IndexChunks(maximumSize: chunkBytes)
        innerChunks = IndexChunks(maximumSize: chunkBytes)
    }

    mutating func make(isLeaf: Bool) -> IndexNode {
        if isLeaf && freeLeaf == nil {
            freeLeaf = Self.carve(IndexNode.leafSize, leafChunks.make())
        } else if !isLeaf && freeInner == nil {
            freeInner = Self.carve(IndexNode.innerSize, innerChunks.make())
        }
        guard let raw = isLeaf ? freeLeaf : freeInner else {
            preconditionFailure("no free node after carving a chunk")
        }
        let rest = raw.load(as: UnsafeMutableRawPointer?.self)
        if isLeaf { freeLeaf = rest } else { freeInner = rest }
        nodesInUse &+= 1
        let node = IndexNode(raw)
        node.initialize(isLeaf: isLeaf)
        return node
    }

    mutating func release(_ node: IndexNode) {
        nodesInUse &-= 1
        if node.isLeaf {
            node.raw.storeBytes(of: freeLeaf, as: UnsafeMutableRawPointer?.self)
            freeLeaf = node.raw
        } else {
            node.raw.storeBytes(of: freeInner, as: UnsafeMutableRawPointer?.self)
            freeInner = node.raw
        }
    }

    /// A new chunk as a free list.
    private static func carve(
        _ size: Int, _ chunk: (start: UnsafeMutableRawPointer, size: Int)
    ) -> UnsafeMutableRawPointer {
        var next: UnsafeMutableRawPointer?
        for position in stride(from: chunk.size / size &- 1, through: 0, by: -1) {
            let node = chunk.start + position &* size
            node.storeBytes(of: next, as: UnsafeMutableRawPointer?.self)
            next = node
        }
        return chunk.start
    }
}
