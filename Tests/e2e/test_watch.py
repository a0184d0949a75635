"""A watch is ordered, complete, atomic per revision and resumable, and its stream answers each request as etcd does.

Method: raw bidirectional streams against one member; every reply is checked, silence included.
"""

import threading
import time

import pytest

from harness import DELETE, IS_ETCD, METHODS, PUT, M, brief, delete_op, prefix_end, put_op, txn_op

FLAGS = ["--%swatch-progress-notify-interval" % ("experimental-" if IS_ETCD else ""), "300ms"]
NOPUT, NODELETE = 0, 1
COMPACTED = "etcdserver: mvcc: required revision has been compacted"


# -- Creating and cancelling


def test_create_reply_and_ids_from_zero(client, watch, prefix):
    now = client.put(prefix, b"v").header.revision
    for expected in range(3):
        reply = watch.open(prefix)
        assert (reply.watch_id, reply.canceled, len(reply.events)) == (expected, False, 0)
        assert reply.header.revision == now and reply.header.cluster_id and reply.header.member_id


def test_client_chosen_ids(client, watch, prefix):
    assert watch.open(prefix, watch_id=7).watch_id == 7
    assert watch.open(prefix, watch_id=1).watch_id == 1
    assert watch.open(prefix, watch_id=-7).watch_id == -7
    # The server's own numbers go round those that are taken.
    assert [watch.open(prefix).watch_id for _ in range(3)] == [0, 2, 3]
    reply = watch.open(prefix, watch_id=7)
    assert (reply.watch_id, reply.canceled) == (-1, True)
    assert reply.cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"
    # The stream and the first holder of the id go on.
    client.put(prefix, b"v")
    assert {watch.next().watch_id for _ in range(6)} == {7, 1, -7, 0, 2, 3}


def test_ids_may_be_used_again_after_a_cancel(watch, client, prefix):
    watch.open(prefix, watch_id=9)
    watch.cancel(9)
    assert watch.next().canceled
    reply = watch.open(prefix, watch_id=9)
    assert (reply.watch_id, reply.canceled) == (9, False)


def test_cancel_answers_and_stops_only_that_watcher(client, watch, prefix):
    first, second = watch.open(prefix).watch_id, watch.open(prefix).watch_id
    watch.cancel(first)
    reply = watch.next()
    assert (reply.watch_id, reply.canceled, reply.created, reply.compact_revision) == (first, True, False, 0)
    assert reply.header.revision == client.revision()
    client.put(prefix, b"v")
    assert watch.next().watch_id == second
    watch.silent()


def test_unknown_cancels_and_empty_requests_are_ignored(client, watch, prefix):
    watch.cancel(12345)
    watch._requests.put(M.WatchRequest())
    watch.open(prefix)
    watch.cancel(-1)
    client.put(prefix, b"v")
    assert watch.next().events[0].kv.value == b"v"


def test_a_request_is_the_last_member_of_its_oneof(client, prefix):
    """A create with a cancel behind it in the same message is a cancel, of nobody; so the second create gets id 0."""
    create = M.WatchRequest(create_request=M.WatchCreateRequest(key=prefix))
    cancel = M.WatchRequest(cancel_request=M.WatchCancelRequest(watch_id=0))
    messages = [create.SerializeToString() + cancel.SerializeToString(), cancel.SerializeToString() + create.SerializeToString()]
    call = client.channel.stream_stream(METHODS["Watch.Watch"].path, response_deserializer=M.WatchResponse.FromString)
    replies = call(iter(messages), timeout=10)
    first = next(replies)
    client.put(prefix, b"v")
    second = next(replies)
    replies.cancel()
    assert (first.watch_id, first.created, first.canceled) == (0, True, False)
    assert [event.kv.value for event in second.events] == [b"v"]


@pytest.mark.parametrize("key, end", [(b"b", b"a"), (b"b", b"b")])
def test_empty_range_is_created_and_cancelled(watch, client, prefix, key, end):
    reply = watch.open(prefix + key, prefix + end)
    assert (reply.watch_id, reply.canceled, reply.cancel_reason) == (-1, True, "mvcc: watcher range is empty")
    assert not watch.open(prefix).canceled


