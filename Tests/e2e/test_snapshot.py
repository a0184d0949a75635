"""A backup holds everything acknowledged before it was asked for; a damaged one is refused; what is restored from it is a
new cluster whose revisions lie above all that clients have seen; a member can go on alone.

Method: etcdctl 3.4.23 and 3.5.1, moonctl and raw gRPC against real servers, writers at work meanwhile, and the offline verbs
of the server's binary on what was saved.
"""

import hashlib
import json
import os
import stat
import threading
import time

import pytest

from harness import (ETCDCTL_34, ETCDCTL_35, IS_ETCD, SERVER_BINARY, M, Server, eventually, free_port, moonctl_binary,
                     refused, run, run_to_end)

PIECE = 32 * 1024
BUMP = 1_000_000_000

SAVERS = {
    "etcdctl-3.4": (ETCDCTL_34, {"ETCDCTL_API": "3"}),
    "etcdctl-3.5": (ETCDCTL_35, {}),
    "moonctl": (moonctl_binary(), {}),
}


def save(who, address, path, check=True):
    binary, env = SAVERS[who]
    return run([binary, "--endpoints", address, "snapshot", "save", path], env=env, check=check)


def offline(*arguments, check=True):
    return run([SERVER_BINARY, "snapshot", *arguments], check=check)


def status(path):
    return json.loads(offline("status", path, "-w", "json").stdout)


def fill(client, count, size, prefix=b"fill/"):
    for number in range(count):
        client.put(prefix + b"%06d" % number, os.urandom(size))


def stream(client, timeout=30):
    """The replies of one Snapshot call."""
    return list(client._call("Maintenance.Snapshot")(M.SnapshotRequest(), timeout=timeout))


def save_raw(client, path):
    path.write_bytes(b"".join(reply.blob for reply in stream(client)))
    return path


# -- The stream


def test_stream_of_pieces_then_a_digest(client):
    fill(client, 40, 20_000)
    replies = stream(client)
    *pieces, digest = replies
    data = b"".join(piece.blob for piece in pieces)
    assert digest.blob == hashlib.sha256(data).digest() and digest.remaining_bytes == 0
    assert len(data) % 4096 == 0 and len(data) > 800_000
    left = len(data)
    for piece in pieces:
        left -= len(piece.blob)
        assert piece.remaining_bytes == left
        assert len(piece.blob) == PIECE or left == 0
    if not IS_ETCD:
        # 3.5.1 sends no version yet.
        assert {reply.version for reply in replies} == {"3.7.0"}


@pytest.mark.moonraft
def test_contains_what_was_acknowledged(client, tmp_path):
    """The backend is committed every 100 ms only; a snapshot must wait for what it lacks."""
    for number in range(15):
        revision = client.put(b"ack", b"%d" % number).header.revision
        assert status(save_raw(client, tmp_path / "ack.db"))["revision"] == revision


@pytest.mark.moonraft
def test_a_client_that_stops_reading_costs_little_and_harms_nobody(server, client, tmp_path):
    """Five streams are opened and not read: four hold a copy each, the fifth is refused; all end with their clients."""
    fill(client, 150, 60_000, b"slow/")
    before = server.anonymous_bytes()
    calls = []
    for _ in range(5):
        with_window = server.client(options=[("grpc.http2.lookahead_bytes", 65536), ("grpc.http2.bdp_probe", 0)])
        call = with_window._call("Maintenance.Snapshot")(M.SnapshotRequest(), timeout=60)
        try:
            next(call)
            calls.append((with_window, call))
        except Exception as error:
            assert error.details() == "etcdserver: too many requests", error
            with_window.close()
    assert len(calls) == 4
    assert server.anonymous_bytes() - before < 32 << 20
    assert client.put(b"during", b"1").header.revision > 0
    assert os.listdir(server.data / "member/snap") == [], "the copies have no names"
    for connected, call in calls:
        call.cancel()
        connected.close()
    eventually(lambda: not _refused(client), timeout=10)


def _refused(client):
    try:
        return not stream(client)
    except Exception:
        return True


# -- Tools


