"""Data bugs that etcd had, on three real members: each number below is an issue of etcd (docs/known-bugs.md lists them all).

Method: one cluster for the whole file, behind the faulty network of Tests/torture and, where there is a C compiler, on its
faulty disks. Members are cut off, stopped, told that their disk failed, and one gets another byte in its database.
"""

import errno
import json
import threading
import time
import urllib.request
from contextlib import contextmanager

import grpc
import pytest

import faultfs
from cluster import Cluster
from clusters import (
    ELECTION_SECONDS, FLAGS, accepts, ctl, found_somewhere, hand_over, http_status, leader_and_followers, put_somewhere)
from harness import DELETE, PUT, Client, brief, eventually, failure, prefix_end, put_op, range_op, refused
from wire import M

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("whole"), pytest.mark.moonraft]
COMPACTED = ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted")
FUTURE = ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision")
DISKS = pytest.mark.skipif(faultfs.library() is None, reason="no C compiler to build the disk shim with")
NOTIFY = ["--watch-progress-notify-interval", "300ms"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, binary):
    with Cluster(tmp_path_factory.mktemp("cluster"), 3, FLAGS + NOTIFY, token="e2e",
                 faulty_disks=faultfs.library() is not None) as made:
        for member in made.list():
            if member.disk:
                member.disk.journals = False
        yield made.start()


def metric(member, name):
    with urllib.request.urlopen(member.url + "/metrics", timeout=5) as reply:
        for line in reply.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
    raise AssertionError("no metric " + name)


def equal_hashes(cluster):
    """HashKV of all members at one revision, once all of them have it."""
    def ask():
        try:
            return cluster.list()[0].client.revision()
        except grpc.RpcError:  # one that was killed may not listen yet
            return None
    revision = eventually(ask, 15)

    def hashes():
        try:
            return [m.client.call("Maintenance.HashKV", revision=revision, timeout=3).hash for m in cluster.list()]
        except grpc.RpcError:
            return None
    found = eventually(hashes, 15)
    assert len(set(found)) == 1, {m.name: h for m, h in zip(cluster.list(), found)}


@contextmanager
def load(members, prefix):
    """Writers on these members; gives the list of times at which a write was acknowledged."""
    acknowledged, stopping = [time.monotonic()], threading.Event()

    def write(member, number):
        with Client(member.address) as client:
            turn = 0
            while not stopping.is_set():
                turn += 1
                key = prefix + b"load/%d/%d" % (number, turn % 40)
                try:
                    if turn % 7 == 0:
                        client.delete(key, timeout=3)
                    else:
                        client.txn(success=[put_op(key, b"v" * 300), put_op(key + b"/2", b"w" * 3000)], timeout=3)
                    acknowledged.append(time.monotonic())
                except grpc.RpcError:
                    stopping.wait(0.02)

    threads = [threading.Thread(target=write, args=(m, n), daemon=True) for n, m in enumerate(members * 2)]
    [t.start() for t in threads]
    try:
        yield acknowledged
    finally:
        stopping.set()
        [t.join(10) for t in threads]


def longest_gap(times):
    ordered = sorted(times)
    return max((b - a for a, b in zip(ordered, ordered[1:])), default=0)


# ------------------------------------------------------------------------------------------------- watches


def test_etcd15271_a_watch_resumed_on_a_member_behind_waits(cluster, prefix):
    """15271: a client that had seen revision N goes on at N + 1 on a member that has not: no old event comes."""
    leader, (behind, other) = leader_and_followers(cluster)
    with behind.client.watch() as stream:
        cluster.separate([behind], [leader, other], hold=True)
        last = [other.client.put(prefix + b"k", b"%d" % n).header.revision for n in range(5)][-1]
        assert behind.client.range(b"x", serializable=True).header.revision < last
        stream.open(prefix + b"k", start_revision=last + 1, progress_notify=True)
        stream.silent(1.0)
        cluster.heal()
        stream.silent(0.5)
        other.client.put(prefix + b"k", b"next")
        event = stream.next(15).events[0]
        assert (event.kv.value, event.kv.mod_revision) == (b"next", last + 1)


