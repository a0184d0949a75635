import FoundationEssentials

/// The keys that `get`, `del` and `watch` are about: one key, `[key, end)`, a prefix, or all from a
/// key on.
struct KeySpan: Equatable {
    var key: Data
    var end = Data()

    private static let zero = Data([0])

    /// - Parameter words: the key, and at most one end.
    init(_ words: [[UInt8]], prefix: Bool, fromKey: Bool) throws(CommandError) {
        if prefix && fromKey {
            throw .badArguments(
                "`--prefix` and `--from-key` cannot be set at the same time, choose one")
        }
        key = Data(words.first ?? [])
        if words.count > 1 {
            if prefix || fromKey {
                throw .badArguments(
                    "too many arguments, only accept one argument when `--prefix` or `--from-key` "
                        + "is set")
            }
            end = Data(words[1])
        }
        if prefix { end = Self.prefixEnd(key) }
        if fromKey { end = Self.zero }
        if (prefix || fromKey) && key.isEmpty { key = Self.zero }
    }

    /// The first key after all that begin with `prefix`; one zero byte when there is none.
    static func prefixEnd(_ prefix: Data) -> Data {
        var end = Array(prefix)
        while let last = end.popLast() {
            if last < 0xFF { return Data(end + [last + 1]) }
        }
        return zero
    }
}
