"""etcdctl 3.4.23 and 3.5.1 work unchanged: every everyday command, flag and output format.

Method: each command runs as a process against one member, and its whole output is compared. Every test runs once with
each release.
"""

import base64
import json
import os
import re
import subprocess
import time

import pytest

from harness import ETCDCTL_34, ETCDCTL_35, Command, M, eventually, run

RELEASES = {"3.4.23": ETCDCTL_34, "3.5.1": ETCDCTL_35}


@pytest.fixture(scope="module", params=sorted(RELEASES))
def release(request):
    binary = RELEASES[request.param]
    if not os.access(binary, os.X_OK):
        pytest.skip("etcdctl %s is not installed (%s)" % (request.param, binary))
    return request.param


@pytest.fixture
def ctl(server, release):
    """Runs one etcdctl command and returns its standard output."""
    def command(*arguments, stdin=None, check=True, env=None):
        done = run([RELEASES[release], "--endpoints", server.address, *arguments], stdin=stdin, check=check,
                   env={"ETCDCTL_API": "3", **(env or {})})
        return done.stdout if check else done
    return command


@pytest.fixture
def background(server, release):
    """Starts etcdctl commands that run until the test ends."""
    running = []

    def start(*arguments):
        running.append(Command([RELEASES[release], "--endpoints", server.address, *arguments],
                               env={"ETCDCTL_API": "3"}))
        return running[-1]
    yield start
    for command in running:
        command.close()


@pytest.fixture
def p(prefix):
    return prefix.decode()


# -- put, get, del


def test_put_and_get(ctl, p):
    assert ctl("put", p + "a", "one") == "OK\n"
    assert ctl("put", p + "b", stdin="from stdin") == "OK\n"
    assert ctl("get", p + "a") == p + "a\none\n"
    assert ctl("get", p + "none") == ""
    assert ctl("get", p, "--prefix") == "%sa\none\n%sb\nfrom stdin\n" % (p, p)
    assert ctl("get", p + "a", p + "b") == p + "a\none\n"
    assert ctl("get", p + "a", "--print-value-only") == "one\n"
    assert ctl("get", p, "--prefix", "--keys-only") == "%sa\n\n%sb\n\n" % (p, p)
    assert ctl("get", p + "a", "--hex").startswith("\\x")
    assert ctl("get", p + "a", "--consistency", "s") == p + "a\none\n"


def test_get_order_limit_from_key_and_revision(ctl, client, p):
    for name, value in (("a", "3"), ("b", "1"), ("c", "2")):
        ctl("put", p + name, value)
    revision = client.revision()
    ctl("put", p + "a", "4")

    def names(*flags):
        return [line[-1] for line in ctl("get", p, "--prefix", "--keys-only", *flags).split()]
    assert names("--order", "DESCEND") == ["c", "b", "a"]
    assert names("--sort-by", "VALUE", "--order", "ASCEND") == ["b", "c", "a"]
    assert names("--sort-by", "MODIFY", "--order", "DESCEND") == ["a", "c", "b"]
    assert names("--sort-by", "VERSION", "--order", "DESCEND", "--limit", "1") == ["a"]
    assert names("--sort-by", "CREATE") == ["a", "b", "c"]
    assert names("--limit", "2") == ["a", "b"]
    assert ctl("get", p + "a", "--rev", str(revision), "--print-value-only") == "3\n"
    assert p + "c" in ctl("get", p + "b", "--from-key", "--keys-only").split()
    done = ctl("get", p + "a", "--rev", str(revision + 1000), check=False)
    assert done.returncode != 0 and "required revision is a future revision" in done.stderr


def test_put_flags(ctl, p):
    lease = re.match(r"lease (\w+) granted with TTL\(60s\)", ctl("lease", "grant", "60"))[1]
    ctl("put", p, "a", "--lease", lease)
    assert ctl("put", p, "b", "--prev-kv") == "OK\n%s\na\n" % p
    assert ctl("put", p, "--ignore-value", "--lease", lease) == "OK\n"
    assert ctl("put", p, "c", "--ignore-lease") == "OK\n"
    reply = json.loads(ctl("get", p, "-w", "json"))["kvs"][0]
    assert (base64.b64decode(reply["value"]), format(reply["lease"], "016x")) == (b"c", lease)
    done = ctl("put", p + "none", "--ignore-value", check=False)
    assert done.returncode != 0 and "etcdserver: key not found" in done.stderr
    done = ctl("put", p, "v", "--lease", "12345", check=False)
    assert done.returncode != 0 and "etcdserver: requested lease not found" in done.stderr


