// Property: a reload takes the new set whole or not at all; the committed editor types are those the code generates; the
// offline verbs and the test runner report what is there; the bundled plugins pass their own tests.

import Foundation
import Testing

@testable import Plugins

@Suite struct SetTests {
    private static var repository: String {
        URL(fileURLWithPath: #filePath).resolvingSymlinksInPath().deletingLastPathComponent()
            .deletingLastPathComponent()
            .deletingLastPathComponent().path
    }

    @Test func reloadIsAtomic() throws {
        let fixture = try PluginFixture()
        let manifest =
            "hooks = [\"admit_validate\"]\ncapabilities = [\"store\", \"metrics\"]\n[metrics.n_total]\ntype = \"counter\"\n"
        func lua(_ version: Int) -> String {
            "return { admit_validate = function() metric.n_total:inc() return false, 'v\(version) ' .. store.incr('n') end }"
        }
        try fixture.package("p", manifest: manifest, lua: lua(1))
        try fixture.package("q", manifest: "hooks = [\"health\"]", lua: "return { health = function() end }")
        let toml = "[[plugin]]\nname = \"p\"\n[[plugin]]\nname = \"q\""
        let holder = PluginSetHolder(try fixture.load(toml))
        func ask() -> Decision { LoopPlugins(holder.current).validate(put("/a"), alice) }
        func denied(_ text: String) -> Decision { .deny(code: .invalidArgument, text: "plugin p: " + text) }
        #expect(ask() == denied("v1 1"))
        // The second plugin is broken: the first keeps its old version too.
        try fixture.write("plugins/p/init.lua", lua(2))
        try fixture.write("plugins/q/init.lua", "return { health = 1 }")
        let old = holder.current
        #expect(throws: PluginError.self) {
            try holder.reload(
                bindings: fixture.bindings(toml), folder: fixture.root + "/plugins", environment: fixture.environment)
        }
        #expect(holder.current === old && holder.generation == 1)
        #expect(ask() == denied("v1 2"))
        try fixture.write("plugins/q/init.lua", "return { health = function() end }")
        _ = try holder.reload(
            bindings: fixture.bindings(toml), folder: fixture.root + "/plugins", environment: fixture.environment)
        #expect(holder.generation == 2)
        // Store, series and counters of the same id go on.
        #expect(ask() == denied("v2 3"))
        #expect(holder.current.metricFamilies().first?.samples.first?.value == 3)
        #expect(holder.current.status().first?.calls == 3 && holder.current.status().first?.denies == 3)
        // Loops of the old set run on until their owner replaces them.
        #expect(LoopPlugins(old).validate(put("/a"), alice) == denied("v1 4"))
    }

    @Test func emptySetSelectsNothing() {
        let set = PluginSet(environment: PluginEnvironment(configurationDirectory: "", sinkDirectory: ""))
        #expect(set.isEmpty && RPCKind.allCases.allSatisfy { set.selects($0).isEmpty })
        let loop = LoopPlugins(set)
        #expect(loop.authorize(put("/a"), alice) == .allow && loop.records.isEmpty)
    }

    @Test func samePackageTwice() throws {
        let fixture = try PluginFixture()
        try fixture.package(
            "p", manifest: "hooks = [\"init\", \"admit_validate\"]\n[config.text]\ntype = \"string\"\nrequired = true",
            lua:
                "local text\nreturn { init = function(c) text = c.text end, admit_validate = function() return false, text .. plugin.id .. plugin.vm end }"
        )
        let set = try fixture.load(
            """
            [[plugin]]
            name = "p"
            id = "one"
            order = 1
            match = { prefixes = ["/1"] }
            config = { text = "a" }
            [[plugin]]
            name = "p"
            id = "two"
            order = 2
            config = { text = "b" }
            """)
        let loop = LoopPlugins(set)
        #expect(loop.validate(put("/1"), alice) == .deny(code: .invalidArgument, text: "plugin one: aonerequest"))
        #expect(loop.validate(put("/2"), alice) == .deny(code: .invalidArgument, text: "plugin two: btworequest"))
    }

    @Test func editorTypesAreUpToDate() throws {
        let committed = try String(contentsOfFile: Self.repository + "/plugins/types/moonraft.lua", encoding: .utf8)
        #expect(committed == LuaTypes.generate(), "plugins/types/moonraft.lua is not what LuaTypes.generate() makes")
    }

    /// Every function of the table is described in docs/plugin-api.md.
    @Test func functionsAreDocumented() throws {
        let text = try String(contentsOfFile: Self.repository + "/docs/plugin-api.md", encoding: .utf8)
        for function in HostFunction.allCases where function != .testCall {
            let definition = function.definition
            #expect(text.contains(definition.name), "\(definition.module).\(definition.name)")
        }
        for hook in PluginHook.allCases { #expect(text.contains("`\(hook.name)(")) }
        for rpc in RPCKind.allCases { #expect(text.contains("\(rpc.name)") || "\(rpc.name)".hasPrefix("member_")) }
    }

    @Test(arguments: ["auth", "key-validation", "audit-log", "metrics"])
    func bundledPlugins(_ name: String) throws {
        let path = "\(Self.repository)/plugins/\(name)"
        let report = try PluginTestRunner.run(path: path)
        #expect(report.succeeded, "\(report.failures.map { "\($0.name): \($0.failure ?? "")" })")
        #expect(try PluginReports.check(path: path).contains(": ok\n"))
        #expect(try PluginReports.digest(path: path).hasPrefix("sha256:"))
    }

    @Test func runnerReports() throws {
        let fixture = try PluginFixture()
        try fixture.package(
            "p", manifest: "hooks = [\"admit_validate\"]",
            lua: "return { admit_validate = function(req) return req.key ~= '/no', 'nope' end }",
            files: [
                "tests/a_test.lua": """
                test("passes", function(t)
                  local p = t.plugin{}
                  t.allowed(p:admit_validate({ rpc = "put", key = "/a" }))
                  t.denied(p:admit_validate({ rpc = "put", key = "/no" }), "invalid_argument", "nope")
                  t.equal(t.fixture("x.txt"), "hello") t.golden("x.txt", "hello") t.raises(function() t.golden("x.txt", "hallo") end, "got hallo, expected hello")
                  t.raises(function() t.equal({ a = { 1 } }, { a = { 2 } }) end, "expected { a = { 2 } }")
                  t.contains(t.load_error{ budget = { memory = "1KiB" } }, "budget")
                end)
                test("fails", function(t)
                  t.allowed(t.plugin{}:admit_validate({ rpc = "put", key = "/no" }))
                end)
                test("loops", function(t) t.plugin{}:admit_validate({ rpc = "nonsense" }) end)
                """,
                "tests/b_test.lua": "local x = ",
                "tests/fixtures/x.txt": "hello",
            ])
        let report = try PluginTestRunner.run(path: fixture.root + "/plugins/p")
        #expect(report.cases.map { $0.failure == nil } == [true, false, false, false])
        #expect(report.cases[1].failure == "p/tests/a_test.lua:10: denied: plugin p: nope [nope]")
        #expect(report.cases[2].failure == "p/tests/a_test.lua:12: the request needs rpc, the name of a call")
        #expect(report.cases[3].failure?.hasPrefix("p/tests/b_test.lua:1:") == true)
        #expect(report.text.contains("4 tests, 3 failed") && report.maxima.first?.calls == 3)
        #expect((report.maxima.first?.instructions ?? 0) > 3)
        #expect(!report.succeeded)
        #expect(throws: PluginError.self) { try PluginReports.check(path: fixture.root + "/plugins/p") }
    }
}
