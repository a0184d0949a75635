"""A minimal HTTP/2 client on a plain socket, for what a well-behaved gRPC library refuses to send.

Headers go out as HPACK literals without indexing. Replies need a full HPACK decoder, so this one implements the
static and the dynamic table and Huffman codes.
"""

import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8


def message(payload, compressed=0):
    """gRPC's five-byte prefix and the message."""
    return struct.pack(">BI", compressed, len(payload)) + payload


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """One header as HPACK literal, never indexed by the peer."""
    return b"\x00" + _integer(len(name), 7) + name + _integer(len(value), 7) + value


def _integer(value, bits, first=0):
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    out, value = [first | limit], value - limit
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes(out + [value])


class Connection:
    """One HTTP/2 connection; frames are read only inside the methods that wait."""

    def __init__(self, address, initial_window=1 << 24, preface=True):
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), 5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.next_stream, self.buffer, self.decoder = 1, b"", HPACKDecoder()
        self.streams, self.pings, self.goaway, self.closed = {}, [], None, False
        self.frames = []
        if preface:
            self.send(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, initial_window))
                      + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 28)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            self.closed = True

    def reset_hard(self):
        """Ends the TCP connection with a reset instead of an orderly close."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # -- Sending

    def open(self, path, extra=(), content_type=b"application/grpc", end=False, method=b"POST"):
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        self.streams[stream] = {"headers": [], "data": b"", "ended": False, "reset": None}
        fields = [(b":method", method), (b":scheme", b"http"), (b":path", path.encode()),
                  (b":authority", b"localhost"), (b"content-type", content_type), (b"te", b"trailers")]
        block = b"".join(literal(n, v) for n, v in fields + list(extra))
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block))
        return stream

    def data(self, stream, payload, end=False):
        for start in range(0, max(len(payload), 1), 16384):
            last = start + 16384 >= len(payload)
            self.send(frame(DATA, END_STREAM if end and last else 0, stream, payload[start:start + 16384]))

    def ping(self, payload):
        self.send(frame(PING, 0, 0, payload))

    # -- Receiving

    def pump(self, seconds=0.0, until=lambda: False, window_step=0):
        """Handles frames until the condition holds, the time is over or the connection is closed."""
        deadline = time.monotonic() + seconds
        while not until() and not self.closed:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.socket.settimeout(left)
            try:
                chunk = self.socket.recv(65536)
            except TimeoutError:
                return until()
            except OSError:
                chunk = b""
            if not chunk:
                self.closed = True
            self.buffer += chunk
            self._frames(window_step)
        return until()

    def _frames(self, window_step):
        while len(self.buffer) >= 9:
            size = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + size:
                return
            kind, flags, stream = struct.unpack(">BBI", self.buffer[3:9])
            payload, self.buffer = self.buffer[9:9 + size], self.buffer[9 + size:]
            self._frame(kind, flags, stream & 0x7FFFFFFF, payload, window_step)

    def _frame(self, kind, flags, stream, payload, window_step):
        self.frames.append((kind, flags, stream, payload))
        state = self.streams.get(stream)
        if kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING:
            if flags & ACK:
                self.pings.append(payload)
            else:
                self.send(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self.goaway = struct.unpack(">I", payload[4:8])[0], payload[8:]
        elif kind == HEADERS:
            fields = self.decoder.decode(payload)
            if state is not None:
                state["headers"].append(fields)
                state["ended"] |= bool(flags & END_STREAM)
        elif kind == DATA and state is not None:
            state["data"] += payload
            state["ended"] |= bool(flags & END_STREAM)
            if window_step and not state["ended"]:
                self.send(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", window_step)))
        elif kind == RST_STREAM and state is not None:
            state["reset"] = struct.unpack(">I", payload)[0]
            state["ended"] = True

    def finish(self, stream, timeout=5, window_step=0):
        """Waits for the end of a stream; all its headers and trailers as one dictionary."""
        if window_step:
            self.send(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", window_step)))
        state = self.streams[stream]
        assert self.pump(timeout, lambda: state["ended"], window_step), "stream not ended: %r %r" % (state, self.goaway)
        merged = {}
        for fields in state["headers"]:
            merged.update({n.decode(): v.decode("latin-1") for n, v in fields})
        if state["reset"] is not None:
            merged["reset"] = state["reset"]
        return merged

    def unary(self, path, payload, extra=()):
        stream = self.open(path, extra)
        self.data(stream, message(payload), end=True)
        return self.finish(stream)

    def header_blocks(self, stream):
        return len(self.streams[stream]["headers"])

    def data_bytes(self, stream):
        return self.streams[stream]["data"]

    def wait_ping(self, timeout=5):
        assert self.pump(timeout, lambda: self.pings), "no answer to the ping"
        return self.pings.pop(0)

    def wait_goaway(self, timeout=5):
        assert self.pump(timeout, lambda: self.goaway is not None), "no GOAWAY"
        return self.goaway

    def wait_closed(self, timeout=5):
        """Waits for GOAWAY or the end of the connection; the GOAWAY code if there was one."""
        self.pump(timeout, lambda: self.goaway is not None)
        assert self.goaway is not None or self.closed, "the connection stays open"
        return self.goaway[0] if self.goaway else None


_STATIC = [line.split("=", 1) for line in """:authority=|:method=GET|:method=POST|:path=/|:path=/index.html|\
:scheme=http|:scheme=https|:status=200|:status=204|:status=206|:status=304|:status=400|:status=404|:status=500|\
accept-charset=|accept-encoding=gzip, deflate|accept-language=|accept-ranges=|accept=|access-control-allow-origin=|\
age=|allow=|authorization=|cache-control=|content-disposition=|content-encoding=|content-language=|content-length=|\
content-location=|content-range=|content-type=|cookie=|date=|etag=|expect=|expires=|from=|host=|if-match=|\
if-modified-since=|if-none-match=|if-range=|if-unmodified-since=|last-modified=|link=|location=|max-forwards=|\
proxy-authenticate=|proxy-authorization=|range=|referer=|refresh=|retry-after=|server=|set-cookie=|\
strict-transport-security=|transfer-encoding=|user-agent=|vary=|via=|www-authenticate=""".split("|")]


class HPACKDecoder:
    """RFC 7541, decoding side."""

    def __init__(self):
        self.dynamic, self.limit = [], 4096

    def decode(self, block):
        fields, at = [], 0
        while at < len(block):
            byte = block[at]
            if byte & 0x80:
                index, at = self._integer(block, at, 7)
                fields.append(self._entry(index))
            elif byte & 0xE0 == 0x20:
                self.limit, at = self._integer(block, at, 5)
                self._evict()
            else:
                indexed = bool(byte & 0x40)
                index, at = self._integer(block, at, 6 if indexed else 4)
                name = self._entry(index)[0] if index else None
                if name is None:
                    name, at = self._string(block, at)
                value, at = self._string(block, at)
                fields.append((name, value))
                if indexed:
                    self.dynamic.insert(0, (name, value))
                    self._evict()
        return fields

    def _evict(self):
        while sum(len(n) + len(v) + 32 for n, v in self.dynamic) > self.limit:
            self.dynamic.pop()

    def _entry(self, index):
        if index <= len(_STATIC):
            name, value = _STATIC[index - 1]
            return name.encode(), value.encode()
        return self.dynamic[index - len(_STATIC) - 1]

    @staticmethod
    def _integer(block, at, bits):
        limit = (1 << bits) - 1
        value = block[at] & limit
        at += 1
        if value == limit:
            shift = 0
            while True:
                byte = block[at]
                at += 1
                value += (byte & 0x7F) << shift
                shift += 7
                if not byte & 0x80:
                    break
        return value, at

    def _string(self, block, at):
        coded = block[at] & 0x80
        size, at = self._integer(block, at, 7)
        raw = block[at:at + size]
        return (_huffman(raw) if coded else raw), at + size


# RFC 7541 appendix B: the code lengths of symbols 0–256; the codes follow from canonical order.
_LENGTHS = (
    "13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28 "
    "6 10 10 12 13 6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10 "
    "13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6 "
    "15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28 "
    "20 22 20 20 22 22 22 23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24 "
    "22 21 20 22 22 23 23 21 23 22 22 24 21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23 "
    "26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25 19 21 26 27 27 26 27 24 21 21 26 26 28 27 27 27 "
    "20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27 27 27 27 28 27 27 27 27 27 26 30")


def _huffman_table():
    lengths = [int(n) for n in _LENGTHS.split()]
    assert len(lengths) == 257
    table, code, previous = {}, 0, 0
    for size, symbol in sorted((n, s) for s, n in enumerate(lengths)):
        code <<= size - previous
        table[size, code] = symbol
        code, previous = code + 1, size
    return table


_HUFFMAN = _huffman_table()


def _huffman(raw):
    out, code, size = bytearray(), 0, 0
    for byte in raw:
        for bit in range(7, -1, -1):
            code, size = code << 1 | byte >> bit & 1, size + 1
            symbol = _HUFFMAN.get((size, code))
            if symbol is not None:
                out.append(symbol)
                code, size = 0, 0
    return bytes(out)
