// The local store as plugins may read it.

import KVCodec
import MVCC
import Node
import Plugins

/// Reads for the plugins of one thread.
final class PolicyStoreView: PluginStoreView {
    private let store: MVCCStore
    private let reader: any RecordReader

    init(store: MVCCStore, reader: any RecordReader) {
        self.store = store
        self.reader = reader
    }

    var revision: Int64 { store.currentRevision }

    func get(_ key: [UInt8]) -> PluginKeyValue? {
        range(key, [], limit: 1, maximumBytes: .max, keysOnly: false).keys.first
    }

    func range(
        _ key: [UInt8], _ rangeEnd: [UInt8], limit: Int, maximumBytes: Int, keysOnly: Bool
    ) -> (keys: [PluginKeyValue], more: Bool) {
        var writer = ByteWriter(capacity: 1024)
        guard
            let result = read(
                key, rangeEnd, into: &writer,
                { query in
                    query.limit = Int64(limit)
                    query.keysOnly = keysOnly
                })
        else { return ([], false) }
        var keys: [PluginKeyValue] = []
        var bytes = 0
        var more = result.more
        writer.bytes.withUnsafeBytes { raw in
            var fields = ProtoReader(raw)
            while let tag = try? fields.next(), let record = try? fields.slice(tag),
                let view = try? KeyValueView(record)
            {
                bytes += view.key.count + view.value.count
                if bytes > maximumBytes {
                    more = true
                    return
                }
                keys.append(
                    PluginKeyValue(
                        key: view.key.array, value: view.value.array,
                        createRevision: view.createRevision, modRevision: view.modRevision,
                        version: view.version, lease: view.lease))
            }
        }
        return (keys, more)
    }

    func count(_ key: [UInt8], _ rangeEnd: [UInt8], limit: Int) -> Int {
        var unused = ByteWriter(reusing: [])
        let result = read(key, rangeEnd, into: &unused) { $0.countOnly = true }
        return min(limit, Int(clamping: result?.count ?? 0))
    }

    func stats(_ prefix: [UInt8]) -> (keys: Int64, bytes: Int64)? {
        store.statistics(prefix: prefix).map { (Int64($0.keys), Int64($0.bytes)) }
    }

    private func read(
        _ key: [UInt8], _ rangeEnd: [UInt8], into writer: inout ByteWriter,
        _ adjust: (inout RangeQuery) -> Void
    ) -> RangeResult? {
        key.withUnsafeBytes { key in
            rangeEnd.withUnsafeBytes { rangeEnd in
                var query = RangeQuery(key: key, rangeEnd: rangeEnd)
                adjust(&query)
                return try? store.range(query, reader: reader, into: &writer)
            }
        }
    }
}
