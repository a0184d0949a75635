// Random but meaningful commands over a few keys and leases.

import KVCodec
import MVCC

@testable import StateMachine

struct RandomCommands {
    var random: SplitMix
    /// Raised by the caller so that revisions in requests are near the real one.
    var revision: Int64 = 1
    var alarms = true

    init(seed: UInt64) { random = SplitMix(seed: seed) }

    static let keys = ["a", "b", "c", "ca", "d", "e"]

    mutating func key() -> String { Self.keys[random.below(Self.keys.count)] }

    mutating func end() -> String {
        switch random.below(6) {
        case 0: "\0"
        case 1, 2: ["b", "c", "d", "z"][random.below(4)]
        default: ""
        }
    }

    mutating func lease() -> Int64 { random.chance(70) ? 0 : Int64(1 + random.below(5)) }

    mutating func value() -> String { ["", "x", "yy", "z"][random.below(4)] }

    mutating func put() -> Put {
        let keepsValue = random.chance(15)
        let keepsLease = random.chance(15)
        return Put(
            key(), keepsValue ? "" : value(), lease: keepsLease ? 0 : lease(),
            prevKV: random.chance(30), ignoreValue: keepsValue, ignoreLease: keepsLease)
    }

    mutating func get() -> Get {
        let revision = random.chance(25) ? max(0, self.revision - Int64(random.below(8)) + 1) : 0
        return Get(
            key(), end(), limit: random.chance(25) ? Int64(random.below(3)) : 0,
            revision: revision, countOnly: random.chance(15))
    }

    mutating func delete() -> Delete { Delete(key(), end(), prevKV: random.chance(30)) }

    mutating func compare() -> Compare {
        let operand: Compare.Operand =
            switch random.below(5) {
            case 0: .version(Int64(random.below(4)))
            case 1: .create(revision - Int64(random.below(20)))
            case 2: .mod(revision - Int64(random.below(10)))
            case 3: .value(value())
            default: .lease(Int64(random.below(5)))
            }
        return Compare(key(), end(), Int64(random.below(4)), operand)
    }

    mutating func operations(depth: Int) -> [Operation] {
        var list: [Operation] = []
        for _ in 0..<random.below(4) {
            switch random.below(depth < 3 ? 9 : 7) {
            case 0, 1: list.append(.get(get()))
            case 2, 3, 4: list.append(.put(put()))
            case 5, 6: list.append(.delete(delete()))
            default: list.append(.txn(txn(depth: depth + 1)))
            }
        }
        return list
    }

    mutating func txn(depth: Int = 0) -> Txn {
        var compares: [Compare] = []
        for _ in 0..<random.below(3) { compares.append(compare()) }
        return Txn(
            compares, then: operations(depth: depth), else: operations(depth: depth))
    }

    mutating func command() -> [UInt8] {
        switch random.below(100) {
        case ..<35: return Command.encode(kind: .put, body: put().message)
        case ..<50: return Command.encode(kind: .deleteRange, body: delete().message)
        case ..<80: return Command.encode(kind: .txn, body: txn().message)
        case ..<87: return Command.leaseGrant(id: Int64(random.below(6)), ttlSeconds: 60)
        case ..<91:
            return Command.leaseRevoke(
                id: Int64(random.below(6)), origin: random.chance(50) ? .core : .client)
        case ..<93:
            return Command.leaseCheckpoint([
                (id: Int64(random.below(6)), remainingSeconds: Int64(random.below(50)))
            ])
        case ..<95: return Command.compact(revision: revision - Int64(random.below(12)))
        case ..<98 where alarms:
            return Command.alarm(
                random.chance(20) ? .activate : .deactivate, member: UInt64(random.below(2)),
                type: random.chance(50) ? .noSpace : .corrupt)
        case ..<99 where random.chance(30):
            return Command.memberURLs(
                id: UInt64(1 + random.below(3)), ["http://\(random.below(3))"])
        case ..<99:
            return Command.memberUpdate(
                Member(
                    id: UInt64(1 + random.below(3)), name: value(), peerURLs: [],
                    clientURLs: ["http://\(random.below(9))"]))
        case ..<100 where random.chance(60): return Command.clusterVersion("3.\(random.below(9)).0")
        default: return []
        }
    }
}

extension RandomCommands {
    mutating func membershipChange() -> MembershipChange? {
        let id = UInt64(1 + random.below(9))
        switch random.below(5) {
        case 0, 1:
            return .add(
                Member(
                    id: id, name: "", peerURLs: ["http://\(random.below(12))"], clientURLs: [],
                    isLearner: random.chance(50)))
        case 2: return .remove(id)
        case 3: return .promote(id)
        default: return nil
        }
    }
}

/// All that a result tells, as text.
func describe(_ result: ApplyResult) -> String {
    let events = result.events.map { "\($0.revision) \($0.reason) \($0.bytes)" } ?? "none"
    return "\(result.error.map { "\($0)" } ?? "ok") @\(result.revision) \(result.body) "
        + "\(result.effect) events: \(events)"
}
