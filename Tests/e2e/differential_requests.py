"""Random requests for the differential test: valid, wrong, and bytes that are almost messages.

What would end 3.5.1, or is known to be answered otherwise by it than by its successors, is not made here, each with its
reason; see also docs/divergence.md.
"""

import random
from dataclasses import dataclass

from harness import compare as compare_of
from harness import prefix_end, put_op, range_op, txn_op
from wire import M

INT64_MAX, INT64_MIN = 2**63 - 1, -2**63
UNORDERED = "unordered"
SORT_REFUSED = ("INVALID_ARGUMENT", "etcdserver: invalid sort option")


@dataclass
class Request:
    """One unary call: the message, or bytes when it is broken on purpose."""

    method: str
    message: object
    #: What Moonraft alone must answer; etcd is not asked.
    only: tuple = None
    note: str = ""

    @property
    def payload(self):
        return self.message if isinstance(self.message, bytes) else self.message.SerializeToString()

    def __str__(self):
        body = self.message.hex() if isinstance(self.message, bytes) else " ".join(str(self.message).split())
        return "%s%s { %s }" % (self.method, " (%s)" % self.note if self.note else "", body[:2000])


KEYS = [b"a", b"a\0", b"aa", b"ab", b"b", b"b\xff", b"ba", b"c", b"\0", b"\xff", b"\xff\xff", b"lease/1"]
LEASES = [1, 2, 77, 0x7FFFFFFFFFFFFFFF, 123456789]


