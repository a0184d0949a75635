"""Judges a recorded run: one true order of all writes, and everything that clients were told is explained by it.

The true order is what the watchers saw. It is replayed once, revision by revision; each operation is compared with the
model's answer on the state of its revision:

  writes    an acknowledged one stands at its revision exactly once and as asked; one of unknown fate at most once and
            whole; a failed one nowhere; and nothing stands there that nobody sent
  reads     give exactly the state of their header's revision (or of the past revision asked for)
  real time what began after somebody had been told revision R writes above R and reads at R or later
  watches   in order, without gap or duplicate, the same events with the same previous pairs for all watchers, filters
            and ranges as asked
  leases    a key never goes before its last acknowledged renewal began plus the TTL, and goes in time once all is calm
"""

from collections import defaultdict

import model
from clients import LEASED
from history import FAILED, OK, UNKNOWN
from wire import M

WRITES = ("KV.Put", "KV.DeleteRange", "KV.Txn")
#: Violations printed in full; a broken run breaks everything after it as well.
SHOWN = 12


class Judge:
    def __init__(self, run):
        self.run, self.history = run, run.history
        self.violations = list(run.history.violations)
        self.truth = {}
        self.notes = defaultdict(int)

    def fail(self, text):
        self.violations.append(text)

    def verdict(self):
        """All violations found, in the order of the checks."""
        self.collect()
        if not self.truth:
            self.fail("the watchers saw nothing")
            return self.violations
        self.attribute()
        self.replay()
        self.check_probes()
        self.check_leases()
        return self.violations

    # -----------------------------------------------------------------------------------------------------------

    def collect(self):
        """Makes the true order out of what the watchers saw."""
        for watcher in self.run.watchers:
            groups = defaultdict(list)
            for event in watcher.events:
                groups[event.kv.mod_revision].append(event)
            for revision, events in groups.items():
                known = self.truth.setdefault(revision, events)
                if [bare(e) for e in known] != [bare(e) for e in events]:
                    self.fail("watchers differ at revision %d: %s and, watcher %s, %s" % (
                        revision, known, watcher.name, events))
                # The fuller view is kept, so that previous pairs are checked too.
                if watcher.prev_kv:
                    self.truth[revision] = events
        for watcher in self.run.watchers:
            missing = set(self.truth) - {e.kv.mod_revision for e in watcher.events}
            if missing:
                self.fail("watcher %s never saw %d revisions, such as %s" % (
                    watcher.name, len(missing), sorted(missing)[:10]))
        if self.truth:
            self.last = max(self.truth)
            gaps = set(range(2, self.last)) - set(self.truth)
            if gaps:
                self.fail("no watcher saw the revisions %s" % sorted(gaps)[:10])

    def attribute(self):
        """Finds who wrote each revision."""
        self.writer, tokens = {}, {}
        for operation in self.history.operations:
            if operation.token is not None:
                tokens[operation.token] = operation
        for revision in sorted(self.truth):
            for event in self.truth[revision]:
                if event.type != 0:
                    continue
                operation = tokens.get(event.kv.value.partition(b"|")[0])
                if operation is None:
                    self.fail("revision %d holds a value that nobody wrote: %s" % (revision, event))
                elif operation.found not in (None, revision):
                    self.fail("applied twice, at %d and %d: %s" % (operation.found, revision, operation))
                elif operation.outcome == FAILED:
                    self.fail("found at %d, though refused: %s" % (revision, operation))
                elif operation.outcome == OK and operation.revision != revision:
                    self.fail("found at %d, though acknowledged with %d: %s" % (
                        revision, operation.revision, operation))
                else:
                    operation.found = revision
                    self.writer[revision] = operation
        doubtful = defaultdict(list)
        for operation in self.history.operations:
            if operation.method not in WRITES:
                continue
            if operation.outcome == OK and self.wrote(operation):
                revision = operation.revision
                if revision not in self.truth:
                    self.fail("lost: acknowledged at %d of %d, seen by no watcher: %s" % (revision, self.last, operation))
                elif self.writer.setdefault(revision, operation) is not operation:
                    self.fail("two writes acknowledged at %d: %s and %s" % (revision, self.writer[revision], operation))
                operation.found = revision
            elif operation.outcome == UNKNOWN and operation.method == "KV.DeleteRange":
                doubtful[operation.request.key].append(operation)
        for revision in sorted(set(self.truth) - set(self.writer)):
            events = self.truth[revision]
            if all(e.type == 1 and e.kv.key.startswith(LEASED) for e in events):
                self.notes["leases ended"] += 1
                continue
            key = events[0].kv.key
            able = [o for o in doubtful[key] if o.floor < revision and o.found is None]
            if len(events) == 1 and events[0].type == 1 and able:
                able[0].found = revision
                self.writer[revision] = able[0]
            else:
                self.fail("revision %d was written by nobody: %s" % (revision, events))

    @staticmethod
    def wrote(operation):
        """Whether an acknowledged operation says that it changed something."""
        if operation.method == "KV.DeleteRange":
            return operation.reply.deleted > 0
        if operation.method == "KV.Txn":
            branch = operation.request.success if operation.reply.succeeded else operation.request.failure
            return any(op.WhichOneof("request") == "request_put" for op in branch)
        return True

    # -----------------------------------------------------------------------------------------------------------

    def replay(self):
        reads = defaultdict(list)
        for operation in self.history.operations:
            if operation.outcome != OK:
                self.check_refusal(operation)
                continue
            if operation.method in WRITES and self.wrote(operation):
                continue
            if operation.revision > self.last:
                self.fail("revision %d of %d was never written: %s" % (operation.revision, self.last, operation))
                continue
            if operation.revision < operation.floor and not operation.serializable:
                self.fail("stale: answered at revision %d: %s" % (operation.revision, operation))
            past = operation.request.revision if operation.method == "KV.Range" else 0
            reads[past or operation.revision].append(operation)
        state = {}
        self.read(reads.pop(1, []), state, 1)
        for revision in range(2, self.last + 1):
            events = self.truth.get(revision)
            if events is None:
                continue
            operation = self.writer.get(revision)
            if operation is not None:
                self.write(operation, state, revision, events)
            for event in events:
                previous = state.get(event.kv.key)
                if event.HasField("prev_kv") and (previous is None or event.prev_kv != previous):
                    self.fail("at %d the previous pair is %s, told was %s" % (revision, previous, event))
                if event.type == 1:
                    if state.pop(event.kv.key, None) is None:
                        self.fail("at %d a key was deleted that was not there: %s" % (revision, event))
                else:
                    state[event.kv.key] = event.kv
            self.read(reads.pop(revision, []), state, revision)
        for revision, operations in reads.items():
            self.fail("read at a revision that is not in the history: %s" % operations[0])
        self.state = state

    def write(self, operation, state, revision, events):
        self.notes["writes judged"] += 1
        if revision <= operation.floor:
            self.fail("took effect at %d, but began after that was known: %s" % (revision, operation))
        reply, expected = model.run(operation.request, state, revision)
        if [bare(e) for e in events] != expected:
            self.fail("revision %d should hold %s and holds %s, by %s" % (revision, expected, events, operation))
        elif operation.outcome == OK:
            told = model.without_headers(operation.reply)
            if told != model.without_headers(reply):
                self.fail("revision %d should have been answered with %s: %s" % (revision, reply, operation))

    def read(self, operations, state, revision):
        for operation in operations:
            self.notes["reads judged"] += 1
            reply, events = model.run(operation.request, state, revision)
            if events:
                self.fail("changed nothing, yet should have written: %s" % operation)
            elif model.without_headers(operation.reply) != model.without_headers(reply):
                self.fail("the state of revision %d gives {%s}: %s" % (
                    revision, " ".join(str(reply).split()), operation))

    def check_refusal(self, operation):
        asked = operation.request.revision if operation.method == "KV.Range" else 0
        if "has been compacted" in (operation.error or "") and asked > self.run.compacted:
            self.fail("refused as compacted, which nobody asked for: %s" % operation)

    # -----------------------------------------------------------------------------------------------------------

    def check_probes(self):
        """What short watches got is a gapless piece of the truth from their start revision on."""
        for member, start, key, range_end, filters, events, prev_kv in self.run.probes:
            self.notes["probe events judged"] += len(events)
            if not events:
                continue
            upto = events[-1].kv.mod_revision
            expected = [
                bare(e) for r in range(start, upto + 1) for e in self.truth.get(r, ())
                if (e.kv.key == key or (range_end and key <= e.kv.key < range_end)) and e.type not in filters]
            if [bare(e) for e in events] != expected:
                self.fail("a watch at %s on %r from %d, filters %s, got %s instead of %s" % (
                    member, key, start, filters, brief(events), brief(expected)))
            for event in events:
                whole = next((e for e in self.truth.get(event.kv.mod_revision, ()) if e.kv.key == event.kv.key), None)
                if whole is not None and event.HasField("prev_kv") and whole.HasField("prev_kv") \
                        and event.prev_kv != whole.prev_kv:
                    self.fail("a watch at %s was told another previous pair: %s" % (member, event))

    def check_leases(self):
        gone = {}
        for revision, events in self.truth.items():
            for event in events:
                if event.type == 1 and event.kv.key.startswith(LEASED):
                    gone[event.kv.key] = self.run.seen_at[revision], revision
        written = {e.kv.key for events in self.truth.values() for e in events if e.type == 0}
        for lease in self.run.leases:
            deadline, promise = lease.lives_until()
            ends = [(at, "its key was deleted at revision %d" % revision) for at, revision in
                    [gone[lease.key]] if lease.key in gone] if lease.key in gone else []
            ends += [(at, "%s said: %s" % (member, what)) for at, member, what in lease.denials]
            for at, what in ends:
                if at < deadline and not (lease.revoked is not None and lease.revoked <= at):
                    self.fail("lease %x with TTL %d was promised until %.3f s (renewal sent %.3f, acknowledged %.3f by %s) "
                              "and ended at %.3f: %s" % (lease.ID, lease.ttl, deadline, *promise[:3], at, what))
            if lease.key in written:
                self.notes["leases judged"] += 1
                self.check_end(lease, gone)

    def check_end(self, lease, gone):
        """A lease ends within its TTL and some grace after its last renewal or the last disturbance before that."""
        due = lease.last_sent() + lease.ttl + self.run.LEASE_GRACE
        for start, end in self.run.disturbances:
            # While something was wrong, and after a change of leader, the time starts anew.
            if start < due:
                due = max(due, end + lease.ttl + self.run.LEASE_GRACE)
        at = gone[lease.key][0] if lease.key in gone else None
        if at is None and due < self.run.finished or at is not None and at > due:
            self.fail("lease %x with TTL %d, last renewed at %.3f s, should have ended by %.3f and did %s" % (
                lease.ID, lease.ttl, lease.last_sent(), due, "at %.3f" % at if at is not None else "not at all"))


def bare(event):
    """An event without its previous pair."""
    if not event.HasField("prev_kv"):
        return event
    copy = M.Event()
    copy.CopyFrom(event)
    copy.ClearField("prev_kv")
    return copy


def brief(events):
    shown = ["%s %s@%d" % ("-" if e.type else "+", e.kv.key.decode(), e.kv.mod_revision) for e in events]
    return shown if len(shown) <= 8 else shown[:4] + ["… %d …" % (len(shown) - 8)] + shown[-4:]
