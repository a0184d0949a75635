"""The clients of a run: writers and readers, lease holders, watchers. Each is a thread with its own random source."""

import queue
import random
import threading
import time

import grpc

from harness import CORRECTED_ETCD, IS_ETCD, compare, delete_op, prefix_end, put_op, range_op
from history import OK
from wire import M

PREFIX, LEASED, MARKERS = b"k/", b"lease/", b"mark/"
KEYS = 24
#: Seconds an ordinary call may take; lease renewals wait longer, to see what a frozen member says when it wakes.
TIMEOUT, RENEWAL_TIMEOUT = 4.0, 9.0
FOREVER = (1 << 63) // 10**9


def keys(chance, count=1):
    return [PREFIX + b"%02d" % n for n in chance.sample(range(KEYS), count)]


class Client(threading.Thread):
    """Loops over `step` until told to stop; an unexpected exception is a violation."""

    def __init__(self, run, name, seed, pause):
        super().__init__(daemon=True, name=name)
        self.run_, self.cluster, self.history = run, run.cluster, run.history
        self.chance, self.pause, self.stopping = random.Random(seed), pause, threading.Event()

    def run(self):
        try:
            while not self.stopping.is_set():
                self.step()
                if self.pause:
                    self.stopping.wait(self.chance.uniform(0.5, 1.5) * self.pause)
        except Exception as error:
            import traceback
            self.history.violation("client %s ended: %r\n%s" % (self.name, error, traceback.format_exc()))

    #: How often a member is chosen without regard to whether it runs: a client cannot know, but each such call may
    #: cost it a whole timeout.
    RECKLESS = 0.1

    def member(self):
        members = self.run_.targets
        if self.chance.random() > self.RECKLESS:
            members = [m for m in members if m.serving] or members
        return self.chance.choice(members)

    def perform(self, method, request, token=None, timeout=TIMEOUT, member=None):
        return self.history.perform(self.name, member or self.member(), method, request, timeout, token)


class Mixed(Client):
    """Reads and writes on shared keys."""

    def step(self):
        roll = self.chance.random()
        for limit, action in ((0.30, self.put), (0.44, self.get), (0.50, self.get_all), (0.58, self.get_stale),
                              (0.62, self.get_past), (0.68, self.delete), (0.73, self.delete_marked),
                              (0.76, self.delete_range), (0.91, self.swap), (1.0, self.many)):
            if roll < limit:
                operation = action()
                # A member that does not answer is tried again in a moment, not at once.
                if operation.outcome != OK:
                    self.stopping.wait(0.05)
                return

    def value(self, token):
        return token + b"|" + b"x" * self.chance.choice((0, 0, 20, 400))

    def put(self):
        token = self.history.token()
        return self.perform("KV.Put", M.PutRequest(key=keys(self.chance)[0], value=self.value(token),
                                                   prev_kv=self.chance.random() < 0.3), token)

    def get(self):
        return self.perform("KV.Range", M.RangeRequest(key=keys(self.chance)[0]))

    def get_all(self):
        return self.perform("KV.Range", M.RangeRequest(key=PREFIX, range_end=prefix_end(PREFIX),
                                                       count_only=self.chance.random() < 0.2))

    def get_stale(self):
        return self.perform("KV.Range", M.RangeRequest(key=PREFIX, range_end=prefix_end(PREFIX), serializable=True))

    def get_past(self):
        low = max(2, self.run_.compacted + 1)
        revision = self.chance.randint(low, max(low, self.history.floor))
        return self.perform("KV.Range", M.RangeRequest(key=PREFIX, range_end=prefix_end(PREFIX), revision=revision,
                                                       serializable=self.chance.random() < 0.3))

    def delete(self):
        return self.perform("KV.DeleteRange", M.DeleteRangeRequest(key=keys(self.chance)[0],
                                                                   prev_kv=self.chance.random() < 0.5))

    def delete_marked(self):
        """A delete whose fate can always be told, by the marker written with it."""
        token = self.history.token()
        marker = put_op(MARKERS + self.name.encode(), token + b"|")
        return self.perform("KV.Txn", M.TxnRequest(success=[delete_op(keys(self.chance)[0], prev_kv=True), marker]), token)

    def delete_range(self):
        token = self.history.token()
        start = self.chance.randrange(KEYS)
        wipe = delete_op(PREFIX + b"%02d" % start, PREFIX + b"%02d" % min(99, start + 3))
        return self.perform("KV.Txn", M.TxnRequest(success=[wipe, put_op(MARKERS + self.name.encode(), token + b"|")]),
                            token)

    def swap(self):
        """Reads a key, anywhere and perhaps stale, and replaces it if it is unchanged."""
        key = keys(self.chance)[0]
        read = self.perform("KV.Range", M.RangeRequest(key=key, serializable=self.chance.random() < 0.5))
        if read.outcome != OK:
            return read
        pair = read.reply.kvs[0] if read.reply.kvs else None
        kind = self.chance.choice(("MOD", "VERSION", "CREATE", "VALUE")) if pair is not None else "MOD"
        seen = {"MOD": pair.mod_revision, "VERSION": pair.version, "CREATE": pair.create_revision,
                "VALUE": pair.value} if pair is not None else {"MOD": 0}
        token = self.history.token()
        request = M.TxnRequest(compare=[compare(key, kind, "EQUAL", seen[kind])],
                               success=[put_op(key, self.value(token), prev_kv=True)], failure=[range_op(key)])
        return self.perform("KV.Txn", request, token)

    def many(self):
        """Writes two keys and reads in between, on one of two branches."""
        token, (first, second, third) = self.history.token(), keys(self.chance, 3)
        request = M.TxnRequest(
            compare=[compare(third, "VERSION", self.chance.choice(("GREATER", "LESS")), self.chance.randint(0, 3))],
            success=[put_op(first, self.value(token)), range_op(PREFIX, prefix_end(PREFIX)),
                     put_op(second, self.value(token))],
            failure=[range_op(first), delete_op(second), put_op(third, self.value(token))])
        return self.perform("KV.Txn", request, token)


