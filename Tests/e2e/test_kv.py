"""Range, Put, DeleteRange and Compact answer every field with etcd's values, codes and texts.

Method: raw gRPC calls against one member whose behaviour was first confirmed on etcd 3.5.1; expectations are written
out, not computed by a second implementation.
"""

import grpc
import pytest

from harness import M, failure, prefix_end, refused

KEY, VERSION, CREATE, MOD, VALUE = range(5)
NONE, ASCEND, DESCEND = range(3)
COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


def keys(response):
    return [kv.key for kv in response.kvs]


def test_empty_store_is_at_revision_one_and_the_first_write_makes_two(client):
    empty = client.range(b"\x00", b"\x00")
    assert (empty.header.revision, empty.count, empty.more, len(empty.kvs)) == (1, 0, False, 0)
    assert client.put(b"first", b"v").header.revision == 2
    assert client.delete(b"first").header.revision == 3


def test_compaction_at_zero_is_accepted_before_any_compaction(client):
    assert client.compact(0).header.revision == client.revision()
    with refused("OUT_OF_RANGE", COMPACTED):
        client.compact(0)


def test_header_is_filled_and_constant_over_all_services(client):
    headers = [
        client.put(b"h", b"1").header, client.range(b"h").header, client.range(b"h", serializable=True).header,
        client.delete(b"h").header, client.txn().header, client.grant(60).header,
        client.call("Maintenance.Status").header, client.call("Lease.LeaseLeases").header,
        client.call("Cluster.MemberList").header, client.call("Maintenance.HashKV").header,
    ]
    assert headers[0].cluster_id and headers[0].member_id and headers[0].raft_term >= 2
    assert len({(h.cluster_id, h.member_id, h.raft_term) for h in headers}) == 1


# -- Put


def test_put_counts_versions_and_keeps_the_create_revision(client, prefix):
    key = prefix + b"k"
    first = client.put(key, b"a").header.revision
    second = client.put(key, b"b").header.revision
    assert second == first + 1
    kv = client.get(key)
    assert kv == M.KeyValue(key=key, value=b"b", create_revision=first, mod_revision=second, version=2)
    client.delete(key)
    again = client.put(key, b"c").header.revision
    assert client.get(key) == M.KeyValue(key=key, value=b"c", create_revision=again, mod_revision=again, version=1)


def test_put_of_the_same_value_is_a_new_revision(client, prefix):
    first = client.put(prefix, b"same").header.revision
    assert client.put(prefix, b"same").header.revision == first + 1
    assert client.get(prefix).version == 2


def test_put_accepts_empty_values_and_any_bytes(client, prefix):
    weird = prefix + bytes(range(256))
    client.put(weird, b"")
    assert client.get(weird).value == b""
    client.put(weird, bytes(range(256)))
    assert client.get(weird).value == bytes(range(256))


def test_put_prev_kv(client, prefix):
    assert not client.put(prefix, b"a", prev_kv=True).HasField("prev_kv")
    before = client.get(prefix)
    assert client.put(prefix, b"b", prev_kv=True).prev_kv == before
    assert not client.put(prefix, b"c").HasField("prev_kv")
    client.delete(prefix)
    assert not client.put(prefix, b"d", prev_kv=True).HasField("prev_kv")


def test_put_ignore_value_keeps_the_value_and_counts_a_version(client, prefix):
    client.put(prefix, b"kept")
    revision = client.put(prefix, ignore_value=True).header.revision
    kv = client.get(prefix)
    assert (kv.value, kv.version, kv.mod_revision) == (b"kept", 2, revision)


def test_put_ignore_lease_keeps_the_lease(client, prefix):
    lease = client.grant(60).ID
    client.put(prefix, b"a", lease=lease)
    client.put(prefix, b"b", ignore_lease=True)
    assert (client.get(prefix).value, client.get(prefix).lease) == (b"b", lease)
    client.put(prefix, b"c", lease=0, ignore_value=False)
    assert client.get(prefix).lease == 0
    client.put(prefix, b"d", lease=lease)
    client.put(prefix, ignore_value=True, ignore_lease=True)
    assert (client.get(prefix).value, client.get(prefix).lease) == (b"d", lease)
    client.put(prefix, ignore_value=True)
    assert (client.get(prefix).value, client.get(prefix).lease) == (b"d", 0)


