// The table of all settings. Order here is the order of the reference page.

extension Setting {
    /// A section of the file, with the sentence that introduces it.
    package struct Section: Sendable {
        package let name: String
        package let summary: String
        package let settings: [Setting]
    }

    /// Every section with its settings, in the order of the reference page.
    package static let sections: [Section] = [
        Section(name: "member", summary: "Who this member is and where its data lives.", settings: member),
        Section(
            name: "clients", summary: "Where clients connect: gRPC and HTTP/1.1 on the same port.", settings: clients),
        Section(name: "peers", summary: "Where other members connect.", settings: peers),
        Section(
            name: "cluster", summary: "What the cluster is at its first start, and the rules of membership changes.",
            settings: cluster),
        Section(name: "raft", summary: "Timing and log keeping of consensus.", settings: raft),
        Section(name: "storage", summary: "The write-ahead log and the backend.", settings: storage),
        Section(name: "compaction", summary: "Compaction of old revisions.", settings: compaction),
        Section(name: "lease", summary: "Leases.", settings: lease),
        Section(name: "watch", summary: "Watches.", settings: watch),
        Section(name: "limits", summary: "Bounds of requests and of the node's queues.", settings: limits),
        Section(name: "transport", summary: "HTTP/2 and sockets: what one connection may cost.", settings: transport),
        Section(name: "keepalive", summary: "Liveness probes on client connections.", settings: keepalive),
        Section(name: "log", summary: "What is logged, how, and where to.", settings: log),
        Section(
            name: "metrics", summary: "Metrics, which the client port serves at /metrics in any case.",
            settings: metrics),
        Section(
            name: "plugins", summary: "Where plugins come from. Each is bound by a [[plugin]] table.", settings: plugins
        ),
    ]

    /// Every setting, in the order of the reference page.
    package static let all: [Setting] = sections.flatMap(\.settings)

    private static let member: [Setting] = [
        .string(
            "member.name", \.member.name, flag: "name",
            """
            Name of this member, shown in member lists and used in cluster.initial. Unique in a cluster.
            """),
        .string(
            "member.data-dir", \.member.dataDirectory, flag: "data-dir",
            """
            Folder of the write-ahead log and the database, created with mode 0700 and locked while the node runs. \
            Relative paths start at the working directory. Empty means NAME.moonraft beside a configuration \
            file's settings, and NAME.etcd when the node was started without a file, as etcd does.
            """),
    ]

    private static let clients: [Setting] = [
        .urls(
            "clients.listen", \.clients.listen, flag: "listen-client-urls",
            """
            Addresses to accept clients on. An IP address or localhost, never a name, so that it is plain which \
            interface is open; 0.0.0.0 opens all of them.
            """),
        .urls(
            "clients.advertise", \.clients.advertise, flag: "advertise-client-urls",
            """
            Addresses that member lists tell clients to use. Empty means those of clients.listen; must be given when \
            clients.listen opens all interfaces, since clients cannot connect to 0.0.0.0.
            """),
    ]

    private static let peers: [Setting] = [
        .urls(
            "peers.listen", \.peers.listen, flag: "listen-peer-urls",
            """
            Addresses to accept other members on. An IP address or localhost, never a name, as with clients.
            """),
        .urls(
            "peers.advertise", \.peers.advertise, flag: "initial-advertise-peer-urls",
            """
            Addresses that other members use, part of the member's identity at the first start. Empty means those of \
            peers.listen.
            """),
        .choice(
            "peers.plugin-mismatch", \.peers.pluginMismatch,
            """
            What to do about a member whose plugins differ: refuse it, or only warn. Different plugins mean that who \
            may do what depends on the member a client happens to ask; warn is for the time of a rolling change.
            """),
        .duration(
            "peers.dial-timeout", \.peers.dialTimeout, in: .milliseconds(100)...(.seconds(60)),
            """
            Time in which a connection to another member must come about before it is tried again.
            """),
        .integer(
            "peers.queue-messages", \.peers.queueMessages, in: 64...1_000_000, unit: "messages",
            """
            Messages that may wait for one member. Beyond it the newest are dropped, which consensus makes good.
            """),
        .size(
            "peers.queue-bytes", \.peers.queueBytes, in: (1 << 20)...(4 << 30),
            """
            The same in bytes: the memory that one slow member may cost.
            """),
        .duration(
            "peers.snapshot-timeout", \.peers.snapshotTimeout, in: .seconds(1)...(.seconds(3600)),
            """
            Time without progress after which a snapshot on its way to a member is broken off; the leader then sends \
            another.
            """),
        .size(
            "peers.snapshot-rate", \.peers.snapshotRate, in: (1 << 20)...(1 << 40),
            """
            Bytes of a snapshot sent to one member in a second. A member that is behind is caught up in the background; \
            faster, and the clients of a busy machine or disk wait for it.
            """),
    ]

