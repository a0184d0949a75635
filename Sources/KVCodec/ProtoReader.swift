// Protocol-buffers wire reading for the hot messages (Put, Range, DeleteRange, Txn, watch events).
//
// Everything here reads bytes that came from a socket, a log or a file: lengths are checked before
// use, arithmetic cannot trap, and a malformed message is an error, never a guess.
// Wire format: protobuf encoding guide; field numbers: etcd's rpc.proto and kv.proto.

/// Why a message could not be decoded.
package enum DecodeError: Error, Equatable, Sendable {
    case truncated
    case varintTooLong
    case wrongWireType(field: UInt32, wireType: UInt8)
    case illegalTag(UInt64)
    case nestingTooDeep

    /// The text that follows `grpc: error while unmarshalling request:` in a reply.
    package var text: String {
        switch self {
        case .truncated: "unexpected EOF"
        case .varintTooLong: "proto: integer overflow"
        case .wrongWireType(let field, let wireType):
            "proto: wrong wireType = \(wireType) for field \(field)"
        case .illegalTag(let tag): "proto: illegal tag \(tag >> 3) (wire type \(tag & 7))"
        case .nestingTooDeep: "proto: message nested too deeply"
        }
    }
}

/// A protobuf field key: number and wire type.
package struct ProtoTag: Equatable, Sendable {
    package var field: UInt32
    package var wireType: UInt8
    @inlinable package init(field: UInt32, wireType: UInt8) {
        self.field = field
        self.wireType = wireType
    }
}

/// Deepest nesting of unknown groups that is passed over; a bound keeps the decoder's stack bounded.
let maximumGroupNesting = 64

/// A cursor over one encoded message. Slices it returns alias the input and live no longer than it.
package struct ProtoReader {
    @usableFromInline var bytes: UnsafeRawBufferPointer
    @usableFromInline var offset: Int

    @inlinable package init(_ bytes: UnsafeRawBufferPointer) {
        self.bytes = bytes
        self.offset = 0
    }

    /// Whether everything has been read.
    @inlinable package var isAtEnd: Bool { offset >= bytes.count }

    /// The next field key, or nil at the end of the message.
    @inlinable package mutating func next() throws(DecodeError) -> ProtoTag? {
        if offset >= bytes.count { return nil }
        let raw = try varint()
        let field = raw >> 3
        if field == 0 || field > 0x1FFF_FFFF { throw .illegalTag(raw) }
        return ProtoTag(field: UInt32(truncatingIfNeeded: field), wireType: UInt8(raw & 7))
    }

    /// One base-128 varint of at most ten bytes.
    @inlinable package mutating func varint() throws(DecodeError) -> UInt64 {
        var result: UInt64 = 0
        var shift: UInt64 = 0
        while offset < bytes.count {
            let byte = bytes[offset]
            offset &+= 1
            if shift == 63 && byte > 1 { throw .varintTooLong }
            result |= UInt64(byte & 0x7F) &<< shift
            if byte < 0x80 { return result }
            shift &+= 7
            if shift > 63 { throw .varintTooLong }
        }
        throw .truncated
    }

    /// An `int64` field.
    @inlinable package mutating func int64(_ tag: ProtoTag) throws(DecodeError) -> Int64 {
        guard tag.wireType == 0 else {
            throw .wrongWireType(field: tag.field, wireType: tag.wireType)
        }
        return Int64(bitPattern: try varint())
    }

    /// A `uint64` field.
    @inlinable package mutating func uint64(_ tag: ProtoTag) throws(DecodeError) -> UInt64 {
        UInt64(bitPattern: try int64(tag))
    }

    /// An `enum` or `int32` field: the low 32 bits, as generated decoders take them.
    @inlinable package mutating func int32(_ tag: ProtoTag) throws(DecodeError) -> Int32 {
        Int32(truncatingIfNeeded: try int64(tag))
    }

    /// A `bool` field.
    @inlinable package mutating func bool(_ tag: ProtoTag) throws(DecodeError) -> Bool {
        try int64(tag) != 0
    }

    /// A `bytes`, `string` or message field, as a slice of the input.
    @inlinable package mutating func slice(_ tag: ProtoTag) throws(DecodeError)
        -> UnsafeRawBufferPointer
    {
        guard tag.wireType == 2 else {
            throw .wrongWireType(field: tag.field, wireType: tag.wireType)
        }
        let length = try varint()
        guard length <= UInt64(bytes.count &- offset) else { throw .truncated }
        let start = offset
        offset &+= Int(length)
        return UnsafeRawBufferPointer(rebasing: bytes[start..<offset])
    }

    /// Passes over a field this decoder does not know. Groups too: no etcd message has them, but a
    /// message with one is still a message.
    @inlinable package mutating func skip(_ tag: ProtoTag) throws(DecodeError) {
        switch tag.wireType {
        case 0: _ = try varint()
        case 1: try advance(8)
        case 2: _ = try slice(tag)
        case 3: try skipGroup(tag, depth: 1)
        case 5: try advance(4)
        default: throw .wrongWireType(field: tag.field, wireType: tag.wireType)
        }
    }

    /// Passes over the fields of a group up to the end that carries its number.
    @usableFromInline mutating func skipGroup(_ group: ProtoTag, depth: Int) throws(DecodeError) {
        if depth > maximumGroupNesting { throw .nestingTooDeep }
        while let tag = try next() {
            switch tag.wireType {
            case 3: try skipGroup(tag, depth: depth &+ 1)
            case 4:
                if tag.field == group.field { return }
                throw .wrongWireType(field: tag.field, wireType: tag.wireType)
            default: try skip(tag)
            }
        }
        throw .truncated
    }

    @inlinable mutating func advance(_ count: Int) throws(DecodeError) {
        guard bytes.count &- offset >= count else { throw .truncated }
        offset &+= count
    }
}

extension UnsafeRawBufferPointer {
    /// The bytes as an owned array.
    @inlinable package var array: [UInt8] { [UInt8](self) }
}