@pytest.mark.parametrize("fields, code, text", [
    (dict(key=b""), "INVALID_ARGUMENT", "etcdserver: key is not provided"),
    (dict(key=b"", value=b"v", ignore_value=True), "INVALID_ARGUMENT", "etcdserver: key is not provided"),
    (dict(key=b"k", value=b"v", ignore_value=True), "INVALID_ARGUMENT", "etcdserver: value is provided"),
    (dict(key=b"k", lease=1, ignore_lease=True), "INVALID_ARGUMENT", "etcdserver: lease is provided"),
    (dict(key=b"k", value=b"v", lease=1, ignore_value=True, ignore_lease=True), "INVALID_ARGUMENT",
     "etcdserver: value is provided"),
    (dict(key=b"absent", ignore_value=True), "INVALID_ARGUMENT", "etcdserver: key not found"),
    (dict(key=b"absent", value=b"v", ignore_lease=True), "INVALID_ARGUMENT", "etcdserver: key not found"),
    (dict(key=b"k", value=b"v", lease=12345), "NOT_FOUND", "etcdserver: requested lease not found"),
    (dict(key=b"k", value=b"v", lease=-5), "NOT_FOUND", "etcdserver: requested lease not found"),
])
def test_put_refusals(client, fields, code, text):
    before = client.revision()
    with refused(code, text):
        client.call("KV.Put", **fields)
    assert client.revision() == before


def test_request_size_limits(client, prefix):
    """Up to 1.5 MiB of raft entry passes; above it etcd's own error; above 2 MiB gRPC's."""
    client.put(prefix, b"x" * (1572864 - 512 - len(prefix)))
    with refused("INVALID_ARGUMENT", "etcdserver: request is too large"):
        client.put(prefix, b"x" * 1572864)
    code, text = failure(client.put, prefix, b"x" * (2097152 + 1))
    size = M.PutRequest(key=prefix, value=b"x" * (2097152 + 1)).ByteSize()
    assert code == "RESOURCE_EXHAUSTED"
    assert text == "grpc: received message larger than max (%d vs. 2097152)" % size
    assert client.get(prefix).version == 1


# -- Range


@pytest.fixture
def fruit(client, prefix):
    """Five keys whose orders by key, version, create, mod and value all differ."""
    names = [b"a", b"b", b"c", b"d", b"e"]
    revisions = {}
    for name in (b"d", b"a", b"e", b"c", b"b"):
        revisions[name] = client.put(prefix + name, b"").header.revision
    for name, value, times in ((b"c", b"3", 2), (b"a", b"5", 1), (b"e", b"1", 4), (b"b", b"4", 3), (b"d", b"2", 5)):
        for _ in range(times):
            client.put(prefix + name, value)
    return prefix, names, revisions


ORDERS = {KEY: b"abcde", VERSION: b"acbed", CREATE: b"daecb", MOD: b"caebd", VALUE: b"edcba"}


@pytest.mark.parametrize("target", ORDERS)
def test_range_sorts(client, fruit, target):
    prefix, _, _ = fruit
    ascending = [prefix + bytes([c]) for c in ORDERS[target]]
    assert keys(client.prefix(prefix, sort_order=ASCEND, sort_target=target)) == ascending
    assert keys(client.prefix(prefix, sort_order=DESCEND, sort_target=target)) == ascending[::-1]
    assert keys(client.prefix(prefix, sort_order=NONE, sort_target=target)) == ascending
    for limit in (1, 3, 5, 6):
        for order, expected in ((ASCEND, ascending), (DESCEND, ascending[::-1])):
            reply = client.prefix(prefix, sort_order=order, sort_target=target, limit=limit)
            assert keys(reply) == expected[:limit]
            assert (reply.count, reply.more) == (5, limit < 5)
    assert keys(client.prefix(prefix, sort_order=DESCEND, sort_target=target, keys_only=True)) == ascending[::-1]


def test_range_selects_one_key_an_interval_a_prefix_from_key_and_everything(client, fruit):
    prefix, names, _ = fruit
    every = [prefix + n for n in names]
    assert keys(client.range(prefix + b"c")) == [prefix + b"c"]
    assert keys(client.range(prefix + b"none")) == []
    assert keys(client.range(prefix + b"b", prefix + b"d")) == [prefix + b"b", prefix + b"c"]
    assert keys(client.range(prefix + b"b", prefix + b"b")) == []
    assert keys(client.range(prefix + b"d", prefix + b"b")) == []
    assert keys(client.prefix(prefix)) == every
    assert keys(client.range(prefix + b"d", b"\x00"))[:2] == every[3:]
    assert all(k >= prefix + b"d" for k in keys(client.range(prefix + b"d", b"\x00")))
    assert set(every) <= set(keys(client.range(b"\x00", b"\x00")))
    assert client.range(b"\x00", b"\x00", count_only=True).count == len(client.range(b"\x00", b"\x00").kvs)


