"""Clusters of real members on loopback, with the faulty network of proxy.py between them.

A member listens for its peers on a port that nobody is told; the URL it advertises is the proxy's. Clients talk to the
members directly. The binary is the one harness.py chooses: E2E_TARGET=etcd for etcd 3.5.1, else Moonraft.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc

import faultfs
import harness
from harness import Client, free_port

HERE = Path(__file__).resolve().parent

#: Milliseconds, the defaults of both servers; a test that counts in election timeouts reads them here.
HEARTBEAT, ELECTION = 100, 1000
#: Seconds for a cluster to find a leader again: a few split votes on a busy machine.
SETTLE = 30


class Member:
    """One member: ports, directory and flags that stay the same over all its restarts."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        self.directory = cluster.directory / name
        self.directory.mkdir(parents=True)
        self.data, self.log_path = self.directory / "data", self.directory / "server.log"
        self.client_port, self.peer_port, self.listen_port = free_port(), free_port(), free_port()
        self.address = "127.0.0.1:%d" % self.client_port
        self.url, self.peer_url = "http://" + self.address, "http://127.0.0.1:%d" % self.peer_port
        self.process, self.frozen, self.client = None, False, Client(self.address)
        self.state, self.initial = "new", None
        self.disk = faultfs.Control(self.directory / "faultfs") if cluster.faulty_disks else None
        #: Flags of this member alone.
        self.flags = []

    def command(self):
        return [
            str(self.cluster.binary), "--name", self.name, "--data-dir", str(self.data),
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", "http://127.0.0.1:%d" % self.listen_port,
            "--initial-advertise-peer-urls", self.peer_url,
            "--initial-cluster", self.initial or self.cluster.initial_cluster(), "--initial-cluster-state", self.state,
            "--initial-cluster-token", self.cluster.token,
            "--heartbeat-interval", str(HEARTBEAT), "--election-timeout", str(ELECTION),
        ] + self.cluster.flags + self.flags

    def spawn(self):
        self.frozen = False
        if self.disk:
            self.disk.clear()
            self.disk.forget()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD_", "MOONRAFT_"))}
        with open(self.log_path, "ab") as log:
            log.write(b"--- start at %.3f\n" % time.time())
            log.flush()
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=str(self.directory),
                env=dict(inherited, **(self.disk.environment() if self.disk else {})), start_new_session=True)
        self.cluster.network.command(do="pid", name=self.name, pid=self.process.pid)
        return self

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    @property
    def crashed(self):
        """Whether it ended although nobody ended it; `reap` takes note of an end that was expected."""
        return self.process is not None and self.process.poll() is not None

    @property
    def serving(self):
        return self.alive and not self.frozen

    def signal(self, number):
        if self.alive:
            os.kill(self.process.pid, number)

    def kill(self):
        """kill -9, and wait until the process is gone."""
        self.signal(signal.SIGKILL)
        self.reap(10)

    def lose_power(self, chance):
        """Kills it, and takes back what it had not synced; returns how many operations that were."""
        self.kill()
        return self.disk.lose_power(self.data, chance)

    def terminate(self, timeout=20):
        """SIGTERM; returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.reap(timeout)

    def reap(self, timeout):
        """Waits for the end of the process; returns the exit status."""
        if self.process is None:
            return None
        status = self.process.wait(timeout)
        self.process, self.frozen = None, False
        self.cluster.network.command(do="pid", name=self.name, pid=None)
        return status

    def freeze(self):
        self.signal(signal.SIGSTOP)
        self.frozen = True

    def wake(self):
        self.signal(signal.SIGCONT)
        self.frozen = False

    def wipe(self):
        shutil.rmtree(self.data, ignore_errors=True)

    def status(self, timeout=1.0):
        """The member's Status, or None when it does not answer."""
        try:
            return self.client.call("Maintenance.Status", timeout=timeout)
        except grpc.RpcError:
            return None

    @property
    def id(self):
        """The member id, as the member itself tells."""
        return harness.eventually(self.status, 10).header.member_id

    def log_text(self):
        return self.log_path.read_text(errors="replace")

    def tail(self, lines=15):
        return "\n".join("    %s| %s" % (self.name, line) for line in self.log_text().splitlines()[-lines:])


