"""The four bundled plugins do over the wire what their READMEs say, all bound at once as in the shipped configuration.

Method: one member with `auth`, `key-validation`, `audit-log` and `metrics`; requests with tokens, passwords and JWTs from
raw gRPC and etcdctl; the audit file and /metrics are read from outside.
"""

import base64
import collections
import contextlib
import crypt
import hashlib
import hmac
import json
import subprocess
import time
import urllib.request

import grpc
import pytest

from harness import ETCDCTL_35, ROOT, SERVER_BINARY, Client, Server, compare, eventually, prefix_end, put_op, refused, run

PLUGINS = ROOT / "plugins"
pytestmark = [pytest.mark.moonraft,
              pytest.mark.skipif(not all((PLUGINS / name / "plugin.toml").exists() for name in
                                         ("auth", "key-validation", "audit-log", "metrics")), reason="plugins missing")]

TOKEN, ADMIN_TOKEN, OLD_TOKEN = "static-token-of-robot", "static-token-of-admin", "expired-token-of-robot"
PASSWORD, HS_KEY = "correct horse", "a shared key of at least 32 bytes!!"
DENIED = "etcdserver: permission denied"

CONFIG = """
[plugins]
folder = "{folder}"

[[plugin]]
name = "auth"
[plugin.config]
default = "deny"
anonymous = "deny"
rules = [
  {{ prefix = "", access = "readwrite", roles = ["admin"] }},
  {{ prefix = "/shared/", access = "readwrite", users = ["*"] }},
  {{ prefix = "/shared/secret/", access = "deny", users = ["alice"] }},
  {{ prefix = "/alice/", access = "readwrite", users = ["alice"] }},
  {{ prefix = "/config/", access = "read", users = ["*"] }},
  {{ prefix = "/public/", access = "read" }},
  {{ prefix = "/drop/", access = "write", users = ["robot"] }},
]
tokens = [
  {{ user = "robot", sha256 = "{robot}" }},
  {{ user = "root", roles = ["admin"], sha256 = "{admin}" }},
  {{ user = "robot", sha256 = "{old}", expires = "2020-01-01T00:00:00Z" }},
]
[plugin.config.users]
alice = {{ bcrypt = "{bcrypt}", roles = ["people"] }}
[[plugin.config.jwt]]
secret = "{hs_key}"
algorithms = ["HS256"]
issuer = "hs"
user_prefix = "jwt:"
[[plugin.config.jwt]]
keys = "{pem}"
issuer = "rs"

[[plugin]]
name = "key-validation"
[plugin.config]
rules = [
  {{ prefix = "/shared/", max_key_bytes = 40, max_depth = 4, patterns = ["^/shared/[%w/.-]+$"], max_value_bytes = "1KiB" }},
  {{ prefix = "/shared/json/", fields = {{ "name" = "string", "port" = "integer", "tags" = "array?" }}, closed = true }},
  {{ prefix = "/shared/once/", write_once = "checked" }},
  {{ prefix = "/shared/guarded/", write_once = "guarded" }},
  {{ prefix = "/shared/kept/", protected = "delete" }},
  {{ prefix = "/shared/sealed/", protected = "write" }},
  {{ prefix = "/shared/", max_delete_keys = 5 }},
]

[[plugin]]
name = "audit-log"
[plugin.config]
path = "audit.jsonl"
level = "keys"
labels = {{ site = "e2e" }}
rules = [
  {{ level = "none", prefixes = ["/shared/quiet/"] }},
  {{ level = "full", prefixes = ["/shared/full/"] }},
  {{ level = "keys+hash", prefixes = ["/shared/hash/"] }},
]

[[plugin]]
name = "metrics"
[plugin.config]
prefixes = ["/shared/", "/shared/json/", "/alice/"]
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """An RSA key pair for JWTs."""
    folder = tmp_path_factory.mktemp("keys")
    run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", folder / "private.pem"])
    run(["openssl", "pkey", "-in", folder / "private.pem", "-pubout", "-out", folder / "public.pem"])
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, keys, binary):
    folder = tmp_path_factory.mktemp("node")
    digest = {name: hashlib.sha256(token.encode()).hexdigest()
              for name, token in (("robot", TOKEN), ("admin", ADMIN_TOKEN), ("old", OLD_TOKEN))}
    config = folder / "moonraft.toml"
    hashed = crypt.crypt(PASSWORD, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=1 << 6))
    config.write_text(CONFIG.format(folder=PLUGINS, bcrypt=hashed, hs_key=HS_KEY, pem=keys / "public.pem", **digest))
    run([SERVER_BINARY, "check", "--config", config])
    member = Server(folder, config=config).start()
    yield member
    alive = member.alive()
    member.stop()
    assert alive, member.tail()


def as_user(server, token):
    return Client(server.address, metadata=[("token", token)])


@pytest.fixture(scope="module")
def robot(server):
    with as_user(server, TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def admin(server):
    with as_user(server, ADMIN_TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def anonymous(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def alice(server, anonymous):
    with as_user(server, anonymous.call("Auth.Authenticate", name="alice", password=PASSWORD).token) as client:
        yield client


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(claims, alg="HS256", key=HS_KEY, pem=None):
    head = "%s.%s" % (b64(json.dumps({"alg": alg, "typ": "JWT"}).encode()), b64(json.dumps(claims).encode()))
    if alg == "HS256":
        signature = hmac.new(key.encode(), head.encode(), hashlib.sha256).digest()
    elif alg == "RS256":
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", str(pem)], input=head.encode(),
                                   capture_output=True, check=True).stdout
    else:
        signature = b""
    return "%s.%s" % (head, b64(signature))


# -- auth: who


def test_static_token_in_every_form(server):
    for metadata in ([("token", TOKEN)], [("authorization", TOKEN)], [("authorization", "Bearer " + TOKEN)],
                     [("token", TOKEN), ("authorization", "Bearer wrong")]):
        with Client(server.address, metadata=metadata) as client:
            client.put(b"/shared/robot", b"v")


def test_unknown_and_expired_tokens(server):
    for token in ("wrong", OLD_TOKEN, TOKEN + "x", TOKEN[:-1], "x" * 5000, "a.b.c", ".."):
        with as_user(server, token) as client:
            for call in (lambda: client.put(b"/shared/robot", b"v"), lambda: client.range(b"/public/x")):
                with refused("UNAUTHENTICATED", "etcdserver: invalid auth token"):
                    call()


def test_password_and_the_token_it_buys(server, anonymous, alice):
    alice.put(b"/alice/mine", b"v")
    assert alice.get(b"/alice/mine").value == b"v"
    text = "etcdserver: authentication failed, invalid user ID or password"
    for name, password in (("alice", "wrong"), ("nobody", PASSWORD), ("alice", ""), ("", PASSWORD)):
        with refused("INVALID_ARGUMENT", text):
            anonymous.call("Auth.Authenticate", name=name, password=password)


def test_passwords_do_not_stall_other_calls(server, anonymous, robot):
    """bcrypt runs aside: while thirty wrong passwords are checked, writes are served at once."""
    calls = [anonymous.future("Auth.Authenticate", name="alice", password="wrong %d" % n) for n in range(30)]
    started = time.monotonic()
    for number in range(20):
        robot.put(b"/shared/robot", b"%d" % number)
    assert time.monotonic() - started < 2
    for call in calls:
        with pytest.raises(grpc.RpcError):
            call.result()


def test_json_web_tokens(server, keys):
    now = int(time.time())
    good = jwt({"sub": "carol", "iss": "hs", "exp": now + 600})
    with as_user(server, good) as client:
        client.put(b"/shared/carol", b"v")
        with refused("PERMISSION_DENIED", DENIED):
            client.put(b"/alice/x", b"v")
    with as_user(server, jwt({"sub": "ops", "iss": "rs", "exp": now + 600, "roles": ["admin"]}, "RS256",
                             pem=keys / "private.pem")) as client:
        client.put(b"/anything", b"v")
    public = (keys / "public.pem").read_text()
    bad = {
        "expired": jwt({"sub": "carol", "iss": "hs", "exp": now - 3600}),
        "no expiry": jwt({"sub": "carol", "iss": "hs"}),
        "wrong key": jwt({"sub": "carol", "iss": "hs", "exp": now + 600}, key="another key of at least 32 bytes...."),
        "wrong issuer": jwt({"sub": "carol", "iss": "other", "exp": now + 600}),
        "none": jwt({"sub": "root", "iss": "hs", "exp": now + 600, "roles": ["admin"]}, alg="none"),
        "public key as secret": jwt({"sub": "root", "iss": "rs", "exp": now + 600, "roles": ["admin"]}, key=public),
        "no user": jwt({"iss": "hs", "exp": now + 600}),
        "changed": good[:-4] + ("AAAA" if not good.endswith("AAAA") else "BBBB"),
    }
    for name, token in bad.items():
        with as_user(server, token) as client:
            with refused("UNAUTHENTICATED", "etcdserver: invalid auth token"):
                client.put(b"/shared/carol", b"v")
            assert name


def test_etcdctl_with_user_and_password(server):
    ctl = [ETCDCTL_35, "--endpoints", server.address, "--user", "alice:" + PASSWORD]
    assert run(ctl + ["put", "/alice/ctl", "v"]).stdout == "OK\n"
    assert run(ctl + ["get", "/alice/ctl"]).stdout == "/alice/ctl\nv\n"
    done = run(ctl + ["put", "/elsewhere", "v"], check=False)
    assert done.returncode != 0 and DENIED in done.stderr
    done = run([ETCDCTL_35, "--endpoints", server.address, "--user", "alice:nope", "get", "x"], check=False)
    assert done.returncode != 0 and "authentication failed, invalid user ID or password" in done.stderr


# -- auth: what


def test_rules_by_prefix_and_user(robot, alice, anonymous, admin):
    admin.put(b"/config/a", b"v")
    admin.put(b"/public/a", b"v")
    admin.put(b"/shared/secret/a", b"v")
    assert robot.get(b"/config/a") and alice.get(b"/config/a") and anonymous.get(b"/public/a")
    robot.put(b"/drop/a", b"v")
    for call in (
        lambda: robot.put(b"/config/a", b"w"), lambda: robot.get(b"/drop/a"), lambda: robot.put(b"/alice/a", b"v"),
        lambda: robot.put(b"/drop/a", b"v", prev_kv=True), lambda: anonymous.get(b"/config/a"),
        lambda: anonymous.put(b"/public/a", b"w"), lambda: alice.get(b"/shared/secret/a"),
        lambda: alice.range(b"/shared/", prefix_end(b"/shared/")), lambda: alice.put(b"/shared/secret/b", b"v"),
        lambda: robot.range(b"\x00", b"\x00"), lambda: robot.range(b"/shared/", b"\x00"),
        lambda: robot.delete(b"/config/", b"/config0"), lambda: anonymous.range(b"/public/", b"/public1"),
        lambda: robot.txn(success=[put_op(b"/shared/a"), put_op(b"/config/a")]),
        lambda: robot.txn([compare(b"/alice/mine", "VERSION", "GREATER", 0)]),
        lambda: robot.txn(failure=[put_op(b"/config/a")]),
    ):
        with refused("PERMISSION_DENIED", DENIED):
            call()
    assert robot.get(b"/shared/secret/a") and admin.get(b"/drop/a")


def test_watches_are_ranges_too(robot):
    with robot.watch() as stream:
        for key, end in ((b"/alice/", b"/alice0"), (b"/shared/", b"\x00"), (b"", b"\x00"), (b"/shared/", b"/shared1")):
            reply = stream.open(key, end)
            assert reply.canceled and reply.watch_id == -1
            assert reply.cancel_reason == "rpc error: code = PermissionDenied desc = " + DENIED
        assert not stream.open(b"/shared/", b"/shared0").canceled
        robot.put(b"/shared/watched", b"v")
        assert stream.events(1)[0].kv.key == b"/shared/watched"


def test_calls_without_keys(robot, admin, anonymous):
    robot.call("Maintenance.Status")
    robot.call("Cluster.MemberList")
    lease = robot.grant(60).ID
    robot.keep_alive(lease)
    admin.put(b"/private/leased", b"v", lease=lease)
    for client in (robot, anonymous):
        with refused("PERMISSION_DENIED", DENIED):
            client.compact(1)
        with refused("PERMISSION_DENIED", DENIED):
            client.revoke(lease)
        with refused("PERMISSION_DENIED", DENIED):
            client.call("Maintenance.Defragment")
        for method, fields in [
            ("Cluster.MemberAdd", {"peerURLs": ["http://127.0.0.1:1"]}), ("Cluster.MemberRemove", {"ID": 1}),
            ("Cluster.MemberUpdate", {"ID": 1, "peerURLs": ["http://127.0.0.1:1"]}),
            ("Cluster.MemberPromote", {"ID": 1}), ("Maintenance.MoveLeader", {"targetID": 1}),
        ]:
            with refused("PERMISSION_DENIED", DENIED):
                client.call(method, **fields)
    with refused("NOT_FOUND", "etcdserver: member not found"):
        admin.call("Cluster.MemberPromote", ID=1)
    with refused("PERMISSION_DENIED", DENIED):
        anonymous.call("Maintenance.Status")
    admin.revoke(lease)


def test_a_lease_is_revoked_by_who_may_delete_its_keys(server, robot, alice, admin, anonymous):
    mixed, own, empty = (admin.grant(60).ID for _ in range(3))
    robot.put(b"/shared/leased", b"v", lease=mixed)
    robot.put(b"/shared/leased-too", b"v", lease=own)
    alice.put(b"/alice/leased", b"v", lease=mixed)
    with refused("PERMISSION_DENIED", DENIED):
        robot.revoke(mixed)
    assert robot.get(b"/shared/leased")
    for lease in (own, empty):
        with refused("PERMISSION_DENIED", DENIED):
            anonymous.revoke(lease)
    robot.revoke(own)
    assert not robot.get(b"/shared/leased-too") and robot.get(b"/shared/leased")
    robot.revoke(empty)
    # A lease that is not there counts as one that may hold anything; who may do everything hears the truth.
    with refused("PERMISSION_DENIED", DENIED):
        robot.revoke(empty)
    with refused("NOT_FOUND", "etcdserver: requested lease not found"):
        admin.revoke(empty)
    alice.revoke(mixed)
    assert not alice.get(b"/alice/leased")
    # The record says what was asked for, not what went with it.
    revoked = eventually(lambda: [r for r in records(server) if r["rpc"] == "lease_revoke" and r.get("lease") == own
                                  and r["stage"] == "completed" and r.get("user") == "robot"])
    assert len(revoked) == 1 and revoked[0]["code"] == 0 and "ops" not in revoked[0]


def test_health_probes_need_no_user(server):
    for path in ("/health", "/livez", "/readyz", "/metrics", "/version"):
        assert urllib.request.urlopen(server.url + path, timeout=5).status == 200


# -- key-validation


@pytest.mark.parametrize("key, value, text", [
    (b"/shared/" + b"k" * 40, b"v", "is too long: 48 bytes, at most 40"),
    (b"/shared/a/b/c/d", b"v", "is too deep: 5 parts, at most 4"),
    (b"/shared/white space", b"v", "does not match the names allowed below"),
    (b"/shared/big", b"v" * 1025, "is too large: 1025 bytes, at most 1024"),
    (b"/shared/json/a", b"no json", "is not JSON"),
    (b"/shared/json/a", b'{"name":"x"}', "port is missing"),
    (b"/shared/json/a", b'{"name":"x","port":"80"}', "port must be integer, is string"),
    (b"/shared/json/a", b'{"name":"x","port":80,"other":1}', "other is not allowed"),
])
def test_invalid_keys_and_values(robot, key, value, text):
    for call in (lambda: robot.put(key, value), lambda: robot.txn(success=[put_op(key, value)]),
                 lambda: robot.txn(failure=[put_op(key, value)])):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert error.value.code().name == "INVALID_ARGUMENT"
        assert error.value.details().startswith("plugin key-validation: ") and text in error.value.details()


def test_valid_ones_pass(robot):
    robot.put(b"/shared/json/a", b'{"name":"x","port":80,"tags":[1]}')
    robot.put(b"/shared/a/b/c", b"v" * 1024)


def test_write_once(robot):
    robot.put(b"/shared/once/a", b"1")
    with pytest.raises(grpc.RpcError) as error:
        robot.put(b"/shared/once/a", b"2")
    assert error.value.code().name == "FAILED_PRECONDITION" and "is written once and exists" in error.value.details()
    with pytest.raises(grpc.RpcError):
        robot.put(b"/shared/guarded/a", b"1")
    guard = compare(b"/shared/guarded/a", "CREATE", "EQUAL", 0)
    assert robot.txn([guard], [put_op(b"/shared/guarded/a", b"1")]).succeeded
    assert not robot.txn([guard], [put_op(b"/shared/guarded/a", b"2")]).succeeded
    assert robot.get(b"/shared/guarded/a").value == b"1" and robot.get(b"/shared/once/a").value == b"1"


def test_protected_prefixes_and_bounded_deletes(robot):
    robot.put(b"/shared/kept/a", b"1")
    robot.put(b"/shared/kept/a", b"2")
    for call in (lambda: robot.delete(b"/shared/kept/a"), lambda: robot.delete(b"/shared/", b"/shared0"),
                 lambda: robot.put(b"/shared/kept/a", b"3", lease=robot.grant(60).ID),
                 lambda: robot.put(b"/shared/sealed/a", b"1")):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert error.value.code().name == "FAILED_PRECONDITION" and "protected" in error.value.details()
    for number in range(7):
        robot.put(b"/shared/many/%d" % number, b"v")
    with pytest.raises(grpc.RpcError) as error:
        robot.delete(b"/shared/many/", b"/shared/many0")
    assert "hits more than 5 keys" in error.value.details()
    assert robot.delete(b"/shared/many/0", b"/shared/many/5").deleted == 5
    assert robot.delete(b"/shared/many/", b"/shared/many0").deleted == 2


# -- audit-log


def audit_file(server):
    return next((p for p in server.directory.rglob("audit.jsonl") if p.is_file()), None)


def records(server):
    path = audit_file(server)
    return [json.loads(line) for line in path.read_text().splitlines()] if path else []


def about(server, text, stage="completed"):
    return [r for r in records(server) if r["stage"] == stage and text in json.dumps(r)]


def test_who_did_what(server, robot):
    revision = robot.put(b"/shared/audited", b"value-not-written").header.revision
    record = eventually(lambda: about(server, "/shared/audited"))[0]
    assert (record["rpc"], record["user"], record["code"]) == ("put", "robot", 0)
    assert revision in record.values() or str(revision) in json.dumps(record)
    assert record["extra"] == {"site": "e2e"}
    assert "value-not-written" not in audit_file(server).read_text()
    decided = about(server, "/shared/audited", "decided")[0]
    assert decided["id"] == record["id"]


def test_denials_are_recorded(server, robot):
    with pytest.raises(grpc.RpcError):
        robot.put(b"/alice/not-mine", b"v")
    record = eventually(lambda: about(server, "/alice/not-mine", "decided"))[0]
    assert record["code"] == 7 and record["user"] == "robot" and "auth" in json.dumps(record)


def test_levels_by_rule(server, robot):
    robot.put(b"/shared/quiet/a", b"v")
    robot.put(b"/shared/full/a", b"written-in-full")
    robot.put(b"/shared/hash/a", b"hashed-value")
    robot.txn(success=[put_op(b"/shared/quiet/b"), put_op(b"/shared/loud")])
    eventually(lambda: about(server, "/shared/loud"))
    assert not about(server, "/shared/quiet/a")
    assert "written-in-full" in json.dumps(about(server, "/shared/full/a")[0])
    hashed = json.dumps(about(server, "/shared/hash/a")[0])
    assert "hashed-value" not in hashed and hashlib.sha256(b"hashed-value").hexdigest() in hashed


def test_every_request_is_completed_once(server, robot, admin):
    """Refused streams, calls given up while their lease's keys are looked up, and the calls that follow in their place."""
    before = len(records(server))
    leases = [admin.grant(600).ID for _ in range(20)]
    for number, lease in enumerate(leases):
        robot.txn(success=[put_op(b"/drop/%d/%d" % (number, k), lease=lease) for k in range(40)])
    for lease in leases:
        with pytest.raises(grpc.RpcError):
            list(robot.call("KV.RangeStream", key=b"/alice/", range_end=b"/alice0"))
        given_up = robot.future("Lease.LeaseRevoke", ID=lease)
        given_up.cancel()
        list(robot.call("KV.RangeStream", key=b"/shared/", range_end=b"/shared0"))
        robot.put(b"/shared/after", b"v")
    robot.put(b"/shared/the-last", b"v")
    eventually(lambda: about(server, "/shared/the-last"))
    stages = collections.defaultdict(list)
    for record in records(server)[before:]:
        stages[record["id"]].append((record["stage"], record["rpc"]))
    # A watch or a stream that is refused may have nothing to complete; nothing is completed twice or as something else.
    for number, seen in stages.items():
        assert len(seen) == len(set(seen)) and len({rpc for _, rpc in seen}) == 1, (number, seen)
    puts = [seen for seen in stages.values() if seen[0][1] == "put"]
    assert len(puts) == len(leases) + 1 and all(len(seen) == 2 for seen in puts)


