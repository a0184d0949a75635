// Property: a package, manifest, schema or binding that is wrong in any way does not load, and the error names the place.
// Method: one defect at a time, message compared with its file, line and column.

import Foundation
import Testing

@testable import Plugins

@Suite struct LoadingTests {
    private static let binding = "[[plugin]]\nname = \"p\"\n"
    private static let lua = "return { health = function() end }"

    private func error(manifest: String, lua: String = lua, binding: String = "") throws -> String {
        let fixture = try PluginFixture()
        try fixture.package("p", manifest: manifest, lua: lua)
        return fixture.loadError(Self.binding + binding).replacingOccurrences(of: fixture.root + "/", with: "")
    }

    @Test func validPackageLoads() throws {
        let fixture = try PluginFixture()
        try fixture.package(
            "p", manifest: "hooks = [\"health\", \"init\"]",
            lua:
                "local x = require('p.a.b') return { health = function() end, init = function() assert(x.y == 1) end }",
            files: ["lua/a/b.lua": "return { y = 1 }", "README.md": "x"])
        let set = try fixture.load(Self.binding)
        #expect(set.plugins.map(\.id) == ["p"])
        #expect(set.plugins[0].package.digest.hasPrefix("sha256:"))
        #expect(set.plugins[0].order == 1000)
    }

    // The three lines of name, version and api come first: the manifest given here starts at line 4.
    @Test(arguments: [
        ("hooks = [\"health\"]\nhoks = 1", "plugins/p/plugin.toml:5:1: unknown key hoks; did you mean hooks?"),
        ("hooks = [\"helth\"]", "plugins/p/plugin.toml:4:10: hooks: \"helth\" is not a hook; did you mean \"health\"?"),
        ("hooks = \"health\"", "plugins/p/plugin.toml:4:9: hooks: expected an array, found a string"),
        ("hooks = [\"health\", \"health\"]", "plugins/p/plugin.toml:4:20: hooks: \"health\" is listed twice"),
        ("", "plugins/p/plugin.toml:1:1: hooks is missing"),
        (
            "hooks = [\"health\"]\ncapabilities = [\"net\"]",
            "plugins/p/plugin.toml:5:17: capabilities: \"net\" is unknown; there are kv.read, metrics, file.append, store, jwt, bcrypt"
        ),
        ("hooks = [\"health\"]\nentry = \"x.lua\"", "plugins/p/plugin.toml:5:9: entry: the package has no file x.lua"),
        (
            "hooks = [\"health\"]\n[failure]\nauthz = \"open\"",
            "plugins/p/plugin.toml:6:9: failure.authz: authz is always closed"
        ),
        (
            "hooks = [\"health\"]\n[failure]\naudit = \"loose\"",
            "plugins/p/plugin.toml:6:9: failure.audit: expected \"closed\" or \"open\", found \"loose\""
        ),
        (
            "hooks = [\"health\"]\n[match]\nrpcs = [\"putt\"]",
            "plugins/p/plugin.toml:6:9: match.rpcs: unknown call \"putt\"; did you mean \"put\"?"
        ),
        (
            "hooks = [\"health\"]\n[budget]\ntime = \"5 parsecs\"",
            "plugins/p/plugin.toml:6:8: budget.time: expected a duration such as \"100ms\", \"5s\" or \"1h30m\", found \"5 parsecs\""
        ),
        (
            "hooks = [\"health\"]\n[metrics.ops]\ntype = \"counter\"",
            "plugins/p/plugin.toml:5:10: metrics.ops: a counter's name ends in _total"
        ),
        (
            "hooks = [\"health\"]\n[metrics.a_total]\ntype = \"counter\"\nlabels = [\"plugin\"]",
            "plugins/p/plugin.toml:7:11: metrics.a_total.labels: \"plugin\" cannot be a label"
        ),
        (
            "hooks = [\"health\"]\n[metrics.h]\ntype = \"histogram\"\nbuckets = [1, 1]",
            "plugins/p/plugin.toml:7:15: metrics.h.buckets: expected ascending numbers"
        ),
        (
            "hooks = [\"health\"]\n[config.x]\ntype = \"strin\"",
            "plugins/p/plugin.toml:6:8: config.x.type: unknown type \"strin\"; the types are string, integer, float, boolean, duration, time, size, file, array, table, map"
        ),
        (
            "hooks = [\"health\"]\n[config.x]\ntype = \"integer\"\ndefault = 0\nmin = 1",
            "plugins/p/plugin.toml:7:11: config.x.default: must be at least 1, is 0"
        ),
        (
            "hooks = [\"health\"]\n[config.x]\ntype = \"string\"\npattern = \"[\"",
            "plugins/p/plugin.toml:7:11: config.x.pattern: malformed pattern (missing ']')"
        ),
        (
            "hooks = [\"health\"]\n[config.x]\ntype = \"integer\"\nsecret = true",
            "plugins/p/plugin.toml:7:10: config.x.secret: only a string can be secret"
        ),
        ("hooks = [\"health\"]\n[config.x]\ntype = \"array\"", "plugins/p/plugin.toml:5:9: config.x.items is missing"),
        ("hooks = [\"health\"", "plugins/p/plugin.toml:4:18:"),
        (
            "hooks = [\"health\", \"authz\"]",
            "plugins/p/plugin.toml: hooks lists \"authz\", which init.lua does not have"
        ),
        ("hooks = []", "plugins/p/plugin.toml: init.lua has the hook \"health\", which hooks does not list"),
    ])
    func manifestErrors(_ manifest: String, _ expected: String) throws {
        let found = try error(manifest: manifest)
        if expected.hasSuffix(":") {
            #expect(found.hasPrefix(expected), "\(found)")
        } else {
            #expect(found == expected)
        }
    }

