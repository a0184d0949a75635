// The bytes of one peer message. They are part of the peer protocol: a change of meaning needs a new
// protocol version (docs/peer-protocol.md).
//
//   byte 0     kind, below
//   byte 1     from, 8 bytes little endian
//   byte 9     to, 8 bytes little endian
//   byte 17…   the kind's fields in order, nothing after them
//
// n: varint of at most 64 bits (base 128, low digits first). b: byte, 0 or 1. id: 8 bytes little
// endian. data: n, then so many bytes. x*: n, then so many x. A signed number is the varint of its two's
// complement. Every Raft message begins with `term n`.
//
//    1 vote request       b isPreVote, b isTransfer, n lastIndex, n lastTerm, n known index, n known term
//    2 vote response      b isPreVote, b isGranted, n known index, n known term
//    3 append             n previousIndex, n previousTerm, n commit, entry*
//                         entry: n index less the expected one (modulo 2⁶⁴; 0 in a log without gaps),
//                         n term, byte kind, data
//    4 accepted           n match
//    5 rejected           n previous, n hintIndex, n hintTerm
//    6 heartbeat          n commit, n round
//    7 heartbeat response n round
//    8 snapshot           n index, n term, id* voters, id* votersOutgoing, id* learners, id* learnersNext,
//                         b autoLeave
//    9 newer term
//   10 timeout now
//   11 read request       n id
//   12 read response      n id, n index
//
//   Requests begin with n term, n run, n number:
//   16 propose            data*
//   17 change membership  data
//   18 renew lease        n id
//   19 lease time to live n id, b withKeys
//
//   Replies begin with n run, n number, n count:
//   24 refused            byte error (NodeError)
//   25 lease renewed      b isKnown, n time to live in seconds when known
//   26 lease time to live b isKnown; when known: n granted, b isPrimary, n remaining when primary, data* keys
//
//   32 compaction report  n compact revision, n hash

import RaftCore
import StateMachine

extension PeerMessage {
    /// At least as many bytes as `encode` writes, and not many more: payloads are counted exactly.
    package var encodedSizeBound: Int {
        // Kind and ids, and the most numbers any kind has besides its lists.
        var bound = 17 + 10 * PeerWriter.maxVarint
        switch self {
        case .raft(let message):
            switch message.body {
            case .append(let append):
                for entry in append.entries {
                    bound += entry.data.count + 3 * PeerWriter.maxVarint + 1
                }
            case .snapshot(let metadata):
                let state = metadata.confState
                bound += 8 * (state.voters.count + state.votersOutgoing.count)
                bound += 8 * (state.learners.count + state.learnersNext.count)
            default: break
            }
        case .request(let request):
            switch request.body {
            case .propose(let entries): bound += Self.bound(entries)
            case .changeMembership(let change): bound += change.count
            case .renewLease, .leaseTimeToLive: break
            }
        case .reply(let reply):
            if case .leaseTimeToLive(let status?) = reply.body { bound += Self.bound(status.keys) }
        case .report: break
        }
        return bound
    }

    private static func bound(_ list: [[UInt8]]) -> Int {
        list.reduce(0) { $0 + $1.count + PeerWriter.maxVarint }
    }

    /// Writes the message to the start of `buffer`, which has room for `encodedSizeBound` bytes.
    ///
    /// - Returns: the bytes written.
    package func encode(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        var writer = PeerWriter(buffer)
        writer.byte(kind.rawValue)
        writer.fixed64(from)
        writer.fixed64(to)
        switch self {
        case .raft(let message):
            writer.varint(message.term)
            Self.encode(message.body, &writer)
        case .request(let request): Self.encode(request, &writer)
        case .reply(let reply): Self.encode(reply, &writer)
        case .report(let report):
            writer.signed(report.compactRevision)
            writer.varint(UInt64(report.hash))
        }
        return writer.count
    }

    /// The message as an array.
    package func encoded() -> [UInt8] {
        let bound = encodedSizeBound
        return [UInt8](unsafeUninitializedCapacity: bound) { buffer, count in
            count = encode(into: UnsafeMutableRawBufferPointer(buffer))
        }
    }