def test_del(ctl, p, release):
    for name in "abcde":
        ctl("put", p + name, name)
    assert ctl("del", p + "none") == "0\n"
    assert ctl("del", p + "a") == "1\n"
    assert ctl("del", p + "b", "--prev-kv") == "1\n%sb\nb\n" % p
    assert ctl("del", p + "c", p + "d") == "1\n"
    assert ctl("del", p, "--prefix") == "2\n"


# -- output formats


def test_json_output(ctl, client, p):
    ctl("put", p, "v")
    kv = client.get(p.encode())
    reply = json.loads(ctl("get", p, "-w", "json"))
    status = client.call("Maintenance.Status")
    assert reply["header"] == {"cluster_id": status.header.cluster_id, "member_id": status.header.member_id,
                               "revision": kv.mod_revision, "raft_term": status.header.raft_term}
    assert reply["count"] == 1
    assert reply["kvs"] == [{"key": base64.b64encode(p.encode()).decode(), "create_revision": kv.create_revision,
                             "mod_revision": kv.mod_revision, "version": 1, "value": "dg=="}]


def test_fields_and_protobuf_output(ctl, server, release, client, p):
    ctl("put", p, "v")
    kv = client.get(p.encode())
    fields = dict(re.findall(r'"(\w+)" : (.*)', ctl("get", p, "-w", "fields")))
    assert (fields["Key"], fields["Value"], fields["Version"]) == ('"%s"' % p, '"v"', "1")
    assert int(fields["ModRevision"]) == int(fields["Revision"]) == kv.mod_revision
    done = subprocess.run([RELEASES[release], "--endpoints", server.address, "get", p, "-w", "protobuf"],
                          env=dict(os.environ, ETCDCTL_API="3"), capture_output=True, check=True)
    assert M.RangeResponse.FromString(done.stdout).kvs[0] == kv