def test_snapshot_install_under_open_watches_and_defragmentation(cluster, prefix):
    """8127, 9775: watchers of all kinds are open on a member whose whole state a snapshot replaces. 20221: those of the
    future are told nothing that is not theirs. 11613, 20653: the member is defragmented all the while. 13205: leases and
    what hangs on them come with the snapshot. 18055: a second one follows at once."""
    leader, (behind, other) = leader_and_followers(cluster)
    key = prefix + b"k"
    first = other.client.put(key, b"first").header.revision
    stop, defragmented, wrong = threading.Event(), [], []

    def defragment():
        with Client(behind.address) as client:
            while not stop.is_set():
                try:
                    client.call("Maintenance.Defragment", timeout=10)
                    defragmented.append(1)
                except grpc.RpcError as error:
                    wrong.append(error)
                    return
                stop.wait(0.01)

    # (name, watcher's fields, what it sees)
    end = prefix_end(prefix)
    kinds = {
        "now": (dict(key=prefix, range_end=end), lambda e, start: e.kv.mod_revision >= start),
        "past": (dict(key=prefix, range_end=end, start_revision=first), lambda e, start: True),
        "one key": (dict(key=key, prev_kv=True), lambda e, start: e.kv.key == key and e.kv.mod_revision >= start),
        "puts": (dict(key=prefix, range_end=end, filters=[1]),
                 lambda e, start: e.type == PUT and e.kv.mod_revision >= start),
        "deletes": (dict(key=prefix, range_end=end, filters=[0], fragment=True),
                    lambda e, start: e.type == DELETE and e.kv.mod_revision >= start),
        "elsewhere": (dict(key=prefix + b"\xfe", range_end=end), lambda e, start: False),
        "future": (dict(key=prefix, range_end=end, start_revision=first + 700),
                   lambda e, start: e.kv.mod_revision >= first + 700),
        "far future": (dict(key=prefix, range_end=end, start_revision=first + 100_000, progress_notify=True),
                       lambda e, start: False),
    }
    streams = {name: behind.client.watch() for name in kinds}
    try:
        installed = metric(behind, "moonraft_snapshots_installed_total")
        eventually(lambda: behind.client.range(b"x", serializable=True).header.revision >= first)
        start = behind.client.range(b"x", serializable=True).header.revision + 1
        for name, (fields, _) in kinds.items():
            streams[name].open(**fields)
        assert streams["past"].events(1)[0].kv.value == b"first"
        for round_ in range(2):
            cluster.separate([behind], [leader, other], hold=True)
            other.client.put(prefix + b"gone", b"x")
            # The log is kept longer for a peer that has just answered.
            time.sleep(1.5 * ELECTION_SECONDS)
            futures = [other.client.future("KV.Put", key=prefix + b"%d" % (n % 60), value=b"%d" % n) for n in range(900)]
            [f.result() for f in futures]
            lease = other.client.grant(2 if round_ else 600).ID
            other.client.put(prefix + b"leased", b"x", lease=lease)
            other.client.delete(prefix + b"gone")
            other.client.delete(prefix + b"7")
            other.client.txn(success=[put_op(key, b"a"), put_op(prefix + b"b", b"c")])
            if not stop.is_set():
                stop.clear()
                threading.Thread(target=defragment, daemon=True).start()
            cluster.heal()
            revision = other.client.put(key, b"last %d" % round_).header.revision
            eventually(lambda: behind.client.range(b"x", serializable=True).header.revision >= revision, 20)
        stop.set()
        assert metric(behind, "moonraft_snapshots_installed_total") == installed + 2
        assert defragmented and not wrong, wrong
        # What the snapshot brought leads now; the lease of the second round ends by itself.
        hand_over(leader, behind)
        eventually(lambda: other.client.get(prefix + b"leased") is None, 2 + 3 * ELECTION_SECONDS + 3)
        with other.client.watch() as reference:
            reference.create(prefix, end, start_revision=first, prev_kv=True)
            expected = reference.events(1 + 2 * 907 + 1)
        assert [e.kv.mod_revision for e in expected] == sorted(e.kv.mod_revision for e in expected)
        for name, (_, wants) in kinds.items():
            wanted = [e for e in expected if wants(e, start)]
            if name == "past":
                wanted = wanted[1:]
            seen = streams[name].events(len(wanted), timeout=15) if wanted else []
            assert [brief(e) for e in seen] == [brief(e) for e in wanted], name
            if name == "one key":
                assert [e.prev_kv.value for e in seen] == [e.prev_kv.value for e in wanted]
            streams[name].silent(0.35)
        equal_hashes(cluster)
    finally:
        stop.set()
        for stream in streams.values():
            stream.close()


