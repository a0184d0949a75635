// The walk over all trees of a data file. See BackendFile.swift for the format.

/// One walk. It remembers which pages it has seen: a page has one place.
final class BackendFileWalker {
    typealias Leaf = (
        _ key: ArraySlice<UInt8>, _ flags: Int, _ value: UnsafeRawBufferPointer
    ) throws(BackendFileFault) -> Void

    /// LMDB's own bound on the depth of a tree.
    private static let maxDepth = 32
    static let bigData = 1
    static let namedDatabase = 2
    /// Keys are machine words in the free list.
    private static let integerKeys = 8

    let file: BackendFile
    private var visited: [UInt64]
    /// The leaf page being looked at.
    let leafPage: UnsafeMutableRawBufferPointer

    init(_ file: BackendFile) {
        self.file = file
        visited = [UInt64](repeating: 0, count: Int(file.lastPage / 64) + 1)
        leafPage = .allocate(byteCount: file.pageBytes, alignment: 8)
    }

    deinit { leafPage.deallocate() }

    // MARK: The two databases that every file has

    /// The free list: transaction number to pages that it freed, a count and then the numbers,
    /// descending.
    func walkFree() throws(BackendFileFault) {
        let tree = Tree(file.free, name: "free list", hasIntegerKeys: true)
        guard file.free.flags & ~Self.integerKeys == 0 else {
            throw BackendFileFault("free list", "has flags \(file.free.flags)")
        }
        try walk(tree) { [self] key, flags, value throws(BackendFileFault) in
            guard flags & Self.namedDatabase == 0, key.count == 8, value.count >= 8 else {
                throw BackendFileFault("free list", "holds an entry of another kind")
            }
            let count = value.loadUnaligned(as: UInt64.self)
            guard count <= UInt64(value.count / 8 - 1) else {
                throw BackendFileFault("free list", "an entry is shorter than its count")
            }
            var previous = UInt64.max
            for position in 0..<Int(count) {
                let page = value.loadUnaligned(fromByteOffset: 8 + 8 * position, as: UInt64.self)
                guard page < previous else {
                    throw BackendFileFault("free list", "page numbers do not descend")
                }
                previous = page
                try visit(page, from: "free list")
            }
        }
    }

    /// After `walkFree`: pages that the file lacks must be free.
    func checkEnd() throws(BackendFileFault) {
        var page = file.filePages
        while page <= file.lastPage {
            guard isVisited(page) else {
                throw BackendFileFault(
                    "file",
                    "is cut short: it holds \(file.filePages) pages, but page \(page) is in use")
            }
            page += 1
        }
    }

    /// The database of names: each entry is a bucket.
    func walkMain(
        skippingValues: Bool = false,
        _ body: (
            _ bucket: [UInt8], _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
        ) throws(BackendFileFault) -> Void
    ) throws(BackendFileFault) {
        guard file.main.flags == 0 else {
            throw BackendFileFault("bucket list", "has flags \(file.main.flags)")
        }
        try walk(Tree(file.main, name: "bucket list")) { [self] name, flags, value throws(BackendFileFault) in
            let name = Array(name)
            let label = "bucket " + String(decoding: name, as: UTF8.self)
            guard flags == Self.namedDatabase, value.count == BackendFile.Database.byteCount else {
                throw BackendFileFault("bucket list", "holds something that is no bucket")
            }
            guard BackendBucket.allCases.contains(where: { $0.name.utf8.elementsEqual(name) }) else {
                throw BackendFileFault(label, "is not known to this version")
            }
            let database = BackendFile.Database(PageBytes(bytes: [UInt8](value)), at: 0)
            guard database.flags == 0 else {
                throw BackendFileFault(label, "has flags \(database.flags)")
            }
            let tree = Tree(database, name: label, skipsValues: skippingValues)
            try walk(tree) { key, flags, value throws(BackendFileFault) in
                guard flags & Self.namedDatabase == 0 else {
                    throw BackendFileFault(label, "holds a bucket")
                }
                try Self.with(key) { key throws(BackendFileFault) in try body(name, key, value) }
            }
        }
    }

    // MARK: One tree

