// One file for all members: each gets what its table says and what all share, and a mistake in any table is
// found by every member, with its place.

import Foundation
import Testing

@testable import Configuration

@Suite struct ClusterFileTests {
    private let file = """
        [raft]
        election-timeout = "2s"
        [[cluster.member]]
        name = "n1"
        peer-urls = ["http://127.0.0.1:1"]
        client-urls = ["http://127.0.0.1:2"]
        [[cluster.member]]
        name = "n2"
        peer-urls = ["http://two:4", "http://two:3"]
        client-urls = ["http://two:5"]
        listen-peer-urls = ["http://0.0.0.0:3"]
        listen-client-urls = ["http://0.0.0.0:5"]
        data-dir = "/d2"
        [cluster]
        initial-token = "t"
        """

    @Test func eachMemberGetsItsOwnAndWhatIsShared() throws {
        let one = try load(file, ["--member", "n1"])
        #expect(one.configuration.member.name == "n1")
        #expect(one.configuration.member.dataDirectory == "n1.moonraft")
        #expect(one.configuration.peers.listen.map(\.description) == ["http://127.0.0.1:1"])
        #expect(one.configuration.peers.advertise == one.configuration.peers.listen)
        #expect(one.configuration.clients.listen.map(\.port) == [2])
        #expect(one.configuration.cluster.initial == "n1=http://127.0.0.1:1,n2=http://two:3,n2=http://two:4")
        #expect(one.origin(of: "peers.listen").description == "m.toml:5:13")

        let two = try load(file, [], environment: ["MOONRAFT_MEMBER": "n2"])
        #expect(two.configuration.member.dataDirectory == "/d2")
        #expect(two.configuration.peers.listen.map(\.description) == ["http://0.0.0.0:3"])
        #expect(two.configuration.peers.advertise.map(\.port) == [3, 4])
        #expect(two.configuration.clients.listen.map(\.description) == ["http://0.0.0.0:5"])
        #expect(two.configuration.clients.advertise.map(\.description) == ["http://two:5"])
        for loaded in [one, two] {
            #expect(loaded.configuration.raft.electionTimeout == .seconds(2))
            #expect(loaded.configuration.cluster.initialToken == "t")
            #expect(loaded.configuration.cluster.initialMembers == one.configuration.cluster.initialMembers)
            #expect(loaded.memberNames == ["n1", "n2"])
        }
        // The page in force stands for this member alone.
        let page = ConfigurationPage.effective(two) { _, _ in false }
        #expect(try load(page).configuration == two.configuration)
    }

    @Test func flagsAndVariablesStillOverride() throws {
        let loaded = try load(
            file, ["--member=n1", "--data-dir", "/elsewhere"],
            environment: ["ETCD_LISTEN_CLIENT_URLS": "http://127.0.0.1:9"])
        #expect(loaded.configuration.member.dataDirectory == "/elsewhere")
        #expect(loaded.configuration.clients.listen.map(\.port) == [9])
        #expect(loaded.configuration.clients.advertise.map(\.port) == [2])
    }

