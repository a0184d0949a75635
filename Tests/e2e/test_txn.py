"""A transaction compares, branches, nests, refuses and numbers its writes exactly as etcd does.

Method: raw gRPC transactions against one member; the compare rules are checked as a full table of target, result and
operand against an existing and a missing key.
"""

import operator

import pytest

from harness import M, compare, delete_op, exists, prefix_end, put_op, range_op, refused, txn_op

COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"
TOO_MANY = "etcdserver: too many operations in txn request"
DUPLICATE = "etcdserver: duplicate key given in txn request"
OPERATORS = {"EQUAL": operator.eq, "GREATER": operator.gt, "LESS": operator.lt, "NOT_EQUAL": operator.ne}


def holds(client, *compares):
    return client.txn(compare=compares).succeeded


# -- Compares


def test_every_compare_target_and_result(client, prefix):
    lease = client.grant(60).ID
    created = client.put(prefix, b"m", lease=lease).header.revision
    client.put(prefix, b"m", lease=lease)
    facts = {"VERSION": 2, "CREATE": created, "MOD": created + 1, "LEASE": lease}
    for target, actual in facts.items():
        for result, holds_between in OPERATORS.items():
            for operand in (actual - 1, actual, actual + 1, 0, -1):
                assert holds(client, compare(prefix, target, result, operand)) == holds_between(actual, operand), \
                    (target, result, operand)
    for result, holds_between in OPERATORS.items():
        for operand in (b"", b"a", b"m", b"mm", b"z"):
            assert holds(client, compare(prefix, "VALUE", result, operand)) == holds_between(b"m", operand)


def test_missing_key_compares_as_zero_but_its_value_never_holds(client, prefix):
    for target in ("VERSION", "CREATE", "MOD", "LEASE"):
        for result, holds_between in OPERATORS.items():
            for operand in (-1, 0, 1):
                assert holds(client, compare(prefix, target, result, operand)) == holds_between(0, operand)
    for result in OPERATORS:
        for operand in (b"", b"a"):
            assert not holds(client, compare(prefix, "VALUE", result, operand)), (result, operand)


def test_unset_operand_is_the_zero_of_its_target(client, prefix):
    assert holds(client, compare(prefix, "VERSION", "EQUAL"))
    client.put(prefix, b"")
    assert holds(client, compare(prefix, "VALUE", "EQUAL"))
    assert holds(client, compare(prefix, "VERSION", "GREATER"))


def test_range_compare_must_hold_for_every_key(client, prefix):
    end = prefix_end(prefix)
    for name, value in ((b"a", b"1"), (b"b", b"2"), (b"c", b"3")):
        client.put(prefix + name, value)
    client.put(prefix + b"c", b"3")
    assert holds(client, compare(prefix, "VALUE", "GREATER", b"0", end))
    assert not holds(client, compare(prefix, "VALUE", "GREATER", b"1", end))
    assert not holds(client, compare(prefix, "VERSION", "EQUAL", 1, end))
    assert holds(client, compare(prefix, "VERSION", "EQUAL", 1, prefix + b"c"))
    assert holds(client, compare(prefix, "VERSION", "LESS", 3, end))
    assert holds(client, compare(prefix + b"b", "VERSION", "GREATER", 0, end))
    assert holds(client, compare(prefix, "CREATE", "GREATER", 0, end))


def test_range_compare_of_an_empty_range(client, prefix):
    """No key in the range compares as one missing key."""
    end = prefix_end(prefix)
    assert holds(client, compare(prefix, "VERSION", "EQUAL", 0, end))
    assert not holds(client, compare(prefix, "VERSION", "GREATER", 0, end))
    assert holds(client, compare(prefix, "CREATE", "LESS", 1, end))
    assert not holds(client, compare(prefix, "VALUE", "NOT_EQUAL", b"x", end))