    private static let schema = """
        hooks = ["health"]
        [config.limit]
        type = "integer"
        min = 1
        max = 9
        [config.name]
        type = "string"
        pattern = "^%l+$"
        min = 2
        [config.kind]
        type = "string"
        enum = ["a", "b"]
        [config.wait]
        type = "duration"
        max = "10s"
        [config.end]
        type = "time"
        [config.room]
        type = "size"
        [config.rules]
        type = "array"
        max = 2
        items = { type = "table", fields = { prefix = { type = "string", required = true }, n = { type = "float" } } }
        [config.map]
        type = "map"
        values = { type = "boolean" }
        [config.key]
        type = "string"
        secret = true
        [config.file]
        type = "file"
        """

    @Test(arguments: [
        ("limit = 10", "4:9: plugin.config.limit: must be at most 9, is 10"),
        ("limit = \"1\"", "4:9: plugin.config.limit: expected an integer, found a string"),
        ("name = \"aB\"", "4:8: plugin.config.name: \"aB\" does not match the pattern ^%l+$"),
        ("name = \"a\"", "4:8: plugin.config.name: must be at least 2 bytes, is 1 bytes"),
        ("kind = \"c\"", "4:8: plugin.config.kind: must be one of \"a\", \"b\", is \"c\""),
        ("wait = \"11s\"", "4:8: plugin.config.wait: must be at most 10 seconds, is 11 seconds"),
        ("wait = 5", "4:8: plugin.config.wait: expected a duration as a string, such as \"10s\", found an integer"),
        (
            "end = \"soon\"",
            "4:7: plugin.config.end: expected a time in the form of RFC 3339, such as \"2030-01-01T00:00:00Z\""
        ),
        (
            "room = \"many\"",
            "4:8: plugin.config.room: expected a size such as \"64MiB\", \"1.5MiB\" or a number of bytes, found \"many\""
        ),
        ("rules = [{}]", "4:10: plugin.config.rules[1].prefix is missing"),
        (
            "rules = [{ prefix = \"a\", m = 1 }]",
            "4:26: unknown key plugin.config.rules[1].m; did you mean plugin.config.rules[1].n?"
        ),
        (
            "rules = [{prefix=\"\"}, {prefix=\"\"}, {prefix=\"\"}]",
            "4:9: plugin.config.rules: must be at most 2 items, is 3 items"
        ),
        ("map = { a = 1 }", "4:13: plugin.config.map.a: expected true or false, found an integer"),
        (
            "key = 1",
            "4:7: plugin.config.key: expected a secret (text, { file = \"…\" } or { env = \"…\" }), found an integer"
        ),
        (
            "key = { env = \"MOONRAFT_NO_SUCH\" }",
            "4:7: plugin.config.key: the environment variable MOONRAFT_NO_SUCH is not set"
        ),
        ("lmit = 1", "4:1: unknown key plugin.config.lmit; did you mean plugin.config.limit?"),
    ])
    func configErrors(_ config: String, _ expected: String) throws {
        let found = try error(manifest: Self.schema, binding: "[plugin.config]\n" + config)
        #expect(found == "node.toml:" + expected)
    }

