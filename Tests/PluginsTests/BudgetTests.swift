// Property: instruction, time and memory budgets stop a call with their own reason, the VM is rebuilt, and what the
// budgets cannot bound (logs, series, the shared store) has bounds of its own. Method: calls that just pass and just fail.

import Testing

@testable import Plugins

@Suite struct BudgetTests {
    private func reason(_ body: String, budget: String) throws -> String {
        let fixture = try PluginFixture()
        let loop = try fixture.loop(hook: "admit_validate", body: body, binding: "[plugin.budget]\n" + budget)
        let decision = loop.validate(put("/a"), alice)
        return decision == .allow ? "ok" : loop.records.last?.detail?.text ?? ""
    }

    @Test func eachBudgetHasItsReason() throws {
        let loop = "for i = 1, 20000 do end"
        #expect(try reason(loop, budget: "instructions = 100000") == "ok")
        #expect(try reason(loop, budget: "instructions = 10000") == "instructions: the instruction budget is spent")
        #expect(
            try reason("for i = 1, 1e7 do end", budget: "instructions = 20000000\ntime = \"10ms\"")
                == "time: the time budget is spent")
        let fill = "local t = {} for i = 1, 20000 do t[i] = {i} end"
        #expect(try reason(fill, budget: "memory = \"16MiB\"\ninstructions = 10000000") == "ok")
        #expect(
            try reason(fill, budget: "memory = \"1MiB\"\ninstructions = 10000000")
                == "memory: the memory budget is spent")
    }

    @Test func brokenVMsAreRebuiltAndTheStoreStays() throws {
        let fixture = try PluginFixture()
        let loop = try fixture.loop(
            hook: "admit_validate",
            body:
                "n = n + 1 local total = store.incr('total') if a.key == '/spin' then while true do end end return false, n .. ' ' .. total",
            capabilities: "\"store\"", head: "local n = 0")
        #expect(loop.validate(put("/a"), alice) == .deny(code: .invalidArgument, text: "plugin p: 1 1"))
        #expect(loop.validate(put("/a"), alice) == .deny(code: .invalidArgument, text: "plugin p: 2 2"))
        #expect(
            loop.validate(put("/spin"), alice)
                == .deny(code: .failedPrecondition, text: "plugin p: policy could not be evaluated"))
        #expect(loop.validate(put("/a"), alice) == .deny(code: .invalidArgument, text: "plugin p: 1 4"))
        #expect(loop.set.plugins[0].shared.rebuilds == 1)
    }

    @Test func budgetsStartAnewWithEachCall() throws {
        let fixture = try PluginFixture()
        let loop = try fixture.loop(
            hook: "admit_validate", body: "for i = 1, 9000 do end", binding: "[plugin.budget]\ninstructions = 20000")
        for _ in 0..<50 { #expect(loop.validate(put("/a"), alice) == .allow) }
    }

    @Test func logLinesAreLimited() throws {
        let fixture = try PluginFixture()
        // A slow call on a busy machine would be one more line.
        fixture.environment.limits.slowNanoseconds = .max
        let loop = try fixture.loop(
            hook: "admit_validate", body: "for i = 1, 150 do log.info('line', {i = i, k = a.key}) end print('x', 1)")
        #expect(loop.validate(put("/a"), alice) == .allow)
        #expect(fixture.log.all.count == 100)
        #expect(fixture.log.all.first?.fields.map(\.value) == ["1", "/a"])
        #expect(loop.set.plugins[0].shared.logDropped == 51)
        fixture.clock.advance(1)
        _ = loop.validate(put("/a"), alice)
        #expect(fixture.log.all.count == 200)
    }

    @Test func storeIsBoundedAndExpires() {
        let store = PluginStore()
        for i in 0..<5000 { store.set(Array("k\(i)".utf8), .integer(Int64(i)), ttl: nil, now: 0) }
        #expect(store.count == PluginStore.maximumEntries)
        #expect(store.get(Array("k0".utf8), now: 0) == nil)
        #expect(store.get(Array("k904".utf8), now: 0) == .integer(904))
        // k904 was used just now, so k905 goes next.
        store.set(Array("new".utf8), .boolean(true), ttl: 5, now: 0)
        #expect(store.get(Array("k904".utf8), now: 0) != nil && store.get(Array("k905".utf8), now: 0) == nil)
        #expect(store.get(Array("new".utf8), now: 4) == .boolean(true) && store.get(Array("new".utf8), now: 5) == nil)
        #expect(store.increment(Array("c".utf8), by: 2, ttl: 10, now: 0) == 2)
        #expect(store.increment(Array("c".utf8), by: 3, ttl: 10, now: 9) == 5)
        #expect(store.increment(Array("c".utf8), by: 1, ttl: 10, now: 11) == 1)
        #expect(store.increment(Array("k904".utf8), by: .max, ttl: nil, now: 0) == nil)
    }

    @Test func storeFunctionsCheckTheirArguments() throws {
        let fixture = try PluginFixture()
        let loop = try fixture.loop(
            hook: "admit_validate",
            body: """
                store.set('s', 'x') store.set('n', 1.5) store.set('b', false, 10)
                assert(store.get('s') == 'x' and store.get('n') == 1.5 and store.get('b') == false and store.get('none') == nil)
                store.delete('s') assert(store.get('s') == nil and store.incr('c') == 1 and store.incr('c', 4) == 5)
                for _, f in ipairs{ function() store.set('t', {}) end, function() store.set(('k'):rep(257), 1) end,
                    function() store.set('v', ('v'):rep(4097)) end, function() store.set('t', 1, 0) end, function() store.incr('n') end } do
                  assert(not pcall(f))
                end
                """, capabilities: "\"store\"")
        #expect(loop.validate(put("/a"), alice) == .allow, "\(loop.records.last?.detail?.text ?? "")")
    }

    @Test func seriesAreCapped() throws {
        let fixture = try PluginFixture()
        let manifest = """
            [metrics.ops_total]
            type = "counter"
            labels = ["key", "op"]
            max_series = 3
            [metrics.size]
            type = "histogram"
            buckets = [10, 100]
            [metrics.level]
            type = "gauge"

            """
        let loop = try fixture.loop(
            hook: "admit_validate",
            body: """
                metric.ops_total:inc(1, a.key, 'put') metric.size:observe(a.value_size) metric.level:set(7) metric.level:inc(-2)
                for _, f in ipairs{ function() metric.ops_total:inc(-1, 'a', 'b') end, function() metric.ops_total:inc(1, 'a') end,
                    function() metric.level:observe(1) end, function() metric.size:set(1) end, function() metric.level:set(0/0) end } do
                  assert(not pcall(f))
                end
                """, manifest: manifest, capabilities: "\"metrics\"")
        for i in 0..<10 {
            #expect(
                loop.validate(put("/k\(i % 5)", String(repeating: "x", count: i * 20)), alice) == .allow,
                "\(loop.records.last?.detail?.text ?? "")")
        }
        let families = loop.set.metricFamilies()
        let counter = try #require(families.first { $0.name == "moonraft_ops_total" })
        #expect(
            counter.samples.map { $0.labels.map(\.value) } == [
                ["p", "/k0", "put"], ["p", "/k1", "put"], ["p", "/k2", "put"], ["p", "other", "other"],
            ])
        #expect(counter.samples.map(\.value) == [2, 2, 2, 4])
        #expect(loop.set.plugins[0].metrics.dropped == 4)
        let histogram = try #require(families.first { $0.name == "moonraft_size" })
        #expect(histogram.samples[0].buckets == [1, 6, 10] && histogram.samples[0].value == 900)
        #expect(families.first { $0.name == "moonraft_level" }?.samples[0].value == 5)
        let host = loop.set.hostMetricFamilies()
        let calls = try #require(host.first { $0.name == "moonraft_plugin_calls_total" })
        #expect(calls.samples.map(\.value) == [10])
        #expect(host.first { $0.name == "moonraft_plugin_vm_bytes" }?.samples.first.map { $0.value > 10_000 } == true)
    }
}