def test_compares_are_joined_by_and(client, prefix):
    client.put(prefix, b"v")
    true, false = compare(prefix, "VERSION", "EQUAL", 1), compare(prefix, "VERSION", "EQUAL", 2)
    assert holds(client)
    assert holds(client, true, true)
    assert not holds(client, true, false)
    assert not holds(client, false, true)


# -- Branches and replies


def test_taken_branch_runs_and_the_other_does_not(client, prefix):
    yes, no = prefix + b"yes", prefix + b"no"
    reply = client.txn([compare(prefix, "VERSION", "EQUAL", 0)], [put_op(yes, b"1")], [put_op(no, b"1")])
    assert reply.succeeded and client.get(yes) and not client.get(no)
    reply = client.txn([compare(prefix, "VERSION", "GREATER", 0)], [put_op(yes, b"2")], [put_op(no, b"2")])
    assert not reply.succeeded and client.get(yes).value == b"1" and client.get(no).value == b"2"


def test_replies_match_their_operations_in_order_and_kind(client, prefix):
    a, b = prefix + b"a", prefix + b"b"
    old = client.put(a, b"old").header.revision
    reply = client.txn(success=[
        range_op(a), put_op(a, b"new", prev_kv=True), range_op(prefix, prefix_end(prefix)), put_op(b, b"b"),
        delete_op(prefix + b"none"), txn_op(success=[range_op(b)]), range_op(prefix, prefix_end(prefix), count_only=True),
    ])
    assert (reply.succeeded, reply.header.revision) == (True, old + 1)
    kinds = [r.WhichOneof("response") for r in reply.responses]
    assert kinds == ["response_range", "response_put", "response_range", "response_put", "response_delete_range",
                     "response_txn", "response_range"]
    first, put, seen, _, deleted, nested, counted = reply.responses
    assert first.response_range.kvs[0].value == b"old"
    assert put.response_put.prev_kv == M.KeyValue(key=a, value=b"old", create_revision=old, mod_revision=old, version=1)
    assert [(kv.key, kv.value, kv.mod_revision) for kv in seen.response_range.kvs] == [(a, b"new", old + 1)]
    assert deleted.response_delete_range.deleted == 0
    assert nested.response_txn.succeeded
    assert nested.response_txn.responses[0].response_range.kvs[0].value == b"b"
    assert counted.response_range.count == 2


def test_delete_from_key_on_runs_in_list_order(client):
    client.put(b"\xff/a")
    reply = client.txn(success=[delete_op(b"\xff/", b"\x00"), put_op(b"\xff/b")])
    assert reply.responses[0].response_delete_range.deleted == 1
    assert [kv.key for kv in client.range(b"\xff/", b"\x00").kvs] == [b"\xff/b"]
    client.delete(b"\xff/", b"\x00")


def test_headers_inside_a_reply_carry_the_revision_only(client, prefix):
    reply = client.txn(success=[put_op(prefix, b"v"), range_op(prefix), delete_op(prefix + b"x"),
                                txn_op(success=[range_op(prefix)])])
    revision = reply.header.revision
    put, ranged, deleted, nested = reply.responses
    assert reply.header.cluster_id
    for header in (put.response_put.header, ranged.response_range.header, deleted.response_delete_range.header):
        assert (header.cluster_id, header.member_id, header.raft_term) == (0, 0, 0)
        assert header.revision == revision
    assert nested.response_txn.header.cluster_id == 0


def test_all_writes_share_one_revision(client, prefix):
    a, b, c = prefix + b"a", prefix + b"b", prefix + b"c"
    client.put(c, b"old")
    before = client.revision()
    reply = client.txn(success=[put_op(a, b"1"), txn_op(success=[put_op(b, b"2")]), delete_op(c)])
    assert reply.header.revision == before + 1
    assert client.get(a).mod_revision == client.get(b).mod_revision == before + 1
    assert client.get(c) is None
    assert client.prefix(prefix, revision=before).count == 1


