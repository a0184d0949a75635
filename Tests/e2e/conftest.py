"""Fixtures: one server a test module, a client, and key prefixes that keep the tests of a module apart."""

import itertools
import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "torture")]

import clusters  # noqa: E402  (these need the path above)
import harness  # noqa: E402
from cluster import Cluster  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "moonraft: only meaningful against moonraft, skipped when the target is etcd")
    config.addinivalue_line(
        "markers", "differs_on_351(reason, run=True): etcd 3.5.1 fails this test, newer etcd and moonraft pass it; "
        "run on 3.5.1 as a strict expected failure, unless run is false (it would kill the server, or fails by chance)")


def pytest_collection_modifyitems(items):
    for item in items:
        if not harness.IS_ETCD:
            continue
        if item.get_closest_marker("moonraft"):
            item.add_marker(pytest.mark.skip(reason="moonraft only"))
        differs = item.get_closest_marker("differs_on_351")
        if differs:
            reason = differs.args[0] if differs.args else differs.kwargs["reason"]
            if harness.CORRECTED_ETCD:
                continue
            if not differs.kwargs.get("run", True):
                item.add_marker(pytest.mark.skip(reason=reason))
            else:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(scope="session", autouse=True)
def binary():
    if harness.SERVER_BINARY is None:
        pytest.exit("no server binary: build it or set MOONRAFT_BIN", returncode=2)
    return harness.SERVER_BINARY


@pytest.fixture(autouse=True)
def no_server_left_behind():
    """Ends what a failed test started; the module's server was there before."""
    before = set(harness.Server.running)
    yield
    for member in set(harness.Server.running) - before:
        member.kill()
        harness.Server.running.discard(member)


@pytest.fixture(scope="module")
def server(request, tmp_path_factory, binary):
    """The module's server; a module names extra flags in FLAGS."""
    flags = getattr(request.module, "FLAGS", ())
    member = harness.Server(tmp_path_factory.mktemp("node"), flags=flags).start()
    yield member
    alive = member.alive()
    member.stop()
    assert alive, "the server ended during the tests:\n" + member.tail()


@pytest.fixture(scope="module")
def client(server):
    with server.client() as connected:
        yield connected


_serial = itertools.count(1)


@pytest.fixture
def prefix(request):
    """A key prefix of the test's own, ending in a slash."""
    name = re.sub(r"\W+", "-", request.node.name)[:40]
    return ("%s-%d/" % (name, next(_serial))).encode()


@pytest.fixture
def watch(client):
    """A fresh watch stream that is closed with the test."""
    with client.watch() as stream:
        yield stream


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, binary):
    """The module's three members, behind the faulty network of ../torture."""
    with Cluster(tmp_path_factory.mktemp("cluster"), 3, clusters.FLAGS, token="e2e") as made:
        yield made.start()


@pytest.fixture
def whole(cluster):
    """Every test leaves all members up, connected and agreed on a leader."""
    yield
    cluster.heal()
    ended = [m for m in cluster.list() if m.crashed]
    said = "\n".join("%s ended by itself:\n%s" % (m.name, m.tail()) for m in ended)
    for member in ended:
        member.reap(1)
    for member in cluster.list():
        if member.frozen:
            member.wake()
        if not member.alive:
            member.spawn()
    cluster.wait_leader()
    harness.eventually(lambda: all(clusters.accepts(m) for m in cluster.list()), 15)
    assert not ended, said
