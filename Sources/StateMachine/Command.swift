// What a log entry holds.
//
//   byte 0   format version, 1
//   byte 1   kind (`Command.Kind`)
//   byte 2   origin (`Command.Origin`)
//   byte 3   flags: bit 0 says that a tag follows, the others are 0
//   byte 4…  with that flag: 16 bytes that mean nothing here (Replica/EntryTag.swift)
//   then     the body: one protobuf message, or the bytes of a string
//
//   kind  body
//   1     etcdserverpb.PutRequest
//   2     etcdserverpb.DeleteRangeRequest
//   3     etcdserverpb.TxnRequest
//   4     etcdserverpb.CompactionRequest
//   5     etcdserverpb.LeaseGrantRequest {1 TTL, 2 ID}, the ID already chosen
//   6     etcdserverpb.LeaseRevokeRequest {1 ID}; origin core means that the lease expired
//   7     etcdserverpb.LeaseCheckpointRequest {1 checkpoints* {1 ID, 2 remaining_TTL}}
//   8     etcdserverpb.AlarmRequest {1 action, 2 memberID, 3 alarm}, the member already resolved
//   9     etcdserverpb.Member {1 ID, 2 name, 3 peerURLs*, 4 clientURLs*, 5 isLearner}: a member publishes
//         its name and client URLs
//   10    the cluster version as text, "3.6.0"
//   11    etcdserverpb.Member {1 ID, 3 peerURLs*}: new peer URLs for a member
//
// An entry without bytes is the empty entry of a new leader. The request messages are stored as the
// client sent them, after plugins changed them, so that applying decodes in place and copies only
// what is kept. An entry that breaks these rules is answered with an error, the same one on every
// member and after every restart; it never stops the process (reliability.md S22).

import KVCodec

/// The format of replicated commands.
package enum Command {
    package static let formatVersion: UInt8 = 1
    package static let headerSize = 4
    /// Set in byte 3 when a tag follows the header.
    package static let tagFlag: UInt8 = 1
    package static let tagSize = 16

    /// What a command does.
    package enum Kind: UInt8, CaseIterable, Sendable {
        case put = 1
        case deleteRange = 2
        case txn = 3
        case compact = 4
        case leaseGrant = 5
        case leaseRevoke = 6
        case leaseCheckpoint = 7
        case alarm = 8
        case memberUpdate = 9
        case clusterVersion = 10
        case memberURLs = 11
    }

    /// Who asked for a command.
    package enum Origin: UInt8, CaseIterable, Sendable {
        case client = 0
        case core = 1
        case plugin = 2
    }

    /// The four bytes in front of a body, for a caller that lays out the entry itself.
    @inlinable package static func header(kind: Kind, origin: Origin)
        -> (UInt8, UInt8, UInt8, UInt8)
    {
        (formatVersion, kind.rawValue, origin.rawValue, 0)
    }

    /// A whole entry with one allocation.
    package static func encode(
        kind: Kind, origin: Origin = .client, body: UnsafeRawBufferPointer
    ) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: headerSize + body.count) { buffer, count in
            let head = header(kind: kind, origin: origin)
            buffer.initializeElement(at: 0, to: head.0)
            buffer.initializeElement(at: 1, to: head.1)
            buffer.initializeElement(at: 2, to: head.2)
            buffer.initializeElement(at: 3, to: head.3)
            if let base = buffer.baseAddress, let source = body.baseAddress {
                UnsafeMutableRawPointer(base + headerSize)
                    .copyMemory(from: source, byteCount: body.count)
            }
            count = headerSize + body.count
        }
    }

    /// A whole entry with one allocation.
    package static func encode(kind: Kind, origin: Origin = .client, body: [UInt8]) -> [UInt8] {
        body.withUnsafeBytes { encode(kind: kind, origin: origin, body: $0) }
    }

    /// Takes an entry apart. The body aliases the entry.
    ///
    /// - Throws: `unknownCommand` for another format version, kind or origin, or for flags other than
    ///   `tagFlag`, or when the tag is cut short.
    @inlinable package static func parse(_ entry: UnsafeRawBufferPointer) throws(ApplyError)
        -> (kind: Kind, origin: Origin, body: UnsafeRawBufferPointer)
    {
        guard entry.count >= headerSize, entry[0] == formatVersion,
            let kind = Kind(rawValue: entry[1]), let origin = Origin(rawValue: entry[2])
        else { throw .unknownCommand }
        if entry[3] == 0 {
            return (kind, origin, UnsafeRawBufferPointer(rebasing: entry[headerSize...]))
        }
        guard entry[3] == tagFlag, entry.count >= headerSize + tagSize else { throw .unknownCommand }
        return (kind, origin, UnsafeRawBufferPointer(rebasing: entry[(headerSize + tagSize)...]))
    }

    /// The entry with a tag behind its header; one allocation. The entry has none yet and the tag
    /// has `tagSize` bytes.
    package static func tagged(_ entry: [UInt8], tag: [UInt8]) -> [UInt8] {
        precondition(
            entry.count >= headerSize && entry[3] & tagFlag == 0 && tag.count == tagSize,
            "tag of \(tag.count) bytes for an entry of \(entry.count)")
        return [UInt8](unsafeUninitializedCapacity: entry.count + tagSize) { buffer, count in
            let bytes = UnsafeMutableRawBufferPointer(buffer)
            entry.withUnsafeBytes { source in
                bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: source[..<headerSize]))
                UnsafeMutableRawBufferPointer(rebasing: bytes[(headerSize + tagSize)...])
                    .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[headerSize...]))
            }
            UnsafeMutableRawBufferPointer(rebasing: bytes[headerSize...]).copyBytes(from: tag)
            bytes[3] |= tagFlag
            count = entry.count + tagSize
        }
    }

    /// The tag of an entry; nil when it has none.
    @inlinable package static func tagBytes(of entry: [UInt8]) -> ArraySlice<UInt8>? {
        guard entry.count >= headerSize + tagSize, entry[3] == tagFlag else { return nil }
        return entry[headerSize..<(headerSize + tagSize)]
    }
}

