// What leaves a member's process for others: messages, snapshots and events.

import MVCC
import RaftCore
import Replica
import StateMachine
import Storage

extension Simulation {
    // MARK: Messages

    func send(_ message: PeerMessage, from member: SimulatedMember) {
        if case .raft(let raft) = message, let replica = member.process?.replica {
            checker.sending(
                raft, log: member.mirror, currentTerm: replica.term, role: replica.role)
        }
        trace.write(now, "m\(member.id) -> m\(message.to) \(brief(message))")
        checkCodec(message)
        for arrival in network.arrivals(from: member.id, to: message.to, now: now) {
            queue.schedule(.deliver(message), at: arrival)
        }
    }

    /// A share of the messages goes through the bytes of the wire.
    private func checkCodec(_ message: PeerMessage) {
        guard hostRandom.chance(knobs.codecPerMille) else { return }
        let decoded = message.encoded().withUnsafeBytes { try? PeerMessage(decoding: $0) }
        checker.require(
            decoded == message, "message \(message) comes out of the codec as \(String(describing: decoded))")
    }

    func deliver(_ message: PeerMessage) {
        guard let member = member(message.to), member.isRunning else {
            // The connection is refused; the sender hears of it.
            if let sender = self.member(message.from), let process = sender.process,
                !process.unreachablePeers.contains(message.to), hostRandom.chance(200)
            {
                process.unreachablePeers.append(message.to)
                post(.unreachable(message.to), to: sender)
                schedule(.connect(from: message.from, run: sender.run, to: message.to), after: reconnectTime)
            }
            return
        }
        trace.note(now, 5, message.from, message.to)
        if member.process?.refusedPeers.contains(message.from) == true { return }
        post(.received(message), to: member)
    }

    private var reconnectTime: Nanoseconds { hostRandom.within(knobs.tick...knobs.electionTimeout) }

    /// The transport tries to connect again until that succeeds, and tells the replica.
    func connect(from: NodeID, run: Int, to: NodeID) {
        guard let (sender, process) = process(from, run) else { return }
        guard member(to)?.isRunning == true, !network.isCut(from: from, to: to) else {
            return schedule(.connect(from: from, run: run, to: to), after: reconnectTime)
        }
        process.unreachablePeers.removeAll { $0 == to }
        post(.reachable(to), to: sender)
    }

    // MARK: Snapshots

    func sendSnapshot(_ request: SnapshotRequest, _ member: SimulatedMember) {
        let state = member.backend.state
        guard let stored = state.value(.meta, StateKey.confState), let confState = ConfState(stored: stored)
        else { return checker.fail("member \(member.id) copies a backend without a membership") }
        let metadata = SnapshotMetadata(
            index: state.appliedIndex, term: state.appliedTerm, confState: confState)
        if case .snapshot(let asked) = request.message.body {
            checker.require(
                metadata.index >= asked.index,
                "member \(member.id) was asked for a snapshot at \(asked.index) and copies one at \(metadata.index)")
        }
        var message = request.message
        message.body = .snapshot(metadata)
        let transfer = SnapshotTransfer(
            from: member.id, fromRun: member.run, to: request.to, message: message,
            file: SnapshotFile(metadata: metadata, state: state))
        let time = hostRandom.within(knobs.delay) * 20 + UInt64(state.records.count) * 20 * microsecond
        let isBroken =
            !isQuiet && (breaksTransfers ? hostRandom.chance(800) : hostRandom.chance(100))
            || network.isCut(from: member.id, to: request.to)
        trace.write(now, "m\(member.id) sends a snapshot at \(metadata.index) to m\(request.to), broken \(isBroken)")
        schedule(isBroken ? .snapshotEnds(transfer, succeeded: false) : .snapshotArrives(transfer), after: time)
    }

    func snapshotArrives(_ transfer: SnapshotTransfer) {
        guard let member = member(transfer.to), let process = member.process,
            !network.isCut(from: transfer.from, to: transfer.to),
            !process.refusedPeers.contains(transfer.from)
        else { return snapshotEnds(transfer, false) }
        if !member.snapshots.contains(where: { $0.metadata == transfer.file.metadata }) {
            member.snapshots.append(transfer.file)
        }
        trace.note(now, 7, transfer.to, transfer.file.metadata.index)
        post(.snapshotArrived(transfer.message), to: member)
        snapshotEnds(transfer, true)
    }

    func snapshotEnds(_ transfer: SnapshotTransfer, _ succeeded: Bool) {
        guard let (member, _) = process(transfer.from, transfer.fromRun) else { return }
        post(.snapshotSent(to: transfer.to, succeeded: succeeded), to: member)
    }

    // MARK: Events

    func publish(_ batch: EventBatch, _ member: SimulatedMember, _ process: MemberProcess) {
        checker.published(batch, after: process.publishedRevision, by: member.id)
        process.publishedRevision = batch.revision
    }

    /// A snapshot was taken over: what lies between comes from history.
    func restored(_ revision: Int64, _ member: SimulatedMember, _ process: MemberProcess) {
        snapshotsInstalled += 1
        trace.write(now, "m\(member.id) restored to revision \(revision)")
        let store = process.replica.machine.store
        var next = process.publishedRevision + 1
        checker.require(
            revision >= process.publishedRevision,
            "member \(member.id) goes back from revision \(process.publishedRevision) to \(revision)")
        if next < store.compactRevision { next = store.compactRevision }
        process.publishedRevision = max(process.publishedRevision, min(next - 1, revision))
        do {
            let end = try store.history(
                from: next, through: revision, maxEvents: .max, maxBytes: .max, reader: process.reader
            ) { batch in
                // At the compaction revision itself only what is still there comes back.
                if batch.revision > store.compactRevision {
                    checker.published(batch, after: batch.revision - 1, by: member.id)
                }
            }
            checker.require(
                end > revision, "member \(member.id) has history up to \(end), restored to \(revision)")
        } catch {
            checker.fail("member \(member.id) has no history after a snapshot: \(error)")
        }
        process.publishedRevision = revision
    }

    private func brief(_ message: PeerMessage) -> String {
        switch message {
        case .raft(let raft):
            if case .append(let request) = raft.body {
                return "t\(raft.term) append after \(request.previousIndex) × \(request.entries.count), commit "
                    + "\(request.commit)"
            }
            return "t\(raft.term) \(raft.body)"
        case .request(let request): return "t\(request.term) request \(request.number)"
        case .reply(let reply): return "reply \(reply.number) × \(reply.count) \(reply.body)"
        case .report(let report): return "hash of compaction \(report.compactRevision)"
        }
    }
}
