// /metrics: the core's own series under etcd's names (etcd-parity section 6), and whatever plugins
// add.

import CSupport
import Metrics
import Node
import Peering
import RPC
import StateMachine

/// Figures of one event loop that a scrape needs.
struct LoopFigures: Sendable {
    var rpc: ServerStatistics
    var watchStreams = 0
    var watchers = 0
    var slowWatchers = 0
    var eventsSent: UInt64 = 0
    var slowRequests: UInt64 = 0
    var pendingEvents = 0
    var clientVersions = ClientVersions()
    var durations = CallDurations()
}

/// Builds the exposition from figures that were collected on their own threads.
enum MetricsEndpoint {
    static func text(
        node: Node, options: APIOptions, loops: [LoopFigures], monitoring: Monitoring,
        peers: [PeerCounters], extra: String
    ) -> [UInt8] {
        var out = Exposition()
        var rpc = loops.first?.rpc
        for other in loops.dropFirst() { rpc?.add(other.rpc) }
        if let rpc { grpc(rpc, &out) }
        server(node, options, &out)
        disk(node, &out)
        store(node, options, loops, &out)
        leases(node.status, &out)
        clients(loops, &out)
        durations(loops, &out)
        monitoring.write(to: &out)
        PeerMetrics.write(peers, node: node, to: &out)
        process(&out)
        out.append(extra)
        return [UInt8](out.text.utf8)
    }

    private static func load(_ value: UInt64) -> Double { Double(value) }

    private static func grpc(_ rpc: ServerStatistics, _ out: inout Exposition) {
        func labels(_ method: Method) -> [(String, String)] {
            [
                ("grpc_method", method.name), ("grpc_service", method.service),
                ("grpc_type", method.flow.rawValue),
            ]
        }
        func value(_ values: [UInt64], _ index: Int) -> Double {
            index < values.count ? Double(values[index]) : 0
        }
        out.family(
            "grpc_server_started_total", .counter, "Total number of RPCs started on the server.")
        for method in Method.allCases {
            out.sample(
                "grpc_server_started_total", labels: labels(method),
                value(rpc.started, method.rawValue))
        }
        out.family(
            "grpc_server_handled_total", .counter,
            "Total number of RPCs completed on the server, regardless of success or failure.")
        for method in Method.allCases {
            for code in RPCCode.allCases {
                out.sample(
                    "grpc_server_handled_total",
                    labels: [("grpc_code", code.name)] + labels(method),
                    value(rpc.handled, method.rawValue * 17 + Int(code.rawValue)))
            }
        }
        out.family(
            "grpc_server_msg_received_total", .counter,
            "Total number of RPC stream messages received on the server.")
        for method in Method.allCases {
            out.sample(
                "grpc_server_msg_received_total", labels: labels(method),
                value(rpc.messagesReceived, method.rawValue))
        }
        out.family(
            "grpc_server_msg_sent_total", .counter,
            "Total number of gRPC stream messages sent by the server.")
        for method in Method.allCases {
            out.sample(
                "grpc_server_msg_sent_total", labels: labels(method),
                value(rpc.messagesSent, method.rawValue))
        }
        out.single(
            "etcd_network_client_grpc_received_bytes_total", .counter,
            "The total number of bytes received from grpc clients.", Double(rpc.bytesIn))
        out.single(
            "etcd_network_client_grpc_sent_bytes_total", .counter,
            "The total number of bytes sent to grpc clients.", Double(rpc.bytesOut))
        out.single(
            "moonraft_client_connections", .gauge, "Open client connections.",
            Double(rpc.connectionsOpen))
        out.single(
            "moonraft_client_connections_refused_total", .counter,
            "Client connections ended for breaking a limit.", Double(rpc.connectionsRefused))
    }