def test_range_limit_count_more(client, fruit):
    prefix, names, _ = fruit
    for limit, expected_more in ((1, True), (4, True), (5, False), (6, False), (0, False), (-1, False)):
        reply = client.prefix(prefix, limit=limit)
        assert len(reply.kvs) == (min(limit, 5) if limit > 0 else 5)
        assert (reply.count, reply.more) == (5, expected_more), limit


def test_range_keys_only_and_count_only(client, fruit):
    prefix, _, _ = fruit
    full, bare = client.prefix(prefix), client.prefix(prefix, keys_only=True)
    for kv in full.kvs:
        kv.value = b""
    assert list(bare.kvs) == list(full.kvs) and bare.count == 5
    counted = client.prefix(prefix, count_only=True)
    assert (counted.count, len(counted.kvs), counted.more) == (5, 0, False)
    limited = client.prefix(prefix, count_only=True, limit=2)
    assert (limited.count, len(limited.kvs)) == (5, 0)
    assert client.range(prefix + b"a", count_only=True).count == 1
    assert client.range(prefix + b"none", count_only=True).count == 0


def test_range_revision_filters(client, fruit):
    prefix, names, created = fruit
    mods = {kv.key: kv.mod_revision for kv in client.prefix(prefix).kvs}
    middle = sorted(mods.values())[2]
    reply = client.prefix(prefix, min_mod_revision=middle)
    assert {kv.mod_revision for kv in reply.kvs} == set(sorted(mods.values())[2:]) and reply.count == 5
    reply = client.prefix(prefix, max_mod_revision=middle)
    assert {kv.mod_revision for kv in reply.kvs} == set(sorted(mods.values())[:3])
    oldest = sorted(created.values())
    reply = client.prefix(prefix, min_create_revision=oldest[1], max_create_revision=oldest[3])
    assert sorted(kv.create_revision for kv in reply.kvs) == oldest[1:4]
    assert keys(reply) == sorted(keys(reply))
    # The limit counts what passed the filter; `count` does not know the filter.
    reply = client.prefix(prefix, min_mod_revision=middle, limit=2)
    assert (len(reply.kvs), reply.more, reply.count) == (2, True, 5)
    reply = client.prefix(prefix, min_mod_revision=middle, limit=3)
    assert (len(reply.kvs), reply.more, reply.count) == (3, False, 5)
    reply = client.prefix(prefix, min_mod_revision=10**9)
    assert (len(reply.kvs), reply.more, reply.count) == (0, False, 5)
    reply = client.prefix(prefix, min_mod_revision=middle, sort_order=DESCEND, sort_target=MOD, limit=1)
    assert [kv.mod_revision for kv in reply.kvs] == [max(mods.values())]


def test_range_reads_the_past(client, prefix):
    k1, k2 = prefix + b"1", prefix + b"2"
    r1 = client.put(k1, b"a").header.revision
    r2 = client.put(k1, b"b").header.revision
    r3 = client.delete(k1).header.revision
    r4 = client.put(k2, b"c").header.revision
    r5 = client.put(k1, b"d").header.revision
    views = {r1 - 1: {}, r1: {k1: b"a"}, r2: {k1: b"b"}, r3: {}, r4: {k2: b"c"}, r5: {k1: b"d", k2: b"c"},
             0: {k1: b"d", k2: b"c"}, -7: {k1: b"d", k2: b"c"}}
    for revision, expected in views.items():
        for serializable in (False, True):
            reply = client.prefix(prefix, revision=revision, serializable=serializable)
            assert {kv.key: kv.value for kv in reply.kvs} == expected, revision
            assert reply.count == len(expected)
            assert reply.header.revision == r5
            assert client.prefix(prefix, revision=revision, count_only=True).count == len(expected)
    assert client.range(k1, revision=r2).kvs[0] == M.KeyValue(key=k1, value=b"b", create_revision=r1,
                                                              mod_revision=r2, version=2)


