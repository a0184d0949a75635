"""Three members behave as one cluster: every call on every member, membership, leadership, loss of the quorum, restarts.

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

from cluster import ELECTION, Cluster
from harness import (ETCDCTL_34, ETCDCTL_35, IS_ETCD, Client, compare, eventually, failure, put_op, refused, run)
from wire import M

pytestmark = pytest.mark.timeout(120)
ELECTION_SECONDS = ELECTION / 1000
FLAGS = ["--snapshot-count", "500"] + ([] if IS_ETCD else ["--snapshot-catchup-entries", "100"])
NO_LEADER = ("UNAVAILABLE", "etcdserver: no leader")
HASLEADER = (("hasleader", "true"),)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, binary):
    with Cluster(tmp_path_factory.mktemp("cluster"), 3, FLAGS, token="e2e") as made:
        yield made.start()


@pytest.fixture(autouse=True)
def whole(request):
    """Every test begins and ends with all members up, connected and agreed on a leader."""
    if "cluster" not in request.fixturenames:
        yield
        return
    cluster = request.getfixturevalue("cluster")
    yield
    cluster.heal()
    for member in cluster.list():
        if member.crashed:
            text = member.tail()
            member.reap(1)
            member.spawn()
            pytest.fail("%s ended by itself:\n%s" % (member.name, text))
        member.wake() if member.frozen else None
        if not member.alive:
            member.spawn()
    cluster.wait_leader()
    eventually(lambda: all(accepts(m) for m in cluster.list()), 15)


def accepts(member):
    try:
        member.client.put(b"whole", b"", timeout=2)
        return True
    except grpc.RpcError:
        return False


def settled(call, *arguments, **fields):
    """Makes a membership call, again while members have not been connected for the 5 s that the server demands."""
    deadline = time.monotonic() + 15
    while True:
        try:
            return call(*arguments, **fields)
        except grpc.RpcError as error:
            if error.details() != "etcdserver: unhealthy cluster" or time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def endpoints(cluster):
    return "--endpoints=" + ",".join(m.address for m in cluster.list())


def ctl(cluster, *arguments, tool=ETCDCTL_35, check=True, timeout=25):
    return run([tool, endpoints(cluster), *arguments], env={"ETCDCTL_API": "3"}, check=check, timeout=timeout)


def leader_and_followers(cluster):
    leader = cluster.wait_leader()
    return leader, [m for m in cluster.serving() if m is not leader]


# ------------------------------------------------------------------------------------------------- one system


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
    assert all(accepts(m) for m in cluster.list())


def test_each_member_can_be_backed_up(cluster, tmp_path):
    for member in cluster.list():
        target = tmp_path / (member.name + ".db")
        run([ETCDCTL_35, "--endpoints=" + member.address, "snapshot", "save", str(target)])
        assert target.stat().st_size > 8192


# ------------------------------------------------------------------------------------------------- membership


def test_member_list(cluster):
    for linearizable in (True, False):
        for member in cluster.list():
            reply = member.client.call("Cluster.MemberList", linearizable=linearizable)
            assert reply.header.member_id == member.id and reply.header.revision == 0
            assert {m.name: (list(m.peerURLs), list(m.clientURLs), m.isLearner) for m in reply.members} == {
                m.name: ([m.peer_url], [m.url], False) for m in cluster.list()}


def test_member_errors(cluster):
    first, second, third = cluster.list()
    client = second.client
    bad_urls = ("INVALID_ARGUMENT", "etcdserver: given member URLs are invalid")
    for urls in (["not a url"], ["http://127.0.0.1"], ["ftp://127.0.0.1:1"]):
        assert failure(settled, client.call, "Cluster.MemberAdd", peerURLs=urls) == bad_urls
        # etcd 3.5.1 writes it to the log unseen, and every member that applies it panics.
        if not IS_ETCD:
            assert failure(client.call, "Cluster.MemberUpdate", ID=first.id, peerURLs=urls) == bad_urls
    exists = ("FAILED_PRECONDITION", "etcdserver: Peer URLs already exists")
    assert failure(settled, client.call, "Cluster.MemberAdd", peerURLs=[first.peer_url]) == exists
    assert failure(client.call, "Cluster.MemberAdd", peerURLs=[first.peer_url], isLearner=True) == exists
    assert failure(client.call, "Cluster.MemberUpdate", ID=first.id, peerURLs=[third.peer_url]) == exists
    unknown = ("NOT_FOUND", "etcdserver: member not found")
    for method in ("MemberRemove", "MemberUpdate", "MemberPromote"):
        fields = {"peerURLs": ["http://127.0.0.1:9"]} if method == "MemberUpdate" else {}
        assert failure(client.call, "Cluster." + method, ID=12345, **fields) == unknown, method
    assert failure(client.call, "Cluster.MemberPromote", ID=first.id) == (
        "FAILED_PRECONDITION", "etcdserver: can only promote a learner member")
    for tool in (ETCDCTL_34, ETCDCTL_35):
        done = ctl(cluster, "member", "remove", "3039", tool=tool, check=False)
        assert done.returncode == 1 and "member not found" in done.stderr
    assert len(Cluster.member_list(first)) == 3


def test_member_update_changes_the_peer_url(cluster):
    leader, (follower, other) = leader_and_followers(cluster)
    elsewhere = follower.peer_url.replace("127.0.0.1", "localhost")
    before = follower.id
    for tool, url in ((ETCDCTL_35, elsewhere), (ETCDCTL_34, follower.peer_url)):
        ctl(cluster, "member", "update", "%x" % before, "--peer-urls=" + url, tool=tool)
        for member in cluster.list():
            listed = {m.ID: m for m in Cluster.member_list(member)}
            assert list(listed[before].peerURLs) == [url] and listed[before].name == follower.name
        key = b"updated/" + url.encode()
        leader.client.put(key, b"v")
        eventually(lambda: follower.client.get(key, serializable=True), 10)


def test_the_life_of_a_learner(cluster, prefix):
    """Added, refused a second, started, limited, promoted, removed; it exits and its id never comes back."""
    leader, (follower, other) = leader_and_followers(cluster)
    leader.client.put(prefix + b"old", b"value")
    in_sync = ("FAILED_PRECONDITION", "etcdserver: can only promote a learner member which is in sync with leader")

    done = eventually(lambda: added_by(ETCDCTL_35, cluster, "http://127.0.0.1:1"), 15, 0.3)
    assert 'ETCD_INITIAL_CLUSTER_STATE="existing"' in done.stdout
    added = next(m for m in Cluster.member_list(follower) if m.isLearner)
    assert (added.name, list(added.clientURLs), list(added.peerURLs)) == ("", [], ["http://127.0.0.1:1"])
    assert failure(follower.client.call, "Cluster.MemberAdd", peerURLs=["http://127.0.0.1:2"], isLearner=True) == (
        "FAILED_PRECONDITION", "etcdserver: too many learner members in cluster")
    assert failure(leader.client.call, "Cluster.MemberPromote", ID=added.ID) == in_sync
    assert failure(follower.client.call, "Cluster.MemberPromote", ID=added.ID) == in_sync
    assert failure(leader.client.call, "Maintenance.MoveLeader", targetID=added.ID) == (
        "FAILED_PRECONDITION", "etcdserver: bad leader transferee")
    ctl(cluster, "member", "remove", "%x" % added.ID)

    learner = cluster.add(leader)
    try:
        identity = learner.id
        assert learner.status().isLearner
        eventually(lambda: learner.client.get(prefix + b"old", serializable=True), 15)
        limited = "etcdserver: rpc not supported for learner"
        for method, fields in (("KV.Range", {"key": b"k"}), ("KV.Put", {"key": b"k"}), ("KV.DeleteRange", {"key": b"k"}),
                               ("KV.Txn", {}), ("Lease.LeaseGrant", {"TTL": 5}), ("Cluster.MemberList", {}),
                               ("Maintenance.MoveLeader", {"targetID": 1})):
            code, text = failure(learner.client.call, method, **fields)
            assert text == limited and code in ("UNAVAILABLE", "FAILED_PRECONDITION"), (method, code, text)
        with learner.client.watch() as stream:
            stream.create(b"k")
            assert stream.ended()[1] == limited
        # Its name and client URLs are published through the leader.
        eventually(lambda: any(m.name == learner.name and list(m.clientURLs) == [learner.url] and m.isLearner
                               for m in Cluster.member_list(follower)), 10)
        assert failure(leader.client.call, "Maintenance.MoveLeader", targetID=identity)[1] == (
            "etcdserver: bad leader transferee")

        eventually(lambda: promoted(follower, identity), 15)
        assert not next(m for m in Cluster.member_list(leader) if m.ID == identity).isLearner
        eventually(lambda: not learner.status().isLearner)
        eventually(lambda: accepts(learner), 10)
        assert learner.client.get(prefix + b"old").value == b"value"

        ctl(cluster, "member", "remove", "%x" % identity)
        assert len(Cluster.member_list(follower)) == 3
        learner.reap(20)
        learner.spawn()
        status = learner.reap(20)
        assert status != 0 or IS_ETCD, "a removed member came back"
        assert "remove" in learner.log_text().split("--- start at")[-1]
    finally:
        del cluster.members[learner.name]
        if learner.process:
            learner.kill()
        if any(m.ID == identity for m in Cluster.member_list(leader)):
            leader.client.call("Cluster.MemberRemove", ID=identity)


def added_by(tool, cluster, url):
    """The completed `member add --learner`, None while the cluster is not yet connected for long enough."""
    done = ctl(cluster, "member", "add", "ignored", "--learner", "--peer-urls=" + url, tool=tool, check=False)
    assert done.returncode == 0 or "etcdserver: unhealthy cluster" in done.stderr, done.stderr
    return done if done.returncode == 0 else None


def promoted(member, identity):
    try:
        member.client.call("Cluster.MemberPromote", ID=identity)
        return True
    except grpc.RpcError as error:
        assert error.details() == "etcdserver: can only promote a learner member which is in sync with leader"
        return False


def test_the_leader_can_be_removed_and_replaced(cluster, prefix):
    leader, followers = leader_and_followers(cluster)
    leader.client.put(prefix + b"k", b"v")
    joiner = cluster.add(followers[0], learner=False)
    identity = leader.id
    eventually(lambda: accepts(joiner), 20)

    def removed():
        try:
            followers[0].client.call("Cluster.MemberRemove", ID=identity)
            return True
        except grpc.RpcError as error:
            # The new member has to be connected for a while before others may leave.
            assert error.details() == "etcdserver: unhealthy cluster", error.details()
            return False
    eventually(removed, 15, 0.3)
    del cluster.members[leader.name]
    leader.reap(20)
    cluster.wait_leader()
    assert {m.name for m in Cluster.member_list(joiner)} == {m.name for m in cluster.list()}
    assert joiner.client.get(prefix + b"k").value == b"v"
    leader.client.close()


def test_a_member_is_not_added_to_an_unhealthy_cluster(cluster):
    leader, followers = leader_and_followers(cluster)
    followers[0].kill()
    eventually(lambda: failure_text(leader, "Cluster.MemberAdd", peerURLs=["http://127.0.0.1:1"])
               == ("UNAVAILABLE", "etcdserver: unhealthy cluster"), 10)


def failure_text(member, method, **fields):
    """The failure of a call; a member that was added after all is removed again."""
    try:
        reply = member.client.call(method, **fields)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    if method == "Cluster.MemberAdd":
        member.client.call("Cluster.MemberRemove", ID=reply.member.ID)
    return None


def test_a_second_unstarted_member_is_refused(tmp_path, binary):
    with Cluster(tmp_path, 1, FLAGS) as alone:
        member = alone.start().list()[0]
        member.client.call("Cluster.MemberAdd", peerURLs=["http://127.0.0.1:1"])
        code, text = failure(member.client.call, "Cluster.MemberAdd", peerURLs=["http://127.0.0.1:2"])
        assert text == "etcdserver: re-configuration failed due to not enough started members"
        assert code in ("UNKNOWN", "FAILED_PRECONDITION")


@pytest.mark.moonraft
def test_changes_that_follow_each_other_are_all_answered(cluster):
    """Six at once, through all members: each is done or refused in time, none silently dropped."""
    settled(cluster.list()[0].client.call, "Cluster.MemberUpdate", ID=cluster.list()[0].id,
            peerURLs=[cluster.list()[0].peer_url])
    pending = []
    for member in cluster.list():
        other = member.peer_url.replace("127.0.0.1", "localhost")
        for urls in ([other], [member.peer_url]):
            pending.append(member.client.future("Cluster.MemberUpdate", ID=member.id, peerURLs=urls, timeout=20))
    start = time.monotonic()
    answers = [None if f.exception() is None else (f.exception().code().name, f.exception().details()) for f in pending]
    assert time.monotonic() - start < 5
    assert set(answers) <= {None, ("UNAVAILABLE", "etcdserver: unhealthy cluster")}, answers
    assert None in answers
    for member in cluster.list():
        settled(member.client.call, "Cluster.MemberUpdate", ID=member.id, peerURLs=[member.peer_url])


# ------------------------------------------------------------------------------------------------- leadership


def test_move_leader(cluster):
    leader, (target, other) = leader_and_followers(cluster)
    assert failure(target.client.call, "Maintenance.MoveLeader", targetID=other.id) == (
        "FAILED_PRECONDITION", "etcdserver: not leader")
    assert failure(leader.client.call, "Maintenance.MoveLeader", targetID=4711) == (
        "FAILED_PRECONDITION", "etcdserver: bad leader transferee")
    term = leader.status().raftTerm
    start = time.monotonic()
    leader.client.call("Maintenance.MoveLeader", targetID=target.id)
    # A transfer needs no election timeout.
    assert time.monotonic() - start < ELECTION_SECONDS
    assert cluster.wait_leader() is target
    assert target.status().raftTerm > term
    for tool in (ETCDCTL_34, ETCDCTL_35):
        current, (next_, _) = leader_and_followers(cluster)
        done = ctl(cluster, "move-leader", "%x" % next_.id, tool=tool)
        assert "Leadership transferred from %x to %x" % (current.id, next_.id) in done.stdout
        assert cluster.wait_leader() is next_
    done = run([ETCDCTL_35, "--endpoints=" + current.address, "move-leader", "%x" % current.id], check=False)
    assert done.returncode != 0 and "no leader endpoint given" in done.stderr


def test_watches_and_leases_live_through_a_change_of_leader(cluster, prefix):
    leader, (follower, other) = leader_and_followers(cluster)
    lease = leader.client.grant(30).ID
    short = follower.client.grant(2).ID
    with follower.client.watch(metadata=HASLEADER) as on_follower, leader.client.watch(metadata=HASLEADER) as on_leader:
        streams = (on_follower, on_leader)
        for stream in streams:
            stream.open(prefix, prefix + b"\xff", prev_kv=True)
        other.client.put(prefix + b"1", b"a", lease=lease)
        other.client.put(prefix + b"short", b"s", lease=short)
        start = time.monotonic()
        leader.client.call("Maintenance.MoveLeader", targetID=other.id)
        cluster.wait_leader()
        leader.client.put(prefix + b"1", b"b", lease=lease)
        for stream in streams:
            events = stream.events(3)
            assert [(e.kv.key, e.kv.value) for e in events] == [
                (prefix + b"1", b"a"), (prefix + b"short", b"s"), (prefix + b"1", b"b")]
            assert events[2].prev_kv.value == b"a"
        for member in cluster.list():
            assert member.client.keep_alive(lease)[0].TTL == 30
            left = member.client.time_to_live(lease, keys=True)
            assert 28 <= left.TTL <= 30 and left.grantedTTL == 30 and list(left.keys) == [prefix + b"1"]
            assert {lease, short} & set(member.client.leases()) >= {lease}
        # The lease that nobody renews goes, not before its time and on the new leader's watch.
        for stream in streams:
            gone = stream.events(1, timeout=2 + 2 * ELECTION_SECONDS + 3)[0]
            assert (gone.type, gone.kv.key, gone.prev_kv.value) == (1, prefix + b"short", b"s")
        assert time.monotonic() - start >= 1.5
        follower.client.revoke(lease)
        for stream in streams:
            assert stream.events(1)[0].kv.key == prefix + b"1"
    for member in cluster.list():
        assert failure(member.client.revoke, lease) == ("NOT_FOUND", "etcdserver: requested lease not found")
        assert member.client.keep_alive(lease)[0].TTL == 0


def write_gap(members, prefix, action):
    """The longest time between acknowledged writes on these members while the action runs and a second after."""
    times, stopping = [time.monotonic()], threading.Event()

    def write(member):
        with Client(member.address) as client:
            while not stopping.is_set():
                try:
                    client.put(prefix + member.name.encode(), b"", timeout=3)
                    times.append(time.monotonic())
                except grpc.RpcError:
                    pass
                stopping.wait(0.01)

    # Two a member: one may wait for an answer that never comes.
    threads = [threading.Thread(target=write, args=(m,), daemon=True) for m in members for _ in range(2)]
    [t.start() for t in threads]
    time.sleep(0.3)
    action()
    time.sleep(1)
    stopping.set()
    times.append(time.monotonic())
    [t.join(10) for t in threads]
    times.sort()
    return max(later - earlier for earlier, later in zip(times, times[1:]))


def test_a_leader_that_is_stopped_hands_over_first(cluster, prefix):
    leader, followers = leader_and_followers(cluster)
    codes = []
    gap = write_gap(followers, prefix, lambda: codes.append(leader.terminate()))
    assert gap < ELECTION_SECONDS, "no write for %.2f s" % gap
    assert codes[0] in (0, -15)


def test_a_killed_leader_is_replaced(cluster, prefix):
    leader, followers = leader_and_followers(cluster)
    gap = write_gap(followers, prefix, leader.kill)
    assert gap < 6 * ELECTION_SECONDS, "no write for %.2f s" % gap
    assert cluster.wait_leader() in followers


def test_a_follower_that_was_away_catches_up(cluster, prefix):
    leader, (away, other) = leader_and_followers(cluster)
    away.kill()
    for n in range(50):
        other.client.put(prefix + b"%d" % n, b"v" * 100)
    away.spawn()
    eventually(lambda: away.status() and len(away.client.prefix(prefix, serializable=True).kvs) == 50, 15)


@pytest.mark.moonraft
def test_a_follower_behind_the_log_is_sent_a_snapshot(cluster, prefix):
    """The log keeps 100 entries behind the snapshots of every 500, so 1200 writes leave it behind."""
    leader, (away, other) = leader_and_followers(cluster)
    away.kill()
    futures = [other.client.future("KV.Put", key=prefix + b"%d" % (n % 60), value=b"%d" % n) for n in range(1200)]
    [f.result() for f in futures]
    revision = other.client.delete(prefix + b"7").header.revision
    away.spawn()
    eventually(lambda: away.status() and away.client.range(b"x", serializable=True).header.revision >= revision, 20)
    assert len(away.client.prefix(prefix, serializable=True).kvs) == 59
    hashes = {m.client.call("Maintenance.HashKV", revision=revision).hash for m in cluster.list()}
    assert len(hashes) == 1
    # What it holds is complete history, too: a watch on it goes back behind the snapshot.
    with away.client.watch() as stream:
        stream.create(prefix, prefix + b"\xff", start_revision=revision - 500)
        assert len(stream.events(501, timeout=10)) == 501


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


def http_status(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


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
    """Requests reach the leader while it is stopped, after another has written. It wakes and must first learn of that."""
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


def put_somewhere(members, key, value):
    """The revision of a write that one of the members accepts, None when none does."""
    for member in members:
        try:
            return member.client.put(key, value, timeout=1).header.revision
        except grpc.RpcError:
            pass
    return None


def found_somewhere(members, key):
    """Whether a linearizable read finds the key; true as well when no member answers."""
    for member in members:
        try:
            return member.client.get(key, timeout=1) is not None
        except grpc.RpcError:
            pass
    return True


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
