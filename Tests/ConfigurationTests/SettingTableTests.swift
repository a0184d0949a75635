// The table of settings must be complete and free of contradictions, and what is generated from it must be
// what is committed: every property of the configuration can be set, no two settings share a name, every
// default is within its bounds and survives being printed and read, and `config/moonraft.toml` is current.

import Foundation
import Testing

@testable import Configuration

@Suite struct SettingTableTests {
    @Test func namesAreUniqueAndWellFormed() {
        var flags: Set<String> = []
        var variables: Set<String> = []
        for setting in Setting.all {
            #expect(setting.section + "." + setting.name == setting.key)
            #expect(setting.key.utf8.allSatisfy { $0 == 45 || $0 == 46 || (97...122).contains($0) }, "\(setting.key)")
            #expect(flags.insert(setting.key).inserted)
            if let flag = setting.flag {
                #expect(flags.insert(flag.name).inserted, "\(flag.name)")
                #expect(UnsupportedFlags.refusal(flag.name) == nil, "\(flag.name)")
            }
            for name in setting.environmentNames { #expect(variables.insert(name).inserted, "\(name)") }
            #expect(setting.reason.hasSuffix(".") && setting.reason.count > 20, "\(setting.key)")
            if case .integer = setting.kind { #expect(!setting.unit.isEmpty, "\(setting.key)") }
        }
        #expect(Set(Setting.sections.map(\.name)).count == Setting.sections.count)
    }

    /// Each setting changes the configuration; a second look at the properties by reflection finds those
    /// that no setting reaches.
    @Test func everyPropertyHasASetting() {
        let filledByLoading = 3  // plugins.bindings, cluster.initialMembers, compaction.automatic
        var properties = 0
        for section in Mirror(reflecting: NodeConfiguration()).children {
            properties += Mirror(reflecting: section.value).children.count
        }
        #expect(properties == Setting.all.count + filledByLoading)
    }

    @Test func defaultsSurvivePrintingAndReading() throws {
        for setting in Setting.all {
            let text = "v = " + Setting.text(setting.defaultValue)
            let value = try #require(try TOMLDocument.parse(text: text, file: "d")["v"])
            #expect(try setting.value(value) == setting.defaultValue, "\(setting.key)")
            var configuration = NodeConfiguration()
            setting.write(&configuration, setting.defaultValue)
            #expect(configuration == NodeConfiguration(), "\(setting.key)")
        }
    }

    @Test func effectivePageReadsBackAndHidesSecrets() throws {
        let text = """
            [member]
            name = "a\\"b"
            [storage]
            quota = "off"
            [[plugin]]
            name = "auth"
            order = 3
            [plugin.config]
            tokens = [ { token = "s3cret", user = "u" } ]
            "odd key" = 1979-05-27
            [[plugin]]
            name = "x"
            """
        let loaded = try load(text, ["--max-txn-ops=9"])
        let page = ConfigurationPage.effective(loaded) { _, path in path.last == "token" }
        #expect(page.contains("max-txn-ops = 9  # --max-txn-ops"))
        #expect(page.contains("name = \"a\\\"b\"  # m.toml:2:8"))
        #expect(page.contains("[[plugin]]  # m.toml:5:3"))
        #expect(page.contains("\"odd key\" = 1979-05-27"))
        #expect(!page.contains("s3cret") && page.contains("(hidden)"))
        let again = try load(page)
        #expect(again.configuration.plugins.bindings.count == 2)
        var expected = loaded.configuration
        var found = again.configuration
        expected.plugins.bindings = []
        found.plugins.bindings = []
        #expect(found == expected)
    }

    private var pageURL: URL {
        URL(filePath: #filePath).resolvingSymlinksInPath().deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "config/moonraft.toml")
    }

    /// With UPDATE_REFERENCE=1 in the environment the generated part is rewritten first (`make docs`).
    @Test func committedReferencePageIsTheGeneratedOne() throws {
        let reference = ConfigurationPage.reference
        var committed = (try? String(contentsOf: pageURL, encoding: .utf8)) ?? ""
        if ProcessInfo.processInfo.environment["UPDATE_REFERENCE"] == "1" {
            let marker = ConfigurationPage.endOfReference + "\n"
            let tail = committed.firstRange(of: marker).map { String(committed[$0.upperBound...]) } ?? ""
            committed = reference + tail
            try committed.write(to: pageURL, atomically: true, encoding: .utf8)
        }
        #expect(committed.hasPrefix(reference), "run make docs")
        let loaded = try load(committed)
        var expected = try load("").configuration
        expected.plugins.bindings = loaded.configuration.plugins.bindings
        #expect(loaded.configuration == expected)
    }
}