class Generator:
    """Random requests about a small set of keys, near the revisions that matter."""

    def __init__(self, seed, pair):
        self.random = random.Random(seed)
        self.pair = pair
        #: While a transaction is made that is meant to succeed; any wrong part would refuse all of it.
        self.careful = False

    def chance(self, probability):
        return self.random.random() < probability

    def pick(self, *options):
        return self.random.choice(options)

    def key(self):
        return b"" if not self.careful and self.chance(0.02) else self.random.choice(KEYS)

    def range_end(self, key):
        if self.chance(0.4):
            return b""
        return self.pick(b"\0", b"\0", prefix_end(key or b"a"), self.random.choice(KEYS), key, key + b"\0", b"\xff" * 3,
                         b"\0\0")

    def number(self):
        return self.pick(0, 1, 2, 3, -1, self.pair.revision, self.pair.revision + 1, INT64_MAX, INT64_MIN,
                         self.random.randint(0, self.pair.revision + 1))

    def revision(self):
        """Mostly nothing or something in the past; sometimes the edges."""
        now, compacted = self.pair.revision, self.pair.compacted
        if self.chance(0.4):
            return 0
        if self.careful or self.chance(0.6):
            return self.random.randint(max(1, compacted), now)
        return self.pick(now, now + 1, now + 100, compacted, compacted - 1, compacted + 1, 1, -1, INT64_MAX, INT64_MIN)

    def value(self):
        if self.chance(0.02):
            return self.random.randbytes(self.pick(1000, 70_000))
        return self.pick(b"", b"v", b"w", b"v%d" % self.random.randint(0, 30), self.random.randbytes(8))

    def lease(self):
        return 0 if self.careful or self.chance(0.7) else self.pick(*LEASES, 404, -1, INT64_MIN)

    # KV

    def range_request(self, inside=False):
        key = self.key()
        request = M.RangeRequest(key=key, range_end=self.range_end(key), revision=self.revision())
        if self.chance(0.4):
            request.limit = self.pick(1, 2, 3, 7, -1, INT64_MAX - 1, INT64_MIN, self.number() % 20)
        if self.chance(0.4):
            request.sort_order = self.pick(0, 1, 2)
            request.sort_target = self.pick(0, 1, 2, 3, 4)
        for name in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
            if self.chance(0.08):
                setattr(request, name, self.number())
        request.serializable = self.chance(0.3)
        request.keys_only = self.chance(0.2)
        request.count_only = self.chance(0.15)
        if inside and request.sort_target:
            request.limit = 0
            request.sort_order = request.sort_target = 0    # ties cannot be told apart inside a transaction
        return request

    def put_request(self):
        request = M.PutRequest(key=self.key(), value=self.value(), lease=self.lease(), prev_kv=self.chance(0.3))
        if self.chance(0.02 if self.careful else 0.15):
            request.ignore_value = True
            if self.chance(0.9):
                request.value = b""
        if self.chance(0.02 if self.careful else 0.15):
            request.ignore_lease = True
            if self.chance(0.9):
                request.lease = 0
        return request

    def delete_request(self):
        key = self.key()
        end = self.range_end(key)
        if end == b"\0" and self.chance(0.7):
            end = b""
        return M.DeleteRangeRequest(key=key, range_end=end, prev_kv=self.chance(0.5))

    def comparison(self):
        key = self.key()
        comparison = M.Compare(key=key, range_end=self.range_end(key) if self.chance(0.3) else b"",
                               target=self.pick(0, 1, 2, 3, 4), result=self.pick(0, 1, 2, 3))
        if self.chance(0.05):
            comparison.target = self.pick(5, -1, 99, 2**31 - 1, -2**31)
        if self.chance(0.05):
            comparison.result = self.pick(4, -1, 99, 2**31 - 1, -2**31)
        union = comparison.target if self.chance(0.85) else self.pick(0, 1, 2, 3, 4)
        if self.chance(0.1):
            return comparison
        if union == 3:
            comparison.value = self.value()[:8]
        elif union in (0, 1, 2, 4):
            name = {0: "version", 1: "create_revision", 2: "mod_revision", 4: "lease"}[union]
            setattr(comparison, name, self.pick(0, 0, 1, 2, self.number(), *LEASES[:2]))
        return comparison

    def operation(self, depth):
        kind = self.random.random()
        if kind < 0.3:
            return M.RequestOp(request_range=self.range_request(inside=True))
        if kind < 0.65:
            return M.RequestOp(request_put=self.put_request())
        if kind < 0.82:
            return M.RequestOp(request_delete_range=self.delete_request())
        if kind < 0.97 and depth < 4:
            return M.RequestOp(request_txn=self.txn_request(depth + 1))
        return M.RequestOp() if self.chance(0.15) else M.RequestOp(request_range=M.RangeRequest(key=b"a"))

    def txn_request(self, depth=0):
        few = [0, 1, 1, 2, 3] if depth else [0, 1, 2, 3, 4]
        return M.TxnRequest(compare=[self.comparison() for _ in range(self.pick(0, 0, 1, 2))],
                            success=[self.operation(depth) for _ in range(self.pick(*few))],
                            failure=[self.operation(depth) for _ in range(self.pick(*few))])

    def txn(self):
        """A transaction. 3.5.1 ends when a put ignores the value of a key that the same transaction deleted from an open
        range, so such puts ignore nothing."""
        self.careful = self.chance(0.7)
        message = self.txn_request()
        self.careful = False
        if deletes_open_range(message):
            for put in puts_of(message):
                put.ignore_value = put.ignore_lease = False
        return message

    def crowded_txn(self):
        """At the bound of 128 comparisons or operations, on one level or over several."""
        count = self.pick(127, 128, 129)
        if self.chance(0.3):
            return M.TxnRequest(compare=[compare_of(b"a", "VERSION", "GREATER", -1)] * count)
        ops = [put_op(b"many/%03d" % n) for n in range(count)]
        if self.chance(0.5):
            return M.TxnRequest(success=ops)
        inner = self.pick(0, 1, 128 - 3, 126, 127)
        return M.TxnRequest(success=[put_op(b"a"), range_op(b"b"), txn_op(failure=ops[:inner] if self.chance(0.5) else (),
                                                                         success=ops[:inner])])

    def compact_request(self):
        now, compacted = self.pair.revision, self.pair.compacted
        wanted = self.random.randint(compacted, now) if self.chance(0.5) else self.pick(
            compacted, compacted - 1, 0, -1, now, now + 1, INT64_MAX, INT64_MIN)
        # Back from the present, or soon nothing would be left to ask for.
        if wanted == now and self.chance(0.6):
            wanted = max(compacted, now - 20)
        return M.CompactionRequest(revision=wanted, physical=True)

    # The others

    def lease_call(self):
        kind = self.random.random()
        known = self.pick(*LEASES, 404, 0, -1)
        if kind < 0.4:
            ttl = self.pick(100, 1000, 5000, 86400, 9_000_000_000, 9_000_000_001, INT64_MAX, 777)
            return Request("Lease.LeaseGrant", M.LeaseGrantRequest(ID=known or 5, TTL=ttl))
        if kind < 0.6:
            return Request("Lease.LeaseRevoke", M.LeaseRevokeRequest(ID=known))
        if kind < 0.85:
            return Request("Lease.LeaseTimeToLive", M.LeaseTimeToLiveRequest(ID=known, keys=self.chance(0.6)))
        return self.lease_list()

    def lease_list(self):
        """In the order in which they end, unless some of one length may have been begun or renewed at the same moment."""
        return Request("Lease.LeaseLeases", M.LeaseLeasesRequest(), note=UNORDERED if self.pair.leases_tie else "")

    def short_lease(self):
        """Granted below the minimum and taken back before it ends; nothing is attached to it."""
        ttl = self.pick(0, -1, 1, INT64_MIN)
        return [Request("Lease.LeaseGrant", M.LeaseGrantRequest(ID=9999, TTL=ttl)),
                Request("Lease.LeaseRevoke", M.LeaseRevokeRequest(ID=9999))]

    def member_call(self):
        kind = self.random.random()
        number = self.pick(0, 1, 2**64 - 1, 12345)
        if kind < 0.3:
            return Request("Cluster.MemberList", M.MemberListRequest(linearizable=self.chance(0.5)))
        if kind < 0.6:
            urls = self.pick([], [""], ["nonsense"], ["http://127.0.0.1"], ["ftp://127.0.0.1:1"], ["http://a:1/path"],
                             ["http://127.0.0.1:1", "x"], ["127.0.0.1:2380"], ["http://[::1"],
                             ["http://127.0.0.1:1", ""])
            return Request("Cluster.MemberAdd", M.MemberAddRequest(peerURLs=urls, isLearner=self.chance(0.5)))
        if kind < 0.75:
            return Request("Cluster.MemberPromote", M.MemberPromoteRequest(ID=number))
        if kind < 0.9:
            return Request("Cluster.MemberRemove", M.MemberRemoveRequest(ID=number))
        return Request("Cluster.MemberUpdate", M.MemberUpdateRequest(ID=number, peerURLs=["http://127.0.0.1:9"]))

    def maintenance_call(self):
        kind = self.random.random()
        if kind < 0.3:
            revision = self.revision()
            if revision == self.pair.compacted:
                revision = 0             # 3.5.1 refuses to hash the compacted revision itself
            return Request("Maintenance.HashKV", M.HashKVRequest(revision=revision))
        if kind < 0.4:
            return Request("Maintenance.MoveLeader", M.MoveLeaderRequest(targetID=self.pick(0, 1, 2**64 - 1)))
        if kind < 0.5:
            return Request("Maintenance.Status", M.StatusRequest())
        if kind < 0.55:
            return Request("Maintenance.Hash", M.HashRequest())
        if kind < 0.6:
            return Request("Maintenance.Defragment", M.DefragmentRequest())
        if kind < 0.7:
            return Request("Auth.AuthStatus", M.AuthStatusRequest())
        if kind < 0.75:
            return Request("Auth.Authenticate", M.AuthenticateRequest(name="root", password="x"))
        action = self.pick(0, 0, 2)
        return Request("Maintenance.Alarm", M.AlarmRequest(action=action, memberID=self.pick(0, 1, 2**64 - 1),
                                                           alarm=self.pick(0, 1, 2, 7) if action == 0 else
                                                           self.pick(1, 2)))

    def read(self):
        """A request that changes nothing."""
        kind = self.random.random()
        if kind < 0.55:
            return Request("KV.Range", self.range_request())
        if kind < 0.7:
            operations = [M.RequestOp(request_range=self.range_request(inside=True)) for _ in range(3)]
            return Request("KV.Txn", M.TxnRequest(compare=[self.comparison()], success=operations, failure=operations[:1]))
        if kind < 0.8:
            return Request("KV.Put", self.pick(
                M.PutRequest(), M.PutRequest(key=b"none", ignore_value=True), M.PutRequest(key=b"a", lease=405),
                M.PutRequest(key=b"a", value=b"x", ignore_value=True),
                M.PutRequest(key=b"none", ignore_lease=True, prev_kv=True),
                M.PutRequest(key=b"none", ignore_lease=True, lease=1)))
        if kind < 0.85:
            return Request("KV.DeleteRange", M.DeleteRangeRequest(key=b"none", range_end=b"nonf", prev_kv=True))
        if kind < 0.9:
            return Request("KV.Compact", M.CompactionRequest(
                revision=self.pick(0, self.pair.compacted) if self.pair.compacted > 0 else self.pick(-1, INT64_MAX)))
        if kind < 0.93:
            return Request("Lease.LeaseTimeToLive", M.LeaseTimeToLiveRequest(ID=self.pick(*LEASES), keys=True))
        if kind < 0.96:
            return Request("KV.Range", M.RangeRequest(key=b"a", sort_order=self.pick(3, -1, 99)), only=SORT_REFUSED)
        return self.maintenance_call() if self.chance(0.3) else Request(
            "KV.Range", M.RangeRequest(key=b"a", range_end=b"\0", sort_target=self.pick(5, -1), limit=1), only=SORT_REFUSED)

    def write(self):
        kind = self.random.random()
        if kind < 0.4:
            return Request("KV.Put", self.put_request())
        if kind < 0.5:
            return Request("KV.DeleteRange", self.delete_request())
        if kind < 0.9:
            return Request("KV.Txn", self.txn())
        if kind < 0.92:
            return Request("KV.Txn", self.crowded_txn())
        return self.lease_call()

    def huge(self):
        """Around the bounds of a request (1.5 MiB) and of a message (512 KiB more)."""
        size = self.pick(1_572_864 - 400, 1_572_864, 1_572_865, 2_097_152 - 20, 2_097_152, 2_097_153, 3_000_000)
        return Request("KV.Put", M.PutRequest(key=b"huge", value=b"h" * size))

    # Broken bytes

    def broken(self):
        request = self.read() if self.chance(0.7) else self.write()
        # A lease of random id or length would end by itself.
        if request.only or request.method.partition(".")[0] not in ("KV", "Lease") or request.method == "Lease.LeaseGrant":
            return None
        payload = request.payload
        if len(payload) > 500:
            return None
        for _ in range(self.pick(1, 1, 2)):
            payload = self.spoil(payload)
        return None if is_deadly(request.method, payload) else Request(request.method, payload, note="broken")

    def spoil(self, payload):
        at = self.random.randint(0, len(payload))
        fields = list(field_offsets(payload))
        boundary = self.random.choice(fields + [len(payload)])
        kind = self.random.randint(0, 8)
        if kind == 0:
            return payload[:at]
        if kind == 1:
            unknown = self.random.choice([
                b"\xa0\x06\x01", b"\xa1\x06" + b"x" * 8, b"\xa2\x06\x03abc", b"\xa5\x06" + b"x" * 4,   # field 100
                b"\xa3\x06\xa4\x06", b"\xa3\x06\x08\x01\x12\x01x\xa4\x06",                             # groups
                b"\xa3\x06\xab\x06\xac\x06\xa4\x06",                                                   # group in group
                b"\xa3\x06", b"\xa4\x06", b"\xa3\x06\xa6\x06", b"\xa3\x06\x07",   # unfinished, odd
                b"\xa6\x06", b"\xa7\x06\x01", b"\x00", b"\x02\x00", b"\x04", b"\xf8\xff\xff\xff\x0f\x01"])
            return payload[:boundary] + unknown + payload[boundary:]
        if kind == 2 and fields:                                                 # another wire type
            start = self.random.choice(fields)
            return payload[:start] + bytes([payload[start] & ~7 | self.random.randint(0, 7)]) + payload[start + 1:]
        if kind == 3:                                                            # a number longer than it need be
            for start in fields:
                if start + 1 < len(payload) and payload[start] < 0x80 and payload[start] & 7 == 0 and (
                        payload[start + 1] < 0x80):
                    pad = self.random.randint(0, 9)
                    number = bytes([payload[start + 1] | 0x80]) + b"\x80" * pad + b"\0"
                    return payload[:start + 1] + number + payload[start + 2:]
        if kind == 4 and fields:                                                 # a field twice
            start = self.random.choice(fields)
            later = [offset for offset in fields if offset > start] + [len(payload)]
            return payload[:boundary] + payload[start:later[0]] + payload[boundary:]
        if kind == 5 and fields:                                                 # fields in another order
            half = self.random.choice(fields)
            return payload[half:] + payload[:half]
        if kind == 6 and payload:
            at = self.random.randrange(len(payload))
            return payload[:at] + bytes([self.random.randrange(256)]) + payload[at + 1:]
        if kind == 7:                                                            # a length beyond everything
            length = self.random.choice([b"\x7f", b"\xff\xff\xff\xff\x07", b"\xff" * 9 + b"\x01", b"\xff" * 8 + b"\x7f"])
            return payload[:boundary] + b"\x0a" + length
        return payload + self.random.randbytes(self.random.randint(1, 6))


