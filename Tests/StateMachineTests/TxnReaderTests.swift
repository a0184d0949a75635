// Property: a read-only transaction answered on a reading thread says what the same transaction says
// when it is applied. Method: the same transaction both ways.

import Glibc
import KVCodec
import MVCC
import Synchronization
import Testing

@testable import StateMachine

@Suite struct TxnReaderTests {
    private func read(_ machine: Machine, _ txn: Txn) throws -> String {
        try txn.message.withUnsafeBytes { bytes in
            let view = try TxnRequestView(bytes)
            #expect(isReadOnly(view))
            var writer = ByteWriter()
            writer.raw(Array("before".utf8))
            do throws(ApplyError) {
                let revision = try TxnReader.execute(
                    view, store: machine.store, reader: MemoryReader(machine.backend),
                    into: &writer)
                #expect(revision == machine.store.currentRevision)
            } catch {
                #expect(writer.bytes == Array("before".utf8))
                return "\(error)"
            }
            return try Reply.txn([UInt8](writer.bytes.dropFirst(6)))
        }
    }

    @Test func itAgreesWithApplying() throws {
        let machine = Machine()
        machine.grant(7, ttl: 60)
        for number in 0..<2500 {
            machine.put("k\(10_000 + number)", "v", lease: number % 2 == 0 ? 7 : 0)
        }
        machine.put("k10003", "w")
        machine.delete("k10004")
        machine.compact(100)

        let compares: [[Compare]] = [
            [],
            [Compare("k10003", "", Outcome.equal, .value("w"))],
            [Compare("k10003", "", Outcome.equal, .version(1))],
            [Compare("k10004", "", Outcome.equal, .create(0))],
            [Compare("k10004", "", Outcome.equal, .value(""))],
            [Compare("k", "l", Outcome.greater, .version(0))],
            // The only key that differs lies in the third chunk.
            [Compare("k10100", "k12500", Outcome.less, .mod(2501))],
            [Compare("k10100", "k12499", Outcome.less, .mod(2501))],
            [Compare("k10002", "", Outcome.equal, .lease(7))],
            [Compare("x", "\0", Outcome.equal, .version(0))],
            [Compare("x", "\0", Outcome.notEqual, .value("1"))],
        ]
        let operations: [[Operation]] = [
            [],
            [.get(Get("k10003")), .get(Get("k", "l", limit: 2)), .get(Get("k", "l", countOnly: true))],
            [.get(Get("k10003", revision: 100)), .get(Get("k10003", revision: 2502))],
            [.get(Get("k10003", revision: 99))],
            [.get(Get("k10003", revision: -1))],
            [.get(Get("k10003", revision: 9999))],
            [.get(Get("k", "k10003", sortOrder: 2)), .get(Get("nothing"))],
        ]
        var seen: Set<String> = []
        for compare in compares {
            for operation in operations {
                let txn = Txn(compare, then: operation, else: [.get(Get("k10001"))])
                let applied = try machine.reply(txn)
                #expect(try read(machine, txn) == applied)
                seen.insert(applied)
            }
        }
        #expect(seen.count == 7, "\(seen)")
    }

    @Test func anEmptyStoreAnswersToo() throws {
        let machine = Machine()
        #expect(try read(machine, Txn(then: [.get(Get("a", revision: -1))])) == "then {get@1 [] of 0}")
    }

    @Test func allPartsSeeOneStateWhileAnotherThreadWrites() throws {
        // The writer keeps the pairs of a range equal, in one transaction each, and compacts all the
        // time; the reader must see them equal and never hear of the compaction.
        let shared = Shared()
        shared.write("0")
        var thread = pthread_t()
        let started = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let shared = Unmanaged<Shared>.fromOpaque(argument).takeRetainedValue()
                var round = 0
                while !shared.finished.load(ordering: .acquiring) {
                    round += 1
                    let revision = shared.write("\(round)")
                    if round % 3 == 0 { shared.machine.compact(revision) }
                }
                return nil
            }, Unmanaged.passRetained(shared).toOpaque())
        try #require(started == 0)
        for _ in 0..<200_000 where shared.revisions.count < 60 { shared.read() }
        shared.finished.store(true, ordering: .releasing)
        pthread_join(thread, nil)
        #expect(shared.revisions.count == 60)
    }
}

/// A machine that one thread writes to while another one reads.
private final class Shared: @unchecked Sendable {
    let machine = Machine()
    let finished = Atomic<Bool>(false)
    private let store: MVCCStore
    private let reader = MemoryReader(MemoryBackend())
    private let keys = ["k1", "k2", "k3"]
    private let message: [UInt8]
    private(set) var revisions: Set<Int64> = []

    init() {
        store = machine.store
        message =
            Txn(
                [Compare("k1", "k9", Outcome.greater, .version(0))],
                then: keys.map { .get(Get($0)) } + [.get(Get("k", "l"))]
            ).message
    }

    @discardableResult
    func write(_ value: String) -> Int64 {
        machine.txn(Txn(then: keys.map { .put(Put($0, value)) })).revision
    }

    /// All six pairs of the reply show the same value and the header's revision.
    func read() {
        message.withUnsafeBytes { bytes in
            var reply = ByteWriter()
            do {
                let revision = try TxnReader.execute(
                    try TxnRequestView(bytes), store: store, reader: reader, into: &reply)
                revisions.insert(revision)
                let text = try Reply.txn(reply.bytes)
                let pair = "=\(revision - 2)(c2 m\(revision) "
                #expect(text.split(separator: pair, omittingEmptySubsequences: false).count == 7)
            } catch {
                Issue.record("\(error)")
            }
        }
    }
}