@pytest.mark.differs_on_351("3.5.1 takes a negative start for history from the beginning")
def test_negative_start_revision(client, watch, prefix):
    reply = watch.open(prefix, start_revision=-1)
    assert (reply.watch_id, reply.canceled) == (-1, True)
    assert reply.cancel_reason == COMPACTED


def test_half_closed_stream_goes_on_delivering(client, watch, prefix):
    watch.open(prefix)
    watch.half_close()
    time.sleep(0.05)
    client.put(prefix, b"v")
    assert [e.kv.value for e in watch.events(1)] == [b"v"]


def test_stream_deadline(client, prefix):
    with client.watch(timeout=0.5) as stream:
        stream.open(prefix)
        code, _ = stream.ended()
        assert code == "DEADLINE_EXCEEDED" or IS_ETCD, code   # etcd answers Unknown when its own timer is first


# -- Events


def test_put_and_delete_events_carry_exact_pairs(client, watch, prefix):
    lease = client.grant(60).ID
    watch.open(prefix)
    r1 = client.put(prefix, b"a", lease=lease).header.revision
    r2 = client.put(prefix, b"b").header.revision
    r3 = client.delete(prefix).header.revision
    r4 = client.put(prefix, b"").header.revision
    events = watch.events(4)
    assert events == [
        M.Event(type=PUT, kv=M.KeyValue(key=prefix, value=b"a", create_revision=r1, mod_revision=r1, version=1,
                                        lease=lease)),
        M.Event(type=PUT, kv=M.KeyValue(key=prefix, value=b"b", create_revision=r1, mod_revision=r2, version=2)),
        M.Event(type=DELETE, kv=M.KeyValue(key=prefix, mod_revision=r3)),
        M.Event(type=PUT, kv=M.KeyValue(key=prefix, create_revision=r4, mod_revision=r4, version=1)),
    ]


def test_reply_header_is_at_least_at_the_event(client, watch, prefix):
    watch_id = watch.open(prefix).watch_id
    revision = client.put(prefix, b"a").header.revision
    reply = watch.next()
    assert (reply.watch_id, reply.created, reply.canceled, reply.fragment) == (watch_id, False, False, False)
    assert reply.header.revision >= revision and reply.header.cluster_id


def test_what_a_watcher_sees(client, prefix):
    """One key, an interval, a prefix, from a key on, everything, and the empty key that means everything."""
    shapes = {
        "one": (prefix + b"b", b""), "interval": (prefix + b"b", prefix + b"d"), "prefix": (prefix, prefix_end(prefix)),
        "from": (prefix + b"c", b"\x00"), "all": (b"\x00", b"\x00"), "empty": (b"", b"\x00"), "other": (b"zzz", b""),
    }
    expected = {"one": b"b", "interval": b"bc", "prefix": b"abcd", "from": b"cd", "all": b"abcd", "empty": b"abcd",
                "other": b""}
    streams = {}
    for name, (key, end) in shapes.items():
        streams[name] = client.watch()
        streams[name].open(key, end)
    for letter in b"abcd":
        client.put(prefix + bytes([letter]), b"")
    for name, stream in streams.items():
        letters = bytes(event.kv.key[-1] for event in stream.events(len(expected[name])))
        assert letters == expected[name], name
        stream.silent(0.05)
        stream.close()


def test_filters(client, prefix):
    cases = {(NOPUT,): ["DELETE"], (NODELETE,): ["PUT", "PUT"], (NOPUT, NODELETE): [], (): ["PUT", "PUT", "DELETE"],
             (NOPUT, NOPUT): ["DELETE"]}
    streams = {}
    for filters in cases:
        streams[filters] = client.watch()
        streams[filters].open(prefix, filters=list(filters))
    client.put(prefix, b"a")
    client.put(prefix, b"b")
    client.delete(prefix)
    for filters, expected in cases.items():
        assert [brief(e)[0] for e in streams[filters].events(len(expected))] == expected
        streams[filters].silent(0.05)
        streams[filters].close()


