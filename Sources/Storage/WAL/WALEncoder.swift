/// Encodes records into one reusable buffer, across segment borders.
///
/// The encoder runs ahead of the disk: it knows where each record will lie, and so can chain
/// checksums and start segments without waiting for one to be written.
final class WALEncoder {
    /// Where in the buffer a new segment begins.
    struct Cut {
        let bufferOffset: Int
        let header: WALSegmentHeader
    }

    /// Encoded bytes that are not written yet.
    private(set) var count = 0
    /// The segments that begin among them, in order.
    private(set) var cuts: [Cut] = []
    /// The bytes of the segment being encoded below which all is durable. Set after each
    /// synchronize.
    var durable: UInt32

    private let metadata: WALMetadata
    private let configuration: WALConfiguration
    private var buffer: UnsafeMutableRawBufferPointer
    private var tag: UInt32
    private var sequence: UInt64
    /// Where the next record goes in its segment.
    private var position: UInt64
    private var capacity: UInt64
    /// The checksum of the last record, or the tag at the start of a segment.
    private var previous: UInt32

    private static let initialBytes = 64 << 10

    init(
        _ tail: WAL.Tail, sequence: UInt64, metadata: WALMetadata, configuration: WALConfiguration
    ) {
        self.metadata = metadata
        self.configuration = configuration
        self.sequence = sequence
        durable = UInt32(clamping: tail.position)
        tag = tail.tag
        position = tail.position
        capacity = tail.capacity
        previous = tail.previous
        buffer = .allocate(byteCount: Self.initialBytes, alignment: 16)
    }

    deinit {
        buffer.deallocate()
    }

    /// Valid until the next call.
    func bytes(_ range: Range<Int>) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: buffer[range])
    }

    /// Forgets what has been written, and gives memory back after an unusually large batch.
    func clear() {
        cuts.removeAll(keepingCapacity: true)
        count = 0
        if buffer.count > 2 * max(configuration.bufferBytes, Self.initialBytes) {
            buffer.deallocate()
            buffer = .allocate(byteCount: Self.initialBytes, alignment: 16)
        }
    }

    /// Grows the buffer for `bytes` more, and ends the segment when the record would not leave room
    /// for the end record behind it. `state` is the one before the record.
    @inline(__always)
    func makeRoom(_ bytes: Int, _ state: WALState) {
        if position + UInt64(bytes + WALFormat.endRecordBytes) > capacity {
            cut(state)
        }
        let needed = count + bytes + WALFormat.endRecordBytes
        if needed > buffer.count {
            grow(needed)
        }
    }

    private func grow(_ needed: Int) {
        let larger = UnsafeMutableRawBufferPointer.allocate(
            byteCount: max(needed, buffer.count * 2), alignment: 16)
        larger.copyMemory(from: bytes(0..<count))
        buffer.deallocate()
        buffer = larger
    }

    /// Ends the segment being encoded and starts the next one.
    private func cut(_ state: WALState) {
        // Room for the end record was kept by every makeRoom; an empty buffer has room too.
        append(.end, state.lastIndex)
        sequence += 1
        let header = WALSegmentHeader(
            sequence: sequence, firstIndex: state.lastIndex + 1, metadata: metadata,
            hardState: state.hardState, snapshot: state.snapshot, previousTerm: state.lastTerm,
            previous: previous)
        cuts.append(Cut(bufferOffset: count, header: header))
        tag = header.encoded().tag
        previous = tag
        position = UInt64(WALFormat.segmentHeaderBytes)
        capacity = UInt64(configuration.segmentBytes)
        durable = UInt32(WALFormat.segmentHeaderBytes)
    }

    /// Encodes an entry, for which `makeRoom` was called.
    @inline(__always)
    func append(_ entry: WALEntry) {
        let length = WALFormat.entryFieldsBytes + entry.payload.count
        let record = reserve(.entry, kind: entry.kind, length: length)
        let fields = record + WALFormat.recordHeaderBytes
        fields.storeBytes(of: entry.index.littleEndian, as: UInt64.self)
        fields.storeBytes(of: entry.term.littleEndian, toByteOffset: 8, as: UInt64.self)
        if let source = entry.payload.baseAddress {
            (fields + WALFormat.entryFieldsBytes).copyMemory(
                from: source, byteCount: entry.payload.count)
        }
        seal(record, length: length)
    }

    /// Encodes a record of integers, for which `makeRoom` was called.
    func append(_ type: WALRecordType, kind: UInt8 = 0, _ words: UInt64...) {
        let length = words.count * 8
        let record = reserve(type, kind: kind, length: length)
        for (number, word) in words.enumerated() {
            record.storeBytes(
                of: word.littleEndian, toByteOffset: WALFormat.recordHeaderBytes + number * 8,
                as: UInt64.self)
        }
        seal(record, length: length)
    }

    /// Writes the record header but for the checksum.
    @inline(__always)
    private func reserve(_ type: WALRecordType, kind: UInt8, length: Int) -> UnsafeMutableRawPointer {
        guard let base = buffer.baseAddress else {
            preconditionFailure("the log's buffer is empty")
        }
        precondition(
            count + WALFormat.recordBytes(payload: length) <= buffer.count,
            "no room for \(length) bytes at \(count) of \(buffer.count)")
        let record = base + count
        record.storeBytes(of: UInt32(length).littleEndian, toByteOffset: 4, as: UInt32.self)
        record.storeBytes(of: type.rawValue, toByteOffset: 8, as: UInt8.self)
        record.storeBytes(of: kind, toByteOffset: 9, as: UInt8.self)
        record.storeBytes(of: 0, toByteOffset: 10, as: UInt16.self)
        record.storeBytes(of: tag.littleEndian, toByteOffset: 12, as: UInt32.self)
        record.storeBytes(of: durable.littleEndian, toByteOffset: 16, as: UInt32.self)
        record.storeBytes(of: previous.littleEndian, toByteOffset: 20, as: UInt32.self)
        return record
    }

    /// Pads the record, adds its checksum and moves on.
    @inline(__always)
    private func seal(_ record: UnsafeMutableRawPointer, length: Int) {
        let total = WALFormat.recordBytes(payload: length)
        let used = WALFormat.recordHeaderBytes + length
        if total > used {
            (record + used).initializeMemory(as: UInt8.self, repeating: 0, count: total - used)
        }
        let checksum = WALFormat.checksum(
            tag: tag, offset: position, UnsafeRawPointer(record), count: total)
        record.storeBytes(of: checksum.littleEndian, as: UInt32.self)
        previous = checksum
        position += UInt64(total)
        count += total
    }
}