    /// Reads one whole message.
    package init(decoding bytes: UnsafeRawBufferPointer) throws(PeerMessageError) {
        var reader = PeerReader(bytes)
        let byte = try reader.byte()
        guard let kind = Kind(rawValue: byte) else { throw .unknownKind(byte) }
        let from = try reader.fixed64()
        let to = try reader.fixed64()
        switch kind.family {
        case .raft:
            let term = try reader.varint()
            let body = try Self.raftBody(kind, &reader)
            self = .raft(Message(from: from, to: to, term: term, body: body))
        case .request: self = .request(try Self.request(kind, from, to, &reader))
        case .reply: self = .reply(try Self.reply(kind, from, to, &reader))
        case .report:
            let revision = try reader.signed()
            guard let hash = UInt32(exactly: try reader.varint()) else { throw .numberTooLarge }
            self = .report(
                CompactionReport(from: from, to: to, compactRevision: revision, hash: hash))
        }
        guard reader.remaining == 0 else { throw .trailingBytes(reader.remaining) }
    }

    // MARK: Kinds

    private enum Family { case raft, request, reply, report }

    private enum Kind: UInt8 {
        case voteRequest = 1, voteResponse, append, accepted, rejected, heartbeat
        case heartbeatResponse, snapshot, newerTerm, timeoutNow, readRequest, readResponse
        case propose = 16, changeMembership, renewLease, leaseTimeToLive
        case refused = 24, leaseRenewed, leaseStatus
        case report = 32

        var family: Family {
            switch self {
            case .voteRequest, .voteResponse, .append, .accepted, .rejected, .heartbeat,
                .heartbeatResponse, .snapshot, .newerTerm, .timeoutNow, .readRequest, .readResponse:
                .raft
            case .propose, .changeMembership, .renewLease, .leaseTimeToLive: .request
            case .refused, .leaseRenewed, .leaseStatus: .reply
            case .report: .report
            }
        }
    }

    private var kind: Kind {
        switch self {
        case .raft(let message):
            switch message.body {
            case .voteRequest: .voteRequest
            case .voteResponse: .voteResponse
            case .append: .append
            case .appendResponse(.accepted): .accepted
            case .appendResponse(.rejected): .rejected
            case .heartbeat: .heartbeat
            case .heartbeatResponse: .heartbeatResponse
            case .snapshot: .snapshot
            case .newerTerm: .newerTerm
            case .timeoutNow: .timeoutNow
            case .readRequest: .readRequest
            case .readResponse: .readResponse
            }
        case .request(let request):
            switch request.body {
            case .propose: .propose
            case .changeMembership: .changeMembership
            case .renewLease: .renewLease
            case .leaseTimeToLive: .leaseTimeToLive
            }
        case .reply(let reply):
            switch reply.body {
            case .refused: .refused
            case .leaseRenewed: .leaseRenewed
            case .leaseTimeToLive: .leaseStatus
            }
        case .report: .report
        }
    }

    // MARK: Raft messages

    private static func encode(_ body: Message.Body, _ writer: inout PeerWriter) {
        switch body {
        case .voteRequest(let vote):
            writer.bool(vote.isPreVote)
            writer.bool(vote.isTransfer)
            writer.varint(vote.lastIndex)
            writer.varint(vote.lastTerm)
            writer.varint(vote.known.index)
            writer.varint(vote.known.term)
        case .voteResponse(let vote):
            writer.bool(vote.isPreVote)
            writer.bool(vote.isGranted)
            writer.varint(vote.known.index)
            writer.varint(vote.known.term)
        case .append(let append):
            writer.varint(append.previousIndex)
            writer.varint(append.previousTerm)
            writer.varint(append.commit)
            writer.varint(UInt64(append.entries.count))
            var expected = append.previousIndex
            for entry in append.entries {
                expected &+= 1
                writer.varint(entry.index &- expected)
                writer.varint(entry.term)
                writer.byte(entry.kind.rawValue)
                writer.data(entry.data)
            }
        case .appendResponse(.accepted(let match)):
            writer.varint(match)
        case .appendResponse(.rejected(let previous, let hintIndex, let hintTerm)):
            writer.varint(previous)
            writer.varint(hintIndex)
            writer.varint(hintTerm)
        case .heartbeat(let commit, let round):
            writer.varint(commit)
            writer.varint(round)
        case .heartbeatResponse(let round):
            writer.varint(round)
        case .snapshot(let metadata):
            writer.varint(metadata.index)
            writer.varint(metadata.term)
            let state = metadata.confState
            for ids in [state.voters, state.votersOutgoing, state.learners, state.learnersNext] {
                writer.varint(UInt64(ids.count))
                for id in ids { writer.fixed64(id) }
            }
            writer.bool(state.autoLeave)
        case .newerTerm, .timeoutNow:
            break
        case .readRequest(let id):
            writer.varint(id)
        case .readResponse(let id, let index):
            writer.varint(id)
            writer.varint(index)
        }
    }

