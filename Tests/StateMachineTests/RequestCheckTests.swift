// Property: every request that etcd refuses for its form is refused with the same error, and nothing
// else is. Method: a table with a line per condition of etcd's api/v3rpc/key.go, and the overlap
// rules held against a naive model over all operations on a few keys.

import KVCodec
import Testing

@testable import StateMachine

private func verdict(_ txn: Txn, maxOps: Int = 128) -> ApplyError? {
    txn.message.withUnsafeBytes { bytes in
        do {
            try RequestCheck.txn(try TxnRequestView(bytes), maxOps: maxOps)
            return nil
        } catch {
            return error as? ApplyError
        }
    }
}

private func verdict(_ put: Put) -> ApplyError? {
    put.message.withUnsafeBytes { bytes in
        do {
            try RequestCheck.put(try PutRequestView(bytes))
            return nil
        } catch {
            return error as? ApplyError
        }
    }
}

private func verdict(_ get: Get) -> ApplyError? {
    get.message.withUnsafeBytes { bytes in
        do {
            try RequestCheck.range(try RangeRequestView(bytes))
            return nil
        } catch {
            return error as? ApplyError
        }
    }
}

@Suite struct RequestCheckTests {
    @Test func putsAreCheckedForKeyThenValueThenLease() {
        #expect(verdict(Put("k")) == nil)
        #expect(verdict(Put("k", "v", lease: 1, prevKV: true)) == nil)
        #expect(verdict(Put("k", "", lease: 1, ignoreValue: true)) == nil)
        #expect(verdict(Put("k", "v", ignoreLease: true)) == nil)
        #expect(verdict(Put("", "v", lease: 1, ignoreValue: true, ignoreLease: true)) == .keyEmpty)
        #expect(
            verdict(Put("k", "v", lease: 1, ignoreValue: true, ignoreLease: true))
                == .valueProvided)
        #expect(verdict(Put("k", "", lease: -1, ignoreLease: true)) == .leaseProvided)
    }

    @Test func rangesAreCheckedForKeyThenOrderThenTarget() {
        for order in 0...2 as ClosedRange<Int64> {
            for target in 0...4 as ClosedRange<Int64> {
                #expect(verdict(Get("k", sortOrder: order, sortTarget: target)) == nil)
            }
        }
        #expect(verdict(Get("", sortOrder: 9)) == .keyEmpty)
        #expect(verdict(Get("k", sortOrder: 3)) == .invalidSortOption)
        #expect(verdict(Get("k", sortOrder: -1)) == .invalidSortOption)
        #expect(verdict(Get("k", sortTarget: 5)) == .invalidSortOption)
        #expect(verdict(Get("k", sortTarget: -1)) == .invalidSortOption)
    }

    @Test func theLongestListOfALevelCounts() {
        let compare = Compare("k", "", Outcome.equal, .version(0))
        let gets = { (count: Int) in [Operation](repeating: .get(Get("k")), count: count) }
        #expect(verdict(Txn([compare, compare], then: gets(2), else: gets(2)), maxOps: 2) == nil)
        #expect(verdict(Txn(then: gets(3)), maxOps: 2) == .tooManyOperations)
        #expect(verdict(Txn(else: gets(3)), maxOps: 2) == .tooManyOperations)
        #expect(
            verdict(Txn([compare, compare, compare]), maxOps: 2) == .tooManyOperations)
    }

    @Test func nestedLevelsGetWhatTheirLevelLeaves() {
        let inner = { (count: Int) in
            Operation.txn(Txn(then: [Operation](repeating: .get(Get("k")), count: count)))
        }
        #expect(verdict(Txn(then: [inner(3)]), maxOps: 4) == nil)
        #expect(verdict(Txn(then: [inner(4)]), maxOps: 4) == .tooManyOperations)
        #expect(verdict(Txn(then: [inner(2), inner(2)]), maxOps: 4) == nil)
        #expect(verdict(Txn(then: [inner(2), inner(3)]), maxOps: 4) == .tooManyOperations)
        #expect(verdict(Txn(else: [inner(4)]), maxOps: 4) == .tooManyOperations)
        // A level that uses everything up may still hold empty transactions.
        #expect(verdict(Txn(then: [inner(0)]), maxOps: 1) == nil)
    }

    /// Ranges deleted by many nested transactions beside many deletes of their own level: checked in the time that it
    /// takes to sort them, since a member may let any number in.
    @Test func manyNestedDeletesCostNoMoreThanSorting() {
        func range(_ number: Int) -> Operation {
            let name = String(number * 2 + 1_000_000)
            return .delete(Delete("k\(name)", "k\(name)x"))
        }
        let own = (0..<20_000).map(range)
        let nested = (20_000..<40_000).map { Operation.txn(Txn(then: [range($0)])) }
        let free = Operation.txn(Txn(then: [.put(Put("k1000001"))]))
        let taken = Operation.txn(Txn(then: [.put(Put("k1060000a"))]))
        let start = ContinuousClock.now
        #expect(verdict(Txn(then: own + nested + [free]), maxOps: .max) == nil)
        #expect(verdict(Txn(then: own + nested + [taken]), maxOps: .max) == .duplicateKey)
        #expect(ContinuousClock.now - start < .seconds(10))
    }

    @Test func everythingInsideATransactionIsChecked() {
        #expect(verdict(Txn([Compare("", "", Outcome.equal, .version(1))])) == .keyEmpty)
        #expect(verdict(Txn(then: [.get(Get(""))])) == .keyEmpty)
        #expect(verdict(Txn(else: [.put(Put(""))])) == .keyEmpty)
        #expect(verdict(Txn(then: [.delete(Delete(""))])) == .keyEmpty)
        #expect(verdict(Txn(then: [.get(Get("k", sortTarget: 9))])) == .invalidSortOption)
        #expect(verdict(Txn(else: [.put(Put("k", "v", ignoreValue: true))])) == .valueProvided)
        #expect(
            verdict(Txn(then: [.put(Put("k", lease: 1, ignoreLease: true))])) == .leaseProvided)
        #expect(verdict(Txn(then: [.empty])) == .keyNotFound)
        #expect(verdict(Txn(then: [.txn(Txn(else: [.empty]))])) == .keyNotFound)
    }

    @Test func theCountComesFirstThenComparesThenSuccessThenFailureThenOverlaps() {
        let badCompare = Compare("", "", Outcome.equal, .version(1))
        let badPut = Operation.put(Put("k", "v", ignoreValue: true))
        let twice: [Operation] = [.put(Put("a")), .put(Put("a"))]
        #expect(verdict(Txn([badCompare], then: twice), maxOps: 1) == .tooManyOperations)
        #expect(verdict(Txn([badCompare], then: [badPut])) == .keyEmpty)
        #expect(verdict(Txn(then: [badPut], else: [.empty])) == .valueProvided)
        #expect(verdict(Txn(then: twice, else: [.empty])) == .keyNotFound)
    }

    @Test func aBranchPutsAKeyOnce() {
        #expect(verdict(Txn(then: [.put(Put("a")), .put(Put("a"))])) == .duplicateKey)
        #expect(verdict(Txn(else: [.put(Put("a")), .put(Put("a"))])) == .duplicateKey)
        #expect(verdict(Txn(then: [.put(Put("a"))], else: [.put(Put("a"))])) == nil)
        #expect(verdict(Txn(then: [.put(Put("a")), .put(Put("b"))])) == nil)
        #expect(verdict(Txn(then: [.put(Put("a")), .get(Get("a"))])) == nil)
    }

    @Test func aBranchDoesNotPutWhatItDeletes() {
        #expect(verdict(Txn(then: [.put(Put("a")), .delete(Delete("a"))])) == .duplicateKey)
        #expect(verdict(Txn(then: [.delete(Delete("a")), .put(Put("a"))])) == .duplicateKey)
        #expect(verdict(Txn(then: [.delete(Delete("a", "c")), .put(Put("b"))])) == .duplicateKey)
        #expect(verdict(Txn(then: [.delete(Delete("a", "c")), .put(Put("c"))])) == nil)
        #expect(verdict(Txn(then: [.delete(Delete("a", "c")), .put(Put("a\0"))])) == .duplicateKey)
        #expect(verdict(Txn(then: [.delete(Delete("a")), .put(Put("a\0"))])) == nil)
        #expect(verdict(Txn(then: [.delete(Delete("c", "a")), .put(Put("b"))])) == nil)
        #expect(verdict(Txn(then: [.delete(Delete("a")), .delete(Delete("a", "z"))])) == nil)
        // etcd reads the zero byte of "from key on" as a key here.
        #expect(verdict(Txn(then: [.delete(Delete("a", "\0")), .put(Put("b"))])) == nil)
    }

    @Test func nestedBranchesExcludeEachOtherOnly() {
        let put = { (key: String) in Operation.put(Put(key)) }
        let nested = { (then: [Operation], otherwise: [Operation]) in
            Operation.txn(Txn(then: then, else: otherwise))
        }
        #expect(verdict(Txn(then: [nested([put("a")], [put("a")])])) == nil)
        #expect(verdict(Txn(then: [nested([put("a")], []), put("a")])) == .duplicateKey)
        #expect(verdict(Txn(then: [put("a"), nested([], [put("a")])])) == .duplicateKey)
        #expect(
            verdict(Txn(then: [nested([put("a")], []), nested([put("a")], [])])) == .duplicateKey)
        #expect(
            verdict(Txn(then: [nested([put("a")], []), nested([], [put("a")])])) == .duplicateKey)
        #expect(
            verdict(Txn(then: [nested([put("a")], []), .delete(Delete("a"))])) == .duplicateKey)
        #expect(
            verdict(Txn(then: [nested([.delete(Delete("a"))], []), put("a")])) == .duplicateKey)
        // Only deletes of earlier siblings are held against a nested put.
        #expect(
            verdict(
                Txn(then: [nested([.delete(Delete("a"))], []), nested([put("a")], [])]))
                == .duplicateKey)
        #expect(
            verdict(Txn(then: [nested([put("a")], []), nested([.delete(Delete("a"))], [])]))
                == nil)
        #expect(
            verdict(Txn(then: [nested([nested([put("a")], [])], []), put("a")])) == .duplicateKey)
    }

    @Test func overlapsAgreeWithANaiveModel() {
        var random = SplitMix(seed: 11)
        var refused = 0
        for _ in 0..<6000 {
            let txn = Txn(
                then: randomOperations(&random, depth: 0), else: randomOperations(&random, depth: 1)
            )
            let expected: ApplyError? =
                naiveOverlap(txn.success) == nil || naiveOverlap(txn.failure) == nil
                ? .duplicateKey : nil
            if expected != nil { refused += 1 }
            #expect(verdict(txn, maxOps: 1000) == expected, "\(txn)")
        }
        #expect((1500...4500).contains(refused))
    }

    @Test func manyOperationsTakeLittleTime() {
        // 3 × 42 operations a level: 40 × 40 × 40 puts and as many deletes, all different.
        let leaf = { (prefix: Int) in
            Operation.txn(
                Txn(
                    then: (0..<40).map { .put(Put("\(prefix)/\($0)")) },
                    else: (0..<40).map { .delete(Delete("\(prefix)/\($0)x", "\(prefix)/\($0)y")) }))
        }
        let middle = { (prefix: Int) in
            Operation.txn(Txn(then: (0..<20).map { leaf(prefix * 100 + $0) }))
        }
        let txn = Txn(then: (0..<20).map(middle))
        let clock = ContinuousClock()
        let message = txn.message
        var error: ApplyError?
        let elapsed = clock.measure {
            message.withUnsafeBytes { bytes in
                do {
                    try RequestCheck.txn(try TxnRequestView(bytes), maxOps: 128)
                } catch let refusal {
                    error = refusal as? ApplyError
                }
            }
        }
        #expect(error == nil)
        #expect(elapsed < .seconds(5))
    }

    @Test func textsAreEtcds() {
        let expected: [ApplyError: String] = [
            .keyEmpty: "etcdserver: key is not provided",
            .keyNotFound: "etcdserver: key not found",
            .valueProvided: "etcdserver: value is provided",
            .leaseProvided: "etcdserver: lease is provided",
            .tooManyOperations: "etcdserver: too many operations in txn request",
            .duplicateKey: "etcdserver: duplicate key given in txn request",
            .invalidSortOption: "etcdserver: invalid sort option",
            .compacted: "etcdserver: mvcc: required revision has been compacted",
            .futureRevision: "etcdserver: mvcc: required revision is a future revision",
            .noSpace: "etcdserver: mvcc: database space exceeded",
            .leaseNotFound: "etcdserver: requested lease not found",
            .leaseExists: "etcdserver: lease already exists",
            .leaseTTLTooLarge: "etcdserver: too large lease TTL",
            .corrupt: "etcdserver: corrupt cluster",
            .memberNotFound: "etcdserver: member not found",
            .memberExists: "etcdserver: member ID already exist",
            .peerURLExists: "etcdserver: Peer URLs already exists",
            .notLearner: "etcdserver: can only promote a learner member",
        ]
        for error in ApplyError.allCases {
            if let text = expected[error] {
                #expect(error.text == text)
            } else {
                #expect(error.text.hasPrefix("moonraft: "))
            }
        }
    }

    @Test func quotaCostIsThatOfTheDearerBranch() {
        let cost = { (txn: Txn) in
            txn.message.withUnsafeBytes { bytes in
                (try? TxnRequestView(bytes)).map(QuotaCost.txn) ?? -1
            }
        }
        #expect(cost(Txn(then: [.get(Get("a"))], else: [.delete(Delete("a"))])) == 0)
        #expect(cost(Txn(then: [.put(Put("ab", "cde"))])) == 256 + 5)
        #expect(
            cost(
                Txn(
                    then: [.put(Put("a"))],
                    else: [.put(Put("a")), .txn(Txn(then: [.put(Put("b", "x"))]))])) == 257 + 258)
    }

    @Test func readOnlyMeansRangesOnly() {
        let read = { (txn: Txn) in
            txn.message.withUnsafeBytes { bytes -> (Bool, Bool)? in
                (try? TxnRequestView(bytes)).map { (isReadOnly($0), isSerializable($0)) }
            }
        }
        let local = Operation.get(Get("a", serializable: true))
        let linear = Operation.get(Get("a"))
        #expect(read(Txn())! == (true, true))
        #expect(read(Txn(then: [local], else: [local]))! == (true, true))
        #expect(read(Txn(then: [local], else: [linear]))! == (true, false))
        #expect(read(Txn(then: [linear], else: [local]))! == (true, false))
        #expect(read(Txn(then: [.put(Put("a"))]))! == (false, false))
        #expect(read(Txn(else: [.delete(Delete("a"))]))! == (false, false))
        #expect(read(Txn(then: [.txn(Txn(then: [local]))]))! == (false, false))
    }
}

