/// Live keys and record bytes, in all and below each declared prefix. Prefixes may overlap.
struct PrefixTotals {
    private struct Total {
        var prefix: [UInt8]
        var keys = 0
        var bytes = 0
    }

    private var totals: [Total]
    private(set) var recordBytes = 0

    init(_ prefixes: [[UInt8]]) {
        totals = prefixes.map { Total(prefix: $0) }
    }

    func total(_ prefix: [UInt8]) -> (keys: Int, bytes: Int)? {
        totals.first { $0.prefix == prefix }.map { ($0.keys, $0.bytes) }
    }

    /// A key appeared (`keys` 1), changed (0) or went (-1), and its record grew by `bytes`.
    @inline(__always)
    mutating func change(_ key: UnsafeRawBufferPointer, keys: Int, bytes: Int) {
        recordBytes &+= bytes
        if totals.isEmpty { return }
        for position in totals.indices where key.starts(with: totals[position].prefix) {
            totals[position].keys &+= keys
            totals[position].bytes &+= bytes
        }
    }
}
