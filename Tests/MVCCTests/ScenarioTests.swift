// Scenarios in testdata/*.txt: what is done, a line of dashes, what is seen. They read as prose and are
// compared whole; REWRITE=1 writes what was seen into the files for review in the diff.
//
//     put KEY VALUE [lease=N]      one transaction          del KEY [END]
//     txn put …; del …; …          several changes at one revision
//     range KEY [END] [rev=N limit=N sort=create|mod|version|value|key desc keys count minmod=N maxmod=N
//                      mincreate=N maxcreate=N]
//     history FROM [THROUGH] [max=N]        compact R        step N (one physical step)
//     finish (physical compaction to its end)                flush (freeze, commit, release)
//     restart (restore from what is committed)               records (what the backend holds)
//     show (revision, compaction revision, keys)
//
// END `*` is everything from KEY on, `^` is every key with prefix KEY.

import Foundation
import KVCodec
import Testing

@testable import MVCC

private final class Scenario {
    var store = MVCCStore()
    let records = InMemoryRecords()
    private var deletes: [Revision] = []
    private var durable: (last: Int64, finished: Int64, scheduled: Int64) = (1, -1, -1)

    func run(_ line: String) -> [String] {
        let words = line.split(separator: " ").map(String.init)
        let arguments = Array(words.dropFirst())
        do {
            switch words[0] {
            case "put", "del": return try changed { try change(words) }
            case "txn":
                return try changed {
                    for part in line.dropFirst(4).split(separator: ";") {
                        try change(part.split(separator: " ").map(String.init))
                    }
                }
            case "range": return try range(arguments)
            case "history": return try history(arguments)
            case "compact":
                try store.compact(to: number(arguments[0]))
                return ["compacted at \(store.compactRevision)"]
            case "step":
                guard let removed = store.compactionStep(maxKeys: Int(number(arguments[0]))) else {
                    return ["nothing left to compact"]
                }
                deletes += removed
                return ["removed " + list(removed)]
            case "finish":
                while let removed = store.compactionStep(maxKeys: 1) { deletes += removed }
                flush()
                return records(of: records)
            case "flush":
                flush()
                return ["committed up to \(durable.last)"]
            case "restart": return try restart()
            case "records": return records(of: records)
            case "show":
                return ["revision \(store.currentRevision) compacted \(store.compactRevision) keys \(store.keyCount)"]
            default: return ["unknown command \(words[0])"]
            }
        } catch MVCCError.compacted(let revision) {
            return ["error: compacted, at \(revision)"]
        } catch MVCCError.futureRevision(let current) {
            return ["error: future revision, now \(current)"]
        } catch {
            return ["error: \(error)"]
        }
    }

    private func number(_ text: String) -> Int64 { Int64(text) ?? 0 }

    private func list(_ revisions: [Revision]) -> String {
        revisions.isEmpty ? "nothing" : revisions.map { "\($0.main).\($0.sub)" }.joined(separator: " ")
    }

    private func end(_ key: Bytes, _ word: String?) -> Bytes {
        switch word {
        case nil: []
        case "*": [0]
        case "^": KeyRange.prefixEnd(key)
        case let word?: bytes(word)
        }
    }

    private func changed(_ body: () throws -> Void) throws -> [String] {
        let batch = try store.transact(records) { _ in try body() }
        guard let batch else { return ["no change at \(store.currentRevision)"] }
        return events(batch).map(\.description)
    }

    private func change(_ words: [String]) throws {
        let key = bytes(words[1])
        if words[0] == "del" {
            store.delete(key, end(key, words.count > 2 ? words[2] : nil))
        } else {
            let lease = words.count > 3 ? number(String(words[3].dropFirst(6))) : 0
            store.put(key, bytes(words[2]), lease: lease)
        }
    }