# ------------------------------------------------------------------------------------------------- one answer on all


def test_etcd18667_a_compacted_range_in_a_transaction_fails_alike_everywhere(cluster, prefix):
    for n in range(5):
        revision = cluster.list()[n % 3].client.put(prefix + b"k", b"%d" % n).header.revision
    cluster.list()[0].client.compact(revision - 1)
    for member in cluster.list():
        for at, answer in ((revision - 3, COMPACTED), (revision + 10_000, FUTURE)):
            # Before its write and behind it, taken and nested.
            key = prefix + b"written"
            for operations in ([range_op(prefix + b"k", revision=at), put_op(key)],
                               [put_op(key), range_op(prefix + b"k", revision=at)]):
                assert failure(member.client.txn, success=operations) == answer
        assert member.client.get(prefix + b"written") is None
    assert cluster.list()[0].client.revision() == revision
    equal_hashes(cluster)


def test_etcd20590_a_member_that_was_stopped_renews_nothing_that_has_ended(cluster, prefix):
    """14758, 20590, 20616: keepalives reach a stopped follower; its lease ends meanwhile; it wakes."""
    leader, (stopped, other) = leader_and_followers(cluster)
    lease, kept = other.client.grant(1).ID, other.client.grant(60).ID
    other.client.put(prefix + b"k", b"", lease=lease)
    stopped.client.get(prefix + b"k")
    stopped.freeze()
    calls = [stopped.client._call("Lease.LeaseKeepAlive")(iter([M.LeaseKeepAliveRequest(ID=ID)]), timeout=20)
             for ID in (lease, kept) for _ in range(3)]
    eventually(lambda: not found_somewhere([other], prefix + b"k"), 1 + 2 * ELECTION_SECONDS + 3)
    stopped.wake()
    renewed = []
    for call in calls:
        try:
            renewed.append(next(iter(call)).TTL)
        except grpc.RpcError:
            renewed.append(None)
    assert all(ttl in (0, None) for ttl in renewed[:3]), renewed
    assert all(ttl in (60, None) for ttl in renewed[3:]), renewed
    assert lease not in other.client.leases() and kept in other.client.leases()
    other.client.revoke(kept)


# ------------------------------------------------------------------------------------------------- disks


#: Where, which calls, with what error, and whether the leader is hit. The countdown is drawn by the place in the list.
FAULTS = [
    ("/member/wal/", faultfs.WRITE, errno.EIO, True),
    ("/member/wal/", faultfs.SYNC, errno.EIO, False),
    ("/member/db/", faultfs.WRITE, errno.EIO, False),
    ("/member/db/", faultfs.SYNC, errno.EIO, True),
    ("/member/wal/", faultfs.WRITE | faultfs.RESIZE, errno.ENOSPC, False),
    ("/member/db/", faultfs.WRITE, errno.ENOSPC, False),
]