    private static let cluster: [Setting] = [
        .string(
            "cluster.initial", \.cluster.initial, flag: "initial-cluster",
            """
            Members at the first start, as NAME=URL pairs joined by commas; must name this member with the URLs of \
            peers.advertise. Empty means this member alone. Ignored once the data folder exists.
            """),
        .choice(
            "cluster.initial-state", \.cluster.initialState, flag: "initial-cluster-state",
            """
            Whether the first start makes a new cluster or joins an existing one. Ignored once the data folder exists.
            """),
        .string(
            "cluster.initial-token", \.cluster.initialToken, flag: "initial-cluster-token",
            """
            Goes into the cluster id at the first start, so that two clusters made from the same addresses never mix.
            """),
        .boolean(
            "cluster.strict-reconfig-check", \.cluster.strictReconfigurationCheck, flag: "strict-reconfig-check",
            """
            Refuse changes of the membership that would leave too few started and connected members to commit \
            anything. Off only to repair a cluster by hand.
            """),
        .integer(
            "cluster.max-learners", \.cluster.maximumLearners, in: 1...64, unit: "members", flag: "max-learners",
            """
            Members without a vote at one time. Each costs the leader another copy of everything. The leader's setting \
            counts.
            """),
    ]

    private static let raft: [Setting] = [
        .duration(
            "raft.heartbeat-interval", \.raft.heartbeatInterval, in: .milliseconds(1)...(.seconds(10)),
            flag: Flag("heartbeat-interval", plainNumberIsMilliseconds: true),
            """
            Time between two heartbeats of the leader, and the tick of the node's clock. About the round trip between \
            members. The flag takes plain milliseconds too.
            """),
        .duration(
            "raft.election-timeout", \.raft.electionTimeout, in: .milliseconds(5)...(.seconds(50)),
            flag: Flag("election-timeout", plainNumberIsMilliseconds: true),
            """
            Time without a heartbeat after which a member stands for election; at least five heartbeat intervals. \
            Also bounds the shortest lease. The flag takes plain milliseconds too.
            """),
        .boolean(
            "raft.pre-vote", \.raft.preVote, flag: "pre-vote",
            """
            Ask for votes before raising the term, so that a member that was cut off does not disturb the leader.
            """),
        .integer(
            "raft.snapshot-count", \.raft.snapshotCount, in: 1...100_000_000, unit: "entries", flag: "snapshot-count",
            """
            Applied entries between two snapshots, after which older parts of the log are given up. Lower restarts \
            faster, higher writes less.
            """),
        .integer(
            "raft.snapshot-catchup-entries", \.raft.snapshotCatchUpEntries, in: 1...100_000_000, unit: "entries",
            flag: "snapshot-catchup-entries",
            """
            Entries kept behind a snapshot, so that a member that is a little late needs no snapshot.
            """),
    ]

    private static let storage: [Setting] = [
        .size(
            "storage.wal-segment-size", \.storage.walSegmentBytes, in: (1 << 20)...(1 << 30),
            """
            Size of a file of the write-ahead log, allocated in advance so that a write does not change metadata. \
            Must hold the largest request.
            """),
        .duration(
            "storage.backend-batch-interval", \.storage.backendBatchInterval, in: .milliseconds(1)...(.seconds(60)),
            flag: "backend-batch-interval",
            """
            Longest time before applied writes are committed to the database. They are durable in the log before that; \
            longer saves disk writes and lengthens the replay after a crash.
            """),
        .integer(
            "storage.backend-batch-limit", \.storage.backendBatchLimit, in: 1...10_000_000, unit: "records",
            flag: "backend-batch-limit",
            """
            Applied records after which the database commits without waiting for the interval. Bounds the memory of \
            what is not yet committed.
            """),
        .size(
            "storage.map-size", \.storage.mapBytes, in: (16 << 20)...(16 << 40),
            """
            Address space reserved for the database file, which can never grow beyond it. Costs no memory or disk by \
            itself. At least the quota.
            """),
        .quota(
            "storage.quota", \.storage.quotaBytes, in: (1 << 20)...(16 << 40), flag: "quota-backend-bytes",
            """
            Size of the database at which writes are refused and the NOSPACE alarm is raised. 0 means 2GiB, "off" or a \
            negative number none. Keep it well below the free disk.
            """),
    ]

