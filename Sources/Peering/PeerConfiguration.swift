// Every bound and time of the peer transport, with what happens there.

import NIOCore

/// Which end of a connection a channel is.
package enum PeerSide: Sendable, Equatable {
    case accepting
    /// The host as the member's URL names it, for the check of a certificate.
    case dialling(host: String)
}

/// Handlers that stand between the socket and the frames, such as TLS.
package typealias PeerTransportHandlers =
    @Sendable (any Channel, PeerSide) throws -> [any ChannelHandler]

/// What to do about a peer whose plugins differ from ours.
package enum PluginPolicy: Sendable, Equatable { case refuse, warn }

/// The bounds of one `PeerTransport`.
package struct PeerConfiguration: Sendable {
    /// Kind and payload of one frame. It must hold the largest message: an append of
    /// `maxEntriesBytesPerMessage` and one entry of `maxEntryBytes`, or a batch of proposals. A larger
    /// frame closes the connection; a larger message is not sent, and counted as failed.
    package var maxFrameBytes = 64 << 20
    /// The same before the handshake is done.
    package var maxHandshakeBytes = 256 << 10

    /// From accepting or connecting to the end of the handshake; later the connection is closed.
    package var handshakeTimeout = TimeAmount.seconds(5)
    package var connectTimeout = TimeAmount.seconds(3)
    /// Accepted connections without a finished handshake; further ones are closed at once.
    package var maxPendingHandshakes = 64

    /// The wait before a peer is dialled again: doubles from the first to the second with each
    /// failure, without an end to the attempts.
    package var retryMinimum = TimeAmount.milliseconds(50)
    package var retryMaximum = TimeAmount.seconds(2)

    /// Messages waiting for one peer's socket. At either bound the newest are dropped and counted:
    /// what waits already is a run of the log without gaps, while an append behind a gap is of no
    /// use to its receiver.
    package var maxQueuedMessages = 4096
    package var maxQueuedBytes = 64 << 20
    /// Messages are encoded into pieces of about this size.
    package var writeChunkBytes = 256 << 10
    /// Encoded bytes that wait for the socket before encoding pauses.
    package var writeHighWaterBytes = 1 << 20

    /// How often the round trip is measured, and after how long without an answer the dialling side
    /// gives the connection up.
    package var pingInterval = TimeAmount.seconds(1)
    package var pingTimeout = TimeAmount.seconds(5)
    /// The accepting side closes a connection on which nothing arrived for so long.
    package var idleTimeout = TimeAmount.seconds(15)
    /// How long a removed member is still talked to, so that it learns of its removal.
    package var removalGrace = TimeAmount.seconds(2)

    package var snapshotChunkBytes = 64 << 10
    /// What one snapshot is sent at most, so that a transfer leaves disk and processors to the clients
    /// (`peers.snapshot-rate`).
    package var snapshotBytesPerSecond = 16 << 20
    /// The largest frame on a connection for a snapshot; senders stay below it.
    package var maxSnapshotFrameBytes = 4 << 20
    /// Longer snapshots are refused; the host knows the quota of its backend.
    package var maxSnapshotBytes: UInt64 = 64 << 30
    /// Received snapshot bytes waiting for the disk before reading pauses.
    package var maxSnapshotBacklogBytes = 1 << 20
    /// Further ones fail at once and are asked for again by the leader.
    package var maxOutgoingSnapshots = 2
    /// Without any progress a transfer is broken off, on both sides.
    package var snapshotIdleTimeout = TimeAmount.seconds(30)
    /// From the last byte sent to the receiver's word that all of it is durable.
    package var snapshotDurableTimeout = TimeAmount.minutes(2)

    /// Lines about strangers (bad handshakes, foreign protocols) in one minute; the rest are counted
    /// in the next line.
    package var maxStrangerNotesPerMinute = 20

    package var pluginPolicy = PluginPolicy.refuse
    package var transportHandlers: PeerTransportHandlers?

    package init() {}
}
