"""The gRPC layer keeps etcd's rules for metadata, methods, sizes, compression, deadlines and pings.

Method: grpc-core as client, and where grpc-core cannot misbehave, hand-made HTTP/2 frames on a socket.
"""

import struct
import time

import grpc
import pytest

import h2raw
from harness import IS_ETCD, METHODS, Client, M, failure, prefix_end, refused


def test_unknown_service_and_method(client):
    assert failure(client.raw, "/etcdserverpb.KV/Nothing") == \
        ("UNIMPLEMENTED", "unknown method Nothing for service etcdserverpb.KV")
    assert failure(client.raw, "/no.such.Service/Get") == ("UNIMPLEMENTED", "unknown service no.such.Service")


def test_malformed_method_names(client):
    # The grpc-go of 3.5.1 answers the first two with ResourceExhausted.
    accepted = ("UNIMPLEMENTED", "RESOURCE_EXHAUSTED") if IS_ETCD else ("UNIMPLEMENTED",)
    for path in ("/KV", "/", "//", "/etcdserverpb.KV/", "/etcdserverpb.kv/Range"):
        assert failure(client.raw, path)[0] in accepted, path


def test_undecodable_message(client):
    for payload in (b"\x0a\xff", b"\xff" * 12, b"\x0a\x05ab", b"\x18", b"\x0b\x0c"):
        code, text = failure(client.raw, "/etcdserverpb.KV/Range", payload)
        assert code == "INTERNAL" and "grpc: error unmarshalling request" in text, (payload, code, text)


def test_has_leader_metadata(client, prefix):
    for value in ("true", "false", "other", ""):
        client.call("KV.Put", key=prefix, value=b"v", metadata=[("hasleader", value)])
    with client.watch(metadata=[("hasleader", "true")]) as stream:
        stream.open(prefix)
        client.put(prefix, b"w")
        assert stream.events(1)[0].kv.value == b"w"
    assert client.send("Lease.LeaseLeases", M.LeaseLeasesRequest(), metadata=[("hasleader", "true")])


def test_client_api_version_metadata(client, prefix):
    client.call("KV.Put", key=prefix, value=b"v", metadata=[("client-api-version", "3.5.1")])
    client.call("KV.Put", key=prefix, value=b"v", metadata=[("client-api-version", "")])


@pytest.mark.differs_on_351("bytes that are no UTF-8 end the 3.5.1 process", run=False)
def test_invalid_client_api_version(server):
    """grpc-core refuses to send such bytes, so the call is made by hand."""
    with h2raw.Connection(server.address) as connection:
        status = connection.unary("/etcdserverpb.KV/Range", M.RangeRequest(key=b"k").SerializeToString(),
                                  [(b"client-api-version", b"\xff\xfe")])
        assert status["grpc-status"] in ("3", "13"), status
        if status["grpc-status"] == "3":
            assert status["grpc-message"] == "etcdserver: invalid client api version"


def test_request_larger_than_the_receive_limit(client):
    payload = M.RangeRequest(key=b"k" * 2_200_000).SerializeToString()
    text = "grpc: received message larger than max (%d vs. 2097152)" % len(payload)
    with refused("RESOURCE_EXHAUSTED", text):
        client.raw("/etcdserverpb.KV/Range", payload)
    assert client.revision() > 0


def test_large_replies_have_no_limit(client, prefix):
    for number in range(6):
        client.put(prefix + b"%d" % number, b"x" * 1_000_000)
    reply = client.prefix(prefix)
    assert sum(len(kv.value) for kv in reply.kvs) == 6_000_000


def test_received_message_may_be_split_over_many_frames(server):
    """A message in one-byte DATA frames is still one message."""
    payload = M.PutRequest(key=b"split", value=b"v").SerializeToString()
    with h2raw.Connection(server.address) as connection:
        stream = connection.open("/etcdserverpb.KV/Put")
        framed = h2raw.message(payload)
        for index in range(len(framed)):
            connection.data(stream, framed[index:index + 1], end=index == len(framed) - 1)
        assert connection.finish(stream)["grpc-status"] == "0"


def test_compressed_flag_without_encoding(server):
    with h2raw.Connection(server.address) as connection:
        stream = connection.open("/etcdserverpb.KV/Range")
        connection.data(stream, h2raw.message(b"\x0a\x01k", compressed=1), end=True)
        status = connection.finish(stream)
        text = "grpc: compressed flag set with identity or empty encoding"
        assert (status["grpc-status"], status["grpc-message"]) == ("13" if IS_ETCD else "12", text), status


