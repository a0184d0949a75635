// A leaf page looked at in place, for every start reads all of them: what the walk checks of its nodes, without a copy of
// any. See BackendFile.swift for the format.

extension BackendFileWalker {
    /// Where a node of the page lies. Offsets are within the page.
    private struct Place {
        let key: Range<Int>
        let flags: Int
        let dataBytes: UInt64
    }

    /// Checks a leaf page of a tree whose values are not read; all keys must lie in `from ..< below`.
    func checkLeaf(
        _ tree: Tree, page number: UInt64, from: ArraySlice<UInt8>?, below: ArraySlice<UInt8>?
    ) throws(BackendFileFault) {
        func fault(_ reason: String) -> BackendFileFault {
            BackendFileFault("page \(number) (\(tree.name))", reason)
        }
        try file.read(number, into: leafPage)
        let page = UnsafeRawBufferPointer(leafPage)
        guard Self.u64(page, 0) == number, Self.u16(page, 10) == 2 else {
            throw fault("is not the leaf page \(number)")
        }
        let lower = Self.u16(page, 12)
        let upper = Self.u16(page, 14)
        guard lower >= 18, lower % 2 == 0, lower <= upper, upper <= page.count else {
            throw fault("has its free space from \(lower) to \(upper)")
        }
        tree.leafPages += 1
        var last: Range<Int>?
        for position in 0..<(lower - 16) / 2 {
            let offset = Self.u16(page, 16 + 2 * position)
            guard let node = place(page, offset, upper) else {
                throw fault("the node at \(offset) runs over the page's end or is of no known kind")
            }
            guard node.flags & Self.namedDatabase == 0 else { throw fault("holds a bucket") }
            if let last {
                guard Self.precedes(page, last, node.key) else { throw fault("keys do not ascend") }
            } else if let from, Self.compare(page, node.key, from) < 0 {
                throw fault("a key lies outside of the page's range")
            }
            last = node.key
            tree.entries += 1
            if node.flags == Self.bigData {
                try checkLongValue(tree, first: Self.u64(page, node.key.upperBound), byteCount: node.dataBytes, fault)
            }
        }
        if let last, let below, Self.compare(page, last, below) >= 0 {
            throw fault("a key lies outside of the page's range")
        }
    }

    /// Nil when the node does not lie within the page.
    private func place(_ page: UnsafeRawBufferPointer, _ offset: Int, _ upper: Int) -> Place? {
        guard offset >= upper, offset % 2 == 0, offset + 8 <= page.count else { return nil }
        let end = offset + 8 + Self.u16(page, offset + 6)
        let flags = Self.u16(page, offset + 4)
        let bytes = UInt64(page.loadUnaligned(fromByteOffset: offset, as: UInt32.self).littleEndian)
        guard end <= page.count, flags <= Self.namedDatabase else { return nil }
        let inline = flags == Self.bigData ? 8 : bytes
        guard inline <= UInt64(page.count - end) else { return nil }
        return Place(key: (offset + 8)..<end, flags: flags, dataBytes: bytes)
    }

    /// The pages of a value too long for a leaf page.
    private func checkLongValue(
        _ tree: Tree, first: UInt64, byteCount: UInt64, _ fault: (String) -> BackendFileFault
    ) throws(BackendFileFault) {
        let needed = (byteCount + 15) / UInt64(file.pageBytes) + 1
        guard first <= file.lastPage, needed <= file.lastPage - first + 1 else {
            throw fault("a value of \(byteCount) bytes lies beyond the last page")
        }
        for number in first..<(first + needed) { try visit(number, from: tree.name) }
        var head: (UInt64, UInt64) = (0, 0)
        var caught: BackendFileFault?
        withUnsafeMutableBytes(of: &head) { head in
            do throws(BackendFileFault) { try file.read(first, into: head) } catch { caught = error }
        }
        if let caught { throw caught }
        // Number; then flags in bytes 2 and 3, and the count of pages in bytes 4 to 7.
        guard head.0.littleEndian == first, head.1.littleEndian >> 16 & 0xFFFF == 4,
            head.1.littleEndian >> 32 == needed
        else { throw BackendFileFault("page \(first) (\(tree.name))", "does not begin a long value") }
        tree.overflowPages += needed
        // The last page must be there as well.
        if first + needed > file.filePages {
            throw BackendFileFault("page \(first + needed - 1) (\(tree.name))", "lies beyond the end of the file")
        }
    }

    // MARK: Bytes

    private static func u16(_ page: UnsafeRawBufferPointer, _ offset: Int) -> Int {
        Int(page.loadUnaligned(fromByteOffset: offset, as: UInt16.self).littleEndian)
    }

    private static func u64(_ page: UnsafeRawBufferPointer, _ offset: Int) -> UInt64 {
        page.loadUnaligned(fromByteOffset: offset, as: UInt64.self).littleEndian
    }

    private static func precedes(_ page: UnsafeRawBufferPointer, _ first: Range<Int>, _ second: Range<Int>) -> Bool {
        let shared = min(first.count, second.count)
        for position in 0..<shared {
            let (left, right) = (page[first.lowerBound + position], page[second.lowerBound + position])
            if left != right { return left < right }
        }
        return first.count < second.count
    }

    /// Below zero, zero or above it, as the key of the page comes before, is, or comes after the other.
    private static func compare(
        _ page: UnsafeRawBufferPointer, _ key: Range<Int>, _ other: ArraySlice<UInt8>
    ) -> Int {
        let shared = min(key.count, other.count)
        for position in 0..<shared {
            let (left, right) = (page[key.lowerBound + position], other[other.startIndex + position])
            if left != right { return Int(left) - Int(right) }
        }
        return key.count - other.count
    }
}
