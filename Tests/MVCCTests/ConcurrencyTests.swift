// Readers on threads of their own must each see whole revisions while one writer commits, freezes,
// releases and compacts: money moves between accounts, and every read of all accounts must add up.
// `swift test --sanitize=thread` runs it too.

import Glibc
import KVCodec
import Synchronization
import Testing

@testable import MVCC

/// Runs `body` on a thread; `join` waits for it.
private final class TestThread: @unchecked Sendable {
    private var handle = pthread_t()

    init(_ body: @escaping @Sendable () -> Void) {
        final class Box {
            let body: @Sendable () -> Void
            init(_ body: @escaping @Sendable () -> Void) { self.body = body }
        }
        let box = Unmanaged.passRetained(Box(body)).toOpaque()
        let status = pthread_create(
            &handle, nil,
            { raw in
                guard let raw else { return nil }
                Unmanaged<Box>.fromOpaque(raw).takeRetainedValue().body()
                return nil
            }, box)
        precondition(status == 0)
    }

    func join() { pthread_join(handle, nil) }
}

@Suite struct ConcurrencyTests {
    private static let accounts = 150
    private static let balance = 1_000

    private static func account(_ number: Int) -> Bytes { bytes("/accounts/\(number)") }

    private static func total(_ pairs: [Pair]) -> Int {
        pairs.reduce(0) { $0 + (Int(String(decoding: $1.value, as: UTF8.self)) ?? 0) }
    }

    @Test func everyReadAddsUpWhileTheWriterMovesOn() throws {
        var configuration = MVCCConfiguration()
        configuration.rangeChunkKeys = 16
        configuration.pinnedReaders = 3
        configuration.recentRecordBytes = 20_000
        let store = MVCCStore(configuration: configuration)
        let records = InMemoryRecords()
        store.transact(records) { store in
            for number in 0..<Self.accounts { store.put(Self.account(number), bytes("\(Self.balance)")) }
        }
        let isDone = Atomic<Bool>(false)
        let reads = Atomic<Int>(0)
        let failures = Mutex<[String]>([])
        let readers = (0..<4).map { seed in
            TestThread {
                var random = SeededGenerator(UInt64(seed))
                let reader = records.reader()
                while !isDone.load(ordering: .relaxed) {
                    if let failure = Self.read(store, reader, &random) {
                        failures.withLock { $0.append(failure) }
                    }
                    reads.add(1, ordering: .relaxed)
                }
            }
        }
        var random = SeededGenerator(99)
        var deletes: [Revision] = []
        for step in 0..<1_500 {
            store.transact(records) { Self.transfer($0, &random) }
            if step % 10 == 0 { deletes += store.compactionStep(maxKeys: 20) ?? [] }
            if step % 25 == 0 {
                store.flush(records, deleting: deletes)
                deletes = []
            }
            if step % 100 == 99 { try store.compact(to: store.currentRevision - 20) }
        }
        while reads.load(ordering: .relaxed) < 200 { usleep(1_000) }
        isDone.store(true, ordering: .relaxed)
        for reader in readers { reader.join() }
        #expect(failures.withLock { $0 } == [])
        store.index.checked()
    }

    /// Two accounts change, one of them perhaps vanishes and comes back.
    private static func transfer(_ store: MVCCStore, _ random: inout SeededGenerator) {
        let from = Int.random(in: 0..<accounts, using: &random)
        let to = (from + Int.random(in: 1..<accounts, using: &random)) % accounts
        func value(_ number: Int) -> Int {
            account(number).withUnsafeBytes { key in
                guard let metadata = store.metadata(inTransaction: key),
                    let view = try? KeyValueView(store.record(of: metadata))
                else { return 0 }
                return Int(String(decoding: view.value, as: UTF8.self)) ?? 0
            }
        }
        let amount = random.chance(1, in: 10) ? value(from) : min(7, value(from))
        let rest = value(from) - amount
        let sum = value(to) + amount
        if rest == 0 { store.delete(account(from)) } else { store.put(account(from), bytes("\(rest)")) }
        store.put(account(to), bytes("\(sum)"))
    }

    private static func read(
        _ store: MVCCStore, _ reader: InMemoryReader, _ random: inout SeededGenerator
    ) -> String? {
        let all = accounts * balance
        do {
            let current = store.currentRevision
            switch Int.random(in: 0..<5, using: &random) {
            case 0:
                let (pairs, result) = try store.range([0], [0], reader)
                if total(pairs) != all { return "\(total(pairs)) at \(result.revision)" }
                if Int(result.count) != pairs.count { return "count \(result.count) of \(pairs.count)" }
            case 1:
                let past = max(2, current - Int64.random(in: 0...25, using: &random))
                let (pairs, result) = try store.range([0], [0], reader) { $0.revision = past }
                if total(pairs) != all { return "\(total(pairs)) at \(past) of \(result.revision)" }
            case 2:
                let (pairs, _) = try store.range([0], [0], reader) {
                    $0.sortTarget = SortTarget.value
                    $0.sortOrder = SortOrder.descend
                }
                if total(pairs) != all { return "\(total(pairs)) sorted" }
            case 3:
                var next = max(2, current - 15)
                let from = next
                var failure: String?
                let end = try store.history(
                    from: from, through: current, maxEvents: 1_000, maxBytes: .max, reader: reader
                ) { batch in
                    if batch.revision != next { failure = "\(batch.revision) after \(next)" }
                    next = batch.revision + 1
                }
                if end != current + 1 { return "history ended at \(end) of \(current)" }
                return failure
            default:
                let hash = try store.hash(revision: current, reader: reader)
                let again = try store.hash(revision: current, reader: reader)
                if hash.compactRevision == again.compactRevision && hash.hash != again.hash {
                    return "hash at \(current) changed"
                }
            }
        } catch MVCCError.compacted {
            return nil
        } catch {
            return "\(error)"
        }
        return nil
    }
}
