// Requests as values that a test can read, their protobuf form, and replies as text.

import KVCodec
import StateMachine

func bytes(_ text: String) -> [UInt8] { [UInt8](text.utf8) }
func text(_ bytes: some Sequence<UInt8>) -> String { String(decoding: Array(bytes), as: UTF8.self) }

struct Put {
    var key: String
    var value = ""
    var lease: Int64 = 0
    var prevKV = false
    var ignoreValue = false
    var ignoreLease = false

    init(
        _ key: String, _ value: String = "", lease: Int64 = 0, prevKV: Bool = false,
        ignoreValue: Bool = false, ignoreLease: Bool = false
    ) {
        self.key = key
        self.value = value
        self.lease = lease
        self.prevKV = prevKV
        self.ignoreValue = ignoreValue
        self.ignoreLease = ignoreLease
    }

    var message: [UInt8] {
        var writer = ByteWriter()
        writer.string(1, key)
        writer.string(2, value)
        writer.int64(3, lease)
        writer.bool(4, prevKV)
        writer.bool(5, ignoreValue)
        writer.bool(6, ignoreLease)
        return writer.bytes
    }
}

struct Get {
    var key: String
    var end = ""
    var limit: Int64 = 0
    var revision: Int64 = 0
    var sortOrder: Int64 = 0
    var sortTarget: Int64 = 0
    var serializable = false
    var countOnly = false

    init(
        _ key: String, _ end: String = "", limit: Int64 = 0, revision: Int64 = 0,
        sortOrder: Int64 = 0, sortTarget: Int64 = 0, serializable: Bool = false,
        countOnly: Bool = false
    ) {
        self.key = key
        self.end = end
        self.limit = limit
        self.revision = revision
        self.sortOrder = sortOrder
        self.sortTarget = sortTarget
        self.serializable = serializable
        self.countOnly = countOnly
    }

    var message: [UInt8] {
        var writer = ByteWriter()
        writer.string(1, key)
        writer.string(2, end)
        writer.int64(3, limit)
        writer.int64(4, revision)
        writer.int64(5, sortOrder)
        writer.int64(6, sortTarget)
        writer.bool(7, serializable)
        writer.bool(9, countOnly)
        return writer.bytes
    }
}

struct Delete {
    var key: String
    var end = ""
    var prevKV = false

    init(_ key: String, _ end: String = "", prevKV: Bool = false) {
        self.key = key
        self.end = end
        self.prevKV = prevKV
    }

    var message: [UInt8] {
        var writer = ByteWriter()
        writer.string(1, key)
        writer.string(2, end)
        writer.bool(3, prevKV)
        return writer.bytes
    }
}

enum Outcome { static let equal: Int64 = 0, greater: Int64 = 1, less: Int64 = 2, notEqual: Int64 = 3 }

struct Compare {
    enum Operand: Equatable {
        case version(Int64), create(Int64), mod(Int64), value(String), lease(Int64)
    }

    var key: String
    var end: String
    var result: Int64
    /// Sent as the enum's number; by default that of the operand.
    var target: Int64
    var operand: Operand?

    init(
        _ key: String, _ end: String = "", _ result: Int64 = Outcome.equal, _ operand: Operand?,
        target: Int64? = nil
    ) {
        self.key = key
        self.end = end
        self.result = result
        self.operand = operand
        self.target =
            target
            ?? {
                switch operand {
                case .version?, nil: 0
                case .create?: 1
                case .mod?: 2
                case .value?: 3
                case .lease?: 4
                }
            }()
    }

    var message: [UInt8] {
        var writer = ByteWriter()
        writer.int64(1, result)
        writer.int64(2, target)
        writer.string(3, key)
        switch operand {
        case .version(let number)?: writer.int64(4, number)
        case .create(let number)?: writer.int64(5, number)
        case .mod(let number)?: writer.int64(6, number)
        case .value(let value)?: writer.string(7, value)
        case .lease(let number)?: writer.int64(8, number)
        case nil: break
        }
        writer.string(64, end)
        return writer.bytes
    }
}

indirect enum Operation {
    case get(Get)
    case put(Put)
    case delete(Delete)
    case txn(Txn)
    case empty

    var message: [UInt8] {
        var writer = ByteWriter()
        switch self {
        case .get(let get): writer.message(1, get.message)
        case .put(let put): writer.message(2, put.message)
        case .delete(let delete): writer.message(3, delete.message)
        case .txn(let txn): writer.message(4, txn.message)
        case .empty: break
        }
        return writer.bytes
    }
}

struct Txn {
    var compare: [Compare] = []
    var success: [Operation] = []
    var failure: [Operation] = []

    init(_ compare: [Compare] = [], then success: [Operation] = [], else failure: [Operation] = []) {
        self.compare = compare
        self.success = success
        self.failure = failure
    }

    var message: [UInt8] {
        var writer = ByteWriter()
        for one in compare { writer.message(1, one.message) }
        for one in success { writer.message(2, one.message) }
        for one in failure { writer.message(3, one.message) }
        return writer.bytes
    }
}

// MARK: Replies as text