@pytest.mark.parametrize("who", sorted(SAVERS))
@pytest.mark.moonraft
def test_saved_by_every_tool(server, client, tmp_path, who):
    client.put(b"tool", who.encode())
    path = tmp_path / "backup.db"
    done = save(who, server.address, path)
    assert "Snapshot saved at %s\n" % path in done.stdout
    assert sorted(os.listdir(tmp_path)) == ["backup.db"], "no .part is left"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = status(path)
    assert found["revision"] == client.revision()
    assert found["totalSize"] == path.stat().st_size - 32
    assert found["totalKey"] == client.range(b"\0", b"\0", count_only=True).count
    assert offline("verify", path).stdout.startswith("%s: ok, sha256 matches, " % path)


@pytest.mark.moonraft
def test_moonctl_speaks_as_etcdctl(server, tmp_path):
    """Refusals in etcdctl 3.5.1's words, with its exit codes, and nothing left behind."""
    for arguments in [[], ["a", "b"]]:
        both = [run([SAVERS[who][0], "snapshot", "save", *arguments], check=False) for who in ("moonctl", "etcdctl-3.5")]
        assert [(b.returncode, b.stderr) for b in both] == \
            [(128, "Error: snapshot save expects one argument\n")] * 2
    two = server.address + "," + server.address
    for who in ("moonctl", "etcdctl-3.5"):
        done = save(who, two, tmp_path / "x", check=False)
        assert done.returncode == 5
        assert done.stderr.endswith(
            "Error: snapshot must be requested to one selected node, not multiple [%s %s]\n"
            % (server.address, server.address))
        done = save(who, server.address, tmp_path / "none/x", check=False)
        assert done.returncode == 5 and "Error: could not open %s/none/x.part (" % tmp_path in done.stderr
    assert os.listdir(tmp_path) == []
    done = save("moonctl", "127.0.0.1:1", tmp_path / "x", check=False)
    assert done.returncode == 5 and os.listdir(tmp_path) == []


@pytest.mark.moonraft
def test_status_in_every_format(client, tmp_path):
    path = save_raw(client, tmp_path / "f.db")
    found = status(path)
    row = "%x, %d, %d, " % (found["hash"], found["revision"], found["totalKey"])
    simple = offline("status", path).stdout
    assert simple.startswith(row) and simple.endswith(", 3.7.0\n")
    table = offline("status", path, "--write-out=table").stdout.splitlines()
    assert [len(line) for line in table] == [len(table[0])] * 5
    assert table[1].split() == "| HASH | REVISION | TOTAL KEYS | TOTAL SIZE | VERSION |".split()
    assert '"Revision" : %d\n' % found["revision"] in offline("status", path, "-w", "fields").stdout
    assert offline("status", path, "-w", "yaml", check=False).returncode == 4
    assert offline("status", check=False).returncode == 1