def test_range_refusals(client, prefix):
    now = client.put(prefix, b"v").header.revision
    with refused("INVALID_ARGUMENT", "etcdserver: key is not provided"):
        client.range(b"")
    with refused("INVALID_ARGUMENT", "etcdserver: key is not provided"):
        client.range(b"", b"\x00")
    for serializable in (False, True):
        with refused("OUT_OF_RANGE", FUTURE):
            client.range(prefix, revision=now + 1, serializable=serializable)
        with refused("OUT_OF_RANGE", FUTURE):
            client.range(prefix, revision=2**63 - 1, count_only=True, serializable=serializable)


@pytest.mark.differs_on_351("an unknown sort target ends the 3.5.1 process", run=False)
def test_range_refuses_unknown_sort_options(client, prefix):
    for fields in (dict(sort_target=99), dict(sort_target=5), dict(sort_order=99), dict(sort_order=3, sort_target=1)):
        with refused("INVALID_ARGUMENT", "etcdserver: invalid sort option"):
            client.prefix(prefix, **fields)


# -- RangeStream


@pytest.mark.differs_on_351("RangeStream came with 3.7")
def test_range_stream_sends_all_pairs_at_one_revision(client, prefix):
    for number in range(300):
        client.put(prefix + b"%03d" % number, b"v" * 100)
    now = client.revision()
    chunks = [c.range_response for c in client.call("KV.RangeStream", key=prefix, range_end=prefix_end(prefix))]
    assert [kv.key for c in chunks for kv in c.kvs] == [prefix + b"%03d" % n for n in range(300)]
    assert len(chunks) > 1, "the first chunk holds ten keys"
    assert (chunks[-1].header.revision, chunks[-1].count, chunks[-1].more) == (now, 300, False)
    assert all(c.count == 0 and not c.more and c.header.revision == 0 for c in chunks[:-1])
    chunks = [c.range_response for c in client.call("KV.RangeStream", key=prefix, range_end=prefix_end(prefix),
                                                    limit=25, keys_only=True)]
    pairs = [kv for c in chunks for kv in c.kvs]
    assert (len(pairs), chunks[-1].more, chunks[-1].count) == (25, True, 300) and not any(kv.value for kv in pairs)


@pytest.mark.differs_on_351("RangeStream came with 3.7")
def test_range_stream_refusals(client, prefix):
    def stream(**fields):
        return list(client.call("KV.RangeStream", key=prefix, range_end=prefix_end(prefix), **fields))
    now = client.put(prefix, b"").header.revision
    for fields in (dict(sort_order=DESCEND), dict(sort_target=VALUE), dict(min_mod_revision=1)):
        assert failure(stream, **fields)[0] == "UNIMPLEMENTED"
    with refused("OUT_OF_RANGE", FUTURE):
        stream(revision=now + 1)
    with refused("INVALID_ARGUMENT", "etcdserver: key is not provided"):
        list(client.call("KV.RangeStream", key=b""))


# -- DeleteRange


def test_delete_of_one_key_and_of_nothing(client, prefix):
    put = client.put(prefix, b"v").header.revision
    reply = client.delete(prefix)
    assert (reply.deleted, reply.header.revision, len(reply.prev_kvs)) == (1, put + 1, 0)
    for arguments in ((prefix,), (prefix, prefix_end(prefix)), (prefix + b"z", prefix + b"a")):
        reply = client.delete(*arguments, prev_kv=True)
        assert (reply.deleted, reply.header.revision, len(reply.prev_kvs)) == (0, put + 1, 0)
    assert client.revision() == put + 1


def test_delete_range_is_one_revision_and_returns_the_pairs(client, prefix):
    for name in (b"a", b"b", b"c", b"d"):
        client.put(prefix + name, b"v" + name)
    pairs = list(client.prefix(prefix).kvs)
    before = client.revision()
    reply = client.delete(prefix + b"b", prefix + b"d", prev_kv=True)
    assert (reply.deleted, reply.header.revision) == (2, before + 1)
    assert list(reply.prev_kvs) == pairs[1:3]
    reply = client.delete(prefix, prefix_end(prefix), prev_kv=True)
    assert (reply.deleted, list(reply.prev_kvs)) == (2, [pairs[0], pairs[3]])
    assert client.prefix(prefix).count == 0


