// Membership changes as they lie in the log and travel to the leader: one byte for their count, then each
// behind its length (two bytes, little endian). In the log the tag of whoever asked stands before
// them (EntryTag.swift).

import RaftCore
import StateMachine

/// Changes that are made together.
package struct ChangeList: Sendable, Equatable {
    /// The most changes made together, and the largest one in bytes.
    package static let maxChanges = 16
    static let maxChangeBytes = 1 << 16 - 1

    package var changes: [MembershipChange]

    package init(_ changes: [MembershipChange]) { self.changes = changes }

    package init?(decoding bytes: some Collection<UInt8>) {
        var rest = Array(bytes)[...]
        guard let count = rest.popFirst(), (1...Self.maxChanges).contains(Int(count)) else {
            return nil
        }
        changes = []
        for _ in 0..<count {
            guard let low = rest.popFirst(), let high = rest.popFirst() else { return nil }
            let length = Int(low) | Int(high) << 8
            guard rest.count >= length,
                let change = try? MembershipChange(decoding: Array(rest.prefix(length)))
            else { return nil }
            changes.append(change)
            rest = rest.dropFirst(length)
        }
        if !rest.isEmpty { return nil }
    }

    /// Nil when a bound is broken.
    package var encoded: [UInt8]? {
        guard (1...Self.maxChanges).contains(changes.count) else { return nil }
        var bytes = [UInt8(changes.count)]
        for change in changes {
            let body = change.encoded()
            guard body.count <= Self.maxChangeBytes else { return nil }
            bytes.append(UInt8(truncatingIfNeeded: body.count))
            bytes.append(UInt8(truncatingIfNeeded: body.count >> 8))
            bytes += body
        }
        return bytes
    }

    /// What the changes mean to consensus.
    package var steps: [ConfigChange.Step] {
        changes.map { change in
            switch change {
            case .add(let member):
                ConfigChange.Step(member.isLearner ? .addLearner : .addVoter, member.id)
            case .remove(let id): ConfigChange.Step(.remove, id)
            case .promote(let id): ConfigChange.Step(.addVoter, id)
            }
        }
    }
}
