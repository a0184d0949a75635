/// An immutable block of bytes that many calls may send without copying it.
///
/// A watch event is encoded once into such a block and queued on thousands of streams; each queue
/// holds a reference until its copy has gone into the connection's output buffer. The memory is
/// freed with the last reference. Safe to share between threads because it never changes after
/// `init`.
package final class SharedBytes: @unchecked Sendable {
    package let count: Int
    private let base: UnsafeMutableRawPointer

    /// Copies the given bytes.
    package init(copying bytes: UnsafeRawBufferPointer) {
        count = bytes.count
        base = .allocate(byteCount: max(1, bytes.count), alignment: 8)
        if let source = bytes.baseAddress, bytes.count > 0 {
            base.copyMemory(from: source, byteCount: bytes.count)
        }
    }

    /// Copies the given bytes.
    package convenience init(_ bytes: [UInt8]) {
        self.init(copyingArray: bytes)
    }

    /// Allocates `capacity` bytes and lets `initialize` fill them; it returns how many it wrote.
    package init(
        capacity: Int, initialize: (UnsafeMutableRawBufferPointer) throws -> Int
    ) rethrows {
        precondition(capacity >= 0, "negative capacity \(capacity)")
        base = .allocate(byteCount: max(1, capacity), alignment: 8)
        do {
            let written = try initialize(.init(start: base, count: capacity))
            precondition(
                written >= 0 && written <= capacity, "wrote \(written) bytes of \(capacity)")
            count = written
        } catch {
            base.deallocate()
            count = 0
            throw error
        }
    }

    private init(copyingArray bytes: [UInt8]) {
        count = bytes.count
        base = .allocate(byteCount: max(1, bytes.count), alignment: 8)
        let target = base
        bytes.withUnsafeBytes { source in
            if let start = source.baseAddress, source.count > 0 {
                target.copyMemory(from: start, byteCount: source.count)
            }
        }
    }

    deinit {
        base.deallocate()
    }

    /// The bytes; valid while the block is referenced.
    package var bytes: UnsafeRawBufferPointer { .init(start: base, count: count) }
}
