"""moonctl prints what etcdctl prints: the same commands, flags and formats, against the same server.

Two runs of etcdctl itself (MOONCTL_BIN=etcdctl, E2E_TARGET=etcd) prove the masks.

Method: each row runs with etcdctl 3.5.1 and with moonctl; outputs must be equal after masking what differs between any
two runs (lease ids, times, revisions, terms).
"""

import json
import re

import pytest

from harness import ETCDCTL_35, IS_ETCD, SERVER_BINARY, Command, moonctl_binary, run

pytestmark = pytest.mark.skipif(moonctl_binary() is None, reason="moonctl is not built; set MOONCTL_BIN")


@pytest.fixture
def both(server):
    """Runs one command with both tools; their (status, output) pairs."""
    def command(*arguments, stdin=None):
        results = []
        for binary in (ETCDCTL_35, moonctl_binary()):
            done = run([binary, "--endpoints", server.address, *arguments], stdin=stdin, check=False,
                       env={"ETCDCTL_API": "3"})
            results.append((done.returncode, done.stdout, done.stderr))
        return results
    return command


@pytest.mark.moonraft
@pytest.mark.skipif(IS_ETCD, reason="of one product")
def test_both_binaries_are_of_one_version(binary):
    server = run([SERVER_BINARY, "--version"]).stdout.split(",")[0].split()[1]
    assert run([moonctl_binary(), "version"]).stdout.splitlines()[0] == "moonctl version: " + server


MASKS = [
    (r"lease [0-9a-f]{16}", "lease ID"), (r'"(ID|lease)":\d+', r'"\1":N'), (r"\b\d+(\.\d+)?(ms|µs|s)\b", "TIME"),
    (r'"(revision|mod_revision|create_revision|raft_term|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse)":\d+', r'"\1":N'),
    (r'"(Revision|ModRevision|CreateRevision|RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse)" : \d+', r'"\1" : N'),
    (r"remaining\(\d+s\)", "remaining(N)"), (r'"took":"[^"]+"', '"took":"T"'), (r"compacted revision \d+", "compacted revision N"),
    (r", [\d.]+ [kM]?B,", ", SIZE,"), (r", \d+, \d+, \d+, $", ", N, N, N, "),
]


def mask(text):
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


# Commands that do not change what they print when run twice, on a store with the keys t/a, t/b, t/c.
ROWS = [
    ["get", "t/a"], ["get", "t/", "--prefix"], ["get", "t/a", "t/c"], ["get", "t/b", "--from-key", "--limit", "2"],
    ["get", "t/none"], ["get", "t/", "--prefix", "--keys-only"], ["get", "t/", "--prefix", "--count-only"],
    ["get", "t/a", "--print-value-only"], ["get", "t/", "--prefix", "--order", "DESCEND"],
    ["get", "t/", "--prefix", "--sort-by", "VALUE", "--order", "ASCEND"], ["get", "t/", "--prefix", "--limit", "1"],
    ["get", "t/a", "--hex"], ["get", "t/a", "-w", "json"], ["get", "t/a", "-w", "fields"],
    ["get", "t/a", "--consistency", "s"], ["get", "t/", "--prefix", "-w", "json", "--count-only"],
    ["get", "t/a", "--rev", "2"],
    ["put", "t/a", "1"], ["put", "t/a", "1", "--prev-kv"], ["put", "t/a", "1", "-w", "json"],
    ["put", "t/b", "--ignore-value"],
    ["del", "t/none"], ["del", "t/none", "--prefix"], ["del", "t/none", "-w", "json"],
    ["lease", "grant", "100"], ["lease", "timetolive", "1234"], ["lease", "timetolive", "4d2", "-w", "json"],
    ["member", "list"], ["member", "list", "-w", "table"], ["member", "list", "-w", "json"],
    ["member", "list", "-w", "fields"],
    ["endpoint", "status"], ["endpoint", "hashkv"], ["endpoint", "hashkv", "-w", "table"],
    ["endpoint", "health", "-w", "json"], ["endpoint", "health"],
    ["alarm", "list"], ["alarm", "disarm"],
]


@pytest.fixture(scope="module", autouse=True)
def rows(client):
    for name in (b"a", b"b", b"c"):
        client.put(b"t/" + name, b"value of " + name)


@pytest.mark.parametrize("arguments", ROWS, ids=lambda a: " ".join(a))
def test_same_output(both, arguments):
    theirs, ours = both(*arguments)
    assert mask(ours[1]) == mask(theirs[1])
    assert ours[0] == theirs[0]


