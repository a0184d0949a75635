"""Streams for the differential test: what both servers' watchers say, told apart by watcher and comparable at any time."""

import itertools
import queue
import threading
import time
from dataclasses import dataclass, field

import grpc

from differential_requests import INT64_MAX, INT64_MIN, Request
from wire import METHODS, M


class Difference(AssertionError):
    """The servers answered one request differently."""


@dataclass
class Answer:
    code: str
    text: str
    body: bytes = b""

    def __str__(self):
        return "%s %r" % (self.code, self.text) if self.code != "OK" else "OK"


class RawStream:
    """A bidirectional stream of bytes whose answers are read into a list."""

    def __init__(self, side, method):
        self._requests = queue.Queue()
        self.answers, self.end = [], None
        #: On a watch stream, by watcher the last revision told.
        self.reached = {}
        #: On a watch stream, how many creations have been answered.
        self.created = 0
        make = side.client.channel.stream_stream(METHODS[method].path, request_serializer=None,
                                                 response_deserializer=None)
        self.watches = method == "Watch.Watch"
        self.call = make(iter(self._requests.get, None), timeout=120)
        threading.Thread(target=self._pump, daemon=True).start()

    def send(self, payload):
        self._requests.put(payload)

    def half_close(self):
        self._requests.put(None)

    def _pump(self):
        try:
            for body in self.call:
                self.answers.append(body)
                if self.watches:
                    reply = M.WatchResponse.FromString(body)
                    self.created += reply.created
                    for event in reply.events[-1:]:
                        self.reached[reply.watch_id] = event.kv.mod_revision
            self.end = Answer("OK", "")
        except grpc.RpcError as error:
            self.end = Answer(error.code().name, error.details())

    def close(self):
        self.call.cancel()
        self._requests.put(None)


@dataclass
class Told:
    """What a watch stream has said: its control answers in order, and by watcher the events in order."""

    control: list = field(default_factory=list)
    events: dict = field(default_factory=dict)
    #: Violations that one side shows by itself.
    problems: list = field(default_factory=list)

    @classmethod
    def of(cls, bodies):
        told, last, unfinished = cls(), {}, set()
        for body in bodies:
            reply = M.WatchResponse.FromString(body)
            if reply.SerializeToString() != body:
                told.problems.append("unusual encoding: %s" % body.hex())
            watcher = reply.watch_id
            events = told.events.setdefault(watcher, [])
            if reply.created:
                last.pop(watcher, None)
            if reply.compact_revision:
                events.append(("compacted", reply.compact_revision, reply.canceled, reply.cancel_reason,
                               reply.header.revision))
            elif reply.created or reply.canceled or not reply.events:
                told.control.append((watcher, reply.created, reply.canceled, reply.cancel_reason, reply.header.revision))
            for event in reply.events:
                events.append(event.SerializeToString())
            if reply.events:
                first, final = reply.events[0].kv.mod_revision, reply.events[-1].kv.mod_revision
                if first < last.get(watcher, 0) or first == last.get(watcher) and watcher not in unfinished:
                    told.problems.append("watcher %d: revision %d comes again in another reply" % (watcher, first))
                if reply.header.revision < final:
                    told.problems.append("watcher %d: header %d, event %d" % (watcher, reply.header.revision, final))
                last[watcher] = final
                (unfinished.add if reply.fragment else unfinished.discard)(watcher)
        return told

    def __eq__(self, other):
        return self.control == other.control and self.events == other.events

    def is_open(self, watcher):
        """Whether a watcher beyond the first sentinel has not been cancelled yet."""
        return watcher > FIRST_SENTINEL and not any(c[0] == watcher and c[2] for c in self.control)


#: Its events show how far a watch stream has told what happened.
SENTINEL = Request("KV.Put", M.PutRequest(key=b"~sentinel"))
FIRST_SENTINEL = 1000


