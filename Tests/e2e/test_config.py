"""Settings come from a TOML file, variables and flags in that order, and every mistake is named with its place.

Method: the binary as a process: `check`, `config --effective`, and real starts.
"""

import json
import os
import urllib.request

import pytest

from harness import SERVER_BINARY, Server, run, run_to_end

pytestmark = pytest.mark.moonraft


def write(path, text):
    path.write_text(text)
    return path


def moonraft(*arguments, env=None, check=True, cwd=None):
    clean = {k: "" for k in os.environ if k.startswith(("ETCD_", "MOONRAFT_")) and k != "MOONRAFT_BIN"}
    return run([SERVER_BINARY, *arguments], check=check, env={**clean, "MOONRAFT_BIN": "", **(env or {})})


def refusal(tmp_path, text):
    """What `check` says of a file, which it must refuse."""
    done = moonraft("check", "--config", str(write(tmp_path / "c.toml", text)), check=False)
    assert done.returncode != 0, done.stdout
    return done.stdout + done.stderr


def test_shipped_configuration_is_valid(binary):
    from harness import ROOT
    run([SERVER_BINARY, "check", "--config", str(ROOT / "config/moonraft.toml")])


@pytest.mark.parametrize("text, place, words", [
    ("[member]\nname = 5\n", "c.toml:2:", ["member.name", "string"]),
    ("[member]\nnam = \"a\"\n", "c.toml:2:1", ["nam", "member.name"]),
    ("[memberr]\nname = \"a\"\n", "c.toml:1:", ["memberr", "member"]),
    ("[raft]\nheartbeat-interval = \"100\"\n", "c.toml:2:", ["raft.heartbeat-interval"]),
    ("[raft]\nheartbeat-interval = \"ten ms\"\n", "c.toml:2:", ["raft.heartbeat-interval"]),
    ("[raft]\n\n\n   pre-vote = \"yes\"\n", "c.toml:4:", ["raft.pre-vote", "true or false"]),
    ("[storage]\nquota = \"2 bananas\"\n", "c.toml:2:", ["storage.quota"]),
    ("[limits]\nmax-txn-ops = 0\n", "c.toml:2:", ["limits.max-txn-ops"]),
    ("[limits]\nmax-txn-opps = 5\n", "c.toml:2:1", ["max-txn-opps", "limits.max-txn-ops"]),
    ("[clients]\nlisten = [\"localhost\"]\n", "c.toml:2:", ["clients.listen"]),
    ("[clients]\nlisten = [\"http://example.org:2379\"]\n", "c.toml:2:", ["clients.listen"]),
    ("[member\nname = 1\n", "c.toml:1:", []),
    ("[member]\nname = \"a\"\nname = \"b\"\n", "c.toml:3:", []),
    ("[log]\nlevel = \"loud\"\n", "c.toml:2:", ["log.level", "info"]),
    ("plugin = 5\n", "c.toml:1:", ["plugin"]),
], ids=lambda value: value[:24].replace("\n", " ") if isinstance(value, str) else None)
def test_mistakes_are_named_with_line_and_column(tmp_path, binary, text, place, words):
    output = refusal(tmp_path, text)
    assert place in output, output
    for word in words:
        assert word in output, output


def test_a_wrong_file_stops_the_start_too(tmp_path, binary):
    member = Server(tmp_path, config=write(tmp_path / "c.toml", "[member]\nnamee = \"a\"\n"))
    status, output = run_to_end(member)
    assert status not in (0, None) and "c.toml:2:1" in output, output


def test_missing_file(tmp_path, binary):
    done = moonraft("check", "--config", str(tmp_path / "none.toml"), check=False)
    assert done.returncode != 0 and "none.toml" in done.stdout + done.stderr


@pytest.mark.parametrize("flags, words", [
    (["--nmae", "x"], ["--nmae", "--name"]),
    (["--max-txn-ops", "many"], ["--max-txn-ops"]),
    (["--data-dir"], ["--data-dir"]),
    (["--cert-file", "x"], ["--cert-file", "TLS"]),
    (["--listen-client-urls", "nonsense"], ["--listen-client-urls"]),
    (["stray"], ["stray"]),
    (["--listen-client-urls", "http://0.0.0.0:2379"], ["advertise"]),
    (["--initial-cluster", "other=http://127.0.0.1:2380"], ["initial-cluster"]),
])
def test_wrong_flags(tmp_path, binary, flags, words):
    done = moonraft("check", *flags, check=False)
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    for word in words:
        assert word in output, output