@DISKS
def test_etcd13766_a_failed_write_ends_the_member_and_nothing_is_half_done(cluster, prefix):
    """13766, 13908: each of these ends falls into the middle of a commit or an append under load. The process must end
    with the operation and the file named, the others go on, and afterwards all are equal: no index without its data."""
    with load(cluster.list(), prefix) as acknowledged:
        for turn, (place, calls, error, hits_leader) in enumerate(FAULTS):
            leader, followers = leader_and_followers(cluster)
            victim = leader if hits_leader else followers[turn % 2]
            said = len(victim.log_text())
            began = time.monotonic()
            victim.disk.fail(calls, error, after=(3, 2, 5, 1, 11, 2)[turn], place=place)
            status = victim.process.wait(15)
            victim.reap(1)
            text = victim.log_text()[said:]
            assert status == 70, "%s ended with %s\n%s" % (victim.name, status, text)
            # The database's file is named by its directory.
            assert place.rstrip("/") in text, text
            verbs = {"/member/wal/": {faultfs.WRITE: "cannot write", faultfs.SYNC: "cannot synchronize"},
                     "/member/db/": {}}[place].get(calls, "cannot ")
            assert verbs in text, text
            others = [m for m in cluster.list() if m is not victim]
            eventually(lambda: put_somewhere(others, prefix + b"on", b""), 6 * ELECTION_SECONDS)
            gap = longest_gap([t for t in acknowledged if t >= began] + [time.monotonic()])
            assert gap < 6 * ELECTION_SECONDS, "no write for %.1f s" % gap
            victim.spawn()
            cluster.wait_leader()
            eventually(lambda: accepts(victim), 15)
    equal_hashes(cluster)


@DISKS
def test_etcd15247_a_leader_stuck_in_fsync_gives_up_and_ends_no_lease(cluster, prefix):
    """15247: syncs of the leader take three election timeouts. Another leads and writes go on; leases that are renewed
    through the others live, also when the first one has its disk back."""
    leader, followers = leader_and_followers(cluster)
    client = followers[0].client
    lease = client.grant(2).ID
    client.put(prefix + b"leased", b"", lease=lease)
    promised, stop, early = [time.monotonic() + 2], threading.Event(), []

    def renew(member):
        with Client(member.address) as own:
            while not stop.is_set():
                started = time.monotonic()
                try:
                    ttl = own.keep_alive(lease, timeout=3)[0].TTL
                    if ttl > 0:
                        promised.append(started + ttl)
                    elif started < max(promised):
                        early.append("told that it is gone %.2f s early" % (max(promised) - started))
                except grpc.RpcError:
                    pass
                stop.wait(0.2)

    threads = [threading.Thread(target=renew, args=(m,), daemon=True) for m in followers]
    [t.start() for t in threads]
    try:
        with load(followers, prefix) as acknowledged:
            began = time.monotonic()
            leader.disk.slow(3 * ELECTION_SECONDS)
            eventually(lambda: cluster.leader() in followers, 8 * ELECTION_SECONDS)
            time.sleep(2 * ELECTION_SECONDS)
            gap = longest_gap([t for t in acknowledged if t >= began] + [time.monotonic()])
            assert gap < 6 * ELECTION_SECONDS, "no write for %.1f s" % gap
            leader.disk.clear()
            eventually(lambda: accepts(leader), 15)
        time.sleep(2.5)
        assert not early, early
        if time.monotonic() < max(promised):
            assert client.get(prefix + b"leased") is not None, "the lease ended although it was renewed"
    finally:
        leader.disk.clear()
        stop.set()
        [t.join(5) for t in threads]
    client.revoke(lease)
    equal_hashes(cluster)


