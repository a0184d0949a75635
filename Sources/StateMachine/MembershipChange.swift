// What an administrator asks of the membership. It travels in the log as the context of a Raft
// configuration entry, behind the tag of whoever asked (Replica/EntryTag.swift):
//
//   byte 0   format version, 1
//   byte 1   kind: 1 add, 2 remove, 3 promote
//   byte 2…  add: etcdserverpb.Member {1 ID, 3 peerURLs*, 5 isLearner}
//            remove, promote: the member id, 8 bytes little endian

import KVCodec

/// A change of who belongs to the cluster (etcd api/rpc.proto, service Cluster).
package enum MembershipChange: Equatable, Sendable {
    /// The id is chosen by whoever accepts the request; `isLearner` decides whether it votes.
    case add(Member)
    case remove(UInt64)
    /// A learner becomes a voter.
    case promote(UInt64)

    /// The member that the change is about.
    package var memberID: UInt64 {
        switch self {
        case .add(let member): member.id
        case .remove(let id), .promote(let id): id
        }
    }
}

extension MembershipChange {
    private static let formatVersion: UInt8 = 1

    private enum Kind: UInt8 {
        case add = 1
        case remove = 2
        case promote = 3
    }

    /// The bytes above, without the tag.
    package func encoded() -> [UInt8] {
        var writer = ByteWriter(capacity: 64)
        switch self {
        case .add(let member):
            writer.raw([Self.formatVersion, Kind.add.rawValue])
            Member(
                id: member.id, name: "", peerURLs: member.peerURLs, clientURLs: [],
                isLearner: member.isLearner
            ).encode(into: &writer)
        case .remove(let id):
            writer.raw([Self.formatVersion, Kind.remove.rawValue] + Self.littleEndian(id))
        case .promote(let id):
            writer.raw([Self.formatVersion, Kind.promote.rawValue] + Self.littleEndian(id))
        }
        return writer.bytes
    }

    /// Reads the bytes above. Name and client URLs of a member to add are left out: a member tells
    /// them itself once it runs.
    ///
    /// - Throws: `unknownCommand` for another version or kind, `malformed` for another layout and
    ///   for member id 0.
    package init(decoding bytes: some Sequence<UInt8>) throws(ApplyError) {
        let bytes = [UInt8](bytes)
        guard bytes.count >= 2, bytes[0] == Self.formatVersion, let kind = Kind(rawValue: bytes[1])
        else { throw .unknownCommand }
        switch kind {
        case .add: self = .add(try Self.member(bytes))
        case .remove: self = .remove(try Self.id(bytes))
        case .promote: self = .promote(try Self.id(bytes))
        }
    }

    private static func member(_ bytes: [UInt8]) throws(ApplyError) -> Member {
        let read = bytes.withUnsafeBytes { raw in
            Result { () throws(ApplyError) in
                try Member(UnsafeRawBufferPointer(rebasing: raw[2...]))
            }
        }
        var member = try read.get()
        member.name = ""
        member.clientURLs = []
        return member
    }

    private static func id(_ bytes: [UInt8]) throws(ApplyError) -> UInt64 {
        guard bytes.count == 10 else { throw .malformed }
        let id = bytes[2...].reversed().reduce(UInt64(0)) { $0 &<< 8 | UInt64($1) }
        if id == 0 { throw .malformed }
        return id
    }

    private static func littleEndian(_ id: UInt64) -> [UInt8] {
        withUnsafeBytes(of: id.littleEndian) { [UInt8]($0) }
    }
}
