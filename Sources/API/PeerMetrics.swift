// etcd_network_*: the connections to the other members (etcd server/etcdserver/api/rafthttp/metrics.go), and
// what the replica made of their messages.

import Metrics
import Node
import Peering

/// Writes the series of all peers, family by family.
enum PeerMetrics {
    static func write(_ peers: [PeerCounters], node: Node, to out: inout Exposition) {
        replica(node.status, &out)
        // A family without samples is not written, as etcd's library does.
        if peers.isEmpty { return }
        let own = hex(node.memberID)
        out.family("etcd_network_known_peers", .gauge, "The current number of known peers.")
        for peer in peers {
            out.sample(
                "etcd_network_known_peers", labels: [("Local", own), ("Remote", hex(peer.id))], 1)
        }
        let active = "etcd_network_active_peers"
        out.family(active, .gauge, "The current number of active peer connections.")
        for peer in peers {
            out.sample(
                active, labels: [("Local", own), ("Remote", hex(peer.id))],
                Double(peer[.isActive]))
        }
        let disconnected = "etcd_network_disconnected_peers_total"
        out.family(disconnected, .counter, "The total number of disconnected peers.")
        for peer in peers {
            out.sample(
                disconnected, labels: [("Local", own), ("Remote", hex(peer.id))],
                Double(peer[.disconnects]))
        }
        func series(
            _ name: String, _ type: MetricType, _ label: String, _ help: String,
            _ value: (PeerCounters) -> UInt64
        ) {
            out.family(name, type, help)
            for peer in peers {
                out.sample(name, labels: [(label, hex(peer.id))], Double(value(peer)))
            }
        }
        series(
            "etcd_network_peer_sent_bytes_total", .counter, "To",
            "The total number of bytes sent to peers."
        ) { $0[.sentBytes] }
        series(
            "etcd_network_peer_received_bytes_total", .counter, "From",
            "The total number of bytes received from peers."
        ) { $0[.receivedBytes] }
        series(
            "etcd_network_peer_sent_failures_total", .counter, "To",
            "The total number of send failures from peers."
        ) { $0.sentFailures }
        series(
            "etcd_network_peer_received_failures_total", .counter, "From",
            "The total number of receive failures from peers."
        ) { $0[.receivedFailures] }
        series(
            "etcd_network_snapshot_send_inflights_total", .gauge, "To",
            "Total number of inflight snapshot sends"
        ) { $0[.snapshotsSending] }
        series(
            "etcd_network_snapshot_send_success", .counter, "To",
            "Total number of successful snapshot sends"
        ) { $0[.snapshotsSent] }
        series(
            "etcd_network_snapshot_send_failures", .counter, "To",
            "Total number of snapshot send failures"
        ) { $0[.snapshotSendFailures] }
        series(
            "etcd_network_snapshot_receive_inflights_total", .gauge, "From",
            "Total number of inflight snapshot receives"
        ) { $0[.snapshotsReceiving] }
        series(
            "etcd_network_snapshot_receive_success", .counter, "From",
            "Total number of successful snapshot receives"
        ) { $0[.snapshotsReceived] }
        series(
            "etcd_network_snapshot_receive_failures", .counter, "From",
            "Total number of snapshot receive failures"
        ) { $0[.snapshotReceiveFailures] }
        histograms(
            "etcd_network_peer_round_trip_time_seconds", "To",
            "Round-Trip-Time histogram between peers", peers, &out
        ) { $0.roundTrip }
        histograms(
            "etcd_network_snapshot_send_total_duration_seconds", "To",
            "Total latency distributions of v3 snapshot sends", peers, &out
        ) { $0.snapshotSend }
        histograms(
            "etcd_network_snapshot_receive_total_duration_seconds", "From",
            "Total latency distributions of v3 snapshot receives", peers, &out
        ) {
            $0.snapshotReceive
        }
    }

    private static func histograms(
        _ name: String, _ label: String, _ help: String, _ peers: [PeerCounters],
        _ out: inout Exposition, _ histogram: (PeerCounters) -> DurationHistogram
    ) {
        out.family(name, .histogram, help)
        for peer in peers {
            let histogram = histogram(peer)
            let (counts, sum) = histogram.snapshot
            out.histogram(
                name, labels: [(label, hex(peer.id))], bounds: histogram.buckets.upperBounds,
                counts: counts, sum: sum)
        }
    }

    private static func replica(_ status: NodeStatus, _ out: inout Exposition) {
        out.single(
            "moonraft_peer_messages_refused_total", .counter,
            "Messages of peers that consensus refused.",
            Double(status.refusedMessages.load(ordering: .relaxed)))
        out.single(
            "moonraft_peer_messages_dropped_total", .counter,
            "Messages of peers that found the replica's mailbox full.",
            Double(status.droppedMessages.load(ordering: .relaxed)))
        out.single(
            "moonraft_snapshots_installed_total", .counter,
            "Snapshots of other members that replaced this member's state.",
            Double(status.snapshotsInstalled.load(ordering: .relaxed)))
        out.single(
            "moonraft_leader_resignations_total", .counter,
            "Leaderships given up because the log was not durable within an election timeout.",
            Double(status.stallResignations.load(ordering: .relaxed)))
    }

    private static func hex(_ id: UInt64) -> String { String(id, radix: 16) }
}
