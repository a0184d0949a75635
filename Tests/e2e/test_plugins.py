"""Plugins act on the wire as their API says: deny texts and codes, changed requests, warnings, budgets, metrics, audit
chains, and a reload that keeps the old set when the new one is broken.

Method: small plugins written here and bound to one member; the bundled four have a file of their own. Everything is seen
through gRPC, HTTP, files and signals.
"""

import json
import signal
import time
import urllib.request

import grpc
import pytest

from harness import SERVER_BINARY, Server, eventually, failure, put_op, refused, run, txn_op

pytestmark = pytest.mark.moonraft


def replace(path, text):
    """Writes a file whole: a reload never sees half of it."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.rename(path)


def reload(server):
    """SIGHUP, and the log line that says what came of it."""
    mark = len(server.log_text())
    server.signal(signal.SIGHUP)
    return eventually(lambda: [line for line in server.log_text()[mark:].splitlines() if "reloaded" in line])[-1]


class Plugins:
    """A plugin folder and a configuration that binds what is in it."""

    def __init__(self, directory):
        self.folder = directory / "plugins"
        self.folder.mkdir(parents=True)
        self.config = directory / "moonraft.toml"

    def write(self, name, hooks, lua, manifest=""):
        """One package; `lua` is the table that init.lua returns, after optional locals separated by `---`."""
        package = self.folder / name
        package.mkdir(exist_ok=True)
        replace(package / "plugin.toml",
                'name = "%s"\nversion = "1.0.0"\napi = "1"\nhooks = %s\n%s' % (name, json.dumps(hooks), manifest))
        replace(package / "init.lua", lua)
        replace(package / "README.md", "# %s\n" % name)
        return package

    def bind(self, text):
        replace(self.config, '[plugins]\nfolder = "%s"\n\n%s' % (self.folder, text))
        return self.config


GATE = """
return {
  authz = function(req, id)
    for _, op in req:ops() do
      if op:touches("/forbidden/") then return false, "not yours" end
    end
  end,
  admit_mutate = function(req)
    for _, op in req:ops() do
      if op.kind == "put" and op:within("/upper/") then op:set_value(string.upper(op.value)) end
      if op.kind == "put" and op:within("/moved/") then op:set_key("/target/" .. op.key:sub(8)) end
      if op.kind == "put" and op:within("/empty/") then op:set_key("/forbidden/by-mutation") end
    end
  end,
  admit_validate = function(req)
    for _, op in req:ops() do
      if op.kind == "put" and op:within("/strict/") then
        if #op.value > 10 then return false, "value is too long" end
        if op.value == "later" then return false, "wait for the others", "failed_precondition" end
        if op.value == "full" then return false, "no more of these", "resource_exhausted" end
        if op.value == "error" then error("boom") end
        if op.value == "loop" then while true do end end
        if op.value == "memory" then local t = {} while true do t[#t + 1] = string.rep("x", 100000) end end
      end
    end
  end,
}
"""

WARNER = """
return { admit_validate = function(req) if req.key == "/warn/k" then return false, "would be refused" end end }
"""

COUNTER = """
return {
  on_event = function(batch)
    for _, event in ipairs(batch) do
      if event.type == "put" or event.type == "delete" then metric.seen_total:inc(1, event.type, event.reason) end
    end
    return true
  end,
  metrics_collect = function() metric.answer:set(42) end,
  health = function() if kv.get("/sick") then return false, "the key /sick is there" end return true end,
}
"""
COUNTER_MANIFEST = """
capabilities = ["metrics", "kv.read"]
critical = true
[metrics.seen_total]
type = "counter"
help = "Events seen."
labels = ["type", "reason"]
[metrics.answer]
type = "gauge"
help = "A number."
"""

AUDITOR = """
local out
return {
  init = function(conf) out = sink.open{ path = "audit.log", chain = true, sync = "batch" } end,
  audit = function(rec) return out:write(rec:json{ level = "keys" }) end,
}
"""

BINDINGS = """
[[plugin]]
name = "gate"
order = 10

[[plugin]]
name = "warner"
mode = "warn"
order = 20
[plugin.match]
prefixes = ["/warn/"]

[[plugin]]
name = "counter"
order = 30

[[plugin]]
name = "auditor"
order = 40
[plugin.match]
rpcs = ["put", "txn", "delete_range", "authenticate"]
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory, binary):
    made = Plugins(tmp_path_factory.mktemp("plugged"))
    made.write("gate", ["authz", "admit_mutate", "admit_validate"], GATE)
    made.write("warner", ["admit_validate"], WARNER)
    made.write("counter", ["on_event", "metrics_collect", "health"], COUNTER, COUNTER_MANIFEST)
    made.write("auditor", ["init", "audit"], AUDITOR, 'capabilities = ["file.append"]\n')
    made.bind(BINDINGS)
    return made


