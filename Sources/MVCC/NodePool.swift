// Memory for index nodes: cache-line aligned, cut from large chunks, reused through two free lists.

import Glibc

/// Hands out leaf and inner nodes. Chunks are returned only when the pool goes.
struct NodePool: ~Copyable {
    private static let leavesPerChunk = 113
    private static let innersPerChunk = 15

    private var chunks: [UnsafeMutableRawPointer] = []
    private var freeLeaf: UnsafeMutableRawPointer?
    private var freeInner: UnsafeMutableRawPointer?
    /// Bytes taken from the system, for metrics.
    private(set) var reservedBytes = 0
    /// Nodes handed out and not given back, for leak tests.
    private(set) var nodesInUse = 0

    deinit {
        for chunk in chunks { free(chunk) }
    }

    mutating func make(isLeaf: Bool) -> IndexNode {
        if isLeaf && freeLeaf == nil {
            freeLeaf = carve(IndexNode.leafSize, Self.leavesPerChunk)
        } else if !isLeaf && freeInner == nil {
            freeInner = carve(IndexNode.innerSize, Self.innersPerChunk)
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
    private mutating func carve(_ size: Int, _ count: Int) -> UnsafeMutableRawPointer {
        var chunk: UnsafeMutableRawPointer?
        let status = posix_memalign(&chunk, 64, size &* count)
        guard status == 0, let chunk else {
            preconditionFailure("out of memory: \(size &* count) bytes for index nodes")
        }
        chunks.append(chunk)
        reservedBytes &+= size &* count
        var next: UnsafeMutableRawPointer?
        for position in stride(from: count &- 1, through: 0, by: -1) {
            let node = chunk + position &* size
            node.storeBytes(of: next, as: UnsafeMutableRawPointer?.self)
            next = node
        }
        return chunk
    }
}
