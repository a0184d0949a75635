// Who waits for what. Every list is bounded by `ReplicaConfiguration.maxPendingProposals` together, and
// everything in it is answered: by what it waits for, or when it has waited too long.

import RaftCore
import StateMachine

/// A command with the moment it arrived, in nanoseconds.
package struct QueuedProposal: Sendable {
    package var proposal: Proposal
    package var since: UInt64

    package init(proposal: Proposal, since: UInt64) {
        self.proposal = proposal
        self.since = since
    }
}

/// Who asked: a client of this member, or another member on behalf of one of its own.
enum Requester {
    case local(any ReplyWaiter)
    case peer(NodeID, run: UInt64, number: UInt64)
}

/// A question that only a confirmed leader may answer.
enum LeaderQuestion {
    case renew(Int64)
    case timeToLive(Int64, withKeys: Bool)
}

/// Something that is done once leadership was confirmed after it was asked for.
struct Confirmable {
    enum Kind {
        case read(any ReplyWaiter)
        case question(LeaderQuestion, Requester)
    }

    var kind: Kind
    var since: UInt64

    init(_ kind: Kind, since: UInt64) {
        self.kind = kind
        self.since = since
    }
}

/// What cannot be done before a leader is known.
enum Parked {
    case proposal(QueuedProposal)
    case read(Confirmable)
    case question(LeaderQuestion, any ReplyWaiter, since: UInt64)
    case changes([MembershipChange], any ReplyWaiter, since: UInt64)

    var since: UInt64 {
        switch self {
        case .proposal(let proposal): proposal.since
        case .read(let read): read.since
        case .question(_, _, let since), .changes(_, _, let since): since
        }
    }
}

/// Requests under way.
struct Waiting {
    /// Own proposals of a leader, by index.
    var entries = WaiterQueue()
    /// Own proposals of an earlier leadership whose index has another entry in this log by now, while
    /// another member may still hold and commit them.
    var uncertain: [WaiterQueue.Slot] = []
    /// The term of the last applied entry. Entries of earlier terms that were not applied by then
    /// never will be.
    var appliedTerm: Term = 0
    /// What was sent to a leader or waits for a membership change, by its number in this run.
    /// Numbers ascend with time, so the oldest is found through `taggedOrder`.
    var tagged: [UInt64: Tagged] = [:]
    /// Numbers in ascending order; those no longer in `tagged` are passed over.
    var taggedOrder = NumberQueue()
    /// In order of arrival.
    var parked: [Parked] = []
    /// Under way to be confirmed, by read context; contexts ascend with time.
    var confirming: [(context: UInt64, batch: [Confirmable])] = []
    /// When the last leader was lost; 0 when never.
    var leaderLostAt: UInt64 = 0
    /// The leader of this term has refused to lead. What is parked is put to it again at the next
    /// tick and not at once, or both would be busy with nothing else until a leader is found.
    var refusal: (term: Term, until: UInt64) = (0, 0)
    /// The last term in which earlier leaders' questions were looked for.
    var questionsTerm: Term = 0

    struct Tagged {
        enum Kind {
            /// The command itself is kept to be proposed again should the leader refuse it.
            case proposal(QueuedProposal)
            case question(LeaderQuestion, any ReplyWaiter)
            case changes([MembershipChange], any ReplyWaiter)
        }

        var kind: Kind
        /// The term whose leader it was sent to.
        var term: Term
        var since: UInt64
    }

    mutating func add(_ number: UInt64, _ kind: Tagged.Kind, term: Term, since: UInt64) {
        tagged[number] = Tagged(kind: kind, term: term, since: since)
        taggedOrder.append(number)
    }

    /// Takes out, in the order of their numbers, what was sent to leaders of terms before `term` and
    /// satisfies `condition`.
    mutating func takeTagged(
        before term: Term, where condition: (Tagged.Kind) -> Bool
    ) -> [Tagged] {
        let numbers = tagged.filter { $0.value.term < term && condition($0.value.kind) }.keys
        return numbers.sorted().compactMap { tagged.removeValue(forKey: $0) }
    }

    /// The own proposal whose entry this is, although the log here had given it up.
    mutating func takeUncertain(index: LogIndex, term: Term) -> QueuedProposal? {
        guard
            let position = uncertain.firstIndex(where: { $0.index == index && $0.term == term })
        else { return nil }
        return uncertain.remove(at: position).proposal
    }

    mutating func take(_ number: UInt64) -> Tagged? { tagged.removeValue(forKey: number) }

    mutating func takeConfirming(_ context: UInt64) -> [Confirmable]? {
        guard let position = confirming.firstIndex(where: { $0.context == context }) else {
            return nil
        }
        return confirming.remove(at: position).batch
    }
}

/// Ascending numbers; taking from the front is amortised constant time.
struct NumberQueue {
    private var numbers: [UInt64] = []
    private var head = 0

    var first: UInt64? { head < numbers.count ? numbers[head] : nil }

    mutating func append(_ number: UInt64) { numbers.append(number) }

    mutating func removeFirst() {
        head += 1
        if head == numbers.count || head > 1024 && head * 2 > numbers.count {
            numbers.removeFirst(head)
            head = 0
        }
    }
}

/// A hand-over that a client asked for.
struct PendingTransfer {
    var target: NodeID
    var waiter: any ReplyWaiter
    var since: UInt64
}

/// Asks again for a renewal once the checkpoint that must precede it is applied. Never leaves the
/// replica.
final class RenewalAfterCheckpoint: ReplyWaiter {
    let id: Int64
    let requester: Box
    let since: UInt64

    /// A requester that may travel with the waiter; it is only touched by the replica.
    struct Box: @unchecked Sendable {
        let value: Requester
    }

    init(_ id: Int64, _ requester: Requester, since: UInt64) {
        self.id = id
        self.requester = Box(value: requester)
        self.since = since
    }

    var loopIndex: Int { -1 }

    func replicaAnswered(_ answer: ReplicaAnswer) {
        preconditionFailure("a renewal's checkpoint was answered outside the replica")
    }
}
