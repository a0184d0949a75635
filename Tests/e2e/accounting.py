"""Writers that remember what they were told, and the comparison of that with a server's whole history.

Each writer owns its keys and writes one operation at a time, so its own view is exact: an operation was acknowledged
with a revision, or its fate is unknown because the server died. The judge then takes the complete sequence of events
and demands that every acknowledged operation stands there once at its revision, that unknown ones stand there at most
once and whole, and that nothing else does.
"""

import random
import threading
from collections import Counter

import grpc

from harness import Client, put_op


class Operation:
    """One write: what it does to which keys, and what became of it (`revision` None: unknown)."""

    def __init__(self, kind, token, keys):
        self.kind, self.token, self.keys = kind, token, keys
        self.revision = None
        self.floor = 0


class Writer(threading.Thread):
    """Puts, deletes and two-key transactions on keys of its own until told to stop or the server is gone."""

    KEYS = 12

    def __init__(self, address, prefix, number, seed):
        super().__init__(daemon=True)
        self.address, self.prefix, self.number = address, prefix + b"w%d/" % number, number
        self.random = random.Random(seed)
        self.operations, self.stopping, self.serial = [], threading.Event(), 0
        self.lease = 0
        self.unexpected = None
        #: The codes with which calls failed; the caller decides which are fine.
        self.failures = Counter()

    def key(self):
        return self.prefix + b"%d" % self.random.randrange(self.KEYS)

    def run(self):
        with Client(self.address) as client:
            while not self.stopping.is_set():
                if not self.step(client):
                    return

    def step(self, client):
        self.serial += 1
        token = b"%d-%d-%s" % (self.number, self.serial, b"x" * self.random.choice((0, 10, 300)))
        roll = self.random.random()
        floor = max((o.revision or 0 for o in self.operations[-1:]), default=0)
        if roll < 0.70:
            operation = Operation("put", token, [self.key()])
        elif roll < 0.85:
            operation = Operation("delete", None, [self.key()])
        else:
            first, second = self.random.sample(range(self.KEYS), 2)
            operation = Operation("txn", token, [self.prefix + b"%d" % first, self.prefix + b"%d" % second])
        operation.floor = floor
        self.operations.append(operation)
        try:
            if operation.kind == "put":
                reply = client.put(operation.keys[0], token, lease=self.lease, timeout=5)
            elif operation.kind == "delete":
                reply = client.delete(operation.keys[0], timeout=5)
                if not reply.deleted:
                    self.operations.pop()
                    return True
            else:
                reply = client.txn(success=[put_op(key, token) for key in operation.keys], timeout=5)
            operation.revision = reply.header.revision
            return True
        except grpc.RpcError as error:
            self.failures[error.code().name] += 1
            return False
        except Exception as error:
            self.unexpected = error
            return False


class Follower(threading.Thread):
    """A watcher that resumes after its last event whenever its stream breaks, as clients do."""

    def __init__(self, address, prefix, end):
        super().__init__(daemon=True)
        self.address, self.range = address, (prefix, end)
        self.events, self.next_revision, self.stopping, self.problem = [], 1, threading.Event(), None
        self.resumed = 0

    def run(self):
        while not self.stopping.is_set() and self.problem is None:
            try:
                with Client(self.address) as client, client.watch(lazy=True, timeout=None) as stream:
                    self.stream = stream
                    stream.create(*self.range, start_revision=self.next_revision)
                    for reply in stream.call:
                        if reply.canceled:
                            self.problem = "cancelled: %s" % reply
                            return
                        self.take(reply)
                        if self.stopping.is_set():
                            return
            except grpc.RpcError:
                self.resumed += 1
                self.stopping.wait(0.05)

    def take(self, reply):
        for event in reply.events:
            if event.kv.mod_revision < self.next_revision:
                self.problem = "revision %d after %d" % (event.kv.mod_revision, self.next_revision - 1)
            self.events.append(event)
        if reply.events:
            self.next_revision = reply.events[-1].kv.mod_revision + 1

    def stop(self):
        self.stopping.set()
        self.stream.close()
        self.join(5)


def judge(operations, events):
    """Compares what writers were told with the events of the whole history; raises AssertionError on a difference."""
    by_revision = {}
    for event in events:
        by_revision.setdefault(event.kv.mod_revision, []).append(event)
    revisions = list(by_revision)
    assert revisions == sorted(revisions), "history is out of order"

    pending_deletes = {}
    by_token = {}
    for operation in operations:
        if operation.revision is None and operation.kind == "delete":
            pending_deletes.setdefault(operation.keys[0], []).append(operation)
        if operation.token is not None:
            assert operation.token not in by_token
            by_token[operation.token] = operation
        if operation.revision is not None:
            assert operation.revision > operation.floor, "an acknowledged revision moved back"
            found = by_revision.get(operation.revision)
            assert found, "lost: %s of %s was acknowledged at revision %d" % (
                operation.kind, operation.keys, operation.revision)
            expected = {(1 if operation.kind == "delete" else 0, key, operation.token or b"") for key in operation.keys}
            assert {(e.type, e.kv.key, e.kv.value) for e in found} == expected, (operation.__dict__, found)

    acknowledged = {o.revision for o in operations if o.revision is not None}
    seen_tokens = set()
    for revision, group in by_revision.items():
        first = group[0]
        if first.type == 1:
            assert len(group) == 1
            if revision not in acknowledged:
                assert pending_deletes.get(first.kv.key), "a delete that nobody sent at %d" % revision
                pending_deletes[first.kv.key].pop()
            continue
        operation = by_token.get(first.kv.value)
        assert operation, "a value that nobody wrote at %d: %r" % (revision, first.kv.value)
        assert first.kv.value not in seen_tokens, "applied twice: %r at %d" % (first.kv.value, revision)
        seen_tokens.add(first.kv.value)
        assert sorted(e.kv.key for e in group) == sorted(operation.keys), "half a transaction at %d" % revision

    state = {}
    for event in events:
        key, kv = event.kv.key, event.kv
        if event.type == 1:
            assert key in state, "a delete of nothing at %d" % kv.mod_revision
            del state[key]
            continue
        previous = state.get(key)
        expected = (previous.version + 1, previous.create_revision) if previous else (1, kv.mod_revision)
        assert (kv.version, kv.create_revision) == expected, "version broken at %d: %s" % (kv.mod_revision, kv)
        state[key] = kv
    return state
