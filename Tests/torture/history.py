"""What clients saw: every operation with the time it began and ended, and what became of it.

The floor is the highest revision that anybody had been told when an operation began. Real time then has a simple form:
an operation must take effect at a revision above its floor when it writes, and at or above it when it reads.
"""

import threading
import time

import grpc

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"
#: Texts with which a server says that it did not even propose the request.
_NOT_PROPOSED = ("etcdserver: no leader", "etcdserver: too many requests", "etcdserver: not capable",
                 "etcdserver: rpc not supported for learner", "etcdserver: requested lease not found",
                 "etcdserver: mvcc: required revision has been compacted",
                 "etcdserver: mvcc: required revision is a future revision")


class Operation:
    """One call: what was asked of whom, when, and the answer. `found` is the revision the judge found it at."""

    __slots__ = ("method", "request", "client", "member", "start", "end", "floor", "outcome", "reply", "error",
                 "token", "found", "serializable")

    @property
    def revision(self):
        return self.reply.header.revision if self.reply is not None else None

    def __str__(self):
        text = "%s by client %s at %s, %.3f–%.3f s, floor %d: %s" % (
            self.method, self.client, self.member, self.start, self.end, self.floor, self.outcome)
        text += " %s" % self.error if self.error else " revision %s" % self.revision
        return text + "\n    asked {%s}\n    told  {%s}" % (
            " ".join(str(self.request).split()), " ".join(str(self.reply).split()))


class History:
    """The recorder that all clients of one run share."""

    def __init__(self):
        self.lock, self.began = threading.Lock(), time.monotonic()
        self.operations, self.floor, self.serial = [], 1, 0
        self.violations = []
        #: Outcomes by (method, outcome or error text), for the summary.
        self.tally = {}

    def now(self):
        return time.monotonic() - self.began

    def token(self):
        """A value that no other write of the run carries."""
        with self.lock:
            self.serial += 1
            return b"t%d" % self.serial

    def observe(self, revision):
        """Somebody was told this revision."""
        with self.lock:
            self.floor = max(self.floor, revision)

    def violation(self, text):
        with self.lock:
            self.violations.append("%.3f s: %s" % (self.now(), text))

    def perform(self, client, member, method, request, timeout, token=None):
        """Makes one call and records it; returns the operation."""
        operation = Operation()
        operation.method, operation.request, operation.client, operation.member = method, request, client, member.name
        operation.token, operation.found, operation.error, operation.reply = token, None, None, None
        operation.serializable = method == "KV.Range" and request.serializable
        operation.floor, operation.start = self.floor, self.now()
        try:
            operation.reply = member.client.send(method, request, timeout=timeout)
            operation.outcome = OK
        except grpc.RpcError as error:
            operation.error = "%s %s" % (error.code().name, error.details())
            operation.outcome = FAILED if never_proposed(error) else UNKNOWN
        operation.end = self.now()
        if operation.outcome == OK:
            self.observe(operation.revision)
        with self.lock:
            self.operations.append(operation)
            key = (method, operation.error.split("; RPC")[0][:70] if operation.error else OK)
            self.tally[key] = self.tally.get(key, 0) + 1
        return operation


def never_proposed(error):
    """Whether a failed call certainly had no effect; anything else may have had one."""
    text = error.details() or ""
    if text in _NOT_PROPOSED:
        return True
    return error.code() == grpc.StatusCode.UNAVAILABLE and "Connection refused" in text
