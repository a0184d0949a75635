"""Three members from one file: they replicate, change their membership, move their leader, and refuse what risks them.

Method: real processes on loopback, raw gRPC for codes, texts and fields, etcdctl 3.5.1 and moonctl for what operators
type. The tests share one cluster and run in their order; each leaves three healthy voters behind.
"""

import os
import re
import time
import urllib.error
import urllib.request

import grpc
import pytest

import harness
from harness import ETCDCTL_35, Command, Server, failure, free_port, moonctl_binary, refused, run, run_to_end

pytestmark = pytest.mark.moonraft

NOT_FOR_LEARNER = "etcdserver: rpc not supported for learner"
NOT_IN_SYNC = "etcdserver: can only promote a learner member which is in sync with leader"
NO_LEADER = "etcdserver: no leader"


class Member(Server):
    """A member named by a file, or one that joins with the variables that `member add` prints."""

    def __init__(self, directory, name, file=None, env=None):
        directory.mkdir(exist_ok=True)
        super().__init__(directory, name=name, env=env)
        self.file = file

    def command(self):
        if self.file:
            return [harness.SERVER_BINARY, "--config", str(self.file), "--member", self.name]
        return [harness.SERVER_BINARY, "--heartbeat-interval=50", "--election-timeout=500",
                "--listen-client-urls", self.url, "--listen-peer-urls", self.peer_url, "--data-dir", str(self.data)]

    @property
    def peer_url(self):
        return "http://127.0.0.1:%d" % self.peer_port

    def status(self):
        with self.client() as client:
            return client.call("Maintenance.Status")

    def get_http(self, path):
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


class Cluster:
    def __init__(self, root):
        self.root = root
        self.members = {}
        self.file = root / "cluster.toml"
        for name in ("n1", "n2", "n3"):
            self.members[name] = Member(root / name, name, self.file)
        self.file.write_text(
            '[raft]\nheartbeat-interval = "50ms"\nelection-timeout = "500ms"\n' + "".join(
                '[[cluster.member]]\nname = "%s"\npeer-urls = ["%s"]\nclient-urls = ["%s"]\n'
                % (m.name, m.peer_url, m.url) for m in self.members.values()))

    def start(self):
        for member in self.members.values():
            member.spawn()
        for member in self.members.values():
            member.wait_ready()
        return self

    def alive(self):
        return [m for m in self.members.values() if m.process and m.alive()]

    @property
    def endpoints(self):
        return ",".join(m.address for m in self.alive())

    def leader(self):
        def found():
            for member in self.alive():
                status = member.status()
                if status.leader == status.header.member_id:
                    return member
        return eventually(found)

    def follower(self):
        leader = self.leader()
        return next(m for m in self.alive() if m is not leader and not m.status().isLearner)

    def id(self, name):
        return eventually(lambda: next((m.ID for m in self.list() if m.name == name), None))

    def list(self):
        with self.leader().client() as client:
            return list(client.call("Cluster.MemberList", linearizable=True).members)

    def joiner(self, name, printed, port=None):
        """A member started with the variables that a tool printed."""
        env = dict(re.findall(r'^(ETCD_\w+)="(.*)"$', printed, re.M))
        assert env["ETCD_NAME"] == name and env["ETCD_INITIAL_CLUSTER_STATE"] == "existing"
        member = Member(self.root / name, name, env=env)
        member.peer_port = int(env["ETCD_INITIAL_ADVERTISE_PEER_URLS"].rsplit(":", 1)[1])
        self.members[name] = member
        return member

    def ctl(self, *arguments, tool=ETCDCTL_35, check=True):
        return run([tool, "--endpoints", self.endpoints, *arguments], check=check, timeout=60, env={"ETCDCTL_API": "3"})


def eventually(condition, timeout=20):
    """The first true value of a condition; errors of calls count as not yet."""
    deadline = time.monotonic() + timeout
    problem = None
    while time.monotonic() < deadline:
        try:
            value = condition()
            if value:
                return value
        except (grpc.RpcError, OSError) as error:
            problem = error
        time.sleep(0.05)
    raise AssertionError("not within %s s; last error: %s" % (timeout, problem))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, binary):
    cluster = Cluster(tmp_path_factory.mktemp("cluster")).start()
    yield cluster
    for member in cluster.alive():
        member.kill()


@pytest.fixture(autouse=True)
def no_server_left_behind(cluster):
    """The members belong to the module, so a test's own may stay."""
    yield


