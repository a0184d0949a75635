// Everything of the transport that lives on its event loop: links, accepted connections, snapshots under
// way, the membership as the host gave it, and the clock that ends what takes too long.

import NIOCore
import NIOPosix
import RaftCore
import StateMachine

/// Confined to `loop`; Sendable only so that closures which hop to that loop can name it.
final class PeerHub: @unchecked Sendable {
    let loop: any EventLoop
    let configuration: PeerConfiguration
    let inbox: any PeerInbox
    let queues: PeerQueues
    /// One thread for snapshot files. Its jobs run in their order.
    let disk: NIOThreadPool
    let snapshotDirectory: String
    private(set) var identity: PeerIdentity

    private(set) var directory = PeerDirectory()
    private var links: [NodeID: PeerLink] = [:]
    private var accepted: [ObjectIdentifier: AcceptedConnection] = [:]
    /// The connection that each peer sends its messages on.
    private var senders: [NodeID: AcceptedConnection] = [:]
    private var outgoingSnapshots: [ObjectIdentifier: SnapshotSender] = [:]
    /// Who sends a snapshot here at present.
    private var incomingSnapshot: AcceptedConnection?
    private var sweeper: RepeatedTask?
    private var wasToldOfRemoval = false
    private(set) var isClosed = false

    private var strangerWindowStart = NIODeadline.now()
    private var strangerNotes = 0

    /// How often times are looked at.
    private static let sweepInterval = TimeAmount.milliseconds(100)

    init(
        loop: any EventLoop, identity: PeerIdentity, configuration: PeerConfiguration,
        inbox: any PeerInbox, queues: PeerQueues, disk: NIOThreadPool, snapshotDirectory: String
    ) {
        self.loop = loop
        self.identity = identity
        self.configuration = configuration
        self.inbox = inbox
        self.queues = queues
        self.disk = disk
        self.snapshotDirectory = snapshotDirectory
    }

    func start() {
        let interval = Self.sweepInterval
        sweeper = loop.scheduleRepeatedTask(initialDelay: interval, delay: interval) { [weak self] _ in
            self?.sweep()
        }
    }

    // MARK: Membership

    func setMembers(_ members: [Member], removed: Set<NodeID>) {
        guard !isClosed else { return }
        let now = NIODeadline.now()
        let others = members.filter { $0.id != identity.memberID && !removed.contains($0.id) }
        directory = PeerDirectory(members: Set(others.map(\.id)), removed: removed)
        for member in others {
            if let link = links[member.id] {
                link.update(member)
            } else {
                let link = PeerLink(member, hub: self)
                links[member.id] = link
                inbox.peerUnreachable(member.id)
                link.start()
            }
        }
        for (id, link) in links where !directory.members.contains(id) { link.retire(at: now) }
        for connection in accepted.values { connection.membershipChanged(directory, at: now) }
    }

    func setPluginDigest(_ digest: String) { identity.pluginDigest = digest }

    /// A member of our cluster says that we are out.
    func wasRemoved(_ text: String) {
        guard !wasToldOfRemoval else { return }
        wasToldOfRemoval = true
        inbox.removedFromCluster(text)
    }

    func counters(_ id: NodeID) -> PeerCounters? { links[id]?.counters }

    // MARK: Dialling

    func retryDelay(failures: Int) -> TimeAmount {
        let least = max(1, configuration.retryMinimum.nanoseconds)
        let most = max(least, configuration.retryMaximum.nanoseconds)
        let factor = Int64(1) << Int64(min(failures, 20))
        let (product, overflow) = least.multipliedReportingOverflow(by: factor)
        return .nanoseconds(overflow ? most : min(product, most))
    }

    func dial(_ url: String) -> EventLoopFuture<PeerConnection>.Isolated {
        dialPeer(url, loop: loop, configuration: configuration).assumeIsolated()
    }

    /// The dialler's first frame.
    func greet(_ connection: PeerConnection, _ purpose: PeerPurpose, target: NodeID) {
        let hello = Greeting(purpose: purpose, sender: identity, targetID: target)
        connection.send(.hello, hello.encoded())
    }

    /// Checks what the dialled member answered.
    func admit(
        welcome payload: UnsafeRawBufferPointer, from target: NodeID
    ) throws(Refusal) -> Admitted {
        let welcome: Greeting
        do throws(GreetingError) {
            welcome = try Greeting(decoding: payload, isRefusal: false)
        } catch {
            throw Refusal(code: .malformed, text: error.text)
        }
        return try Admission.dialler(
            welcome, target: target, own: identity, policy: configuration.pluginPolicy)
    }

    // MARK: Accepting

    func accept(_ channel: any Channel) throws {
        let pending = accepted.values.count { $0.isPending }
        guard !isClosed, pending < configuration.maxPendingHandshakes else {
            throw TooManyHandshakes()
        }
        let handler = AcceptedConnection(hub: self)
        let pipeline = channel.pipeline.syncOperations
        if let handlers = configuration.transportHandlers {
            try pipeline.addHandlers(handlers(channel, .accepting))
        }
        let connection = PeerConnection(
            owner: handler, maxFrameBytes: configuration.maxHandshakeBytes)
        handler.connection = connection
        accepted[ObjectIdentifier(handler)] = handler
        try pipeline.addHandler(connection)
    }

    private struct TooManyHandshakes: Error {}

    /// A peer's connection for messages replaces its last one, which it has given up.
    func messagesBegin(from id: NodeID, on connection: AcceptedConnection) {
        senders.updateValue(connection, forKey: id)?.connection?.close("replaced by a newer connection")
    }

