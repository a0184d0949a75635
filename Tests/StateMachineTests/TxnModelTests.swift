// Property: any mix of puts, deletes, leases and nested transactions answers and leaves what a naive
// store does. Method: random commands against a model that keeps every state of the whole key space
// in a dictionary and works on the request values, not on their bytes.

import KVCodec
import MVCC
import Testing

@testable import StateMachine

private struct Pair {
    var value: String
    var create: Int64
    var mod: Int64
    var version: Int64
    var lease: Int64

    func line(_ key: String) -> String {
        let suffix = lease == 0 ? "" : " l\(lease)"
        return "\(key)=\(value)(c\(create) m\(mod) v\(version)\(suffix))"
    }
}

private struct Refusal: Error { var error: ApplyError }

private struct Model {
    /// The state after each revision; the last one is the current.
    var states: [[String: Pair]] = [[:], [:]]
    var leases: Set<Int64> = []
    /// The transaction under way.
    var working: [String: Pair] = [:]
    var wrote = false

    var revision: Int64 { Int64(states.count) - 1 }
    var seen: Int64 { wrote ? revision + 1 : revision }

    mutating func begin() {
        working = states[states.count - 1]
        wrote = false
    }

    mutating func commit() {
        if wrote { states.append(working) }
        wrote = false
    }

    func select(_ state: [String: Pair], _ key: String, _ end: String) -> [String] {
        state.keys.filter { candidate in
            if end.isEmpty { return candidate == key }
            let order = bytes(candidate)
            if order.lexicographicallyPrecedes(bytes(key)) { return false }
            return end == "\0" || order.lexicographicallyPrecedes(bytes(end))
        }.sorted()
    }

    func holds(_ compare: Compare) -> Bool {
        let state = states[states.count - 1]
        let keys = select(state, compare.key, compare.end)
        let judge = { (pair: Pair) -> Bool in
            let order: Int
            switch compare.operand {
            case .version(let number)?: order = sign(pair.version - number)
            case .create(let number)?: order = sign(pair.create - number)
            case .mod(let number)?: order = sign(pair.mod - number)
            case .lease(let number)?: order = sign(pair.lease - number)
            case .value(let value)?:
                order = pair.value < value ? -1 : pair.value == value ? 0 : 1
            case nil: order = 0
            }
            return [order == 0, order > 0, order < 0, order != 0][Int(compare.result)]
        }
        if keys.isEmpty {
            if case .value = compare.operand { return false }
            return judge(Pair(value: "", create: 0, mod: 0, version: 0, lease: 0))
        }
        return keys.allSatisfy { key in state[key].map(judge) ?? false }
    }

    mutating func put(_ put: Put) -> String {
        let old = working[put.key]
        let next = revision + 1
        working[put.key] = Pair(
            value: put.ignoreValue ? old?.value ?? "" : put.value, create: old?.create ?? next,
            mod: next, version: (old?.version ?? 0) + 1,
            lease: put.ignoreLease ? old?.lease ?? 0 : put.lease)
        wrote = true
        return put.prevKV ? old.map { " was \($0.line(put.key))" } ?? "" : ""
    }

    mutating func delete(_ delete: Delete) -> String {
        let keys = select(working, delete.key, delete.end)
        let lines = keys.compactMap { key in working[key]?.line(key) }
        for key in keys { working[key] = nil }
        if !keys.isEmpty { wrote = true }
        return " \(keys.count)"
            + (delete.prevKV && !lines.isEmpty ? " was \(Reply.list(lines))" : "")
    }

    func get(_ get: Get) -> String {
        let state =
            get.revision <= 0 || get.revision == revision + 1
            ? working : states[Int(get.revision)]
        var keys = select(state, get.key, get.end)
        let count = keys.count
        var more = false
        if get.countOnly {
            keys = []
        } else if get.limit > 0, keys.count > Int(get.limit) {
            keys = Array(keys.prefix(Int(get.limit)))
            more = true
        }
        return Reply.range(
            "@\(seen)", keys.compactMap { state[$0]?.line($0) }, more: more, count: Int64(count))
    }

    /// The answers of all comparisons on the way, before any write.
    func path(_ txn: Txn) -> [Bool] {
        let taken = txn.compare.allSatisfy(holds)
        return (taken ? txn.success : txn.failure).reduce([taken]) { path, operation in
            if case .txn(let nested) = operation { path + self.path(nested) } else { path }
        }
    }

    /// Keys that exist, followed through the deletes on the way.
    func check(_ txn: Txn, _ path: inout ArraySlice<Bool>, _ alive: inout Set<String>) throws {
        let taken = path.removeFirst()
        for operation in taken ? txn.success : txn.failure {
            switch operation {
            case .get(let get):
                if get.revision > revision { throw Refusal(error: .futureRevision) }
            case .put(let put):
                if put.lease != 0, !leases.contains(put.lease) {
                    throw Refusal(error: .leaseNotFound)
                }
                if put.ignoreValue || put.ignoreLease, !alive.contains(put.key) {
                    throw Refusal(error: .keyNotFound)
                }
            case .delete(let delete):
                for key in select(states[states.count - 1], delete.key, delete.end) {
                    alive.remove(key)
                }
            case .txn(let nested): try check(nested, &path, &alive)
            case .empty: break
            }
        }
    }