def test_a_transaction_without_effect_keeps_the_revision(client, prefix):
    before = client.put(prefix, b"v").header.revision
    for operations in ([], [range_op(prefix)], [delete_op(prefix + b"none")], [txn_op()],
                       [txn_op([exists(prefix + b"none")], [put_op(prefix)])]):
        assert client.txn(success=operations).header.revision == before
    assert client.revision() == before


def test_delete_then_put_of_another_key_and_put_in_two_branches(client, prefix):
    key = prefix + b"k"
    assert client.txn([exists(key)], [put_op(key, b"yes")], [put_op(key, b"no")]).succeeded is False
    assert client.get(key).value == b"no"
    reply = client.txn(success=[delete_op(key), put_op(prefix + b"l", b"x")])
    assert client.get(key) is None and client.get(prefix + b"l").create_revision == reply.header.revision


def test_range_options_inside_a_transaction(client, prefix):
    for name in (b"a", b"b", b"c"):
        client.put(prefix + name, name * 2)
    past = client.revision()
    client.put(prefix + b"d", b"dd")
    end = prefix_end(prefix)
    reply = client.txn(success=[
        range_op(prefix, end, limit=2), range_op(prefix, end, sort_order=2), range_op(prefix, end, keys_only=True),
        range_op(prefix, end, revision=past), range_op(prefix, end, min_mod_revision=past)])
    limited, sorted_, bare, old, filtered = (r.response_range for r in reply.responses)
    assert (len(limited.kvs), limited.more, limited.count) == (2, True, 4)
    assert [kv.key[-1:] for kv in sorted_.kvs] == [b"d", b"c", b"b", b"a"]
    assert not any(kv.value for kv in bare.kvs)
    assert old.count == 3
    assert [kv.key[-1:] for kv in filtered.kvs] == [b"c", b"d"] and filtered.count == 4


# -- Nesting


def test_nested_transactions_compare_and_branch_on_their_own(client, prefix):
    a, b = prefix + b"a", prefix + b"b"
    client.put(a, b"1")
    reply = client.txn([exists(a)], [
        txn_op([exists(b)], [put_op(prefix + b"x", b"inner yes")],
               [put_op(prefix + b"y", b"inner no"), txn_op([exists(a)], [put_op(prefix + b"z", b"third")])])])
    inner = reply.responses[0].response_txn
    assert reply.succeeded and not inner.succeeded
    assert inner.responses[1].response_txn.succeeded
    assert [kv.key[-1:] for kv in client.prefix(prefix).kvs] == [b"a", b"y", b"z"]


def test_compares_of_nested_transactions_see_the_state_before_any_write(client, prefix):
    """The whole path is decided before the first operation runs."""
    reply = client.txn(success=[put_op(prefix, b"v"), txn_op([exists(prefix)], [put_op(prefix + b"seen")],
                                                             [put_op(prefix + b"unseen")])])
    assert not reply.responses[1].response_txn.succeeded
    assert client.get(prefix + b"unseen") and not client.get(prefix + b"seen")


def test_deep_nesting_works(client, prefix):
    operation = put_op(prefix, b"deep")
    for _ in range(20):
        operation = txn_op(success=[operation])
    reply = client.txn(success=[operation])
    for _ in range(20):
        reply = reply.responses[0].response_txn
        assert reply.succeeded
    assert client.get(prefix).value == b"deep"


# -- Refusals; none may leave a trace


@pytest.fixture
def refused_txn(client, prefix):
    def attempt(code, text, **fields):
        before = client.revision()
        with refused(code, text):
            client.txn(**fields)
        assert client.revision() == before
        assert client.get(prefix + b"trace") is None
    return attempt


def test_operation_count_limit_is_128_per_list(client, prefix, refused_txn):
    puts = [put_op(prefix + b"%d" % n) for n in range(129)]
    compares = [compare(prefix, "VERSION", "EQUAL", 0)] * 129
    assert client.txn(compares[:128], puts[:128]).succeeded
    for fields in (dict(success=puts), dict(failure=puts), dict(compare=compares)):
        refused_txn("INVALID_ARGUMENT", TOO_MANY, **fields)


