// Counters of the API that belong to no single loop or call.

import KVCodec
import Metrics
import Synchronization

/// Health probes and slow operator calls. Shared by all loops; nothing here is on a hot path.
final class Monitoring: Sendable {
    private struct Probes {
        var healthy: UInt64 = 0
        var unhealthy: UInt64 = 0
        /// Last result and counts by probe (`livez`, `readyz`) and check.
        var checks: [String: (isOK: Bool, successes: UInt64, failures: UInt64)] = [:]
    }

    /// Promotions that clients asked this member for.
    private struct Promotions {
        var successes: UInt64 = 0
        /// By the text of the refusal, of which there are few.
        var failures: [String: UInt64] = [:]
    }

    private let probes = Mutex(Probes())
    private let promotions = Mutex(Promotions())
    private let hashes = Mutex(())
    /// Written under `hashes`.
    private let hashDurations = DurationHistogram(
        HistogramBuckets(start: 0.01, factor: 2, count: 15))
    private let copies = Mutex(0)
    /// Written under `copies`.
    private let copyDurations = DurationHistogram(
        HistogramBuckets(start: 0.01, factor: 2, count: 17))
    /// Ranges that the range thread is reading.
    let longReads = Atomic<Int>(0)

    func health(isHealthy: Bool) {
        probes.withLock { if isHealthy { $0.healthy += 1 } else { $0.unhealthy += 1 } }
    }

    func check(_ probe: String, _ name: String, isOK: Bool) {
        probes.withLock { probes in
            var entry = probes.checks["\(probe) \(name)"] ?? (isOK, 0, 0)
            entry.isOK = isOK
            if isOK { entry.successes += 1 } else { entry.failures += 1 }
            probes.checks["\(probe) \(name)"] = entry
        }
    }

    func promoted(failure: String?) {
        promotions.withLock { promotions in
            if let failure {
                promotions.failures[failure, default: 0] += 1
            } else {
                promotions.successes += 1
            }
        }
    }

    func hashed(nanoseconds: UInt64) {
        hashes.withLock { _ in hashDurations.observe(nanoseconds: nanoseconds) }
    }

    /// Counts a copy of the backend for a client; false when as many as allowed are under way.
    func beginCopy(limit: Int) -> Bool {
        copies.withLock { count in
            if count >= limit { return false }
            count += 1
            return true
        }
    }

    func endCopy() { copies.withLock { $0 -= 1 } }

    func copied(nanoseconds: UInt64) {
        copies.withLock { _ in copyDurations.observe(nanoseconds: nanoseconds) }
    }

    func write(to out: inout Exposition) {
        let now = probes.withLock { $0 }
        out.single(
            "etcd_server_health_success", .counter, "The total number of successful health checks.",
            Double(now.healthy))
        out.single(
            "etcd_server_health_failures", .counter, "The total number of failed health checks.",
            Double(now.unhealthy))
        out.family("etcd_server_healthcheck", .gauge, "The result of each kind of healthcheck.")
        for (name, entry) in now.checks.sorted(by: { $0.key < $1.key }) {
            out.sample(
                "etcd_server_healthcheck", labels: Self.labels(name), entry.isOK ? 1 : 0)
        }
        out.family(
            "etcd_server_healthchecks_total", .counter,
            "The total number of each kind of healthcheck.")
        for (name, entry) in now.checks.sorted(by: { $0.key < $1.key }) {
            for (status, count) in [("success", entry.successes), ("error", entry.failures)] {
                out.sample(
                    "etcd_server_healthchecks_total",
                    labels: Self.labels(name) + [("status", status)], Double(count))
            }
        }
        let promoted = promotions.withLock { $0 }
        out.single(
            "etcd_server_learner_promote_successes", .counter,
            "The total number of successful learner promotions while this member is leader.",
            Double(promoted.successes))
        // A family without samples is not written, as etcd's library does.
        if !promoted.failures.isEmpty {
            out.family(
                "etcd_server_learner_promote_failures", .counter,
                "The total number of failed learner promotions (likely learner not ready) while this "
                    + "member is leader.")
        }
        for (reason, count) in promoted.failures.sorted(by: { $0.key < $1.key }) {
            out.sample(
                "etcd_server_learner_promote_failures", labels: [("Reason", reason)], Double(count))
        }
        out.histogram(
            "etcd_mvcc_hash_rev_duration_seconds",
            "The latency distribution of storage hash by revision operation.", hashDurations)
        out.histogram(
            "etcd_disk_backend_snapshot_duration_seconds",
            "The latency distribution of backend snapshots.", copyDurations)
        out.single(
            "etcd_mvcc_db_open_read_transactions", .gauge,
            "The number of currently open read transactions",
            Double(longReads.load(ordering: .relaxed)))
    }

    private static func labels(_ name: String) -> [(String, String)] {
        let parts = name.split(separator: " ")
        return [("name", String(parts.last ?? "")), ("type", "/\(parts.first ?? "")")]
    }
}

/// Requests by client version, for one loop. Versions come from the peer, so their number is
/// bounded; further ones count as `other`.
struct ClientVersions: Sendable {
    private(set) var rows: [(version: [UInt8], unary: UInt64, stream: UInt64)] = []
    private static let maxVersions = 16
    private static let other = Array("other".utf8)

    mutating func count(_ version: UnsafeRawBufferPointer?, isUnary: Bool) {
        var index = rows.firstIndex { row in
            guard let version else { return row.version.isEmpty }
            return row.version.elementsEqual(version)
        }
        if index == nil && rows.count < Self.maxVersions {
            rows.append((version?.array ?? [], 0, 0))
            index = rows.count - 1
        }
        if index == nil {
            index = rows.firstIndex { $0.version == Self.other }
            if index == nil {
                rows.append((Self.other, 0, 0))
                index = rows.count - 1
            }
        }
        guard let index else { return }
        if isUnary { rows[index].unary &+= 1 } else { rows[index].stream &+= 1 }
    }

    func knows(_ version: UnsafeRawBufferPointer) -> Bool {
        rows.contains { $0.version.elementsEqual(version) }
    }
}