/// `a=1(c2 m3 v1)`, with ` l7` for a lease.
func line(_ record: KeyValueView) -> String {
    let lease = record.lease == 0 ? "" : " l\(record.lease)"
    return "\(text(record.key))=\(text(record.value))"
        + "(c\(record.createRevision) m\(record.modRevision) v\(record.version)\(lease))"
}

/// The fields of a reply after its header, as text.
enum Reply {
    static func put(_ body: [UInt8]) throws -> String {
        try body.withUnsafeBytes { try put($0) }
    }

    static func delete(_ body: [UInt8]) throws -> String {
        try body.withUnsafeBytes { try delete($0) }
    }

    static func txn(_ body: [UInt8]) throws -> String {
        try body.withUnsafeBytes { try txn($0) }
    }

    private static func header(_ bytes: UnsafeRawBufferPointer) throws -> String {
        var reader = ProtoReader(bytes)
        var revision = ""
        while let tag = try reader.next() {
            if tag.field != 3 { throw DecodeError.illegalTag(UInt64(tag.field)) }
            revision = "@\(try reader.int64(tag))"
        }
        return revision
    }

    static func put(_ bytes: UnsafeRawBufferPointer) throws -> String {
        var reader = ProtoReader(bytes)
        var head = ""
        var previous = ""
        while let tag = try reader.next() {
            switch tag.field {
            case 1: head = try header(try reader.slice(tag))
            case 2: previous = " was " + line(try KeyValueView(try reader.slice(tag)))
            default: throw DecodeError.illegalTag(UInt64(tag.field))
            }
        }
        return "put\(head)\(previous)"
    }

    static func delete(_ bytes: UnsafeRawBufferPointer) throws -> String {
        var reader = ProtoReader(bytes)
        var head = ""
        var deleted: Int64 = 0
        var previous: [String] = []
        while let tag = try reader.next() {
            switch tag.field {
            case 1: head = try header(try reader.slice(tag))
            case 2: deleted = try reader.int64(tag)
            case 3: previous.append(line(try KeyValueView(try reader.slice(tag))))
            default: throw DecodeError.illegalTag(UInt64(tag.field))
            }
        }
        return "delete\(head) \(deleted)" + (previous.isEmpty ? "" : " was \(list(previous))")
    }

    static func range(_ bytes: UnsafeRawBufferPointer) throws -> String {
        var reader = ProtoReader(bytes)
        var head = ""
        var pairs: [String] = []
        var more = false
        var count: Int64 = 0
        while let tag = try reader.next() {
            switch tag.field {
            case 1: head = try header(try reader.slice(tag))
            case 2: pairs.append(line(try KeyValueView(try reader.slice(tag))))
            case 3: more = try reader.bool(tag)
            case 4: count = try reader.int64(tag)
            default: throw DecodeError.illegalTag(UInt64(tag.field))
            }
        }
        return range(head, pairs, more: more, count: count)
    }

    static func range(_ head: String, _ pairs: [String], more: Bool, count: Int64) -> String {
        "get\(head) \(list(pairs))\(more ? " more" : "") of \(count)"
    }

    static func txn(_ bytes: UnsafeRawBufferPointer) throws -> String {
        var reader = ProtoReader(bytes)
        var head = ""
        var succeeded = false
        var parts: [String] = []
        while let tag = try reader.next() {
            switch tag.field {
            case 1: head = try header(try reader.slice(tag))
            case 2: succeeded = try reader.bool(tag)
            case 3: parts.append(try response(try reader.slice(tag)))
            default: throw DecodeError.illegalTag(UInt64(tag.field))
            }
        }
        return txn(head, succeeded, parts)
    }

    static func txn(_ head: String, _ succeeded: Bool, _ parts: [String]) -> String {
        "\(succeeded ? "then" : "else")\(head) {\(parts.joined(separator: "; "))}"
    }

    private static func response(_ bytes: UnsafeRawBufferPointer) throws -> String {
        var reader = ProtoReader(bytes)
        var parts: [String] = []
        while let tag = try reader.next() {
            let slice = try reader.slice(tag)
            switch tag.field {
            case 1: parts.append(try range(slice))
            case 2: parts.append(try put(slice))
            case 3: parts.append(try delete(slice))
            case 4: parts.append(try txn(slice))
            default: throw DecodeError.illegalTag(UInt64(tag.field))
            }
        }
        return parts.joined(separator: "+")
    }

    static func list(_ lines: [String]) -> String { "[\(lines.joined(separator: " "))]" }

    /// Alarms of an AlarmResponse.
    static func alarms(_ body: [UInt8]) throws -> [String] {
        try body.withUnsafeBytes { bytes in
            var reader = ProtoReader(bytes)
            var lines: [String] = []
            while let tag = try reader.next() {
                var inner = ProtoReader(try reader.slice(tag))
                var member: UInt64 = 0
                var type: Int64 = 0
                while let tag = try inner.next() {
                    if tag.field == 1 { member = try inner.uint64(tag) }
                    if tag.field == 2 { type = try inner.int64(tag) }
                }
                lines.append("\(member):\(type)")
            }
            return lines
        }
    }
}