def test_filters_on_history(client, watch, prefix):
    start = client.put(prefix, b"a").header.revision
    client.delete(prefix)
    client.put(prefix, b"b")
    watch.open(prefix, start_revision=start, filters=[NOPUT])
    assert [brief(e)[0] for e in watch.events(1)] == ["DELETE"]
    watch.silent(0.2)


def test_prev_kv(client, watch, prefix):
    start = client.put(prefix, b"a").header.revision
    first = client.get(prefix)
    client.put(prefix, b"b")
    second = client.get(prefix)
    client.delete(prefix)
    client.put(prefix, b"c")
    watch.open(prefix, start_revision=start, prev_kv=True)
    events = watch.events(4)
    assert not events[0].HasField("prev_kv") and not events[3].HasField("prev_kv")
    assert (events[1].prev_kv, events[2].prev_kv) == (first, second)
    third = client.get(prefix)
    client.delete(prefix)
    assert watch.events(1)[0].prev_kv == third


def test_prev_kv_that_was_compacted_is_silently_absent(client, watch, prefix):
    client.put(prefix, b"a")
    second = client.put(prefix, b"b").header.revision
    client.compact(second, physical=True)
    watch.open(prefix, start_revision=second, prev_kv=True)
    event, = watch.events(1)
    assert (event.kv.value, event.HasField("prev_kv")) == (b"b", False)


# -- Start revisions


def test_start_in_the_past_present_and_future(client, prefix):
    revisions = [client.put(prefix, b"%d" % n).header.revision for n in range(5)]
    now = revisions[-1]
    starts = {revisions[0]: 0, revisions[2]: 2, now: 4, now + 1: 5, now + 2: 6, 0: 5}
    streams = {}
    for start in starts:
        streams[start] = client.watch()
        streams[start].open(prefix, start_revision=start)
    for number in range(5, 8):
        client.put(prefix, b"%d" % number)
    for start, first in starts.items():
        assert [e.kv.value for e in streams[start].events(8 - first)] == [b"%d" % n for n in range(first, 8)], start
        streams[start].close()


def test_history_then_live_events_without_gap_or_duplicate(client, server, prefix):
    """etcd 17247: watchers that join at random moments of a running load all see the same unbroken sequence."""
    start = client.put(prefix, b"0").header.revision
    total = 600

    def write():
        with server.client() as writer:
            for number in range(1, total):
                writer.put(prefix, b"%d" % number)
    thread = threading.Thread(target=write)
    thread.start()
    streams = []
    for number in range(10):
        stream = client.watch()
        stream.open(prefix, start_revision=start + (number * 7) % 20)
        streams.append((stream, (number * 7) % 20))
        time.sleep(0.02)
    thread.join()
    for stream, skipped in streams:
        got = [int(e.kv.value) for e in stream.events(total - skipped)]
        assert got == list(range(skipped, total))
        stream.silent(0.02)
        stream.close()


def test_future_start_sees_nothing_older(client, watch, prefix):
    """etcd 20221."""
    now = client.revision()
    watch.open(prefix, start_revision=now + 4)
    client.put(prefix, b"1")
    client.delete(prefix)
    client.put(prefix, b"3")
    watch.silent(0.3)
    client.put(prefix, b"4")
    assert [e.kv.value for e in watch.events(1)] == [b"4"]


def test_compacted_start_is_cancelled_with_the_compact_revision(client, watch, prefix):
    first = client.put(prefix, b"1").header.revision
    second = client.put(prefix, b"2").header.revision
    client.compact(second)
    reply = watch.open(prefix, start_revision=first)
    watch_id = reply.watch_id
    assert not reply.canceled
    reply = watch.next()
    assert (reply.watch_id, reply.canceled, reply.created) == (watch_id, True, False)
    assert reply.compact_revision == second and not reply.events
    # The stream lives, and the compacted revision itself may be watched from.
    watch.open(prefix, start_revision=second)
    assert [e.kv.value for e in watch.events(1)] == [b"2"]