def test_unknown_compression(server):
    with h2raw.Connection(server.address) as connection:
        stream = connection.open("/etcdserverpb.KV/Range", [(b"grpc-encoding", b"snappy")])
        connection.data(stream, h2raw.message(b"\x0a\x01k", compressed=1), end=True)
        status = connection.finish(stream)
        assert status["grpc-status"] == "12", status


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_client_that_compresses(server, compression):
    value = b"compressible " * 5000
    with Client(server.address, options=[("grpc.default_compression_algorithm", compression)]) as client:
        if compression == grpc.Compression.Deflate:
            code, text = failure(client.put, b"gzip/a", value)
            assert (code, text) == ("UNIMPLEMENTED", 'grpc: Decompressor is not installed for grpc-encoding "deflate"')
            return
        client.put(b"gzip/a", value)
        assert client.get(b"gzip/a").value == value
        with client.watch() as stream:
            stream.open(b"gzip/a")
            client.put(b"gzip/a", value + b"2")
            assert stream.events(1)[0].kv.value == value + b"2"
        # The limit holds for what was compressed, whatever is left of it on the wire.
        code, text = failure(client.put, b"gzip/b", b"\0" * 1_600_000)
        assert (code, text) == ("INVALID_ARGUMENT", "etcdserver: request is too large")
        code, text = failure(client.put, b"gzip/b", b"\0" * 50_000_000)
        assert code == "RESOURCE_EXHAUSTED" and "larger than max" in text, text


def test_errors_are_trailers_only(server):
    with h2raw.Connection(server.address) as connection:
        stream = connection.open("/etcdserverpb.KV/Range")
        connection.data(stream, h2raw.message(b""), end=True)
        status = connection.finish(stream)
        assert (status["grpc-status"], status["grpc-message"]) == ("3", "etcdserver: key is not provided")
        assert status[":status"] == "200" and status["content-type"].startswith("application/grpc")
        assert connection.header_blocks(stream) == 1 and connection.data_bytes(stream) == b""


def test_success_carries_headers_message_and_trailers(server):
    with h2raw.Connection(server.address) as connection:
        stream = connection.open("/etcdserverpb.KV/Range")
        connection.data(stream, h2raw.message(b"\x0a\x01k"), end=True)
        status = connection.finish(stream)
        assert status["grpc-status"] == "0" and connection.header_blocks(stream) == 2
        body = connection.data_bytes(stream)
        assert body[0] == 0 and struct.unpack(">I", body[1:5])[0] == len(body) - 5
        assert M.RangeResponse.FromString(body[5:]).header.revision >= 1


def test_error_text_is_percent_encoded(client):
    """Bytes outside printable ASCII in a text survive the trip."""
    code, text = failure(client.raw, "/no.such.Service%/Größe".encode().decode())
    assert code == "UNIMPLEMENTED" and "no.such.Service%" in text


def test_grpc_timeout_is_honoured_by_the_server(server):
    """A watch stream with a deadline is ended by the server, without help from the client's own timer."""
    with h2raw.Connection(server.address) as connection:
        started = time.monotonic()
        stream = connection.open("/etcdserverpb.Watch/Watch", [(b"grpc-timeout", b"300m")])
        create = M.WatchRequest(create_request=M.WatchCreateRequest(key=b"k"))
        connection.data(stream, h2raw.message(create.SerializeToString()))
        connection.finish(stream, timeout=5)
        assert 0.25 <= time.monotonic() - started < 2


def test_wrong_content_type_and_method(server):
    with h2raw.Connection(server.address) as connection:
        stream = connection.open("/etcdserverpb.KV/Range", content_type=b"text/plain", end=True)
        status = connection.finish(stream)
        assert status.get(":status") in ("404", "415") or "reset" in status or status.get("grpc-status") != "0", status
    with h2raw.Connection(server.address) as connection:
        stream = connection.open("/etcdserverpb.KV/Range", method=b"GET", end=True)
        status = connection.finish(stream)
        assert status.get(":status") in ("404", "405", "415") or "reset" in status, status


def test_many_streams_on_one_connection(client, prefix):
    calls = [client.future("KV.Put", key=prefix + b"%d" % n, value=b"v") for n in range(500)]
    assert len({call.result().header.revision for call in calls}) == 500
    assert client.prefix(prefix, count_only=True).count == 500


