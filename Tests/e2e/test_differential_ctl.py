"""etcdctl prints the same against Moonraft as against etcd 3.5.1: every subcommand and output format, exit code, both outputs.

Method: one list of command lines, run in order against a fresh server of each kind by both releases of etcdctl; names of
servers, times and sizes are taken out before the outputs are compared.
"""

import os
import re
import signal
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

import differential
from harness import ETCDCTL_34, ETCDCTL_35, eventually
from wire import M

pytestmark = pytest.mark.moonraft

RELEASES = {"3.4.23": ETCDCTL_34, "3.5.1": ETCDCTL_35}
FORMATS = ["simple", "json", "fields", "table", "protobuf"]


@pytest.fixture(scope="module", params=sorted(RELEASES))
def etcdctl(request):
    binary = RELEASES[request.param]
    if not os.access(binary, os.X_OK):
        pytest.skip("etcdctl %s is not installed (%s)" % (request.param, binary))
    return binary


@pytest.fixture(scope="module")
def forms(etcdctl):
    """The older release prints in the same way; two formats show that it understands the answers."""
    return FORMATS if etcdctl == ETCDCTL_35 else ["simple", "json"]


@pytest.fixture(scope="module")
def pair(etcdctl, tmp_path_factory):
    with differential.Pair(tmp_path_factory.mktemp("ctl")) as both:
        yield both


def environment():
    return dict({k: v for k, v in os.environ.items() if not k.startswith("ETCDCTL_")}, ETCDCTL_API="3")


class Shell:
    """Runs etcdctl against one side and takes out of its outputs what names that side."""

    def __init__(self, etcdctl, side, directory):
        self.etcdctl, self.side, self.directory = etcdctl, side, directory
        header = side.client.call("Maintenance.Status").header
        member = header.member_id
        self.numbers = (member, header.cluster_id)
        self.names = [("%d" % header.cluster_id, "<cluster>"), ("%x" % header.cluster_id, "<cluster>"),
                      ("%d" % member, "<member>"), ("%x" % member, "<member>"),
                      (side.server.address, "<client>"), (str(side.server.peer_port), "<peer>"),
                      (str(directory), "<directory>")]

    def command(self, arguments):
        return [self.etcdctl, "--endpoints", self.side.server.address] + [
            str(a).replace("{directory}", str(self.directory)) for a in arguments]

    def run(self, arguments, stdin=None, timeout=20):
        done = subprocess.run(self.command(arguments), input=stdin, capture_output=True, env=environment(), timeout=timeout,
                              cwd=str(self.directory))
        output = done.stdout
        if "protobuf" in arguments:
            output = self.message(output)
        return done.returncode, self.neutral(output), self.neutral(done.stderr)

    def message(self, output):
        """A protobuf output without its server's names."""
        for number in self.numbers:
            output = output.replace(M.MemberRemoveRequest(ID=number).SerializeToString()[1:], b"<id>")
        output = re.sub(rb"\x12.\x08<id>", b"<member>", output, flags=re.S)
        # The header's length depends on them and its term on the election; its revision counts.
        return re.sub(rb"^\x0a.\x08<id>\x10<id>((?:\x18[\x80-\xff]*[\x00-\x7f])?)(?:\x20[\x80-\xff]*[\x00-\x7f])?",
                      rb"<header>\1", output, flags=re.S)

    def neutral(self, output):
        text = output.decode("latin-1")
        for name, token in self.names:
            text = text.replace(name, token)
        for pattern, token in NEUTRAL:
            text = re.sub(pattern, token, text)
        return text