@pytest.mark.parametrize("script", [
    'value("t/a") > ""\n\nput t/x 1\nget t/x\n\nput t/x 2\n\n',
    'mod("t/none") = "0"\nver("t/a") > "0"\ncreate("t/a") > "0"\n\nget t/ --prefix\n\n\n',
    'value("t/a") = "no"\n\nput t/x 1\n\ndel t/none\n\n', '\nput t/x 1\n\n\n',
])
def test_same_transactions(both, client, script):
    client.put(b"t/a", b"value of a")
    theirs, ours = both("txn", stdin=script)
    assert (ours[0], mask(ours[1])) == (theirs[0], mask(theirs[1]))


@pytest.mark.parametrize("arguments, text", [
    (["get", "t/a", "--rev", "99999999"], "etcdserver: mvcc: required revision is a future revision"),
    (["put", "t/none-yet", "--ignore-value"], "etcdserver: key not found"),
    (["put", "t/a", "v", "--lease", "abc123"], "etcdserver: requested lease not found"),
    (["lease", "revoke", "abc123"], "etcdserver: requested lease not found"),
    (["compaction", "99999999"], "etcdserver: mvcc: required revision is a future revision"),
])
def test_same_refusals(both, arguments, text):
    theirs, ours = both(*arguments)
    assert text in ours[2] and text in theirs[2]
    assert ours[0] == theirs[0]


@pytest.mark.parametrize("arguments", [["get"], ["nonsense"], ["get", "k", "--nonsense"], ["put"],
                                       ["lease", "grant", "x"], ["compaction", "x"]], ids=" ".join)
def test_same_exit_status_for_wrong_usage(both, arguments):
    theirs, ours = both(*arguments)
    assert (ours[0] == 0) == (theirs[0] == 0)
    assert ours[0] == theirs[0]


def test_lease_round(server):
    ctl = [moonctl_binary(), "--endpoints", server.address]
    lease = re.fullmatch(r"lease ([0-9a-f]{16}) granted with TTL\(100s\)\n", run(ctl + ["lease", "grant", "100"]).stdout)[1]
    run(ctl + ["put", "t/leased", "v", "--lease", lease])
    out = run(ctl + ["lease", "timetolive", lease, "--keys"]).stdout
    assert re.fullmatch(r"lease %s granted with TTL\(100s\), remaining\(\d+s\), attached keys\(\[t/leased\]\)\n" % lease, out)
    assert lease in run(ctl + ["lease", "list"]).stdout
    assert run(ctl + ["lease", "keep-alive", "--once", lease]).stdout == "lease %s keepalived with TTL(100)\n" % lease
    assert run(ctl + ["lease", "revoke", lease]).stdout == "lease %s revoked\n" % lease


def test_watch(server, client):
    revision = client.put(b"t/w", b"1").header.revision
    command = Command([moonctl_binary(), "--endpoints", server.address, "watch", "t/w", "--rev", str(revision), "--prev-kv"])
    try:
        assert command.lines(3) == ["PUT", "t/w", "1"]
        client.put(b"t/w", b"2")
        assert command.lines(5) == ["PUT", "t/w", "1", "t/w", "2"]
        client.delete(b"t/w")
        assert command.lines(5) == ["DELETE", "t/w", "2", "t/w", ""]
    finally:
        command.close()


def test_unreachable_endpoint(server):
    results = [run([binary, "--endpoints", "127.0.0.1:1", "--command-timeout", "1s", "get", "k"], check=False,
                   env={"ETCDCTL_API": "3"}) for binary in (ETCDCTL_35, moonctl_binary())]
    assert results[1].returncode == results[0].returncode != 0


def test_endpoints_from_the_environment(server):
    for name in ("MOONCTL_ENDPOINTS", "ETCDCTL_ENDPOINTS"):
        done = run([moonctl_binary(), "get", "t/a", "-w", "json"], env={name: server.address}, check=False)
        if done.returncode == 0:
            assert json.loads(done.stdout)["count"] == 1
            return
    raise AssertionError("neither MOONCTL_ENDPOINTS nor ETCDCTL_ENDPOINTS is read")


@pytest.mark.moonraft
def test_plugin_list(server):
    done = run([moonctl_binary(), "--endpoints", server.address, "plugin", "list"], check=False)
    assert done.returncode == 0, done.stderr
