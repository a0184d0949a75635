/// Flags of etcd that this version does not have. They are refused by name: a node that ignored
/// `--cert-file` would serve in clear text what its operator believes to be encrypted.
package enum UnsupportedFlags {
    private struct Group {
        /// Ends the sentence "--FLAG is a flag of etcd that is not supported: …".
        let reason: String
        let names: [String]
    }

    private static let groups: [Group] = [
        Group(
            reason: "TLS is not in this version",
            names: [
                "cert-file", "key-file", "client-cert-auth", "client-cert-file", "client-key-file", "client-crl-file",
                "client-cert-allowed-hostname", "trusted-ca-file", "auto-tls", "peer-cert-file", "peer-key-file",
                "peer-client-cert-auth", "peer-client-cert-file", "peer-client-key-file", "peer-trusted-ca-file",
                "peer-cert-allowed-cn", "peer-cert-allowed-hostname", "peer-auto-tls", "peer-crl-file",
                "peer-skip-client-san-verification", "self-signed-cert-validity", "cipher-suites", "tls-min-version",
                "tls-max-version", "experimental-peer-skip-client-san-verification",
            ]),
        Group(
            reason: "there is no discovery; name the members by --initial-cluster or in [[cluster.member]] tables",
            names: [
                "discovery-token", "discovery-endpoints", "discovery-dial-timeout", "discovery-request-timeout",
                "discovery-keepalive-time", "discovery-keepalive-timeout", "discovery-insecure-transport",
                "discovery-insecure-skip-tls-verify", "discovery-cert", "discovery-key", "discovery-cacert",
                "discovery-user", "discovery-password", "discovery-srv", "discovery-srv-name",
            ]),
        Group(
            reason: "connections between members have their own settings, see [peers]",
            names: ["raft-read-timeout", "raft-write-timeout"]),
        Group(
            reason: "members compare hashes after every compaction by themselves",
            names: [
                "compact-hash-check-time", "experimental-compact-hash-check-enabled",
                "experimental-compact-hash-check-time",
            ]),
        Group(
            reason: "etcd itself has dropped it",
            names: [
                "discovery", "discovery-proxy", "discovery-fallback", "enable-v2", "v2-deprecation", "proxy",
                "proxy-failure-wait", "proxy-refresh-interval", "proxy-dial-timeout", "proxy-write-timeout",
                "proxy-read-timeout", "experimental-enable-v2v3", "max-snapshots",
            ]),
        Group(
            reason: "settings are written in TOML here, use --config FILE",
            names: ["config-file"]),
        Group(
            reason: "the JSON gateway is not in this version",
            names: ["enable-grpc-gateway", "cors", "host-whitelist"]),
        Group(
            reason: "one address serves gRPC and HTTP/1.1 in this version",
            names: ["listen-client-http-urls"]),
        Group(
            reason: "users and roles are not in this version; the plugin \"auth\" decides who may do what",
            names: ["auth-token", "auth-token-ttl", "bcrypt-cost"]),
        Group(
            reason: "records are always structured; leave it out",
            names: ["logger"]),
        Group(
            reason: "rotate the file with the machine's own tools",
            names: ["enable-log-rotation", "log-rotation-config-json"]),
        Group(
            reason: "the log keeps what replay needs and gives the rest up by itself",
            names: ["max-wals", "wal-dir"]),
        Group(
            reason: "the backend is not bbolt and needs no such setting",
            names: [
                "backend-bbolt-freelist-type", "bootstrap-defrag-threshold-megabytes", "memory-mlock",
                "experimental-memory-mlock", "experimental-bootstrap-defrag-threshold-megabytes",
                "experimental-txn-mode-write-with-shared-buffer", "experimental-stop-grpc-service-on-defrag",
            ]),
        Group(
            reason: "lease checkpoints are always written, see lease.checkpoint-interval",
            names: ["experimental-enable-lease-checkpoint", "experimental-enable-lease-checkpoint-persist"]),
        Group(
            reason: "a write that is not synced could be lost after it was acknowledged",
            names: ["unsafe-no-fsync"]),
        Group(
            reason: "it is not in this version",
            names: [
                "initial-election-tick-advance", "corrupt-check-time", "downgrade-check-time", "force-new-cluster",
                "experimental-initial-corrupt-check", "experimental-corrupt-check-time",
                "experimental-downgrade-check-time",
                "socket-reuse-port", "socket-reuse-address", "enable-pprof", "metrics", "feature-gates",
                "enable-distributed-tracing", "distributed-tracing-address", "distributed-tracing-service-name",
                "distributed-tracing-instance-id", "distributed-tracing-sampling-rate", "set-member-localaddr",
                "experimental-enable-distributed-tracing", "experimental-distributed-tracing-address",
                "experimental-distributed-tracing-service-name", "experimental-distributed-tracing-instance-id",
                "experimental-distributed-tracing-sampling-rate", "experimental-set-member-localaddr",
            ]),
    ]

    /// Flags that etcd has renamed since; the old name is refused with the new one.
    private static let renamed = [
        "experimental-compaction-batch-limit", "experimental-compaction-sleep-interval",
        "experimental-watch-progress-notify-interval", "experimental-warning-apply-duration",
        "experimental-warning-unary-request-duration", "experimental-max-learners",
        "experimental-snapshot-catchup-entries",
    ]

    /// Name without dashes to the reason; ordered access goes through the groups.
    private static let reasons: [String: String] = {
        var reasons: [String: String] = [:]
        for group in groups {
            for name in group.names { reasons[name] = group.reason }
        }
        for name in renamed {
            reasons[name] = "it is called --\(name.dropFirst("experimental-".count)) now"
        }
        return reasons
    }()

    /// Every flag that is refused, in byte order.
    package static var names: [String] { reasons.keys.sorted() }

    /// Why the flag of this name is refused, or nil when etcd has no such flag or it is supported here.
    package static func refusal(_ name: String) -> String? {
        guard let reason = reasons[name] else { return nil }
        return "is a flag of etcd that is not supported: \(reason)"
    }
}