def test_what_one_takes_all_have(cluster):
    for index, member in enumerate(cluster.members.values()):
        with member.client() as client:
            client.put(b"all/%d" % index, member.name.encode())
    for member in cluster.members.values():
        with member.client() as client:
            assert [kv.value for kv in client.prefix(b"all/").kvs] == [b"n1", b"n2", b"n3"]
    states = [m.status() for m in cluster.members.values()]
    assert len({s.leader for s in states}) == len({s.raftTerm for s in states}) == 1
    assert len({s.header.member_id for s in states}) == 3 and len({s.header.cluster_id for s in states}) == 1
    members = cluster.list()
    assert sorted((m.name, tuple(m.peerURLs), tuple(m.clientURLs)) for m in members) == sorted(
        (m.name, (m.peer_url,), (m.url,)) for m in cluster.members.values())
    hashes = cluster.ctl("endpoint", "hashkv", "--cluster").stdout.split("\n")
    assert len({line.split(", ")[1] for line in hashes if line}) == 1
    assert cluster.ctl("endpoint", "health", "--cluster").returncode == 0


def test_bad_requests_change_nothing(cluster):
    before = cluster.list()
    peer = before[0].peerURLs[0]
    bad_urls = ("INVALID_ARGUMENT", "etcdserver: given member URLs are invalid")
    not_found = ("NOT_FOUND", "etcdserver: member not found")
    exists = ("FAILED_PRECONDITION", "etcdserver: Peer URLs already exists")
    for member in (cluster.leader(), cluster.follower()):
        with member.client() as client:
            for urls in ([], ["x"], ["http://a"], ["http://a:1/path"], ["http://a:1"] * 17, ["http://%s:1" % ("a" * 2000)]):
                assert failure(client.call, "Cluster.MemberAdd", peerURLs=urls) == bad_urls, urls
                assert failure(client.call, "Cluster.MemberUpdate", ID=before[0].ID, peerURLs=urls) == bad_urls, urls
            assert failure(client.call, "Cluster.MemberAdd", peerURLs=["http://b:1", peer]) == exists
            assert failure(client.call, "Cluster.MemberUpdate", ID=before[1].ID, peerURLs=[peer]) == exists
            for method in ("Cluster.MemberRemove", "Cluster.MemberPromote"):
                for unknown in (0, 1):
                    assert failure(client.call, method, ID=unknown) == not_found
            for unknown in (0, 1):
                assert failure(client.call, "Cluster.MemberUpdate", ID=unknown, peerURLs=["http://b:1"]) == not_found
            assert failure(client.call, "Cluster.MemberPromote", ID=before[0].ID) == (
                "FAILED_PRECONDITION", "etcdserver: can only promote a learner member")
    assert cluster.list() == before


def test_leadership_moves(cluster):
    leader, other = cluster.leader(), cluster.follower()
    target = other.status().header.member_id
    with other.client() as client:
        assert failure(client.call, "Maintenance.MoveLeader", targetID=target) == (
            "FAILED_PRECONDITION", "etcdserver: not leader")
    with leader.client() as client:
        for unknown in (0, 1):
            assert failure(client.call, "Maintenance.MoveLeader", targetID=unknown) == (
                "FAILED_PRECONDITION", "etcdserver: bad leader transferee")
        assert client.raw("/etcdserverpb.Maintenance/MoveLeader", b"\x08" + _varint(target)) == b""
    assert cluster.leader() is other
    back = leader.status().header.member_id
    for tool in (ETCDCTL_35, moonctl_binary()):
        if tool is None:
            continue
        said = cluster.ctl("move-leader", "%x" % back, tool=tool).stdout
        assert said == "Leadership transferred from %x to %x\n" % (target, back)
        assert cluster.leader().status().header.member_id == back
        target, back = back, target


