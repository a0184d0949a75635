// Where index memory comes from. Look-ups jump all over it, so with small pages most of their time
// would go into address translation: chunks are sized and aligned for huge pages.

import Glibc

/// Chunks that start small and double, so that a small store stays small.
struct IndexChunks: ~Copyable {
    private static let hugePage = 2 << 20
    private static let firstSize = 64 << 10

    private var chunks: [UnsafeMutableRawPointer] = []
    private var nextSize = firstSize
    private let maximumSize: Int
    /// Bytes taken from the system.
    private(set) var reservedBytes = 0

    init(maximumSize: Int) {
        self.maximumSize = max(Self.firstSize, maximumSize)
    }

    deinit {
        for chunk in chunks { free(chunk) }
    }

    /// A new chunk, aligned to its size or to a huge page.
    mutating func make() -> (start: UnsafeMutableRawPointer, size: Int) {
        let size = nextSize
        nextSize = min(maximumSize, nextSize &* 2)
        var chunk: UnsafeMutableRawPointer?
        let isHuge = size % Self.hugePage == 0
        let status = posix_memalign(&chunk, isHuge ? Self.hugePage : 4_096, size)
        guard status == 0, let chunk else {
            preconditionFailure("out of memory: \(size) bytes for the key index")
        }
        // Advice only: without it everything works, slower.
        if isHuge { _ = madvise(chunk, size, MADV_HUGEPAGE) }
        chunks.append(chunk)
        reservedBytes &+= size
        return (chunk, size)
    }
}