class Watches:
    """One watch stream on each side, asked the same."""

    def __init__(self, pair, generator):
        self.pair, self.generator = pair, generator
        self.streams = [RawStream(side, "Watch.Watch") for side in pair.sides]
        self.sent, self.created, self.creations, self.sentinels = [], 0, 0, FIRST_SENTINEL
        self.send(self.sentinel(self.sentinels))
        self.settle()

    def send(self, *requests):
        for request in requests:
            self.sent.append(request)
            self.created += request.HasField("create_request")
            self.pair.asked["Watch"] += 1
            for stream in self.streams:
                stream.send(request.SerializeToString())
        # Answers to creations come in order, so a creation that must fail shows that all before it has been done.
        barrier = self.sentinel(FIRST_SENTINEL)
        self.creations += 1 + sum(request.HasField("create_request") for request in requests)
        for stream in self.streams:
            stream.send(barrier.SerializeToString())
        deadline = time.monotonic() + 5
        while any(stream.created < self.creations for stream in self.streams):
            if time.monotonic() > deadline:
                self.complain(*(Told.of(list(stream.answers)) for stream in self.streams))
            time.sleep(0.001)

    def sentinel(self, watch_id, start=0):
        return M.WatchRequest(create_request=M.WatchCreateRequest(
            key=SENTINEL.message.key, start_revision=start, watch_id=watch_id))

    def create(self):
        generator, pair = self.generator, self.pair
        key = generator.key()
        now = pair.revision
        # Not the compacted revision itself (3.5.1 loses deletions there), not negative (3.5.1 replays from the start).
        start = 0 if generator.chance(0.5) else generator.pick(
            now, now + 1, pair.compacted + 1, max(1, pair.compacted - 1), 1, generator.random.randint(1, now + 1))
        if start == pair.compacted:
            start += 1
        return M.WatchRequest(create_request=M.WatchCreateRequest(
            key=key, range_end=generator.range_end(key), start_revision=start, prev_kv=generator.chance(0.5),
            filters=generator.random.choice([[], [], [], [0], [1], [0, 1], [7], [1, 1]]),
            watch_id=generator.pick(0, 0, 0, 1, 5, -7, 5, INT64_MAX), fragment=generator.chance(0.2),
            progress_notify=generator.chance(0.2)))

    def cancel(self):
        generator = self.generator
        return M.WatchRequest(cancel_request=M.WatchCancelRequest(
            watch_id=generator.pick(0, 1, 2, 3, 5, -7, 404, INT64_MIN)))

    def settle(self, timeout=4):
        """Waits until both have told everything, which the sentinels' events show, and compares it."""
        deadline = time.monotonic() + timeout
        self.pair.ask(SENTINEL)
        if self.created:
            # Behind the new watchers: etcd reads history for all of them in one pass, every 100 ms.
            self.created, self.sentinels = 0, self.sentinels + 1
            self.send(self.sentinel(self.sentinels, start=self.pair.revision))
            self.wait(self.sentinels, deadline)
            self.send(M.WatchRequest(cancel_request=M.WatchCancelRequest(watch_id=self.sentinels)))
            self.created = 0
        self.wait(FIRST_SENTINEL, deadline)
        while True:
            etcd, moonraft = (Told.of(list(stream.answers)) for stream in self.streams)
            if etcd == moonraft and not etcd.is_open(self.sentinels):
                break
            if time.monotonic() > deadline or any(stream.end for stream in self.streams):
                self.complain(etcd, moonraft)
            time.sleep(0.003)
        if moonraft.problems:
            raise Difference("moonraft's watch stream: %s" % moonraft.problems[0])

    def wait(self, watcher, deadline):
        """Until both streams have told the watcher the present revision."""
        while time.monotonic() < deadline and not all(
                stream.reached.get(watcher, 0) >= self.pair.revision for stream in self.streams):
            time.sleep(0.002)

    def complain(self, etcd, moonraft):
        lines = ["watch streams differ at revision %d, compacted %d" % (self.pair.revision, self.pair.compacted)]
        lines += ["asked: %s" % " ".join(str(request).split()) for request in self.sent[-12:]]
        for at, (left, right) in enumerate(itertools.zip_longest(etcd.control, moonraft.control)):
            if left != right:
                lines.append("control answer %d: etcd %s, moonraft %s" % (at, left, right))
                break
        for watcher in sorted(set(etcd.events) | set(moonraft.events)):
            sides = [told.events.get(watcher, []) for told in (etcd, moonraft)]
            if sides[0] != sides[1]:
                lines.append("watcher %d:" % watcher)
                for name, events in zip(("etcd", "moonraft"), sides):
                    lines.append(" %s (%d): %s" % (name, len(events), [brief(e) for e in events][:40]))
        lines += ["%s ended: %s" % (side.name, stream.end) for side, stream in zip(self.pair.sides, self.streams)]
        raise Difference("\n".join(lines))

    def close(self):
        for stream in self.streams:
            stream.close()


def brief(event):
    if isinstance(event, tuple):
        return event
    parsed_event = M.Event.FromString(event)
    return (("PUT", "DELETE")[parsed_event.type], parsed_event.kv.key, parsed_event.kv.value[:20],
            parsed_event.kv.mod_revision, parsed_event.prev_kv.mod_revision)
