"""What is done to a cluster under load. Each method is one action: it hurts, waits, and makes everything whole again.

`ACTIONS` names them; a schedule is a list of names, drawn by the seed or given. Every choice comes from one random
source, so a seed repeats the same actions (though not the same thread timing).
"""

import errno
import random
import signal
import threading
import time

import grpc

import faultfs
from cluster import ELECTION, SETTLE
from history import OK

SECOND_ELECTION = ELECTION / 1000


class Nemesis:
    def __init__(self, run, seed):
        self.run, self.cluster, self.history, self.chance = run, run.cluster, run.history, random.Random(seed)

    def say(self, text):
        self.run.say(text)

    def act(self, name):
        """Runs one action and demands that the cluster accepts writes again within SETTLE afterwards."""
        start = self.history.now()
        disturbance = [start, float("inf")]
        self.run.disturbances.append(disturbance)
        self.say(name)
        try:
            getattr(self, name)()
        finally:
            self.mend()
            disturbance[1] = self.history.now()
        self.calm()
        disturbance[1] = self.history.now()

    def mend(self):
        """All links healthy, all members awake and running."""
        self.cluster.heal(deliver=self.chance.random() < 0.5)
        for member in self.cluster.list():
            if member.crashed:
                continue
            if member.frozen:
                member.wake()
            if member.disk:
                member.disk.clear()
            if not member.alive:
                member.spawn()

    def calm(self):
        self.note_crashes()
        leader = self.cluster.wait_leader(SETTLE)
        deadline = time.monotonic() + SETTLE
        while True:
            if self.run.probe_write(leader).outcome == OK:
                return
            if time.monotonic() > deadline:
                raise AssertionError("no write accepted within %s s after the faults ended" % SETTLE)
            leader = self.cluster.wait_leader(SETTLE)

    def note_crashes(self):
        for member in self.cluster.list():
            if member.crashed:
                self.history.violation("%s ended by itself with %s:\n%s" % (
                    member.name, member.process.returncode, member.tail()))
                member.reap(1)
                member.spawn()

    def sleep(self, low, high):
        time.sleep(self.chance.uniform(low, high))

    def leader_and_others(self):
        leader = self.cluster.wait_leader()
        return leader, [m for m in self.cluster.serving() if m is not leader]

    # ------------------------------------------------------------------------------------------------ processes

    def kill(self, members, low=0.3, high=3.0):
        for member in members:
            self.say("  kill -9 %s" % member.name)
            member.kill()
        self.sleep(low, high)

    def kill_leader(self):
        self.kill([self.cluster.wait_leader()])

    def kill_follower(self):
        self.kill([self.chance.choice(self.leader_and_others()[1])])

    def kill_minority(self):
        self.kill(self.chance.sample(self.cluster.list(), (len(self.cluster.list()) - 1) // 2))

    def kill_majority(self):
        self.kill(self.chance.sample(self.cluster.list(), len(self.cluster.list()) // 2 + 1), 0.2, 2.0)

    def kill_all(self):
        self.kill(self.cluster.list(), 0.0, 0.5)

    def kill_again_and_again(self):
        """Somebody dies every few hundred milliseconds, also while catching up."""
        for _ in range(6):
            victim = self.chance.choice(self.cluster.list())
            self.kill([victim], 0.1, 0.4)
            victim.spawn()
            self.sleep(0.2, 1.0)

    def freeze(self, member, low, high):
        self.say("  SIGSTOP %s" % member.name)
        member.freeze()
        self.sleep(low, high)
        self.say("  SIGCONT %s" % member.name)
        member.wake()
        self.sleep(0.3, 1.0)

    def freeze_leader(self):
        """Longer than the lease TTLs: another leader has been elected and has ended leases."""
        self.freeze(self.cluster.wait_leader(), 3.5, 6.0)

    def freeze_leader_briefly(self):
        """Around the election timeout."""
        for _ in range(3):
            self.freeze(self.cluster.wait_leader(), 0.5 * SECOND_ELECTION, 1.8 * SECOND_ELECTION)

    def freeze_follower(self):
        self.freeze(self.chance.choice(self.leader_and_others()[1]), 1.0, 5.0)

    def freeze_majority(self):
        """The leader alone stays awake, then sleeps itself while the others wake."""
        leader, others = self.leader_and_others()
        for member in others:
            member.freeze()
        self.sleep(0.5, 2.0)
        leader.freeze()
        for member in others:
            member.wake()
        self.sleep(2.0, 4.0)
        leader.wake()

    def rolling_restart(self):
        for member in self.cluster.list():
            self.say("  SIGTERM %s" % member.name)
            status = member.terminate()
            if status not in (0, -signal.SIGTERM):
                self.history.violation("%s ended with %s on SIGTERM\n%s" % (member.name, status, member.tail()))
            member.spawn()
            self.cluster.wait_leader()
            self.sleep(0.2, 0.5)

    def transfer_leader(self):
        for _ in range(4):
            leader, others = self.leader_and_others()
            target = self.chance.choice(others)
            self.say("  leadership from %s to %s" % (leader.name, target.name))
            try:
                leader.client.call("Maintenance.MoveLeader", targetID=target.id, timeout=5)
            except grpc.RpcError as error:
                self.say("    %s" % error.details())
            self.sleep(0.2, 0.8)

    # ------------------------------------------------------------------------------------------------ the network

    def fault(self):
        """Silence or resets."""
        return self.chance.choice(({"hold": True}, {"hold": True}, {"cut": True}))

    def isolate(self, member, both_ways=True, outwards=True):
        others = [m for m in self.cluster.list() if m is not member]
        fault = self.fault()
        self.say("  %s: %s %s the others" % (
            fault, member.name, "and" if both_ways else "to" if outwards else "from"))
        some, rest = ([member], others) if outwards else (others, [member])
        self.cluster.separate(some, rest, both_ways, **fault)

    def isolate_leader(self):
        self.isolate(self.cluster.wait_leader())
        self.sleep(2.5, 6.0)

    def isolate_follower(self):
        self.isolate(self.chance.choice(self.leader_and_others()[1]))
        self.sleep(2.0, 5.0)

    def mute_leader(self):
        """What the leader sends does not arrive, what the others send does."""
        self.isolate(self.cluster.wait_leader(), both_ways=False)
        self.sleep(2.0, 5.0)

    def deafen_leader(self):
        """The leader's heartbeats arrive, no answer reaches it."""
        self.isolate(self.cluster.wait_leader(), both_ways=False, outwards=False)
        self.sleep(2.0, 5.0)

    def deafen_follower(self):
        """Hears nothing and asks for votes."""
        self.isolate(self.chance.choice(self.leader_and_others()[1]), both_ways=False, outwards=False)
        self.sleep(2.0, 5.0)

    def bridge(self):
        """One member sees all, the others only it: the ring of majorities in a cluster of three."""
        members = self.cluster.list()
        middle = self.chance.choice(members)
        rest = [m for m in members if m is not middle]
        self.chance.shuffle(rest)
        half = len(rest) // 2
        self.say("  only %s sees all" % middle.name)
        self.cluster.separate(rest[:half], rest[half:], **self.fault())
        self.sleep(3.0, 6.0)

    def majority_ring(self):
        """Everybody sees a majority, no two the same one; needs five members to differ from a bridge."""
        members = self.cluster.list()
        if len(members) < 5:
            return self.bridge()
        self.chance.shuffle(members)
        fault = self.fault()
        for place, member in enumerate(members):
            self.cluster.separate([member], [members[(place + 2) % len(members)]], **fault)
        self.sleep(3.0, 6.0)

    def flap(self):
        """Random links fail and heal in quick succession."""
        members = self.cluster.list()
        for _ in range(12):
            one, other = self.chance.sample(members, 2)
            self.cluster.separate([one], [other], self.chance.random() < 0.5, **self.fault())
            self.sleep(0.1, 0.6)
            if self.chance.random() < 0.6:
                self.cluster.heal(deliver=self.chance.random() < 0.5)

    def everywhere(self, **fault):
        self.say("  all links: %s" % fault)
        self.cluster.separate(self.cluster.list(), self.cluster.list(), both_ways=False, **fault)
        self.sleep(3.0, 6.0)

    def slow_links(self):
        low = self.chance.uniform(0.01, 0.1)
        self.everywhere(delay=[low, low + self.chance.uniform(0.02, 0.2)])

    def lossy_links(self):
        self.everywhere(stall=[self.chance.uniform(0.01, 0.06), self.chance.uniform(0.2, 0.8)],
                        reset=self.chance.choice((0.0, 0.005, 0.02)))

    def narrow_links(self):
        self.everywhere(rate=self.chance.choice((30_000, 100_000)))

    # ------------------------------------------------------------------------------------------- logs and members

    def lag_until_snapshot(self):
        """A follower is away until the leader's log no longer holds what it needs."""
        leader, others = self.leader_and_others()
        victim = self.chance.choice(others)
        isolate = self.chance.random() < 0.5
        self.say("  %s away until it needs a snapshot, %s" % (victim.name, "cut off" if isolate else "dead"))
        start = leader.status().raftIndex
        if isolate:
            self.isolate(victim)
        else:
            victim.kill()
        index, deadline, enough = start, time.monotonic() + self.run.LAG_SECONDS, threading.Event()
        writers = [threading.Thread(target=self.fill, args=(enough, [m for m in self.cluster.serving() if m is not victim]),
                                    daemon=True) for _ in range(self.FILLERS)]
        for writer in writers:
            writer.start()
        while index < start + self.run.lag_entries and time.monotonic() < deadline:
            time.sleep(0.1)
            statuses = self.cluster.statuses()
            index = max((s.raftIndex for s in statuses.values()), default=index)
        enough.set()
        for writer in writers:
            writer.join(10)
        self.say("  %d entries behind" % (index - start))
        if not isolate:
            victim.spawn()
        self.cluster.heal()
        if self.chance.random() < 0.5:
            # Once more while it catches up.
            self.sleep(0.05, 0.5)
            victim.kill()
            victim.spawn()

    #: Threads that write as fast as they are answered, to get the log forward.
    FILLERS = 6

    def fill(self, enough, members):
        while not enough.is_set():
            if self.run.probe_write(self.chance.choice(members)).outcome != OK:
                enough.wait(0.05)

    def replace_member(self):
        """A learner joins, is promoted, and somebody leaves, perhaps the leader."""
        leader, others = self.leader_and_others()
        joiner = self.cluster.add(leader)
        self.say("  %s joins as a learner" % joiner.name)
        deadline = time.monotonic() + SETTLE
        joiner_id = None
        while True:
            leader = self.cluster.wait_leader(agreed=False)
            try:
                joiner_id = joiner_id or joiner.id
                leader.client.call("Cluster.MemberPromote", ID=joiner_id, timeout=5)
                break
            except (grpc.RpcError, AssertionError) as error:
                if "can only promote a learner member" == getattr(error, "details", str)()[12:]:
                    break
                if time.monotonic() > deadline:
                    raise AssertionError("not promoted within %s s: %s\n%s" % (SETTLE, error, joiner.tail())) from error
                time.sleep(0.2)
        self.say("  %s promoted" % joiner.name)
        self.run.targets = self.cluster.list()
        leader, others = self.leader_and_others()
        victim = leader if self.chance.random() < 0.5 else self.chance.choice([m for m in others if m is not joiner])
        self.remove(victim)

    def remove(self, victim):
        """Removes a member; it has to end by itself."""
        victim_id = victim.id
        via = self.chance.choice([m for m in self.cluster.serving() if m is not victim])
        self.say("  %s leaves%s" % (victim.name, ", the leader" if victim is self.cluster.leader() else ""))
        deadline = time.monotonic() + SETTLE
        while True:
            try:
                via.client.call("Cluster.MemberRemove", ID=victim_id, timeout=5)
                break
            except grpc.RpcError as error:
                if error.details() == "etcdserver: member not found":
                    break
                if time.monotonic() > deadline:
                    raise AssertionError("not removed within %s s: %s" % (SETTLE, error.details())) from error
                time.sleep(0.3)
        del self.cluster.members[victim.name]
        self.run.targets = self.cluster.list()
        if victim.alive:
            try:
                victim.reap(15)
            except Exception:
                self.history.violation("%s was removed and still runs after 15 s\n%s" % (victim.name, victim.tail()))
                victim.kill()
        victim.client.close()

    # -------------------------------------------------------------------------------------------------- the disk

    def disk_fails(self):
        """From some call on every write or sync fails: the process must end with a message, and come back whole."""
        victim = self.chance.choice(self.cluster.list())
        kind, error = self.chance.choice(((faultfs.WRITE, errno.EIO), (faultfs.WRITE, errno.ENOSPC),
                                          (faultfs.SYNC, errno.EIO), (faultfs.WRITE | faultfs.SYNC, errno.EIO)))
        self.say("  %s: %s fails with %s" % (victim.name, {1: "write", 2: "sync", 3: "write and sync"}[kind],
                                             errno.errorcode[error]))
        length = len(victim.log_text())
        victim.disk.fail(kind, error, after=self.chance.randrange(20))
        try:
            status = victim.process.wait(10)
        except Exception:
            self.history.violation("%s goes on after its disk failed (%d of %d calls)\n%s" % (
                victim.name, *reversed(victim.disk.counts()), victim.tail()))
            victim.kill()
            return
        victim.reap(1)
        said = victim.log_text()[length:]
        if status != 70 or not said.strip():
            self.history.violation("%s ended with %s after its disk failed, saying: %s" % (victim.name, status, said))
        self.say("    it ended with %d" % status)
        self.sleep(0.2, 1.5)

    def lose_power(self):
        """Some or all members die with what they had not synced."""
        count = self.chance.choice((1, len(self.cluster.list()), len(self.cluster.list())))
        for member in self.chance.sample(self.cluster.list(), count):
            undone = member.lose_power(self.chance)
            self.say("  %s loses power, and %s unsynced operations" % (member.name, undone))
        self.sleep(0.0, 1.0)

    def clock_jumps(self):
        """Wall clocks jump by up to a day, forth and back; leases and elections must not care."""
        for _ in range(3):
            member, seconds = self.chance.choice(self.cluster.list()), self.chance.uniform(-86_400, 86_400)
            self.say("  the clock of %s jumps by %.0f s" % (member.name, seconds))
            member.disk.jump(seconds)
            self.sleep(0.5, 2.0)

    def disk_slow(self):
        """The leader's syncs take longer than an election timeout: another must lead."""
        leader = self.cluster.wait_leader()
        self.say("  syncs of %s take %.1f s" % (leader.name, 3 * SECOND_ELECTION))
        leader.disk.slow(3 * SECOND_ELECTION)
        deadline = time.monotonic() + 12 * SECOND_ELECTION
        while True:
            now = self.cluster.leader()
            if now not in (None, leader):
                self.say("    %s leads" % now.name)
                return
            if time.monotonic() > deadline:
                self.history.violation("%s still leads with a disk that stalls\n%s" % (leader.name, leader.tail()))
                return
            time.sleep(0.1)


#: Every action, and those that need the disk shim.
ACTIONS = [
    "kill_leader", "kill_follower", "kill_minority", "kill_majority", "kill_all", "kill_again_and_again",
    "freeze_leader", "freeze_leader_briefly", "freeze_follower", "freeze_majority", "rolling_restart", "transfer_leader",
    "isolate_leader", "isolate_follower", "mute_leader", "deafen_leader", "deafen_follower", "bridge", "majority_ring",
    "flap", "slow_links", "lossy_links", "narrow_links", "lag_until_snapshot", "replace_member",
]
DISK_ACTIONS = ["disk_fails", "disk_slow", "lose_power", "clock_jumps"]