    private static func raftBody(
        _ kind: Kind, _ reader: inout PeerReader
    ) throws(PeerMessageError) -> Message.Body {
        switch kind {
        case .voteRequest:
            return .voteRequest(
                Message.VoteRequest(
                    isPreVote: try reader.bool(), isTransfer: try reader.bool(),
                    lastIndex: try reader.varint(), lastTerm: try reader.varint(),
                    known: .init(index: try reader.varint(), term: try reader.varint())))
        case .voteResponse:
            return .voteResponse(
                Message.VoteResponse(
                    isPreVote: try reader.bool(), isGranted: try reader.bool(),
                    known: .init(index: try reader.varint(), term: try reader.varint())))
        case .append:
            return .append(try append(&reader))
        case .accepted:
            return .appendResponse(.accepted(match: try reader.varint()))
        case .rejected:
            return .appendResponse(
                .rejected(
                    previous: try reader.varint(), hintIndex: try reader.varint(),
                    hintTerm: try reader.varint()))
        case .heartbeat:
            return .heartbeat(commit: try reader.varint(), round: try reader.varint())
        case .heartbeatResponse:
            return .heartbeatResponse(round: try reader.varint())
        case .snapshot:
            return .snapshot(try snapshotMetadata(&reader))
        case .newerTerm:
            return .newerTerm
        case .timeoutNow:
            return .timeoutNow
        case .readRequest:
            return .readRequest(id: try reader.varint())
        case .readResponse:
            return .readResponse(id: try reader.varint(), index: try reader.varint())
        default:
            throw .unknownKind(kind.rawValue)
        }
    }

    private static func append(
        _ reader: inout PeerReader
    ) throws(PeerMessageError) -> Message.AppendRequest {
        let previousIndex = try reader.varint()
        let previousTerm = try reader.varint()
        let commit = try reader.varint()
        // Index, term, kind and length take a byte each at least.
        let count = try reader.count(minimumBytes: 4)
        var entries: [Entry] = []
        entries.reserveCapacity(min(count, maxReserved))
        var expected = previousIndex
        for _ in 0..<count {
            expected &+= 1
            let index = expected &+ (try reader.varint())
            let term = try reader.varint()
            let byte = try reader.byte()
            guard let kind = EntryKind(rawValue: byte) else { throw .invalidValue(byte) }
            entries.append(Entry(index: index, term: term, kind: kind, data: try reader.data()))
        }
        return Message.AppendRequest(
            previousIndex: previousIndex, previousTerm: previousTerm, commit: commit,
            entries: entries)
    }

    private static func snapshotMetadata(
        _ reader: inout PeerReader
    ) throws(PeerMessageError) -> SnapshotMetadata {
        let index = try reader.varint()
        let term = try reader.varint()
        let state = ConfState(
            voters: try ids(&reader), votersOutgoing: try ids(&reader),
            learners: try ids(&reader), learnersNext: try ids(&reader),
            autoLeave: try reader.bool())
        guard state.isWellFormed else { throw .invalidMembership }
        return SnapshotMetadata(index: index, term: term, confState: state)
    }