    @Test func missingFileIsAnError() throws {
        let found = try error(manifest: Self.schema, binding: "[plugin.config]\nfile = \"none\"")
        #expect(found.hasPrefix("node.toml:4:8: plugin.config.file:") && found.hasSuffix("No such file or directory"))
    }

    @Test(arguments: [
        (
            "mode = \"on\"",
            "node.toml:3:8: plugin.mode: expected \"enforce\", \"warn\", \"audit\" or \"off\", found \"on\""
        ),
        ("ordr = 1", "node.toml:3:1: unknown key plugin.ordr; did you mean plugin.order?"),
        ("order = \"1\"", "node.toml:3:9: plugin.order: expected an integer, found a string"),
        (
            "id = \"A\"",
            "node.toml:3:6: plugin.id: names are 1 to 64 of a-z, 0-9, '-' and '_', and start with a letter or digit"
        ),
        ("digest = \"sha256:00\"", "node.toml:3:10: plugin.digest: expected sha256: and 64 hexadecimal digits"),
        (
            "[plugin.budget]\ninstructions = 90000000",
            "node.toml:4:16: plugin.budget.instructions of \"p\": at most 20000000"
        ),
        ("[plugin.budget]\nmemory = \"1KiB\"", "node.toml:4:10: plugin.budget.memory of \"p\": from 512KiB to 256MiB"),
        (
            "[plugin.failure]\naudit = \"open\"",
            "node.toml:4:9: plugin.failure.audit: the manifest says closed; set allow_relax = true to open it"
        ),
        (
            "[plugin.match]\nstages = [\"received\"]",
            "node.toml:4:11: plugin.match.stages: the stages are \"decided\" and \"completed\", not \"received\""
        ),
        (
            "[[plugin]]\nname = \"p\"",
            "node.toml:4:8: plugin.id: \"p\" is already used at node.toml:1:3; give this binding its own id"
        ),
    ])
    func bindingErrors(_ binding: String, _ expected: String) throws {
        #expect(try error(manifest: "hooks = [\"health\"]", binding: binding) == expected)
    }

    @Test func wrongDigestIsRefused() throws {
        let zeros = String(repeating: "0", count: 64)
        let found = try error(manifest: "hooks = [\"health\"]", binding: "digest = \"sha256:\(zeros)\"")
        #expect(found.hasPrefix("node.toml:3:10: plugin.digest:"))
        let fixture = try PluginFixture()
        try fixture.package("p", manifest: "hooks = [\"health\"]", lua: Self.lua)
        let digest = try PluginPackage(directory: fixture.root + "/plugins/p").digest
        #expect(fixture.loadError(Self.binding + "digest = \"\(digest)\"") == "loaded")
        try fixture.write("plugins/p/README.md", "x")
        #expect(try PluginPackage(directory: fixture.root + "/plugins/p").digest != digest)
    }