@pytest.fixture(scope="module")
def server(plugins, tmp_path_factory):
    member = Server(tmp_path_factory.mktemp("node"), config=plugins.config).start()
    yield member
    alive = member.alive()
    member.stop()
    assert alive, member.tail()


def scrape(server):
    return urllib.request.urlopen(server.url + "/metrics", timeout=5).read().decode()


# -- Denials


def test_check_accepts_the_set(plugins, binary):
    run([SERVER_BINARY, "check", "--config", str(plugins.config)])


def test_authz_denial_has_etcd_s_text(client):
    text = "etcdserver: permission denied"
    for call in (lambda: client.put(b"/forbidden/a", b"v"), lambda: client.range(b"/forbidden/a"),
                 lambda: client.range(b"/", b"0"), lambda: client.delete(b"/forbidden/", b"/forbidden0"),
                 lambda: client.range(b"\x00", b"\x00"), lambda: client.range(b"/f", b"\x00"),
                 lambda: client.txn(success=[put_op(b"/fine"), put_op(b"/forbidden/a")]),
                 lambda: client.txn(failure=[put_op(b"/forbidden/a")]),
                 lambda: client.txn(success=[txn_op(success=[put_op(b"/forbidden/a")])])):
        with refused("PERMISSION_DENIED", text):
            call()
    assert client.get(b"/fine") is None


@pytest.mark.parametrize("alarm", ["NOSPACE", "CORRUPT"])
def test_etcd22386_an_alarm_takes_no_denial_away(client, alarm):
    """Writes that an alarm refuses are refused for it only where policy lets them through."""
    text = "etcdserver: permission denied"
    raised = dict(memberID=client.call("Maintenance.Status").header.member_id, alarm=alarm)
    client.put(b"/fine/a", b"v")
    client.call("Maintenance.Alarm", action="ACTIVATE", **raised)
    try:
        for call in (lambda: client.put(b"/forbidden/a", b"v"), lambda: client.delete(b"/forbidden/a"),
                     lambda: client.delete(b"\x00", b"\x00"), lambda: client.range(b"/forbidden/a"),
                     lambda: client.txn(success=[put_op(b"/forbidden/a")])):
            with refused("PERMISSION_DENIED", text):
                call()
        with refused(*{"NOSPACE": ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded"),
                       "CORRUPT": ("DATA_LOSS", "etcdserver: corrupt cluster")}[alarm]):
            client.put(b"/fine/a", b"v")
    finally:
        client.call("Maintenance.Alarm", action="DEACTIVATE", **raised)
    client.delete(b"/fine/a")


def test_authz_denial_of_a_watch_keeps_the_stream(client):
    with client.watch() as stream:
        for key, end in ((b"/forbidden/", b"/forbidden0"), (b"/e", b"\x00"), (b"", b"\x00"), (b"\x00", b"\x00")):
            reply = stream.open(key, end)
            assert (reply.canceled, reply.watch_id) == (True, -1)
            assert reply.cancel_reason == "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
        assert not stream.open(b"/fine").canceled
        client.put(b"/fine", b"v")
        assert stream.events(1)


def test_validation_denials_carry_the_plugin_s_text_and_code(client):
    for value, code, text in ((b"longer than ten", "INVALID_ARGUMENT", "plugin gate: value is too long"),
                              (b"later", "FAILED_PRECONDITION", "plugin gate: wait for the others"),
                              (b"full", "RESOURCE_EXHAUSTED", "plugin gate: no more of these")):
        with refused(code, text):
            client.put(b"/strict/k", value)
        with refused(code, text):
            client.txn(success=[put_op(b"/other"), put_op(b"/strict/k", value)])
        with refused(code, text):
            client.txn(failure=[put_op(b"/strict/k", value)])
    assert client.get(b"/strict/k") is None and client.get(b"/other") is None
    assert client.put(b"/strict/k", b"short")


