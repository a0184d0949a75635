"""The faulty network: one process with a TCP proxy in front of every member's peer port.

A member has a single peer URL for all who dial it, so the proxy finds out who dials: it looks the connection's inode
up in /proc/net/tcp and among the file descriptors of the members' processes. No privileges are needed for that, and
each ordered pair of members becomes a link of its own, whichever of the two opened the connection.

Commands come as JSON lines on standard input and are each answered by one line. At the end of the input, however the
driver ended, the members it named are killed and the proxy goes: nothing outlives a test.

A link is what bytes from one member to another go through:

    hold    bytes stay where they are: neither lost nor delivered, as behind a silent firewall
    cut     connections are reset, new ones too, as behind a firewall that rejects
    delay   [low, high] seconds added to each chunk, order kept
    stall   [probability, seconds] a chunk and all behind it wait, as after a lost packet
    rate    bytes a second
    reset   probability for each chunk that the connection is reset
"""

import asyncio
import json
import os
import random
import signal
import socket
import struct
import sys

#: Bytes read at once, and chunks that wait behind a delay before the sender is made to wait: both bound memory.
CHUNK, QUEUED = 16 * 1024, 256
#: A dialler is looked for this often; its process may be newer than what the driver told.
LOOKUPS, LOOKUP_PAUSE = 4, 0.01
HEALTHY = {"hold": False, "cut": False, "delay": None, "stall": None, "rate": None, "reset": 0.0}


class Link:
    """The faults of one direction between two members."""

    def __init__(self):
        self.open = asyncio.Event()
        self.set(HEALTHY)

    def set(self, faults):
        for name, value in {**HEALTHY, **faults}.items():
            setattr(self, name, value)
        self.slow = bool(self.delay or self.stall or self.rate)
        self.open.clear() if self.hold else self.open.set()


