// Figures that the replica publishes for everybody: one word each, read without a lock.

import Replica
import Synchronization

/// The node's state as other threads may see it. Written by the replica and backend threads.
package final class NodeStatus: Sendable {
    package let term = Atomic<UInt64>(0)
    /// The member that leads; 0 when none is known.
    package let leader = Atomic<UInt64>(0)
    /// True while this member has no vote: clients then get little of it (etcd v3rpc/util.go).
    package let isLearner = Atomic<Bool>(false)
    package let commitIndex = Atomic<UInt64>(0)
    package let appliedIndex = Atomic<UInt64>(0)
    /// True while reads may be served from the store without a round.
    package let readsNeedNoRound = Atomic<Bool>(false)
    /// Bit 1: NOSPACE stands, bit 2: CORRUPT stands (for any member).
    package let alarms = Atomic<UInt8>(0)
    /// Bytes of the backend file, never 0 once open.
    package let backendBytes = Atomic<UInt64>(0)
    package let backendBytesInUse = Atomic<UInt64>(0)
    /// Bytes applied and not yet committed to the backend.
    package let pendingBytes = Atomic<UInt64>(0)
    /// Bytes of proposals in the mailbox.
    package let queuedBytes = Atomic<UInt64>(0)
    package let pendingProposals = Atomic<UInt64>(0)
    package let failedProposals = Atomic<UInt64>(0)
    package let committedProposals = Atomic<UInt64>(0)
    package let leaderChanges = Atomic<UInt64>(0)
    package let slowApplies = Atomic<UInt64>(0)
    package let leasesExpired = Atomic<UInt64>(0)
    package let leasesGranted = Atomic<UInt64>(0)
    package let leasesRevoked = Atomic<UInt64>(0)
    package let leasesRenewed = Atomic<UInt64>(0)
    /// Keys put and deleted, and revisions with more than one change, since start.
    package let keysPut = Atomic<UInt64>(0)
    package let keysDeleted = Atomic<UInt64>(0)
    package let transactions = Atomic<UInt64>(0)
    /// Records deleted by compaction.
    package let compactedRecords = Atomic<UInt64>(0)
    /// Bytes of keys and values put, as records.
    package let bytesPut = Atomic<UInt64>(0)
    /// Read rounds that could not be begun.
    package let failedReadRounds = Atomic<UInt64>(0)
    package let walBytesWritten = Atomic<UInt64>(0)

    /// Messages of peers that consensus refused.
    package let refusedMessages = Atomic<UInt64>(0)
    /// Messages of peers that found the mailbox full.
    package let droppedMessages = Atomic<UInt64>(0)
    package let snapshotsInstalled = Atomic<UInt64>(0)
    /// Leaderships given up because the disk stalled.
    package let stallResignations = Atomic<UInt64>(0)
    /// Whether the members know this one's name and client URLs.
    package let isPublished = Atomic<Bool>(false)
    /// Whether this member leads.
    package let isLeader = Atomic<Bool>(false)

    package init() {}

    /// The replica tells where it stands.
    func publish(_ replica: Replica) {
        let figures = replica.figures
        term.store(replica.term, ordering: .relaxed)
        leader.store(replica.leader ?? 0, ordering: .relaxed)
        isLeader.store(replica.role == .leader, ordering: .relaxed)
        isPublished.store(replica.isPublished, ordering: .relaxed)
        isLearner.store(replica.isLearner, ordering: .relaxed)
        commitIndex.store(replica.commitIndex, ordering: .relaxed)
        appliedIndex.store(replica.machine.appliedIndex, ordering: .relaxed)
        pendingBytes.store(UInt64(replica.pendingBytes), ordering: .relaxed)
        pendingProposals.store(UInt64(replica.pendingRequests), ordering: .relaxed)
        failedProposals.store(figures.failedProposals, ordering: .relaxed)
        committedProposals.store(figures.committedProposals, ordering: .relaxed)
        leaderChanges.store(figures.leaderChanges, ordering: .relaxed)
        leasesGranted.store(figures.leasesGranted, ordering: .relaxed)
        leasesRevoked.store(figures.leasesRevoked, ordering: .relaxed)
        leasesExpired.store(figures.leasesExpired, ordering: .relaxed)
        leasesRenewed.store(figures.leasesRenewed, ordering: .relaxed)
        failedReadRounds.store(figures.failedReads, ordering: .relaxed)
        refusedMessages.store(figures.refusedMessages, ordering: .relaxed)
        snapshotsInstalled.store(figures.snapshotsInstalled, ordering: .relaxed)
        stallResignations.store(figures.stallResignations, ordering: .relaxed)
        readsNeedNoRound.store(replica.canReadWithoutRound, ordering: .releasing)
    }

    package static let noSpaceBit: UInt8 = 1 << 1
    package static let corruptBit: UInt8 = 1 << 2

    package var hasLeader: Bool { leader.load(ordering: .relaxed) != 0 }
    package var hasNoSpaceAlarm: Bool { alarms.load(ordering: .relaxed) & Self.noSpaceBit != 0 }
    package var hasCorruptAlarm: Bool { alarms.load(ordering: .relaxed) & Self.corruptBit != 0 }
}