def test_core_checks_come_before_plugins(client):
    with refused("INVALID_ARGUMENT", "etcdserver: key is not provided"):
        client.put(b"", b"v")
    with refused("INVALID_ARGUMENT", "etcdserver: value is provided"):
        client.put(b"/strict/k", b"longer than ten", ignore_value=True)


@pytest.mark.parametrize("value", [b"error", b"loop", b"memory"])
def test_a_failing_hook_denies_and_the_next_call_works(client, value):
    started = time.monotonic()
    with refused("FAILED_PRECONDITION", "plugin gate: policy could not be evaluated"):
        client.put(b"/strict/k", value)
    assert time.monotonic() - started < 2
    assert client.put(b"/strict/k", b"fine")


# -- Changes


def test_mutation_is_what_is_stored_and_watched(client):
    with client.watch() as stream:
        stream.open(b"/upper/", b"/upper0")
        client.put(b"/upper/a", b"quiet")
        assert stream.events(1)[0].kv.value == b"QUIET"
    assert client.get(b"/upper/a").value == b"QUIET"
    client.txn(success=[put_op(b"/upper/b", b"two"), txn_op(success=[put_op(b"/upper/c", b"three")])])
    assert [kv.value for kv in client.prefix(b"/upper/").kvs] == [b"QUIET", b"TWO", b"THREE"]


def test_mutation_of_a_key(client):
    client.put(b"/moved/x", b"v")
    assert client.get(b"/moved/x") is None and client.get(b"/target/x").value == b"v"


def test_core_checks_run_again_after_mutation(client):
    """Two keys that a plugin makes one are the core's duplicate error."""
    with refused("INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request"):
        client.txn(success=[put_op(b"/moved/x", b"1"), put_op(b"/target/x", b"2")])


# -- Modes


def test_warn_mode_lets_pass_and_says_so(client):
    from wire import METHODS, M
    call = client._call("KV.Put")
    reply, info = call.with_call(M.PutRequest(key=b"/warn/k", value=b"v"), timeout=5)
    assert isinstance(reply, METHODS["KV.Put"].response)
    trailers = dict(info.trailing_metadata())
    assert "would be refused" in trailers["moonraft-plugin-warning"] and "warner" in trailers["moonraft-plugin-warning"]
    _, info = call.with_call(M.PutRequest(key=b"/other/k", value=b"v"), timeout=5)
    assert "moonraft-plugin-warning" not in dict(info.trailing_metadata())


# -- Events, metrics, health


def test_events_reach_the_plugin_with_their_reason(server, client):
    def seen(kind, reason):
        for line in scrape(server).splitlines():
            if line.startswith('moonraft_seen_total{plugin="counter"') and 'type="%s"' % kind in line \
                    and 'reason="%s"' % reason in line:
                return float(line.rsplit(" ", 1)[1])
        return 0.0
    before = seen("put", "client"), seen("put", "txn"), seen("delete", "lease_revoked"), seen("delete", "client")
    lease = client.grant(60).ID
    for number in range(10):
        client.put(b"/ev/%d" % number, b"v", lease=lease if number == 0 else 0)
    client.txn(success=[put_op(b"/ev/t")])
    client.delete(b"/ev/5")
    client.revoke(lease)
    eventually(lambda: (seen("put", "client"), seen("put", "txn"), seen("delete", "lease_revoked"),
                        seen("delete", "client")) == (before[0] + 10, before[1] + 1, before[2] + 1, before[3] + 1))


def test_plugin_metrics_and_host_metrics(server):
    text = scrape(server)
    assert "# TYPE moonraft_answer gauge" in text and 'moonraft_answer{plugin="counter"} 42' in text
    for name in ("moonraft_plugin_calls_total", "moonraft_plugin_denies_total", "moonraft_plugin_errors_total",
                 "moonraft_plugin_duration_seconds", "moonraft_plugin_info", "moonraft_plugin_vm_rebuilds_total"):
        assert "# TYPE %s " % name in text, name
    assert 'plugin="gate"' in text and 'mode="warn"' in text


