"""How long writes are refused when the leader is killed: the distribution over many trials, in election timeouts.

    python failover.py --trials 50
    E2E_TARGET=etcd python failover.py --trials 50

Each trial kills the leader with SIGKILL and sends a small write to every survivor each INTERVAL; the time until the first
of them is acknowledged counts. The killed member is started again and must have caught up before the next trial.
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

import harness  # noqa: E402
from cluster import ELECTION, Cluster  # noqa: E402

#: Seconds between probes; at most this many wait for an answer at once (a probe may hang at a member without leader).
INTERVAL, WAITING, LIMIT = 0.02, 400, 20.0


def trial(cluster, number):
    """Seconds from the kill of the leader to the next acknowledged write."""
    leader = cluster.wait_leader()
    survivors = [m for m in cluster.serving() if m is not leader]
    for member in survivors:
        member.client.put(b"failover/warm", b"")
    accepted, times = threading.Event(), []

    def done(future):
        if future.exception() is None:
            times.append(time.monotonic())
            accepted.set()

    leader.kill()
    start = time.monotonic()
    pending = []
    while not accepted.is_set():
        if time.monotonic() - start > LIMIT:
            raise AssertionError("no write within %s s after the leader was killed\n%s" % (
                LIMIT, "\n".join(m.tail() for m in survivors)))
        pending = [f for f in pending if not f.done()]
        if len(pending) < WAITING:
            for member in survivors:
                future = member.client.future("KV.Put", key=b"failover/%d" % number, timeout=LIMIT)
                future.add_done_callback(done)
                pending.append(future)
        accepted.wait(INTERVAL)
    for future in pending:
        future.cancel()
    leader.spawn()
    cluster.wait_leader()
    harness.eventually(lambda: caught_up(cluster), 20)
    return min(times) - start


def caught_up(cluster):
    statuses = cluster.statuses()
    indexes = [s.raftAppliedIndex for s in statuses.values()]
    return len(indexes) == len(cluster.list()) and max(indexes) - min(indexes) < 5


def failover(directory, trials, size=3, report=None, pause=0.0):
    """The times of all trials in election timeouts, sorted."""
    with Cluster(directory, size) as cluster:
        cluster.start()
        times = []
        for number in range(trials):
            # The kill meets the heartbeat and the followers' timers at any phase.
            time.sleep(pause + random.uniform(0.3, 0.6))
            times.append(trial(cluster, number) / (ELECTION / 1000))
            if report:
                report(number, times[-1])
    return sorted(times)


def percentile(times, share):
    return times[min(len(times) - 1, int(share * len(times)))]


def within(times, limit):
    return sum(t <= limit for t in times) / len(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--members", type=int, default=3)
    options = parser.parse_args()
    print("%s, %d members, election timeout %d ms" % (harness.SERVER_BINARY, options.members, ELECTION), flush=True)
    times = failover(tempfile.mkdtemp(prefix="failover-"), options.trials, options.members,
                     lambda n, t: print("  trial %2d: %.2f election timeouts" % (n + 1, t), flush=True))
    print("writes accepted again after (election timeouts): min %.2f, p50 %.2f, p90 %.2f, p95 %.2f, p99 %.2f, max %.2f" % (
        times[0], *(percentile(times, p) for p in (0.5, 0.9, 0.95, 0.99)), times[-1]))
    edges = [0, 0.5, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, float("inf")]
    for low, high in zip(edges, edges[1:]):
        count = sum(low < t <= high for t in times)
        if count:
            print("  %4.2f – %4.2f  %3d  %s" % (low, high, count, "#" * count))
    print("within 2 election timeouts: %.0f %% of %d trials" % (100 * within(times, 2), len(times)))
    return 0 if within(times, 2) >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
