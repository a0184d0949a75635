// The payload of hello, welcome and refusal.
//
//   offset 0   "MRPEER"
//   offset 6   protocol version, 2 bytes little endian, 1 at present
//   offset 8…  a protobuf message, so that later versions can add to it:
//              1 purpose (1 messages, 2 snapshot, 3 lookup)   2 cluster id   3 sender's member id
//              4 target's member id   5 sender's name   6 sender's peer URLs*   7 product version
//              8 lowest product version   9 cluster token   10 plugin digest
//              welcome to a lookup: 11 etcdserverpb.Member*
//              refusal: 12 code   13 text

import KVCodec
import RaftCore
import StateMachine

/// What a connection is dialled for.
enum PeerPurpose: UInt64 { case messages = 1, snapshot, lookup }

/// Why a connection is refused. The numbers are part of the protocol.
enum RefusalCode: UInt64 {
    case malformed = 1
    case protocolVersion = 2
    case productVersion = 3
    case clusterMismatch = 4
    case tokenMismatch = 5
    case targetMismatch = 6
    case pluginMismatch = 7
    /// Perhaps added and not yet known here: try again.
    case unknownMember = 8
    /// Never again under this id.
    case removed = 9
    /// Try again later.
    case busy = 10
}

/// A refusal and its reason, for people.
struct Refusal: Error, Equatable {
    /// Nil: a code of a later version.
    var code: RefusalCode?
    var text: String
}

/// Why bytes are not a greeting.
enum GreetingError: Error, Equatable {
    case notMoonraft
    case protocolVersion(UInt16)
    case malformed

    var text: String {
        switch self {
        case .notMoonraft: "no Moonraft handshake"
        case .protocolVersion(let version):
            "peer protocol version \(version), this member speaks \(Greeting.protocolVersion)"
        case .malformed: "malformed handshake"
        }
    }
}

/// The first frame each way.
struct Greeting: Equatable {
    static let magic = Array("MRPEER".utf8)
    static let protocolVersion: UInt16 = 1
    /// More is malformed.
    static let maxURLs = 64

    var purpose: PeerPurpose
    var sender: PeerIdentity
    var targetID: NodeID
    var members: [Member] = []
    var refusal: Refusal?

    func encoded() -> [UInt8] {
        var writer = ByteWriter(capacity: 256)
        writer.raw(Self.magic)
        writer.raw(littleEndianBytes(Self.protocolVersion))
        writer.uint64(1, purpose.rawValue)
        writer.uint64(2, sender.clusterID)
        writer.uint64(3, sender.memberID)
        writer.uint64(4, targetID)
        writer.string(5, sender.name)
        for url in sender.peerURLs { writer.string(6, url) }
        writer.string(7, sender.productVersion)
        writer.string(8, sender.lowestVersion)
        writer.string(9, sender.clusterToken)
        writer.string(10, sender.pluginDigest)
        for member in members { writer.nested(11) { member.encode(into: &$0) } }
        if let refusal {
            writer.uint64(12, refusal.code?.rawValue ?? 0)
            writer.string(13, refusal.text)
        }
        return writer.bytes
    }

    init(
        purpose: PeerPurpose, sender: PeerIdentity, targetID: NodeID, members: [Member] = [],
        refusal: Refusal? = nil
    ) {
        self.purpose = purpose
        self.sender = sender
        self.targetID = targetID
        self.members = members
        self.refusal = refusal
    }

    /// - Parameter isRefusal: whether the frame said so.
    init(decoding bytes: UnsafeRawBufferPointer, isRefusal: Bool) throws(GreetingError) {
        let prefix = Self.magic.count
        guard bytes.count >= prefix + 2, bytes.prefix(prefix).elementsEqual(Self.magic) else {
            throw .notMoonraft
        }
        let version = UInt16(
            littleEndian: bytes.loadUnaligned(fromByteOffset: prefix, as: UInt16.self))
        guard version == Self.protocolVersion else { throw .protocolVersion(version) }
        do {
            try self.init(
                fields: UnsafeRawBufferPointer(rebasing: bytes[(prefix + 2)...]),
                isRefusal: isRefusal)
        } catch {
            throw .malformed
        }
    }

    private struct Malformed: Error {}

    private init(fields: UnsafeRawBufferPointer, isRefusal: Bool) throws {
        var sender = PeerIdentity(
            clusterID: 0, memberID: 0, name: "", peerURLs: [], productVersion: "",
            lowestVersion: "")
        var purpose: UInt64 = 0
        var target: UInt64 = 0
        var members: [Member] = []
        var code: UInt64 = 0
        var text = ""
        var reader = ProtoReader(fields)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: purpose = try reader.uint64(tag)
            case 2: sender.clusterID = try reader.uint64(tag)
            case 3: sender.memberID = try reader.uint64(tag)
            case 4: target = try reader.uint64(tag)
            case 5: sender.name = try Self.text(&reader, tag)
            case 6:
                guard sender.peerURLs.count < Self.maxURLs else { throw Malformed() }
                sender.peerURLs.append(try Self.text(&reader, tag))
            case 7: sender.productVersion = try Self.text(&reader, tag)
            case 8: sender.lowestVersion = try Self.text(&reader, tag)
            case 9: sender.clusterToken = try Self.text(&reader, tag)
            case 10: sender.pluginDigest = try Self.text(&reader, tag)
            case 11: members.append(try Member(try reader.slice(tag)))
            case 12: code = try reader.uint64(tag)
            case 13: text = try Self.text(&reader, tag)
            default: try reader.skip(tag)
            }
        }
        guard let purpose = PeerPurpose(rawValue: purpose) else { throw Malformed() }
        self.init(
            purpose: purpose, sender: sender, targetID: target, members: members,
            refusal: isRefusal ? Refusal(code: RefusalCode(rawValue: code), text: text) : nil)
    }

    private static func text(_ reader: inout ProtoReader, _ tag: ProtoTag) throws -> String {
        guard let text = String(validating: try reader.slice(tag), as: UTF8.self) else {
            throw Malformed()
        }
        return text
    }
}