NEUTRAL = [
    (r"client-[0-9a-f-]{36}", "client-<id>"), (r'"took":[\d.]+', '"took":0'), (r'"size":"[^"]+"', '"size":""'),
    (r'"raft_term":\d+', '"raft_term":0'), (r'"RaftTerm" : \d+', '"RaftTerm" : 0'),
    # Ids are random: some begin with zeros, which are not printed.
    (r"\b[0-9a-f]{11,16}\b", "<id>"), (r"\b\d{16,20}\b", "<id>"), (r"took = [\d.]+[mµ]?s", "took = <time>"),
    (r"took [\d.]+[\w\xc2\xb5]*s", "took <time>"), (r'"took":"[^"]+"', '"took":"<time>"'),
    (r"[\d.]+[mµn\xc2\xb5]*s\b", "<time>"),
    (r"remaining\(\d+s\)", "remaining(<time>)"), (r'"ttl":\d+', '"ttl":0'), (r'"TTL" : \d+', '"TTL" : 0'),
    (r'\{"level":"(\w+)","ts":"?[^,]+,', r'{"level":"\1",'), (r'"caller":"[^"]+"', '"caller":""'),
    (r"0x[0-9a-f]{8,}", "<pointer>"), (r"[-+]{4,}", "----"), (r" {2,}", " "),
]


@pytest.fixture(scope="module")
def shells(etcdctl, pair, tmp_path_factory):
    return [Shell(etcdctl, side, tmp_path_factory.mktemp(side.name)) for side in pair.sides]


@pytest.fixture
def alike(shells):
    """Runs a command on both sides at once; its exit code and outputs must be the same. Returns Moonraft's."""
    with ThreadPoolExecutor(2) as pool:
        def compare(*arguments, stdin=None, timeout=20):
            stdin = stdin.encode() if stdin is not None else None
            etcd, moonraft = pool.map(lambda shell: shell.run(arguments, stdin, timeout), shells)
            assert moonraft == etcd, arguments
            return moonraft
        yield compare


def test_reads_and_writes_in_every_format(alike, forms):
    for form in forms:
        for command in (
                ("put", "k", "v"), ("put", "k", "v2", "--prev-kv"), ("put", "k/a\n", "bin\x01\xff"), ("put", "k/b", "b"),
                ("put", "k", "--ignore-value"), ("put", "k", "x", "--ignore-lease"), ("get", "k"), ("get", "k", "--prefix"),
                ("get", "", "--prefix", "--keys-only"), ("get", "k", "--prefix", "--count-only"), ("get", "none"),
                ("get", "k", "--rev", "3"), ("get", "k", "--prefix", "--limit", "1"), ("get", "k", "--hex"),
                ("del", "none"), ("del", "k", "--prev-kv"), ("del", "k", "k/az", "--prev-kv"), ("del", "", "--from-key")):
            alike(*command, "-w", form)
    for command in (
            ("put", "k", "v"), ("put", "k/b", "b"), ("get", "k", "--prefix", "--count-only", "--write-out=fields"),
            ("get", "k", "k/b"), ("get", "k", "--from-key"), ("get", "k", "--consistency", "s"), ("get", "k", "--prefix",
            "--sort-by", "MODIFY", "--order", "DESCEND"), ("get", "k", "--print-value-only"), ("get", "\x01", "--from-key",
            "--limit", "2"), ("compact", "4"), ("compact", "5", "--physical"), ("get", "k", "--rev", "2"),
            ("put", "none", "--ignore-value"), ("put", "k", "x", "--lease", "1234"), ("put", "k", "x", "--lease", "zz"),
            ("put", "", "x"), ("put",), ("get", "k", "--rev", "999999"), ("get", "k", "--consistency", "x"), ("get",),
            ("get", "k", "--order", "X"), ("get", "k", "--sort-by", "X"), ("get", "k", "k/b", "--prefix"), ("del",),
            ("compact", "4"), ("compact", "999999"), ("compact", "x"), ("get", "k", "-w", "nonsense")):
        alike(*command)
    alike("compact", "999999", "-w", "json")


