"""The Lock and Election services stand in one queue with locks that clients make of keys themselves.

Method: raw gRPC against one member, as jetcd and the Rust client use these services; etcd's semantics, texts included.
"""

import queue
import threading
import time

import grpc
import pytest

from harness import M, Server, eventually, prefix_end, refused
from test_plugins import Plugins


def lock(client, name, lease, **options):
    return client.call("Lock.Lock", name=name, lease=lease, **options)


def names(client, name):
    """The leases in the queue, oldest first."""
    held = client.range(name + b"/", prefix_end(name + b"/"), sort_target="CREATE", sort_order="ASCEND")
    return [int(pair.key.rpartition(b"/")[2], 16) for pair in held.kvs]


@pytest.fixture
def name(prefix):
    return prefix[:-1]


@pytest.fixture
def leases(client):
    made = [client.grant(60).ID for _ in range(6)]
    yield made
    for lease in set(made) & set(client.leases()):
        client.revoke(lease)


# -- Locks


def test_a_lock_is_a_key_on_its_lease(client, name, leases):
    reply = lock(client, name, leases[0])
    assert reply.key == name + b"/%x" % leases[0] and reply.header.revision and reply.header.member_id
    pair = client.get(reply.key)
    assert (pair.value, pair.lease, pair.version) == (b"", leases[0], 1)
    again = lock(client, name, leases[0])
    assert again.key == reply.key and client.get(reply.key).version == 1
    assert client.call("Lock.Unlock", key=reply.key).header.revision == pair.mod_revision + 1
    assert client.get(reply.key) is None
    client.call("Lock.Unlock", key=reply.key)


def test_locks_are_given_in_the_order_of_asking(client, name, leases):
    """Each waits for the one before it alone; none is given twice."""
    got = queue.Queue()
    waiting = []
    for lease in leases:
        waiting.append(client.future("Lock.Lock", name=name, lease=lease, timeout=20))
        waiting[-1].add_done_callback(lambda done, lease=lease: got.put((lease, done)))
        eventually(lambda: names(client, name)[-1:] == [lease])
    for lease in leases:
        first, done = got.get(timeout=5)
        assert first == lease and names(client, name)[0] == lease
        with pytest.raises(queue.Empty):
            got.get(timeout=0.1)
        client.call("Lock.Unlock", key=done.result().key)


def test_many_at_once_never_share_a_lock(client, server, name):
    """Unlocked reads and writes of a counter lose nothing while the lock keeps others out."""
    def worker():
        with server.client() as own:
            lease = own.grant(60).ID
            for _ in range(10):
                held = lock(own, name, lease, timeout=60)
                before = own.get(name + b"-counter")
                own.put(name + b"-counter", b"%d" % (int(before.value if before else 0) + 1))
                own.call("Lock.Unlock", key=held.key)

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert client.get(name + b"-counter").value == b"80"


def test_who_gives_up_leaves_the_queue(client, name, leases):
    held = lock(client, name, leases[0])
    second, third = (client.future("Lock.Lock", name=name, lease=lease, timeout=20) for lease in leases[1:3])
    eventually(lambda: set(names(client, name)) == set(leases[:3]))
    second.cancel()
    eventually(lambda: set(names(client, name)) == {leases[0], leases[2]})
    with pytest.raises(grpc.RpcError):
        lock(client, name, leases[3], timeout=0.3)
    eventually(lambda: set(names(client, name)) == {leases[0], leases[2]})
    client.call("Lock.Unlock", key=held.key)
    assert third.result().key == name + b"/%x" % leases[2]


def test_keys_that_clients_put_themselves_count(client, name, leases):
    """etcdctl lock and the clients' own libraries make such keys."""
    other = name + b"/another-client"
    client.put(other)
    waiting = client.future("Lock.Lock", name=name, lease=leases[0], timeout=20)
    eventually(lambda: client.prefix(name + b"/").count == 2)
    client.put(other, b"not gone by this")
    time.sleep(0.2)
    assert not waiting.done()
    client.delete(other)
    assert waiting.result(5).key


def test_a_holder_s_lease_that_ends_hands_the_lock_on(client, name, leases):
    lock(client, name, leases[0])
    waiting = client.future("Lock.Lock", name=name, lease=leases[1], timeout=20)
    eventually(lambda: len(names(client, name)) == 2)
    client.revoke(leases[0])
    assert waiting.result(5).key == name + b"/%x" % leases[1]


def test_a_waiter_s_lease_that_ends_is_told_at_its_turn(client, name, leases):
    held = lock(client, name, leases[0])
    waiting = client.future("Lock.Lock", name=name, lease=leases[1], timeout=20)
    eventually(lambda: len(names(client, name)) == 2)
    client.revoke(leases[1])
    client.call("Lock.Unlock", key=held.key)
    with refused("UNKNOWN", "mutex: session is expired"):
        waiting.result(5)


def test_a_lock_without_a_lease_gets_one_of_a_minute(client, name):
    reply = lock(client, name, 0)
    lease = int(reply.key.rpartition(b"/")[2], 16)
    assert 50 < client.time_to_live(lease).TTL <= 60
    client.revoke(lease)
    assert client.get(reply.key) is None


def test_errors_have_etcd_s_texts(client, name):
    for lease in (4712, -5):
        with refused("UNKNOWN", "etcdserver: requested lease not found"):
            lock(client, name, lease)
    with refused("UNKNOWN", "etcdserver: key is not provided"):
        client.call("Lock.Unlock")
    assert names(client, name) == []


