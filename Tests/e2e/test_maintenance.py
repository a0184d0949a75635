"""Maintenance, Cluster, Auth and health RPCs answer what operators' tools read from them, on a single member.

Method: raw gRPC against one member with a known name and URLs.
"""

import re
import time

import pytest

from harness import IS_ETCD, M, METHODS, Server, failure, prefix_end, refused

FLAGS = ["--quota-backend-bytes", "268435456"]


# -- Status


def test_status(client, server):
    client.put(b"status", b"v")
    before = client.call("Maintenance.Status")
    client.put(b"status", b"w")
    reply = client.call("Maintenance.Status")
    assert re.fullmatch(r"3\.\d+\.\d+(-.*)?", reply.version), "tools parse etcd's version from here"
    assert reply.dbSize > 0 and 0 < reply.dbSizeInUse <= reply.dbSize
    assert reply.leader == reply.header.member_id != 0
    assert reply.raftTerm == reply.header.raft_term >= 2
    assert reply.raftIndex > before.raftIndex and reply.raftAppliedIndex > before.raftAppliedIndex
    assert reply.raftAppliedIndex <= reply.raftIndex
    assert (list(reply.errors), reply.isLearner) == ([], False)
    assert reply.header.revision == client.revision()


@pytest.mark.differs_on_351("storage version, quota and downgrade information came with 3.6")
def test_status_fields_of_newer_releases(client):
    reply = client.call("Maintenance.Status")
    assert re.fullmatch(r"3\.\d+\.\d+", reply.storageVersion)
    assert reply.dbSizeQuota == 268435456
    assert reply.downgradeInfo.enabled is False and reply.downgradeInfo.targetVersion == ""


# -- Alarms


def alarms(client, **fields):
    return [(a.memberID, M.AlarmMember(alarm=a.alarm).alarm) for a in client.call("Maintenance.Alarm", **fields).alarms]


GET, ACTIVATE, DEACTIVATE = range(3)
NOSPACE, CORRUPT = 1, 2


def test_alarm_life(client, prefix):
    member = client.call("Maintenance.Status").header.member_id
    assert alarms(client) == []
    assert alarms(client, action=ACTIVATE, memberID=member, alarm=NOSPACE) == [(member, NOSPACE)]
    # A second activation changes nothing.
    client.call("Maintenance.Alarm", action=ACTIVATE, memberID=member, alarm=NOSPACE)
    assert alarms(client) == alarms(client, alarm=NOSPACE) == [(member, NOSPACE)]
    assert alarms(client, alarm=CORRUPT) == []
    errors = list(client.call("Maintenance.Status").errors)
    assert len(errors) == 1 and "NOSPACE" in errors[0] and str(member) in errors[0]
    assert alarms(client, action=DEACTIVATE, memberID=member, alarm=NOSPACE) == [(member, NOSPACE)]
    assert alarms(client) == [] and not client.call("Maintenance.Status").errors


def test_nospace_refuses_growth_only(client, prefix):
    text = "etcdserver: mvcc: database space exceeded"
    member = client.call("Maintenance.Status").header.member_id
    lease = client.grant(60).ID
    client.put(prefix + b"old", b"v")
    client.call("Maintenance.Alarm", action=ACTIVATE, memberID=member, alarm=NOSPACE)
    try:
        with refused("RESOURCE_EXHAUSTED", text):
            client.put(prefix, b"v")
        with refused("RESOURCE_EXHAUSTED", text):
            client.grant(60)
        with refused("RESOURCE_EXHAUSTED", text):
            client.txn(success=[M.RequestOp(request_put=M.PutRequest(key=prefix, value=b"v"))])
        assert client.get(prefix + b"old").value == b"v"
        assert client.delete(prefix + b"old").deleted == 1
        assert client.txn(success=[M.RequestOp(request_range=M.RangeRequest(key=prefix))]).succeeded
        assert client.keep_alive(lease)[0].TTL == 60
        client.revoke(lease)
        client.compact(client.revision())
    finally:
        client.call("Maintenance.Alarm", action=DEACTIVATE, memberID=member, alarm=NOSPACE)
    client.put(prefix, b"v")