# ---------------------------------------------------------------------------------------------------------------


class Lease:
    """One lease from the client's view. Times are seconds of the history's clock."""

    def __init__(self, ID, ttl, key):
        self.ID, self.ttl, self.key = ID, ttl, key
        #: (start, end, member, TTL or None) of each renewal sent; the grant is the first.
        self.renewals = []
        #: When a revoke was sent; from then on the key may go.
        self.revoked = None
        #: (time, member, what) whenever a member said that the lease is gone.
        self.denials = []

    def lives_until(self):
        """(the time before which the lease must not end, the renewal which promised that)."""
        return max(((start + self.ttl, (start, end, member, ttl)) for start, end, member, ttl in self.renewals if ttl),
                   default=(0, None))

    def last_sent(self):
        """When the last request that may have prolonged it was over."""
        return max(end for _, end, _, _ in self.renewals)


class Holder(Client):
    """Grants a lease with one key, renews it through any member for a while, then leaves it to expire or revokes it."""

    RECKLESS = 0.5

    def step(self):
        ttl = self.chance.choice(self.run_.ttls)
        member, start = self.member(), self.history.now()
        try:
            granted = member.client.call("Lease.LeaseGrant", TTL=ttl, timeout=TIMEOUT)
        except grpc.RpcError:
            self.stopping.wait(0.1)
            return
        self.history.observe(granted.header.revision)
        token = self.history.token()
        lease = Lease(granted.ID, granted.TTL, LEASED + token)
        lease.renewals.append((start, self.history.now(), member.name, granted.TTL))
        self.perform("KV.Put", M.PutRequest(key=lease.key, value=token + b"|", lease=lease.ID), token)
        with self.history.lock:
            self.run_.leases.append(lease)
        for _ in range(self.chance.randint(0, 8)):
            if self.stopping.wait(self.chance.uniform(0.2, 0.7) * ttl) or lease.denials:
                break
            self.ask(lease) if self.chance.random() < 0.25 else self.renew(lease)
        if self.chance.random() < 0.2 and not lease.denials:
            lease.revoked = self.history.now()
            try:
                self.member().client.call("Lease.LeaseRevoke", ID=lease.ID, timeout=TIMEOUT)
            except grpc.RpcError:
                pass

    def renew(self, lease):
        member, start = self.member(), self.history.now()
        try:
            reply = member.client._call("Lease.LeaseKeepAlive")(
                iter([M.LeaseKeepAliveRequest(ID=lease.ID)]), timeout=RENEWAL_TIMEOUT)
            ttl = next(iter(reply)).TTL
        except (grpc.RpcError, StopIteration):
            ttl = None
        end = self.history.now()
        lease.renewals.append((start, end, member.name, ttl))
        if ttl == 0:
            lease.denials.append((end, member.name, "a renewal was answered with TTL 0"))

    def ask(self, lease):
        member = self.member()
        try:
            reply = member.client.call("Lease.LeaseTimeToLive", ID=lease.ID, keys=True, timeout=TIMEOUT)
        except grpc.RpcError:
            return
        if reply.TTL == -1:
            lease.denials.append((self.history.now(), member.name, "TimeToLive found no lease"))
        elif IS_ETCD and reply.TTL == FOREVER:
            # etcd 3.5.1 when it has just lost the leadership.
            pass
        elif reply.TTL > lease.ttl or reply.grantedTTL != lease.ttl or not set(reply.keys) <= {lease.key}:
            self.history.violation("TimeToLive of %x, granted %d s: %s" % (lease.ID, lease.ttl, reply))