class Connection:
    """One proxied connection: two pumps, each through the link of its direction."""

    def __init__(self, proxy, dialler, target, near, far):
        self.proxy, self.ends = proxy, (dialler, target)
        self.near, self.far = near, far
        #: Whether bytes were held back on it, so that healing may have to reset it.
        self.held = False

    async def run(self):
        loop = asyncio.get_running_loop()
        out, back = self.proxy.link(*self.ends), self.proxy.link(*reversed(self.ends))
        pumps = [loop.create_task(self.pump(self.near, self.far, out)),
                 loop.create_task(self.pump(self.far, self.near, back))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.near.close()
            self.far.close()

    async def pump(self, source, sink, link):
        """Moves bytes one way; raises when the connection must end for both ways."""
        loop = asyncio.get_running_loop()
        queue = asyncio.Queue(QUEUED)
        drain = loop.create_task(self.drain(queue, sink, link))
        due = 0.0
        try:
            while True:
                data = await loop.sock_recv(source, CHUNK)
                if not data:
                    break
                self.proxy.moved += len(data)
                if link.reset and random.random() < link.reset:
                    self.abort()
                    raise ConnectionResetError
                now = loop.time()
                if not link.slow and queue.empty() and due <= now and link.open.is_set():
                    await loop.sock_sendall(sink, data)
                    continue
                wait = random.uniform(*link.delay) if link.delay else 0.0
                if link.stall and random.random() < link.stall[0]:
                    wait += link.stall[1]
                due = max(due, now + wait)
                if link.rate:
                    due += len(data) / link.rate
                await queue.put((due, data))
            await queue.put((due, None))
            await drain
        finally:
            drain.cancel()

    async def drain(self, queue, sink, link):
        loop = asyncio.get_running_loop()
        try:
            while True:
                due, data = await queue.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                if not link.open.is_set():
                    self.held = True
                    await link.open.wait()
                if data is None:
                    sink.shutdown(socket.SHUT_WR)
                    return
                await loop.sock_sendall(sink, data)
        except OSError:
            self.abort()
            raise

    def abort(self):
        """Ends both sides with a reset."""
        for end in (self.near, self.far):
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Proxy:
    def __init__(self):
        self.pids, self.links, self.connections, self.tasks = {}, {}, set(), set()
        self.targets, self.moved, self.strangers = {}, 0, 0

    def link(self, source, target):
        if (source, target) not in self.links:
            self.links[source, target] = Link()
        return self.links[source, target]

    async def listen(self, name, port, target):
        self.targets[name] = target
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen(128)
        server.setblocking(False)
        self.start(self.accept(server, name, port))

    def start(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def accept(self, server, name, port):
        loop = asyncio.get_running_loop()
        while True:
            near, (_, source_port) = await loop.sock_accept(server)
            self.start(self.serve(near, source_port, name, port))

    async def serve(self, near, source_port, name, port):
        loop = asyncio.get_running_loop()
        dialler = await self.dialler(source_port, port)
        far = socket.socket()
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self, dialler, name, near, far)
        self.connections.add(connection)
        try:
            if any(self.link(*pair).cut for pair in ((dialler, name), (name, dialler))):
                connection.abort()
                return
            await loop.sock_connect(far, ("127.0.0.1", self.targets[name]))
            await connection.run()
        except OSError:
            connection.abort()
        finally:
            self.connections.discard(connection)
            near.close()
            far.close()

    async def dialler(self, source_port, port):
        """The name of the member whose process owns the other end, "" when it is none of them."""
        for _ in range(LOOKUPS):
            inode = socket_inode(source_port, port)
            for name, pid in list(self.pids.items()):
                if inode and owns(pid, inode):
                    return name
            await asyncio.sleep(LOOKUP_PAUSE)
        self.strangers += 1
        return ""

    def set_link(self, source, target, faults):
        link = self.link(source, target)
        link.set(faults)
        if link.cut:
            self.reset_between(source, target)

    def reset_between(self, one, other):
        for connection in list(self.connections):
            if set(connection.ends) == {one, other}:
                connection.abort()

    def heal(self, deliver):
        """Makes all links healthy; what was held back is delivered late, or lost with its connection."""
        if not deliver:
            for connection in list(self.connections):
                held = any(self.link(*pair).hold for pair in (connection.ends, connection.ends[::-1]))
                if connection.held or held:
                    connection.abort()
        for link in self.links.values():
            link.set(HEALTHY)
        for connection in self.connections:
            connection.held = False

    async def command(self, do, **fields):
        if do == "listen":
            await self.listen(**fields)
        elif do == "pid":
            self.pids[fields["name"]] = fields["pid"]
            if fields["pid"] is None:
                del self.pids[fields["name"]]
        elif do == "link":
            self.set_link(fields.pop("source"), fields.pop("target"), fields)
        elif do == "heal":
            self.heal(**fields)
        elif do == "stats":
            pass
        else:
            raise ValueError("unknown command %s" % do)
        return {"moved": self.moved, "strangers": self.strangers,
                "connections": sorted("%s>%s" % c.ends for c in self.connections)}

    async def run(self):
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            try:
                answer = await self.command(**json.loads(line))
            except Exception as error:
                answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)
        for pid in self.pids.values():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        os._exit(0)


def socket_inode(source_port, port):
    """The inode of the dialling end of a loopback connection, None when it is already gone."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:
                for line in lines:
                    fields = line.split()
                    if fields[1].endswith(":%04X" % source_port) and fields[2].endswith(":%04X" % port):
                        return fields[9] if fields[9] != "0" else None
        except OSError:
            pass
    return None


def owns(pid, inode):
    wanted, directory = "socket:[%s]" % inode, "/proc/%d/fd" % pid
    try:
        for descriptor in os.listdir(directory):
            try:
                if os.readlink(directory + "/" + descriptor) == wanted:
                    return True
            except OSError:
                pass
    except OSError:
        pass
    return False


if __name__ == "__main__":
    # The driver decides when to end; an interrupt from the terminal must not cut its network first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(Proxy().run())