def test_etcd14685_a_member_killed_while_it_defragments_has_everything(cluster, prefix):
    """14685, 14733: nothing is rebuilt here, so there is no moment at which a kill could cost an index."""
    _, (victim, other) = leader_and_followers(cluster)
    with load([other], prefix):
        for delay in (0.05, 0.3):
            pending = [victim.client.future("Maintenance.Defragment") for _ in range(20)]
            time.sleep(delay)
            victim.kill()
            assert all(f.exception() is None or f.exception().code().name == "UNAVAILABLE" for f in pending)
            victim.spawn()
            cluster.wait_leader()
            eventually(lambda: accepts(victim), 15)
    equal_hashes(cluster)


# ------------------------------------------------------------------------------------------------- divergence


def flip(path, content, place):
    """Flips a bit `place` bytes into this content, wherever the file holds it; returns how often that was."""
    with open(path, "r+b") as file:
        whole = file.read()
        at, found = whole.find(content), 0
        while at >= 0:
            file.seek(at + place)
            file.write(bytes([whole[at + place] ^ 1]))
            found += 1
            at = whole.find(content, at + 1)
    return found


def alarms(cluster):
    return sorted(ctl(cluster, "alarm", "list").stdout.split("\n")[:-1])


def test_a_changed_byte_in_one_member_raises_corrupt_for_it(cluster, prefix):
    """Every compaction compares the members. The one that differs is named everywhere, and nothing is written any more."""
    _, (victim, other) = leader_and_followers(cluster)
    value = b"value that is to be found in the file, once and whole: " + prefix
    revision = other.client.put(prefix + b"k", value).header.revision
    eventually(lambda: victim.client.get(prefix + b"k", serializable=True))
    identity = victim.id
    assert victim.terminate() == 0
    assert flip(victim.data / "member/db/data.mdb", value, 10) >= 1
    victim.spawn()
    cluster.wait_leader()
    eventually(lambda: accepts(victim), 15)
    assert victim.client.get(prefix + b"k").value != value, "the byte was not changed in what is served"
    other.client.put(prefix + b"other", b"")
    other.client.compact(revision + 1)
    raised = "memberID:%d alarm:CORRUPT" % identity
    began = time.monotonic()
    eventually(lambda: [line.strip() for line in alarms(cluster)] == [raised], 10)
    print("\nCORRUPT after %.1f s" % (time.monotonic() - began))
    for member in cluster.list():
        eventually(lambda: any("CORRUPT" in error and str(identity) in error for error in member.status().errors))
        status, body = http_status(member.url + "/health")
        assert status == 503 and json.loads(body) == {"health": "false", "reason": "ALARM CORRUPT"}
        assert metric(member, 'moonraft_alarms{type="CORRUPT"}') == 1
        assert http_status(member.url + "/readyz")[0] == 503 and http_status(member.url + "/livez")[0] == 200
        for call in (lambda: member.client.put(prefix + b"k"), lambda: member.client.delete(prefix + b"k"),
                     lambda: member.client.txn(success=[put_op(prefix + b"k")]),
                     lambda: member.client.grant(60)):
            with refused("DATA_LOSS", "etcdserver: corrupt cluster"):
                call()
        assert member.client.get(prefix + b"k") is not None
    assert "CORRUPT" in ctl(cluster, "endpoint", "status", "-w", "json").stdout
    # The byte goes back to what it was, and the operator takes the alarm back.
    victim.terminate()
    changed = value[:10] + bytes([value[10] ^ 1]) + value[11:]
    assert flip(victim.data / "member/db/data.mdb", changed, 10) >= 1
    victim.spawn()
    cluster.wait_leader()
    assert raised in ctl(cluster, "alarm", "disarm").stdout
    eventually(lambda: all(accepts(m) for m in cluster.list()), 15)
    for member in cluster.list():
        assert http_status(member.url + "/health")[0] == 200
        assert metric(member, 'moonraft_alarms{type="CORRUPT"}') == 0
    other.client.compact(other.client.put(prefix + b"k", b"").header.revision - 1)
    time.sleep(1.5 * ELECTION_SECONDS)
    assert alarms(cluster) == []
    equal_hashes(cluster)
