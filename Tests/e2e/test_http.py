"""The client port also speaks HTTP/1.1: health, liveness, readiness, version and metrics, as probes and dashboards ask.

Method: plain HTTP requests; metrics are parsed and compared by name, type and labels with the list stock etcd
dashboards query.
"""

import http.client
import json
import re
import socket

import pytest

from harness import IS_ETCD, eventually

ACTIVATE, DEACTIVATE, NOSPACE, CORRUPT = 1, 2, 1, 2


def fetch(server, path, method="GET", body=None, headers=None):
    """(status, body, headers) of one request on its own connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.client_port, timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read().decode(), reply.headers
    finally:
        connection.close()


@pytest.fixture
def alarm(client):
    """Raises an alarm for the test and takes it back."""
    member = client.call("Maintenance.Status").header.member_id
    raised = []

    def raise_(kind):
        client.call("Maintenance.Alarm", action=ACTIVATE, memberID=member, alarm=kind)
        raised.append(kind)
    yield raise_
    for kind in raised:
        client.call("Maintenance.Alarm", action=DEACTIVATE, memberID=member, alarm=kind)


# -- /health


def test_health(server):
    for query in ("", "?serializable=true", "?exclude=NOSPACE", "?unknown=1"):
        status, body, _ = fetch(server, "/health" + query)
        assert (status, json.loads(body)) == (200, {"health": "true", "reason": ""}), query


def test_health_under_alarms(server, alarm):
    alarm(NOSPACE)
    status, body, _ = fetch(server, "/health")
    assert (status, json.loads(body)) == (503, {"health": "false", "reason": "ALARM NOSPACE"})
    assert fetch(server, "/health?exclude=NOSPACE")[0] == 200
    assert fetch(server, "/health?exclude=NOSPACE&exclude=CORRUPT")[0] == 200
    assert fetch(server, "/health?exclude=CORRUPT")[0] == 503
    alarm(CORRUPT)
    assert fetch(server, "/health?exclude=NOSPACE")[1].strip() == '{"health":"false","reason":"ALARM CORRUPT"}'


@pytest.mark.parametrize("path", ["/health"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_health_takes_get_only(server, path, method):
    status, _, headers = fetch(server, path, method)
    assert (status, headers["Allow"]) == (405, "GET")


# -- /livez and /readyz


READY = {"data_corruption", "serializable_read", "linearizable_read", "non_learner"}


@pytest.mark.differs_on_351("livez and readyz came with 3.6")
def test_livez_and_readyz(server):
    for path, checks in (("/livez", {"serializable_read"}), ("/readyz", READY)):
        assert fetch(server, path)[:2] == (200, "ok\n")
        status, body, headers = fetch(server, path + "?verbose")
        lines = body.splitlines()
        assert status == 200 and headers["Content-Type"].startswith("text/plain")
        assert set(lines[:-1]) == {"[+]%s ok" % name for name in checks} and lines[-1] == "ok"
        for name in checks:
            assert fetch(server, "%s/%s" % (path, name))[:2] == (200, "ok\n")
        excluded = sorted(checks)[0]
        body = fetch(server, "%s?verbose&exclude=%s" % (path, excluded))[1]
        assert excluded not in body and body.endswith("ok\n")
        assert fetch(server, path + "?exclude=no_such_check")[0] == 200
        assert fetch(server, path, "POST")[0] == 405
        assert fetch(server, path + "/no_such_check")[0] == 404


@pytest.mark.differs_on_351("readyz came with 3.6")
def test_readyz_fails_on_corruption_only(server, alarm):
    alarm(NOSPACE)
    assert fetch(server, "/readyz")[0] == 200
    alarm(CORRUPT)
    status, body, _ = fetch(server, "/readyz")
    assert status == 503 and "[-]data_corruption failed: " in body and "[+]serializable_read ok" in body
    assert fetch(server, "/readyz?exclude=data_corruption")[0] == 200
    assert fetch(server, "/readyz/data_corruption")[0] == 503
    assert fetch(server, "/livez")[0] == 200


# -- /version


def test_version(server, client):
    status, body, headers = fetch(server, "/version")
    version = json.loads(body)
    assert status == 200 and headers["Content-Type"].startswith("application/json")
    assert version["etcdserver"] == client.call("Maintenance.Status").version
    eventually(lambda: re.fullmatch(r"3\.\d+\.\d+", json.loads(fetch(server, "/version")[1])["etcdcluster"]))
    if not IS_ETCD:
        assert re.fullmatch(r"3\.\d+\.\d+|unknown", version["storage"])


# -- General HTTP


def test_unknown_paths(server):
    for path in ("/", "/nothing", "/../etc/passwd"):
        assert fetch(server, path)[0] in (404, 400, 301), path


@pytest.mark.moonraft
def test_a_client_of_the_json_gateway_is_told_what_is_missing(server):
    """The text reaches the user of such a client, so it names the cause, in the gateway's own form of an error."""
    for path, what in (("/v3/kv/put", "the JSON gateway"), ("/v3beta/watch", "the JSON gateway"), ("/v2/keys", "v2 API")):
        status, body, headers = fetch(server, path, "POST", '{"key":"YQ==","value":"YQ=="}')
        error = json.loads(body)
        assert status == 501 and headers["Content-Type"] == "application/json"
        assert error["code"] == 12 and what in error["error"] == error["message"] and "gRPC" in error["error"]


