"""python-etcd3, an independent client with its own generated code, works unchanged.

Method: its public API against one member: pairs, prefixes, transactions, watches, leases, locks, members.
"""

import threading
import time

import etcd3
import pytest

# The library leaves threads of its watcher behind that complain when the channel closes.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning",
                                        "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def etcd(server):
    client = etcd3.client(host="127.0.0.1", port=server.client_port, timeout=10)
    yield client
    client.close()


@pytest.fixture
def p(prefix):
    return prefix.decode()


def test_put_get_delete(etcd, p):
    assert etcd.get(p) == (None, None)
    etcd.put(p, "1")
    value, meta = etcd.get(p)
    assert (value, meta.key, meta.version) == (b"1", p.encode(), 1)
    assert etcd.put(p, "2", prev_kv=True).prev_kv.value == b"1"
    assert etcd.delete(p, prev_kv=True, return_response=True).prev_kvs[0].value == b"2"
    assert etcd.delete(p) is False


def test_prefix_range_and_all(etcd, p):
    for name in "cab":
        etcd.put(p + name, name)
    assert [v for v, _ in etcd.get_prefix(p)] == [b"a", b"b", b"c"]
    assert [v for v, _ in etcd.get_prefix(p, sort_order="descend")] == [b"c", b"b", b"a"]
    assert [m.key for _, m in etcd.get_prefix(p, keys_only=True)] == [(p + n).encode() for n in "abc"]
    assert [v for v, _ in etcd.get_range(p + "a", p + "c")] == [b"a", b"b"]
    assert etcd.get_response(p + "a").count == 1
    assert etcd.delete_prefix(p).deleted == 3


def test_put_if_not_exists_and_replace(etcd, p):
    assert etcd.put_if_not_exists(p, "1") is True
    assert etcd.put_if_not_exists(p, "2") is False
    assert etcd.replace(p, "1", "3") is True and etcd.replace(p, "1", "4") is False
    assert etcd.get(p)[0] == b"3"


def test_transaction(etcd, p):
    etcd.put(p, "v")
    t = etcd.transactions
    succeeded, responses = etcd.transaction(
        compare=[t.value(p) == "v", t.version(p) > 0, t.create(p) > 0],
        success=[t.put(p + "new", "1"), t.get(p)], failure=[t.delete(p)])
    assert succeeded and responses[1][0][0] == b"v"
    succeeded, _ = etcd.transaction(compare=[t.version(p) == 9], success=[], failure=[t.delete(p)])
    assert not succeeded and etcd.get(p)[0] is None
    nested = t.txn(compare=[t.version(p + "new") == 1], success=[t.put(p + "deep", "2")], failure=[])
    assert etcd.transaction(compare=[], success=[nested], failure=[])[0] and etcd.get(p + "deep")[0] == b"2"


def test_watch(etcd, p):
    events, cancel = etcd.watch_prefix(p)
    etcd.put(p + "a", "1")
    etcd.delete(p + "a")
    put, delete = next(events), next(events)
    assert isinstance(put, etcd3.events.PutEvent) and put.value == b"1"
    assert isinstance(delete, etcd3.events.DeleteEvent) and delete.key == (p + "a").encode()
    cancel()


def test_watch_callback_and_once(etcd, p):
    seen = []
    done = threading.Event()

    def callback(response):
        seen.extend(response.events)
        if len(seen) >= 3:
            done.set()
    watch_id = etcd.add_watch_prefix_callback(p, callback)
    for number in range(3):
        etcd.put(p + str(number), "v")
    assert done.wait(5) and [e.key for e in seen] == [(p + str(n)).encode() for n in range(3)]
    etcd.cancel_watch(watch_id)
    threading.Timer(0.1, lambda: etcd.put(p + "once", "v")).start()
    assert etcd.watch_once(p + "once", timeout=5).value == b"v"


def test_watch_from_a_compacted_revision(etcd, p):
    etcd.put(p, "1")
    etcd.put(p, "2")
    revision = etcd.get_response(p).header.revision
    etcd.compact(revision)
    events, cancel = etcd.watch(p, start_revision=revision - 1)
    with pytest.raises(etcd3.exceptions.RevisionCompactedError) as compacted:
        next(events)
    assert compacted.value.compacted_revision == revision
    cancel()


def test_lease(etcd, p):
    lease = etcd.lease(30)
    etcd.put(p, "v", lease=lease)
    assert lease.granted_ttl == 30 and 0 < lease.remaining_ttl <= 30
    assert lease.keys == [p.encode()]
    assert lease.refresh()[0].TTL == 30
    lease.revoke()
    assert etcd.get(p) == (None, None)


def test_lock(etcd, p):
    """Without contention: the library's waiting code does not run with today's tenacity."""
    name = p.replace("/", "-")
    with etcd.lock(name, ttl=10) as held:
        assert held.is_acquired() and held.refresh()[0].TTL == 10
        assert etcd.get(held.key)[0] == held.uuid
    assert etcd.get(held.key) == (None, None)
    other = etcd.lock(name, ttl=10)
    assert other.acquire(timeout=5) is True and other.release() is True


def test_members_and_status(etcd, server):
    member, = list(etcd.members)
    assert (member.name, list(member.client_urls)) == ("m1", [server.url])
    status = etcd.status()
    assert status.leader.id == member.id and status.db_size > 0
    assert list(etcd.list_alarms()) == []
    assert etcd.hash() > 0
    etcd.defragment()


def test_refusals_become_the_library_s_errors(etcd, p):
    with pytest.raises(Exception) as error:
        etcd.put(p, "v", lease=99)
    assert "requested lease not found" in str(error.value)


def test_twenty_threads_share_one_client(etcd, p):
    def work(number):
        for step in range(10):
            etcd.put("%s%d/%d" % (p, number, step), "v")
    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(etcd.get_prefix(p, keys_only=True))) == 200 and time.monotonic() - started < 20