    private func range(_ words: [String]) throws -> [String] {
        let key = bytes(words[0])
        let hasEnd =
            words.count > 1 && !words[1].contains("=")
            && !["keys", "count", "desc"].contains(words[1])
        let (found, result) = try store.range(
            key, end(key, hasEnd ? words[1] : nil), records.reader()
        ) { query in
            for word in words.dropFirst(hasEnd ? 2 : 1) {
                let parts = word.split(separator: "=").map(String.init)
                let value = parts.count > 1 ? number(parts[1]) : 0
                switch parts[0] {
                case "rev": query.revision = value
                case "limit": query.limit = value
                case "desc": query.sortOrder = SortOrder.descend
                case "keys": query.keysOnly = true
                case "count": query.countOnly = true
                case "minmod": query.minModRevision = value
                case "maxmod": query.maxModRevision = value
                case "mincreate": query.minCreateRevision = value
                case "maxcreate": query.maxCreateRevision = value
                default:
                    query.sortTarget = Int32(
                        ["key", "version", "create", "mod", "value"].firstIndex(of: parts[1]) ?? 0)
                    if query.sortOrder == SortOrder.none && query.sortTarget == SortTarget.key {
                        query.sortOrder = SortOrder.ascend
                    }
                }
            }
        }
        let more = result.more ? " and more" : ""
        return found.map(\.description) + ["count \(result.count)\(more), at \(result.revision)"]
    }

    private func history(_ words: [String]) throws -> [String] {
        let maximum = words.first { $0.hasPrefix("max=") }.map { Int(number(String($0.dropFirst(4)))) }
        let through = words.dropFirst().first { !$0.hasPrefix("max=") }.map(number) ?? .max
        var lines: [String] = []
        let next = try store.history(
            from: number(words[0]), through: through, maxEvents: maximum ?? .max, maxBytes: .max,
            reader: records.reader()
        ) { lines += events($0).map(\.description) }
        return lines + ["next \(next)"]
    }

    private func flush() {
        store.flush(records, deleting: deletes)
        deletes = []
        durable = (store.currentRevision, store.finishedCompactRevision, store.compactRevision)
    }

    private func restart() throws -> [String] {
        deletes = []
        store = MVCCStore()
        var leases = ""
        try store.restore(
            reader: records.reader(), lastRevision: durable.last,
            compactRevision: durable.finished, scheduledCompactRevision: durable.scheduled
        ) { leases += " \(printable(Bytes($0)))=\($1)" }
        return run("show") + (leases.isEmpty ? [] : ["leases" + leases])
    }

    private func records(of records: InMemoryRecords) -> [String] {
        records.records.isEmpty
            ? ["no records"]
            : records.records.map {
                "\($0.revision.main).\($0.revision.sub)\($0.isTombstone ? " tombstone" : "")"
            }
    }
}

private let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .appendingPathComponent("testdata")

@Suite struct ScenarioTests {
    @Test(arguments: ["versions", "ranges", "compaction", "restart"])
    func isAsWritten(_ name: String) throws {
        let file = folder.appendingPathComponent(name + ".txt")
        let text = try String(contentsOf: file, encoding: .utf8)
        let scenario = Scenario()
        var output: [String] = []
        // A block is everything up to an empty line: comments, commands, dashes, what is seen.
        for block in text.components(separatedBy: "\n\n") {
            let lines = block.split(separator: "\n").map(String.init)
            let commands = lines.prefix { $0 != "----" }
            var seen: [String] = []
            for command in commands where !command.hasPrefix("#") { seen += scenario.run(command) }
            var rewritten = Array(commands)
            if commands.contains(where: { !$0.hasPrefix("#") }) { rewritten += ["----"] + seen }
            output.append(rewritten.joined(separator: "\n"))
        }
        let result = output.joined(separator: "\n\n") + "\n"
        if ProcessInfo.processInfo.environment["REWRITE"] == "1" {
            try result.write(to: file, atomically: true, encoding: .utf8)
        }
        #expect(result == text || result == text + "\n", "\(name): REWRITE=1 shows the difference")
    }
}
