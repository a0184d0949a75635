// Sending one snapshot file, on a connection of its own so that heartbeats need not wait behind it.

import NIOCore
import RaftCore
import Storage

/// What `PeerTransport.sendSnapshot` was asked for.
struct OutgoingSnapshot: Sendable {
    let message: Message
    let source: any ByteSource
    let completion: @Sendable (Bool) -> Void
}

/// One transfer. Succeeds only with the receiver's word that the file is durable there.
/// Confined to the event loop, save for `file`.
final class SnapshotSender: PeerConnectionOwner, @unchecked Sendable {
    private enum State {
        case dialling
        case greeting(PeerConnection)
        case streaming(PeerConnection)
        /// All is sent.
        case waiting(PeerConnection)
        case ended
    }

    let message: Message
    private let completion: @Sendable (Bool) -> Void
    private let urls: [String]
    private let counters: PeerCounters
    private let hub: PeerHub
    private let file: OutgoingFile
    private let chunkInterval: TimeAmount
    private var state = State.dialling
    private var isReading = false
    /// Before this nothing more is read: the rate is kept to.
    private var nextReadAt = NIODeadline.now()
    private var pause: Scheduled<Void>?
    private var isHurried = false
    private let startedAt = NIODeadline.now()
    private var progressAt = NIODeadline.now()

    init(_ request: OutgoingSnapshot, urls: [String], counters: PeerCounters, hub: PeerHub) {
        message = request.message
        completion = request.completion
        self.urls = urls
        self.counters = counters
        self.hub = hub
        let rate = Double(max(1, hub.configuration.snapshotBytesPerSecond))
        chunkInterval = .nanoseconds(Int64(Double(hub.configuration.snapshotChunkBytes) * 1e9 / rate))
        file = OutgoingFile(
            source: request.source, message: request.message,
            chunkBytes: hub.configuration.snapshotChunkBytes)
    }

    private var target: String { "the snapshot to member \(hex(message.to))" }

    func start() {
        counters.set(.snapshotsSending, counters[.snapshotsSending] &+ 1)
        dial(0, lastError: "it has no peer URL")
    }

    private func dial(_ position: Int, lastError: String) {
        guard position < urls.count else { return fail("not reachable: \(lastError)") }
        hub.dial(urls[position]).whenComplete { [self] result in
            guard case .dialling = state else {
                if case .success(let connection) = result { connection.close("not needed any more") }
                return
            }
            progressAt = .now()
            switch result {
            case .success(let connection) where connection.isOpen:
                state = .greeting(connection)
                connection.attach(self)
                hub.greet(connection, .snapshot, target: message.to)
            case .success: dial(position + 1, lastError: "closed at once")
            case .failure(let error): dial(position + 1, lastError: "\(error)")
            }
        }
    }

    // MARK: Frames

    func received(
        _ kind: FrameKind, _ payload: UnsafeRawBufferPointer, on connection: PeerConnection
    ) {
        switch (kind, state) {
        case (.welcome, .greeting): welcomed(payload, connection)
        case (.refusal, .greeting):
            let answer = try? Greeting(decoding: payload, isRefusal: true)
            fail("refused: \(printable(answer?.refusal?.text ?? "malformed refusal"))")
        case (.snapshotResult, .streaming), (.snapshotResult, .waiting): receivedResult(payload)
        default: fail("unexpected frame of kind \(kind)")
        }
    }

    private func welcomed(_ payload: UnsafeRawBufferPointer, _ connection: PeerConnection) {
        do throws(Refusal) {
            // What there is to warn of, the connection for messages has said.
            _ = try hub.admit(welcome: payload, from: message.to)
        } catch {
            return fail(error.text)
        }
        state = .streaming(connection)
        progressAt = .now()
        pump()
    }

    private func receivedResult(_ payload: UnsafeRawBufferPointer) {
        guard case .waiting = state, payload.first == 0 else {
            let text = String(decoding: payload.dropFirst().prefix(400), as: UTF8.self)
            return fail("the receiver says: \(printable(text))")
        }
        finish(succeeded: true)
    }

    func readCompleted(on connection: PeerConnection) {}

    func becameWritable(_ connection: PeerConnection) {
        progressAt = .now()
        pump()
    }

    func closed(_ connection: PeerConnection, reason: String) { fail(reason) }

    // MARK: Sending

    /// Reads the next chunk while the socket takes what was read, and not faster than the rate: under way are
    /// at most the channel's high-water mark and one chunk.
    private func pump() {
        guard case .streaming(let connection) = state, !isReading, pause == nil, connection.isWritable
        else { return }
        let now = NIODeadline.now()
        if now < nextReadAt, !isHurried {
            pause = hub.loop.scheduleTask(deadline: nextReadAt) { [self] in
                pause = nil
                pump()
            }
            return
        }
        // What a slow receiver left unused is not made up for by a burst.
        nextReadAt = max(nextReadAt, now - chunkInterval) + chunkInterval
        isReading = true
        hub.disk.submit { [self] _ in
            let step = file.next()
            hub.loop.execute { self.read(step) }
        }
    }

    /// From here on the rate is not kept to.
    func hurry() {
        guard !isHurried else { return }
        isHurried = true
        hub.note(.info, "\(target) goes on without a bound on its rate: the log would outrun it")
        pause?.cancel()
        pause = nil
        pump()
    }

    private func read(_ step: OutgoingFile.Step) {
        isReading = false
        guard case .streaming(let connection) = state else { return }
        progressAt = .now()
        switch step {
        case .chunk(let buffer):
            write(buffer, connection)
            pump()
        case .end(let buffer):
            state = .waiting(connection)
            write(buffer, connection)
        case .failed(let text):
            fail(text)
        }
    }

    private func write(_ buffer: ByteBuffer, _ connection: PeerConnection) {
        counters.add(.sentBytes, buffer.readableBytes)
        connection.write(buffer)
        connection.flush()
    }

    // MARK: Time and end

    func sweep(now: NIODeadline) {
        let limits = hub.configuration
        switch state {
        case .dialling, .ended: break
        case .greeting:
            if progressAt + limits.handshakeTimeout <= now { fail("no answer to the handshake") }
        case .streaming:
            if progressAt + limits.snapshotIdleTimeout <= now { fail("no progress") }
        case .waiting:
            if progressAt + limits.snapshotDurableTimeout <= now { fail("no word that it is durable") }
        }
    }

    func fail(_ reason: String) {
        if case .ended = state { return }
        hub.note(.warning, "\(target) failed: \(reason)")
        finish(succeeded: false)
    }

    private func finish(succeeded: Bool) {
        let old = state
        state = .ended
        pause?.cancel()
        pause = nil
        counters.set(.snapshotsSending, counters[.snapshotsSending] &- 1)
        counters.add(succeeded ? .snapshotsSent : .snapshotSendFailures)
        if succeeded {
            let nanoseconds = (NIODeadline.now() - startedAt).nanoseconds
            counters.snapshotSend.observe(nanoseconds: UInt64(max(0, nanoseconds)))
        }
        switch old {
        case .greeting(let connection), .streaming(let connection), .waiting(let connection):
            connection.close("snapshot transfer ended")
        case .dialling, .ended: break
        }
        hub.disk.submit { [file] _ in file.close() }
        hub.ended(self)
        completion(succeeded)
    }
}
