// Property: what a sink said it wrote is in the file, whole and in order, over rotation, failure and restart; a chained file
// shows any change. Method: real files in a temporary folder, spoiled byte by byte.

import Foundation
import Testing

@testable import Plugins

@Suite struct SinkTests {
    private func write(_ sink: FileSink, _ line: String, now: Double = 0) throws {
        try Array(line.utf8).withUnsafeBytes { try sink.write($0, now: now) }
    }

    private func read(_ path: String) throws -> String { try String(contentsOfFile: path, encoding: .utf8) }

    @Test func batchesReachTheFile() throws {
        let fixture = try PluginFixture()
        let directory = fixture.root + "/sinks"
        var options = SinkOptions(path: "a/b.jsonl")
        options.mode = 0o640
        let sink = try FileSink(directory: directory, options: options)
        try write(sink, "one")
        try write(sink, "two")
        #expect(try read(directory + "/a/b.jsonl") == "")
        try sink.flush(now: 0)
        #expect(try read(directory + "/a/b.jsonl") == "one\ntwo\n")
        // A second writer is kept out; after close it may come.
        #expect(throws: SinkError.self) { try FileSink(directory: directory, options: options) }
        sink.close()
        let attributes = try FileManager.default.attributesOfItem(atPath: directory + "/a/b.jsonl")
        #expect((attributes[.posixPermissions] as? Int ?? 0) & 0o777 == 0o640)
        // A torn last line was never acknowledged.
        try (read(directory + "/a/b.jsonl") + "thr").write(
            toFile: directory + "/a/b.jsonl", atomically: false, encoding: .utf8)
        let again = try FileSink(directory: directory, options: options)
        try write(again, "three")
        try again.flush(now: 0)
        #expect(try read(directory + "/a/b.jsonl") == "one\ntwo\nthree\n")
    }

