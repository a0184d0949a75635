"""What the tests of a cluster share: its flags, commands against all members, and calls that wait for what etcd demands."""

import time
import urllib.error
import urllib.request

import grpc

from cluster import ELECTION
from harness import ETCDCTL_35, IS_ETCD, run

ELECTION_SECONDS = ELECTION / 1000
FLAGS = ["--snapshot-count", "500"] + ([] if IS_ETCD else ["--snapshot-catchup-entries", "100"])


def accepts(member):
    try:
        member.client.put(b"whole", b"", timeout=2)
        return True
    except grpc.RpcError:
        return False


def hand_over(leader, target):
    """Moves leadership, again where the disk took longer for the votes than the election timeout that a transfer has.
    Returns the seconds that it took in the end."""
    for attempt in range(5):
        begun = time.monotonic()
        try:
            leader.client.call("Maintenance.MoveLeader", targetID=target.id)
            return time.monotonic() - begun
        except grpc.RpcError as error:
            if error.details() != "etcdserver: request timed out, leader transfer took too long" or attempt == 4:
                raise


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


def http_status(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


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
