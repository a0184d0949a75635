// A node must come up with exactly what its file, environment and flags say, or not at all and with the
// place of the mistake. Each test loads from strings and compares values or whole error texts.

import Testing

@testable import Configuration

/// Loads from a file's text (nil: no file), variables and arguments.
func load(
    _ text: String? = nil, _ arguments: [String] = [], environment: [String: String] = [:]
) throws -> LoadedConfiguration {
    let flags = try CommandLineFlags((text == nil ? [] : ["--config", "m.toml"]) + arguments)
    return try LoadedConfiguration(flags: flags, environment: environment) { _ in text ?? "" }
}

/// The error of loading, or "no error".
func failure(
    _ text: String? = nil, _ arguments: [String] = [], environment: [String: String] = [:]
) -> String {
    do {
        _ = try load(text, arguments, environment: environment)
        return "no error"
    } catch {
        return "\(error)"
    }
}

@Suite struct LoadedConfigurationTests {
    @Test func nothingGivenMeansDefaults() throws {
        let loaded = try load()
        var expected = NodeConfiguration()
        expected.member.dataDirectory = "default.etcd"
        expected.clients.advertise = expected.clients.listen
        expected.peers.advertise = expected.peers.listen
        expected.cluster.initial = "default=http://localhost:2380"
        expected.cluster.initialMembers = [InitialMember(name: "default", peerURLs: expected.peers.listen)]
        #expect(loaded.configuration == expected)
        #expect(loaded.warnings.isEmpty)
        #expect(loaded.configuration.plugins.bindings.isEmpty)
    }

    @Test func flagsOverrideVariablesOverrideTheFile() throws {
        let text = """
            [raft]
            heartbeat-interval = "20ms"
            election-timeout = "200ms"
            [limits]
            max-txn-ops = 7
            """
        let loaded = try load(
            text, ["--heartbeat-interval", "30"],
            environment: ["ETCD_MAX_TXN_OPS": "8", "MOONRAFT_RAFT_ELECTION_TIMEOUT": "300ms", "ETCD_NAME": ""])
        #expect(loaded.configuration.raft.heartbeatInterval == .milliseconds(30))
        #expect(loaded.configuration.raft.electionTimeout == .milliseconds(300))
        #expect(loaded.configuration.limits.maximumTransactionOperations == 8)
        #expect(loaded.configuration.member.dataDirectory == "default.moonraft")
        #expect(loaded.origin(of: "raft.heartbeat-interval") == .flag("--heartbeat-interval"))
        #expect(loaded.origin(of: "raft.election-timeout") == .environment("MOONRAFT_RAFT_ELECTION_TIMEOUT"))
        #expect(loaded.origin(of: "limits.max-txn-ops").description == "ETCD_MAX_TXN_OPS")
        #expect(loaded.origin(of: "raft.pre-vote") == .standard)
    }

