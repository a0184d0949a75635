// The arguments of a host function, checked as they are asked for.

import CLua

/// Why a host function refuses; becomes a Lua error with the script's position in front.
struct HostError: Error {
    let message: String
    init(_ message: String) { self.message = message }
}

/// The arguments of a host function. The bytes behind them are the VM's and valid during the call only.
struct HostArguments {
    let base: UnsafePointer<moonraft_value>?
    let count: Int

    private func value(_ index: Int) -> moonraft_value? {
        guard index < count, let base else { return nil }
        return base[index]
    }

    func isNil(_ index: Int) -> Bool {
        guard let value = value(index) else { return true }
        return value.type == MOONRAFT_NIL.int32
    }

    /// A string's bytes.
    func bytes(_ index: Int, _ name: String) throws(HostError) -> UnsafeRawBufferPointer {
        guard let value = value(index), value.type == MOONRAFT_STRING.int32 else { throw wrong(name, "a string") }
        return UnsafeRawBufferPointer(start: value.bytes, count: value.count)
    }

    func array(_ index: Int, _ name: String) throws(HostError) -> [UInt8] { Array(try bytes(index, name)) }

    func string(_ index: Int, _ name: String) throws(HostError) -> String {
        String(decoding: try bytes(index, name), as: UTF8.self)
    }

    func integer(_ index: Int, _ name: String) throws(HostError) -> Int64 {
        guard let value = value(index) else { throw wrong(name, "an integer") }
        if value.type == MOONRAFT_INTEGER.int32 { return value.integer }
        guard value.type == MOONRAFT_NUMBER.int32, let whole = Int64(exactly: value.number) else {
            throw wrong(name, "an integer")
        }
        return whole
    }

    func number(_ index: Int, _ name: String) throws(HostError) -> Double {
        guard let value = value(index), value.type == MOONRAFT_INTEGER.int32 || value.type == MOONRAFT_NUMBER.int32
        else { throw wrong(name, "a number") }
        return value.number
    }

    /// A string, number or boolean as text.
    func label(_ index: Int, _ name: String) throws(HostError) -> String {
        let value = self.any(index)
        switch value {
        case .string, .integer, .number, .boolean: return value.described
        default: throw wrong(name, "a string")
        }
    }

    /// The number of a handle of this kind.
    func handle(_ index: Int, _ kind: Int, _ name: String) throws(HostError) -> Int {
        guard let value = value(index), value.type == MOONRAFT_HANDLE.int32, value.handle_kind == kind.int32 else {
            throw wrong(name, "of its kind; call methods with a colon")
        }
        return Int(value.integer)
    }

    /// The encoded form of a table; empty for other values.
    func encoded(_ index: Int) -> UnsafeRawBufferPointer {
        guard let value = value(index), value.type == MOONRAFT_MAP.int32 || value.type == MOONRAFT_ARRAY.int32 else {
            return UnsafeRawBufferPointer(start: nil, count: 0)
        }
        return UnsafeRawBufferPointer(start: value.bytes, count: value.count)
    }

    func isHandle(_ index: Int, _ kind: Int) -> Bool {
        guard let value = value(index) else { return false }
        return value.type == MOONRAFT_HANDLE.int32 && value.handle_kind == kind.int32
    }

    func isString(_ index: Int) -> Bool { value(index)?.type == MOONRAFT_STRING.int32 }

    /// Any value; tables are decoded.
    func any(_ index: Int) -> LuaValue {
        guard let value = value(index) else { return .null }
        switch value.type {
        case MOONRAFT_FALSE.int32: return .boolean(false)
        case MOONRAFT_TRUE.int32: return .boolean(true)
        case MOONRAFT_INTEGER.int32: return .integer(value.integer)
        case MOONRAFT_NUMBER.int32: return .number(value.number)
        case MOONRAFT_STRING.int32: return .string(Array(UnsafeBufferPointer(start: value.bytes, count: value.count)))
        case MOONRAFT_MAP.int32, MOONRAFT_ARRAY.int32:
            return LuaDecoder.decode(UnsafeRawBufferPointer(start: value.bytes, count: value.count))
        case MOONRAFT_HANDLE.int32:
            return .handle(kind: value.handle_kind, number: Int32(truncatingIfNeeded: value.integer))
        case MOONRAFT_NULL.int32: return .jsonNull
        default: return .null
        }
    }

    private func wrong(_ name: String, _ expected: String) -> HostError { HostError("\(name) must be \(expected)") }
}