// MARK: A naive model of the overlap rules

private let universe = ["a", "a\0", "b", "c", "d"]

private func randomOperations(_ random: inout SplitMix, depth: Int) -> [Operation] {
    (0..<random.below(depth == 0 ? 5 : 4)).map { _ in
        switch random.below(depth < 2 ? 7 : 5) {
        case 0, 1: .put(Put(universe[random.below(5)]))
        case 2: .delete(Delete(universe[random.below(5)]))
        case 3: .delete(Delete(universe[random.below(5)], universe[random.below(5)]))
        case 4: .delete(Delete(universe[random.below(5)], "\0"))
        default:
            .txn(
                Txn(
                    then: randomOperations(&random, depth: depth + 1),
                    else: randomOperations(&random, depth: depth + 1)))
        }
    }
}

/// Puts and deleted keys of a branch, by looking at every key there is; nil when it is refused.
private func naiveOverlap(_ operations: [Operation]) -> (puts: Set<String>, deletes: Set<String>)? {
    var deletes: Set<String> = []
    var puts: Set<String> = []
    for case .delete(let delete) in operations where delete.end != "\0" {
        for key in universe {
            let isIn =
                delete.end.isEmpty
                ? key == delete.key
                : bytesPrecede(delete.key, key, orEqual: true)
                    && bytesPrecede(key, delete.end, orEqual: false)
            if isIn { deletes.insert(key) }
        }
    }
    for case .txn(let txn) in operations {
        guard let then = naiveOverlap(txn.success), let other = naiveOverlap(txn.failure) else {
            return nil
        }
        let nested = then.puts.union(other.puts)
        if !nested.isDisjoint(with: puts) || !nested.isDisjoint(with: deletes) { return nil }
        puts.formUnion(nested)
        deletes.formUnion(then.deletes)
        deletes.formUnion(other.deletes)
    }
    for case .put(let put) in operations {
        if deletes.contains(put.key) || !puts.insert(put.key).inserted { return nil }
    }
    return (puts, deletes)
}

private func bytesPrecede(_ left: String, _ right: String, orEqual: Bool) -> Bool {
    let (a, b) = (bytes(left), bytes(right))
    return a.lexicographicallyPrecedes(b) || (orEqual && a == b)
}