def test_transactions(alike, forms):
    for form in forms:
        for text in (
                'mod("t") > "0"\n\nput t yes\nget t\n\nput t no\nget t\ndel none\n\n',
                'mod("t") > "0"\n\nput t yes\nget t\ndel t\n\nput t no\n\n',
                'value("t") = "no"\nver("t") = "1"\ncreate("t") < "9999"\nlease("t") = "0"\n\nget t\n\n\n', "\n\n\n",
                'value("t") = "x"\n\n\nget t --prefix\nput u "quoted value" --prev-kv\n\n',
                '\ndel t --prefix --prev-kv\n\n\n'):
            alike("txn", "-w", form, stdin=text)
    for text in ('nonsense\n\n\n\n', 'value("t") ! "x"\n\n\n\n', '\nput t 1\nput t 2\n\n\n', '\nput t\n\n\n', '\nfoo t\n\n\n',
                 '\nget t --rev=99999\n\n\n', 'mod("t") > "0"'):
        alike("txn", stdin=text)
    alike("txn", "-i", stdin='value("t") = "x"\n\n\nget t\n\n')


def test_leases(alike, pair, forms):
    known = "32695410dcc0ca06"
    for side in pair.sides:
        side.client.grant(500, ID=int(known, 16))
    alike("put", "l", "1", "--lease=" + known)
    for form in forms:
        for command in (("lease", "grant", "100"), ("lease", "timetolive", "1"), ("lease", "timetolive", known, "--keys"),
                        ("lease", "keep-alive", "--once", known), ("lease", "keep-alive", "--once", "77"),
                        ("lease", "keep-alive", "77"), ("lease", "list")):
            if form != "protobuf":         # there the id of a new lease and the time left stand in the bytes
                alike(*command, "-w", form)
    for command in (("lease", "grant"), ("lease", "grant", "x"), ("lease", "grant", "-1"), ("lease", "grant", "99999999999"),
                    ("lease", "revoke", "1"), ("lease", "revoke", "zz"), ("lease", "timetolive", "1", "--keys"),
                    ("lease",), ("lease", "revoke", known), ("get", "l", "--prefix")):
        alike(*command)


def test_members_and_maintenance(alike, forms):
    for form in forms:
        for command in (("member", "list"), ("endpoint", "health"), ("endpoint", "health", "--cluster"), ("alarm", "list"),
                        ("alarm", "disarm"), ("endpoint", "hashkv"), ("member", "remove", "1")):
            alike(*command, "-w", form)
    for command in (("member", "add", "m2"), ("member", "add", "m2", "--peer-urls", "x"), ("member", "add"),
                    ("member", "remove", "zz"), ("member", "remove"), ("member", "update", "1"), ("member", "promote", "1"),
                    ("member", "update", "1", "--peer-urls", "http://127.0.0.1:9"), ("member", "promote", "zz"),
                    ("move-leader", "1"), ("move-leader", "zz"), ("move-leader",), ("defrag",), ("defrag", "--cluster"),
                    ("endpoint", "hashkv", "--rev", "999999"), ("auth", "status"), ("endpoint", "nonsense"), ("nonsense",),
                    ("check", "datascale", "--load", "nonsense"), ("snapshot", "save"),
                    ("snapshot", "save", "/nonexistent/directory/file")):
        alike(*command)


def test_status_columns(shells):
    """Versions and sizes differ; everything else of a status is the same."""
    for form in ("simple", "json", "fields", "table"):
        outputs = []
        for shell in shells:
            code, out, errors = shell.run(("endpoint", "status", "-w", form))
            outputs.append((code, re.sub(r"[\d.]+( [kM]?B)?", "0", out), errors))
        assert outputs[0] == outputs[1]