def test_nested_levels_get_what_is_left_of_the_limit(client, prefix, refused_txn):
    def outer(inner_count):
        return [txn_op(success=[put_op(prefix + b"i%d" % n) for n in range(inner_count)])] + \
            [put_op(prefix + b"o%d" % n) for n in range(99)]
    assert client.txn(success=outer(28)).succeeded
    refused_txn("INVALID_ARGUMENT", TOO_MANY, success=outer(29))


@pytest.mark.parametrize("shape", [
    lambda p: [put_op(p), put_op(p)],
    lambda p: [put_op(p), delete_op(p)],
    lambda p: [delete_op(p), put_op(p)],
    lambda p: [put_op(p + b"5"), delete_op(p + b"1", p + b"9")],
    lambda p: [put_op(p), txn_op(success=[put_op(p)])],
    lambda p: [put_op(p), txn_op(failure=[put_op(p)])],
    lambda p: [txn_op(success=[put_op(p)]), txn_op(success=[put_op(p)])],
    lambda p: [txn_op(success=[delete_op(p, p + b"z")]), put_op(p + b"m")],
    lambda p: [txn_op(success=[put_op(p), put_op(p)])],
    lambda p: [txn_op(success=[txn_op(success=[put_op(p)])]), put_op(p)],
])
def test_one_key_may_be_written_once_in_a_branch(refused_txn, prefix, shape):
    refused_txn("INVALID_ARGUMENT", DUPLICATE, success=[put_op(prefix + b"trace")] + shape(prefix + b"k"))
    refused_txn("INVALID_ARGUMENT", DUPLICATE, failure=shape(prefix + b"k"))


@pytest.mark.parametrize("shape", [
    lambda p: [put_op(p + b"1"), delete_op(p + b"2", p + b"9")],
    lambda p: [put_op(p + b"9"), delete_op(p + b"2", p + b"9")],
    lambda p: [delete_op(p), delete_op(p)],
    lambda p: [delete_op(p, p + b"5"), delete_op(p + b"2", p + b"9")],
    lambda p: [range_op(p), put_op(p), range_op(p)],
    lambda p: [txn_op(success=[put_op(p)], failure=[put_op(p)])],
    lambda p: [txn_op(success=[put_op(p + b"1")]), put_op(p + b"2")],
    # etcd's overlap check takes the single zero byte of "from this key on" for an ordinary end.
    lambda p: [delete_op(b"\xff" + p, b"\x00"), put_op(b"\xff" + p + b"x")],
])
def test_what_may_be_combined_in_one_branch(client, prefix, shape):
    assert client.txn(success=shape(prefix + b"k"), failure=shape(prefix + b"k")).succeeded


