import CSupport

/// A record that proved itself: tag, offset and bytes agree with its checksum.
struct WALRecord {
    let type: WALRecordType
    let kind: UInt8
    let offset: UInt64
    let checksum: UInt32
    let durable: UInt32
    let previous: UInt32
    /// Valid until the next call on the reader.
    let payload: UnsafeRawBufferPointer

    var end: UInt64 { offset + UInt64(WALFormat.recordBytes(payload: payload.count)) }
}

/// Reads one segment through a sliding window of the file.
///
/// Everything in the file is untrusted until its checksum agrees, so all arithmetic on it is
/// bounded by the file's size, and no more memory is taken than that.
final class WALSegmentReader {
    private static let windowBytes = 1 << 20

    let name: String
    let file: DiskFile
    let size: UInt64
    private let disk: any Disk
    private var window: UnsafeMutableRawBufferPointer
    private var windowStart: UInt64 = 0
    private var windowCount = 0

    init(disk: any Disk, file: DiskFile, name: String) throws(DiskError) {
        self.disk = disk
        self.file = file
        self.name = name
        size = min(try disk.size(file), UInt64(UInt32.max))
        window = .allocate(
            byteCount: Int(min(size, UInt64(Self.windowBytes))), alignment: 16)
    }

    deinit {
        window.deallocate()
    }

    /// `count` bytes at `offset`, or nil when the file ends before. Valid until the next call.
    func bytes(at offset: UInt64, count: Int) throws(DiskError) -> UnsafeRawBufferPointer? {
        guard offset <= size, UInt64(count) <= size - offset else {
            return nil
        }
        let inWindow = offset >= windowStart && offset - windowStart <= UInt64(windowCount)
        if !inWindow || windowCount - Int(offset - windowStart) < count {
            try fill(from: offset, count: count)
        }
        let start = Int(offset - windowStart)
        guard windowCount - start >= count else {
            return nil
        }
        return UnsafeRawBufferPointer(rebasing: window[start..<start + count])
    }

    private func fill(from offset: UInt64, count: Int) throws(DiskError) {
        if window.count < count {
            window.deallocate()
            window = .allocate(byteCount: count, alignment: 16)
        }
        let wanted = min(size - offset, UInt64(window.count))
        windowCount = 0
        windowStart = offset
        let part = UnsafeMutableRawBufferPointer(rebasing: window[..<Int(wanted)])
        windowCount = try disk.read(file, at: offset, into: part)
    }

    /// The record at `offset`, or nil when there is none that proves itself. Whether it is the
    /// *next* record is for the caller to judge by `previous`.
    func record(at offset: UInt64, tag: UInt32) throws(DiskError) -> WALRecord? {
        guard let header = try bytes(at: offset, count: WALFormat.recordHeaderBytes) else {
            return nil
        }
        func half(_ at: Int) -> UInt32 {
            UInt32(littleEndian: header.loadUnaligned(fromByteOffset: at, as: UInt32.self))
        }
        let checksum = half(0)
        let length = half(4)
        let kind = header[9]
        let durable = half(16)
        let previous = half(20)
        guard half(12) == tag, header[10] == 0, header[11] == 0,
            let type = WALRecordType(rawValue: header[8]),
            UInt64(length) <= size, UInt64(durable) <= offset
        else {
            return nil
        }
        let total = WALFormat.recordBytes(payload: Int(length))
        #if MOONRAFT_MUTATIONS
            if StorageMutation.isOn(.recordChecksumIgnored), let whole = try bytes(at: offset, count: total) {
                let start = WALFormat.recordHeaderBytes
                return WALRecord(
                    type: type, kind: kind, offset: offset, checksum: checksum, durable: durable,
                    previous: previous,
                    payload: UnsafeRawBufferPointer(rebasing: whole[start..<start + Int(length)]))
            }
        #endif
        guard let whole = try bytes(at: offset, count: total), let base = whole.baseAddress,
            WALFormat.checksum(tag: tag, offset: offset, base, count: total) == checksum
        else {
            return nil
        }
        let start = WALFormat.recordHeaderBytes
        return WALRecord(
            type: type, kind: kind, offset: offset, checksum: checksum, durable: durable,
            previous: previous,
            payload: UnsafeRawBufferPointer(rebasing: whole[start..<start + Int(length)]))
    }

    /// What lies behind a place where the chain of records ends.
    struct Remains {
        /// The first record that proves itself and was encoded after all before the place was
        /// durable.
        var witness: UInt64?
        /// One past the last byte that a record header of this segment claims; nil when there is
        /// none.
        var end: UInt64?
    }

    /// Searches everything from `offset` on for records of this segment.
    func remains(after offset: UInt64, tag: UInt32) throws(DiskError) -> Remains {
        var remains = Remains()
        var candidates: [UInt64] = []
        let step = Self.windowBytes / 2
        var start = offset
        while start < size, size - start >= UInt64(WALFormat.recordHeaderBytes) {
            let count = Int(min(size - start, UInt64(step + WALFormat.recordHeaderBytes)))
            candidates.removeAll(keepingCapacity: true)
            guard let part = try bytes(at: start, count: count) else {
                break
            }
            var at = 0
            while at < step, at + WALFormat.recordHeaderBytes <= count {
                let found = part.loadUnaligned(fromByteOffset: at + 12, as: UInt32.self)
                if UInt32(littleEndian: found) == tag {
                    candidates.append(start + UInt64(at))
                }
                at += 8
            }
            for candidate in candidates {
                try examine(candidate, tag: tag, place: offset, &remains)
            }
            start += UInt64(step)
        }
        return remains
    }

    private func examine(
        _ candidate: UInt64, tag: UInt32, place: UInt64, _ remains: inout Remains
    ) throws(DiskError) {
        let header = try bytes(at: candidate, count: WALFormat.recordHeaderBytes)
        let length = header.map { header in
            UInt32(littleEndian: header.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        }
        let claimed = UInt64(WALFormat.recordBytes(payload: Int(length ?? 0)))
        remains.end = max(remains.end ?? 0, candidate + min(claimed, size - candidate))
        guard remains.witness == nil, let record = try record(at: candidate, tag: tag) else {
            return
        }
        if UInt64(record.durable) > place {
            remains.witness = candidate
        }
    }
}