@pytest.mark.parametrize("mode", ["required", "best-effort"])
def test_no_record_is_lost_at_a_stop(tmp_path, binary, mode):
    config = tmp_path / "moonraft.toml"
    config.write_text(('[plugins]\nfolder = "%s"\n[[plugin]]\nname = "audit-log"\n' % PLUGINS)
                      + ('[plugin.failure]\naudit = "closed"\n' if mode == "required" else ""))
    with_load = Server(tmp_path, config=config).start()
    answered = []
    with with_load.client() as client:
        calls = [client.future("KV.Put", key=b"/stop/%d" % number, value=b"v") for number in range(600)]
        calls[100].result()
        status = with_load.terminate()
        for number, call in enumerate(calls):
            with contextlib.suppress(grpc.RpcError):
                call.result()
                answered.append(b"/stop/%d" % number)
    assert status == 0 and len(answered) > 100
    audited = [r for r in records(with_load) if r["rpc"] == "put" and r["stage"] == "completed" and r["code"] == 0]
    written = {json.dumps(r) for r in audited}
    assert len(audited) == len(written) >= len(answered)
    keys_written = {op["key"] for r in audited for op in r["ops"]}
    assert {key.decode() for key in answered} <= keys_written


def test_no_secret_is_in_log_or_audit(server, anonymous):
    with pytest.raises(grpc.RpcError):
        anonymous.call("Auth.Authenticate", name="alice", password="a-wrong-password")
    eventually(lambda: [r for r in records(server) if r["rpc"] == "authenticate"])
    for text in (audit_file(server).read_text(), server.log_text()):
        for secret in (PASSWORD, TOKEN, ADMIN_TOKEN, HS_KEY, "a-wrong-password"):
            assert secret not in text