def test_flag_and_variable_of_the_same_setting_conflict(binary):
    done = moonraft("check", "--name", "a", env={"ETCD_NAME": "b"}, check=False)
    assert done.returncode != 0 and "ETCD_NAME" in done.stdout + done.stderr


def test_precedence_shows_in_the_effective_configuration(tmp_path, binary):
    file = write(tmp_path / "c.toml", "[limits]\nmax-txn-ops = 10\n[raft]\nheartbeat-interval = \"50ms\"\n"
                 "[member]\nname = \"from-file\"\n")
    done = moonraft("config", "--effective", "--config", str(file), "--max-txn-ops", "30",
                    env={"ETCD_HEARTBEAT_INTERVAL": "70"})
    text = done.stdout
    assert "max-txn-ops = 30" in text and 'heartbeat-interval = "70ms"' in text and 'name = "from-file"' in text
    assert "--max-txn-ops" in text and "ETCD_HEARTBEAT_INTERVAL" in text and "c.toml:6:" in text
    # What it prints is a configuration again, with the same result.
    again = write(tmp_path / "again.toml", text)
    run([SERVER_BINARY, "check", "--config", str(again)])


def test_flags_of_etcd_that_users_know(binary):
    moonraft("check", "--name", "n", "--data-dir", "/tmp/none", "--listen-client-urls", "http://127.0.0.1:2379",
             "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380",
             "--initial-advertise-peer-urls", "http://127.0.0.1:2380", "--initial-cluster",
             "n=http://127.0.0.1:2380", "--initial-cluster-state", "new", "--initial-cluster-token=t",
             "--quota-backend-bytes", "8589934592", "--auto-compaction-mode", "revision",
             "--auto-compaction-retention", "1000", "--snapshot-count", "5000", "--max-txn-ops", "256",
             "--max-request-bytes", "3145728", "--log-level", "debug")


def test_limits_from_flags_hold(tmp_path, binary):
    from harness import put_op, refused
    member = Server(tmp_path, flags=["--max-txn-ops", "4", "--max-request-bytes", "10000"]).start()
    try:
        with member.client() as client:
            ops = [put_op(b"%d" % n) for n in range(5)]
            assert client.txn(success=ops[:4]).succeeded
            with refused("INVALID_ARGUMENT", "etcdserver: too many operations in txn request"):
                client.txn(success=ops)
            client.put(b"k", b"x" * 9000)
            with refused("INVALID_ARGUMENT", "etcdserver: request is too large"):
                client.put(b"k", b"x" * 10_500)
            size = 10_000 + 512 * 1024
            with refused("RESOURCE_EXHAUSTED"):
                client.put(b"k", b"x" * size)
    finally:
        member.stop()


def test_automatic_compaction_by_revision_is_accepted_and_metrics_listen_elsewhere(tmp_path, binary):
    from harness import free_port
    port = free_port()
    member = Server(tmp_path, flags=["--auto-compaction-mode", "revision", "--auto-compaction-retention", "10",
                                     "--listen-metrics-urls", "http://127.0.0.1:%d" % port]).start()
    try:
        body = urllib.request.urlopen("http://127.0.0.1:%d/metrics" % port, timeout=5).read().decode()
        assert "etcd_server_has_leader 1" in body
        assert json.load(urllib.request.urlopen("http://127.0.0.1:%d/health" % port, timeout=5))["health"] == "true"
    finally:
        member.stop()


def test_log_is_structured_and_names_no_values(tmp_path, binary):
    member = Server(tmp_path, flags=["--log-level", "debug"]).start()
    with member.client() as client:
        client.put(b"some-key", b"a-very-secret-value")
        for call in (lambda: client.call("Auth.Authenticate", name="u", password="hidden-password"),
                     lambda: client.call("KV.Range", key=b"k", metadata=[("token", "hidden-token")])):
            try:
                call()
            except Exception:
                pass
    assert member.terminate() == 0
    text = member.log_text()
    for secret in ("a-very-secret-value", "hidden-password", "hidden-token"):
        assert secret not in text
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines and all(isinstance(json.loads(line), dict) for line in lines)
    assert any("ready" in line for line in lines) and any("stop" in line for line in lines)


def test_version_and_help(binary):
    assert "etcd API 3." in run([SERVER_BINARY, "--version"]).stdout
    assert "--listen-client-urls" in run([SERVER_BINARY, "--help"]).stdout
    done = run([SERVER_BINARY, "nonsense"], check=False)
    assert done.returncode != 0 and "nonsense" in done.stderr