    /// A tree being walked, and what was found in it so far.
    final class Tree {
        let claimed: BackendFile.Database
        let name: String
        let hasIntegerKeys: Bool
        /// Of leaf pages only where the nodes lie is looked at.
        let skipsValues: Bool
        var branchPages: UInt64 = 0
        var leafPages: UInt64 = 0
        var overflowPages: UInt64 = 0
        var entries: UInt64 = 0
        var lastKey: ArraySlice<UInt8>?

        init(
            _ claimed: BackendFile.Database, name: String, hasIntegerKeys: Bool = false,
            skipsValues: Bool = false
        ) {
            self.claimed = claimed
            self.name = name
            self.hasIntegerKeys = hasIntegerKeys
            self.skipsValues = skipsValues
        }

        func isAscending(_ first: ArraySlice<UInt8>, _ second: ArraySlice<UInt8>) -> Bool {
            // Machine words are compared from their most significant byte, which is the last.
            hasIntegerKeys
                ? first.reversed().lexicographicallyPrecedes(second.reversed())
                : first.lexicographicallyPrecedes(second)
        }
    }

    private func walk(_ tree: Tree, _ leaf: Leaf) throws(BackendFileFault) {
        let claimed = tree.claimed
        if claimed.root == BackendFile.Database.noPage {
            guard claimed.depth == 0 else {
                throw BackendFileFault(tree.name, "has depth \(claimed.depth) and no pages")
            }
        } else {
            guard (1...Self.maxDepth).contains(claimed.depth) else {
                throw BackendFileFault(tree.name, "has depth \(claimed.depth)")
            }
            try walk(tree, page: claimed.root, level: 1, from: nil, below: nil, leaf)
        }
        let pairs: [(String, UInt64, UInt64)] = [
            ("branch pages", claimed.branchPages, tree.branchPages),
            ("leaf pages", claimed.leafPages, tree.leafPages),
            ("entries", claimed.entries, tree.entries),
            ("overflow pages", claimed.overflowPages, tree.overflowPages),
        ]
        for (what, expected, found) in pairs where expected != found {
            throw BackendFileFault(tree.name, "should hold \(expected) \(what), holds \(found)")
        }
    }

    /// Walks what hangs below one page; all keys must lie in `from ..< below`.
    private func walk(
        _ tree: Tree, page number: UInt64, level: Int, from: ArraySlice<UInt8>?,
        below: ArraySlice<UInt8>?, _ leaf: Leaf
    ) throws(BackendFileFault) {
        let place = "page \(number) (\(tree.name))"
        try visit(number, from: tree.name)
        let isLeaf = level == tree.claimed.depth
        if isLeaf && tree.skipsValues { return try checkLeaf(tree, page: number, from: from, below: below) }
        let page = try file.read(number)
        guard page.u64(0) == number, page.u16(10) == (isLeaf ? 2 : 1) else {
            throw BackendFileFault(place, "is not the \(isLeaf ? "leaf" : "branch") page \(number)")
        }
        let lower = page.u16(12)
        let upper = page.u16(14)
        guard lower >= 18, lower % 2 == 0, lower <= upper, upper <= file.pageBytes else {
            throw BackendFileFault(place, "has its free space from \(lower) to \(upper)")
        }
        if isLeaf { tree.leafPages += 1 } else { tree.branchPages += 1 }
        var nodes: [Node] = []
        for position in 0..<(lower - 16) / 2 {
            let node = try self.node(
                page, at: page.u16(16 + 2 * position), upper: upper, isLeaf: isLeaf, place)
            // The first key of a branch page is left out: it has no lower bound of its own.
            if position > 0 || isLeaf {
                let isBelow = below.map { tree.isAscending(node.key, $0) } ?? true
                let isAbove = from.map { !tree.isAscending(node.key, $0) } ?? true
                guard isBelow, isAbove else {
                    throw BackendFileFault(place, "a key lies outside of the page's range")
                }
            }
            if position > (isLeaf ? 0 : 1), let last = nodes.last, !tree.isAscending(last.key, node.key) {
                throw BackendFileFault(place, "keys do not ascend")
            }
            nodes.append(node)
        }
        guard isLeaf else {
            for (position, node) in nodes.enumerated() {
                try walk(
                    tree, page: node.word, level: level + 1, from: position == 0 ? from : node.key,
                    below: position + 1 < nodes.count ? nodes[position + 1].key : below, leaf)
            }
            return
        }
        for node in nodes {
            if let last = tree.lastKey, !tree.isAscending(last, node.key) {
                throw BackendFileFault(place, "keys do not ascend from page to page")
            }
            tree.lastKey = node.key
            tree.entries += 1
            try give(node, page, tree, place, leaf)
        }
    }

