"""Runs a cluster under concurrent clients and faults, and judges everything the clients saw.

    python torture.py --seconds 120 --seed 7              actions drawn by the seed until the time is over
    python torture.py --actions freeze_leader,kill_all    these, once each
    E2E_TARGET=etcd python torture.py …                   against etcd 3.5.1

Prints the seed, each action with its time, a summary, and every violation; exits 1 when there is any.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

import grpc  # noqa: E402

import clients  # noqa: E402
import faultfs  # noqa: E402
import harness  # noqa: E402
import nemesis  # noqa: E402
from cluster import ELECTION, Cluster  # noqa: E402
from history import OK, History  # noqa: E402
from judge import SHOWN, Judge  # noqa: E402
from wire import M  # noqa: E402

#: Small logs, so that a short absence already needs a snapshot. etcd 3.5.1 always keeps 5000 entries to catch up with.
SNAPSHOT_COUNT, CATCHUP = 500, 200


class Run:
    """One cluster, its clients and their history, from start to verdict."""

    #: Seconds after its due time by which a lease must be gone, in calm: the expiry loop, two elections, a busy machine.
    LEASE_GRACE = 2 * ELECTION / 1000 + 2.0
    #: Seconds that a follower is kept away at most.
    LAG_SECONDS = 20

    def __init__(self, directory, seed, size=3, workers=10, holders=5, ttls=(2, 2, 3, 5),
                 faulty_disks=False, quiet=False):
        self.seed, self.quiet, self.ttls = seed, quiet, ttls
        flags = ["--snapshot-count", str(SNAPSHOT_COUNT)]
        catchup = 5000
        if not harness.IS_ETCD:
            # Small segments, so that rotation and truncation are hit too.
            flags += ["--snapshot-catchup-entries", str(CATCHUP), "--storage.wal-segment-size", "2MiB"]
            catchup = CATCHUP
        self.lag_entries = SNAPSHOT_COUNT + catchup + 100
        self.history = History()
        self.cluster = Cluster(directory, size, flags, faulty_disks)
        self.targets = self.cluster.list()
        self.leases, self.probes, self.seen_at, self.disturbances = [], [], {}, []
        self.compacted, self.finished, self.ending = 0, 0.0, threading.Event()
        self.watchers = [clients.Watcher(self, "w%d" % n, seed * 1000 + n, prev_kv=n != 0) for n in range(3)]
        self.workers = [clients.Mixed(self, "c%d" % n, seed * 1000 + 100 + n, 0.02) for n in range(workers)]
        self.workers += [clients.Holder(self, "l%d" % n, seed * 1000 + 200 + n, 0.1) for n in range(holders)]
        self.workers += [clients.Probe(self, "p", seed * 1000 + 300, 0.3), clients.Compactor(self, "x", seed * 1000 + 301, 1)]
        self.terms, self.watching = {}, threading.Event()

    def say(self, text):
        if not self.quiet:
            print("%8.3f s  %s" % (self.history.now(), text), flush=True)

    def probe_write(self, member):
        """A recorded write by the driver itself."""
        token = self.history.token()
        return self.history.perform("driver", member, "KV.Put", M.PutRequest(key=b"mark/driver", value=token + b"|"),
                                    3.0, token)

    def start(self):
        self.cluster.start()
        self.history.began = time.monotonic()
        for client in self.watchers + self.workers:
            client.start()
        threading.Thread(target=self.watch_terms, daemon=True).start()

    def watch_terms(self):
        """Notes changes of leader: each starts the leases' time anew."""
        while not self.watching.wait(0.5):
            before = self.history.now()
            for status in self.cluster.statuses(0.4).values():
                if status.leader and status.raftTerm not in self.terms:
                    self.terms[status.raftTerm] = status.leader
                    self.disturbances.append((before - 1.0, self.history.now()))

    def torment(self, actions=None, seconds=0, choices=()):
        """Acts out the given actions, or random ones until the time is over."""
        tormentor = nemesis.Nemesis(self, self.seed)
        chance = random.Random(self.seed ^ 0x5EED)
        pending = list(actions or [])
        deadline = time.monotonic() + seconds
        while pending if actions else time.monotonic() < deadline:
            if not pending:
                pending = list(choices)
                chance.shuffle(pending)
            tormentor.act(pending.pop(0))
            time.sleep(chance.uniform(0.3, 1.0))
        self.disturbances.append((self.history.now(), self.history.now()))
        tormentor.note_crashes()

    def finish(self):
        """Ends the load, demands convergence, and judges; returns the violations."""
        self.say("the end of the faults")
        for member in self.cluster.list():
            if self.probe_write(member).outcome != OK:
                self.history.violation("%s accepts no write after the faults ended" % member.name)
        for client in self.workers:
            client.stopping.set()
        for client in self.workers:
            client.join(15)
        self.drain_leases()
        last = self.settled_revision()
        self.ending.set()
        deadline = time.monotonic() + 15
        while min(w.next for w in self.watchers) <= last and time.monotonic() < deadline:
            time.sleep(0.05)
        for watcher in self.watchers:
            if watcher.next <= last:
                self.history.violation("watcher %s stands at %d of %d" % (watcher.name, watcher.next, last))
            watcher.stopping.set()
        self.watching.set()
        for watcher in self.watchers:
            watcher.join(5)
        self.finished = self.history.now()
        judge = Judge(self)
        judge.verdict()
        self.compare_members(judge, last)
        self.summary(judge)
        return judge.violations

    def drain_leases(self):
        """Waits for the last leases to end; what is left after their time is a finding of the judge."""
        limit = max((lease.last_sent() + lease.ttl for lease in self.leases), default=0)
        limit = max(limit, self.disturbances[-1][1] + 5) + self.LEASE_GRACE + 0.5
        while self.history.now() < limit:
            if not self.settled_range(clients.LEASED).count:
                return
            time.sleep(0.2)

    def settled_range(self, prefix):
        def attempt():
            try:
                return self.cluster.wait_leader().client.prefix(prefix, timeout=2)
            except grpc.RpcError:
                return None
        return harness.eventually(attempt, 15)

    def settled_revision(self):
        return self.settled_range(b"none").header.revision

    def compare_members(self, judge, last):
        """The same data, members, leases and no alarm everywhere."""
        def views():
            seen = {}
            for member in self.cluster.list():
                try:
                    hashed = member.client.call("Maintenance.HashKV", revision=last, timeout=5)
                    listed = member.client.call("Cluster.MemberList", linearizable=True, timeout=5).members
                    seen[member.name] = (
                        hashed.hash, hashed.compact_revision,
                        tuple(sorted((m.ID, m.name, tuple(m.peerURLs), tuple(m.clientURLs), m.isLearner) for m in listed)),
                        tuple(sorted(member.client.leases())),
                        tuple(str(a) for a in member.client.call("Maintenance.Alarm", timeout=5).alarms))
                except grpc.RpcError as error:
                    seen[member.name] = (error.details(),)
            return seen

        deadline = time.monotonic() + 10
        while True:
            seen = views()
            if len(set(seen.values())) == 1 and len(next(iter(seen.values()))) == 5:
                break
            if time.monotonic() > deadline:
                judge.fail("the members differ: %s" % "\n    ".join("%s %s" % item for item in seen.items()))
                return
            time.sleep(0.3)
        _, _, listed, leases, alarms = next(iter(seen.values()))
        if alarms:
            judge.fail("alarms: %s" % (alarms,))
        names = sorted(m.name for m in self.cluster.list())
        if sorted(m[1] for m in listed) != names:
            judge.fail("the members are %s, listed are %s" % (names, listed))
        if leases and any(lease.ID in leases and lease.last_sent() + lease.ttl + 15 < self.finished for lease in self.leases):
            judge.fail("leases left over: %s" % (leases,))
        for member in self.cluster.list():
            kvs = member.client.range(b"\0", b"\0", serializable=True).kvs
            if {kv.key: kv for kv in kvs} != getattr(judge, "state", None):
                judge.fail("%s holds another state than its history says" % member.name)

    def summary(self, judge):
        operations = self.history.operations
        lost = sum(o.outcome != OK for o in operations)
        self.say("%d operations (%.0f/s), %d without a good answer; %d revisions; %s; %d renewals; %d leaders; %d streams" % (
            len(operations), len(operations) / max(1, self.history.now()), lost, max(judge.truth, default=0),
            ", ".join("%d %s" % (n, what) for what, n in sorted(judge.notes.items())),
            sum(len(lease.renewals) for lease in self.leases), len(self.terms), sum(w.streams for w in self.watchers)))
        for (method, outcome), count in sorted(self.history.tally.items()):
            if outcome != OK:
                self.say("    %6d %s: %s" % (count, method, outcome))

    def close(self):
        for client in self.workers + self.watchers:
            client.stopping.set()
        self.watching.set()
        self.cluster.close()