    private static func ids(_ reader: inout PeerReader) throws(PeerMessageError) -> [NodeID] {
        let count = try reader.count(minimumBytes: 8)
        var ids: [NodeID] = []
        ids.reserveCapacity(count)
        for _ in 0..<count { ids.append(try reader.fixed64()) }
        return ids
    }

    // MARK: Requests and replies

    private static func encode(_ request: PeerRequest, _ writer: inout PeerWriter) {
        writer.varint(request.term)
        writer.varint(request.run)
        writer.varint(request.number)
        switch request.body {
        case .propose(let entries): encode(entries, &writer)
        case .changeMembership(let change): writer.data(change)
        case .renewLease(let id): writer.signed(id)
        case .leaseTimeToLive(let id, let withKeys):
            writer.signed(id)
            writer.bool(withKeys)
        }
    }

    private static func request(
        _ kind: Kind, _ from: NodeID, _ to: NodeID, _ reader: inout PeerReader
    ) throws(PeerMessageError) -> PeerRequest {
        let term = try reader.varint()
        let run = try reader.varint()
        let number = try reader.varint()
        let body: PeerRequest.Body
        switch kind {
        case .propose: body = .propose(try list(&reader))
        case .changeMembership: body = .changeMembership(try reader.data())
        case .renewLease: body = .renewLease(try reader.signed())
        case .leaseTimeToLive:
            body = .leaseTimeToLive(try reader.signed(), withKeys: try reader.bool())
        default: throw .unknownKind(kind.rawValue)
        }
        return PeerRequest(from: from, to: to, term: term, run: run, number: number, body: body)
    }

    private static func encode(_ reply: PeerReply, _ writer: inout PeerWriter) {
        writer.varint(reply.run)
        writer.varint(reply.number)
        writer.varint(reply.count)
        switch reply.body {
        case .refused(let error): writer.byte(error.rawValue)
        case .leaseRenewed(let seconds):
            writer.bool(seconds != nil)
            if let seconds { writer.signed(seconds) }
        case .leaseTimeToLive(let status):
            writer.bool(status != nil)
            guard let status else { return }
            writer.signed(status.grantedTTLSeconds)
            writer.bool(status.remainingSeconds != nil)
            if let seconds = status.remainingSeconds { writer.signed(seconds) }
            encode(status.keys, &writer)
        }
    }

    private static func reply(
        _ kind: Kind, _ from: NodeID, _ to: NodeID, _ reader: inout PeerReader
    ) throws(PeerMessageError) -> PeerReply {
        let run = try reader.varint()
        let number = try reader.varint()
        let count = try reader.varint()
        let body: PeerReply.Body
        switch kind {
        case .refused:
            let byte = try reader.byte()
            guard let error = NodeError(rawValue: byte) else { throw .invalidValue(byte) }
            body = .refused(error)
        case .leaseRenewed:
            let isKnown = try reader.bool()
            body = .leaseRenewed(timeToLiveSeconds: isKnown ? try reader.signed() : nil)
        case .leaseStatus:
            guard try reader.bool() else {
                body = .leaseTimeToLive(nil)
                break
            }
            let granted = try reader.signed()
            let remaining = try reader.bool() ? try reader.signed() : nil
            body = .leaseTimeToLive(
                LeaseStatus(
                    grantedTTLSeconds: granted, remainingSeconds: remaining,
                    keys: try list(&reader)))
        default: throw .unknownKind(kind.rawValue)
        }
        return PeerReply(from: from, to: to, run: run, number: number, count: count, body: body)
    }

    private static func encode(_ list: [[UInt8]], _ writer: inout PeerWriter) {
        writer.varint(UInt64(list.count))
        for element in list { writer.data(element) }
    }

    /// Room is reserved for what the bytes could hold, but no more than `maxReserved` at once: an
    /// element takes more memory than the byte that announces it.
    private static func list(_ reader: inout PeerReader) throws(PeerMessageError) -> [[UInt8]] {
        let count = try reader.count(minimumBytes: 1)
        var list: [[UInt8]] = []
        list.reserveCapacity(min(count, maxReserved))
        for _ in 0..<count { list.append(try reader.data()) }
        return list
    }

    private static let maxReserved = 4096
}