class Network:
    """The driver's end of the proxy process."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process = subprocess.Popen([sys.executable, str(HERE / "proxy.py")], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, start_new_session=True)

    def command(self, **fields):
        with self.lock:
            self.process.stdin.write(json.dumps(fields).encode() + b"\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError("proxy: %s for %s" % (answer["error"], fields))
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


class Cluster:
    """Members m1 … mN that start together, and those that join later."""

    def __init__(self, directory, size=3, flags=(), faulty_disks=False, token="torture", binary=None):
        self.directory, self.flags, self.token = Path(directory), list(flags), token
        self.binary = binary or harness.SERVER_BINARY
        self.faulty_disks = faulty_disks
        self.network = Network()
        atexit.register(self.close)
        self.members, self.serial = {}, 0
        self.founders = [self.make() for _ in range(size)]
        self.closed = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def make(self):
        """A further member, neither known to the others nor started."""
        self.serial += 1
        member = Member(self, "m%d" % self.serial)
        self.network.command(do="listen", name=member.name, port=member.peer_port, target=member.listen_port)
        self.members[member.name] = member
        return member

    def initial_cluster(self):
        return ",".join("%s=%s" % (m.name, m.peer_url) for m in self.founders)

    def start(self):
        for member in self.founders:
            member.spawn()
        self.wait_leader()
        return self

    def close(self):
        if self.closed:
            return
        self.closed = True
        atexit.unregister(self.close)
        for member in self.members.values():
            member.signal(signal.SIGKILL)
            if member.process:
                member.process.wait()
            member.client.close()
        self.network.close()

    # -----------------------------------------------------------------------------------------------------------

    def list(self):
        return list(self.members.values())

    def serving(self):
        return [m for m in self.list() if m.serving]

    def statuses(self, timeout=0.7):
        """The Status of every serving member that answers in time, asked at once."""
        asked = [(m, m.client.future("Maintenance.Status", timeout=timeout)) for m in self.serving()]
        answers = {}
        for member, future in asked:
            try:
                answers[member] = future.result()
            except grpc.RpcError:
                pass
        return answers

    def leader(self):
        """The serving member that calls itself leader in the highest term, or None."""
        leading = [(s.raftTerm, m) for m, s in self.statuses().items() if s.leader and s.leader == s.header.member_id]
        return max(leading, key=lambda pair: pair[0])[1] if leading else None

    def wait_leader(self, timeout=SETTLE, agreed=True):
        """Waits for a leader that (when `agreed`) every serving member names; returns it."""
        deadline = time.monotonic() + timeout
        while True:
            statuses = self.statuses()
            leaders = {(s.leader, s.raftTerm) for s in statuses.values()}
            for member, status in statuses.items():
                if status.leader and status.leader == status.header.member_id:
                    if not agreed or (len(leaders) == 1 and len(statuses) == len(self.serving())):
                        return member
            for member in self.list():
                if member.crashed:
                    raise AssertionError("%s ended with %s:\n%s" % (member.name, member.process.returncode, member.tail()))
            if time.monotonic() > deadline:
                raise AssertionError("no leader within %s s: %s\n%s" % (
                    timeout, {m.name: (s.leader, s.raftTerm) for m, s in statuses.items()},
                    "\n".join(m.tail() for m in self.list())))
            time.sleep(0.05)

    def followers(self):
        leader = self.wait_leader()
        return [m for m in self.serving() if m is not leader]

    # -----------------------------------------------------------------------------------------------------------
    # The network between members

    def link(self, source, target, **faults):
        """Sets the faults of one direction; without any the link is healthy."""
        self.network.command(do="link", source=source.name, target=target.name, **faults)

    def separate(self, some, others, both_ways=True, **fault):
        """Puts a fault on every link from some to others, and back unless it is to be one-way."""
        for one in some:
            for other in others:
                self.link(one, other, **fault)
                if both_ways:
                    self.link(other, one, **fault)

    def heal(self, deliver=False):
        """Heals every link. What was held back is lost with its connections, or delivered late."""
        self.network.command(do="heal", deliver=deliver)

    # -----------------------------------------------------------------------------------------------------------
    # Membership

    def add(self, via, learner=True, timeout=15):
        """Adds a member through `via` and starts it; retries while the server finds the cluster unhealthy."""
        member = self.make()
        deadline = time.monotonic() + timeout
        while True:
            try:
                reply = via.client.call("Cluster.MemberAdd", peerURLs=[member.peer_url], isLearner=learner, timeout=8)
                listed = reply.members
                break
            except grpc.RpcError as error:
                listed = [m for m in self.member_list(via) if list(m.peerURLs) == [member.peer_url]]
                if listed:
                    listed = self.member_list(via)
                    break
                if time.monotonic() > deadline:
                    del self.members[member.name]
                    raise AssertionError("member add: %s %s" % (error.code().name, error.details())) from error
                time.sleep(0.3)
        names = {m.peer_url: m.name for m in self.list()}
        member.state = "existing"
        member.initial = ",".join("%s=%s" % (names[url], url) for m in listed for url in m.peerURLs if url in names)
        return member.spawn()

    @staticmethod
    def member_list(via, timeout=5):
        try:
            return list(via.client.call("Cluster.MemberList", linearizable=True, timeout=timeout).members)
        except grpc.RpcError:
            return []
