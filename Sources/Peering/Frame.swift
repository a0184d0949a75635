// How bytes on a peer connection are divided. Everything is little endian.
//
//   offset 0   length of what follows the checksum: kind and payload, at least 1
//   offset 4   CRC32C of kind and payload
//   offset 8   kind
//   offset 9…  payload
//
// A wrong checksum, a length out of bounds or a kind that does not belong into the state of the
// connection closes it. TCP's own checksum misses one corrupted segment in some millions, and what
// arrives here is written to the log.

import CSupport
import NIOCore

/// What a frame's payload is.
enum FrameKind: UInt8 {
    /// The dialler's first frame: `Greeting`.
    case hello = 1
    /// The acceptor's first frame: `Greeting`.
    case welcome = 2
    /// Instead of `welcome`, or later when a member was removed: `Greeting` with a refusal.
    case refusal = 3
    /// An encoded `PeerMessage`.
    case message = 4
    /// Eight bytes, sent back in a `pong`.
    case ping = 5
    case pong = 6
    /// File length (8 bytes), then the encoded snapshot message.
    case snapshotHeader = 7
    /// The next bytes of the file.
    case snapshotChunk = 8
    /// CRC32C of the whole file (4 bytes).
    case snapshotEnd = 9
    /// The receiver's word: 0 the file is durable, 1 it failed; then a text.
    case snapshotResult = 10
}

/// Why bytes are not a frame.
enum FrameError: Error, Equatable {
    case length(UInt32, max: Int)
    case checksum
    case unknownKind(UInt8)

    var text: String {
        switch self {
        case .length(let length, let max): "frame of \(length) bytes, at most \(max) are allowed"
        case .checksum: "frame with a wrong checksum"
        case .unknownKind(let kind): "frame of unknown kind \(kind)"
        }
    }
}

/// A frame within a buffer.
struct Frame {
    static let headerBytes = 9

    let kind: FrameKind
    let payload: UnsafeRawBufferPointer
    /// Where the next frame begins.
    let end: Int

    /// The frame at `offset`; nil when it is not complete yet.
    static func next(
        in bytes: UnsafeRawBufferPointer, at offset: Int, maxBytes: Int
    ) throws(FrameError) -> Frame? {
        guard bytes.count - offset >= 4 else { return nil }
        let length = UInt32(
            littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        guard length >= 1, length <= UInt64(maxBytes) else { throw .length(length, max: maxBytes) }
        guard bytes.count - offset - 8 >= Int(length) else { return nil }
        let expected = UInt32(
            littleEndian: bytes.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self))
        let end = offset + 8 + Int(length)
        let body = UnsafeRawBufferPointer(rebasing: bytes[offset + 8..<end])
        guard moonraft_crc32c(0, body.baseAddress, body.count) == expected else { throw .checksum }
        guard let kind = FrameKind(rawValue: body[0]) else { throw .unknownKind(body[0]) }
        return Frame(kind: kind, payload: UnsafeRawBufferPointer(rebasing: body[1...]), end: end)
    }
}

extension ByteBuffer {
    /// Appends a frame whose payload `body` writes to memory of at least `sizeBound` bytes; it
    /// returns the count written.
    mutating func writeFrame(
        _ kind: FrameKind, sizeBound: Int, _ body: (UnsafeMutableRawBufferPointer) -> Int
    ) {
        writeWithUnsafeMutableBytes(minimumWritableBytes: Frame.headerBytes + sizeBound) { raw in
            let count = body(UnsafeMutableRawBufferPointer(rebasing: raw[Frame.headerBytes...]))
            raw[8] = kind.rawValue
            let checked = UnsafeRawBufferPointer(rebasing: raw[8..<Frame.headerBytes + count])
            let checksum = moonraft_crc32c(0, checked.baseAddress, checked.count)
            raw.storeBytes(of: UInt32(checked.count).littleEndian, as: UInt32.self)
            raw.storeBytes(of: checksum.littleEndian, toByteOffset: 4, as: UInt32.self)
            return Frame.headerBytes + count
        }
    }

    /// Appends a frame with a payload at hand.
    mutating func writeFrame(_ kind: FrameKind, _ payload: [UInt8]) {
        writeFrame(kind, sizeBound: payload.count) { raw in
            raw.copyBytes(from: payload)
            return payload.count
        }
    }
}

/// The little-endian bytes of a number.
func littleEndianBytes<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
    withUnsafeBytes(of: number.littleEndian) { Array($0) }
}
