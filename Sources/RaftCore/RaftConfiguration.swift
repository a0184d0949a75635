/// Timing, protocol options and every bound of one `RaftCore`. Times are in ticks of the host.
package struct RaftConfiguration: Sendable, Equatable {
    /// This member; never 0.
    package var id: NodeID

    /// A follower campaigns after a random time in `electionTicks ..< 2 × electionTicks` of
    /// silence.
    package var electionTicks: Int = 10

    /// The leader's heartbeat interval; must be less than `electionTicks`.
    package var heartbeatTicks: Int = 1

    /// Ask for support before raising the term, so that a cut-off member comes back quietly
    /// (thesis 9.6).
    package var preVote: Bool = true

    /// A leader without contact to a quorum steps down within an election timeout, and members that
    /// hear a leader ignore candidates (thesis 4.2.3, 6.2).
    package var checkQuorum: Bool = true

    /// Payload bytes in one append message. One entry is always sent, however large.
    package var maxEntriesBytesPerMessage: Int = 1 << 20

    /// Append messages under way to one peer. At the bound nothing more is sent until one is
    /// answered.
    package var maxInflightMessages: Int = 256

    /// Payload bytes of the append messages under way to one peer. At the bound nothing more is sent
    /// until one is answered, so the last message sent may exceed it. Below `maxRetainedBytes`, or a peer that
    /// merely uses its window would fall out of the log.
    package var maxInflightBytes: Int = 32 << 20

    /// Payload bytes proposed here and not yet handed out for applying. At the bound proposals are
    /// refused, but one batch is always accepted when nothing is outstanding.
    package var maxUncommittedBytes: Int = 256 << 20

    /// Payload bytes of one proposal; a larger one is refused.
    package var maxEntryBytes: Int = 16 << 20

    /// Payload bytes handed out for applying in one `Ready`; the rest follows in the next ones.
    package var maxCommittedBytesPerReady: Int = 16 << 20

    /// Entries kept behind the host's compaction point, whoever may need them; a peer further behind
    /// gets a snapshot.
    package var maxRetainedEntries: Int = 20_000

    /// Entries a leader keeps behind the compaction point for members that answer but lag, or are
    /// receiving a snapshot: without them, a snapshot that takes longer than `maxRetainedEntries`
    /// take to write would be outdated on arrival, and the next one too.
    package var maxCatchUpEntries: Int = 400_000

    /// Payload bytes kept behind the compaction point, whatever the two bounds above allow.
    package var maxRetainedBytes: Int = 64 << 20

    /// Read requests waiting for their quorum; further ones are refused.
    package var maxPendingReads: Int = 10_000

    /// Answers waiting for the disk; further ones are dropped, as a network may drop them.
    package var maxHeldMessages: Int = 10_000

    /// How far a learner must have followed to be made a voter, in percent of the leader's own log
    /// (etcd: 90); 0 turns the check off.
    package var learnerPromotionPercent: Int = 90

    /// Makes the default configuration of member `id`.
    package init(id: NodeID) { self.id = id }

    /// The name of the first field whose value cannot work; nil when all is well.
    var firstInvalidField: String? {
        if id == 0 { return "id" }
        if heartbeatTicks < 1 { return "heartbeatTicks" }
        if electionTicks <= heartbeatTicks || electionTicks > 1 << 30 { return "electionTicks" }
        if maxEntriesBytesPerMessage < 1 { return "maxEntriesBytesPerMessage" }
        if maxInflightMessages < 1 { return "maxInflightMessages" }
        if maxInflightBytes < 1 { return "maxInflightBytes" }
        if maxUncommittedBytes < 1 { return "maxUncommittedBytes" }
        if maxEntryBytes < 1 { return "maxEntryBytes" }
        if maxCommittedBytesPerReady < 1 { return "maxCommittedBytesPerReady" }
        if maxRetainedEntries < 0 { return "maxRetainedEntries" }
        if maxCatchUpEntries < 0 { return "maxCatchUpEntries" }
        if maxRetainedBytes < 0 { return "maxRetainedBytes" }
        if maxPendingReads < 1 { return "maxPendingReads" }
        if maxHeldMessages < 1 { return "maxHeldMessages" }
        if !(0...100).contains(learnerPromotionPercent) { return "learnerPromotionPercent" }
        return nil
    }
}