def test_a_stopping_server_ends_the_wait(tmp_path, binary):
    member = Server(tmp_path).start()
    with member.client() as client:
        leases = [client.grant(60).ID for _ in range(2)]
        lock(client, b"n", leases[0])
        waiting = client.future("Lock.Lock", name=b"n", lease=leases[1], timeout=20)
        eventually(lambda: len(names(client, b"n")) == 2)
        member.terminate(10)
        with pytest.raises(grpc.RpcError):
            waiting.result(5)
    member.start()
    with member.client() as client:
        # Who had it has it still.
        assert names(client, b"n")[0] == leases[0]
        with pytest.raises(grpc.RpcError):
            lock(client, b"n", leases[1], timeout=0.3)
    member.stop()


# -- Elections


def campaign(client, name, lease, value, **options):
    return client.call("Election.Campaign", name=name, lease=lease, value=value, **options).leader


def test_a_campaign_wins_and_may_say_more(client, name, leases):
    leader = campaign(client, name, leases[0], b"one")
    key = name + b"/%x" % leases[0]
    assert (leader.name, leader.key, leader.lease) == (name, key, leases[0])
    assert client.get(key).create_revision == leader.rev
    assert campaign(client, name, leases[0], b"two") == leader and client.get(key).value == b"two"
    client.call("Election.Proclaim", leader=leader, value=b"three")
    reply = client.call("Election.Leader", name=name)
    assert (reply.kv.value, reply.kv.create_revision, reply.kv.version) == (b"three", leader.rev, 3)
    client.call("Election.Resign", leader=leader)
    assert client.get(key) is None
    client.call("Election.Resign", leader=leader)


def test_the_next_in_the_queue_follows(client, name, leases):
    leaders = [campaign(client, name, leases[0], b"0")]
    waiting = []
    for i, lease in enumerate(leases[1:4]):
        waiting.append(client.future("Election.Campaign", name=name, lease=lease, value=b"%d" % (i + 1), timeout=20))
        eventually(lambda: names(client, name)[-1:] == [lease])
    waiting[0].cancel()
    eventually(lambda: leases[1] not in names(client, name))
    client.call("Election.Resign", leader=leaders[0])
    second = waiting[1].result(5).leader
    assert client.call("Election.Leader", name=name).kv.value == b"2" and not waiting[2].done()
    client.revoke(second.lease)
    assert waiting[2].result(5).leader.lease == leases[3]


def test_election_errors_have_etcd_s_texts(client, name, leases):
    with refused("UNKNOWN", "election: no leader"):
        client.call("Election.Leader", name=name)
    for method in ("Election.Proclaim", "Election.Resign"):
        with refused("UNKNOWN", '"leader" field must be provided'):
            client.call(method)
    with refused("UNKNOWN", "etcdserver: requested lease not found"):
        campaign(client, name, 4713, b"")
    leader = campaign(client, name, leases[0], b"one")
    stale = M.LeaderKey(name=name, key=leader.key, rev=leader.rev - 1, lease=leader.lease)
    with refused("UNKNOWN", "election: not leader"):
        client.call("Election.Proclaim", leader=stale, value=b"two")
    client.call("Election.Resign", leader=stale)
    assert client.get(leader.key).value == b"one"


def test_observe_tells_every_proclamation_and_every_leader_in_order(client, name, leases):
    told = []
    stream = client.call("Election.Observe", name=name, timeout=30)
    threading.Thread(target=lambda: _collect(stream, told), daemon=True).start()
    time.sleep(0.3)
    assert told == []
    wanted = []
    for lease in leases[:3]:
        leader = campaign(client, name, lease, b"%d-0" % lease)
        wanted.append(b"%d-0" % lease)
        for i in range(1, 30):
            client.call("Election.Proclaim", leader=leader, value=b"%d-%d" % (lease, i))
            wanted.append(b"%d-%d" % (lease, i))
        # One who waits is not told of.
        waiting = client.future("Election.Campaign", name=name, lease=leases[5], value=b"waits", timeout=20)
        eventually(lambda: leases[5] in names(client, name))
        waiting.cancel()
        eventually(lambda: leases[5] not in names(client, name))
        eventually(lambda: told == wanted)
        client.call("Election.Resign", leader=leader)
    late = client.call("Election.Observe", name=name, timeout=30)
    campaign(client, name, leases[3], b"last")
    assert next(late).kv.value == b"last"
    eventually(lambda: told == wanted + [b"last"])
    stream.cancel()
    late.cancel()


def _collect(stream, told):
    try:
        for reply in stream:
            assert reply.header.revision >= reply.kv.mod_revision
            told.append(reply.kv.value)
    except grpc.RpcError:
        pass


# -- Policy


@pytest.mark.moonraft
def test_plugins_judge_locks_by_their_keys(tmp_path, binary):
    """A lock is no way around a rule about the key that it is made of; refused, nothing is left."""
    plugins = Plugins(tmp_path)
    plugins.write("closed", ["authz"], """
        local M = {}
        function M.authz(req)
          for _, op in req:ops() do
            if op.write and op:touches("closed/") then return false, "closed" end
          end
          return true
        end
        return M""")
    plugins.bind('[[plugin]]\nname = "closed"\n')
    member = Server(tmp_path, config=plugins.config).start()
    with member.client() as client:
        lease = client.grant(60).ID
        open_lock = lock(client, b"open", lease)
        for method, fields in (("Lock.Lock", dict(name=b"closed", lease=lease)),
                               ("Lock.Unlock", dict(key=b"closed/1")),
                               ("Election.Campaign", dict(name=b"closed", lease=lease))):
            with refused("PERMISSION_DENIED", "etcdserver: permission denied"):
                client.call(method, **fields)
        assert client.prefix(b"closed").count == 0
        client.call("Lock.Unlock", key=open_lock.key)
    member.stop()
