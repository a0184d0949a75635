"""Members come and go, and leadership moves, while the cluster serves.

Method: as in test_cluster.py, one cluster for the whole file; each test leaves three healthy members behind.
"""

import threading
import time

import grpc
import pytest

from cluster import Cluster
from clusters import ELECTION_SECONDS, FLAGS, accepts, ctl, hand_over, leader_and_followers, settled
from harness import ETCDCTL_34, ETCDCTL_35, IS_ETCD, Client, eventually, failure, run

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("whole")]
HASLEADER = (("hasleader", "true"),)


def test_member_list(cluster):
    # Client URLs are published by each member once there is a leader.
    eventually(lambda: all(m.clientURLs for m in Cluster.member_list(cluster.list()[0])))
    for linearizable in (True, False):
        for member in cluster.list():
            reply = member.client.call("Cluster.MemberList", linearizable=linearizable)
            assert reply.header.member_id == member.id and reply.header.revision == 0
            assert described(reply.members) == {m.name: ([m.peer_url], [m.url], False) for m in cluster.list()}


def described(members):
    return {m.name: (list(m.peerURLs), list(m.clientURLs), m.isLearner) for m in members}


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
        # It learns what it is from the leader.
        eventually(lambda: learner.status().isLearner, 10)
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

        settled(follower.client.call, "Cluster.MemberRemove", ID=identity)
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
    # Who is heard of within an election timeout counts as reachable.
    time.sleep(1.3 * ELECTION_SECONDS)
    assert failure(leader.client.call, "Cluster.MemberAdd", peerURLs=["http://127.0.0.1:1"]) == (
        "UNAVAILABLE", "etcdserver: unhealthy cluster")
    assert len(Cluster.member_list(leader)) == 3


def test_a_second_unstarted_member_is_refused(tmp_path, binary):
    with Cluster(tmp_path, 1, FLAGS) as alone:
        member = alone.start().list()[0]
        member.client.call("Cluster.MemberAdd", peerURLs=["http://127.0.0.1:1"])
        code, text = failure(member.client.call, "Cluster.MemberAdd", peerURLs=["http://127.0.0.1:2"])
        assert text == "etcdserver: re-configuration failed due to not enough started members"
        assert code in ("UNKNOWN", "FAILED_PRECONDITION")


@pytest.mark.moonraft
def test_changes_that_follow_each_other_are_all_answered(cluster):
    """etcd drops all but the first and lets them time out. Six at once, through all members: each is done or refused in
    time, none silently dropped."""
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
    # A transfer needs no election timeout.
    assert hand_over(leader, target) < ELECTION_SECONDS
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
        hand_over(leader, other)
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
    """The log keeps 100 entries behind the snapshots of every 500, so 1200 writes leave it behind.

    Writes go on meanwhile, and watches are opened on the follower before it has what they ask for: the snapshot, and
    what is applied right on top of it, must leave no gap in any of them.
    """
    leader, (away, other) = leader_and_followers(cluster)
    first = other.client.put(prefix + b"x").header.revision
    away.kill()
    futures = [other.client.future("KV.Put", key=prefix + b"%d" % (n % 60), value=b"%d" % n) for n in range(1200)]
    [f.result() for f in futures]
    stopping = threading.Event()

    def write():
        with Client(other.address) as client:
            while not stopping.is_set():
                client.put(prefix + b"go on")

    writers = [threading.Thread(target=write, daemon=True) for _ in range(4)]
    [w.start() for w in writers]
    away.spawn()
    streams = []
    try:
        eventually(lambda: away.status(), 20)
        for back in (1100, 900, 600, 300, 100, 10):
            stream = away.client.watch()
            stream.create(prefix, prefix + b"\xff", start_revision=first + 1200 - back)
            streams.append((first + 1200 - back, stream))
        eventually(lambda: revision_of(away) > first + 1200, 20)
        time.sleep(0.5)
        stopping.set()
        [w.join(10) for w in writers]
        revision = other.client.delete(prefix + b"7").header.revision
        for start, stream in streams:
            seen = [e.kv.mod_revision for e in stream.events(revision - start + 1, timeout=30)]
            assert seen == list(range(start, revision + 1))
    finally:
        stopping.set()
        [stream.close() for _, stream in streams]
    eventually(lambda: revision_of(away) >= revision, 20)
    assert len(away.client.prefix(prefix, serializable=True).kvs) == 61
    hashes = {m.client.call("Maintenance.HashKV", revision=revision).hash for m in cluster.list()}
    assert len(hashes) == 1


def revision_of(member):
    """The revision at which the member itself stands."""
    return member.client.range(b"none", serializable=True).header.revision
