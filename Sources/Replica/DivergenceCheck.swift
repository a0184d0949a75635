// Whether members still hold the same data. Every member hashes its records at every compaction, at a
// revision that all reach at the same log index; the leader compares.

import RaftCore

/// The hashes that the leader knows, by compaction. A pure value.
struct DivergenceCheck {
    private struct Compaction {
        var revision: Int64
        var hashes: [(member: NodeID, hash: UInt32)] = []
        var accused: [NodeID] = []
    }

    private let limit: Int
    /// Ascending by revision.
    private var compactions: [Compaction] = []

    init(limit: Int) { self.limit = max(1, limit) }

    /// Forgets everything, for a new leader.
    mutating func restart() { compactions.removeAll() }

    /// Notes one member's hash and returns the members that are now known to differ from a majority
    /// of the voters, each once; without such a majority all that differ from each other.
    mutating func add(
        _ member: NodeID, revision: Int64, hash: UInt32, voters: [NodeID]
    ) -> [NodeID] {
        let position: Int
        if let known = compactions.firstIndex(where: { $0.revision == revision }) {
            position = known
        } else {
            if compactions.count >= limit, let oldest = compactions.first,
                revision < oldest.revision
            {
                return []
            }
            compactions.append(Compaction(revision: revision))
            compactions.sort { $0.revision < $1.revision }
            if compactions.count > limit { compactions.removeFirst() }
            guard let added = compactions.firstIndex(where: { $0.revision == revision }) else {
                return []
            }
            position = added
        }
        if compactions[position].hashes.contains(where: { $0.member == member }) { return [] }
        compactions[position].hashes.append((member, hash))
        return judge(position, voters)
    }

    private mutating func judge(_ position: Int, _ voters: [NodeID]) -> [NodeID] {
        let hashes = compactions[position].hashes
        let votes = hashes.filter { voters.contains($0.member) }
        let needed = voters.count / 2 + 1
        let right = votes.first { candidate in
            votes.count { $0.hash == candidate.hash } >= needed
        }?.hash
        let differ: [NodeID]
        if let right {
            differ = hashes.filter { $0.hash != right }.map(\.member)
        } else if votes.count == voters.count, Set(votes.map(\.hash)).count > 1 {
            differ = votes.map(\.member)
        } else {
            return []
        }
        let news = differ.filter { !compactions[position].accused.contains($0) }
        compactions[position].accused += news
        return news
    }
}
