// What no setting can say alone: defaults that depend on other settings, and rules between settings.
// Texts follow etcd's `server/embed/config.go` and `server/config/config.go` where etcd has the rule.

extension LoadedConfiguration {
    /// Fills dependent defaults and checks rules between settings.
    mutating func resolve() throws(ConfigurationError) {
        try resolveMember()
        try checkListeners()
        try resolveAdvertised()
        try resolveCluster()
        try checkTiming()
        try resolveCompaction()
        try checkSizes()
        try checkOutputs()
    }

    private mutating func resolveMember() throws(ConfigurationError) {
        let name = configuration.member.name
        guard !name.isEmpty, !name.contains(where: { $0 == "," || $0 == "=" || $0.isWhitespace }) else {
            throw failure("member.name", "must not be empty, nor contain a comma, an equals sign or a space")
        }
        if configuration.member.dataDirectory.isEmpty {
            configuration.member.dataDirectory = name + (file == nil ? ".etcd" : ".moonraft")
        }
        guard !configuration.plugins.folder.isEmpty else { throw failure("plugins.folder", "must not be empty") }
        guard !configuration.cluster.initialToken.isEmpty else {
            throw failure("cluster.initial-token", "must not be empty")
        }
    }

    // MARK: - Addresses

    private func checkListeners() throws(ConfigurationError) {
        let groups = [
            ("clients.listen", configuration.clients.listen), ("peers.listen", configuration.peers.listen),
            ("metrics.listen", configuration.metrics.listen),
        ]
        var taken: [EndpointURL: String] = [:]
        for (key, urls) in groups {
            if urls.isEmpty && key != "metrics.listen" { throw failure(key, "needs at least one URL") }
            for url in urls {
                guard url.canBeBound else { throw failure(key, "expected IP in URL for binding (\(url))") }
                // Port 0 asks the system for any free port.
                if url.port != 0, let other = taken.updateValue(key, forKey: url) {
                    throw failure(key, "\(url) is also in \(other)")
                }
            }
        }
    }

    private mutating func resolveAdvertised() throws(ConfigurationError) {
        if configuration.clients.advertise.isEmpty {
            guard !configuration.clients.listen.contains(where: \.isUnspecified) else {
                throw failure(
                    "clients.listen",
                    """
                    --advertise-client-urls is required when --listen-client-urls is set explicitly to all interfaces: \
                    set clients.advertise
                    """)
            }
            configuration.clients.advertise = configuration.clients.listen.sorted()
        }
        if configuration.peers.advertise.isEmpty {
            guard !configuration.peers.listen.contains(where: \.isUnspecified) else {
                throw failure("peers.listen", "opens all interfaces: set peers.advertise to what others connect to")
            }
            configuration.peers.advertise = configuration.peers.listen.sorted()
        }
        for (key, urls) in [
            ("clients.advertise", configuration.clients.advertise), ("peers.advertise", configuration.peers.advertise),
        ] {
            for url in urls where url.host.isEmpty { throw failure(key, "unexpected empty host (\(url))") }
        }
    }

    // MARK: - Cluster

    private mutating func resolveCluster() throws(ConfigurationError) {
        let key = "cluster.initial"
        let name = configuration.member.name
        let advertised = configuration.peers.advertise
        if configuration.cluster.initial.isEmpty {
            configuration.cluster.initialMembers = [InitialMember(name: name, peerURLs: advertised)]
            configuration.cluster.initial = InitialMember.text(configuration.cluster.initialMembers)
            return
        }
        let members: [InitialMember]
        do {
            members = try InitialMember.list(configuration.cluster.initial)
        } catch {
            throw failure(key, error.message)
        }
        configuration.cluster.initialMembers = members
        guard let own = members.first(where: { $0.name == name }) else {
            throw failure(key, "couldn't find local name \"\(name)\" in the initial cluster configuration")
        }
        if configuration.cluster.initialState == .new { try checkAdvertised(own, advertised) }
        var seen: Set<EndpointURL> = []
        for url in members.flatMap(\.peerURLs) where !seen.insert(url).inserted {
            throw failure(key, "initial cluster \(InitialMember.text(members)) has duplicate url")
        }
        guard members.count <= ClusterMember.maximumCount else {
            throw failure(key, "names \(members.count) members, expected at most \(ClusterMember.maximumCount)")
        }
    }