def test_delete_refuses_an_empty_key(client):
    with refused("INVALID_ARGUMENT", "etcdserver: key is not provided"):
        client.delete(b"")
    with refused("INVALID_ARGUMENT", "etcdserver: key is not provided"):
        client.delete(b"", b"\x00")


def test_delete_from_key_takes_everything_from_there(client):
    high = b"\xff\xff-last"
    client.put(high, b"")
    client.put(high + b"/2", b"")
    assert client.delete(high, b"\x00").deleted == 2


def test_prefix_of_all_ff_bytes(client):
    for key in (b"\xff", b"\xff\xff", b"\xff\xff\x01"):
        client.put(key, b"")
    assert keys(client.prefix(b"\xff\xff")) == [b"\xff\xff", b"\xff\xff\x01"]
    assert client.delete(b"\xff", b"\x00").deleted == 3


# -- Compact


def test_compaction_bounds(client, prefix):
    r1 = client.put(prefix, b"a").header.revision
    r2 = client.put(prefix, b"b").header.revision
    r3 = client.put(prefix, b"c").header.revision
    with refused("OUT_OF_RANGE", FUTURE):
        client.compact(r3 + 1)
    assert client.compact(r2).header.revision == r3
    for revision in (r2, r1, 1, -1):
        with refused("OUT_OF_RANGE", COMPACTED):
            client.compact(revision)
    for serializable in (False, True):
        for revision in (r1, 1):
            with refused("OUT_OF_RANGE", COMPACTED):
                client.range(prefix, revision=revision, serializable=serializable)
        # The compacted revision itself stays readable.
        assert client.range(prefix, revision=r2, serializable=serializable).kvs[0].value == b"b"
    assert client.get(prefix).value == b"c"
    # The current revision may be compacted as well.
    assert client.compact(r3, physical=True).header.revision == r3
    assert client.get(prefix).value == b"c"
    assert client.range(prefix, revision=r3).kvs[0].value == b"c"


def test_compaction_keeps_the_newest_pair_of_each_key_and_drops_tombstones(client, prefix):
    for round_ in range(5):
        for number in range(20):
            client.put(prefix + b"%02d" % number, b"%d" % round_)
    client.delete(prefix + b"00", prefix + b"10")
    now = client.revision()
    client.compact(now, physical=True)
    reply = client.prefix(prefix, revision=now)
    assert [kv.value for kv in reply.kvs] == [b"4"] * 10
    assert all(kv.version == 5 for kv in reply.kvs)
    assert client.put(prefix + b"00", b"new").header.revision == now + 1
    assert client.get(prefix + b"00").version == 1


def test_concurrent_writers_get_distinct_revisions(client, prefix):
    """Two hundred writes in flight at once: each its own revision, and the version counts every one."""
    before = client.revision()
    calls = [client.future("KV.Put", key=prefix, value=b"%d" % n) for n in range(200)]
    revisions = sorted(call.result().header.revision for call in calls)
    assert revisions == list(range(before + 1, before + 201))
    assert client.get(prefix).version == 200


def test_linearizable_read_sees_the_last_acknowledged_write(client, server, prefix):
    with server.client() as other:
        for number in range(100):
            client.put(prefix, b"%d" % number)
            assert other.get(prefix).value == b"%d" % number


def test_unknown_fields_are_ignored(client, prefix):
    unknown = b"\xf8\x07\x01" + b"\xfa\x07\x03abc"   # field 127: a varint, then three bytes
    request = M.PutRequest(key=prefix, value=b"v").SerializeToString() + unknown
    M.PutResponse.FromString(client.raw("/etcdserverpb.KV/Put", request))
    assert client.get(prefix).value == b"v"


def test_last_one_wins_for_a_repeated_scalar(client, prefix):
    twice = (M.PutRequest(key=b"zzz", value=b"1") .SerializeToString()
             + M.PutRequest(key=prefix, value=b"2").SerializeToString())
    client.raw("/etcdserverpb.KV/Put", twice)
    assert client.get(prefix).value == b"2" and client.get(b"zzz") is None


def test_cancelled_calls_leave_the_server_well(client, prefix):
    for _ in range(50):
        client.future("KV.Range", key=b"\x00", range_end=b"\x00").cancel()
    assert isinstance(client.put(prefix, b"v"), M.PutResponse)
    with pytest.raises(grpc.RpcError):
        client.range(b"")
