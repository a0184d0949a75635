"""Three members behave as one: every call on every member, loss of the quorum, restarts, strangers.

Method: one cluster for the whole file, on loopback behind the faulty network of Tests/torture, so that many checks
share a start. Each test leaves three healthy members behind. The expectations are etcd's; what etcd lacks is marked.
"""

import json
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest

from cluster import Cluster
from clusters import (
    ELECTION_SECONDS, FLAGS, accepts, ctl, found_somewhere, http_status, leader_and_followers, put_somewhere)
from harness import ETCDCTL_34, ETCDCTL_35, IS_ETCD, Client, compare, eventually, failure, put_op, refused, run
from wire import M

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("whole")]
NO_LEADER = ("UNAVAILABLE", "etcdserver: no leader")
HASLEADER = (("hasleader", "true"),)


def test_a_put_on_any_member_is_read_on_all(cluster, prefix):
    for turn, member in enumerate(cluster.list()):
        key, value = prefix + b"%d" % turn, b"from " + member.name.encode()
        revision = member.client.put(key, value).header.revision
        for other in cluster.list():
            reply = other.client.range(key)
            assert reply.kvs[0].value == value and reply.kvs[0].mod_revision == revision
            assert reply.header.revision >= revision
            eventually(lambda: other.client.get(key, serializable=True))


def test_headers_name_one_cluster_and_each_member(cluster):
    headers = [m.client.range(b"x").header for m in cluster.list()]
    assert len({h.cluster_id for h in headers}) == 1 and headers[0].cluster_id
    assert len({h.member_id for h in headers}) == 3
    assert len({h.raft_term for h in headers}) == 1 and headers[0].raft_term >= 1
    listed = {m.ID for m in Cluster.member_list(cluster.list()[0])}
    assert listed == {h.member_id for h in headers}


def test_writes_from_all_members_at_once_have_one_order(cluster, prefix):
    """300 increments by compare-and-swap on three members: none is lost, none done twice."""
    cluster.list()[0].client.put(prefix + b"n", b"0")
    revisions, wrong = [], []

    def increment(member):
        with Client(member.address) as client:
            done = 0
            while done < 100:
                # A stale read costs a failed attempt; on a member that lags the key may not be there yet.
                kv = client.get(prefix + b"n", serializable=done % 2 == 0)
                if kv is None:
                    continue
                reply = client.txn([compare(kv.key, "MOD", "EQUAL", kv.mod_revision)],
                                   [put_op(kv.key, b"%d" % (int(kv.value) + 1))])
                if reply.succeeded:
                    revisions.append(reply.header.revision)
                    done += 1

    def guarded(member):
        try:
            increment(member)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=guarded, args=(m,)) for m in cluster.list()]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert not wrong and len(set(revisions)) == len(revisions) == 300
    kv = cluster.list()[0].client.get(prefix + b"n")
    assert kv.value == b"300" and kv.version == 301


def test_etcdctl_sees_the_cluster(cluster):
    for tool in (ETCDCTL_34, ETCDCTL_35):
        one = [tool, "--endpoints=" + cluster.list()[1].address]
        environment = {"ETCDCTL_API": "3"}
        statuses = json.loads(run(one + ["endpoint", "status", "--cluster", "-w", "json"], env=environment).stdout)
        assert sorted(s["Endpoint"] for s in statuses) == sorted(m.url for m in cluster.list())
        assert len({s["Status"]["leader"] for s in statuses}) == 1
        assert len({s["Status"]["raftTerm"] for s in statuses}) == 1
        assert [s["Status"]["leader"] for s in statuses][0] in {s["Status"]["header"]["member_id"] for s in statuses}
        health = run(one + ["endpoint", "health", "--cluster"], env=environment)
        assert (health.stdout + health.stderr).count("is healthy") == 3
        table = run(one + ["member", "list"], env=environment).stdout.splitlines()
        assert len(table) == 3
        for line in table:
            fields = [f.strip() for f in line.split(",")]
            member = cluster.members[fields[2]]
            assert fields[1:] == ["started", member.name, member.peer_url, member.url, "false"]
            assert int(fields[0], 16) == member.id
    hashes = json.loads(ctl(cluster, "endpoint", "hashkv", "-w", "json").stdout)
    assert len({h["HashKV"]["hash"] for h in hashes}) == 1


def test_health_and_leader_metrics_over_http(cluster):
    leader = cluster.wait_leader()
    for member in cluster.list():
        with urllib.request.urlopen(member.url + "/health", timeout=5) as reply:
            assert reply.status == 200 and json.load(reply)["health"] == "true"
        with urllib.request.urlopen(member.url + "/metrics", timeout=5) as reply:
            lines = dict(line.rsplit(" ", 1) for line in reply.read().decode().splitlines() if not line.startswith("#"))
        assert lines["etcd_server_has_leader"] == "1"
        assert lines["etcd_server_is_leader"] == ("1" if member is leader else "0")