    @Test func sameOrderIsAnError() throws {
        let fixture = try PluginFixture()
        let lua = "return { authz = function() end }"
        try fixture.package("p", manifest: "hooks = [\"authz\"]", lua: lua)
        try fixture.package("q", manifest: "hooks = [\"authz\"]", lua: lua)
        let found = fixture.loadError(Self.binding + "[[plugin]]\nname = \"q\"")
        #expect(
            found
                == "node.toml:3:3: plugin.order: \"q\" and \"p\" both have order 1000 and the hook authz; give one of them another order"
        )
        #expect(fixture.loadError(Self.binding + "[[plugin]]\nname = \"q\"\norder = 5") == "loaded")
    }

    @Test func syntaxErrorsNameTheLine() throws {
        let found = try error(manifest: "hooks = [\"health\"]", lua: "local x = 1\nlocal = 2")
        #expect(found.contains("p/init.lua:2:"), "\(found)")
        let run = try error(manifest: "hooks = [\"health\"]", lua: "\n\nerror('no')")
        #expect(run == "node.toml:1:3: plugin \"p\" does not load: p/init.lua:3: no")
    }

    @Test func initCanRefuse() throws {
        let manifest = "hooks = [\"init\"]\n[config.n]\ntype = \"integer\"\ndefault = 3"
        let found = try error(
            manifest: manifest, lua: "return { init = function(conf) return false, 'n is ' .. conf.n end }")
        #expect(found == "node.toml:1:3: plugin \"p\" does not load: n is 3")
        #expect(
            try error(manifest: manifest, lua: "return { init = function(conf) while true do end end }").hasSuffix(
                "the instruction budget is spent"))
    }

    /// Names and files that must not become part of a package.
    @Test(arguments: ["../p", "P", "", ".p", "p p", "é", String(repeating: "a", count: 65), "a/b", "a\u{0}b", "-p"])
    func namesAreChecked(_ name: String) { #expect(!PluginName.isValid(name)) }

    @Test func linksAndSpecialFilesAreRefused() throws {
        let fixture = try PluginFixture()
        try fixture.package("p", manifest: "hooks = [\"health\"]", lua: Self.lua)
        let directory = fixture.root + "/plugins/p"
        try FileManager.default.createSymbolicLink(atPath: directory + "/x.lua", withDestinationPath: "/etc/passwd")
        #expect(fixture.loadError(Self.binding).contains("symbolic links are refused"))
        try FileManager.default.removeItem(atPath: directory + "/x.lua")
        try FileManager.default.createSymbolicLink(atPath: directory + "/lua", withDestinationPath: "/etc")
        #expect(fixture.loadError(Self.binding).contains("symbolic links are refused"))
        try FileManager.default.removeItem(atPath: directory + "/lua")
        mkfifo(directory + "/pipe", 0o600)
        #expect(fixture.loadError(Self.binding).contains("only regular files"))
        try FileManager.default.removeItem(atPath: directory + "/pipe")
        try fixture.write("plugins/p/A.txt", "")
        try fixture.write("plugins/p/a.txt", "")
        #expect(fixture.loadError(Self.binding).contains("differs only in case"))
        try FileManager.default.removeItem(atPath: directory + "/A.txt")
        try fixture.write("plugins/p/lua/X.lua", "")
        #expect(fixture.loadError(Self.binding).contains("not allowed"))
        try FileManager.default.removeItem(atPath: directory + "/lua")
        try fixture.write("plugins/p/big.lua", String(repeating: "-", count: 300_000))
        #expect(fixture.loadError(Self.binding).contains("larger than"))
        try FileManager.default.removeItem(atPath: directory + "/big.lua")
        #expect(fixture.loadError(Self.binding) == "loaded")
        #expect(
            fixture.loadError("[[plugin]]\nname = \"p\"\npath = \"\(fixture.root)/none\"").hasPrefix(
                "node.toml:3:8: plugin \"p\""))
    }

    @Test func configurationReachesInit() throws {
        let fixture = try PluginFixture()
        try fixture.write("secret.txt", "hush\n")
        try fixture.package(
            "p",
            manifest: """
                hooks = ["init"]
                [config.n]
                type = "float"
                default = 1
                [config.wait]
                type = "duration"
                [config.end]
                type = "time"
                [config.room]
                type = "size"
                [config.list]
                type = "array"
                items = { type = "map", values = { type = "integer" } }
                [config.key]
                type = "string"
                secret = true
                [config.other]
                type = "string"
                secret = true
                [config.file]
                type = "file"
                """,
            lua: """
                return { init = function(c)
                  assert(c.n == 1.0 and c.wait == 1.5 and c["end"] == 1700000000.5 and c.room == 65536 and c.list[1].a == 7 and next(c.list[2]) == nil)
                  assert(tostring(c.key) == "<secret>" and c.key:equals("hush") and not c.key:equals("x") and c.key:length() == 4)
                  assert(c.other:equals("inline") and c.key:sha256() == hash.sha256("hush") and c.key:verify_sha256(hash.sha256("saltxhush"), "saltx"))
                  assert(c.file:read() == "hush\\n" and c.file:path():find("secret.txt$") and c.absent == nil)
                  assert(hash.hmac_sha256(c.key, "m") == hash.hmac_sha256("hush", "m"))
                end }
                """)
        let error = fixture.loadError(
            Self.binding
                + """
                [plugin.config]
                wait = "1500ms"
                end = "2023-11-14T23:13:20.5+01:00"
                room = "64KiB"
                list = [{ a = 7 }, {}]
                key = { file = "secret.txt" }
                other = "inline"
                file = "secret.txt"
                """)
        #expect(error == "loaded")
    }
}