    @Test func everyFlagThatEtcdUsersNeed() throws {
        let loaded = try load(
            nil,
            [
                "--name=n1", "-data-dir", "/d", "--listen-client-urls", "http://0.0.0.0:1,http://[::1]:2",
                "--advertise-client-urls=http://h:1", "--listen-peer-urls", "http://127.0.0.1:3",
                "--initial-advertise-peer-urls", "http://p:3", "--initial-cluster", "n1=http://p:3",
                "--initial-cluster-state", "new", "--initial-cluster-token", "tok", "--quota-backend-bytes",
                "1073741824",
                "--auto-compaction-mode", "revision", "--auto-compaction-retention", "1000", "--snapshot-count=100",
                "--max-txn-ops", "256", "--max-request-bytes", "2097152", "--log-level", "warn",
                "--election-timeout", "500", "--heartbeat-interval", "50", "--backend-batch-interval", "50ms",
                "--backend-batch-limit=5", "--max-concurrent-streams", "4294967295", "--grpc-keepalive-min-time", "1s",
                "--grpc-keepalive-interval", "2h0m0s", "--grpc-keepalive-timeout=1m30s",
                "--warning-unary-request-duration", "1s", "--listen-metrics-urls", "http://127.0.0.1:9",
                "--watch-progress-notify-interval", "1m", "--compaction-batch-limit", "10",
                "--compaction-sleep-interval", "0s",
                "--strict-reconfig-check=false", "--max-learners", "3",
                "--pre-vote", "--log-format", "console", "--log-outputs", "stderr,/tmp/x",
            ])
        let c = loaded.configuration
        #expect(c.member.name == "n1" && c.member.dataDirectory == "/d")
        #expect(c.clients.listen.map(\.description) == ["http://0.0.0.0:1", "http://[::1]:2"])
        #expect(c.clients.advertise.map(\.description) == ["http://h:1"])
        #expect(c.peers.listen.map(\.port) == [3])
        #expect(c.cluster.initialMembers.map(\.name) == ["n1"] && c.cluster.initialToken == "tok")
        #expect(!c.cluster.strictReconfigurationCheck && c.cluster.maximumLearners == 3)
        #expect(c.storage.quotaBytes == 1 << 30)
        #expect(c.compaction.automatic == .revision(1000))
        #expect(c.raft.snapshotCount == 100 && c.raft.electionTimeout == .milliseconds(500) && c.raft.preVote)
        #expect(c.limits.maximumTransactionOperations == 256 && c.limits.maximumRequestBytes == 2 << 20)
        #expect(c.log.level == .warn && c.log.format == .console && c.log.outputs == ["stderr", "/tmp/x"])
        #expect(c.storage.backendBatchInterval == .milliseconds(50) && c.storage.backendBatchLimit == 5)
        #expect(c.transport.maximumConcurrentStreams == 4_294_967_295)
        #expect(c.keepalive.timeout == .seconds(90) && c.keepalive.interval == .seconds(7200))
        #expect(c.log.slowRequest == .seconds(1) && c.metrics.listen.map(\.port) == [9])
        #expect(c.watch.progressNotifyInterval == .seconds(60) && c.compaction.sleepInterval == .zero)
    }

