// Reads a backend's data file page by page, without LMDB, and believes nothing in it.
//
// LMDB maps the file and follows its pointers: on a damaged file that ends in a signal. Backups are
// looked at before anything depends on them, so their pages are read here with every offset, count
// and order checked. The format is LMDB 0.9's, data version 1, on a little-endian machine with
// eight-byte words:
//
//   page      0 page number u64 · 8 unused u16 · 10 flags u16 (1 branch, 2 leaf, 4 overflow, 8 meta)
//             12 lower u16 · 14 upper u16 (overflow: 12 number of pages u32) · 16 node offsets, u16 each
//   meta      pages 0 and 1, behind the page header: 0 magic u32 · 4 version u32 · 8 address u64 ·
//             16 map size u64 · 24 free database · 72 main database · 120 last page u64 ·
//             128 transaction u64. The one with the higher transaction is in force.
//   database  0 page size (of the free database; else unused) u32 · 4 flags u16 · 6 depth u16 ·
//             8 branch, 16 leaf, 24 overflow pages, 32 entries, 40 root page, u64 each
//   node      0 low u16 · 2 high u16 · 4 flags u16 · 6 key size u16 · 8 key · then data
//             branch: page = low | high << 16 | flags << 32
//             leaf: data size = low | high << 16; flags 1: the data is the number of the first
//             overflow page, 2: the data is a named database

/// The first thing in a data file that cannot be right.
package struct BackendFileFault: Error, Equatable, Sendable, CustomStringConvertible {
    /// Page, bucket, key, as far as known.
    package let place: String
    package let reason: String

    package init(_ place: String, _ reason: String) {
        self.place = place
        self.reason = reason
    }

    package var description: String { "\(place): \(reason)" }
}

