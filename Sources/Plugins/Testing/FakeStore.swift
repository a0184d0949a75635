/// A small store in memory that tests of plugins read through `kv`.
package final class FakeStore: PluginStoreView {
    package private(set) var revision: Int64 = 1
    private var keys: [PluginKeyValue] = []

    package init() {}

    private func index(_ key: [UInt8]) -> Int {
        keys.firstIndex { !$0.key.lexicographicallyPrecedes(key) } ?? keys.count
    }

    package func put(_ key: [UInt8], _ value: [UInt8], lease: Int64 = 0) {
        revision += 1
        let i = index(key)
        if i < keys.count && keys[i].key == key {
            keys[i].value = value
            keys[i].modRevision = revision
            keys[i].version += 1
            keys[i].lease = lease
        } else {
            keys.insert(
                PluginKeyValue(
                    key: key, value: value, createRevision: revision, modRevision: revision, version: 1, lease: lease),
                at: i)
        }
    }

    package func delete(_ key: [UInt8]) {
        let i = index(key)
        guard i < keys.count, keys[i].key == key else { return }
        revision += 1
        keys.remove(at: i)
    }

    private func slice(_ key: [UInt8], _ rangeEnd: [UInt8]) -> ArraySlice<PluginKeyValue> {
        let start = index(key)
        if rangeEnd.isEmpty { return start < keys.count && keys[start].key == key ? keys[start...start] : [] }
        let end = rangeEnd == [0] ? keys.count : index(rangeEnd)
        return start < end ? keys[start..<end] : []
    }

    package func get(_ key: [UInt8]) -> PluginKeyValue? { slice(key, []).first }

    package func range(
        _ key: [UInt8], _ rangeEnd: [UInt8], limit: Int, maximumBytes: Int, keysOnly: Bool
    ) -> (keys: [PluginKeyValue], more: Bool) {
        var found: [PluginKeyValue] = []
        var bytes = 0
        for kv in slice(key, rangeEnd) {
            bytes += kv.key.count + (keysOnly ? 0 : kv.value.count)
            if found.count == limit || bytes > maximumBytes { return (found, true) }
            found.append(kv)
        }
        return (found, false)
    }

    package func count(_ key: [UInt8], _ rangeEnd: [UInt8], limit: Int) -> Int {
        min(limit, slice(key, rangeEnd).count)
    }

    package func stats(_ prefix: [UInt8]) -> (keys: Int64, bytes: Int64)? {
        let found = keys.filter { $0.key.starts(with: prefix) }
        return (Int64(found.count), Int64(found.reduce(0) { $0 + $1.key.count + $1.value.count }))
    }
}