    private struct Node {
        let key: ArraySlice<UInt8>
        let flags: Int
        /// A branch's page, or a leaf's size of data.
        let word: UInt64
        let dataOffset: Int
    }

    private func node(
        _ page: PageBytes, at offset: Int, upper: Int, isLeaf: Bool, _ place: String
    ) throws(BackendFileFault) -> Node {
        guard offset >= upper, offset % 2 == 0, offset + 8 <= file.pageBytes else {
            throw BackendFileFault(place, "a node lies at \(offset)")
        }
        let keySize = page.u16(offset + 6)
        let dataOffset = offset + 8 + keySize
        guard dataOffset <= file.pageBytes else {
            throw BackendFileFault(place, "the key at \(offset) runs over the page's end")
        }
        let flags = page.u16(offset + 4)
        var word = page.u32(offset)
        if !isLeaf {
            word |= UInt64(flags) << 32
        } else {
            guard flags == 0 || flags == Self.bigData || flags == Self.namedDatabase else {
                throw BackendFileFault(place, "the node at \(offset) has flags \(flags)")
            }
            let inline = flags == Self.bigData ? 8 : word
            guard inline <= UInt64(file.pageBytes - dataOffset) else {
                throw BackendFileFault(place, "the value at \(offset) runs over the page's end")
            }
        }
        return Node(
            key: page.bytes[(offset + 8)..<dataOffset], flags: flags, word: word,
            dataOffset: dataOffset)
    }

    private func give(
        _ node: Node, _ page: PageBytes, _ tree: Tree, _ place: String, _ leaf: Leaf
    ) throws(BackendFileFault) {
        guard node.flags == Self.bigData else {
            let end = node.dataOffset + Int(node.word)
            return try Self.with(page.bytes[node.dataOffset..<end]) { value throws(BackendFileFault) in
                try leaf(node.key, node.flags, value)
            }
        }
        let first = page.u64(node.dataOffset)
        let needed = (node.word + 15) / UInt64(file.pageBytes) + 1
        guard first <= file.lastPage, needed <= file.lastPage - first + 1 else {
            throw BackendFileFault(place, "a value of \(node.word) bytes lies beyond the last page")
        }
        for number in first..<(first + needed) { try visit(number, from: tree.name) }
        let pages = try file.read(first, count: Int(needed))
        guard pages.u64(0) == first, pages.u16(10) == 4, pages.u32(12) == needed else {
            throw BackendFileFault("page \(first) (\(tree.name))", "does not begin a long value")
        }
        tree.overflowPages += needed
        try Self.with(pages.bytes[16..<(16 + Int(node.word))]) { value throws(BackendFileFault) in
            try leaf(node.key, node.flags, value)
        }
    }

    private static func with(
        _ bytes: ArraySlice<UInt8>,
        _ body: (UnsafeRawBufferPointer) throws(BackendFileFault) -> Void
    ) throws(BackendFileFault) {
        try bytes.withUnsafeBufferPointer { buffer throws(BackendFileFault) in
            try body(UnsafeRawBufferPointer(buffer))
        }
    }

    private func isVisited(_ page: UInt64) -> Bool { visited[Int(page / 64)] & 1 << (page % 64) != 0 }

    /// Notes that a page has its place.
    func visit(_ page: UInt64, from place: String) throws(BackendFileFault) {
        guard page >= 2, page <= file.lastPage else {
            throw BackendFileFault(place, "names page \(page), which does not exist")
        }
        guard !isVisited(page) else {
            throw BackendFileFault("page \(page)", "has two places; the second is in \(place)")
        }
        visited[Int(page / 64)] |= 1 << (page % 64)
    }
}