    private func checkAdvertised(_ own: InitialMember, _ advertised: [EndpointURL]) throws(ConfigurationError) {
        let unadvertised = own.peerURLs.filter { !advertised.contains($0) }
        let advertisedText = advertised.map(\.description).joined(separator: ",")
        guard unadvertised.isEmpty else {
            let missing = unadvertised.map { "\(own.name)=\($0)" }.joined(separator: ",")
            throw failure(
                "cluster.initial",
                "--initial-cluster has \(missing) but missing from --initial-advertise-peer-urls=\(advertisedText)")
        }
        let unnamed = advertised.filter { !own.peerURLs.contains($0) }
        guard unnamed.isEmpty else {
            let missing = unnamed.map(\.description).joined(separator: ",")
            throw failure(
                "cluster.initial",
                """
                --initial-advertise-peer-urls has \(missing) but missing from \
                --initial-cluster=\(InitialMember.text([own]))
                """)
        }
    }

    // MARK: - Timing and sizes

    private func checkTiming() throws(ConfigurationError) {
        let heartbeat = configuration.raft.heartbeatInterval
        let election = configuration.raft.electionTimeout
        guard election >= heartbeat * 5 else {
            let milliseconds = (election.wholeNanoseconds / 1_000_000, heartbeat.wholeNanoseconds / 1_000_000)
            throw failure(
                origin(of: "raft.election-timeout") == .standard ? "raft.heartbeat-interval" : "raft.election-timeout",
                """
                --election-timeout[\(milliseconds.0)ms] should be at least as 5 times as \
                --heartbeat-interval[\(milliseconds.1)ms]
                """)
        }
    }

    /// Reads the retention as etcd does: a plain number is hours or revisions, anything else a duration.
    private mutating func resolveCompaction() throws(ConfigurationError) {
        let key = "compaction.auto-retention"
        let text = configuration.compaction.retention
        let number = Int(text)
        if number == 0 {
            configuration.compaction.automatic = .off
            return
        }
        switch (configuration.compaction.mode, number) {
        case (.revision, let count?) where count > 0:
            configuration.compaction.automatic = .revision(count)
        case (.revision, _):
            throw failure(key, "expected a number of revisions, found \"\(text)\"")
        case (.periodic, let hours?) where hours > 0 && hours <= 1_000_000:
            configuration.compaction.automatic = .periodic(.seconds(hours * 3600))
        case (.periodic, .some):
            throw failure(key, "expected 1 to 1000000 hours, found \"\(text)\"")
        case (.periodic, nil):
            let period: Duration
            do {
                period = try SettingText.duration(text)
            } catch {
                throw failure(key, error.message)
            }
            guard period == .zero || period >= .seconds(1) else {
                throw failure(key, "expected at least 1s, found \"\(text)\"")
            }
            configuration.compaction.automatic = period == .zero ? .off : .periodic(period)
        }
    }

    /// Room that a log record takes beside the request in it.
    private static let recordOverheadBytes = 64 << 10

    private mutating func checkSizes() throws(ConfigurationError) {
        let request = configuration.limits.maximumRequestBytes
        guard configuration.storage.walSegmentBytes >= request + Self.recordOverheadBytes else {
            throw failure(
                "storage.wal-segment-size",
                """
                must be 64KiB more than limits.max-request-bytes (\(SettingText.text(size: request))), since a request \
                is never split
                """)
        }
        if let quota = configuration.storage.quotaBytes, quota > configuration.storage.mapBytes {
            throw failure(
                "storage.quota",
                """
                \(SettingText.text(size: quota)) is more than storage.map-size \
                (\(SettingText.text(size: configuration.storage.mapBytes))), which the database cannot outgrow
                """)
        }
        guard configuration.transport.connectionWindowBytes >= configuration.transport.streamWindowBytes else {
            throw failure("transport.connection-window", "must be at least transport.stream-window")
        }
        if request > 10 << 20 {
            warnings.append(
                "limits.max-request-bytes is \(SettingText.text(size: request)), more than the recommended 10MiB")
        }
        if let quota = configuration.storage.quotaBytes, quota > 8 << 30 {
            warnings.append("storage.quota is \(SettingText.text(size: quota)), more than the recommended 8GiB")
        }
    }

    private func checkOutputs() throws(ConfigurationError) {
        guard !configuration.log.outputs.isEmpty else { throw failure("log.outputs", "needs at least one output") }
        for output in configuration.log.outputs {
            guard !output.isEmpty, output != "systemd/journal" else {
                throw failure("log.outputs", "expected default, stderr, stdout or a path, found \"\(output)\"")
            }
        }
    }
}