    mutating func carryOut(_ txn: Txn, _ path: inout ArraySlice<Bool>) -> String {
        let taken = path.removeFirst()
        var parts: [String] = []
        for operation in taken ? txn.success : txn.failure {
            switch operation {
            case .get(let get): parts.append(self.get(get))
            case .put(let put):
                let previous = self.put(put)
                parts.append("put@\(seen)\(previous)")
            case .delete(let delete):
                let outcome = self.delete(delete)
                parts.append("delete@\(seen)\(outcome)")
            case .txn(let nested): parts.append(carryOut(nested, &path))
            case .empty: break
            }
        }
        return Reply.txn("", taken, parts)
    }

    mutating func txn(_ txn: Txn) -> String {
        if overlaps(txn.success) == nil || overlaps(txn.failure) == nil {
            return "\(ApplyError.duplicateKey)"
        }
        begin()
        let path = self.path(txn)
        do {
            var rest = path[...]
            var alive = Set(working.keys)
            try check(txn, &rest, &alive)
        } catch {
            return "\((error as? Refusal)?.error as Any? ?? error)"
        }
        var rest = path[...]
        defer { commit() }
        return carryOut(txn, &rest)
    }

    /// Puts and deletes of a branch over the few keys there are; nil when the branch is refused.
    private func overlaps(_ operations: [Operation]) -> (puts: Set<String>, gone: Set<String>)? {
        var gone: Set<String> = []
        var puts: Set<String> = []
        for case .delete(let delete) in operations where delete.end != "\0" {
            let all = Dictionary(
                uniqueKeysWithValues: RandomCommands.keys.map {
                    ($0, Pair(value: "", create: 0, mod: 0, version: 0, lease: 0))
                })
            gone.formUnion(select(all, delete.key, delete.end))
        }
        for case .txn(let nested) in operations {
            guard let then = overlaps(nested.success), let other = overlaps(nested.failure) else {
                return nil
            }
            let both = then.puts.union(other.puts)
            if !both.isDisjoint(with: puts) || !both.isDisjoint(with: gone) { return nil }
            puts.formUnion(both)
            gone.formUnion(then.gone.union(other.gone))
        }
        for case .put(let put) in operations {
            if gone.contains(put.key) || !puts.insert(put.key).inserted { return nil }
        }
        return (puts, gone)
    }

    var lines: [String] {
        let state = states[states.count - 1]
        return state.keys.sorted().compactMap { state[$0]?.line($0) }
    }
}

private func sign(_ number: Int64) -> Int { number == 0 ? 0 : number < 0 ? -1 : 1 }

@Suite struct TxnModelTests {
    @Test(arguments: [10, 20, 30, 40, 50, 60, 70, 80] as [UInt64])
    func randomCommandsAgreeWithTheModel(seed: UInt64) throws {
        var commands = RandomCommands(seed: seed)
        let machine = Machine()
        var model = Model()
        var answered = 0
        for step in 0..<900 {
            commands.revision = model.revision
            switch commands.random.below(20) {
            case 0..<12:
                let txn = commands.txn()
                let reply = try machine.reply(txn)
                let expected = model.txn(txn)
                #expect(reply == expected, "step \(step): \(txn)")
                if reply != expected { return }
                if reply.contains("{") { answered += 1 }
            case 12..<15:
                let put = commands.put()
                let result = machine.put(put)
                model.begin()
                let hasLease = put.lease == 0 || model.leases.contains(put.lease)
                let exists = model.working[put.key] != nil
                if !hasLease {
                    #expect(result.error == .leaseNotFound)
                } else if !exists, put.ignoreValue || put.ignoreLease {
                    #expect(result.error == .keyNotFound)
                } else {
                    #expect(try Reply.put(result.body) == "put" + model.put(put))
                    model.commit()
                }
            case 15..<17:
                let delete = commands.delete()
                let result = machine.delete(delete.key, delete.end, prevKV: delete.prevKV)
                model.begin()
                #expect(try Reply.delete(result.body) == "delete" + model.delete(delete))
                model.commit()
            case 17, 18:
                let id = Int64(1 + commands.random.below(5))
                let result = machine.grant(id, ttl: 60)
                #expect(result.error == (model.leases.insert(id).inserted ? nil : .leaseExists))
            default:
                let id = Int64(1 + commands.random.below(5))
                let result = machine.revoke(id)
                #expect(
                    result.error == (model.leases.remove(id) == nil ? .leaseNotFound : nil))
                model.begin()
                for (key, pair) in model.working where pair.lease == id {
                    model.working[key] = nil
                    model.wrote = true
                }
                model.commit()
            }
            #expect(machine.store.currentRevision == model.revision)
            if step % 10 == 0 {
                #expect(try machine.pairs() == Reply.list(model.lines))
                for id in model.leases {
                    let keys = model.states[model.states.count - 1]
                        .filter { $0.value.lease == id }.keys.sorted()
                    #expect(machine.keys(ofLease: id) == keys)
                }
            }
        }
        #expect(answered > 200)
    }
}
