"""Leases keep etcd's rules for time, attachment, expiry and errors, and survive a restart.

Method: raw gRPC against one member; waits are short because the minimum TTL is two seconds.
"""

import time

import pytest

from harness import DELETE, brief, eventually, prefix_end, refused

NOT_FOUND = "etcdserver: requested lease not found"


# -- Grant


def test_grant_answers_id_and_ttl(client):
    before = client.revision()
    reply = client.grant(60)
    assert reply.ID > 0 and reply.TTL == 60 and reply.error == ""
    assert reply.header.revision == before and reply.header.cluster_id
    assert client.grant(60).ID != reply.ID
    assert client.revision() == before


def test_grant_with_the_callers_id(client):
    assert client.grant(60, ID=4711).ID == 4711
    with refused("FAILED_PRECONDITION", "etcdserver: lease already exists"):
        client.grant(60, ID=4711)
    client.revoke(4711)
    assert client.grant(60, ID=4711).ID == 4711
    assert client.grant(60, ID=2**63 - 1).ID == 2**63 - 1
    client.revoke(2**63 - 1)


@pytest.mark.parametrize("asked, granted", [(1, 2), (2, 2), (3, 3), (0, 2), (-100, 2), (9_000_000_000, 9_000_000_000)])
def test_ttl_is_raised_to_the_minimum(client, asked, granted):
    lease = client.grant(asked)
    assert lease.TTL == granted
    client.revoke(lease.ID)


def test_ttl_too_large(client):
    for ttl in (9_000_000_001, 2**63 - 1):
        with refused("OUT_OF_RANGE", "etcdserver: too large lease TTL"):
            client.grant(ttl)


# -- Revoke, time to live, list


def test_revoke_deletes_its_keys_in_one_revision(client, prefix):
    lease = client.grant(60).ID
    for name in (b"a", b"b", b"c"):
        client.put(prefix + name, b"", lease=lease)
    client.put(prefix + b"stays", b"")
    before = client.revision()
    assert client.revoke(lease).header.revision == before + 1
    assert client.prefix(prefix).count == 1 and client.revision() == before + 1
    with refused("NOT_FOUND", NOT_FOUND):
        client.revoke(lease)


def test_revoke_without_keys_keeps_the_revision(client):
    before = client.revision()
    assert client.revoke(client.grant(60).ID).header.revision == before
    for unknown in (123456789, 0, -1):
        with refused("NOT_FOUND", NOT_FOUND):
            client.revoke(unknown)


def test_time_to_live(client, prefix):
    lease = client.grant(100).ID
    reply = client.time_to_live(lease)
    assert (reply.ID, reply.grantedTTL, len(reply.keys)) == (lease, 100, 0) and 95 <= reply.TTL <= 100
    for name in (b"b", b"a"):
        client.put(prefix + name, b"", lease=lease)
    assert len(client.time_to_live(lease).keys) == 0
    assert sorted(client.time_to_live(lease, keys=True).keys) == [prefix + b"a", prefix + b"b"]
    client.revoke(lease)


def test_time_to_live_of_an_unknown_lease_is_no_error(client):
    reply = client.time_to_live(424242, keys=True)
    assert (reply.ID, reply.TTL, reply.grantedTTL, len(reply.keys)) == (424242, -1, 0, 0)


def test_list(client):
    mine = sorted(client.grant(60).ID for _ in range(3))
    assert set(mine) <= set(client.leases())
    client.revoke(mine[0])
    assert mine[0] not in client.leases() and set(mine[1:]) <= set(client.leases())


# -- Attachment


def test_a_key_belongs_to_the_lease_of_its_last_put(client, prefix):
    one, two = client.grant(60).ID, client.grant(60).ID
    moved, freed, deleted = prefix + b"moved", prefix + b"freed", prefix + b"deleted"
    for key in (moved, freed, deleted):
        client.put(key, b"", lease=one)
    assert client.get(moved).lease == one
    client.put(moved, b"", lease=two)
    client.put(freed, b"")
    client.delete(deleted)
    assert not client.time_to_live(one, keys=True).keys
    assert list(client.time_to_live(two, keys=True).keys) == [moved]
    client.put(deleted, b"again")
    client.revoke(one)
    assert client.prefix(prefix).count == 3
    client.revoke(two)
    assert [kv.key for kv in client.prefix(prefix).kvs] == [deleted, freed]