def operations_of(txn):
    for operation in list(txn.success) + list(txn.failure):
        yield operation
        if operation.HasField("request_txn"):
            yield from operations_of(operation.request_txn)


def puts_of(txn):
    return [operation.request_put for operation in operations_of(txn) if operation.HasField("request_put")]


def deletes_open_range(txn):
    return any(operation.request_delete_range.range_end == b"\0" for operation in operations_of(txn))


def varint_at(payload, at):
    """(value, end) of a varint, or None when it does not end."""
    value = shift = 0
    while at < len(payload) and shift < 70:
        value |= (payload[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if payload[at - 1] < 0x80:
            return value, at
    return None


def field_offsets(payload):
    """Where the fields of a message begin, as far as it can be read."""
    at = 0
    while at < len(payload):
        tag = varint_at(payload, at)
        if tag is None:
            return
        yield at
        kind, at = tag[0] & 7, tag[1]
        if kind == 0:
            number = varint_at(payload, at)
        elif kind == 2:
            length = varint_at(payload, at)
            number = length and (0, length[1] + length[0])
        else:
            number = {1: (0, at + 8), 5: (0, at + 4)}.get(kind)
        if number is None:
            return
        at = number[1]


def is_deadly(method, payload):
    """Whether bytes must not be sent, because they end 3.5.1 (unknown sort targets) or it takes what its successors and
    Moonraft refuse: field numbers and numbers beyond what protobuf has, and groups that end under another number."""
    def walk(data, depth=0):
        at, groups = 0, []
        while at < len(data):
            tag = varint_at(data, at)
            if tag is None or tag[0] >> 3 >= 1 << 29:
                return tag is not None
            number, kind, at = tag[0] >> 3, tag[0] & 7, tag[1]
            if kind == 0:
                value = varint_at(data, at)
                if value is None:
                    return False
                if value[0] >= 1 << 64 or number in (5, 6) and value[0] & 0xFFFFFFFF > 4:
                    return True
                at = value[1]
            elif kind == 2:
                length = varint_at(data, at)
                if length is None:
                    return False
                if length[0] >= 1 << 64:
                    return True
                if depth < 8 and walk(data[length[1]:length[1] + length[0]], depth + 1) and method == "KV.Txn":
                    return True
                at = length[1] + length[0]
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            elif kind == 3:
                groups.append(number)
            elif kind == 4 and groups and groups.pop() != number:
                return True
        return False
    return walk(payload)