def test_keep_alive_and_pipelining(server):
    """Two requests in one packet on one connection get two answers in order."""
    request = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.client_port), 5) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.index(b"etcdserver") < received.index(b'"health"')


# -- /metrics


def parse(text):
    """({name: type}, {series with labels: value}) of an exposition."""
    types, series = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name not in types, "two TYPE lines for " + name
            types[name] = kind
        elif line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert name not in series, "series twice: " + name
            series[name] = float(value)
    return types, series


def metrics(server):
    status, body, headers = fetch(server, "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    return parse(body)


# What the stock alert rules and dashboards query (grpc_server_handling_seconds needs metrics=extensive).
QUERIED = {
    "etcd_server_has_leader": "gauge", "etcd_server_leader_changes_seen_total": "counter",
    "grpc_server_started_total": "counter", "grpc_server_handled_total": "counter",
    "etcd_server_proposals_failed_total": "counter", "etcd_server_proposals_pending": "gauge",
    "etcd_server_proposals_committed_total": "gauge", "etcd_server_proposals_applied_total": "gauge",
    "etcd_disk_wal_fsync_duration_seconds": "histogram", "etcd_disk_backend_commit_duration_seconds": "histogram",
    "etcd_mvcc_db_total_size_in_bytes": "gauge", "etcd_server_quota_backend_bytes": "gauge",
    "etcd_mvcc_db_total_size_in_use_in_bytes": "gauge",
    "etcd_network_client_grpc_received_bytes_total": "counter", "etcd_network_client_grpc_sent_bytes_total": "counter",
    "process_resident_memory_bytes": "gauge", "process_cpu_seconds_total": "counter", "process_open_fds": "gauge",
    "process_max_fds": "gauge", "process_start_time_seconds": "gauge",
    "grpc_server_msg_received_total": "counter", "grpc_server_msg_sent_total": "counter",
}
# The rest of etcd's own list that has a meaning on a single member.
REGISTERED = {
    "etcd_server_is_leader": "gauge", "etcd_server_is_learner": "gauge", "etcd_server_id": "gauge",
    "etcd_server_version": "gauge", "etcd_cluster_version": "gauge",
    "etcd_server_health_success": "counter", "etcd_server_health_failures": "counter",
    "etcd_server_client_requests_total": "counter",
    "etcd_server_slow_read_indexes_total": "counter", "etcd_server_read_indexes_failed_total": "counter",
    "etcd_server_slow_apply_total": "counter",
    "etcd_server_heartbeat_send_failures_total": "counter",
    "etcd_mvcc_range_total": "counter", "etcd_mvcc_put_total": "counter", "etcd_mvcc_delete_total": "counter",
    "etcd_mvcc_txn_total": "counter", "etcd_mvcc_hash_rev_duration_seconds": "histogram",
    "etcd_mvcc_db_open_read_transactions": "gauge",
    "etcd_debugging_mvcc_keys_total": "gauge", "etcd_debugging_mvcc_watch_stream_total": "gauge",
    "etcd_debugging_mvcc_watcher_total": "gauge", "etcd_debugging_mvcc_slow_watcher_total": "gauge",
    "etcd_debugging_mvcc_events_total": "counter", "etcd_debugging_mvcc_pending_events_total": "gauge",
    "etcd_debugging_mvcc_current_revision": "gauge", "etcd_debugging_mvcc_compact_revision": "gauge",
    "etcd_debugging_mvcc_db_compaction_keys_total": "counter", "etcd_debugging_mvcc_total_put_size_in_bytes": "gauge",
    "etcd_debugging_lease_granted_total": "counter", "etcd_debugging_lease_revoked_total": "counter",
    "etcd_debugging_lease_renewed_total": "counter", "etcd_debugging_server_lease_expired_total": "counter",
    "etcd_disk_wal_write_bytes_total": "gauge", "os_fd_used": "gauge", "os_fd_limit": "gauge",
}
NEWER = {
    "etcd_server_request_duration_seconds": "histogram",
    "etcd_server_healthcheck": "gauge", "etcd_server_healthchecks_total": "counter",
}


@pytest.fixture(scope="module")
def exercised(server, client):
    """One of each operation, so that every series with labels exists."""
    lease = client.grant(60).ID
    client.put(b"metrics", b"v", lease=lease)
    client.keep_alive(lease)
    client.range(b"metrics")
    client.txn()
    with client.watch() as stream:
        stream.open(b"metrics")
    client.revoke(lease)
    client.call("Maintenance.HashKV")
    fetch(server, "/health")
    return metrics(server)


@pytest.mark.parametrize("name, kind", sorted(QUERIED.items()))
def test_metrics_that_dashboards_query(exercised, name, kind):
    assert exercised[0].get(name) == kind


@pytest.mark.parametrize("name, kind", sorted(REGISTERED.items()))
def test_metrics_that_etcd_registers(exercised, name, kind):
    if name == "etcd_disk_wal_write_bytes_total" and IS_ETCD:
        pytest.skip("came with 3.5.2")
    assert exercised[0].get(name) == kind


@pytest.mark.parametrize("name, kind", sorted(NEWER.items()))
@pytest.mark.differs_on_351("came with 3.6 or 3.7", run=False)
def test_metrics_of_newer_releases(server, exercised, name, kind):
    fetch(server, "/readyz")
    assert metrics(server)[0].get(name) == kind


def test_histograms_are_cumulative_and_end_at_infinity(exercised):
    types, series = exercised
    for name, kind in types.items():
        if kind != "histogram":
            continue
        groups = {}
        for key, value in series.items():
            match = re.fullmatch(re.escape(name) + r'_bucket\{(.*?),?le="([^"]+)"\}', key)
            if match:
                groups.setdefault(match[1], []).append((float(match[2]), value))
        for labels, buckets in groups.items():
            ordered = sorted(buckets)
            assert [count for _, count in ordered] == sorted(count for _, count in ordered), name
            assert ordered[-1][0] == float("inf")
            counted = series[name + "_count" + ("{%s}" % labels if labels else "")]
            assert counted == ordered[-1][1], name
        assert groups, "histogram without buckets: " + name


def test_grpc_series_exist_before_the_first_call(exercised):
    """Rates over a counter need its zero."""
    _, series = exercised
    for service, method, kind in (("KV", "Compact", "unary"), ("Watch", "Watch", "bidi_stream"),
                                  ("Lease", "LeaseKeepAlive", "bidi_stream"), ("Maintenance", "Defragment", "unary")):
        labels = 'grpc_method="%s",grpc_service="etcdserverpb.%s",grpc_type="%s"' % (method, service, kind)
        assert "grpc_server_started_total{%s}" % labels in series
        assert 'grpc_server_handled_total{grpc_code="Unavailable",%s}' % labels in series


def test_counters_count(server, client, prefix):
    def value(series, start, **labels):
        return sum(v for k, v in series.items() if k.split("{")[0] == start
                   and all('%s="%s"' % item in k for item in labels.items()))
    before = metrics(server)[1]
    for number in range(5):
        client.put(prefix + b"%d" % number, b"v")
    client.range(prefix)
    client.delete(prefix + b"0")
    with pytest.raises(Exception):
        client.range(b"")
    # The gauges of Raft follow the writes a moment later.
    applied = "etcd_server_proposals_applied_total"
    eventually(lambda: all(metrics(server)[1][name] == before[name] + 6 for name in
                           (applied, applied.replace("applied", "committed"))))
    after = metrics(server)[1]

    def grew(name, **labels):
        return value(after, name, **labels) - value(before, name, **labels)
    kv = dict(grpc_service="etcdserverpb.KV")
    assert grew("grpc_server_started_total", grpc_method="Put", **kv) == 5
    assert grew("grpc_server_handled_total", grpc_method="Put", grpc_code="OK", **kv) == 5
    assert grew("grpc_server_handled_total", grpc_method="Range", grpc_code="InvalidArgument", **kv) == 1
    assert grew("etcd_mvcc_put_total") == 5 and grew("etcd_mvcc_delete_total") == 1
    assert grew("etcd_network_client_grpc_received_bytes_total") > 0
    assert value(after, "etcd_debugging_mvcc_current_revision") == client.revision()
    assert value(after, "etcd_server_has_leader") == 1 and value(after, "etcd_server_is_leader") == 1
    assert value(after, "etcd_mvcc_db_total_size_in_bytes") > 0
    assert value(after, "etcd_debugging_mvcc_keys_total") >= 4
    assert value(after, "process_resident_memory_bytes") > 1 << 20


def test_watchers_are_counted(server, client, prefix):
    def gauges():
        series = metrics(server)[1]
        return series["etcd_debugging_mvcc_watch_stream_total"], series["etcd_debugging_mvcc_watcher_total"]
    before = gauges()
    with client.watch() as stream:
        for _ in range(3):
            stream.open(prefix)
        assert gauges() == (before[0] + 1, before[1] + 3)
    eventually(lambda: gauges() == before)


def test_metrics_leave_out_the_go_runtime(exercised):
    if not IS_ETCD:
        assert not any(name.startswith("go_") for name in exercised[0])