def test_corrupt_alarm_refuses_writes_with_data_loss(client, prefix):
    member = client.call("Maintenance.Status").header.member_id
    client.put(prefix, b"v")
    client.call("Maintenance.Alarm", action=ACTIVATE, memberID=member, alarm=CORRUPT)
    try:
        with refused("DATA_LOSS", "etcdserver: corrupt cluster"):
            client.put(prefix, b"w")
        with refused("DATA_LOSS", "etcdserver: corrupt cluster"):
            client.delete(prefix)
        assert client.get(prefix).value == b"v"
    finally:
        client.call("Maintenance.Alarm", action=DEACTIVATE, memberID=member, alarm=CORRUPT)
    client.put(prefix, b"w")


@pytest.mark.differs_on_351("3.5.1 refuses a field of another wire type, 3.7 passes over it")
def test_alarm_request_with_fields_it_does_not_know(client):
    for payload in (b"\x0a\x00", b"\x12\x01x\xa2\x06\x01x"):
        assert not M.AlarmResponse.FromString(client.raw(METHODS["Maintenance.Alarm"].path, payload)).alarms


@pytest.mark.differs_on_351("an unknown alarm action ends the 3.5.1 process", run=False)
def test_unknown_alarm_action_is_harmless(client, server):
    failure_or_reply = None
    try:
        failure_or_reply = client.call("Maintenance.Alarm", action=77)
    except Exception as error:  # either answer is fine, as long as the server lives
        failure_or_reply = error
    assert failure_or_reply is not None and server.alive() and client.revision() > 0


def test_quota_raises_the_alarm_by_itself(tmp_path):
    """A member with a 20 MB quota refuses when full, keeps serving reads and deletes, and works again after
    deleting, compacting, defragmenting and disarming."""
    member = Server(tmp_path, flags=["--quota-backend-bytes", "20000000"]).start()
    try:
        with member.client() as client:
            code = None
            for number in range(60):
                try:
                    client.put(b"full/%d" % number, b"x" * 1_000_000)
                except Exception as error:
                    code = error.code().name, error.details()
                    break
            assert code == ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded")
            assert 5 <= number <= 45   # the size on disk lags behind by one batch commit
            assert [a for _, a in alarms(client)] == [NOSPACE]
            assert client.prefix(b"full/", count_only=True).count >= number - 1
            client.delete(b"full/", prefix_end(b"full/"))
            client.compact(client.revision(), physical=True)
            client.call("Maintenance.Defragment")
            # Deactivation names its member; zero stands for all members in GET only.
            assert alarms(client, action=DEACTIVATE, memberID=0, alarm=NOSPACE) == [] and alarms(client)
            (raised, _), = alarms(client)
            client.call("Maintenance.Alarm", action=DEACTIVATE, memberID=raised, alarm=NOSPACE)
            assert client.put(b"again", b"x" * 1_000_000)
    finally:
        member.stop()


# -- Hashes, defragmentation


def test_hash_kv_depends_on_content_and_revision(client, prefix):
    first = client.put(prefix, b"1").header.revision
    at_first = client.call("Maintenance.HashKV")
    second = client.put(prefix, b"2").header.revision
    assert client.call("Maintenance.HashKV").hash != at_first.hash
    assert client.call("Maintenance.HashKV").hash == client.call("Maintenance.HashKV", revision=second).hash
    assert client.call("Maintenance.HashKV", revision=first).hash == at_first.hash
    with refused("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision"):
        client.call("Maintenance.HashKV", revision=second + 1)
    client.compact(second)
    reply = client.call("Maintenance.HashKV")
    assert reply.compact_revision == second
    with refused("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted"):
        client.call("Maintenance.HashKV", revision=first)


