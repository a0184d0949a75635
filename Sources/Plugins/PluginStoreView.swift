/// A key with its value, as `kv.get` and `kv.range` give it.
package struct PluginKeyValue: Sendable, Equatable {
    package var key: [UInt8]
    package var value: [UInt8]
    package var createRevision: Int64
    package var modRevision: Int64
    package var version: Int64
    package var lease: Int64

    package init(
        key: [UInt8], value: [UInt8], createRevision: Int64, modRevision: Int64, version: Int64, lease: Int64 = 0
    ) {
        self.key = key
        self.value = value
        self.createRevision = createRevision
        self.modRevision = modRevision
        self.version = version
        self.lease = lease
    }
}

/// The local store as plugins may read it. The caller implements it over the MVCC store; each call reads at
/// the newest applied revision. Range ends are etcd's: empty for one key, one zero byte for all from `key` on.
package protocol PluginStoreView: AnyObject {
    var revision: Int64 { get }
    func get(_ key: [UInt8]) -> PluginKeyValue?
    /// At most `limit` keys in order, stopping before `maximumBytes` of keys and values would be passed; true when
    /// there are more.
    func range(
        _ key: [UInt8], _ rangeEnd: [UInt8], limit: Int, maximumBytes: Int, keysOnly: Bool
    ) -> (keys: [PluginKeyValue], more: Bool)
    /// The number of keys, counted up to `limit`.
    func count(_ key: [UInt8], _ rangeEnd: [UInt8], limit: Int) -> Int
    /// Keys and bytes below a prefix from the core's counters; nil when it keeps none for this prefix.
    func stats(_ prefix: [UInt8]) -> (keys: Int64, bytes: Int64)?
}