    private static let compaction: [Setting] = [
        .choice(
            "compaction.auto-mode", \.compaction.mode, flag: "auto-compaction-mode",
            """
            How compaction.auto-retention is read: as time, or as a number of revisions.
            """),
        .string(
            "compaction.auto-retention", \.compaction.retention, kind: .retention, flag: "auto-compaction-retention",
            """
            History to keep. Periodic: a duration, or a plain number of hours. Revision: a number of revisions. 0 \
            switches automatic compaction off.
            """),
        .integer(
            "compaction.batch-limit", \.compaction.batchLimit, in: 1...1_000_000, unit: "revisions",
            flag: "compaction-batch-limit",
            """
            Revisions looked at in one step of a compaction. Requests wait for at most one step.
            """),
        .duration(
            "compaction.sleep-interval", \.compaction.sleepInterval, in: .zero...(.seconds(10)),
            flag: "compaction-sleep-interval",
            """
            Pause between two steps of a compaction, which leaves the disk to requests.
            """),
    ]

    private static let lease: [Setting] = [
        .duration(
            "lease.checkpoint-interval", \.lease.checkpointInterval, in: .seconds(1)...(.seconds(86_400)),
            """
            Time between two records of a long lease's remaining time. After a restart a lease has at most this much \
            more time than it had.
            """)
    ]

    private static let watch: [Setting] = [
        .duration(
            "watch.progress-notify-interval", \.watch.progressNotifyInterval,
            in: .milliseconds(100)...(.seconds(86_400)),
            flag: "watch-progress-notify-interval",
            """
            Time without events after which a watcher that asked for progress is told the current revision.
            """),
        .size(
            "watch.stream-buffer", \.watch.streamBufferBytes, in: (16 << 10)...(1 << 30),
            """
            Responses kept for one stream whose client does not read. Beyond it its watchers fall behind and catch up \
            from history, which costs no memory.
            """),
    ]

    private static let limits: [Setting] = [
        .size(
            "limits.max-request-bytes", \.limits.maximumRequestBytes, in: (1 << 10)...(512 << 20),
            flag: "max-request-bytes",
            """
            Largest request that changes something, as it goes into the log. Large requests delay all others. A member whose \
            storage.wal-segment-size is too small for what another let in stops: raise that on every member first.
            """),
        .integer(
            "limits.max-txn-ops", \.limits.maximumTransactionOperations, in: 1...1_000_000, unit: "operations",
            flag: "max-txn-ops",
            """
            Most compares, and most operations of one branch, in a transaction. A transaction is applied at one go.
            """),
        .size(
            "limits.max-response-bytes", \.limits.maximumResponseBytes, in: (1 << 20)...Int(Int32.max),
            """
            Largest reply. The default is the most that gRPC carries; ranges without a limit are built in memory.
            """),
        .integer(
            "limits.range-chunk-keys", \.limits.rangeChunkKeys, in: 16...1_000_000, unit: "keys",
            """
            Keys a range reads before it lets a waiting write go first. The result is that of one revision all the same.
            """),
        .integer(
            "limits.replica-mailbox", \.limits.replicaMailbox, in: 64...10_000_000, unit: "messages",
            """
            Messages that may wait for the replica. Beyond it requests are refused as "too many requests".
            """),
        .integer(
            "limits.pending-proposals", \.limits.pendingProposals, in: 16...10_000_000, unit: "entries",
            """
            Committed entries that may wait to be applied before new ones are refused as "too many requests".
            """),
        .integer(
            "limits.event-bus-queue", \.limits.eventBusQueue, in: 16...10_000_000, unit: "events",
            """
            Events that may wait for one subscriber. Beyond it the subscriber gets a gap marker and reads history instead.
            """),
        .integer(
            "limits.connections", \.limits.connections, in: 0...10_000_000, unit: "connections",
            """
            Client connections at one time. 0 means the process's limit of open files less 150, which the node keeps \
            for its own files.
            """),
    ]