@pytest.mark.differs_on_351("hash_revision came with 3.6")
def test_hash_kv_names_the_revision_it_hashed(client, prefix):
    now = client.put(prefix, b"1").header.revision
    assert client.call("Maintenance.HashKV").hash_revision == now
    assert client.call("Maintenance.HashKV", revision=now).hash_revision == now


def test_hash_and_defragment(client, prefix):
    assert client.call("Maintenance.Hash").hash != 0
    client.put(prefix, b"v" * 1000)
    before = client.revision()
    assert client.call("Maintenance.Defragment", timeout=30).header is not None
    assert client.get(prefix).value == b"v" * 1000 and client.revision() == before


def test_hash_is_of_what_is_kept_and_survives_a_restart(tmp_path, binary):
    """Elections and restarts move the log on and change nothing that members compare. What waits for the backend's next
    commit is committed for the purpose, for a snapshot as well."""
    member = Server(tmp_path, flags=["--backend-batch-interval=30s"]).start()
    with member.client() as client:
        client.put(b"a", b"1")
        client.grant(600, ID=7)
        begun = time.monotonic()
        before = client.call("Maintenance.Hash").hash
        assert client.call("Maintenance.Hash").hash == before
        client.delete(b"a")
        client.put(b"a", b"the value that was put last")
        assert b"the value that was put last" in b"".join(r.blob for r in client.call("Maintenance.Snapshot"))
        assert time.monotonic() - begun < 10
        client.put(b"a", b"1")
        before = client.call("Maintenance.Hash").hash
    for end in (member.kill, member.terminate):
        end()
        member.start()
        with member.client() as client:
            assert client.get(b"a").value == b"1"
            assert client.call("Maintenance.Hash").hash == before
    with member.client() as client:
        client.put(b"a", b"1")
        assert client.call("Maintenance.Hash").hash != before
    member.stop()


# -- Cluster


def test_member_list(client, server):
    for linearizable in (False, True):
        reply = client.call("Cluster.MemberList", linearizable=linearizable)
        member, = reply.members
        assert member == M.Member(ID=reply.header.member_id, name="m1", clientURLs=[server.url],
                                  peerURLs=["http://127.0.0.1:%d" % server.peer_port])
        # etcd leaves the revision out of Cluster headers.
        assert reply.header.revision == 0 and reply.header.cluster_id and reply.header.raft_term


# -- Auth without auth


def test_auth_status(client):
    reply = client.call("Auth.AuthStatus")
    assert (reply.enabled, reply.authRevision) == (False, 1)


def test_authenticate_without_auth(client):
    for name in ("root", "", "nobody"):
        with refused("FAILED_PRECONDITION", "etcdserver: authentication is not enabled"):
            client.call("Auth.Authenticate", name=name, password="secret")


@pytest.mark.differs_on_351("3.5.1 refuses unknown tokens even while auth is off")
def test_tokens_are_ignored_without_auth(client, prefix):
    client.call("KV.Put", key=prefix, value=b"v", metadata=[("token", "whatever.1")])
    client.call("KV.Range", key=prefix, metadata=[("authorization", "Bearer nonsense")])


# -- Health


def test_health_service(client):
    assert client.call("Health.Check").status == 1
    code, text = failure(client.call, "Health.Check", service="etcdserverpb.KV")
    assert (code, text) == ("NOT_FOUND", "unknown service")
    stream = client.call("Health.Watch", timeout=5)
    assert next(stream).status == 1
    stream.cancel()


@pytest.mark.moonraft
@pytest.mark.parametrize("method, payload", [
    ("Maintenance/Downgrade", b""),
    ("Auth/AuthEnable", b""), ("Auth/UserAdd", M.AuthUserAddRequest(name="u", password="p").SerializeToString()),
    ("Auth/RoleList", b""),
])
def test_what_is_not_there_yet_says_unimplemented(client, method, payload):
    code, _ = failure(client.raw, "/etcdserverpb." + method, payload)
    assert code == "UNIMPLEMENTED"
