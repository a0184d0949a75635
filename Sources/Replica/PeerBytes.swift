// The cursors under PeerMessage+Codec.swift. Writing goes into memory that the caller has, a socket
// buffer mostly, so that a payload is copied once; reading takes nothing for granted.

/// Why bytes are not a peer message.
package enum PeerMessageError: Error, Sendable, Equatable {
    case truncated
    /// Bytes follow the message.
    case trailingBytes(Int)
    case unknownKind(UInt8)
    /// A varint of more than 64 bits.
    case numberTooLarge
    /// A count or length for which the message is too short.
    case countTooLarge(UInt64)
    /// A byte that stands for none of the values allowed at its place.
    case invalidValue(UInt8)
    /// A snapshot's membership breaks the rules of `ConfState`.
    case invalidMembership
}

/// Writes into memory of known size. The callers reserve `encodedSizeBound` bytes; running over is a
/// mistake in that bound and stops the process.
struct PeerWriter {
    private let bytes: UnsafeMutableRawBufferPointer
    private(set) var count = 0

    /// The most bytes of a varint.
    static let maxVarint = 10

    init(_ bytes: UnsafeMutableRawBufferPointer) { self.bytes = bytes }

    mutating func byte(_ value: UInt8) {
        precondition(count < bytes.count, "peer message is longer than its bound \(bytes.count)")
        bytes[count] = value
        count &+= 1
    }

    mutating func bool(_ value: Bool) { byte(value ? 1 : 0) }

    mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            byte(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest &>>= 7
        }
        byte(UInt8(truncatingIfNeeded: rest))
    }

    mutating func signed(_ value: Int64) { varint(UInt64(bitPattern: value)) }

    mutating func fixed64(_ value: UInt64) {
        precondition(
            bytes.count &- count >= 8, "peer message is longer than its bound \(bytes.count)")
        bytes.storeBytes(of: value.littleEndian, toByteOffset: count, as: UInt64.self)
        count &+= 8
    }

    /// A length and that many bytes.
    mutating func data(_ value: [UInt8]) {
        varint(UInt64(value.count))
        value.withUnsafeBytes { source in
            guard let from = source.baseAddress, let to = bytes.baseAddress else { return }
            precondition(
                bytes.count &- count >= source.count,
                "peer message is longer than its bound \(bytes.count)")
            (to + count).copyMemory(from: from, byteCount: source.count)
            count &+= source.count
        }
    }
}

/// Reads one message that may come from anybody.
struct PeerReader {
    private let bytes: UnsafeRawBufferPointer
    private var offset = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    /// Bytes not read yet.
    var remaining: Int { bytes.count &- offset }

    mutating func byte() throws(PeerMessageError) -> UInt8 {
        guard offset < bytes.count else { throw .truncated }
        defer { offset &+= 1 }
        return bytes[offset]
    }

    mutating func bool() throws(PeerMessageError) -> Bool {
        let value = try byte()
        guard value <= 1 else { throw .invalidValue(value) }
        return value == 1
    }

    mutating func varint() throws(PeerMessageError) -> UInt64 {
        var result: UInt64 = 0
        var shift: UInt64 = 0
        while offset < bytes.count {
            let byte = bytes[offset]
            offset &+= 1
            if shift == 63 && byte > 1 { throw .numberTooLarge }
            result |= UInt64(byte & 0x7F) &<< shift
            if byte < 0x80 { return result }
            shift &+= 7
            if shift > 63 { throw .numberTooLarge }
        }
        throw .truncated
    }

    mutating func signed() throws(PeerMessageError) -> Int64 { Int64(bitPattern: try varint()) }

    mutating func fixed64() throws(PeerMessageError) -> UInt64 {
        guard remaining >= 8 else { throw .truncated }
        defer { offset &+= 8 }
        return UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }

    /// A count of things that take at least `minimumBytes` each, so that room for them may be
    /// reserved.
    mutating func count(minimumBytes: Int) throws(PeerMessageError) -> Int {
        let value = try varint()
        guard value <= UInt64(remaining / minimumBytes) else { throw .countTooLarge(value) }
        return Int(value)
    }

    mutating func data() throws(PeerMessageError) -> [UInt8] {
        let length = try count(minimumBytes: 1)
        defer { offset &+= length }
        return [UInt8](UnsafeRawBufferPointer(rebasing: bytes[offset..<offset &+ length]))
    }
}