def test_audit_chain_is_verified(server, robot, tmp_path):
    robot.put(b"/shared/chained", b"v")
    eventually(lambda: about(server, "/shared/chained"))
    copy = tmp_path / "copy.jsonl"
    copy.write_text(audit_file(server).read_text())
    assert run([SERVER_BINARY, "audit", "verify", copy]).returncode == 0
    lines = copy.read_text().splitlines(keepends=True)
    copy.write_text("".join(lines[:2] + lines[3:]))
    assert run([SERVER_BINARY, "audit", "verify", copy], check=False).returncode != 0


# -- metrics


def series(server, start):
    body = urllib.request.urlopen(server.url + "/metrics", timeout=5).read().decode()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in body.splitlines() if line.startswith(start)}


def test_prefix_metrics(server, robot):
    def count(prefix, operation, result):
        return sum(v for k, v in series(server, "moonraft_prefix_operations_total").items()
                   if 'prefix="%s"' % prefix in k and 'operation="%s"' % operation in k and 'result="%s"' % result in k)
    before = count("/shared/", "put", "ok"), count("/shared/json/", "put", "ok"), count("/alice/", "put", "denied")
    for number in range(3):
        robot.put(b"/shared/metered%d" % number, b"v")
    robot.put(b"/shared/json/m", b'{"name":"x","port":1}')
    with pytest.raises(grpc.RpcError):
        robot.put(b"/alice/x", b"v")
    eventually(lambda: (count("/shared/", "put", "ok"), count("/shared/json/", "put", "ok"),
                        count("/alice/", "put", "denied")) == (before[0] + 3, before[1] + 1, before[2] + 1))
    names = {name.split("{")[0] for name in series(server, "moonraft_prefix_")}
    assert {"moonraft_prefix_written_bytes_total", "moonraft_prefix_request_duration_seconds_bucket",
            "moonraft_prefix_keys"} <= names
    assert all('plugin="metrics"' in name for name in series(server, "moonraft_prefix_"))
    keys = [v for k, v in series(server, "moonraft_prefix_keys").items() if 'prefix="/shared/json/"' in k]
    assert keys == [robot.range(b"/shared/json/", prefix_end(b"/shared/json/"), count_only=True).count]


def test_core_metrics_are_there_as_well(server):
    assert series(server, "etcd_server_has_leader") and series(server, "moonraft_plugin_calls_total")