// Commands that the core itself proposes, and those whose requests are not on the hot path.
extension Command {
    package static func compact(revision: Int64, physical: Bool = false, origin: Origin = .client)
        -> [UInt8]
    {
        build(.compact, origin) { writer in
            writer.int64(1, revision)
            writer.bool(2, physical)
        }
    }

    package static func leaseGrant(id: Int64, ttlSeconds: Int64, origin: Origin = .client)
        -> [UInt8]
    {
        build(.leaseGrant, origin) { writer in
            writer.int64(1, ttlSeconds)
            writer.int64(2, id)
        }
    }

    /// Origin `core` says that the lease expired.
    package static func leaseRevoke(id: Int64, origin: Origin = .client) -> [UInt8] {
        build(.leaseRevoke, origin) { $0.int64(1, id) }
    }

    package static func leaseCheckpoint(_ checkpoints: [(id: Int64, remainingSeconds: Int64)])
        -> [UInt8]
    {
        build(.leaseCheckpoint, .core) { writer in
            for checkpoint in checkpoints {
                writer.nested(1) {
                    $0.int64(1, checkpoint.id)
                    $0.int64(2, checkpoint.remainingSeconds)
                }
            }
        }
    }

    package static func alarm(
        _ action: AlarmAction, member: UInt64, type: AlarmType?, origin: Origin = .client
    ) -> [UInt8] {
        build(.alarm, origin) { writer in
            writer.int64(1, Int64(action.rawValue))
            writer.uint64(2, member)
            writer.int64(3, Int64(type?.rawValue ?? 0))
        }
    }

    package static func memberUpdate(_ member: Member) -> [UInt8] {
        build(.memberUpdate, .core) { member.encode(into: &$0) }
    }

    package static func memberURLs(id: UInt64, _ peerURLs: [String]) -> [UInt8] {
        build(.memberURLs, .client) {
            Member(id: id, name: "", peerURLs: peerURLs, clientURLs: []).encode(into: &$0)
        }
    }

    package static func clusterVersion(_ version: String) -> [UInt8] {
        build(.clusterVersion, .core) { $0.raw([UInt8](version.utf8)) }
    }

    private static func build(
        _ kind: Kind, _ origin: Origin, _ body: (inout ByteWriter) -> Void
    ) -> [UInt8] {
        var writer = ByteWriter(capacity: 32)
        let head = header(kind: kind, origin: origin)
        writer.bytes.append(head.0)
        writer.bytes.append(head.1)
        writer.bytes.append(head.2)
        writer.bytes.append(head.3)
        body(&writer)
        return writer.bytes
    }
}