def test_critical_health_fails_readiness(server, client):
    def ready():
        try:
            return urllib.request.urlopen(server.url + "/readyz?verbose", timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
    assert ready() == 200
    client.put(b"/sick", b"")
    code, body = eventually(lambda: isinstance(ready(), tuple) and ready())
    assert code == 503 and "counter" in body and "the key /sick is there" in body
    client.delete(b"/sick")
    eventually(lambda: ready() == 200)


# -- Audit


def audit_files(server):
    return [path for path in server.directory.rglob("audit.log*") if path.is_file()]


def test_audit_records_and_their_chain(server, client):
    client.put(b"/audited/a", b"never-in-the-log-at-level-keys")
    with pytest.raises(grpc.RpcError):
        client.put(b"/forbidden/a", b"v")
    with pytest.raises(grpc.RpcError):
        client.call("Auth.Authenticate", name="alice", password="a-secret-password")

    def records():
        files = audit_files(server)
        return [json.loads(line) for line in files[0].read_text().splitlines()] if files else []
    eventually(lambda: any(r["rpc"] == "put" and r["stage"] == "completed" and "/audited/a" in json.dumps(r)
                           for r in records()))
    eventually(lambda: any(r["rpc"] == "authenticate" for r in records()))
    everything = records()
    assert {r["stage"] for r in everything} == {"decided", "completed"}
    denied = [r for r in everything if "/forbidden/a" in json.dumps(r) and r["stage"] == "decided"]
    assert denied and denied[0]["code"] == 7
    assert [r["seq"] for r in everything] == list(range(everything[0]["seq"], everything[0]["seq"] + len(everything)))
    assert all(b["prev"] == a["hash"] for a, b in zip(everything, everything[1:]))
    text = audit_files(server)[0].read_text()
    assert "a-secret-password" not in text and "never-in-the-log" not in text
    assert audit_files(server)[0].stat().st_mode & 0o077 == 0


def test_audit_verify_finds_every_change(server, tmp_path, client):
    for number in range(5):
        client.put(b"/audited/%d" % number, b"v")
    source = eventually(lambda: audit_files(server))[0]
    eventually(lambda: source.read_text().count("/audited/4"))
    lines = source.read_text().splitlines(keepends=True)
    assert len(lines) > 8
    verify = [SERVER_BINARY, "audit", "verify"]

    def verdict(name, content):
        path = tmp_path / name
        path.write_text("".join(content))
        return run(verify + [str(path)], check=False)
    good = verdict("good.log", lines)
    assert good.returncode == 0, good.stdout + good.stderr
    changed = list(lines)
    changed[3] = changed[3].replace('"rpc":"', '"rpc":"x', 1)
    for name, content in (("changed", changed), ("missing", lines[:3] + lines[4:]),
                          ("reordered", lines[:3] + [lines[4], lines[3]] + lines[5:]),
                          ("doubled", lines[:4] + lines[3:]), ("cut", lines[:-1] + [lines[-1][:-20]])):
        bad = verdict(name + ".log", content)
        assert bad.returncode != 0, name
        assert name == "cut" or any(digit in bad.stdout + bad.stderr for digit in "345"), bad.stdout + bad.stderr


# -- Reload (these change the module's set and put it back)


def test_reload_takes_a_new_version(server, plugins, client):
    with refused("INVALID_ARGUMENT", "plugin gate: value is too long"):
        client.put(b"/strict/k", b"longer than ten")
    plugins.write("gate", ["authz", "admit_mutate", "admit_validate"], GATE.replace("too long", "far too long"))
    assert "not reloaded" not in reload(server)
    eventually(lambda: failure(client.put, b"/strict/k", b"longer than ten")[1].endswith("far too long"))
    plugins.write("gate", ["authz", "admit_mutate", "admit_validate"], GATE)
    reload(server)
    eventually(lambda: failure(client.put, b"/strict/k", b"longer than ten")[1].endswith("is too long"))


@pytest.mark.parametrize("name, breakage", [
    ("syntax", lambda p: p.write("gate", ["authz", "admit_mutate", "admit_validate"], "return {")),
    ("hooks", lambda p: p.write("gate", ["authz"], GATE)),
    ("init", lambda p: p.write("gate", ["authz", "admit_mutate", "admit_validate", "init"],
                               GATE.replace("return {", 'return { init = function() return false, "no" end,', 1))),
    ("binding", lambda p: p.bind(BINDINGS + '\n[[plugin]]\nname = "absent"\norder = 99\n')),
])
def test_a_broken_set_leaves_the_old_one_at_work(server, plugins, client, name, breakage):
    breakage(plugins)
    try:
        assert "not reloaded" in reload(server)
        with refused("INVALID_ARGUMENT", "plugin gate: value is too long"):
            client.put(b"/strict/k", b"longer than ten")
        with refused("PERMISSION_DENIED"):
            client.put(b"/forbidden/a", b"v")
        done = run([SERVER_BINARY, "check", "--config", str(plugins.config)], check=False)
        assert done.returncode != 0 and (name == "binding" and "absent" in done.stderr or "gate" in done.stderr), done
    finally:
        plugins.write("gate", ["authz", "admit_mutate", "admit_validate"], GATE)
        plugins.bind(BINDINGS)
        assert "not reloaded" not in reload(server)


def test_an_empty_file_does_not_switch_policy_off(server, plugins, client):
    """What a reload finds while an editor has truncated the file must not unbind every plugin."""
    plugins.config.write_text("")
    try:
        server.signal(signal.SIGHUP)
        time.sleep(0.5)
        with refused("PERMISSION_DENIED"):
            client.put(b"/forbidden/a", b"v")
    finally:
        plugins.bind(BINDINGS)
        reload(server)


def test_reload_under_load_fails_no_request(server, plugins, client):
    """Writes keep succeeding while the set is swapped five times."""
    calls = []
    for number in range(400):
        calls.append(client.future("KV.Put", key=b"/load/%d" % number, value=b"v"))
        if number % 80 == 0:
            server.signal(signal.SIGHUP)
            time.sleep(0.05)
    for call in calls:
        assert call.result().header.revision


# -- Loading


@pytest.mark.parametrize("text, words", [
    ('[[plugin]]\nname = "nothere"\n', ["nothere"]),
    ('[[plugin]]\nname = "gate"\nmode = "sometimes"\n', ["mode", ":6:"]),
    ('[[plugin]]\nname = "gate"\norder = "first"\n', ["order", ":6:"]),
    ('[[plugin]]\nname = "gate"\nunknown = 1\n', ["unknown", ":6:"]),
    ('[[plugin]]\nname = "gate"\n[plugin.config]\nextra = 1\n', ["extra", ":7:"]),
    ('[[plugin]]\nname = "gate"\n[plugin.match]\nrpcs = ["putt"]\n', ["putt", ":7:"]),
    ('[[plugin]]\nname = "gate"\ndigest = "sha256:00"\n', ["digest"]),
    ('[[plugin]]\nname = "gate"\norder = 5\n[[plugin]]\nname = "warner"\norder = 5\n', ["order"]),
    ('[[plugin]]\nname = "../gate"\n', [":5:8", "plugin.name"]),
    ('[[plugin]]\nname = "gate"\n[[plugin]]\nname = "gate"\norder = 7\n', ["gate"]),
])
def test_wrong_bindings_are_named(tmp_path, binary, text, words):
    made = Plugins(tmp_path)
    made.write("gate", ["authz", "admit_mutate", "admit_validate"], GATE)
    made.write("warner", ["admit_validate"], WARNER)
    done = run([SERVER_BINARY, "check", "--config", str(made.bind(text))], check=False)
    assert done.returncode != 0
    for word in words:
        assert word in done.stdout + done.stderr, done.stdout + done.stderr


def test_wrong_lua_is_named_with_file_and_line(tmp_path, binary):
    made = Plugins(tmp_path)
    made.write("gate", ["authz"], "return {\n  authz = function(req)\n    local x = = 1\n  end,\n}\n")
    done = run([SERVER_BINARY, "check", "--config", str(made.bind('[[plugin]]\nname = "gate"\n'))], check=False)
    assert done.returncode != 0 and "init.lua:3" in done.stdout + done.stderr, done


def test_a_broken_set_refuses_to_start(tmp_path, binary):
    from harness import run_to_end
    made = Plugins(tmp_path)
    made.write("gate", ["authz"], "error('no')")
    status, output = run_to_end(Server(tmp_path, config=made.bind('[[plugin]]\nname = "gate"\n')))
    assert status not in (0, None) and "gate" in output, output