def test_the_id_of_a_compacted_watcher_is_taken_until_it_is_cancelled(client, watch, prefix):
    first = client.put(prefix, b"1").header.revision
    client.put(prefix, b"2")
    client.compact(client.revision())
    watch.open(prefix, start_revision=first, watch_id=7)
    assert watch.next().compact_revision
    assert watch.open(prefix, watch_id=7).cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"
    watch.cancel(7)
    reply = watch.next()
    assert (reply.watch_id, reply.canceled, reply.compact_revision) == (7, True, 0)
    assert watch.open(prefix, watch_id=7).watch_id == 7


@pytest.mark.differs_on_351("a delete at the compacted revision is lost before 3.5.16", run=False)
def test_delete_at_the_compacted_revision_is_still_seen(client, prefix):
    """etcd 18089, 19179."""
    client.put(prefix, b"1")
    deleted = client.delete(prefix).header.revision
    client.put(prefix + b"2", b"")
    client.compact(deleted, physical=True)
    with client.watch() as stream:
        stream.open(prefix, prefix_end(prefix), start_revision=deleted)
        assert [brief(e)[0] for e in stream.events(2)] == ["DELETE", "PUT"]
    with client.watch() as stream:
        stream.open(prefix, prefix_end(prefix), start_revision=deleted + 1)
        assert [brief(e)[0] for e in stream.events(1)] == ["PUT"]


def test_compaction_does_not_disturb_a_synced_watcher(client, watch, prefix):
    watch.open(prefix)
    for number in range(5):
        client.put(prefix, b"%d" % number)
    client.compact(client.revision(), physical=True)
    client.put(prefix, b"5")
    assert [int(e.kv.value) for e in watch.events(6)] == list(range(6))


# -- Atomicity and order


def test_events_of_one_revision_come_in_one_reply(client, watch, prefix):
    watch.open(prefix, prefix_end(prefix))
    reply = client.txn(success=[put_op(prefix + b"%02d" % n) for n in range(60)])
    got = watch.next()
    assert [e.kv.key for e in got.events] == [prefix + b"%02d" % n for n in range(60)]
    assert {e.kv.mod_revision for e in got.events} == {reply.header.revision}
    client.delete(prefix, prefix_end(prefix))
    got = watch.next()
    assert [brief(e)[:2] for e in got.events] == [("DELETE", prefix + b"%02d" % n) for n in range(60)]
    assert len({e.kv.mod_revision for e in got.events}) == 1


def test_events_of_one_revision_stand_in_operation_order(client, watch, prefix):
    a, b, c, d = (prefix + name for name in (b"a", b"b", b"c", b"d"))
    client.put(b, b"old")
    watch.open(prefix, prefix_end(prefix))
    client.txn(success=[put_op(d, b"1"), delete_op(b), txn_op(success=[put_op(a, b"2")]), put_op(c, b"3")])
    assert [brief(e)[:3] for e in watch.next().events] == [
        ("PUT", d, b"1"), ("DELETE", b, b""), ("PUT", a, b"2"), ("PUT", c, b"3")]


def test_history_never_splits_a_revision(client, watch, prefix):
    start = client.revision() + 1
    for _ in range(150):
        client.txn(success=[put_op(prefix + b"%d" % n, b"x" * 50) for n in range(20)])
    watch.open(prefix, prefix_end(prefix), start_revision=start)
    seen = []
    while len(seen) < 150:
        reply = watch.next()
        counts = {}
        for event in reply.events:
            counts[event.kv.mod_revision] = counts.get(event.kv.mod_revision, 0) + 1
        assert set(counts.values()) == {20}
        seen.extend(counts)
    assert seen == sorted(set(seen)) and len(seen) == 150


# -- Fragments


def test_fragments_of_a_long_history(client, watch, prefix):
    """With `fragment` no reply is over 2 MiB; all but the last of a group carry the flag."""
    start = client.put(prefix, b"0" * 700_000).header.revision
    for number in range(1, 5):
        client.put(prefix, b"%d" % number * 700_000)
    watch.open(prefix, start_revision=start, fragment=True)
    values, flags = [], []
    while len(values) < 5:
        reply = watch.next()
        assert reply.ByteSize() <= 2 * 1024 * 1024
        values += [int(e.kv.value[:1]) for e in reply.events]
        flags.append(reply.fragment)
    assert values == [0, 1, 2, 3, 4] and flags[-1] is False
    with client.watch() as whole:
        whole.open(prefix, start_revision=start)
        values = []
        while len(values) < 5:
            reply = whole.next()
            assert not reply.fragment
            values += [int(e.kv.value[:1]) for e in reply.events]
        assert values == [0, 1, 2, 3, 4]