    /// Takes the place for an incoming snapshot, if it is free.
    func snapshotBegins(on connection: AcceptedConnection) -> Bool {
        guard incomingSnapshot == nil else { return false }
        incomingSnapshot = connection
        return true
    }

    /// The transfer has ended and its file is renamed or removed.
    func snapshotEnded(on connection: AcceptedConnection) {
        if incomingSnapshot === connection { incomingSnapshot = nil }
    }

    func ended(_ connection: AcceptedConnection) {
        accepted[ObjectIdentifier(connection)] = nil
        if let id = connection.peerID, senders[id] === connection { senders[id] = nil }
    }

    // MARK: Sending

    /// Hands what the replica queued to the sockets.
    func flushQueues() {
        queues.beginTaking()
        for link in links.values { link.flush() }
    }

    func sendSnapshot(_ request: OutgoingSnapshot) {
        let id = request.message.to
        func refuse(_ reason: String) {
            note(.warning, "no snapshot is sent to member \(hex(id)): \(reason)")
            request.completion(false)
        }
        guard !isClosed else { return refuse("the transport is closing") }
        guard let link = links[id] else { return refuse("unknown member") }
        guard outgoingSnapshots.count < configuration.maxOutgoingSnapshots else {
            return refuse("\(outgoingSnapshots.count) others are under way")
        }
        let sender = SnapshotSender(request, urls: link.urls, counters: link.counters, hub: self)
        outgoingSnapshots[ObjectIdentifier(sender)] = sender
        sender.start()
    }

    func hurrySnapshot(to peer: NodeID) {
        for sender in outgoingSnapshots.values where sender.message.to == peer { sender.hurry() }
    }

    func ended(_ sender: SnapshotSender) { outgoingSnapshots[ObjectIdentifier(sender)] = nil }

    // MARK: Notes

    func note(_ level: PeerNoteLevel, _ text: String) { inbox.note(level, text) }

    /// A line that strangers can cause at will, so their number is bounded.
    func strangerNote(_ text: String) {
        let now = NIODeadline.now()
        var suffix = ""
        if strangerWindowStart + .minutes(1) <= now {
            let hidden = strangerNotes - configuration.maxStrangerNotesPerMinute
            if hidden > 0 { suffix = " (and \(hidden) such lines before)" }
            strangerWindowStart = now
            strangerNotes = 0
        }
        strangerNotes += 1
        guard strangerNotes <= configuration.maxStrangerNotesPerMinute else { return }
        note(.warning, text + suffix)
    }

    // MARK: Time and end

    private func sweep() {
        let now = NIODeadline.now()
        for link in links.values {
            link.sweep(now: now)
            if let since = link.retiredAt, since + configuration.removalGrace <= now {
                links[link.id] = nil
                link.stop("no longer a member")
                queues.remove(link.id)
            }
        }
        for connection in accepted.values { connection.sweep(now: now) }
        for sender in outgoingSnapshots.values { sender.sweep(now: now) }
    }

    /// Cuts everything; `ended` succeeds once every connection is gone.
    func close(_ ended: EventLoopPromise<Void>) {
        isClosed = true
        sweeper?.cancel()
        sweeper = nil
        for link in links.values {
            link.stop("closing")
            queues.remove(link.id)
        }
        links = [:]
        for connection in accepted.values { connection.connection?.close("closing") }
        for sender in outgoingSnapshots.values { sender.fail("closing") }
        waitUntilIdle(ended)
    }

    private func waitUntilIdle(_ ended: EventLoopPromise<Void>) {
        if accepted.isEmpty && outgoingSnapshots.isEmpty { return ended.succeed() }
        loop.scheduleTask(in: .milliseconds(1)) { [self] in waitUntilIdle(ended) }
    }
}

/// Dials one URL; the future is `loop`'s and succeeds once connected, with a connection that waits for
/// its owner.
func dialPeer(
    _ url: String, loop: any EventLoop, configuration: PeerConfiguration
) -> EventLoopFuture<PeerConnection> {
    guard let endpoint = PeerEndpoint(url: url) else {
        return loop.makeFailedFuture(InvalidPeerURL(url: url))
    }
    return ClientBootstrap(group: loop)
        .connectTimeout(configuration.connectTimeout)
        .channelOption(.tcpOption(.tcp_nodelay), value: 1)
        .channelOption(.writeBufferWaterMark, value: configuration.waterMark)
        .channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                let pipeline = channel.pipeline.syncOperations
                if let handlers = configuration.transportHandlers {
                    try pipeline.addHandlers(handlers(channel, .dialling(host: endpoint.host)))
                }
                try pipeline.addHandler(
                    PeerConnection(owner: nil, maxFrameBytes: configuration.maxHandshakeBytes))
            }
        }
        .connect(host: endpoint.host, port: endpoint.port)
        .flatMapThrowing { channel in
            try channel.pipeline.syncOperations.handler(type: PeerConnection.self)
        }
}

/// A member's URL that names no place to dial.
struct InvalidPeerURL: Error, CustomStringConvertible {
    let url: String
    var description: String { "\"\(url)\" is not of the form http://HOST:PORT" }
}

extension PeerConfiguration {
    var waterMark: ChannelOptions.Types.WriteBufferWaterMark {
        .init(low: max(1, writeHighWaterBytes / 4), high: max(2, writeHighWaterBytes))
    }
}