@pytest.mark.parametrize("fields, code, text", [
    (dict(success=[M.RequestOp()]), "INVALID_ARGUMENT", "etcdserver: key not found"),
    (dict(failure=[M.RequestOp()]), "INVALID_ARGUMENT", "etcdserver: key not found"),
    (dict(success=[put_op(b"")]), "INVALID_ARGUMENT", "etcdserver: key is not provided"),
    (dict(success=[range_op(b"")]), "INVALID_ARGUMENT", "etcdserver: key is not provided"),
    (dict(failure=[delete_op(b"")]), "INVALID_ARGUMENT", "etcdserver: key is not provided"),
    (dict(compare=[M.Compare()]), "INVALID_ARGUMENT", "etcdserver: key is not provided"),
    (dict(success=[txn_op([M.Compare()])]), "INVALID_ARGUMENT", "etcdserver: key is not provided"),
    (dict(success=[txn_op(failure=[put_op(b"")])]), "INVALID_ARGUMENT", "etcdserver: key is not provided"),
    (dict(success=[put_op(b"k", b"v", ignore_value=True)]), "INVALID_ARGUMENT", "etcdserver: value is provided"),
    (dict(failure=[put_op(b"k", lease=5, ignore_lease=True)]), "INVALID_ARGUMENT", "etcdserver: lease is provided"),
    (dict(success=[put_op(b"none", ignore_value=True)]), "INVALID_ARGUMENT", "etcdserver: key not found"),
    (dict(success=[put_op(b"none", ignore_lease=True)]), "INVALID_ARGUMENT", "etcdserver: key not found"),
    (dict(success=[put_op(b"k", lease=987654)]), "NOT_FOUND", "etcdserver: requested lease not found"),
    (dict(success=[txn_op(success=[put_op(b"k", lease=987654)])]), "NOT_FOUND",
     "etcdserver: requested lease not found"),
    (dict(success=[range_op(b"k", revision=10**9)]), "OUT_OF_RANGE", FUTURE),
    (dict(success=[txn_op(success=[range_op(b"k", revision=10**9)])]), "OUT_OF_RANGE", FUTURE),
])
def test_refused_transactions_write_nothing(refused_txn, prefix, fields, code, text):
    trace = [put_op(prefix + b"trace")]
    fields = {name: list(value) for name, value in fields.items()}
    fields["success"] = trace + fields.get("success", [])
    fields["failure"] = trace + fields.get("failure", [])
    refused_txn(code, text, **fields)


def test_bad_operations_of_the_branch_not_taken(client, prefix):
    """What depends on the store is judged on the taken path only; the shape of a request everywhere."""
    taken = [put_op(prefix)]
    for other in ([put_op(b"none", ignore_value=True)], [put_op(b"k", lease=987654)],
                  [range_op(b"k", revision=10**9)]):
        assert client.txn(success=taken, failure=other).succeeded
    with refused("INVALID_ARGUMENT", "etcdserver: key is not provided"):
        client.txn(success=taken, failure=[put_op(b"")])


def test_compacted_revision_inside_a_transaction_is_refused_before_any_write(client, prefix, refused_txn):
    """etcd 18667."""
    client.put(prefix, b"1")
    now = client.put(prefix, b"2").header.revision
    client.compact(now)
    refused_txn("OUT_OF_RANGE", COMPACTED, success=[put_op(prefix + b"trace"), range_op(prefix, revision=now - 1)])
    with refused("OUT_OF_RANGE", COMPACTED):
        client.txn(success=[range_op(prefix, revision=now - 1)])
    with refused("OUT_OF_RANGE", FUTURE):
        client.txn(success=[range_op(prefix, revision=now + 1)])


@pytest.mark.differs_on_351("an unknown sort target ends the 3.5.1 process", run=False)
def test_unknown_sort_option_inside_a_transaction(refused_txn, prefix):
    refused_txn("INVALID_ARGUMENT", "etcdserver: invalid sort option",
                success=[put_op(prefix + b"trace"), range_op(prefix, prefix_end(prefix), sort_target=99)])


def test_serializable_read_only_transaction(client, prefix):
    client.put(prefix, b"v")
    reply = client.txn(success=[range_op(prefix, serializable=True)])
    assert reply.responses[0].response_range.kvs[0].value == b"v"


def test_compare_and_swap_under_contention_counts_exactly(client, server, prefix):
    """Four clients increment one counter by compare-and-swap; no increment is lost and none is doubled."""
    import threading
    client.put(prefix, b"0")

    def increment():
        with server.client() as own:
            done = 0
            while done < 25:
                kv = own.get(prefix)
                done += own.txn([compare(prefix, "MOD", "EQUAL", kv.mod_revision)],
                                [put_op(prefix, b"%d" % (int(kv.value) + 1))]).succeeded
    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kv = client.get(prefix)
    assert (kv.value, kv.version) == (b"100", 101)