def test_fragments_of_one_large_revision(client, prefix):
    """Two puts of 700 kB with their previous pairs make 2.8 MB in one revision."""
    a, b = prefix + b"a", prefix + b"b"
    client.txn(success=[put_op(a, b"1" * 700_000), put_op(b, b"2" * 700_000)])
    with client.watch() as split, client.watch() as whole:
        split.open(prefix, prefix_end(prefix), prev_kv=True, fragment=True)
        whole.open(prefix, prefix_end(prefix), prev_kv=True)
        client.txn(success=[put_op(a, b"3" * 700_000), put_op(b, b"4" * 700_000)])
        first, second = split.next(), split.next()
        assert (first.fragment, second.fragment) == (True, False)
        assert [e.kv.key for e in first.events] + [e.kv.key for e in second.events] == [a, b]
        assert first.watch_id == second.watch_id
        reply = whole.next()
        assert (reply.fragment, [e.kv.key for e in reply.events]) == (False, [a, b])
        assert reply.events[1].prev_kv.value == b"2" * 700_000


# -- Progress


def test_progress_on_request(client, watch, prefix):
    watch.open(prefix)
    watch.open(prefix + b"other")
    now = client.put(prefix + b"unwatched", b"").header.revision
    time.sleep(0.05)
    watch.ask_progress()
    reply = watch.next()
    assert (reply.watch_id, reply.created, reply.canceled, len(reply.events)) == (-1, False, False, 0)
    assert reply.header.revision == now


def test_progress_notify(client, watch, prefix):
    """An idle watcher that asked for it is told the current revision; a busy or another one is not."""
    asked, other = watch.open(prefix, progress_notify=True).watch_id, watch.open(prefix).watch_id
    revision = client.put(prefix + b"unwatched", b"").header.revision
    for _ in range(2):
        reply = watch.next()
        assert (reply.watch_id, len(reply.events), reply.created) == (asked, 0, False)
    assert reply.header.revision == revision
    stop = time.monotonic() + 0.6
    while time.monotonic() < stop:
        client.put(prefix, b"")
        for _ in range(2):
            reply = watch.next()
            assert reply.events and reply.watch_id in (asked, other)
        time.sleep(0.02)


@pytest.mark.differs_on_351("a progress reply may overtake events of its stream before 3.5.8", run=False)
def test_progress_never_overtakes_events(client, server, prefix):
    """etcd 15220: progress at revision R promises that every event up to R was sent before it on this stream."""
    stop = threading.Event()
    written = []

    def write():
        with server.client() as writer:
            while not stop.is_set():
                written.append(writer.put(prefix, b"").header.revision)
    with client.watch() as stream:
        start = client.revision() + 1
        stream.open(prefix, start_revision=start)
        thread = threading.Thread(target=write)
        thread.start()
        seen, promises, deadline = start - 1, 0, time.monotonic() + 1.5
        try:
            while time.monotonic() < deadline:
                stream.ask_progress()
                reply = stream.next()
                if reply.events:
                    assert [e.kv.mod_revision for e in reply.events] == \
                        list(range(seen + 1, reply.events[-1].kv.mod_revision + 1))
                    seen = reply.events[-1].kv.mod_revision
                else:
                    # All writes are to the watched key, so each revision up to the promise is an event.
                    assert reply.watch_id == -1 and reply.header.revision <= seen
                    promises += 1
        finally:
            stop.set()
            thread.join()
        assert seen > start and promises > 0


@pytest.mark.differs_on_351("3.5.1 answers a progress request at once, whatever the watchers' state")
def test_no_progress_for_a_watcher_of_the_future(client, watch, prefix):
    """A watcher that starts after now has not been promised anything yet."""
    now = client.revision()
    watch.open(prefix, start_revision=now + 2)
    watch.ask_progress()
    watch.silent(0.4)