def test_put_after_revoke_is_refused(client, prefix):
    lease = client.grant(60).ID
    client.revoke(lease)
    with refused("NOT_FOUND", NOT_FOUND):
        client.put(prefix, b"", lease=lease)


# -- Keep-alive


def test_keep_alive_renews_to_the_full_ttl(client):
    lease = client.grant(30).ID
    reply, = client.keep_alive(lease)
    assert (reply.ID, reply.TTL) == (lease, 30) and reply.header.cluster_id
    client.revoke(lease)


def test_keep_alive_stream_answers_in_order_and_zero_for_unknown(client):
    lease = client.grant(30).ID
    replies = client.keep_alive(lease, 998877, lease, 0, lease)
    assert [(r.ID, r.TTL) for r in replies] == [(lease, 30), (998877, 0), (lease, 30), (0, 0), (lease, 30)]
    client.revoke(lease)
    assert client.keep_alive(lease)[0].TTL == 0


# -- Expiry


def test_expiry_deletes_all_keys_in_one_revision_and_not_early(client, watch, prefix):
    watch.open(prefix, prefix_end(prefix))
    started = time.monotonic()
    lease, kept = client.grant(2).ID, client.grant(2).ID
    for name in (b"c", b"a", b"b"):
        client.put(prefix + name, b"", lease=lease)
    client.put(prefix + b"kept", b"", lease=kept)
    watch.events(4)
    for _ in range(3):
        time.sleep(0.5)
        client.keep_alive(kept)
    assert client.prefix(prefix).count == 4
    reply = watch.next(timeout=6)
    elapsed = time.monotonic() - started
    assert 2.0 <= elapsed < 5.0, elapsed
    assert [brief(e)[:2] for e in reply.events] == [("DELETE", prefix + n) for n in (b"a", b"b", b"c")]
    assert len({e.kv.mod_revision for e in reply.events}) == 1
    assert client.time_to_live(lease).TTL == -1 and lease not in client.leases()
    # The renewed one goes as well in the end, after its own time.
    renewed = time.monotonic()
    client.keep_alive(kept)
    event, = watch.events(1, timeout=6)
    assert event.type == DELETE and time.monotonic() - renewed >= 2.0


def test_many_leases_expire_each_in_its_own_revision(client, watch, prefix):
    watch.open(prefix, prefix_end(prefix), filters=[0])
    before = client.revision()
    for number in range(30):
        client.put(prefix + b"%02d" % number, b"", lease=client.grant(2).ID)
    events = watch.events(30, timeout=8)
    assert len({e.kv.key for e in events}) == 30
    assert sorted(e.kv.mod_revision for e in events) == list(range(before + 31, before + 61))


# -- Restart (last: it restarts the module's server)


def test_leases_and_their_keys_survive_kill_and_restart(client, server, prefix):
    long, short = client.grant(1000).ID, client.grant(3).ID
    for name in (b"a", b"b"):
        client.put(prefix + name, b"v", lease=long)
    client.put(prefix + b"short", b"", lease=short)
    revision = client.revision()
    server.kill()
    server.start()
    with server.client() as again:
        reply = again.time_to_live(long, keys=True)
        assert 0 < reply.TTL <= 1000 and reply.grantedTTL == 1000
        assert sorted(reply.keys) == [prefix + b"a", prefix + b"b"]
        assert set(again.leases()) >= {long} and again.get(prefix + b"a").lease == long
        assert again.revision() >= revision
        # The short one still expires after the restart.
        eventually(lambda: again.get(prefix + b"short") is None, timeout=8)
        assert again.revoke(long) and again.prefix(prefix).count == 0
