// The replica's part in comparing hashes: its own goes to the leader, and again now and then in case it was
// lost; the leader raises CORRUPT on whoever differs.

import RaftCore
import StateMachine

extension Replica {
    func compactionHashed(_ revision: Int64, _ hash: UInt32, now: UInt64) {
        ownReport = (revision, hash)
        reportAt = now
        resendReport(now)
    }

    /// Tells the leader the newest hash, every few election timeouts.
    func resendReport(_ now: UInt64) {
        guard let ownReport, now >= reportAt, let leader = raft.leader else { return }
        reportAt = now &+ 5 &* configuration.electionNanoseconds
        if leader == raft.id {
            compare(raft.id, ownReport.revision, ownReport.hash)
        } else {
            effects.messages.append(
                .report(
                    CompactionReport(
                        from: raft.id, to: leader, compactRevision: ownReport.revision,
                        hash: ownReport.hash)))
        }
    }

    func compare(_ member: NodeID, _ revision: Int64, _ hash: UInt32) {
        // While leadership is handed over no alarm could be proposed; the report comes again.
        guard raft.role == .leader, raft.transferTarget == nil, raft.confState.contains(member)
        else { return }
        let differ = divergence.add(
            member, revision: revision, hash: hash, voters: raft.confState.voters)
        for member in differ {
            effects.complaint =
                "member \(String(member, radix: 16)) differs at compaction \(revision)"
            proposals.append(
                QueuedProposal(
                    proposal: Proposal(
                        entry: Command.alarm(
                            .activate, member: member, type: .corrupt, origin: .core), waiter: nil),
                    since: lastTick))
        }
    }
}
