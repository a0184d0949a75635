import CLua

/// A value that crosses the border to Lua, in the encoding of CLua (see wire.c).
package indirect enum LuaValue: Sendable, Equatable {
    case null
    case jsonNull
    case boolean(Bool)
    case integer(Int64)
    case number(Double)
    case string([UInt8])
    case array([LuaValue])
    /// Pairs in the order in which Lua gave them, or in which they shall be set.
    case map([Pair])
    case handle(kind: Int32, number: Int32)

    package struct Pair: Sendable, Equatable {
        package let key: LuaValue
        package let value: LuaValue
        package init(_ key: String, _ value: LuaValue) {
            self.key = .string(Array(key.utf8))
            self.value = value
        }
        init(key: LuaValue, value: LuaValue) {
            self.key = key
            self.value = value
        }
    }

    package static func text(_ string: String) -> LuaValue { .string(Array(string.utf8)) }
    package static func table(_ pairs: [(String, LuaValue)]) -> LuaValue { .map(pairs.map { Pair($0.0, $0.1) }) }

    /// The field of a map; nil for other values and absent fields.
    package subscript(_ name: String) -> LuaValue? {
        guard case .map(let pairs) = self else { return nil }
        return pairs.first { if case .string(let key) = $0.key { key.elementsEqual(name.utf8) } else { false } }?.value
    }

    package var bytes: [UInt8]? {
        if case .string(let bytes) = self { return bytes }
        return nil
    }

    package var string: String? {
        if case .string(let bytes) = self { return String(decoding: bytes, as: UTF8.self) }
        return nil
    }

    /// An integer, or a number that is whole.
    package var integer: Int64? {
        switch self {
        case .integer(let value): value
        case .number(let value): Int64(exactly: value)
        default: nil
        }
    }

    package var number: Double? {
        switch self {
        case .integer(let value): Double(value)
        case .number(let value): value
        default: nil
        }
    }

    package var boolean: Bool? {
        if case .boolean(let value) = self { return value }
        return nil
    }

    /// The items of an array; an empty map counts as an empty array, since Lua cannot tell them apart.
    package var items: [LuaValue]? {
        switch self {
        case .array(let items): items
        case .map(let pairs) where pairs.isEmpty: []
        default: nil
        }
    }

    package var pairs: [Pair]? {
        switch self {
        case .map(let pairs): pairs
        case .array(let items) where items.isEmpty: []
        default: nil
        }
    }

    /// A short text for log fields.
    var described: String {
        switch self {
        case .null, .jsonNull: "nil"
        case .boolean(let value): value ? "true" : "false"
        case .integer(let value): "\(value)"
        case .number(let value): "\(value)"
        case .string(let bytes): String(decoding: bytes, as: UTF8.self)
        case .array, .map: "<table>"
        case .handle(let kind, _): kind == MOONRAFT_HANDLE_SECRET.int32 ? "<secret>" : "<object>"
        }
    }
}

/// Writes the encoding.
struct LuaEncoder {
    private(set) var bytes: [UInt8] = []

    static func encode(_ value: LuaValue) -> [UInt8] {
        var encoder = LuaEncoder()
        encoder.add(value)
        return encoder.bytes
    }

    mutating func add(_ value: LuaValue) {
        switch value {
        case .null: tag(MOONRAFT_NIL.int32)
        case .jsonNull: tag(MOONRAFT_NULL.int32)
        case .boolean(let value): tag(value ? MOONRAFT_TRUE.int32 : MOONRAFT_FALSE.int32)
        case .integer(let value):
            tag(MOONRAFT_INTEGER.int32)
            raw(value)
        case .number(let value):
            tag(MOONRAFT_NUMBER.int32)
            raw(value)
        case .string(let value):
            tag(MOONRAFT_STRING.int32)
            raw(UInt32(truncatingIfNeeded: value.count))
            bytes.append(contentsOf: value)
        case .array(let items):
            tag(MOONRAFT_ARRAY.int32)
            for item in items { add(item) }
            tag(MOONRAFT_END.int32)
        case .map(let pairs):
            tag(MOONRAFT_MAP.int32)
            for pair in pairs {
                add(pair.key)
                add(pair.value)
            }
            tag(MOONRAFT_END.int32)
        case .handle(let kind, let number):
            tag(MOONRAFT_HANDLE.int32)
            bytes.append(UInt8(truncatingIfNeeded: kind))
            raw(number)
        }
    }

    private mutating func tag(_ tag: Int32) { bytes.append(UInt8(truncatingIfNeeded: tag)) }

    private mutating func raw<T>(_ value: T) {
        withUnsafeBytes(of: value) { bytes.append(contentsOf: $0) }
    }
}

/// Reads the encoding. A malformed stream reads as nil from there on; only this module and CLua write it.
struct LuaDecoder {
    private var rest: UnsafeRawBufferPointer
    private var depth = 0

    static func decode(_ bytes: UnsafeRawBufferPointer) -> LuaValue {
        var decoder = LuaDecoder(rest: bytes)
        return decoder.next()
    }

    private init(rest: UnsafeRawBufferPointer) { self.rest = rest }

    private mutating func take<T>(_ type: T.Type) -> T? {
        guard rest.count >= MemoryLayout<T>.size else { return nil }
        let value = rest.loadUnaligned(as: T.self)
        rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(MemoryLayout<T>.size))
        return value
    }

    private var atEnd: Bool { rest.first.map { Int32($0) == MOONRAFT_END.int32 } ?? true }

    private mutating func next() -> LuaValue {
        guard depth <= 40, let tag = take(UInt8.self) else { return .null }
        depth += 1
        defer { depth -= 1 }
        switch Int32(tag) {
        case MOONRAFT_NULL.int32: return .jsonNull
        case MOONRAFT_FALSE.int32: return .boolean(false)
        case MOONRAFT_TRUE.int32: return .boolean(true)
        case MOONRAFT_INTEGER.int32: return take(Int64.self).map { .integer($0) } ?? .null
        case MOONRAFT_NUMBER.int32: return take(Double.self).map { .number($0) } ?? .null
        case MOONRAFT_STRING.int32:
            guard let count = take(UInt32.self), rest.count >= Int(count) else { return .null }
            let bytes = Array(rest.prefix(Int(count)))
            rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(Int(count)))
            return .string(bytes)
        case MOONRAFT_HANDLE.int32:
            guard let kind = take(UInt8.self), let number = take(Int32.self) else { return .null }
            return .handle(kind: Int32(kind), number: number)
        case MOONRAFT_ARRAY.int32:
            var items: [LuaValue] = []
            while !atEnd { items.append(next()) }
            _ = take(UInt8.self)
            return .array(items)
        case MOONRAFT_MAP.int32:
            var pairs: [LuaValue.Pair] = []
            while !atEnd {
                let key = next()
                pairs.append(LuaValue.Pair(key: key, value: next()))
            }
            _ = take(UInt8.self)
            return .map(pairs)
        default: return .null
        }
    }
}

extension Int {
    /// C's unnamed enums arrive as Int; the VM's interface takes Int32. All of them are small.
    var int32: Int32 { Int32(truncatingIfNeeded: self) }
}
