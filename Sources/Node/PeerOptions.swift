/// How a node talks with the other members.
package struct PeerOptions: Sendable {
    /// Where to accept members (`peers.listen`).
    package var listen: [(host: String, port: Int)] = []
    /// What others are told to connect to (`peers.advertise`).
    package var advertise: [String] = []
    /// Whether a member with other plugins is refused, or only warned about.
    package var refusesOtherPlugins = true
    package var dialTimeoutMilliseconds: UInt64 = 3_000
    /// Messages waiting for one member; at either bound the newest are dropped.
    package var queueMessages = 4096
    package var queueBytes = 64 << 20
    /// Without progress for so long a snapshot's transfer is broken off.
    package var snapshotTimeoutMilliseconds: UInt64 = 30_000

    package init() {}
}
