"""A member that is behind is caught up by a snapshot while somebody is killed: the receiver while the file arrives, while it
takes the file over and right after, the leader while it sends.

Method: three real members, and a rate at which a transfer takes about two seconds.
"""

import threading
import time
from contextlib import contextmanager

import grpc
import pytest

from cluster import Cluster
from clusters import ELECTION_SECONDS, FLAGS, leader_and_followers
from harness import Client, eventually
from test_known_bugs import equal_hashes, metric

pytestmark = [pytest.mark.timeout(180), pytest.mark.moonraft]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, binary):
    with Cluster(tmp_path_factory.mktemp("cluster"), 3, FLAGS + ["--peers.snapshot-rate", "2MiB"], token="e2e") as made:
        made.start()
        for n in range(400):
            made.list()[0].client.put(b"big/%d" % n, b"%d" % n * 3000)
        yield made


@contextmanager
def writing(member, prefix):
    """A client that writes a little all the while."""
    stopping = threading.Event()

    def write():
        with Client(member.address) as client:
            while not stopping.wait(0.01):
                try:
                    client.put(prefix + b"meanwhile", b"x", timeout=3)
                except grpc.RpcError:
                    pass
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(10)


def fall_behind(cluster, prefix):
    """Kills a follower and writes until the others' logs begin behind its end; returns it and the leader."""
    leader, (victim, other) = leader_and_followers(cluster)
    victim.kill()
    time.sleep(1.5 * ELECTION_SECONDS)
    for n in range(12):
        futures = [other.client.future("KV.Put", key=prefix + b"%d" % (i % 50), value=b"%d" % n) for i in range(100)]
        [f.result() for f in futures]
    return victim, leader


def installed(member):
    """How many snapshots it took over since it started; None while it does not answer."""
    try:
        return metric(member, "moonraft_snapshots_installed_total")
    except OSError:
        return None


def arriving(member):
    return [p for p in (member.data / "member" / "snap").glob("*.part") if p.stat().st_size > 1 << 20]


def caught_up(cluster, member, prefix):
    # The member that is asked may have to find a leader first.
    def write():
        try:
            return member.client.put(prefix + b"last", b"x", timeout=3).header.revision
        except grpc.RpcError:
            return None
    revision = eventually(write, 60)
    eventually(lambda: member.client.range(b"x", serializable=True).header.revision >= revision, 20)
    assert not list((member.data / "member" / "snap").iterdir())
    assert member.client.get(b"big/399").value == b"399" * 3000
    equal_hashes(cluster)


def test_receiver_killed_while_the_file_arrives(cluster, prefix):
    victim, leader = fall_behind(cluster, prefix)
    with writing(leader, prefix):
        for _ in range(2):
            victim.spawn()
            eventually(lambda: arriving(victim), 30, 0.02)
            victim.kill()
        victim.spawn()
        caught_up(cluster, victim, prefix)
    assert installed(victim) == 1


@pytest.mark.parametrize("delay", [0, 0.004, 0.02, 0.1])
def test_receiver_killed_while_it_takes_the_file_over(cluster, prefix, delay):
    victim, leader = fall_behind(cluster, prefix)
    with writing(leader, prefix):
        before = victim.log_text().count("taking over the snapshot")
        victim.spawn()
        eventually(lambda: victim.log_text().count("taking over the snapshot") > before, 30, 0.001)
        time.sleep(delay)
        victim.kill()
        victim.spawn()
        caught_up(cluster, victim, prefix)


def test_leader_killed_while_it_sends(cluster, prefix):
    victim, leader = fall_behind(cluster, prefix)
    victim.spawn()
    eventually(lambda: arriving(victim), 30, 0.02)
    leader.kill()
    # Both others are needed now: the new leader's snapshot must come through.
    try:
        caught = eventually(lambda: installed(victim) == 1, 40)
    finally:
        leader.spawn()
    assert caught
    caught_up(cluster, victim, prefix)


def test_the_rate_is_kept_and_the_leader_writes_no_copy(cluster, prefix):
    victim, leader = fall_behind(cluster, prefix)
    size = (leader.data / "member" / "db" / "data.mdb").stat().st_size
    victim.spawn()
    eventually(lambda: list((victim.data / "member" / "snap").glob("*.part")), 30, 0.01)
    begin = time.monotonic()
    assert not list((leader.data / "member" / "snap").iterdir())
    eventually(lambda: installed(victim) == 1, 60, 0.05)
    # The first chunk and one more may come at once.
    assert time.monotonic() - begin > 0.8 * size / (2 << 20) - 0.3
    caught_up(cluster, victim, prefix)