/// A data file that may be damaged. Used by one thread.
package struct BackendFile {
    private static let magic: UInt64 = 0xBEEF_C0DE
    private static let dataVersion: UInt64 = 1
    private static let pageSizes = 512...65_536
    private static let metaBytes = 152
    /// Free pages at the end that a file may lack: more than one transaction can leave unwritten.
    private static let maxMissingPages: UInt64 = 1 << 20

    /// Where a tree begins and what it claims to hold.
    struct Database {
        static let byteCount = 48
        static let noPage = UInt64.max

        let flags: Int
        let depth: Int
        let branchPages, leafPages, overflowPages, entries, root: UInt64

        init(_ page: PageBytes, at offset: Int) {
            flags = page.u16(offset + 4)
            depth = page.u16(offset + 6)
            branchPages = page.u64(offset + 8)
            leafPages = page.u64(offset + 16)
            overflowPages = page.u64(offset + 24)
            entries = page.u64(offset + 32)
            root = page.u64(offset + 40)
        }
    }

    private let disk: any Disk
    private let file: DiskFile
    package let pageBytes: Int
    /// Pages up to this one are in use or free.
    package let lastPage: UInt64
    /// Whole pages in the file.
    let filePages: UInt64
    let free: Database
    let main: Database

    /// Reads the meta pages.
    ///
    /// - Parameters:
    ///   - byteCount: length of the data; what the file holds beyond is not looked at.
    ///   - isLive: the file of a backend and not a copy. It may end before its last page when pages
    ///     there are free, and within a page when a write that nothing names was cut.
    package init(
        disk: any Disk, file: DiskFile, byteCount: UInt64, isLive: Bool = false
    ) throws(BackendFileFault) {
        self.disk = disk
        self.file = file
        let first = try Self.read(disk, file, at: 0, count: Self.metaBytes, limit: byteCount, page: 0)
        let size = Int(first.u32(16 + 24))
        guard Self.pageSizes.contains(size), size & (size - 1) == 0 else {
            throw BackendFileFault("page 0", "page size \(size) is none that LMDB has")
        }
        pageBytes = size
        filePages = byteCount / UInt64(size)
        guard isLive || byteCount % UInt64(size) == 0 else {
            throw BackendFileFault("file", "is cut short: it ends within a page, at byte \(byteCount)")
        }
        let second = try Self.read(
            disk, file, at: UInt64(size), count: Self.metaBytes, limit: byteCount, page: 1)
        for (number, meta) in [first, second].enumerated() {
            guard meta.u16(10) & 8 != 0, meta.u64(0) == UInt64(number) else {
                throw BackendFileFault("page \(number)", "is not a meta page")
            }
            guard meta.u32(16) == Self.magic else {
                throw BackendFileFault("page \(number)", "does not begin as an LMDB file does")
            }
            guard meta.u32(20) == Self.dataVersion else {
                throw BackendFileFault("page \(number)", "has data version \(meta.u32(20)), not 1")
            }
            guard Int(meta.u32(16 + 24)) == size else {
                throw BackendFileFault("page \(number)", "has another page size than page 0")
            }
        }
        let meta = first.u64(16 + 128) < second.u64(16 + 128) ? second : first
        free = Database(meta, at: 16 + 24)
        main = Database(meta, at: 16 + 72)
        lastPage = meta.u64(16 + 120)
        guard lastPage >= 1, isLive || lastPage < filePages else {
            throw BackendFileFault(
                "file", "is cut short: \(byteCount) bytes, but the last page is page \(lastPage)")
        }
    }

    /// Visits every page that is in use or on the free list, and hands out the pairs of all
    /// buckets, each bucket in key order, the buckets in the order of their names.
    ///
    /// - Throws: the first fault; what was handed out before is then not to be trusted.
    package func walk(
        _ body: (
            _ bucket: [UInt8], _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
        ) throws(BackendFileFault) -> Void
    ) throws(BackendFileFault) {
        let walker = BackendFileWalker(self)
        try walker.walkFree()
        try walker.walkMain(body)
    }

    /// Looks at everything that LMDB believes: the free list, the buckets, their branch pages and where the nodes of
    /// their leaf pages lie. What these name is in the file afterwards; values are not read. About 0.1 µs a record.
    package func checkStructure() throws(BackendFileFault) {
        // A walk notes each page in memory, so what the file claims is bounded by what it could be.
        guard lastPage < filePages &+ Self.maxMissingPages else {
            throw BackendFileFault(
                "file", "is cut short: it holds \(filePages) pages, but the last page is page \(lastPage)")
        }
        let walker = BackendFileWalker(self)
        try walker.walkFree()
        try walker.checkEnd()
        try walker.walkMain(skippingValues: true) { _, _, _ in }
    }

    /// Reads `count` pages from page `number` on, which the caller has checked to exist.
    func read(_ number: UInt64, count: Int = 1) throws(BackendFileFault) -> PageBytes {
        try Self.read(
            disk, file, at: number * UInt64(pageBytes), count: count * pageBytes,
            limit: (lastPage + 1) * UInt64(pageBytes), page: number)
    }

    /// Fills `buffer` from the beginning of page `number`, which the caller has checked to exist.
    func read(_ number: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(BackendFileFault) {
        try Self.read(
            disk, file, at: number * UInt64(pageBytes), into: buffer, limit: (lastPage + 1) * UInt64(pageBytes),
            page: number)
    }

    private static func read(
        _ disk: any Disk, _ file: DiskFile, at offset: UInt64, count: Int, limit: UInt64,
        page: UInt64
    ) throws(BackendFileFault) -> PageBytes {
        guard offset <= limit, UInt64(count) <= limit - offset else {
            throw BackendFileFault("page \(page)", "lies beyond the end of the file")
        }
        var bytes = [UInt8](repeating: 0, count: count)
        try bytes.withUnsafeMutableBufferPointer { buffer throws(BackendFileFault) in
            try read(disk, file, at: offset, into: UnsafeMutableRawBufferPointer(buffer), limit: limit, page: page)
        }
        return PageBytes(bytes: bytes)
    }

    private static func read(
        _ disk: any Disk, _ file: DiskFile, at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer,
        limit: UInt64, page: UInt64
    ) throws(BackendFileFault) {
        guard offset <= limit, UInt64(buffer.count) <= limit - offset else {
            throw BackendFileFault("page \(page)", "lies beyond the end of the file")
        }
        let got: Int
        do throws(DiskError) {
            got = try disk.read(file, at: offset, into: buffer)
        } catch {
            throw BackendFileFault("page \(page)", "\(error)")
        }
        guard got == buffer.count else {
            throw BackendFileFault("page \(page)", "lies beyond the end of the file")
        }
    }
}

/// Bytes with little-endian numbers in them. Reading beyond the end gives zero bytes.
struct PageBytes {
    let bytes: [UInt8]

    func u16(_ offset: Int) -> Int { Int(number(offset, 2)) }
    func u32(_ offset: Int) -> UInt64 { number(offset, 4) }
    func u64(_ offset: Int) -> UInt64 { number(offset, 8) }

    private func number(_ offset: Int, _ count: Int) -> UInt64 {
        guard offset >= 0, offset <= bytes.count - count else { return 0 }
        var value: UInt64 = 0
        for position in (0..<count).reversed() { value = value << 8 | UInt64(bytes[offset + position]) }
        return value
    }
}
