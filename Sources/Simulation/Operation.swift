// What clients ask, and how their requests look in the log.
//
// Every command ends in an unknown protobuf field, number 1000, fixed64, that holds the operation's number. The
// state machine passes over it, and the log can be searched for repetitions.

import KVCodec
import RaftCore
import StateMachine

/// One request of a client.
struct Operation {
    enum Kind {
        case put(key: [UInt8], value: [UInt8], lease: Int64)
        case delete(key: [UInt8])
        /// Put when the key was last changed at `expected` (0: does not exist), else read it.
        case swap(key: [UInt8], expected: Int64, value: [UInt8])
        case grant(lease: Int64, seconds: Int64)
        case revoke(lease: Int64)
        case compact(revision: Int64)
        case keepAlive(lease: Int64)
        case timeToLive(lease: Int64)
        /// Of one key, or of all.
        case read(key: [UInt8]?, isSerializable: Bool, revision: Int64)
        case members
        case change([MembershipChange])
        case transfer(to: NodeID)
    }

    var number: UInt64
    /// The client's position; nil for the operator.
    var client: Int?
    var kind: Kind
    /// The member that was asked.
    var member: NodeID
    /// When it was asked, by the clock on the wall.
    var invoked: Nanoseconds
    /// The highest revision that anybody was told of before.
    var floor: Int64
    /// How far anybody had committed, and in which term.
    var committedIndex: LogIndex = 0
    var committedTerm: Term = 0
    /// For a question about a lease: what had been promised of it before.
    var promisedUntil: Nanoseconds = 0
}

extension Operation.Kind {
    var isWrite: Bool { name.isUppercase }

    /// A name for the trace; what goes through the log is in capitals.
    var name: String {
        switch self {
        case .put: "PUT"
        case .delete: "DELETE"
        case .swap: "SWAP"
        case .grant: "GRANT"
        case .revoke: "REVOKE"
        case .compact: "COMPACT"
        case .change: "CHANGE"
        case .keepAlive: "keepAlive"
        case .timeToLive: "timeToLive"
        case .read(_, let isSerializable, _): isSerializable ? "serializableRead" : "read"
        case .members: "members"
        case .transfer: "transfer"
        }
    }

    /// The log entry of a command; nil for what is not one.
    func command(_ number: UInt64) -> [UInt8]? {
        switch self {
        case .put(let key, let value, let lease):
            var writer = ByteWriter()
            writer.data(1, key)
            writer.data(2, value)
            writer.int64(3, lease)
            return OperationMark.append(number, to: Command.encode(kind: .put, body: writer.bytes))
        case .delete(let key):
            var writer = ByteWriter()
            writer.data(1, key)
            return OperationMark.append(number, to: Command.encode(kind: .deleteRange, body: writer.bytes))
        case .swap(let key, let expected, let value):
            return OperationMark.append(
                number, to: Command.encode(kind: .txn, body: Self.swap(key, expected, value)))
        case .grant(let lease, let seconds):
            return OperationMark.append(number, to: Command.leaseGrant(id: lease, ttlSeconds: seconds))
        case .revoke(let lease):
            return OperationMark.append(number, to: Command.leaseRevoke(id: lease))
        case .compact(let revision):
            return OperationMark.append(number, to: Command.compact(revision: revision))
        case .keepAlive, .timeToLive, .read, .members, .change, .transfer:
            return nil
        }
    }

    /// if mod(key) == expected { put } else { get }
    private static func swap(_ key: [UInt8], _ expected: Int64, _ value: [UInt8]) -> [UInt8] {
        var writer = ByteWriter()
        writer.nested(1) { compare in
            compare.int64(1, Int64(CompareResult.equal))
            compare.int64(2, Int64(CompareTarget.mod))
            compare.data(3, key)
            compare.int64(6, expected)
        }
        writer.nested(2) { operation in
            operation.nested(2) { put in
                put.data(1, key)
                put.data(2, value)
            }
        }
        writer.nested(3) { operation in
            operation.nested(1) { $0.data(1, key) }
        }
        return writer.bytes
    }
}

extension String {
    fileprivate var isUppercase: Bool { utf8.allSatisfy { $0 < UInt8(ascii: "a") } }
}

/// The operation's number at the end of an entry.
enum OperationMark {
    /// Tag of field 1000, wire type 1.
    private static let tag: [UInt8] = [0xC1, 0x3E]

    static func append(_ number: UInt64, to entry: [UInt8]) -> [UInt8] {
        entry + tag + (0..<8).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
    }

    static func number(of entry: [UInt8]) -> UInt64? {
        guard entry.count >= Command.headerSize + 10, entry[entry.count - 10] == tag[0],
            entry[entry.count - 9] == tag[1]
        else { return nil }
        return entry.suffix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
}