def test_compaction_and_alarms_hold_on_every_member(cluster, prefix):
    first, second, third = cluster.list()
    for n in range(5):
        revision = first.client.put(prefix + b"k", b"%d" % n).header.revision
    second.client.compact(revision - 1)
    for member in cluster.list():
        # Through the log, so a linearizable read sees it done.
        member.client.get(prefix + b"k")
        assert failure(member.client.range, prefix + b"k", revision=revision - 2) == (
            "OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted")
        assert member.client.get(prefix + b"k", revision=revision - 1).value == b"3"
    identity = second.id
    alarm = {"memberID": identity, "alarm": "NOSPACE"}
    third.client.call("Maintenance.Alarm", action="ACTIVATE", **alarm)
    try:
        for member in cluster.list():
            eventually(lambda: [(a.memberID, a.alarm) for a in member.client.call("Maintenance.Alarm").alarms]
                       == [(identity, M.AlarmMember(alarm="NOSPACE").alarm)])
            with refused("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded"):
                member.client.put(prefix + b"k")
            member.client.delete(prefix + member.name.encode())
            assert any("NOSPACE" in error for error in member.status().errors)
    finally:
        first.client.call("Maintenance.Alarm", action="DEACTIVATE", **alarm)
    # Members learn of it one after another.
    eventually(lambda: all(accepts(m) for m in cluster.list()))


def test_each_member_can_be_backed_up(cluster, tmp_path):
    for member in cluster.list():
        target = tmp_path / (member.name + ".db")
        run([ETCDCTL_35, "--endpoints=" + member.address, "snapshot", "save", str(target)])
        assert target.stat().st_size > 8192


# ------------------------------------------------------------------------------------------------- no quorum


def test_without_a_quorum_nothing_is_acknowledged_and_all_say_so(cluster, prefix):
    leader, followers = leader_and_followers(cluster)
    leader.client.put(prefix + b"k", b"v")
    client = leader.client
    with client.watch(metadata=HASLEADER) as watching, client.watch() as patient:
        watching.open(prefix + b"k")
        patient.open(prefix + b"k")
        for member in followers:
            member.kill()
        pending = [client.future("KV.Put", key=prefix + b"lost", timeout=15),
                   client.future("KV.Range", key=prefix + b"k", timeout=15),
                   client.future("Cluster.MemberList", linearizable=True, timeout=15),
                   client.future("Lease.LeaseGrant", TTL=10, timeout=15)]
        # Check-quorum makes the leader step down.
        eventually(lambda: leader.status().leader == 0, 4 * ELECTION_SECONDS)
        assert "etcdserver: no leader" in leader.status().errors
        assert failure(client.range, prefix + b"k", metadata=HASLEADER, serializable=True) == NO_LEADER
        assert failure(client.put, prefix + b"k", metadata=HASLEADER) == NO_LEADER
        assert client.get(prefix + b"k", serializable=True).value == b"v"
        assert len(client.call("Cluster.MemberList", linearizable=False).members) == 3
        with client.watch(metadata=HASLEADER) as refused_stream:
            refused_stream.create(prefix)
            assert refused_stream.ended() == NO_LEADER
        assert watching.ended(3 * ELECTION_SECONDS + 3)[1] == "etcdserver: no leader"
        assert http_status(leader.url + "/health?timeout=1s")[0] == 503
        unhealthy = run([ETCDCTL_35, "--endpoints=" + leader.address, "--command-timeout=1s", "endpoint", "health"],
                        check=False)
        assert unhealthy.returncode == 1 and "is unhealthy" in unhealthy.stdout + unhealthy.stderr
        texts = [(f.exception().code().name, f.exception().details()) for f in pending]
        for code, text in texts:
            assert code == "UNAVAILABLE" and text in (
                "etcdserver: request timed out", "etcdserver: leader changed", "etcdserver: no leader",
                "etcdserver: request timed out, possibly due to previous leader failure",
                "etcdserver: request timed out, possibly due to connection lost"), texts
        for member in followers:
            member.spawn()
        cluster.wait_leader()
        # The watch that did not insist on a leader goes on where it was.
        revision = followers[0].client.put(prefix + b"k", b"w").header.revision
        assert patient.events(1, timeout=10)[0].kv.mod_revision == revision


def test_a_member_that_is_cut_off_does_not_answer_reads_as_if_it_were_not(cluster, prefix):
    """The leader alone on its side: no linearizable read from it; when the network heals it has what it missed."""
    leader, followers = leader_and_followers(cluster)
    leader.client.put(prefix + b"k", b"before")
    cluster.separate([leader], followers, hold=True)

    def elsewhere():
        try:
            return followers[0].client.put(prefix + b"k", b"after", timeout=1)
        except grpc.RpcError:
            return None
    eventually(elsewhere, 15)
    with pytest.raises(grpc.RpcError):
        leader.client.get(prefix + b"k", timeout=2)
    assert leader.client.get(prefix + b"k", serializable=True).value == b"before"
    cluster.heal()
    eventually(lambda: leader.client.get(prefix + b"k", serializable=True).value == b"after", 15)
    # A pre-vote and check-quorum cluster is not disturbed by one who comes back.
    assert cluster.wait_leader() in followers