def _varint(number):
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def test_a_learner_joins_catches_up_and_votes(cluster):
    follower = cluster.follower()
    url = "http://127.0.0.1:%d" % free_port()
    with follower.client() as client:
        added = client.call("Cluster.MemberAdd", peerURLs=[url], isLearner=True)
        assert added.header.revision == 0 and added.header.member_id == follower.status().header.member_id
        new = added.member
        assert new.isLearner and list(new.peerURLs) == [url] and not new.name and not new.clientURLs
        assert new in added.members and len(added.members) == 4
        assert failure(client.call, "Cluster.MemberAdd", peerURLs=["http://127.0.0.1:1"], isLearner=True) == (
            "FAILED_PRECONDITION", "etcdserver: too many learner members in cluster")
        assert failure(client.call, "Cluster.MemberPromote", ID=new.ID) == ("FAILED_PRECONDITION", NOT_IN_SYNC)
        # Its peer URLs change, and it stays a learner (etcd issue 21694).
        updated = client.call("Cluster.MemberUpdate", ID=new.ID, peerURLs=[url, "http://127.0.0.1:1"])
        assert updated.header.revision == 0
        assert next(m for m in updated.members if m.ID == new.ID).isLearner
        client.call("Cluster.MemberUpdate", ID=new.ID, peerURLs=[url])

    initial = ",".join("%s=%s" % (m.name or "n4", m.peerURLs[0]) for m in cluster.list())
    member = cluster.joiner("n4", "\n".join([
        'ETCD_NAME="n4"', 'ETCD_INITIAL_CLUSTER="%s"' % initial, 'ETCD_INITIAL_ADVERTISE_PEER_URLS="%s"' % url,
        'ETCD_INITIAL_CLUSTER_STATE="existing"']))
    member.spawn()
    status = eventually(lambda: member.status() if member.status().isLearner else None)
    assert status.header.member_id == new.ID
    eventually(lambda: [m.name for m in cluster.list() if m.ID == new.ID] == ["n4"])

    with member.client() as client:
        eventually(lambda: client.get(b"all/0", serializable=True))
        for method, fields in [
            ("KV.Range", {"key": b"a"}), ("KV.Put", {"key": b"a"}), ("KV.Txn", {}), ("KV.Compact", {}),
            ("Lease.LeaseGrant", {"TTL": 9}), ("Lease.LeaseLeases", {}), ("Cluster.MemberList", {}),
            ("Cluster.MemberAdd", {"peerURLs": ["http://a:1"]}), ("Maintenance.Alarm", {}), ("Maintenance.HashKV", {}),
            ("Maintenance.MoveLeader", {"targetID": 1}), ("Auth.AuthStatus", {}), ("Auth.Authenticate", {}),
        ]:
            assert failure(client.call, method, **fields) == ("FAILED_PRECONDITION", NOT_FOR_LEARNER), method
        assert failure(client.raw, "/grpc.health.v1.Health/Check") == ("FAILED_PRECONDITION", NOT_FOR_LEARNER)
        with refused("FAILED_PRECONDITION", NOT_FOR_LEARNER):
            list(client._call("Watch.Watch")(iter([]), timeout=5))
    code, text = member.get_http("/readyz/non_learner")
    assert code == 503 and "[-]non_learner failed: not supported for learner" in text
    assert member.get_http("/livez")[0] == 200
    assert re.search(r"^etcd_server_is_learner 1$", member.get_http("/metrics")[1], re.M)
    with cluster.leader().client() as client:
        assert failure(client.call, "Maintenance.MoveLeader", targetID=new.ID) == (
            "FAILED_PRECONDITION", "etcdserver: bad leader transferee")

    # A restart goes on where it was.
    member.kill()
    member.spawn()
    eventually(lambda: member.status().isLearner)

    with follower.client() as client:
        promoted = eventually(lambda: client.call("Cluster.MemberPromote", ID=new.ID))
        assert not next(m for m in promoted.members if m.ID == new.ID).isLearner
        assert failure(client.call, "Cluster.MemberPromote", ID=new.ID)[1] == "etcdserver: can only promote a learner member"
    member.wait_ready()
    with member.client() as client:
        client.put(b"all/4", b"n4")
    assert member.get_http("/readyz")[0] == 200
    metrics = follower.get_http("/metrics")[1]
    assert re.search(r"^etcd_server_learner_promote_successes 1$", metrics, re.M)
    assert 'etcd_server_learner_promote_failures{Reason="%s"}' % NOT_IN_SYNC in metrics


def test_a_removed_member_ends_and_stays_out(cluster):
    member = cluster.members["n4"]
    removed = cluster.id("n4")
    said = cluster.ctl("member", "remove", "%x" % removed).stdout
    assert said.startswith("Member %16x removed from cluster" % removed)
    # Removed members stop by themselves.
    member.process.wait(timeout=20)
    status, text = run_to_end(member)
    assert status not in (None, 0) and "removed" in text, text
    del cluster.members["n4"]
    assert len(cluster.list()) == 3
    with cluster.leader().client() as client:
        assert failure(client.call, "Cluster.MemberPromote", ID=removed)[1] == "etcdserver: member not found"


