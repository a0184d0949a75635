// The connection that this member dials to one peer, for its own messages.

import NIOCore
import RaftCore
import StateMachine

/// Keeps a connection to one peer open: dials its URLs in turn, greets, sends, measures, dials again.
/// Confined to the event loop.
final class PeerLink: PeerConnectionOwner, @unchecked Sendable {
    private enum State {
        /// Until the next attempt.
        case waiting(Scheduled<Void>?)
        case dialling
        case greeting(PeerConnection, since: NIODeadline)
        case open(PeerConnection)
        /// For good: retired, removed, or the transport is closing.
        case stopped
    }

    let id: NodeID
    let counters: PeerCounters
    private let hub: PeerHub
    private(set) var urls: [String]
    private var state = State.waiting(nil)
    /// Which URL the next attempt takes, and how many attempts have failed in a row.
    private var attempts = 0
    private var failures = 0
    private var openedAt = NIODeadline.now()
    /// What was logged last, so that each trouble is logged once.
    private var loggedTrouble: String?
    private var toldUnreachable = false
    /// Since when the peer belongs to no membership.
    private(set) var retiredAt: NIODeadline?

    /// Taken from the queue and not encoded yet, from `nextToSend` on.
    private var sending: [PeerQueues.Queued] = []
    private var nextToSend = 0
    /// The failures counted when the connection opened; more of them mean that it is too slow.
    private var failuresAtOpen: UInt64 = 0
    private var toldOfDrops = false
    private var pingSentAt: NIODeadline?
    private var nextPingAt = NIODeadline.now()

    init(_ member: Member, hub: PeerHub) {
        id = member.id
        urls = member.peerURLs
        self.hub = hub
        counters = PeerCounters(id: member.id)
        hub.queues.add(counters)
    }

    // MARK: Membership

    /// New addresses count from the next attempt on.
    func update(_ member: Member) {
        urls = member.peerURLs
        retiredAt = nil
    }

    func retire(at now: NIODeadline) {
        if retiredAt == nil { retiredAt = now }
    }

    /// Ends it for good.
    func stop(_ reason: String) {
        let old = state
        state = .stopped
        switch old {
        case .waiting(let task): task?.cancel()
        case .greeting(let connection, _): connection.close(reason)
        case .open(let connection):
            lost()
            connection.close(reason)
        case .dialling, .stopped: break
        }
    }

    // MARK: Dialling

    func start() {
        guard case .waiting = state else { return }
        guard !urls.isEmpty else { return failed("member \(hex(id)) has no peer URL") }
        let url = urls[attempts % urls.count]
        attempts &+= 1
        state = .dialling
        hub.dial(url).whenComplete { [self] result in
            guard case .dialling = state else {
                // Stopped meanwhile.
                if case .success(let connection) = result { connection.close("not needed any more") }
                return
            }
            switch result {
            case .success(let connection):
                guard connection.isOpen else {
                    return failed("member \(hex(id)) at \(url) closed the connection at once")
                }
                state = .greeting(connection, since: .now())
                connection.attach(self)
                hub.greet(connection, .messages, target: id)
            case .failure(let error):
                failed("cannot reach member \(hex(id)) at \(url): \(error)")
            }
        }
    }

    private func failed(_ trouble: String) {
        if loggedTrouble != trouble {
            loggedTrouble = trouble
            hub.note(.warning, "\(trouble); trying again")
        }
        if !toldUnreachable {
            toldUnreachable = true
            hub.inbox.peerUnreachable(id)
        }
        let wait = hub.retryDelay(failures: failures)
        failures = min(failures + 1, 32)
        let task = hub.loop.scheduleTask(in: wait) { [self] in start() }
        state = .waiting(task)
    }

    // MARK: Frames

    func received(
        _ kind: FrameKind, _ payload: UnsafeRawBufferPointer, on connection: PeerConnection
    ) {
        switch (kind, state) {
        case (.welcome, .greeting): welcomed(payload, connection)
        case (.refusal, .greeting), (.refusal, .open): refused(payload, connection)
        case (.pong, .open): receivedPong(payload)
        default: connection.close("unexpected frame of kind \(kind)")
        }
    }

    func readCompleted(on connection: PeerConnection) {}

    func becameWritable(_ connection: PeerConnection) { flush() }

    private func welcomed(_ payload: UnsafeRawBufferPointer, _ connection: PeerConnection) {
        do throws(Refusal) {
            let admitted = try hub.admit(welcome: payload, from: id)
            if let warning = admitted.warning { hub.note(.warning, warning) }
        } catch {
            return connection.close(error.text)
        }
        connection.maxFrameBytes = hub.configuration.maxHandshakeBytes
        state = .open(connection)
        openedAt = .now()
        attempts &-= 1
        toldUnreachable = false
        if loggedTrouble != nil {
            loggedTrouble = nil
            hub.note(.info, "connected to member \(hex(id)) at \(connection.remote)")
        }
        pingSentAt = nil
        nextPingAt = .now()
        counters.set(.isActive, 1)
        failuresAtOpen = counters.sentFailures
        toldOfDrops = false
        hub.queues.open(id)
        hub.inbox.peerReachable(id)
        sweep(now: .now())
    }

