// The front of the peer transport, for any thread. What happens behind it is on one event loop
// (PeerHub.swift); the protocol is described in docs/peer-protocol.md.

import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import RaftCore
import Replica
import StateMachine
import Storage

/// Carries messages and snapshots between this member and its peers.
///
/// Every member dials every other and sends its own messages on that connection; on connections it
/// accepted it only reads. The group belongs to the caller, and one of its loops is used.
package final class PeerTransport: Sendable {
    private let hub: PeerHub
    private let queues: PeerQueues
    private let disk: NIOThreadPool
    private let listeners = NIOLockedValueBox<[any Channel]>([])
    private let isClosed = NIOLockedValueBox(false)

    /// Makes `snapshotDirectory` when missing, and removes what broken transfers left there. Whole
    /// snapshots stay: they are the host's (`SnapshotFileName.durable`).
    package init(
        identity: PeerIdentity, configuration: PeerConfiguration, snapshotDirectory: String,
        inbox: any PeerInbox, group: any EventLoopGroup
    ) throws(DiskError) {
        try prepareSnapshotDirectory(snapshotDirectory)
        queues = PeerQueues(configuration)
        disk = NIOThreadPool(numberOfThreads: 1)
        hub = PeerHub(
            loop: group.next(), identity: identity, configuration: configuration, inbox: inbox,
            queues: queues, disk: disk, snapshotDirectory: snapshotDirectory)
        disk.start()
        hub.loop.execute { [hub] in hub.start() }
    }

    /// Listens on each address; port 0 lets the system choose. Waits; not on an event loop.
    ///
    /// - Returns: the ports, in the same order.
    @discardableResult
    package func listen(on addresses: [(host: String, port: Int)]) throws -> [Int] {
        let bootstrap = ServerBootstrap(group: hub.loop)
            .serverChannelOption(.backlog, value: 128)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.writeBufferWaterMark, value: hub.configuration.waterMark)
            .childChannelOption(
                .recvAllocator,
                value: AdaptiveRecvByteBufferAllocator(
                    minimum: 4 << 10, initial: 64 << 10, maximum: 1 << 20)
            )
            .childChannelInitializer { [hub] channel in
                channel.eventLoop.makeCompletedFuture { try hub.accept(channel) }
            }
        return try addresses.map { address in
            let channel = try bootstrap.bind(host: address.host, port: address.port).wait()
            listeners.withLockedValue { $0.append(channel) }
            return channel.localAddress?.port ?? address.port
        }
    }

    /// The membership, with or without this member, and who was removed from it for good. New members
    /// are dialled; those that are gone have a while to hear of it.
    package func setMembers(_ members: [Member], removed: Set<NodeID>) {
        hub.loop.execute { [hub] in hub.setMembers(members, removed: removed) }
    }

    /// Counts from the next handshake on.
    package func setPluginDigest(_ digest: String) {
        hub.loop.execute { [hub] in hub.setPluginDigest(digest) }
    }

    /// Sends messages in their order, or drops them (`PeerConfiguration.maxQueuedMessages`). At once when
    /// called on the event loop, outside of a channel's events; else with one wake-up of it at most. For one
    /// thread at a time.
    package func send(_ messages: [PeerMessage]) {
        guard !messages.isEmpty, queues.push(messages) else { return }
        if hub.loop.inEventLoop {
            hub.flushQueues()
        } else {
            hub.loop.execute { [hub] in hub.flushQueues() }
        }
    }

    /// Streams a data file along with the leader's message. `completion` runs on the event loop, with true
    /// once the receiver has the file durably and has told its replica. The source is released when the
    /// transfer has ended.
    package func sendSnapshot(
        _ message: Message, source: any ByteSource, completion: @escaping @Sendable (Bool) -> Void
    ) {
        let request = OutgoingSnapshot(message: message, source: source, completion: completion)
        hub.loop.execute { [hub] in hub.sendSnapshot(request) }
    }

    /// Lifts the bound on the rate for what is left of a snapshot to this peer.
    package func hurrySnapshot(to peer: NodeID) {
        hub.loop.execute { [hub] in hub.hurrySnapshot(to: peer) }
    }

    /// The counters of each peer, by id.
    package var counters: [PeerCounters] { queues.counters }

    /// Stops listening, cuts every connection, fails transfers, and waits for that; not on an event
    /// loop, and while the group still runs. Later calls do nothing.
    package func close() {
        let isFirst = isClosed.withLockedValue { isClosed in
            defer { isClosed = true }
            return !isClosed
        }
        guard isFirst else { return }
        let open = listeners.withLockedValue { listeners in
            defer { listeners = [] }
            return listeners
        }
        for listener in open { try? listener.close().wait() }
        let ended = hub.loop.makePromise(of: Void.self)
        hub.loop.execute { [hub] in hub.close(ended) }
        // Neither fails: the promise is only ever succeeded, and the pool was started.
        try? ended.futureResult.wait()
        try? disk.syncShutdownGracefully()
    }
}