@pytest.mark.moonraft
def test_damage_is_named(client, tmp_path):
    sound = save_raw(client, tmp_path / "sound.db").read_bytes()
    bad = tmp_path / "bad.db"
    for position in [0, 4096, len(sound) // 2, len(sound) - 40, len(sound) - 1]:
        damaged = bytearray(sound)
        damaged[position] ^= 0x10
        bad.write_bytes(damaged)
        for verb in ["verify", "status"]:
            done = offline(verb, bad, check=False)
            assert done.returncode == 1 and "%s: expected sha256 " % bad in done.stderr, done
        done = offline("restore", bad, "--data-dir", tmp_path / "no", "--name", "a", "--initial-cluster",
                       "a=http://127.0.0.1:1", "--initial-advertise-peer-urls", "http://127.0.0.1:1", check=False)
        assert done.returncode == 1 and not (tmp_path / "no").exists()
    bad.write_bytes(sound[:-32])
    assert "snapshot missing hash but --skip-hash-check=false" in offline("verify", bad, check=False).stderr
    assert "ok, sha256 not looked at" in offline("verify", bad, "--skip-hash-check").stdout
    bad.write_bytes(sound[:-4096])
    assert offline("verify", bad, check=False).returncode == 1
    assert "cut short" in offline("verify", bad, "--skip-hash-check", check=False).stderr


# -- Restore


def restored(tmp_path, snapshot, *flags, name="r1"):
    """A server, not started, over a data directory restored for it."""
    member = Server(tmp_path / name, name=name)
    member.directory.mkdir()
    peer = "http://127.0.0.1:%d" % member.peer_port
    offline("restore", snapshot, "--data-dir", member.data, "--name", name, "--initial-cluster", "%s=%s" % (name, peer),
            "--initial-cluster-token", "e2e", "--initial-advertise-peer-urls", peer, *flags)
    return member


@pytest.mark.moonraft
def test_saved_under_load_then_restored(server, client, tmp_path):
    """Writers do not stop for the snapshot; what they had been told before it is in it, with its revision."""
    acknowledged, stop = [{} for _ in range(4)], threading.Event()

    def write(number):
        with server.client() as own:
            count = 0
            while not stop.is_set():
                key = b"load/%d/%d" % (number, count % 300)
                revision = own.put(key, b"%d" % count).header.revision
                acknowledged[number][key] = (b"%d" % count, revision)
                count += 1

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    time.sleep(1)
    before = {}
    for part in acknowledged:
        before.update(part.copy())
    top = max(revision for _, revision in before.values())
    save("etcdctl-3.5", server.address, tmp_path / "load.db")
    after = client.revision()
    stop.set()
    for writer in writers:
        writer.join()

    offline("verify", tmp_path / "load.db")
    found = status(tmp_path / "load.db")
    assert top <= found["revision"] <= after
    member = restored(tmp_path, tmp_path / "load.db").start()
    with member.client() as fresh:
        reply = fresh.prefix(b"load/")
        assert reply.header.revision == found["revision"] + BUMP
        assert reply.header.cluster_id != client.range(b"x").header.cluster_id
        pairs = {kv.key: kv for kv in reply.kvs}
        for key, (value, revision) in before.items():
            kv = pairs[key]
            assert kv.mod_revision >= revision and int(kv.value) >= int(value), (key, kv, value, revision)
            assert kv.mod_revision <= found["revision"]
        # Whoever resumes from a revision of the old cluster is told that its history is gone.
        with fresh.watch() as watch:
            watch.create(b"load/", b"load0", start_revision=found["revision"] + 1)
            created = watch.next()
            canceled = created if created.canceled else watch.next()
            assert canceled.canceled and canceled.compact_revision == found["revision"] + BUMP
        with refused("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted"):
            fresh.range(b"load/0/0", revision=found["revision"])
        # And life goes on above.
        with fresh.watch() as watch:
            watch.open(b"load/0/0")
            assert fresh.put(b"load/0/0", b"next").header.revision == found["revision"] + BUMP + 1
            assert watch.events(1)[0].kv.mod_revision == found["revision"] + BUMP + 1
        hash_before = fresh.call("Maintenance.HashKV").hash
        keys = fresh.range(b"\0", b"\0", count_only=True).count
    member.kill()
    member.start()
    with member.client() as fresh:
        assert fresh.call("Maintenance.HashKV").hash == hash_before
        assert fresh.range(b"\0", b"\0", count_only=True).count == keys
    member.stop()


@pytest.mark.moonraft
def test_leases_stay_alarms_go_members_are_new(server, client, tmp_path):
    lease = client.grant(3600).ID
    client.put(b"leased", b"v", lease=lease)
    client.call("Maintenance.Alarm", action=1, memberID=77, alarm=1)
    path = save_raw(client, tmp_path / "b.db")
    client.call("Maintenance.Alarm", action=2, memberID=77, alarm=1)
    member = restored(tmp_path, path).start()
    with member.client() as fresh:
        assert fresh.time_to_live(lease, keys=True).keys == [b"leased"]
        assert not fresh.call("Maintenance.Alarm").alarms
        members = eventually(lambda: [m for m in fresh.call("Cluster.MemberList").members if m.clientURLs])
        assert [(m.name, list(m.clientURLs)) for m in members] == [("r1", [member.url])]
        assert members[0].ID == fresh.range(b"x").header.member_id
        assert fresh.revoke(lease) and fresh.get(b"leased") is None
    member.stop()


@pytest.mark.moonraft
def test_without_the_bump_history_stays(server, client, tmp_path):
    first = client.put(b"history", b"1").header.revision
    client.put(b"history", b"2")
    path = save_raw(client, tmp_path / "b.db")
    member = restored(tmp_path, path, "--bump-revision", "0").start()
    with member.client() as fresh:
        assert fresh.revision() == status(path)["revision"]
        assert fresh.range(b"history", revision=first).kvs[0].value == b"1"
    member.stop()


@pytest.mark.moonraft
def test_restore_refuses(client, tmp_path):
    path = save_raw(client, tmp_path / "b.db")
    peer = "http://127.0.0.1:%d" % free_port()
    here = ["--name", "a", "--initial-cluster", "a=" + peer, "--initial-advertise-peer-urls", peer]

    def refusal(*arguments):
        done = offline("restore", *arguments, check=False)
        assert done.returncode == 1
        return done.stderr

    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    assert refusal(path, "--data-dir", tmp_path / "full", *here) == \
        'moonraft: data-dir "%s/full" not empty or could not be read\n' % tmp_path
    assert os.listdir(tmp_path / "full") == ["file"]
    assert "exactly one argument" in refusal("--data-dir", tmp_path / "n", *here)
    assert "--mark-compacted required if --bump-revision > 0" in refusal(
        path, "--data-dir", tmp_path / "n", "--mark-compacted=false", *here)
    assert "--mark-compacted required" in refusal(
        path, "--data-dir", tmp_path / "n", "--bump-revision=0", "--mark-compacted", *here)
    assert "leaves no room" in refusal(path, "--data-dir", tmp_path / "n", "--bump-revision", str(2**63 - 1), *here)
    assert "couldn't find local name" in refusal(path, "--data-dir", tmp_path / "n", "--name", "b", "--initial-cluster",
                                                 "a=" + peer, "--initial-advertise-peer-urls", peer)
    assert not (tmp_path / "n").exists()


@pytest.mark.moonraft
def test_interrupted_restore_never_starts(client, tmp_path):
    path = save_raw(client, tmp_path / "b.db")
    member = restored(tmp_path, path)
    (member.data / "member/restoring").touch(0o600)
    code, said = run_to_end(member)
    assert code == 1 and "a restore into it was interrupted" in said


@pytest.mark.moonraft
def test_saved_from_a_stopped_node(tmp_path, binary):
    member = Server(tmp_path).start()
    with member.client() as client:
        revision = client.put(b"k", b"v").header.revision
    busy = offline("save", tmp_path / "x.db", "--data-dir", member.data, check=False)
    assert busy.returncode == 1 and "is using this data directory" in busy.stderr
    assert member.terminate() == 0
    done = offline("save", tmp_path / "x.db", "--data-dir", member.data)
    assert (done.stdout, done.stderr) == ("Snapshot saved at %s/x.db\n" % tmp_path, "")
    assert status(tmp_path / "x.db")["revision"] == revision
    offline("verify", tmp_path / "x.db")
    # Killed right after a write, the log is ahead of the backend, and that is said.
    member.start()
    with member.client() as client:
        client.put(b"k", b"w")
        member.kill()
    done = offline("save", tmp_path / "y.db", "--data-dir", member.data)
    if status(tmp_path / "y.db")["revision"] == revision:
        assert "are not in the backup" in done.stderr


# -- Going on alone


@pytest.mark.moonraft
def test_force_new_cluster(tmp_path, binary):
    member = Server(tmp_path).start()
    with member.client() as client:
        fill(client, 50, 100)
        ids = client.range(b"x").header
        hash_before = client.call("Maintenance.HashKV").hash
    member.kill()
    member.flags = ["--force-new-cluster"]
    member.start()
    assert "this member goes on alone" in member.log_text()
    with member.client() as client:
        header = client.range(b"x").header
        assert (header.cluster_id, header.member_id) == (ids.cluster_id, ids.member_id)
        assert client.call("Maintenance.HashKV").hash == hash_before
        assert [m.ID for m in client.call("Cluster.MemberList").members] == [ids.member_id]
        client.put(b"k", b"v")
    member.stop()
    member.flags = []
    member.start()
    with member.client() as client:
        assert client.get(b"k").value == b"v"
    member.stop()


@pytest.mark.moonraft
def test_force_new_cluster_is_a_flag_only(tmp_path, binary):
    config = tmp_path / "c.toml"
    config.write_text("[cluster]\nforce-new-cluster = true\n")
    done = run([SERVER_BINARY, "check", "--config", config], check=False)
    assert done.returncode == 1 and "force-new-cluster" in done.stderr


# -- A cluster of three


class Trio:
    """Three members restored from one file, or founded when there is none, started together."""

    def __init__(self, tmp_path, snapshot=None):
        self.members = [Server(tmp_path / name, name=name) for name in ("r1", "r2", "r3")]
        peers = ["http://127.0.0.1:%d" % member.peer_port for member in self.members]
        initial = ",".join("%s=%s" % (member.name, peer) for member, peer in zip(self.members, peers))
        for member, peer in zip(self.members, peers):
            member.directory.mkdir()
            # The last of two equal flags counts.
            member.flags = ["--initial-cluster", initial]
            if snapshot:
                offline("restore", snapshot, "--data-dir", member.data, "--name", member.name, "--initial-cluster", initial,
                        "--initial-cluster-token", "e2e", "--initial-advertise-peer-urls", peer)

    def start(self):
        for member in self.members:
            member.spawn()
        for member in self.members:
            member.wait_ready(40)
        return self

    def stop(self):
        for member in self.members:
            member.stop()


@pytest.mark.moonraft
def test_three_members_from_one_file(client, tmp_path):
    fill(client, 200, 500, b"trio/")
    client.delete(b"trio/000007")
    path = save_raw(client, tmp_path / "b.db")
    found = status(path)
    trio = Trio(tmp_path, path)
    content = [status(member.data / "member/db/data.mdb") for member in trio.members]
    assert content[0] == content[1] == content[2], "backends are equal before the first start"
    trio.start()
    clients = [member.client() for member in trio.members]
    assert len({c.range(b"x").header.cluster_id for c in clients}) == 1
    assert len({c.range(b"x").header.member_id for c in clients}) == 3
    revision = clients[0].put(b"after", b"1").header.revision
    assert revision == found["revision"] + BUMP + 1
    for connected in clients:
        assert connected.get(b"after").value == b"1"
        assert connected.range(b"\0", b"\0", count_only=True).count == found["totalKey"] + 1
        assert sorted(m.name for m in connected.call("Cluster.MemberList").members) == ["r1", "r2", "r3"]
    hashes = {connected.call("Maintenance.HashKV", revision=revision).hash for connected in clients}
    assert len(hashes) == 1
    # Any member gives a backup, a follower too, and each holds what that member has acknowledged.
    for number, connected in enumerate(clients):
        last = connected.put(b"from", b"%d" % number).header.revision
        assert status(save_raw(connected, tmp_path / "c.db"))["revision"] == last
    for connected in clients:
        connected.close()
    trio.stop()


@pytest.mark.moonraft
def test_quorum_lost_for_good(tmp_path, binary):
    """Two of three members are gone; the third goes on alone with every acknowledged write, and grows again."""
    trio = Trio(tmp_path).start()
    survivor = trio.members[2]
    with trio.members[0].client() as client:
        fill(client, 100, 200)
        last = client.put(b"last", b"1").header.revision
    with survivor.client() as client:
        assert client.get(b"last").value == b"1", "a linearizable read: the survivor has it all"
        ids = client.range(b"x").header
    for member in trio.members:
        member.kill()
    flags = survivor.flags
    survivor.flags = flags + ["--force-new-cluster"]
    survivor.start(40)
    with survivor.client() as client:
        header = client.put(b"alone", b"1").header
        assert (header.cluster_id, header.member_id) == (ids.cluster_id, ids.member_id)
        assert header.revision == last + 1
        assert client.range(b"fill/", b"fill0", count_only=True).count == 100
        assert [m.ID for m in client.call("Cluster.MemberList", linearizable=True).members] == [ids.member_id]
    survivor.stop()
    survivor.flags = flags
    survivor.start(40)
    # An old member that comes back from the dead is not let in.
    trio.members[0].spawn()
    time.sleep(3)
    with survivor.client() as client:
        assert client.put(b"still", b"1").header.revision == last + 2
        assert [m.ID for m in client.call("Cluster.MemberList", linearizable=True).members] == [ids.member_id]
        learner = client.call("Cluster.MemberAdd", peerURLs=["http://127.0.0.1:%d" % free_port()], isLearner=True)
        assert len(learner.members) == 2
    trio.stop()