@pytest.mark.skipif(moonctl_binary() is None, reason="moonctl is not built")
def test_a_dead_member_is_replaced_over_an_interruption(cluster):
    dead = cluster.follower()
    old = cluster.id(dead.name)
    dead.kill()
    url = "http://127.0.0.1:%d" % free_port()
    ctl = moonctl_binary()
    replace = ["member", "replace", "%x" % old, "n5", "--peer-urls=" + url]

    dry = cluster.ctl(*replace, tool=ctl).stdout
    assert dry.count("\n") == 5 and "Nothing was changed" in dry and "[done]" not in dry
    assert len(cluster.list()) == 3
    refusal = cluster.ctl("member", "replace", "%x" % old, "n5", "--peer-urls=" + dead.peer_url, tool=ctl, check=False)
    assert refusal.returncode == 1 and "the new one needs another" in refusal.stderr

    first = Command([ctl, "--endpoints", cluster.endpoints, *replace, "--yes"])
    printed = first.lines(7, timeout=20)
    assert printed[0].startswith("Added the learner ") and printed[-1] == "Waiting until it has started."
    first.close()
    assert "1. [done] add" in cluster.ctl(*replace, tool=ctl).stdout

    second = Command([ctl, "--endpoints", cluster.endpoints, *replace, "--yes"])
    printed = "\n".join(second.lines(6, timeout=20))
    assert printed.startswith("Start the new member's process")
    cluster.joiner("n5", printed).spawn()
    status, output, errors = second.finish(timeout=60)
    assert status == 0, output + errors
    assert "Promoted" in output and "Removed %x." % old in output and "Done." in output
    del cluster.members[dead.name]
    assert sorted(m.name for m in cluster.list()) == sorted(cluster.members)
    assert not any(m.isLearner for m in cluster.list())
    again = cluster.ctl(*replace, "--yes", tool=ctl).stdout
    assert again.startswith("Done.\n")
    cluster.members["n5"].wait_ready()
    with cluster.members["n5"].client() as client:
        assert [kv.value for kv in client.prefix(b"all/").kvs] == [b"n1", b"n2", b"n3", b"n4"]


def test_the_quorum_is_not_risked(cluster):
    dead = cluster.follower()
    others = [m for m in cluster.alive() if m is not dead]
    dead_id = cluster.id(dead.name)
    living = next(m.status().header.member_id for m in others)
    dead.kill()
    time.sleep(1)
    with cluster.leader().client() as client:
        assert failure(client.call, "Cluster.MemberAdd", peerURLs=["http://127.0.0.1:1"]) == (
            "UNAVAILABLE", "etcdserver: unhealthy cluster")
        assert failure(client.call, "Cluster.MemberRemove", ID=living) == ("UNAVAILABLE", "etcdserver: unhealthy cluster")
    dead.spawn().wait_ready()
    # A voter that never starts counts against the next one.
    with cluster.leader().client() as client:
        def add():
            return client.call("Cluster.MemberAdd", peerURLs=["http://127.0.0.1:1"])
        ghost = eventually(add).member.ID
        code, text = failure(client.call, "Cluster.MemberAdd", peerURLs=["http://127.0.0.1:2"])
        assert text in ("etcdserver: unhealthy cluster",
                        "etcdserver: re-configuration failed due to not enough started members"), (code, text)
        client.call("Cluster.MemberRemove", ID=ghost)
    assert dead_id in [m.ID for m in cluster.list()]


def test_streams_that_want_a_leader_end_without_one(cluster):
    survivor, *others = cluster.alive()
    wanted, plain = survivor.client(), survivor.client()
    try:
        with wanted.watch(metadata=[("hasleader", "true")]) as first, plain.watch() as second:
            first.create(b"w")
            second.create(b"w")
            start = time.monotonic()
            for member in others:
                member.kill()
            eventually(lambda: first.call.done())
            assert (first.call.code().name, first.call.details()) == ("UNAVAILABLE", NO_LEADER)
            # Not before three election timeouts of half a second.
            assert time.monotonic() - start > 1.5
            assert not second.call.done()
            with refused("UNAVAILABLE", NO_LEADER):
                wanted.send("KV.Range", harness.M.RangeRequest(key=b"w", serializable=True),
                            metadata=[("hasleader", "true")])
            assert wanted.get(b"all/0", serializable=True).value == b"n1"
            assert "etcdserver: no leader" in survivor.status().errors
    finally:
        wanted.close()
        plain.close()
    for member in others:
        member.spawn()
    for member in others:
        member.wait_ready()


def test_the_leader_can_be_removed(cluster):
    leader = cluster.leader()
    gone = cluster.id(leader.name)
    with leader.client() as client:
        # Refused as long as a voter that has just been started again is not yet heard by the leader.
        eventually(lambda: client.call("Cluster.MemberRemove", ID=gone))
    leader.process.wait(timeout=20)
    del cluster.members[leader.name]
    assert cluster.leader() is not leader
    assert sorted(m.name for m in cluster.list()) == sorted(cluster.members)
    with cluster.follower().client() as client:
        client.put(b"after", b"1")
