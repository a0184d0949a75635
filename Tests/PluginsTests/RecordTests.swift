// Property: a record that is used again holds nothing of the request before; a record written without a text in between
// is the same line; metrics that follow records count what a script would.

import Testing

@testable import Plugins

@Suite struct RecordTests {
    /// Everything in a value, by reflection: a field added later is compared too.
    private func contents(_ value: Any) -> String {
        var text = ""
        dump(value, to: &text)
        return text
    }

    private func filled() -> AuditRecord {
        var op = PluginOp(
            kind: .range, key: Array("/old".utf8), rangeEnd: Array("/olf".utf8), value: Array("secret".utf8))
        op.path = "success.0"
        (op.lease, op.limit, op.revision, op.number) = (1, 2, 3, 4)
        (op.previousKV, op.ignoreValue, op.ignoreLease, op.keysOnly, op.countOnly, op.serializable) = (
            true, true, true, true, true, true
        )
        (op.target, op.result) = (.lease, .less)
        var request = PluginRequest(rpc: .txn, ops: [op])
        (request.ttl, request.lease, request.revision, request.name) = (5, 6, 7, "somebody")
        var record = AuditRecord(
            stage: .completed, id: "old", microseconds: 8, clusterID: 9, memberID: 10, request: request, identity: alice
        )
        (record.isAllowed, record.code, record.message) = (false, 11, "refused")
        (record.resultRevision, record.term, record.index) = (12, 13, 14)
        (record.hooksMicroseconds, record.queueMicroseconds, record.raftMicroseconds) = (15, 16, 17)
        (record.applyMicroseconds, record.totalMicroseconds) = (18, 19)
        return record
    }

    @Test func nothingStaysOfTheRequestBefore() throws {
        let fixture = try PluginFixture()
        try fixture.package("p", manifest: "hooks = [\"health\"]", lua: "return { health = function() end }")
        let plugin = try #require(try fixture.load("[[plugin]]\nname = \"p\"").plugins.first)
        let bob = PluginIdentity(user: "bob")
        var used = filled()
        used.decisions = [DecisionRecord(plugin: plugin, hook: .authz, verdict: .deny, microseconds: 1, detail: nil)]
        used.request.become(.put)
        Array("/k".utf8).withUnsafeBytes { key in
            Array("v".utf8).withUnsafeBytes { value in used.request.ops[0].become(.put, key: key, value: value) }
        }
        #expect(used.request == put("/k"))
        used.restart(id: "new", clusterID: 1, memberID: 2, identity: bob)
        let fresh = AuditRecord(
            stage: .decided, id: "new", microseconds: 0, clusterID: 1, memberID: 2, request: put("/k"), identity: bob)
        #expect(contents(used) == contents(fresh))
        #expect(contents(filled()) != contents(fresh))
    }

    @Test func poolIsBounded() {
        var pool = AuditEntryPool()
        let first = pool.take()
        pool.give(first)
        #expect(pool.take() === first)
        let large = pool.take()
        large.record.request = put("/k", String(repeating: "v", count: AuditEntryPool.keptBytes))
        large.measure()
        pool.give(large)
        #expect(pool.take() !== large)
        let many = (0..<AuditEntryPool.capacity + 10).map { _ in pool.take() }
        for entry in many { pool.give(entry) }
        let known = Set(many.map { ObjectIdentifier($0) })
        let again = (0..<many.count).map { _ in pool.take() }
        #expect(again.filter { known.contains(ObjectIdentifier($0)) }.count == AuditEntryPool.capacity)
    }

    @Test func batchesCarryRecordsWhole() throws {
        let fixture = try PluginFixture()
        try fixture.package("p", manifest: "hooks = [\"health\"]", lua: "return { health = function() end }")
        let plugin = try #require(try fixture.load("[[plugin]]\nname = \"p\"").plugins.first)
        var second = filled()
        second.decisions = [DecisionRecord(plugin: plugin, hook: .authz, verdict: .deny, microseconds: 1, detail: nil)]
        second.request.ops += put("/b", "").ops + get("/c", end: "/d").ops
        var third = filled()
        third.request = PluginRequest(rpc: .status)
        let records = [filled(), second, third, filled()]
        var batch = AuditBatch()
        // One entry for all: nothing of one record shows in the next, on either side.
        let entry = AuditEntry()
        for record in records {
            entry.record = record
            entry.measure()
            batch.append(entry)
            #expect(contents(entry.record) == contents(record))
        }
        #expect(batch.count == 4 && batch.heldBytes == records.reduce(0) { $0 + AuditEntry($1).bytes })
        var seen = 0
        let reader = AuditEntry()
        batch.forEach(into: reader) {
            #expect(contents(reader.record) == contents(records[seen]))
            seen += 1
        }
        #expect(seen == 4 && AuditBatch(like: batch).count == 0)
    }

    @Test func prefixHoldsARangeWhenItHoldsItsKeys() {
        func keys(_ length: Int, _ bytes: [UInt8] = [0x00, 0x61, 0xFF]) -> [[UInt8]] {
            var all: [[UInt8]] = [[]]
            var last = all
            for _ in 0..<length {
                last = last.flatMap { key in bytes.map { key + [$0] } }
                all += last
            }
            return all
        }
        // With the bytes that follow those of keys and ends, so that there is a key between any two of them.
        let universe = keys(3, [0x00, 0x01, 0x61, 0x62, 0xFF])
        var wrong = 0
        for key in keys(2) where !key.isEmpty {
            for end in keys(2) {
                let inside = universe.filter {
                    if end.isEmpty { return $0 == key }
                    return !$0.lexicographicallyPrecedes(key) && (end == [0] || $0.lexicographicallyPrecedes(end))
                }
                if inside.isEmpty { continue }
                for prefix in keys(2)
                where KeyMatch.within(key, end, prefix) != inside.allSatisfy({ $0.starts(with: prefix) }) {
                    wrong += 1
                }
            }
        }
        #expect(wrong == 0)
    }