@pytest.mark.differs_on_351("3.5.1 renews by chance what has ended, etcd issues 15247 and 20418", run=False)
def test_a_leader_that_slept_neither_renews_what_has_ended_nor_reads_the_past(cluster, prefix):
    """etcd 14758, 20418, 20590: requests reach the leader while it is stopped, after another has written. It wakes and must
    first learn of that."""
    leader, followers = leader_and_followers(cluster)
    key, lease = prefix + b"k", leader.client.grant(2).ID
    leader.client.put(key, b"old")
    leader.client.put(key + b"/leased", b"", lease=lease)
    leader.freeze()
    replaced = eventually(lambda: put_somewhere(followers, key, b"new"), 15)
    # Nobody renewed the lease, so the new leader ends it.
    eventually(lambda: not found_somewhere(followers, key + b"/leased"), 2 + 3 * ELECTION_SECONDS + 3)
    call = leader.client._call("Lease.LeaseKeepAlive")(iter([M.LeaseKeepAliveRequest(ID=lease)]), timeout=20)
    reads = [leader.client.future("KV.Range", key=key, timeout=20) for _ in range(4)]
    leader.wake()
    try:
        assert next(iter(call)).TTL == 0, "renewed what had ended"
    except grpc.RpcError:
        pass
    for read in reads:
        if read.exception() is None:
            assert read.result().kvs[0].value == b"new" and read.result().header.revision >= replaced
    cluster.wait_leader()


def test_a_returning_follower_does_not_depose_the_leader(cluster):
    leader, (away, other) = leader_and_followers(cluster)
    term = leader.status().raftTerm
    cluster.separate([away], [leader, other], hold=True)
    eventually(lambda: away.status().leader == 0, 5 * ELECTION_SECONDS)
    time.sleep(2 * ELECTION_SECONDS)
    cluster.heal()
    eventually(lambda: away.status().leader == leader.id, 10)
    assert (leader.status().raftTerm, cluster.wait_leader()) == (term, leader)


# ------------------------------------------------------------------------------------------------- restarts and strangers


def test_kill_all_and_nothing_is_lost(cluster, prefix):
    revisions = {}
    for n in range(60):
        member = cluster.list()[n % 3]
        revisions[prefix + b"%d" % n] = member.client.put(prefix + b"%d" % n, b"v").header.revision
    lease = cluster.list()[0].client.grant(600).ID
    listed = Cluster.member_list(cluster.list()[0])
    for member in cluster.list():
        member.kill()
    for member in cluster.list():
        member.spawn()
    cluster.wait_leader()
    for member in cluster.list():
        eventually(lambda: accepts(member), 10)
        assert {kv.key: kv.mod_revision for kv in member.client.prefix(prefix).kvs} == revisions
        assert lease in member.client.leases()
        assert Cluster.member_list(member) == listed
    cluster.list()[0].client.revoke(lease)


def test_another_cluster_is_refused_by_name(cluster, tmp_path):
    """A stranger that takes two members' URLs for its own cluster's is refused; both sides' ids are in its log."""
    ours = "%x" % cluster.list()[0].client.range(b"x").header.cluster_id
    term = cluster.wait_leader().status().raftTerm
    with Cluster(tmp_path, 1, FLAGS, token="another") as strangers:
        stranger = strangers.list()[0]
        stranger.initial = ",".join(["m1=" + stranger.peer_url] + [
            "%s=%s" % (m.name + "x", m.peer_url) for m in cluster.list()[:2]])
        stranger.spawn()
        eventually(lambda: stranger.crashed or ours in stranger.log_text(), 10)
        said = [line for line in stranger.log_text().splitlines() if ours in line]
        assert said and any("mismatch" in line or "cluster" in line for line in said), stranger.tail()
        status = stranger.status()
        assert status is None or status.leader == 0
        if not IS_ETCD:
            theirs = "%x" % status.header.cluster_id if status else ""
            assert any(theirs in line for line in said), said
    assert cluster.wait_leader().status().raftTerm == term


def test_a_joiner_with_a_wrong_member_list_ends(cluster, tmp_path):
    """--initial-cluster-state existing with members that the cluster does not have."""
    with Cluster(tmp_path, 1, FLAGS, token="e2e") as strangers:
        stranger = strangers.list()[0]
        stranger.state = "existing"
        stranger.initial = ",".join(["m1=" + stranger.peer_url] + [
            "%s=%s" % (m.name + "x", m.peer_url) for m in cluster.list()[:2]])
        stranger.spawn()
        assert stranger.reap(30) not in (0, None)
        assert stranger.peer_url in stranger.log_text()
    assert len(Cluster.member_list(cluster.list()[0])) == 3
