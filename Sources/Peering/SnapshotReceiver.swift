// Receiving one snapshot: to a file of the disk thread, which makes it durable before the sender is told.

import NIOCore
import RaftCore
import Replica

/// One incoming transfer, after the handshake. Confined to the event loop, save for `file`.
final class SnapshotReceiver: @unchecked Sendable {
    private enum State {
        case header
        case streaming(IncomingFile, Message, remaining: UInt64)
        /// Whole; the disk thread makes it durable.
        case finishing
        case ended
    }

    private let from: NodeID
    private let connection: PeerConnection
    private let owner: AcceptedConnection
    private let hub: PeerHub
    private let counters: PeerCounters?
    private var state = State.header
    /// Received and not written yet.
    private var backlog = 0
    private let startedAt = NIODeadline.now()
    private var endedAt: NIODeadline?

    init(from: NodeID, connection: PeerConnection, owner: AcceptedConnection, hub: PeerHub) {
        self.from = from
        self.connection = connection
        self.owner = owner
        self.hub = hub
        counters = hub.counters(from)
        counters?.set(.snapshotsReceiving, 1)
    }

    // MARK: Frames

    func received(_ kind: FrameKind, _ payload: UnsafeRawBufferPointer) {
        switch (kind, state) {
        case (.snapshotHeader, .header): receivedHeader(payload)
        case (.snapshotChunk, .streaming(let file, let message, let remaining)):
            guard !payload.isEmpty, UInt64(payload.count) <= remaining else {
                return fail("more bytes than announced")
            }
            state = .streaming(file, message, remaining: remaining - UInt64(payload.count))
            write(Array(payload), file)
        case (.snapshotEnd, .streaming(let file, let message, let remaining)):
            guard remaining == 0, payload.count == 4 else { return fail("ended too early") }
            let checksum = UInt32(littleEndian: payload.loadUnaligned(as: UInt32.self))
            finish(file, message, checksum)
        default: fail("unexpected frame of kind \(kind)")
        }
    }

    private func receivedHeader(_ payload: UnsafeRawBufferPointer) {
        guard payload.count > 8 else { return fail("malformed header") }
        let length = UInt64(littleEndian: payload.loadUnaligned(as: UInt64.self))
        guard length > 0, length <= hub.configuration.maxSnapshotBytes else {
            return fail("snapshot of \(length) bytes, at most \(hub.configuration.maxSnapshotBytes) are taken")
        }
        let message: PeerMessage
        do throws(PeerMessageError) {
            message = try PeerMessage(decoding: UnsafeRawBufferPointer(rebasing: payload[8...]))
        } catch {
            return fail("malformed snapshot message: \(error)")
        }
        guard case .raft(let raft) = message, case .snapshot(let metadata) = raft.body,
            raft.from == from, raft.to == hub.identity.memberID
        else { return fail("the header is no snapshot message of its sender to this member") }
        let file = IncomingFile(directory: hub.snapshotDirectory, metadata: metadata)
        state = .streaming(file, raft, remaining: length)
    }

    private func write(_ bytes: [UInt8], _ file: IncomingFile) {
        backlog += bytes.count
        if backlog > hub.configuration.maxSnapshotBacklogBytes { connection.pauseReading() }
        counters?.add(.receivedBytes, bytes.count)
        hub.disk.submit { [self] _ in
            let failure = file.write(bytes)
            hub.loop.execute { self.wrote(bytes.count, failure) }
        }
    }

    private func wrote(_ count: Int, _ failure: String?) {
        backlog -= count
        if let failure { return fail(failure) }
        if backlog <= hub.configuration.maxSnapshotBacklogBytes / 2 { connection.resumeReading() }
    }

    private func finish(_ file: IncomingFile, _ message: Message, _ checksum: UInt32) {
        state = .finishing
        hub.disk.submit { [self] _ in
            let result = file.finish(checksum: checksum)
            hub.loop.execute { self.finished(result, message) }
        }
    }

    private func finished(_ result: Result<String, SnapshotFailure>, _ message: Message) {
        guard case .finishing = state, !hub.isClosed else { return }
        switch result {
        case .success(let path):
            let nanoseconds = (NIODeadline.now() - startedAt).nanoseconds
            counters?.snapshotReceive.observe(nanoseconds: UInt64(max(0, nanoseconds)))
            end(succeeded: true)
            // Also when the sender is gone meanwhile: the snapshot is whole and of use.
            hub.inbox.snapshotArrived(message, file: path, from: from)
            connection.sendLast(.snapshotResult, [0], reason: "snapshot received")
        case .failure(let failure):
            fail(failure.text)
        }
    }

    // MARK: Time and end

    func sweep(now: NIODeadline) {
        switch state {
        case .header, .streaming:
            if connection.lastReadAt + hub.configuration.snapshotIdleTimeout <= now, backlog == 0 {
                fail("no progress")
            }
        case .finishing: break
        case .ended:
            if let endedAt, endedAt + hub.configuration.handshakeTimeout <= now {
                connection.close("ended")
            }
        }
    }

    func closed(_ reason: String) {
        // A file that is being made durable is finished: it can still be used.
        if case .finishing = state { return }
        fail(reason)
    }

    private func fail(_ reason: String) {
        if case .ended = state { return }
        hub.note(.warning, "the snapshot from member \(hex(from)) failed: \(reason)")
        let old = state
        end(succeeded: false)
        if case .streaming(let file, _, _) = old { hub.disk.submit { _ in file.discard() } }
        connection.sendLast(.snapshotResult, [1] + Array(reason.utf8), reason: reason)
        connection.resumeReading()
    }

    private func end(succeeded: Bool) {
        state = .ended
        endedAt = .now()
        counters?.set(.snapshotsReceiving, 0)
        counters?.add(succeeded ? .snapshotsReceived : .snapshotReceiveFailures)
        hub.snapshotEnded(on: owner)
    }
}