def torture(directory, seed, seconds=0, actions=None, size=3, disks=False, quiet=False, **load):
    """One whole run; returns (violations, the run). The cluster is gone afterwards, its logs are in the directory."""
    run = Run(directory, seed, size=size, faulty_disks=disks, quiet=quiet, **load)
    try:
        run.start()
        choices = nemesis.ACTIONS + (nemesis.DISK_ACTIONS if disks else [])
        try:
            run.torment(actions, seconds, choices)
        except (AssertionError, grpc.RpcError) as error:
            run.history.violation("the cluster did not recover: %s" % error)
            return run.history.violations, run
        return run.finish(), run
    finally:
        run.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--actions", help="a comma-separated list instead of the seed's choice")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--workers", type=int, default=10, help="clients that read and write")
    parser.add_argument("--no-disk-faults", action="store_true")
    parser.add_argument("--directory", help="where data and logs are kept; by default a temporary one")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    # etcd is linked statically and calls the kernel itself, so the shim cannot reach it.
    disks = not options.no_disk_faults and not harness.IS_ETCD and faultfs.library() is not None
    directory = options.directory or tempfile.mkdtemp(prefix="torture-")
    print("seed %d, %d members of %s, logs in %s" % (seed, options.members, harness.SERVER_BINARY, directory), flush=True)
    violations, run = torture(directory, seed, options.seconds, options.actions and options.actions.split(","),
                              options.members, disks, workers=options.workers)
    for violation in violations[:SHOWN]:
        print("VIOLATION  %s" % violation)
    if len(violations) > SHOWN:
        print("and %d more" % (len(violations) - SHOWN))
    print("seed %d: %s" % (seed, "%d violations" % len(violations) if violations else "passed"))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