@pytest.mark.moonraft
def test_etcd20221_no_notifications_for_a_watcher_of_the_future(client, watch, prefix):
    """Nor one that asked for them, until its time has come."""
    watch.open(prefix, start_revision=client.revision() + 2, progress_notify=True)
    client.put(prefix, b"too early")
    watch.silent(0.7)
    revision = client.put(prefix, b"in time").header.revision
    assert [e.kv.mod_revision for e in watch.events(1)] == [revision]
    reply = watch.next()
    assert (len(reply.events), reply.header.revision) == (0, revision)


# -- Many watchers, slow readers


def test_many_watchers_on_one_stream(client, watch, prefix):
    count = 300
    for number in range(count):
        watch.create(prefix + b"%d" % (number % 3), watch_id=number + 1)
    assert sorted(watch.next().watch_id for _ in range(count)) == list(range(1, count + 1))
    for number in range(3):
        client.put(prefix + b"%d" % number, b"%d" % number)
    got = {}
    for _ in range(count):
        reply = watch.next()
        assert reply.watch_id not in got and len(reply.events) == 1
        got[reply.watch_id] = reply.events[0].kv.key[-1:]
    assert got == {number + 1: b"%d" % (number % 3) for number in range(count)}
    watch.silent(0.1)


def test_stalled_readers_hold_bounded_memory_and_lose_nothing(client, server, prefix):
    """etcd 17529: ten streams stop reading while 16 MB are written past each; memory stays flat, others are served, then all
    that was missed arrives in order."""
    value, count = b"v" * 16384, 1000

    def load(tag):
        calls = []
        for number in range(count):
            calls.append(client.future("KV.Put", key=prefix + tag + b"%d" % (number % 50), value=value, timeout=60))
            if len(calls) == 50:
                for call in calls:
                    call.result()
                calls = []
    load(b"warm")
    before = server.anonymous_bytes()
    stalled = [client.watch(lazy=True) for _ in range(10)]
    with client.watch() as quick:
        quick.open(prefix + b"load", prefix_end(prefix + b"load"))
        for stream in stalled:
            stream.create(prefix + b"load", prefix_end(prefix + b"load"))
            assert next(stream.call).created
        start = client.revision() + 1
        load(b"load")
        quick.events(count)
        grown = server.anonymous_bytes() - before
        if not IS_ETCD:
            assert grown < 64 << 20, "stalled watchers hold %d MiB" % (grown >> 20)
    for stream in stalled:
        revisions = []
        while len(revisions) < count:
            revisions += [e.kv.mod_revision for e in next(stream.call).events]
        assert revisions == list(range(start, start + count))
        stream.close()


def test_a_stalled_stream_does_not_delay_other_streams_of_its_connection(client, prefix):
    stalled = client.watch(lazy=True)
    stalled.create(prefix, prefix_end(prefix))
    assert next(stalled.call).created
    with client.watch() as quick:
        quick.open(prefix, prefix_end(prefix))
        for number in range(100):
            client.put(prefix + b"%d" % number, b"x" * 5000)
        assert len(quick.events(100)) == 100
    stalled.close()


def test_closing_streams_frees_their_watchers(client, server):
    """Two hundred streams opened and dropped; the server still answers promptly."""
    for _ in range(20):
        streams = [client.watch(lazy=True) for _ in range(10)]
        for stream in streams:
            stream.create(b"\x00", b"\x00")
        for stream in streams:
            stream.close()
    started = time.monotonic()
    client.put(b"after", b"")
    assert time.monotonic() - started < 2


# -- Leases


def test_lease_revoke_is_one_reply_of_deletes(client, watch, prefix):
    lease = client.grant(60).ID
    for name in (b"c", b"a", b"b"):
        client.put(prefix + name, b"", lease=lease)
    watch.open(prefix, prefix_end(prefix), prev_kv=True)
    revision = client.revoke(lease).header.revision
    events = watch.next().events
    assert [brief(e) for e in events] == [("DELETE", prefix + name, b"", revision) for name in (b"a", b"b", b"c")]
    assert all(e.prev_kv.lease == lease for e in events)