    @Test func rotation() throws {
        let fixture = try PluginFixture()
        let directory = fixture.root + "/sinks"
        var options = SinkOptions(path: "x.log")
        (options.maximumBytes, options.maximumFiles, options.maximumAge) = (1024, 3, 60)
        let sink = try FileSink(directory: directory, options: options)
        var now = 1_700_000_000.0
        for i in 0..<40 {
            try write(sink, "\(i) " + String(repeating: "x", count: 200))
            try sink.flush(now: now)
            now += 1
        }
        func files() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: directory).sorted() }
        #expect(try files().count == 4)
        let newest = try read("\(directory)/\(try files().last ?? "")").split(separator: "\n").count
        #expect(newest <= 5)
        // Age, by a tick.
        try write(sink, "late")
        try sink.flush(now: now)
        try sink.tick(now: now + 59)
        let before = try files()
        try sink.tick(now: now + 61)
        #expect(try files() != before && files().count == 4)
    }

    /// A batch that fails (here: its rotation finds the folder gone) counts as never written, for the chain too.
    @Test func chainGoesOnAfterAFailure() throws {
        let fixture = try PluginFixture()
        let directory = fixture.root + "/sinks"
        var options = SinkOptions(path: "x.log")
        (options.isChained, options.maximumBytes) = (true, 1024)
        let sink = try FileSink(directory: directory, options: options)
        let line = "{\"text\":\"\(String(repeating: "x", count: 600))\"}"
        try write(sink, line)
        try sink.flush(now: 1)
        let first = try read(directory + "/x.log")
        try FileManager.default.removeItem(atPath: directory)
        try write(sink, line)
        #expect(throws: SinkError.self) { try sink.flush(now: 2) }
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try first.write(toFile: directory + "/x.log", atomically: false, encoding: .utf8)
        try write(sink, line)
        try sink.flush(now: 3)
        let files = try FileManager.default.contentsOfDirectory(atPath: directory).sorted().reversed().map {
            "\(directory)/\($0)"
        }
        #expect(files.count == 2)
        #expect(try AuditChain.verify(files, key: nil).records == 2)
    }

    @Test(arguments: ["../x", "/x", "a/../b", ".x", "a//b", "", "a/b/c/d/e", "a b", "-x"])
    func pathsStayInside(_ path: String) { #expect(!PluginVM.isSinkPath(path)) }

    @Test func linksAreNotFollowed() throws {
        let fixture = try PluginFixture()
        let directory = fixture.root + "/sinks"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try FileManager.default.createSymbolicLink(
            atPath: directory + "/x", withDestinationPath: fixture.root + "/target")
        try FileManager.default.createSymbolicLink(atPath: directory + "/d", withDestinationPath: fixture.root)
        #expect(throws: SinkError.self) { try FileSink(directory: directory, options: SinkOptions(path: "x")) }
        #expect(throws: SinkError.self) { try FileSink(directory: directory, options: SinkOptions(path: "d/x")) }
    }

    /// A file whose last record has the last number there is was not written by a chain.
    @Test func aChainWithoutANextNumberIsNotContinued() throws {
        let fixture = try PluginFixture()
        let directory = fixture.root + "/sinks"
        var options = SinkOptions(path: "x.log")
        options.isChained = true
        let digits = String(repeating: "0", count: 64)
        try fixture.write(
            "sinks/x.log", "{\"seq\":\(UInt64.max),\"prev\":\"\(digits)\",\"hash\":\"\(digits)\"}\n")
        let error = #expect(throws: SinkError.self) { try FileSink(directory: directory, options: options) }
        #expect(error?.message.contains("no hash chain to continue") == true)
    }

    @Test(arguments: [nil, Array("key".utf8)] as [[UInt8]?])
    func chainShowsEveryChange(_ key: [UInt8]?) throws {
        let fixture = try PluginFixture()
        let directory = fixture.root + "/sinks"
        var options = SinkOptions(path: "x.log")
        (options.isChained, options.chainKey, options.maximumBytes) = (true, key, 2000)
        // Rotation and reopening in between.
        for start in [0, 4, 8] {
            let sink = try FileSink(directory: directory, options: options)
            for i in start..<start + 4 {
                try write(
                    sink, "{\"n\":\(i),\"text\":\"some longer text so that files rotate at some point or other\"}")
                try sink.flush(now: 1_700_000_000 + Double(i))
            }
            #expect(throws: SinkError.self) { try write(sink, "no object") }
            sink.close()
        }
        let files = try FileManager.default.contentsOfDirectory(atPath: directory).sorted().map { "\(directory)/\($0)" }
        let ordered = files.filter { !$0.hasSuffix("x.log") } + files.filter { $0.hasSuffix("x.log") }
        #expect(ordered.count > 1)
        let report = try AuditChain.verify(ordered, key: key)
        #expect(report.records == 12 && report.firstSequence == 1 && report.lastSequence == 12)
        #expect(try PluginReports.verifyChain(ordered, key: key).hasPrefix("12 records hold, 1 to 12\n"))
        if key != nil { #expect(throws: AuditChain.Defect.self) { try AuditChain.verify(ordered, key: nil) } }
        // Every byte of a small file matters.
        let path = directory + "/spoiled"
        let lines = try ordered.map(read).joined().split(separator: "\n").prefix(3).map(String.init)
        let text = Array((lines.joined(separator: "\n") + "\n").utf8)
        for i in text.indices {
            var spoiled = text
            spoiled[i] ^= 1
            try Data(spoiled).write(to: URL(fileURLWithPath: path))
            #expect(throws: AuditChain.Defect.self, "byte \(i)") { try AuditChain.verify([path], key: key) }
        }
        func check(_ lines: [String]) throws -> String {
            try (lines.joined(separator: "\n") + "\n").write(toFile: path, atomically: false, encoding: .utf8)
            do {
                return "\(try AuditChain.verify([path], key: key).records)"
            } catch { return error.message }
        }
        #expect(try check(lines) == "3")
        #expect(try check([lines[0], lines[2]]) == "record 3 follows record 1: missing or out of order")
        #expect(try check([lines[1], lines[0]]) == "record 1 follows record 2: missing or out of order")
        #expect(try check([lines[0], lines[0]]) == "record 1 follows record 1: missing or out of order")
        #expect(try check([lines[1], lines[2]]) == "2")
        try (lines[0] + "\n" + lines[1].dropLast(3)).write(toFile: path, atomically: false, encoding: .utf8)
        #expect(throws: AuditChain.Defect(file: path, line: 2, message: "the last line is not finished")) {
            try AuditChain.verify([path], key: key)
        }
    }

    private static let auditLua = """
        local out
        return { init = function(conf) out = sink.open{ path = "audit.log", chain = true } end,
          audit = function(rec)
            if rec.key == "/spin" then while true do end end
            if rec.key == "/refuse" then return false, "no" end
            return out:write(rec:json{ level = "full", key_hash = {"/secret/"} })
          end }
        """

    private func record(_ request: PluginRequest, stage: AuditRecord.Stage = .decided) -> AuditEntry {
        AuditEntry(
            AuditRecord(
                stage: stage, id: "r1", microseconds: 1_700_000_000_000_001, clusterID: 0xC, memberID: 0xD,
                request: request,
                identity: alice))
    }

    @Test func requiredAndBestEffort() throws {
        let fixture = try PluginFixture()
        try fixture.package(
            "p", manifest: "hooks = [\"init\", \"audit\"]\ncapabilities = [\"file.append\"]", lua: Self.auditLua)
        let set = try fixture.load("[[plugin]]\nname = \"p\"")
        #expect(set.auditNeed(.decided, put("/a"), alice) == .required)
        let events = try EventsPlugins(set)
        let failed = EventsPlugins.AuditOutcome.failed(text: "plugin p: the audit record cannot be written")
        #expect(
            events.audit([record(put("/a")), record(put("/refuse")), record(put("/b"))]) == [
                .written, failed, .written,
            ])
        let path = fixture.root + "/sinks/audit.log"
        let before = try read(path)
        #expect(before.split(separator: "\n").count == 2)
        #expect(
            before.hasPrefix(
                "{\"id\":\"r1\",\"stage\":\"decided\",\"time\":\"2023-11-14T22:13:20.000001Z\",\"cluster\":\"c\",\"member\":\"d\",\"peer\":\"127.0.0.1:5\",\"user\":\"alice\",\"roles\":[\"writer\"],\"cn\":\"cn-a\",\"source\":\"core\",\"rpc\":\"put\",\"ops\":[{\"kind\":\"put\",\"key\":\"/a\",\"value_size\":1,\"value_hash\":\""
            ))
        // A broken budget in the middle of a batch loses no line that was taken, and the sink goes on.
        #expect(
            events.audit([record(put("/c")), record(put("/spin")), record(put("/secret/d"))]) == [
                .written, failed, .written,
            ])
        let lines = try read(path)
        #expect(
            lines.split(separator: "\n").count == 4 && lines.hasPrefix(before) && !lines.contains("/secret/d")
                && lines.contains("key_hash"))
        events.shutdown()
        #expect(try AuditChain.verify([path], key: nil).records == 4)

        let relaxed = try fixture.load(
            "[[plugin]]\nname = \"p\"\nallow_relax = true\n[plugin.failure]\naudit = \"open\"\n[plugin.match]\nstages = [\"completed\"]\nrpcs = [\"put\"]"
        )
        #expect(
            relaxed.auditNeed(.decided, put("/a"), alice) == .none
                && relaxed.auditNeed(.completed, put("/a"), alice) == .bestEffort)
        #expect(relaxed.auditNeed(.completed, get("/a"), alice) == .none)
        let best = try EventsPlugins(relaxed)
        #expect(best.audit([record(put("/refuse"), stage: .completed)]) == [.written])
    }

    @Test func failingDiskFailsTheWholeBatch() throws {
        let fixture = try PluginFixture()
        let lines = MemorySink.Lines()
        fixture.environment.openSink = { options throws(SinkError) in try MemorySink(options: options, target: lines) }
        try fixture.package(
            "p", manifest: "hooks = [\"init\", \"audit\"]\ncapabilities = [\"file.append\"]", lua: Self.auditLua)
        let set = try fixture.load("[[plugin]]\nname = \"p\"")
        let events = try EventsPlugins(set)
        lines.failure = "no space"
        let outcomes = events.audit([record(put("/a")), record(put("/b"))])
        #expect(outcomes.allSatisfy { $0 != .written })
        lines.failure = nil
        #expect(events.audit([record(put("/c"))]) == [.written])
        #expect(lines.lines.count == 1 && lines.lines[0].contains("\"seq\":1,"))
        #expect(set.plugins[0].shared.sinkErrors > 0)
    }

    @Test func eventsMetricsHealth() throws {
        let fixture = try PluginFixture()
        try fixture.package(
            "p",
            manifest: """
                hooks = ["on_event", "metrics_collect", "health", "shutdown"]
                capabilities = ["metrics", "store"]
                critical = true
                [metrics.seen]
                type = "gauge"
                """,
            lua: """
                local seen, ok = 0, true
                return {
                  on_event = function(batch)
                    for _, e in ipairs(batch) do
                      if e.key == "/p/bad" then ok = false return false, "later" end
                      assert(e.type == "put" and e.value == "v" and e.reason == "client" and e.id == e.revision .. ".0" or e.type == "alarm" and e.fields.kind == "NOSPACE")
                      seen = seen + 1
                    end
                  end,
                  metrics_collect = function() metric.seen:set(seen) end,
                  health = function() return ok, "not well" end,
                  shutdown = function() store.set("down", true) end,
                }
                """)
        let set = try fixture.load("[[plugin]]\nname = \"p\"\n[plugin.match]\nprefixes = [\"/p/\"]")
        let events = try EventsPlugins(set)
        func event(_ key: String, _ revision: Int64) -> HookEvent {
            var event = HookEvent(type: "put", id: "\(revision).0", revision: revision, sub: 0, time: 1, source: "c/d")
            event.keyValue = PluginKeyValue(
                key: Array(key.utf8), value: [0x76], createRevision: revision, modRevision: revision, version: 1)
            event.reason = "client"
            return event
        }
        var alarm = HookEvent(type: "alarm", id: "2.3", revision: 0, sub: 0, time: 1, source: "c/d")
        alarm.fields = [("kind", .text("NOSPACE"))]
        #expect(events.subscribers.map(\.id) == ["p"])
        #expect(events.deliver([event("/p/a", 2), event("/q/a", 3), alarm], to: 0) == nil)
        #expect(events.health() == [PluginHealth(id: "p", isHealthy: true, isCritical: true, text: "")])
        #expect(events.deliver([event("/p/b", 4), event("/p/bad", 5)], to: 0) == "later")
        #expect(events.health() == [PluginHealth(id: "p", isHealthy: false, isCritical: true, text: "not well")])
        events.collectMetrics()
        #expect(set.metricFamilies().first?.samples.first?.value == 3)
        events.shutdown()
        #expect(set.plugins[0].shared.store.get(Array("down".utf8), now: 0) == .boolean(true))
    }

    @Test func timestamps() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0.0), ("2000-02-29T12:30:45.5Z", 951_827_445.5), ("1969-12-31T23:59:59Z", -1),
            ("2024-12-31T23:59:59+01:30", 1_735_684_199), ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            #expect(Timestamp.parse(text) == seconds)
        }
        for bad in [
            "", "2023-02-29T00:00:00Z", "2024-13-01T00:00:00Z", "2024-01-01T24:00:00Z", "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z", "2024-01-01T00:00:00Zx",
        ] {
            #expect(Timestamp.parse(bad) == nil)
        }
        for seconds in stride(from: -60_000_000_000.0, to: 250_000_000_000, by: 1_234_567_891.25) {
            let again = Timestamp.rfc3339(seconds).flatMap(Timestamp.parse) ?? 0
            #expect(abs(again - seconds) < 0.0001)
        }
        #expect(Timestamp.rfc3339(.infinity) == nil && Timestamp.rfc3339(1e12) == nil)
    }
}