def table(text):
    """Rows of a -w table output as lists of cells, the header first."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


# -- txn


def test_txn(ctl, p):
    ctl("put", p + "k", "v")
    script = 'value("%sk") = "v"\nver("%sk") = "1"\n\nput %sr "yes"\nget %sk\n\nput %sr "no"\n\n' % (p, p, p, p, p)
    assert ctl("txn", stdin=script) == "SUCCESS\n\nOK\n\n%sk\nv\n" % p
    assert ctl("get", p + "r", "--print-value-only") == "yes\n"
    script = 'mod("%sk") < "0"\n\nput %sr "yes"\n\nput %sr "no"\ndel %sk\n\n' % (p, p, p, p)
    assert ctl("txn", stdin=script) == "FAILURE\n\nOK\n\n1\n"
    assert ctl("get", p + "r", "--print-value-only") == "no\n"


def test_interactive_txn_prints_its_prompts(ctl, p):
    out = ctl("txn", "-i", stdin='create("%s") = "0"\n\nput %s v\n\n\n' % (p, p))
    assert out == "compares:\n\nsuccess requests (get, put, del):\n\nfailure requests (get, put, del):\n\nSUCCESS\n\nOK\n" \
        or "SUCCESS\n\nOK\n" in out


# -- watch


def test_watch(ctl, background, client, p):
    revision = client.put((p + "a").encode(), b"1").header.revision
    process = background("watch", p, "--prefix", "--rev", str(revision), "--prev-kv")
    assert process.lines(3) == ["PUT", p + "a", "1"]
    ctl("put", p + "a", "2")
    assert process.lines(5) == ["PUT", p + "a", "1", p + "a", "2"]
    ctl("del", p + "a")
    assert process.lines(5) == ["DELETE", p + "a", "2", p + "a", ""]


def test_watch_runs_a_command_per_event(background, client, p):
    revision = client.put(p.encode(), b"value").header.revision
    process = background("watch", p, "--rev", str(revision), "--", "sh", "-c",
                         'echo "$ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"')
    assert process.lines(4)[-1] == '"PUT" "%s" "value"' % p


def test_interactive_watch(background, client, p):
    revision = client.put(p.encode(), b"v").header.revision
    process = background("watch", "-i")
    process.type("watch %s --rev %d" % (p, revision))
    assert process.lines(3) == ["PUT", p, "v"]


def test_watch_of_a_compacted_revision_ends_with_an_error(background, client, p):
    client.put(p.encode(), b"1")
    now = client.put(p.encode(), b"2").header.revision
    client.compact(now)
    process = background("watch", p, "--rev", str(now - 1))
    status, _, errors = process.finish()
    assert status != 0 and "watch was canceled (etcdserver: mvcc: required revision has been compacted)" in errors


# -- lease


def test_lease_commands(ctl, p):
    granted = ctl("lease", "grant", "100")
    lease = re.fullmatch(r"lease ([0-9a-f]{16}) granted with TTL\(100s\)\n", granted)[1]
    ctl("put", p, "v", "--lease", lease)
    out = ctl("lease", "timetolive", lease, "--keys")
    assert re.fullmatch(r"lease %s granted with TTL\(100s\), remaining\((100|9\d)s\), attached keys\(\[%s\]\)\n"
                        % (lease, re.escape(p)), out)
    assert lease in ctl("lease", "list")
    assert ctl("lease", "keep-alive", "--once", lease) == "lease %s keepalived with TTL(100)\n" % lease
    assert ctl("lease", "revoke", lease) == "lease %s revoked\n" % lease
    assert ctl("get", p) == ""
    assert ctl("lease", "timetolive", lease) == "lease %s already expired\n" % lease
    done = ctl("lease", "revoke", lease, check=False)
    assert done.returncode != 0 and "etcdserver: requested lease not found" in done.stderr
    assert json.loads(ctl("lease", "grant", "7", "-w", "json"))["TTL"] == 7


def test_lease_keep_alive_keeps_running(ctl, background):
    lease = ctl("lease", "grant", "3").split()[1]
    process = background("lease", "keep-alive", lease)
    assert process.lines(2, timeout=6) == ["lease %s keepalived with TTL(3)" % lease] * 2
    ctl("lease", "revoke", lease)


# -- compaction, members, endpoints, alarms, defragmentation


def test_compaction(ctl, client, p):
    ctl("put", p, "1")
    ctl("put", p, "2")
    now = client.revision()
    assert ctl("compaction", str(now)) == "compacted revision %d\n" % now
    done = ctl("compaction", str(now), check=False)
    assert done.returncode != 0 and "required revision has been compacted" in done.stderr
    done = ctl("get", p, "--rev", str(now - 1), check=False)
    assert done.returncode != 0 and "required revision has been compacted" in done.stderr
    ctl("put", p, "3")
    assert ctl("compaction", "--physical", str(now + 1)) == "compacted revision %d\n" % (now + 1)


def test_member_list(ctl, server, client):
    member = format(client.call("Maintenance.Status").header.member_id, "x")
    peer = "http://127.0.0.1:%d" % server.peer_port
    assert ctl("member", "list") == "%s, started, m1, %s, %s, false\n" % (member, peer, server.url)
    rows = table(ctl("member", "list", "-w", "table"))
    assert rows[1] == [member, "started", "m1", peer, server.url, "false"]
    assert json.loads(ctl("member", "list", "-w", "json"))["members"][0]["name"] == "m1"


def test_endpoint_health(ctl, server, release):
    done = ctl("endpoint", "health", check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 0
    assert re.search(r"%s is healthy: successfully committed proposal: took = [\d.]+\w+" % server.address, text)
    assert json.loads(ctl("endpoint", "health", "-w", "json"))[0]["health"] is True
    assert table(ctl("endpoint", "health", "-w", "table", "--cluster"))[1][:2] == [server.url, "true"]


def test_endpoint_status_of_an_endpoint_with_a_scheme(ctl, server):
    """clientv3 puts the endpoint as written into :authority, which was refused as malformed."""
    assert "3." in ctl("--endpoints", "http://" + server.address, "endpoint", "status")


def test_endpoint_status(ctl, server, client):
    status = client.call("Maintenance.Status")
    member = format(status.header.member_id, "x")
    cells = [cell.strip() for cell in ctl("endpoint", "status").split(",")]
    assert cells[:3] == [server.address, member, status.version]
    assert re.fullmatch(r"[\d.]+ [kM]?B", cells[3]) and cells[4:6] == ["true", "false"]
    row = table(ctl("endpoint", "status", "-w", "table"))[1]
    assert row[:3] == [server.address, member, status.version] and int(row[6]) == status.raftTerm
    reply = json.loads(ctl("endpoint", "status", "-w", "json"))[0]["Status"]
    assert reply["leader"] == status.leader and reply["dbSize"] > 0
    assert '"Version" : "%s"' % status.version in ctl("endpoint", "status", "-w", "fields")


def test_endpoint_hashkv(ctl, server, client):
    reply = client.call("Maintenance.HashKV")
    assert ctl("endpoint", "hashkv") == "%s, %d\n" % (server.address, reply.hash)
    assert table(ctl("endpoint", "hashkv", "-w", "table"))[1] == [server.address, str(reply.hash)]


def test_alarm_commands(ctl, client):
    member = client.call("Maintenance.Status").header.member_id
    assert ctl("alarm", "list") == ""
    client.call("Maintenance.Alarm", action=1, memberID=member, alarm=1)
    assert ctl("alarm", "list") == "memberID:%d alarm:NOSPACE \n" % member
    done = ctl("put", "alarm", "v", check=False)
    assert done.returncode != 0 and "etcdserver: mvcc: database space exceeded" in done.stderr
    assert "NOSPACE" in ctl("endpoint", "status", "-w", "table")
    assert ctl("alarm", "disarm") == "memberID:%d alarm:NOSPACE \n" % member
    assert ctl("alarm", "list") == "" and ctl("put", "alarm", "v") == "OK\n"


def test_defrag(ctl, server):
    done = ctl("defrag", check=False)
    assert done.returncode == 0 and "Finished defragmenting etcd member[%s]" % server.address in done.stdout + done.stderr


# -- lock, elect


def test_lock_runs_its_command_under_the_lock(ctl, background, p):
    holder = background("lock", p)
    key = holder.lines(1)[0]
    assert key.startswith(p + "/")
    waiter = background("lock", p, "--", "echo", "inside")
    time.sleep(0.4)
    assert waiter.process.poll() is None
    holder.interrupt()
    assert "inside" in waiter.finish()[1]
    assert ctl("get", p, "--prefix") == ""


def test_elect(background, p):
    first = background("elect", p, "one")
    assert first.lines(2)[1] == "one"
    listener = background("elect", "-l", p)
    assert listener.lines(2)[1] == "one"
    second = background("elect", p, "two")
    time.sleep(0.3)
    first.interrupt()
    assert second.lines(2, timeout=10)[1] == "two"
    assert listener.lines(2, timeout=10)[1] == "two"


# -- the rest


def test_auth_status_and_refusals(ctl, release):
    if release != "3.4.23":
        assert ctl("auth", "status") == "Authentication Status: false\nAuthRevision: 1\n"
    done = ctl("--user", "root:secret", "get", "k", check=False)
    # A client that brings a password learns that auth is off and goes on without it.
    assert done.returncode == 0 or "authentication is not enabled" in done.stderr


def test_environment_variables_and_exit_codes(ctl, server, release, p):
    done = run([RELEASES[release], "put", p, "v"],
               env={"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": server.address})
    assert done.stdout == "OK\n"
    assert ctl("get", check=False).returncode == 128


def test_user_commands_reach_the_server(ctl, p):
    """A large value through the whole chain."""
    value = "x" * 1_000_000
    assert ctl("put", p, stdin=value) == "OK\n"
    assert ctl("get", p, "--print-value-only") == value + "\n"


def test_make_mirror(ctl, background, p, server, client):
    """make-mirror copies a prefix by range and watch, here within the same server."""
    for number in range(10):
        client.put(("%ssrc/%d" % (p, number)).encode(), b"v")
    background("make-mirror", "--prefix", p + "src/", "--dest-prefix", p + "dst/", server.address)
    end = (p + "dst0").encode()
    eventually(lambda: client.range((p + "dst/").encode(), end, count_only=True).count == 10, timeout=8)
    client.put(("%ssrc/new" % p).encode(), b"v")
    eventually(lambda: client.get((p + "dst/new").encode()), timeout=5)