    @Test func timesThatShareTheirSecond() {
        var writer = Timestamp.Writer()
        for time: Int64 in [
            1_700_000_000_000_000, 1_700_000_000_999_999, 1_700_000_001_000_000, 1_700_000_001_000_007, -1, -2, 0, 1,
            .max, 5,
            1_700_000_001_000_008, -62_167_219_200_000_000,
        ] {
            let out = TextBuffer()
            writer.append(microseconds: time, to: out)
            #expect(String(decoding: out.bytes(), as: UTF8.self) == Timestamp.rfc3339(microseconds: time) ?? "")
        }
    }

    @Test func writtenWithoutATextInBetween() throws {
        let fixture = try PluginFixture()
        let lines = MemorySink.Lines()
        fixture.environment.openSink = { options throws(SinkError) in try MemorySink(options: options, target: lines) }
        try fixture.package(
            "p", manifest: "hooks = [\"init\", \"audit\"]\ncapabilities = [\"file.append\"]",
            lua: """
                local out, writer
                local form = { level = "full", key_hash = { "/secret/" }, extra = { a = 1 } }
                return { init = function() out = sink.open{ path = "a" } writer = out:records(form) end,
                  audit = function(rec)
                    local ok, problem = out:write(rec:json(form))
                    if not ok then return false, problem end
                    return writer:write(rec)
                  end }
                """)
        let events = try EventsPlugins(try fixture.load("[[plugin]]\nname = \"p\""))
        let records = [filled(), filled()].map { AuditEntry($0) }
        records[1].record.request = put("/secret/a", "x\ny")
        #expect(events.audit(records) == [.written, .written])
        #expect(lines.lines.count == 4)
        #expect(
            lines.lines[0] == lines.lines[1] && lines.lines[2] == lines.lines[3] && lines.lines[0] != lines.lines[2])
        lines.failure = "no space"
        let failed = EventsPlugins.AuditOutcome.failed(text: "plugin p: the audit record cannot be written")
        #expect(events.audit(records) == [failed, failed])
    }

    @Test func metricsFollowRecords() throws {
        let fixture = try PluginFixture()
        let metrics = """
            hooks = ["init", "audit"]
            capabilities = ["metrics"]
            [metrics.a_total]
            type = "counter"
            labels = ["p", "k", "r"]
            max_series = 2
            [metrics.b]
            type = "histogram"
            labels = ["rpc"]
            buckets = [1]
            [metrics.c]
            type = "gauge"
            """
        func lua(_ rule: String) -> String {
            "return { init = function() \(rule) end, audit = function(rec) rec:count() return true end }"
        }
        try fixture.package(
            "p", manifest: metrics,
            lua: lua(
                """
                metric.a_total:from_records{ value = "operations", labels = { "prefix", "kind", "result" }, prefixes = { "/", "/a/" } }
                metric.b:from_records{ value = "seconds", labels = { "rpc" }, except = { "range" } }
                """))
        let set = try fixture.load("[[plugin]]\nname = \"p\"\n[plugin.match]\nstages = [\"completed\"]")
        let events = try EventsPlugins(set)
        func record(_ request: PluginRequest, code: Int = 0) -> AuditEntry {
            var record = AuditRecord(
                stage: .completed, id: "r", microseconds: 1, clusterID: 1, memberID: 1, request: request,
                identity: alice)
            record.totalMicroseconds = 500_000
            record.code = code
            return AuditEntry(record)
        }
        let both = PluginRequest(rpc: .txn, ops: put("/a/1").ops + put("/b").ops)
        let outcomes = events.audit([record(put("/a/1")), record(both), record(both, code: 8), record(get("/a/1"))])
        #expect(outcomes.allSatisfy { $0 == .written })
        func value(_ metric: Int, _ labels: String...) -> Double? {
            set.plugins.first?.metrics.value(metric, key: MetricRegistry.key(labels))?.value
        }
        #expect(value(0, "/a/", "put", "ok") == 2 && value(0, "/", "put", "ok") == 1)
        // Two failed puts and a read find no room.
        #expect(value(0, "other", "other", "other") == 3 && set.plugins.first?.metrics.dropped == 3)
        #expect(value(1, "put") == 0.5 && value(1, "txn") == 1 && value(1, "range") == nil)
        for (rule, problem) in [
            ("metric.c:from_records{ value = 'operations' }", "c is a gauge, which cannot follow records"),
            ("metric.b:from_records{ value = 'operations' }", "b has 1 labels, got 0"),
            ("metric.b:from_records{ labels = { 'rpc' } }", "the rule needs a value"),
            ("metric.b:from_records{ value = 'x' }", "value must be"),
            ("metric.b:from_records{ value = 'seconds', labels = { 'user' } }", "labels are"),
            ("metric.b:from_records{ value = 'seconds', labels = { 'rpc' }, except = { 'x' } }", "unknown call x"),
            ("metric.b:from_records{ value = 'seconds', labels = { 'rpc' }, size = 1 }", "unknown field size"),
            ("for _ = 1, 17 do metric.b:from_records{ value = 'seconds', labels = { 'rpc' } } end", "more than 16"),
        ] {
            try fixture.package("q", manifest: metrics, lua: lua(rule))
            #expect(fixture.loadError("[[plugin]]\nname = \"q\"").contains(problem), "\(rule)")
        }
    }
}