def test_many_connections(server, prefix):
    clients = [server.client() for _ in range(60)]
    for number, one in enumerate(clients):
        one.put(prefix + b"%d" % number, b"v")
    assert clients[0].prefix(prefix, count_only=True).count == 60
    for one in clients:
        one.close()


def test_ping_every_ten_seconds_or_with_streams_is_welcome_and_a_flood_is_not(server):
    """A few pings are answered; ten within a second on an idle connection bring GOAWAY too_many_pings."""
    with h2raw.Connection(server.address) as connection:
        connection.ping(b"12345678")
        assert connection.wait_ping() == b"12345678"
        assert connection.unary("/etcdserverpb.KV/Range", b"\x0a\x01k")["grpc-status"] == "0"
    with h2raw.Connection(server.address) as connection:
        for _ in range(10):
            connection.ping(b"flooding")
            connection.pump(0.02, lambda: connection.goaway)
        code, text = connection.wait_goaway()
        assert (code, text) == (11, b"too_many_pings")


def test_client_keepalive_of_grpc_core(server, prefix):
    """grpc-core's keepalive at ten seconds, as clientv3's users set it, is accepted (first ping sent at once here)."""
    with server.client(options=[("grpc.keepalive_time_ms", 10000)]) as client, client.watch() as stream:
        stream.open(prefix)
        client.put(prefix, b"v")
        assert stream.events(1)


@pytest.mark.differs_on_351("grpc-go of that time leaves such a call open", run=False)
def test_unary_call_without_its_message(server):
    """A unary call that ends without its message fails; the connection goes on."""
    with h2raw.Connection(server.address) as connection:
        stream = connection.open("/etcdserverpb.KV/Range", end=True)
        assert connection.finish(stream)["grpc-status"] in ("13", "12", "1"), "no message"
        assert connection.unary("/etcdserverpb.KV/Range", b"\x0a\x01k")["grpc-status"] == "0"


def test_flow_control_of_a_large_reply(server, client, prefix):
    """A reader that opens its window byte by byte gets the whole reply; the server waits for each opening."""
    client.put(prefix, b"x" * 300_000)
    request = M.RangeRequest(key=prefix).SerializeToString()
    with h2raw.Connection(server.address, initial_window=1000) as connection:
        stream = connection.open("/etcdserverpb.KV/Range")
        connection.data(stream, h2raw.message(request), end=True)
        connection.pump(0.2)
        assert len(connection.data_bytes(stream)) <= 1000
        status = connection.finish(stream, timeout=10, window_step=20_000)
        assert status["grpc-status"] == "0" and len(connection.data_bytes(stream)) > 300_000


@pytest.mark.parametrize("method", sorted(n for n in METHODS if n.split(".")[0] in ("KV", "Lease", "Maintenance")
                                          and not METHODS[n].client_streams and not METHODS[n].server_streams
                                          and n not in ("Maintenance.Defragment", "Maintenance.Downgrade")))
def test_every_unary_method_takes_an_empty_message(client, method):
    """An empty request gets a reply or a proper error, within its deadline."""
    try:
        client.call(method, timeout=5)
    except grpc.RpcError as error:
        assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "UNIMPLEMENTED",
                                     "FAILED_PRECONDITION"), error


def test_range_of_wide_prefix_in_parallel_with_writes(client, server, prefix):
    """Reads of many pairs at a pinned revision stay consistent while writers go on."""
    for number in range(200):
        client.put(prefix + b"%03d" % number, b"0")
    with server.client() as other:
        for round_ in range(1, 6):
            calls = [other.future("KV.Put", key=prefix + b"%03d" % n, value=b"%d" % round_) for n in range(200)]
            reply = client.range(prefix, prefix_end(prefix))
            assert reply.count == 200 == len(reply.kvs)
            assert all(kv.mod_revision <= reply.header.revision for kv in reply.kvs)
            for call in calls:
                call.result()


def test_connections_survive_a_client_that_vanishes(server, client, prefix):
    connection = h2raw.Connection(server.address)
    stream = connection.open("/etcdserverpb.Watch/Watch")
    create = M.WatchRequest(create_request=M.WatchCreateRequest(key=prefix, range_end=prefix_end(prefix)))
    connection.data(stream, h2raw.message(create.SerializeToString()))
    connection.pump(0.1)
    connection.reset_hard()
    client.put(prefix, b"v")
    assert isinstance(Client(server.address).get(prefix), M.KeyValue)