    @Test func theWrongMemberIsNamedWithTheKnownOnes() {
        #expect(failure(file) == "m.toml:3:11: the file lists the members n1, n2; pick one by --member NAME")
        #expect(
            failure(file, ["--member", "n9"])
                == "m.toml:3:11: --member: no member is called \"n9\"; the file lists n1, n2")
        let needsTables = "--member n1: needs a configuration file with [[cluster.member]] tables"
        #expect(failure(nil, ["--member", "n1"]) == needsTables)
        #expect(failure("", ["--member", "n1"]) == needsTables)
        #expect(failure(file, ["--member"]) == "flag needs an argument: --member")
        #expect(failure(file, ["--member", "n1", "--name=x"]) == "--name: the name comes from --member n1")
        #expect(
            failure(file, ["--member", "n1"], environment: ["ETCD_NAME": "x"])
                == "ETCD_NAME: the name comes from --member n1")
        #expect(failure(file, ["--member", "n1"], environment: ["MOONRAFT_MEMBER": "n1"]).contains("shadowed"))
    }

    @Test func whatDiffersCannotBeShared() {
        for (section, key, value) in [
            ("member", "name", "\"x\""), ("member", "data-dir", "\"/d\""),
            ("clients", "listen", "[\"http://127.0.0.1:7\"]"), ("clients", "advertise", "[\"http://127.0.0.1:7\"]"),
            ("peers", "listen", "[\"http://127.0.0.1:7\"]"), ("peers", "advertise", "[\"http://127.0.0.1:7\"]"),
        ] {
            let found = failure("[\(section)]\n\(key) = \(value)\n" + file, ["--member", "n1"])
            #expect(
                found == "m.toml:2:\(key.count + 4): \(section).\(key): differs between members; say it in "
                    + "[[cluster.member]]")
        }
        let initial = failure(file + "\ninitial = \"n1=http://127.0.0.1:1\"", ["--member", "n1"])
        #expect(initial == "m.toml:16:11: cluster.initial: differs between members; say it in [[cluster.member]]")
    }

    @Test func mistakesInAnyTableAreFound() {
        let good = "[[cluster.member]]\nname = \"a\"\npeer-urls = [\"http://a:1\"]\nclient-urls = [\"http://a:2\"]\n"
        let cases: [(String, String)] = [
            (
                "[cluster]\nmember = 3",
                "m.toml:2:10: cluster.member: expected tables that start with [[cluster.member]], "
                    + "found an integer"
            ),
            ("[cluster]\nmember = [3]", "m.toml:2:11: cluster.member: expected a table, found an integer"),
            ("[[cluster.member]]\nname = \"a\"", "m.toml:1:11: cluster.member.peer-urls is missing"),
            (
                good + "[[cluster.member]]\nname = \"b\"\npeer-urls = [\"http://b:1\"]\npeerurl = 1",
                "m.toml:8:1: unknown key \"cluster.member.peerurl\"; the nearest is \"peer-urls\""
            ),
            (
                good + "[[cluster.member]]\nname = \"b\"\npeer-urls = \"http://b:1\"",
                "m.toml:7:13: cluster.member.peer-urls: expected an array of URLs such as "
                    + "[\"http://127.0.0.1:2379\"], found a string"
            ),
            (
                good + "[[cluster.member]]\nname = \"b\"\npeer-urls = []",
                "m.toml:7:13: cluster.member.peer-urls: needs at least one URL"
            ),
            (good + good, "m.toml:6:8: cluster.member.name: \"a\" stands twice"),
            (
                good + good.replacing("\"a\"", with: "\"b\""),
                "m.toml:7:13: cluster.member.peer-urls: http://a:1 is also that of \"a\""
            ),
            (
                good.replacing("http://a:1", with: "https://a:1"),
                "m.toml:3:13: cluster.member.peer-urls: TLS is not in this version, use http:// instead of https://: "
                    + "https://a:1"
            ),
        ]
        for (text, expected) in cases {
            #expect(failure(text, ["--member", "a"]) == expected)
        }
        // A name cannot be bound to: the place is that of the URLs it came from.
        #expect(
            failure(good, ["--member", "a"])
                == "m.toml:4:15: clients.listen: expected IP in URL for binding (http://a:2)")
    }

    @Test func allMembersCanBeReadAtOnce() throws {
        let flags = try CommandLineFlags(["--config", "m.toml"])
        let all = try LoadedConfiguration.all(flags: flags, environment: [:]) { [file] _ in file }
        #expect(all.map(\.configuration.member.name) == ["n1", "n2"])
        let picked = try LoadedConfiguration.all(
            flags: CommandLineFlags(["--config", "m.toml", "--member", "n2"]), environment: [:]
        ) { [file] _ in file }
        #expect(picked.map(\.configuration.member.name) == ["n2"])
        let single = try LoadedConfiguration.all(flags: flags, environment: [:]) { _ in "[member]\nname = \"s\"" }
        #expect(single.map(\.configuration.member.name) == ["s"])
        #expect(try LoadedConfiguration.all(flags: CommandLineFlags([]), environment: [:]).count == 1)
    }

    @Test func theExampleOnDiskIsThreeMembersThatFit() throws {
        let path = URL(filePath: #filePath).resolvingSymlinksInPath().deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent().appending(path: "config/cluster.toml")
        let text = try String(contentsOf: path, encoding: .utf8)
        let all = try LoadedConfiguration.all(
            flags: CommandLineFlags(["--config", "cluster.toml"]), environment: [:]
        ) { _ in text }
        #expect(all.map(\.configuration.member.dataDirectory) == ["n1.moonraft", "n2.moonraft", "n3.moonraft"])
        #expect(Set(all.flatMap { $0.configuration.clients.listen + $0.configuration.peers.listen }).count == 6)
        #expect(Set(all.map(\.configuration.cluster.initial)).count == 1)
    }
}
