import NIOCore

/// The bytes one stream still has to send, in order, framed as gRPC messages.
///
/// Small messages are copied into one reusable buffer; large ones and shared blocks are held by
/// reference and copied only once, into the connection's output. Order: the segments, then the
/// tail of the buffer that no segment covers yet.
///
///     buffer   [ prefix small | prefix ][ prefix ][ prefix small ]
///     segments [ buffered(n), array, buffered(5), shared ]   uncovered = prefix small
struct OutputQueue: ~Copyable {
    private enum Segment {
        case buffered(Int)
        case array([UInt8])
        case shared(SharedBytes)
    }

    /// Messages up to this many bytes are copied rather than retained.
    static let copyLimitBytes = 2048
    /// A buffer larger than this is given back when the queue runs empty.
    private static let keepBytes = 8192

    private var base: UnsafeMutableRawPointer?
    private var capacity = 0
    private var start = 0
    private var end = 0
    private var uncovered = 0
    private var segments: [Segment] = []
    private var firstSegment = 0
    /// Bytes of the first segment that have left already.
    private var segmentOffset = 0
    /// All bytes in the queue.
    private(set) var count = 0

    init() {}

    deinit {
        base?.deallocate()
    }

    /// Queues one message, copying it.
    mutating func append(message: UnsafeRawBufferPointer) {
        appendPrefix(message.count)
        appendCopy(message)
    }

    /// Queues one message; a large one is retained, not copied.
    mutating func append(message: [UInt8]) {
        appendPrefix(message.count)
        if message.count <= Self.copyLimitBytes {
            message.withUnsafeBytes { appendCopy($0) }
        } else {
            appendSegment(.array(message), message.count)
        }
    }

    /// Queues one message made of private bytes followed by a shared block.
    mutating func append(head: UnsafeRawBufferPointer, shared: SharedBytes) {
        appendPrefix(head.count + shared.count)
        appendCopy(head)
        if shared.count <= 64 {
            appendCopy(shared.bytes)
        } else {
            appendSegment(.shared(shared), shared.count)
        }
    }

    /// Moves the first `wanted` bytes to the end of `out`. There must be that many.
    mutating func drain(_ wanted: Int, into out: inout ByteBuffer) {
        precondition(wanted <= count, "drain of \(wanted) bytes from \(count)")
        var left = wanted
        while left > 0 {
            guard firstSegment < segments.count else {
                take(left, into: &out)
                uncovered -= left
                break
            }
            let size: Int
            let moved: Int
            switch segments[firstSegment] {
            case .buffered(let length):
                size = length
                moved = min(left, size - segmentOffset)
                take(moved, into: &out)
            case .array(let bytes):
                size = bytes.count
                moved = min(left, size - segmentOffset)
                let offset = segmentOffset
                bytes.withUnsafeBytes { all in
                    _ = out.writeBytes(UnsafeRawBufferPointer(rebasing: all[offset..<offset + moved]))
                }
            case .shared(let block):
                size = block.count
                moved = min(left, size - segmentOffset)
                out.writeBytes(
                    UnsafeRawBufferPointer(
                        rebasing: block.bytes[segmentOffset..<segmentOffset + moved]))
            }
            segmentOffset += moved
            left -= moved
            if segmentOffset == size { dropFirstSegment() }
        }
        count -= wanted
        if count == 0 { resetWhenEmpty() }
    }

    /// Drops everything and gives large buffers back.
    mutating func removeAll() {
        segments.removeAll(keepingCapacity: segments.count <= 64)
        (firstSegment, segmentOffset, uncovered, count) = (0, 0, 0, 0)
        resetWhenEmpty()
    }

    private mutating func appendPrefix(_ length: Int) {
        precondition(length <= Int(UInt32.max), "message of \(length) bytes")
        reserve(5)
        guard let base else { return }
        base.storeBytes(of: 0, toByteOffset: end, as: UInt8.self)
        base.storeBytes(of: UInt32(length).bigEndian, toByteOffset: end + 1, as: UInt32.self)
        end += 5
        uncovered += 5
        count += 5
    }

    private mutating func appendCopy(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count > 0, let source = bytes.baseAddress else { return }
        reserve(bytes.count)
        guard let base else { return }
        (base + end).copyMemory(from: source, byteCount: bytes.count)
        end += bytes.count
        uncovered += bytes.count
        count += bytes.count
    }

    private mutating func appendSegment(_ segment: Segment, _ length: Int) {
        if uncovered > 0 {
            segments.append(.buffered(uncovered))
            uncovered = 0
        }
        segments.append(segment)
        count += length
    }

    private mutating func take(_ length: Int, into out: inout ByteBuffer) {
        out.writeBytes(UnsafeRawBufferPointer(start: base.map { $0 + start }, count: length))
        start += length
    }

    private mutating func dropFirstSegment() {
        // Release the reference now rather than when the array is compacted.
        segments[firstSegment] = .buffered(0)
        firstSegment += 1
        segmentOffset = 0
        if firstSegment == segments.count {
            segments.removeAll(keepingCapacity: segments.count <= 64)
            firstSegment = 0
        } else if firstSegment >= 256, firstSegment * 2 >= segments.count {
            segments.removeFirst(firstSegment)
            firstSegment = 0
        }
    }

    private mutating func resetWhenEmpty() {
        (start, end) = (0, 0)
        if capacity > Self.keepBytes {
            base?.deallocate()
            base = nil
            capacity = 0
        }
    }

    private mutating func reserve(_ length: Int) {
        if capacity - end >= length { return }
        let used = end - start
        if used + length <= capacity, start >= used {
            if let base { base.copyMemory(from: base + start, byteCount: used) }
        } else {
            var grown = max(256, capacity)
            while grown < used + length { grown *= 2 }
            let bigger = UnsafeMutableRawPointer.allocate(byteCount: grown, alignment: 8)
            if let base, used > 0 { bigger.copyMemory(from: base + start, byteCount: used) }
            base?.deallocate()
            base = bigger
            capacity = grown
        }
        start = 0
        end = used
    }
}
