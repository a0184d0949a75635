// A connection that a peer dialled: its messages or its snapshot, after the handshake.

import NIOCore
import RaftCore
import Replica

/// Checks who is there, then hands messages to the inbox or a snapshot to a receiver.
/// Confined to the event loop.
final class AcceptedConnection: PeerConnectionOwner, @unchecked Sendable {
    private enum State {
        case greeting
        case messages
        case snapshot(SnapshotReceiver)
        /// All is said; the other side closes, or the sweep does.
        case ending(since: NIODeadline)
        case closed
    }

    private let hub: PeerHub
    var connection: PeerConnection?
    private var state = State.greeting
    private let acceptedAt = NIODeadline.now()
    /// Set with the handshake.
    private(set) var peerID: NodeID?
    /// Since when the peer belongs to no membership.
    private var strangeSince: NIODeadline?
    /// What this read cycle brought.
    private var arrived: [PeerMessage] = []
    private var countedBytes = 0

    init(hub: PeerHub) { self.hub = hub }

    /// Whether it counts against the bound of unauthenticated connections.
    var isPending: Bool {
        switch state {
        case .greeting, .ending: true
        case .messages, .snapshot, .closed: false
        }
    }

    // MARK: Frames

    func received(
        _ kind: FrameKind, _ payload: UnsafeRawBufferPointer, on connection: PeerConnection
    ) {
        switch (state, kind) {
        case (.greeting, .hello): greeted(payload, connection)
        case (.messages, .message): receivedMessage(payload, connection)
        case (.messages, .ping):
            // A peer that does not read its pongs gets none.
            if payload.count == 8, connection.isWritable { connection.send(.pong, Array(payload)) }
        case (.snapshot(let receiver), _): receiver.received(kind, payload)
        default: violation("unexpected frame of kind \(kind)", connection)
        }
    }

    private func receivedMessage(_ payload: UnsafeRawBufferPointer, _ connection: PeerConnection) {
        do throws(PeerMessageError) {
            let message = try PeerMessage(decoding: payload)
            guard message.from == peerID, message.to == hub.identity.memberID else {
                return violation(
                    "message from \(hex(message.from)) to \(hex(message.to)) on the connection of \(hex(peerID ?? 0))",
                    connection)
            }
            if case .raft(let raft) = message, case .snapshot = raft.body {
                return violation("snapshot message without its data", connection)
            }
            arrived.append(message)
        } catch {
            violation("malformed message: \(error)", connection)
        }
    }

    /// What came before the offence counts; the rest does not.
    private func violation(_ text: String, _ connection: PeerConnection) {
        if let peerID { hub.counters(peerID)?.add(.receivedFailures) }
        connection.close(text)
    }

    func readCompleted(on connection: PeerConnection) {
        guard let peerID else { return }
        hub.counters(peerID)?.add(.receivedBytes, connection.bytesReceived - countedBytes)
        countedBytes = connection.bytesReceived
        deliver()
    }

    private func deliver() {
        guard let peerID, !arrived.isEmpty else { return }
        let messages = arrived
        arrived = []
        hub.inbox.received(messages, from: peerID)
    }

    func becameWritable(_ connection: PeerConnection) {}

    // MARK: Handshake

    private func greeted(_ payload: UnsafeRawBufferPointer, _ connection: PeerConnection) {
        let own = hub.identity
        let hello: Greeting
        do throws(GreetingError) {
            hello = try Greeting(decoding: payload, isRefusal: false)
        } catch {
            switch error {
            case .notMoonraft: connection.close(error.text)
            case .protocolVersion:
                refuse(.init(code: .protocolVersion, text: error.text), purpose: .messages, 0)
            case .malformed: refuse(.init(code: .malformed, text: error.text), purpose: .messages, 0)
            }
            return
        }
        let sender = hello.sender.memberID
        do throws(Refusal) {
            let admitted = try Admission.acceptor(
                hello, own: own, directory: hub.directory, policy: hub.configuration.pluginPolicy)
            if let warning = admitted.warning { hub.note(.warning, warning) }
            if hello.purpose == .snapshot, !hub.snapshotBegins(on: self) {
                throw Refusal(
                    code: .busy, text: "\(own.description) is receiving another snapshot already")
            }
        } catch {
            return refuse(error, purpose: hello.purpose, sender)
        }
        var welcome = Greeting(purpose: hello.purpose, sender: own, targetID: sender)
        switch hello.purpose {
        case .lookup:
            let cluster = hub.inbox.lookup()
            welcome.sender.clusterID = cluster.clusterID
            welcome.members = cluster.members
            state = .ending(since: .now())
            connection.sendLast(.welcome, welcome.encoded(), reason: "cluster looked up")
        case .messages:
            peerID = sender
            state = .messages
            connection.maxFrameBytes = hub.configuration.maxFrameBytes
            hub.messagesBegin(from: sender, on: self)
            connection.send(.welcome, welcome.encoded())
        case .snapshot:
            peerID = sender
            connection.maxFrameBytes = hub.configuration.maxSnapshotFrameBytes
            state = .snapshot(SnapshotReceiver(from: sender, connection: connection, owner: self, hub: hub))
            connection.send(.welcome, welcome.encoded())
        }
    }

    private func refuse(_ refusal: Refusal, purpose: PeerPurpose, _ sender: NodeID) {
        let answer = Greeting(
            purpose: purpose, sender: hub.identity, targetID: sender, refusal: refusal)
        hub.strangerNote("refused a connection from \(connection?.remote ?? "?"): \(refusal.text)")
        state = .ending(since: .now())
        connection?.sendLast(.refusal, answer.encoded(), reason: refusal.text)
    }

    // MARK: Time and end

    func membershipChanged(_ directory: PeerDirectory, at now: NIODeadline) {
        guard let peerID else { return }
        if directory.members.contains(peerID) {
            strangeSince = nil
        } else if strangeSince == nil {
            strangeSince = now
        }
    }

    func sweep(now: NIODeadline) {
        guard let connection else { return }
        switch state {
        case .greeting:
            if acceptedAt + hub.configuration.handshakeTimeout <= now {
                connection.close("no handshake")
            }
        case .messages:
            if connection.lastReadAt + hub.configuration.idleTimeout <= now {
                connection.close("nothing arrived for too long")
            } else if let since = strangeSince, since + hub.configuration.removalGrace <= now {
                dismiss(connection)
            }
        case .snapshot(let receiver): receiver.sweep(now: now)
        case .ending(let since):
            if since + hub.configuration.handshakeTimeout <= now { connection.close("ended") }
        case .closed: break
        }
    }

    /// Tells a former member, once it had the time to learn it from the log.
    private func dismiss(_ connection: PeerConnection) {
        guard let peerID, hub.directory.removed.contains(peerID) else {
            return connection.close("no longer a member")
        }
        refuse(
            Refusal(
                code: .removed,
                text: Admission.removalText("member \(hex(peerID))", hub.identity)),
            purpose: .messages, peerID)
    }

    func closed(_ connection: PeerConnection, reason: String) {
        switch state {
        case .greeting:
            hub.strangerNote("closed a connection from \(connection.remote): \(reason)")
        case .messages:
            deliver()
            if !hub.isClosed { hub.note(.info, "connection from member \(hex(peerID ?? 0)) ended: \(reason)") }
        case .snapshot(let receiver): receiver.closed(reason)
        case .ending, .closed: break
        }
        state = .closed
        self.connection = nil
        hub.ended(self)
    }
}