class Running:
    """The same command left running on both sides."""

    def __init__(self, shells, *arguments, stdin=None):
        self.shells = shells
        self.processes = [subprocess.Popen(shell.command(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                           stderr=subprocess.PIPE, env=environment(), cwd=str(shell.directory))
                          for shell in shells]

    def type(self, text):
        for process in self.processes:
            process.stdin.write(text.encode())
            process.stdin.flush()

    def finish(self, interrupt=None):
        results = []
        for process, shell in zip(self.processes, self.shells):
            if interrupt is not None and process.poll() is None:
                process.send_signal(interrupt)
            out, errors = process.communicate(timeout=10)
            results.append((process.returncode, shell.neutral(out), shell.neutral(errors)))
        assert results[1] == results[0]
        return results[1]

    def close(self):
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def start(shells):
    running = []

    def begin(*arguments):
        running.append(Running(shells, *arguments))
        return running[-1]
    yield begin
    for commands in running:
        commands.close()


def watchers(pair):
    """How many watchers each side has."""
    counts = []
    for side in pair.sides:
        text = urllib.request.urlopen(side.server.url + "/metrics", timeout=5).read().decode()
        counts.append(float(re.search(r"^etcd_debugging_mvcc_watcher_total (\S+)", text, re.M).group(1)))
    return counts


@pytest.mark.parametrize("form", FORMATS)
def test_watch(start, pair, alike, form):
    alike("put", "w", "0")
    eventually(lambda: watchers(pair) == [0, 0], 10)
    watching = [start("watch", "w", "--prefix", "--prev-kv", "-w", form) if form != "protobuf" else
                start("watch", "w", "--prefix", "--prev-kv"), start("watch", "w", "--rev", "999999"),
                start("watch", "w", "--", "sh", "-c", "env | grep ETCD_WATCH_ | sort")]
    eventually(lambda: watchers(pair) == [3, 3], 10)
    for command in (("put", "w", "1"), ("put", "w/1", "2"), ("del", "w", "--prefix")):
        alike(*command)
        time.sleep(0.1)
    time.sleep(0.3)
    for commands in watching:
        commands.finish(signal.SIGINT)


def test_watch_interactive_and_refused(start, pair, alike):
    eventually(lambda: watchers(pair) == [0, 0], 10)
    interactive = start("watch", "-i")
    interactive.type("watch i\nwatch j --prefix --prev-kv\n")
    eventually(lambda: watchers(pair) == [2, 2], 10)
    for command in (("put", "i", "1"), ("put", "j/1", "2"), ("put", "j/1", "3"), ("del", "j/1")):
        alike(*command)
        time.sleep(0.1)
    interactive.type("progress\nnonsense\n")
    time.sleep(0.3)
    interactive.finish()
    for arguments in (("watch",), ("watch", "b", "a"), ("watch", "k", "--rev", "1")):
        commands = start(*arguments)
        time.sleep(0.4)
        commands.finish(signal.SIGINT)


def test_lock_and_elect(alike, start, pair, shells):
    alike("lock", "name", "echo", "held")
    alike("lock", "name", "sh", "-c", "exit 3")
    alike("lock", "name", "env", "nonexistent-program")
    alike("lock")
    alike("elect")
    held = start("lock", "held", "--ttl", "5")
    time.sleep(0.5)
    alike("get", "held", "--prefix", "--keys-only")
    held.finish(signal.SIGINT)
    elected = start("elect", "office", "me")
    time.sleep(0.5)
    listening = start("elect", "-l", "office")
    time.sleep(0.5)
    listening.finish(signal.SIGINT)
    elected.finish(signal.SIGINT)
    alike("get", "office", "--prefix")


def test_make_mirror(shells, pair, alike):
    """Each side copies a prefix into itself under another name."""
    alike("put", "m/1", "a")
    alike("put", "m/2", "b")
    mirrors = []
    try:
        for shell in shells:
            mirrors.append(subprocess.Popen(
                shell.command(("make-mirror", "--prefix", "m/", "--dest-prefix", "copy/", shell.side.server.address)),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()))
        eventually(lambda: all(side.client.prefix(b"copy/").count == 2 for side in pair.sides), 10)
        alike("put", "m/3", "c")
        alike("del", "m/1")
        eventually(lambda: all([kv.key for kv in side.client.prefix(b"copy/").kvs] == [b"copy/2", b"copy/3"]
                               for side in pair.sides), 10)
    finally:
        for mirror in mirrors:
            mirror.kill()
            mirror.wait()
    alike("get", "copy/", "--prefix")


def test_snapshot_save(alike):
    code, _, _ = alike("snapshot", "save", "{directory}/saved.db")
    assert code == 0
