// Between the node and the transport to its peers: each sees the other through this.

import API
import Configuration
import Logging
import NIOCore
import NIOPosix
import Node
import Peering
import Plugins
import RaftCore
import Replica
import StateMachine
import Storage
import Synchronization

/// The transport as the node sees it, and the node as the transport sees it.
final class PeerWiring: PeerLinks, PeerInbox {
    private let node: Node
    private let logger: Logger
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let turns: LoopTurns
    private let transport = Mutex<PeerTransport?>(nil)
    /// All members, for those who ask before they join.
    private let members = Mutex<[Member]>([])
    private let removedHere: @Sendable (String) -> Void

    /// - Parameter removed: called when a peer says that this member was removed from the cluster.
    init(
        node: Node, settings: NodeConfiguration, plugins: PluginSet, logger: Logger,
        removed: @escaping @Sendable (String) -> Void
    ) throws {
        self.node = node
        self.logger = logger
        turns = LoopTurns(group.next(), node: node)
        removedHere = removed
        var identity = Self.identity(settings, plugins: plugins)
        identity.clusterID = node.clusterID
        identity.memberID = node.memberID
        let transport = try PeerTransport(
            identity: identity, configuration: PeerConfiguration(settings),
            snapshotDirectory: node.snapshotDirectory, inbox: self, group: group)
        self.transport.withLock { $0 = transport }
        try transport.listen(
            on: settings.peers.listen.map { (host: $0.bindHost, port: $0.port) })
    }

    static func identity(_ settings: NodeConfiguration, plugins: PluginSet) -> PeerIdentity {
        PeerIdentity(
            clusterID: 0, memberID: 0, name: settings.member.name,
            peerURLs: settings.peers.advertise.map(\.description),
            productVersion: ProductVersion.moonraft, lowestVersion: ProductVersion.lowestPeer,
            clusterToken: settings.cluster.initialToken, pluginDigest: digest(of: plugins))
    }

    /// Which plugins run here, each with the beginning of its package's digest.
    static func digest(of plugins: PluginSet) -> String {
        plugins.plugins
            .map { "\($0.id)=\($0.package.digest.dropFirst("sha256:".count).prefix(16))" }
            .sorted().joined(separator: ",")
    }

    func setPlugins(_ plugins: PluginSet) { current?.setPluginDigest(Self.digest(of: plugins)) }

    var counters: [PeerCounters] { current?.counters ?? [] }

    private var current: PeerTransport? { transport.withLock { $0 } }

    // MARK: PeerLinks

    func send(_ messages: [PeerMessage]) { current?.send(messages) }

    func setMembers(_ members: [Member], removed: [NodeID]) {
        self.members.withLock { $0 = members }
        current?.setMembers(members, removed: Set(removed))
    }

    func sendSnapshot(
        _ message: Message, source: any ByteSource, completion: @escaping @Sendable (Bool) -> Void
    ) {
        guard let transport = current else { return completion(false) }
        transport.sendSnapshot(message, source: source, completion: completion)
    }

    func hurrySnapshot(to peer: NodeID) { current?.hurrySnapshot(to: peer) }

    func close() {
        let last = transport.withLock { transport in
            defer { transport = nil }
            return transport
        }
        last?.close()
        try? group.syncShutdownGracefully()
    }

    // MARK: PeerInbox

    func received(_ messages: [PeerMessage], from: NodeID) { node.received(messages, turns) }

    // The transport notes connections by itself.
    func peerReachable(_ id: NodeID) { node.peerReachable(id) }

    func peerUnreachable(_ id: NodeID) { node.peerUnreachable(id) }

    func snapshotArrived(_ message: Message, file: String, from: NodeID) {
        node.snapshotArrived(message, file: file)
    }

    func removedFromCluster(_ text: String) { removedHere(text) }

    func note(_ level: PeerNoteLevel, _ text: String) {
        switch level {
        case .info: logger.info("peers: \(text)")
        case .warning: logger.warning("peers: \(text)")
        case .error: logger.error("peers: \(text)")
        }
    }

    func lookup() -> ClusterDescription {
        ClusterDescription(
            clusterID: node.clusterID, members: members.withLock { $0 },
            version: ProductVersion.moonraft)
    }
}

extension NodeOptions {
    /// How a member that joins asks the others of its initial cluster.
    mutating func askOthers(_ settings: NodeConfiguration, plugins: PluginSet) {
        let identity = PeerWiring.identity(settings, plugins: plugins)
        let configuration = PeerConfiguration(settings)
        let urls = initialMembers.filter { $0.name != name }.flatMap(\.peerURLs)
        lookup = {
            let found = try lookupCluster(
                at: urls, identity: identity, configuration: configuration)
            return (found.clusterID, found.members)
        }
    }
}

extension PeerConfiguration {
    init(_ settings: NodeConfiguration) {
        self.init()
        let peers = settings.peers
        pluginPolicy = peers.pluginMismatch == .refuse ? .refuse : .warn
        connectTimeout = TimeAmount(peers.dialTimeout)
        maxQueuedMessages = peers.queueMessages
        maxQueuedBytes = peers.queueBytes
        snapshotIdleTimeout = TimeAmount(peers.snapshotTimeout)
        snapshotBytesPerSecond = peers.snapshotRate
        maxSnapshotBytes = UInt64(settings.storage.mapBytes)
        // An append holds entries up to 1 MiB in all, or one larger entry; a forwarded batch likewise.
        maxFrameBytes = max(maxFrameBytes, settings.limits.maximumRequestBytes * 2 + (8 << 20))
    }
}