# ---------------------------------------------------------------------------------------------------------------


class Watcher(Client):
    """Follows the whole key space over changes of member; its list of events is complete and in order, or it says why not."""

    QUIET = 1.5

    def __init__(self, run, name, seed, prev_kv):
        super().__init__(run, name, seed, 0)
        self.prev_kv, self.next, self.events, self.streams = prev_kv, 2, [], 0
        self.idle_since = None

    def step(self):
        member = self.member()
        metadata = (("hasleader", "true"),) if self.chance.random() < 0.5 else ()
        until = time.monotonic() + self.chance.uniform(1.0, 6.0)
        self.streams += 1
        with member.client.watch(metadata=metadata, timeout=30) as stream:
            stream.create(b"\0", b"\0", start_revision=self.next, prev_kv=self.prev_kv,
                          progress_notify=self.chance.random() < 0.5)
            while not self.stopping.is_set() and (time.monotonic() < until or self.run_.ending.is_set()):
                try:
                    reply = stream._replies.get(timeout=0.3)
                except queue.Empty:
                    stream.ask_progress()
                    # On a member that says nothing the others are tried.
                    if self.idle_since is None:
                        self.idle_since = time.monotonic()
                    if time.monotonic() - self.idle_since > self.QUIET:
                        break
                    continue
                self.idle_since = None
                if reply is None:
                    self.stopping.wait(0.05)
                    break
                if reply.canceled:
                    if "no leader" not in reply.cancel_reason:
                        self.history.violation("watcher %s from %d was cancelled by %s: %s" % (
                            self.name, self.next, member.name, reply))
                    break
                self.take(reply, member)

    def take(self, reply, member):
        now = self.history.now()
        if not reply.events:
            # etcd 3.5.1 answers a request for progress whatever is still to come (issue 15220).
            asked = reply.watch_id == -1 and IS_ETCD and not CORRECTED_ETCD
            if not reply.created and not asked and reply.header.revision >= self.next:
                # Progress: everything up to here was delivered, so nothing at or below it may follow.
                self.next = reply.header.revision + 1
                self.history.observe(reply.header.revision)
            return
        for event in reply.events:
            revision = event.kv.mod_revision
            if revision < self.next or (self.events and revision < self.events[-1].kv.mod_revision):
                self.history.violation("watcher %s at %s got revision %d, expected %d or later: %s" % (
                    self.name, member.name, revision, self.next, event))
            self.events.append(event)
            self.run_.seen_at.setdefault(revision, now)
        last = reply.events[-1].kv.mod_revision
        if reply.header.revision < last:
            self.history.violation("watcher %s at %s: header revision %d with an event of %d" % (
                self.name, member.name, reply.header.revision, last))
        self.next = last + 1
        self.history.observe(last)


class Probe(Client):
    """Short watches from a past revision, on a part of the keys, with filters; compared with the whole history later."""

    def step(self):
        member, low = self.member(), max(2, self.run_.compacted + 1)
        start = self.chance.randint(low, max(low, self.history.floor))
        key = self.chance.choice((PREFIX, LEASED, keys(self.chance)[0]))
        range_end = prefix_end(key) if key.endswith(b"/") else b""
        filters = self.chance.choice(([], [], [0], [1]))
        events, prev_kv = [], self.chance.random() < 0.5
        until = time.monotonic() + self.chance.uniform(0.5, 2)
        with member.client.watch(timeout=10) as stream:
            stream.create(key, range_end, start_revision=start, filters=filters, prev_kv=prev_kv)
            while time.monotonic() < until:
                try:
                    reply = stream._replies.get(timeout=0.2)
                except queue.Empty:
                    continue
                if reply is None:
                    break
                if reply.canceled:
                    if reply.compact_revision and reply.compact_revision > self.run_.compacted:
                        self.history.violation("compacted at %d, asked was %d" % (reply.compact_revision,
                                                                                  self.run_.compacted))
                    break
                events += reply.events
        self.run_.probes.append((member.name, start, key, range_end, filters, events, prev_kv))


class Compactor(Client):
    """Compacts what every watcher has seen, now and then."""

    def step(self):
        # Some history is kept for the reads of the past.
        revision = min(w.next for w in self.run_.watchers) - 300
        if revision <= self.run_.compacted:
            return
        # Raised first: from now on reads below may be refused, whatever the answer.
        self.run_.compacted = revision
        try:
            self.member().client.compact(revision, physical=self.chance.random() < 0.3, timeout=TIMEOUT)
        except grpc.RpcError:
            pass