    @Test func mistakesInTheFileAreFound() {
        #expect(
            failure("\n[raft]\nhartbeat-interval = \"1s\"\n")
                == "m.toml:3:1: unknown key \"raft.hartbeat-interval\"; the nearest is \"raft.heartbeat-interval\"")
        #expect(failure("[rafft]\n") == "m.toml:1:2: unknown key \"rafft\"; the nearest is \"raft\"")
        #expect(failure("name = \"x\"") == "m.toml:1:1: unknown key \"name\"; the nearest is \"member.name\"")
        #expect(
            failure("[storage]\nquota-backend-bytes = 5").hasPrefix("m.toml:2:1: unknown key \"storage.quota-backend"))
        #expect(failure("raft = 3") == "m.toml:1:8: raft: expected a table, found an integer")
        #expect(
            failure("[raft]\nheartbeat-interval = 100")
                == """
                m.toml:2:22: raft.heartbeat-interval: expected a duration with its unit in quotes, such as "100ms" \
                or "5s", found an integer
                """)
        #expect(
            failure("[raft]\npre-vote = \"yes\"")
                == "m.toml:2:12: raft.pre-vote: expected true or false, found a string")
        #expect(
            failure("[raft]\nelection-timeout = \"51s\"")
                == "m.toml:2:20: raft.election-timeout: 51s is out of range, expected 5ms to 50s")
        #expect(
            failure("[log]\nlevel = \"loud\"").hasSuffix(
                "expected one of \"debug\", \"info\", \"warn\", \"error\", \"panic\", \"fatal\", found \"loud\""))
        #expect(
            failure("[clients]\nlisten = \"http://a:1\"").hasPrefix("m.toml:2:10: clients.listen: expected an array"))
        #expect(
            failure("[clients]\nlisten = [\"https://127.0.0.1:1\"]").contains("TLS is not in this version"))
        #expect(
            failure("[clients]\nlisten = [\"http://example.org:1\"]")
                == "m.toml:2:10: clients.listen: expected IP in URL for binding (http://example.org:1)")
        #expect(
            failure("plugin = 1") == "m.toml:1:10: plugin: expected tables that start with [[plugin]], found an integer"
        )
        #expect(failure("a = = 1").hasPrefix("m.toml:1:5: "))
    }

    @Test func mistakesInFlagsAndVariablesAreFound() {
        #expect(failure(nil, ["--nmae", "x"]) == "flag provided but not defined: --nmae; the nearest is --name")
        #expect(failure(nil, ["--name"]) == "flag needs an argument: --name")
        #expect(failure(nil, ["name"]) == "\"name\" is not a valid flag")
        #expect(failure(nil, ["---name=x"]) == "bad flag syntax: ---name=x")
        #expect(failure(nil, ["--pre-vote", "false"]) == "\"false\" is not a valid flag")
        #expect(failure(nil, ["--max-txn-ops", "many"]) == "--max-txn-ops: expected an integer, found \"many\"")
        #expect(failure(nil, ["--heartbeat-interval=0"]).contains("out of range"))
        #expect(
            failure(nil, ["--cert-file=x"])
                == "--cert-file is a flag of etcd that is not supported: TLS is not in this version")
        #expect(failure(nil, ["--config-file", "x"]).hasSuffix("use --config FILE"))
        #expect(
            failure(nil, ["--experimental-compaction-batch-limit=1"]).hasSuffix(
                "it is called --compaction-batch-limit now"))
        #expect(
            failure(nil, ["--name=a"], environment: ["ETCD_NAME": "b"])
                == """
                conflicting environment variable "ETCD_NAME" is shadowed by corresponding command-line flag (either \
                unset environment variable or disable flag)
                """)
        #expect(
            failure(nil, [], environment: ["ETCD_NAME": "a", "MOONRAFT_MEMBER_NAME": "b"]).hasSuffix(
                "MOONRAFT_MEMBER_NAME and ETCD_NAME set the same thing; unset one"))
        #expect(failure(nil, [], environment: ["ETCD_TRUSTED_CA_FILE": "f"]).contains("TLS is not in this version"))
        #expect(
            failure(nil, [], environment: ["ETCD_MAX_TXN_OPS": "x"])
                == "ETCD_MAX_TXN_OPS: expected an integer, found \"x\"")
    }

    @Test func strangeVariablesAreWarnedAbout() throws {
        let loaded = try load(nil, [], environment: ["ETCD_PORT": "tcp://x", "MOONRAFT_X": "1", "OTHER": "2"])
        #expect(
            loaded.warnings == [
                "unrecognized environment variable ETCD_PORT", "unrecognized environment variable MOONRAFT_X",
            ])
    }

    @Test func rulesBetweenSettings() throws {
        #expect(
            failure("[raft]\nheartbeat-interval=\"1s\"\nelection-timeout = \"4s\"")
                == """
                m.toml:3:20: raft.election-timeout: --election-timeout[4000ms] should be at least as 5 times as \
                --heartbeat-interval[1000ms]
                """)
        #expect(failure("[raft]\nheartbeat-interval=\"1s\"").hasPrefix("m.toml:2:20: raft.heartbeat-interval: "))
        #expect(
            failure(nil, ["--initial-cluster", "a=http://h:1"])
                == "--initial-cluster: couldn't find local name \"default\" in the initial cluster configuration")
        #expect(
            failure(nil, ["--initial-cluster", "default=http://h:1"])
                == """
                --initial-cluster: --initial-cluster has default=http://h:1 but missing from \
                --initial-advertise-peer-urls=http://localhost:2380
                """)
        #expect(
            failure(
                nil,
                ["--initial-cluster=default=http://h:1", "--initial-advertise-peer-urls=http://h:1,http://h:2"])
                    == """
                    --initial-cluster: --initial-advertise-peer-urls has http://h:2 but missing from \
                    --initial-cluster=default=http://h:1
                    """)
        let several = ["--initial-cluster", "default=http://localhost:2380,b=http://h:1,b=http://h:2"]
        #expect(try load(nil, several).configuration.cluster.initialMembers.map(\.peerURLs.count) == [2, 1])
        let crowd = (0..<65).map { "m\($0)=http://h:\($0 + 1)" }.joined(separator: ",")
        #expect(
            failure(
                nil, ["--name=m0", "--initial-advertise-peer-urls=http://h:1", "--initial-cluster", crowd])
                == "--initial-cluster: names 65 members, expected at most 64")
        #expect(
            failure(nil, ["--initial-cluster", "default=http://localhost:2380,b=http://localhost:2380"])
                .hasSuffix("has duplicate url"))
        #expect(failure(nil, ["--listen-client-urls=http://0.0.0.0:1"]).contains("--advertise-client-urls is required"))
        #expect(failure(nil, ["--listen-client-urls="]).contains("needs at least one URL"))
        #expect(failure(nil, ["--listen-client-urls=http://127.0.0.1:1,http://127.0.0.1:1"]).contains("stands twice"))
        #expect(
            failure(nil, ["--listen-client-urls=http://localhost:2380"]).contains("is also in clients.listen"))
        #expect(failure(nil, ["--advertise-client-urls=http://:1"]).contains("unexpected empty host (http://:1)"))
        #expect(failure(nil, ["--name="]).hasPrefix("--name: must not be empty"))
        #expect(failure("[limits]\nmax-request-bytes = \"64MiB\"").contains("storage.wal-segment-size"))
        #expect(failure("[storage]\nmap-size = \"1GiB\"").contains("more than storage.map-size"))
        #expect(failure("[log]\noutputs = []").contains("needs at least one output"))
        #expect(failure(nil, ["--log-outputs=systemd/journal"]).contains("expected default, stderr"))
    }

    private func automatic(_ mode: String, _ retention: String) -> String {
        do {
            let arguments = ["--auto-compaction-mode", mode, "--auto-compaction-retention", retention]
            return "\(try load(nil, arguments).configuration.compaction.automatic)"
        } catch {
            return "\(error)"
        }
    }

    @Test func retentionIsReadAsEtcdDoes() throws {
        #expect(automatic("periodic", "0") == "off")
        #expect(automatic("revision", "0") == "off")
        #expect(automatic("periodic", "2") == "periodic(7200.0 seconds)")
        #expect(automatic("periodic", "5m") == "periodic(300.0 seconds)")
        #expect(automatic("revision", "1000") == "revision(1000)")
        #expect(automatic("revision", "5m").contains("expected a number of revisions"))
        #expect(automatic("revision", "-5").contains("expected a number of revisions"))
        #expect(automatic("periodic", "-5").contains("expected 1 to 1000000 hours"))
        #expect(automatic("periodic", "soon").contains("expected a duration"))
        #expect(
            try load("[compaction]\nauto-retention = 3").configuration.compaction.automatic
                == .periodic(.seconds(10_800)))
    }

    @Test func quotaForms() throws {
        #expect(try load(nil, ["--quota-backend-bytes=0"]).configuration.storage.quotaBytes == 2 << 30)
        #expect(try load(nil, ["--quota-backend-bytes", "-1"]).configuration.storage.quotaBytes == nil)
        #expect(try load("[storage]\nquota = \"off\"").configuration.storage.quotaBytes == nil)
        #expect(try load("[storage]\nquota = 16777216").configuration.storage.quotaBytes == 16 << 20)
        #expect(try load("[storage]\nquota = \"1.5GiB\"").configuration.storage.quotaBytes == 3 << 29)
        #expect(failure("[storage]\nquota = 5").contains("out of range"))
        #expect(try !load("[storage]\nquota = \"9GiB\"").warnings.isEmpty)
    }

    @Test func helpAndVersion() throws {
        #expect(try CommandLineFlags(["-h"]).wantsHelp)
        #expect(try CommandLineFlags(["--version"]).wantsVersion)
        #expect(try !CommandLineFlags(["--version=false"]).wantsVersion)
        #expect(CommandLineFlags.help.contains("--listen-client-urls"))
    }

    @Test func theFileCanBeNamedByAVariable() throws {
        let flags = try CommandLineFlags([])
        let loaded = try LoadedConfiguration(flags: flags, environment: ["MOONRAFT_CONFIG": "v.toml"]) { name in
            #expect(name == "v.toml")
            return "[member]\nname = \"v\""
        }
        #expect(loaded.configuration.member.name == "v")
        #expect(failure("", [], environment: ["MOONRAFT_CONFIG": "x"]).contains("shadowed"))
        #expect(throws: ConfigurationError(message: "cannot read /none/x: No such file or directory")) {
            try LoadedConfiguration(arguments: ["--config", "/none/x"], environment: [:])
        }
    }
}