    private func refused(_ payload: UnsafeRawBufferPointer, _ connection: PeerConnection) {
        guard let answer = try? Greeting(decoding: payload, isRefusal: true),
            let refusal = answer.refusal
        else { return connection.close("malformed refusal") }
        // Only a member that we meant to reach may tell us to stop; a stranger's word is a reason to
        // try again.
        let isOurs = answer.sender.clusterID == hub.identity.clusterID && answer.sender.memberID == id
        if refusal.code == .removed, isOurs, hub.identity.memberID == answer.targetID {
            stop("this member was removed")
            return hub.wasRemoved(printable(refusal.text))
        }
        connection.close("refused by \(answer.sender.description): \(printable(refusal.text))")
    }

    private func receivedPong(_ payload: UnsafeRawBufferPointer) {
        guard let sent = pingSentAt,
            payload.elementsEqual(littleEndianBytes(sent.uptimeNanoseconds))
        else { return }
        pingSentAt = nil
        let nanoseconds = (NIODeadline.now() - sent).nanoseconds
        counters.roundTrip.observe(nanoseconds: UInt64(max(0, nanoseconds)))
    }

    func closed(_ connection: PeerConnection, reason: String) {
        switch state {
        case .greeting:
            failed("member \(hex(id)): \(reason)")
        case .open:
            lost()
            // Two that claim one id throw each other out again and again; that must not go on at
            // full speed.
            if openedAt + hub.configuration.retryMaximum <= .now() { failures = 0 }
            failed("lost the connection to member \(hex(id)): \(reason)")
        case .waiting, .dialling, .stopped: break
        }
    }

    /// What waits is dropped: it may be stale by the time the peer is back, and whoever sent it
    /// learns that it is gone.
    private func lost() {
        hub.queues.close(id)
        sending = []
        nextToSend = 0
        counters.set(.isActive, 0)
        counters.add(.disconnects)
        toldUnreachable = true
        hub.inbox.peerUnreachable(id)
    }

    // MARK: Sending

    /// Encodes what waits, as long as the socket takes it.
    func flush() {
        guard case .open(let connection) = state, connection.isWritable else { return }
        let arrived = hub.queues.take(id)
        if nextToSend == sending.count {
            sending = arrived
            nextToSend = 0
        } else {
            sending.append(contentsOf: arrived)
        }
        let chunkBytes = hub.configuration.writeChunkBytes
        var encodedBytes = 0
        let first = nextToSend
        while nextToSend < sending.count, connection.isWritable {
            var chunk = connection.newBuffer(capacity: chunkCapacity(chunkBytes))
            while nextToSend < sending.count, chunk.readableBytes < chunkBytes {
                let queued = sending[nextToSend]
                nextToSend += 1
                encodedBytes += queued.size
                chunk.writeFrame(.message, sizeBound: queued.size) { queued.message.encode(into: $0) }
            }
            counters.add(.sentBytes, chunk.readableBytes)
            connection.write(chunk)
        }
        guard nextToSend > first else { return }
        hub.queues.encoded(id, messages: nextToSend - first, bytes: encodedBytes)
        if nextToSend == sending.count {
            sending = []
            nextToSend = 0
        }
        connection.flush()
    }

    /// Room for the frames of the next chunk, so that its buffer need not grow.
    private func chunkCapacity(_ chunkBytes: Int) -> Int {
        var capacity = 0
        for queued in sending[nextToSend...] {
            capacity += queued.size + Frame.headerBytes
            if capacity >= chunkBytes { break }
        }
        return capacity
    }

    // MARK: Time

    func sweep(now: NIODeadline) {
        switch state {
        case .greeting(let connection, let since):
            if since + hub.configuration.handshakeTimeout <= now {
                connection.close("no answer to the handshake")
            }
        case .open(let connection):
            if !toldOfDrops, counters.sentFailures > failuresAtOpen {
                toldOfDrops = true
                hub.note(.warning, "messages to member \(hex(id)) are dropped: the connection does not keep up")
            }
            if let sent = pingSentAt {
                if sent + hub.configuration.pingTimeout <= now {
                    connection.close("no sign of life")
                }
            } else if nextPingAt <= now {
                pingSentAt = now
                nextPingAt = now + hub.configuration.pingInterval
                connection.send(.ping, littleEndianBytes(now.uptimeNanoseconds))
            }
        case .waiting, .dialling, .stopped: break
        }
    }
}