    private static let transport: [Setting] = [
        .integer(
            "transport.event-loops", \.transport.eventLoops, in: 0...64, unit: "threads",
            """
            Threads that serve connections. 0 means one for each core, at most four.
            """),
        .integer(
            "transport.max-concurrent-streams", \.transport.maximumConcurrentStreams, in: 1...Int(UInt32.max),
            unit: "streams", flag: "max-concurrent-streams",
            """
            Calls that may be open on one connection. etcd allows any number; this bounds the memory one client can take.
            """),
        .size(
            "transport.stream-window", \.transport.streamWindowBytes, in: 65_535...(1 << 30),
            """
            Request bytes a client may send on one call ahead of the node's reading.
            """),
        .size(
            "transport.connection-window", \.transport.connectionWindowBytes, in: 65_535...(1 << 30),
            """
            Request bytes a client may send on one connection ahead of the node's reading; at least transport.stream-window.
            """),
        .size(
            "transport.unread-bytes", \.transport.unreadBytes, in: (1 << 20)...(16 << 30),
            """
            Reply bytes that one connection may leave unread. Beyond it, replies of 4 KiB and more are refused until it reads.
            """),
        .size(
            "transport.header-list-size", \.transport.headerListBytes, in: (4 << 10)...(16 << 20),
            """
            Headers of one request, decoded. Room for large tokens, none for a compression bomb.
            """),
        .integer(
            "transport.stream-reset-burst", \.transport.streamResetBurst, in: 1...1_000_000, unit: "resets",
            """
            Calls that a client may cancel at once. A connection that goes beyond is closed (HTTP/2 rapid reset).
            """),
        .integer(
            "transport.stream-reset-rate", \.transport.streamResetsPerSecond, in: 1...1_000_000,
            unit: "resets per second",
            """
            Rate at which the burst of transport.stream-reset-burst becomes available again.
            """),
        .integer(
            "transport.control-frame-burst", \.transport.controlFrameBurst, in: 16...1_000_000, unit: "frames",
            """
            PING, SETTINGS, PRIORITY, WINDOW_UPDATE and empty or tiny DATA frames taken at once. A connection that goes beyond is closed (floods).
            """),
        .integer(
            "transport.control-frame-rate", \.transport.controlFramesPerSecond, in: 1...1_000_000,
            unit: "frames per second",
            """
            Rate at which the burst of transport.control-frame-burst becomes available again.
            """),
        .duration(
            "transport.handshake-timeout", \.transport.handshakeTimeout, in: .milliseconds(100)...(.seconds(600)),
            """
            Time in which a new connection must say whether it speaks HTTP/2 or HTTP/1.1.
            """),
        .duration(
            "transport.request-timeout", \.transport.requestTimeout, in: .milliseconds(100)...(.seconds(3600)),
            """
            Time in which the whole of a request must arrive once it has begun.
            """),
        .duration(
            "transport.idle-timeout", \.transport.idleTimeout, in: .zero...(.seconds(86_400)),
            """
            Time without any call after which a connection is asked to go away. 0s means never, as in etcd.
            """),
        .duration(
            "transport.drain-timeout", \.transport.drainTimeout, in: .zero...(.seconds(600)),
            """
            Time that open calls have to end when the node stops.
            """),
    ]

    private static let keepalive: [Setting] = [
        .duration(
            "keepalive.min-time", \.keepalive.minimumTime, in: .zero...(.seconds(86_400)),
            flag: "grpc-keepalive-min-time",
            """
            Shortest time between two pings of a client. One that pings more often is sent away with "too_many_pings".
            """),
        .duration(
            "keepalive.interval", \.keepalive.interval, in: .zero...(.seconds(604_800)),
            flag: "grpc-keepalive-interval",
            """
            Time without activity after which the node pings a client, to find dead connections. 0s means never.
            """),
        .duration(
            "keepalive.timeout", \.keepalive.timeout, in: .zero...(.seconds(86_400)), flag: "grpc-keepalive-timeout",
            """
            Time a client has to answer a ping before its connection is closed. 0s means that it is not closed.
            """),
    ]

    private static let log: [Setting] = [
        .choice(
            "log.level", \.log.level, flag: "log-level",
            """
            Least important records that are written. panic and fatal are taken for etcd's sake and show only records \
            about a stop.
            """),
        .choice(
            "log.format", \.log.format, flag: "log-format",
            """
            json writes one object a line, console writes key=value pairs.
            """),
        .strings(
            "log.outputs", \.log.outputs, flag: "log-outputs",
            """
            Where records go: "default" or "stderr", "stdout", or paths of files to append to.
            """),
        .duration(
            "log.slow-request", \.log.slowRequest, in: .zero...(.seconds(3600)), flag: "warning-unary-request-duration",
            """
            Requests that take longer are logged, without their values. 0s logs none.
            """),
        .duration(
            "log.slow-apply", \.log.slowApply, in: .zero...(.seconds(3600)), flag: "warning-apply-duration",
            """
            Batches that take longer to apply are logged and become an event. 0s logs none.
            """),
        .duration(
            "log.slow-disk", \.log.slowDisk, in: .zero...(.seconds(3600)),
            """
            Syncs of the log that take longer are logged and become an event. 0s logs none.
            """),
    ]

    private static let metrics: [Setting] = [
        .urls(
            "metrics.listen", \.metrics.listen, flag: "listen-metrics-urls",
            """
            Addresses that serve /metrics and the health pages only, for scrapers that must not reach the data.
            """)
    ]

    private static let plugins: [Setting] = [
        .string(
            "plugins.folder", \.plugins.folder,
            """
            Folder with one subfolder for each plugin. A relative path is looked for beside this file, then in the folder \
            above it, then in the working directory.
            """)
    ]
}
