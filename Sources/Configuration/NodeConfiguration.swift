/// Everything a node can be told, typed and grouped as the sections of the TOML file.
///
/// The initial values are the defaults. What each setting is for, its unit, its bounds and its flag stand in
/// ``Setting/all``, which also generates `config/moonraft.toml`; a property here without an entry there
/// could not be set, and a test compares the two.
package struct NodeConfiguration: Equatable, Sendable {
    package var member = Member()
    package var clients = Clients()
    package var peers = Peers()
    package var cluster = Cluster()
    package var raft = Raft()
    package var storage = Storage()
    package var compaction = Compaction()
    package var lease = Lease()
    package var watch = Watch()
    package var limits = Limits()
    package var transport = Transport()
    package var keepalive = Keepalive()
    package var log = Log()
    package var metrics = Metrics()
    package var plugins = Plugins()

    package init() {}

    /// Who this member is and where its data lives.
    package struct Member: Equatable, Sendable {
        package var name = "default"
        /// Never empty after loading.
        package var dataDirectory = ""
    }

    /// Where clients connect.
    package struct Clients: Equatable, Sendable {
        package var listen = [EndpointURL(host: "localhost", port: 2379)]
        /// Never empty after loading; sorted.
        package var advertise: [EndpointURL] = []
    }

    /// Where other members connect.
    package struct Peers: Equatable, Sendable {
        package var listen = [EndpointURL(host: "localhost", port: 2380)]
        /// Never empty after loading; sorted.
        package var advertise: [EndpointURL] = []

        package enum PluginMismatch: String, CaseIterable, Sendable {
            case refuse, warn
        }

        package var pluginMismatch = PluginMismatch.refuse
        package var dialTimeout = Duration.seconds(3)
        /// Messages waiting for one member.
        package var queueMessages = 4096
        package var queueBytes = 64 << 20
        /// Longest time without progress.
        package var snapshotTimeout = Duration.seconds(30)
        /// Of one transfer, in bytes a second.
        package var snapshotRate = 16 << 20
    }

    /// What the cluster is at its first start, and the rules of membership changes.
    package struct Cluster: Equatable, Sendable {
        package enum InitialState: String, CaseIterable, Sendable {
            case new, existing
        }

        /// The text of the setting; never empty after loading.
        package var initial = ""
        /// The members that `initial` names, in byte order of their names; filled by loading.
        package var initialMembers: [InitialMember] = []
        package var initialState = InitialState.new
        package var initialToken = "etcd-cluster"
        package var strictReconfigurationCheck = true
        package var maximumLearners = 1
    }

    /// Timing and log keeping of consensus.
    package struct Raft: Equatable, Sendable {
        package var heartbeatInterval = Duration.milliseconds(100)
        package var electionTimeout = Duration.milliseconds(1000)
        package var preVote = true
        /// Applied entries between two snapshots.
        package var snapshotCount = 10_000
        /// Entries kept in the log behind a snapshot.
        package var snapshotCatchUpEntries = 5_000
    }

    /// The write-ahead log and the backend.
    package struct Storage: Equatable, Sendable {
        package var walSegmentBytes = 64 << 20
        package var backendBatchInterval = Duration.milliseconds(100)
        package var backendBatchLimit = 10_000
        package var mapBytes = 64 << 30
        /// Nil switches the quota off.
        package var quotaBytes: Int? = NodeConfiguration.defaultQuotaBytes
    }

    /// Compaction of old revisions.
    package struct Compaction: Equatable, Sendable {
        package enum Mode: String, CaseIterable, Sendable {
            case periodic, revision
        }

        /// What `mode` and `retention` say together.
        package enum Automatic: Equatable, Sendable {
            case off
            /// Keep what was written within this time.
            case periodic(Duration)
            /// Keep this many revisions.
            case revision(Int)
        }

        package var mode = Mode.periodic
        /// The text of the setting, whose meaning depends on `mode`.
        package var retention = "0"
        /// Filled by loading.
        package var automatic = Automatic.off
        /// Revisions looked at in one step.
        package var batchLimit = 1_000
        /// Pause between two steps.
        package var sleepInterval = Duration.milliseconds(10)
    }

    /// Leases.
    package struct Lease: Equatable, Sendable {
        package var checkpointInterval = Duration.seconds(300)
    }

    /// Watches.
    package struct Watch: Equatable, Sendable {
        package var progressNotifyInterval = Duration.seconds(600)
        /// Bytes of responses that wait for one stream's client.
        package var streamBufferBytes = 1 << 20
    }

    /// Bounds of requests and of the node's queues.
    package struct Limits: Equatable, Sendable {
        package var maximumRequestBytes = 1_572_864
        package var maximumTransactionOperations = 128
        package var maximumResponseBytes = Int(Int32.max)
        package var rangeChunkKeys = 1_000
        package var replicaMailbox = 16_384
        package var pendingProposals = 5_000
        package var eventBusQueue = 8_192
        /// Zero means the limit of open files less 150.
        package var connections = 0
    }

    /// HTTP/2 and sockets: what one connection may cost.
    package struct Transport: Equatable, Sendable {
        /// Zero means one for each core, at most four.
        package var eventLoops = 0
        package var maximumConcurrentStreams = 65_536
        package var streamWindowBytes = 1 << 20
        package var connectionWindowBytes = 4 << 20
        package var unreadBytes = 64 << 20
        package var headerListBytes = 64 << 10
        package var streamResetBurst = 1_000
        package var streamResetsPerSecond = 33
        package var controlFrameBurst = 10_000
        package var controlFramesPerSecond = 5_000
        package var handshakeTimeout = Duration.seconds(10)
        package var requestTimeout = Duration.seconds(120)
        /// Zero means never.
        package var idleTimeout = Duration.zero
        package var drainTimeout = Duration.seconds(5)
    }

    /// Liveness probes on client connections.
    package struct Keepalive: Equatable, Sendable {
        package var minimumTime = Duration.seconds(5)
        /// Zero means no pings from the server.
        package var interval = Duration.seconds(7200)
        package var timeout = Duration.seconds(20)
    }

    /// What is logged, how, and where to.
    package struct Log: Equatable, Sendable {
        package enum Level: String, CaseIterable, Sendable {
            case debug, info, warn, error, panic, fatal
        }

        package enum Format: String, CaseIterable, Sendable {
            /// One JSON object a line.
            case json
            /// One `key=value` line.
            case console
        }

        package var level = Level.info
        package var format = Format.json
        package var outputs = ["default"]
        /// Zero means that no request is called slow.
        package var slowRequest = Duration.milliseconds(300)
        package var slowApply = Duration.milliseconds(100)
        package var slowDisk = Duration.seconds(1)
    }

    /// Where metrics are served besides the client port.
    package struct Metrics: Equatable, Sendable {
        package var listen: [EndpointURL] = []
    }

    /// Where plugins come from, and which are bound.
    package struct Plugins: Equatable, Sendable {
        package var folder = "plugins"
        /// The `[[plugin]]` tables in file order; the plugin host reads and checks them.
        package var bindings: [TOMLTable] = []
    }

    /// The quota that 0 stands for, as in etcd.
    package static let defaultQuotaBytes = 2 << 30

    /// The name that `[[plugin]]` tables have in the file.
    static let pluginTableKey = "plugin"
}