    private static func server(_ node: Node, _ options: APIOptions, _ out: inout Exposition) {
        let status = node.status
        let leader = status.leader.load(ordering: .relaxed)
        out.single(
            "etcd_server_has_leader", .gauge,
            "Whether or not a leader exists. 1 is existence, 0 is not.", leader == 0 ? 0 : 1)
        out.single(
            "etcd_server_is_leader", .gauge,
            "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            leader == node.memberID ? 1 : 0)
        out.single(
            "etcd_server_is_learner", .gauge,
            "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            status.isLearner.load(ordering: .relaxed) ? 1 : 0)
        out.family("moonraft_alarms", .gauge, "Whether an alarm of this type stands, for any member.")
        for (type, stands) in [
            (AlarmType.noSpace, status.hasNoSpaceAlarm), (.corrupt, status.hasCorruptAlarm),
        ] {
            out.sample("moonraft_alarms", labels: [("type", type.wireName)], stands ? 1 : 0)
        }
        out.single(
            "etcd_server_leader_changes_seen_total", .counter,
            "The number of leader changes seen.",
            load(status.leaderChanges.load(ordering: .relaxed)))
        // Gauges in spite of their names, as in etcd; dashboards depend on the type.
        out.single(
            "etcd_server_proposals_committed_total", .gauge,
            "The total number of consensus proposals committed.",
            load(status.commitIndex.load(ordering: .relaxed)))
        out.single(
            "etcd_server_proposals_applied_total", .gauge,
            "The total number of consensus proposals applied.",
            load(status.appliedIndex.load(ordering: .relaxed)))
        out.single(
            "etcd_server_proposals_pending", .gauge,
            "The current number of pending proposals to commit.",
            load(status.pendingProposals.load(ordering: .relaxed)))
        out.single(
            "etcd_server_proposals_failed_total", .counter,
            "The total number of failed proposals seen.",
            load(status.failedProposals.load(ordering: .relaxed)))
        // A sole voter sends no heartbeats and makes no read rounds that could be late.
        out.single(
            "etcd_server_heartbeat_send_failures_total", .counter,
            "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
            0)
        out.single(
            "etcd_server_slow_read_indexes_total", .counter,
            "The total number of pending read indexes not in sync with leader's or timed out "
                + "read index requests.", 0)
        out.single(
            "etcd_server_read_indexes_failed_total", .counter,
            "The total number of failed read indexes seen.",
            load(status.failedReadRounds.load(ordering: .relaxed)))
        out.single(
            "etcd_server_slow_apply_total", .counter,
            "The total number of slow apply requests (likely overloaded from slow disk).",
            load(status.slowApplies.load(ordering: .relaxed)))
        out.single(
            "etcd_server_quota_backend_bytes", .gauge,
            "Current backend storage quota size in bytes.", Double(options.quotaBytes ?? 0))
        labelled(
            &out, "etcd_server_version", "Which version is running. 1 for 'server_version' label.",
            ("server_version", ProductVersion.server))
        labelled(
            &out, "etcd_cluster_version",
            "Which version is running. 1 for 'cluster_version' label with current cluster version",
            ("cluster_version", ProductVersion.cluster))
        labelled(
            &out, "moonraft_version", "Which Moonraft is running.",
            ("version", ProductVersion.moonraft))
        labelled(
            &out, "etcd_server_id", "Server or member ID in hexadecimal format. 1 for 'server_id' label.",
            ("server_id", String(node.memberID, radix: 16)))
        out.family("etcd_debugging_server_alarms", .gauge, "Alarms for every member in cluster.")
        let alarms = status.alarms.load(ordering: .relaxed)
        for type in AlarmType.allCases {
            out.sample(
                "etcd_debugging_server_alarms",
                labels: [
                    ("alarm_type", type.wireName), ("server_id", String(node.memberID, radix: 16)),
                ],
                alarms & (1 << UInt8(type.rawValue)) == 0 ? 0 : 1)
        }
    }

    private static func labelled(
        _ out: inout Exposition, _ name: String, _ help: String, _ label: (String, String)
    ) {
        out.family(name, .gauge, help)
        out.sample(name, labels: [label], 1)
    }

    private static func durations(_ loops: [LoopFigures], _ out: inout Exposition) {
        var sum = CallDurations()
        for loop in loops { sum.add(loop.durations) }
        out.family(
            "etcd_server_request_duration_seconds", .histogram,
            "Response latency distribution in seconds for each type.")
        for method in Method.allCases where method.flow == .unary && method.isServed {
            for isOK in [false, true] {
                let row = sum.row(method, isOK: isOK)
                out.histogram(
                    "etcd_server_request_duration_seconds",
                    labels: [("success", "\(isOK)"), ("type", method.name)],
                    bounds: CallDurations.buckets.upperBounds, counts: row.counts,
                    sum: row.sumSeconds)
            }
        }
    }

    private static func clients(_ loops: [LoopFigures], _ out: inout Exposition) {
        var sums: [String: (unary: UInt64, stream: UInt64)] = [:]
        for row in loops.flatMap(\.clientVersions.rows) {
            let version =
                row.version.isEmpty
                ? "unknown" : String(decoding: row.version, as: UTF8.self)
            sums[version, default: (0, 0)].unary &+= row.unary
            sums[version, default: (0, 0)].stream &+= row.stream
        }
        out.family(
            "etcd_server_client_requests_total", .counter,
            "The total number of client requests per client version.")
        for (version, count) in sums.sorted(by: { $0.key < $1.key }) {
            for (type, value) in [("unary", count.unary), ("stream", count.stream)] {
                out.sample(
                    "etcd_server_client_requests_total",
                    labels: [("client_api_version", version), ("type", type)], Double(value))
            }
        }
    }

    private static func disk(_ node: Node, _ out: inout Exposition) {
        out.histogram(
            "etcd_disk_wal_fsync_duration_seconds",
            "The latency distributions of fsync called by WAL.", node.log.syncDurations)
        out.single(
            "etcd_disk_wal_write_bytes_total", .gauge, "Total number of bytes written in WAL.",
            load(node.status.walBytesWritten.load(ordering: .relaxed)))
        out.histogram(
            "etcd_disk_backend_commit_duration_seconds",
            "The latency distributions of commit called by backend.", node.log.commitDurations)
    }

    private static func store(
        _ node: Node, _ options: APIOptions, _ loops: [LoopFigures], _ out: inout Exposition
    ) {
        let store = node.store
        let figures = store.statistics
        let ranges = loops.reduce(UInt64(0)) { sum, loop in
            sum &+ (loop.rpc.started.first ?? 0)
        }
        let rows: [(String, String, UInt64)] = [
            ("etcd_mvcc_range_total", "Total number of ranges seen by this member.", ranges),
            (
                "etcd_mvcc_put_total", "Total number of puts seen by this member.",
                node.status.keysPut.load(ordering: .relaxed)
            ),
            (
                "etcd_mvcc_delete_total", "Total number of deletes seen by this member.",
                node.status.keysDeleted.load(ordering: .relaxed)
            ),
            (
                "etcd_mvcc_txn_total", "Total number of txns seen by this member.",
                node.status.transactions.load(ordering: .relaxed)
            ),
        ]
        for (name, help, value) in rows { out.single(name, .counter, help, load(value)) }
        out.single(
            "etcd_debugging_mvcc_keys_total", .gauge, "Total number of keys.",
            Double(figures.keys))
        out.single(
            "etcd_debugging_mvcc_watch_stream_total", .gauge, "Total number of watch streams.",
            Double(loops.reduce(0) { $0 + $1.watchStreams }))
        out.single(
            "etcd_debugging_mvcc_watcher_total", .gauge, "Total number of watchers.",
            Double(loops.reduce(0) { $0 + $1.watchers }))
        out.single(
            "etcd_debugging_mvcc_slow_watcher_total", .gauge,
            "Total number of unsynced slow watchers.",
            Double(loops.reduce(0) { $0 + $1.slowWatchers }))
        out.single(
            "etcd_debugging_mvcc_events_total", .counter,
            "Total number of events sent by this member.",
            Double(loops.reduce(UInt64(0)) { $0 &+ $1.eventsSent }))
        out.single(
            "etcd_debugging_mvcc_pending_events_total", .gauge,
            "Total number of pending events to be sent.",
            Double(loops.reduce(0) { $0 + $1.pendingEvents }))
        out.single(
            "etcd_debugging_mvcc_total_put_size_in_bytes", .gauge,
            "The total size of put kv pairs seen by this member.",
            load(node.status.bytesPut.load(ordering: .relaxed)))
        out.single(
            "etcd_debugging_mvcc_db_compaction_keys_total", .counter,
            "Total number of db keys compacted.",
            load(node.status.compactedRecords.load(ordering: .relaxed)))
        out.single(
            "moonraft_slow_requests_total", .counter,
            "Unary requests slower than the warning time.",
            Double(loops.reduce(UInt64(0)) { $0 &+ $1.slowRequests }))
        out.single(
            "etcd_mvcc_db_total_size_in_bytes", .gauge,
            "Total size of the underlying database physically allocated in bytes.",
            load(node.status.backendBytes.load(ordering: .relaxed)))
        out.single(
            "etcd_mvcc_db_total_size_in_use_in_bytes", .gauge,
            "Total size of the underlying database logically in use in bytes.",
            load(node.status.backendBytesInUse.load(ordering: .relaxed)))
        out.single(
            "etcd_debugging_mvcc_current_revision", .gauge, "The current revision of store.",
            Double(store.currentRevision))
        out.single(
            "etcd_debugging_mvcc_compact_revision", .gauge,
            "The revision of the last compaction in store.", Double(store.compactRevision))
        out.single(
            "moonraft_index_memory_bytes", .gauge, "Memory of the key index.",
            Double(figures.indexMemoryBytes))
    }

    private static func leases(_ status: NodeStatus, _ out: inout Exposition) {
        let rows: [(String, String, UInt64)] = [
            (
                "etcd_debugging_lease_granted_total", "The total number of granted leases.",
                status.leasesGranted.load(ordering: .relaxed)
            ),
            (
                "etcd_debugging_lease_revoked_total", "The total number of revoked leases.",
                status.leasesRevoked.load(ordering: .relaxed)
            ),
            (
                "etcd_debugging_lease_renewed_total",
                "The number of renewed leases seen by the leader.",
                status.leasesRenewed.load(ordering: .relaxed)
            ),
            (
                "etcd_debugging_server_lease_expired_total",
                "The total number of expired leases.",
                status.leasesExpired.load(ordering: .relaxed)
            ),
        ]
        for (name, help, value) in rows { out.single(name, .counter, help, load(value)) }
    }

    private static func process(_ out: inout Exposition) {
        var figures = moonraft_process_figures()
        guard moonraft_process_figures_read(&figures) == 0 else { return }
        let cpu = Double(figures.cpu_user_microseconds &+ figures.cpu_system_microseconds) / 1e6
        out.single(
            "process_cpu_seconds_total", .counter,
            "Total user and system CPU time spent in seconds.", cpu)
        out.single(
            "process_resident_memory_bytes", .gauge, "Resident memory size in bytes.",
            load(figures.resident_bytes))
        out.single(
            "process_virtual_memory_bytes", .gauge, "Virtual memory size in bytes.",
            load(figures.virtual_bytes))
        out.single(
            "process_open_fds", .gauge, "Number of open file descriptors.",
            load(figures.open_descriptors))
        out.single(
            "process_max_fds", .gauge, "Maximum number of open file descriptors.",
            load(figures.max_descriptors))
        out.single(
            "os_fd_used", .gauge, "The number of used file descriptors.",
            load(figures.open_descriptors))
        out.single(
            "os_fd_limit", .gauge, "The file descriptor limit.", load(figures.max_descriptors))
        if figures.start_time_seconds > 0 {
            out.single(
                "process_start_time_seconds", .gauge,
                "Start time of the process since unix epoch in seconds.",
                figures.start_time_seconds)
        }
    }
}
