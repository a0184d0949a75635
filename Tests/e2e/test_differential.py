"""Random requests, valid and broken, are answered by Moonraft as by etcd 3.5.1, and watchers are told the same.

Method: differential.py, a few fixed seeds against fresh servers. `E2E_SEEDS=100-199 E2E_STEPS=600` runs others, longer.
"""

import os

import pytest

import differential
from differential_watch import Told
from test_plugins import AUDITOR, Plugins

pytestmark = pytest.mark.moonraft

_CHOSEN = os.environ.get("E2E_SEEDS")
_FIRST, _, _LAST = (_CHOSEN or "1-2").partition("-")
SEEDS = range(int(_FIRST), int(_LAST or _FIRST) + 1)
STEPS = int(os.environ.get("E2E_STEPS", "80"))
#: These take several seconds whatever the seed; once is enough in an ordinary run.
LONG = {"large", "restart", "learner", "expiry"}
#: What a run of these rounds must have asked to be worth anything.
METHODS = ["KV.Range", "KV.Put", "KV.DeleteRange", "KV.Txn", "KV.Compact", "Watch", "Lease.LeaseGrant", "Lease.LeaseRevoke",
           "Lease.LeaseKeepAlive", "Lease.LeaseTimeToLive", "Maintenance.Alarm"]


@pytest.mark.timeout(60 + STEPS)
@pytest.mark.parametrize("seed", SEEDS)
def test_answers_are_etcds(seed, tmp_path):
    rounds = [name for name in differential.ROUNDS if _CHOSEN or seed == 1 or name not in LONG]
    asked = differential.run(seed, tmp_path, STEPS, rounds)
    assert all(asked[method] for method in METHODS), asked


@pytest.mark.timeout(120)
def test_a_follower_answers_as_one_etcd(cluster, tmp_path):
    differential.run_follower(SEEDS[0], tmp_path, cluster, STEPS)


#: Looks at every operation, and writes every operation anew as it was.
TRANSPARENT = """
local function look(req) for _, op in req:ops() do if op.key == "/forbidden/" then return false, "no" end end end
return {
  authz = look,
  admit_mutate = function(req)
    for _, op in req:ops() do
      if op.kind == "put" and not op.ignore_value then op:set_value(op.value) end
      if op.kind ~= "compare" then op:set_key(op.key) end
    end
  end,
  admit_validate = look,
}
"""


def test_plugins_that_change_nothing_change_no_answer(tmp_path):
    plugins = Plugins(tmp_path / "plugged")
    plugins.write("transparent", ["authz", "admit_mutate", "admit_validate"], TRANSPARENT)
    plugins.write("auditor", ["init", "audit"], AUDITOR, 'capabilities = ["file.append"]\n')
    config = plugins.bind('[[plugin]]\nname = "transparent"\norder = 1\n\n[[plugin]]\nname = "auditor"\norder = 2\n')
    differential.run(SEEDS[0], tmp_path, STEPS, ("kv", "broken", "watch", "alarm"), config)


def test_differences_are_found(tmp_path):
    """The comparison is no formality: answers that differ in one field, code, text or event are told apart."""
    M = differential.M
    request = differential.Request("KV.Range", M.RangeRequest(key=b"a"))

    def answer(**fields):
        return differential.Answer("OK", "", M.RangeResponse(header=M.ResponseHeader(revision=5), **fields).SerializeToString())

    pair = M.KeyValue(key=b"a", value=b"v", mod_revision=4)
    same = answer(kvs=[pair], count=1)
    assert differential.difference(request, same, answer(kvs=[pair], count=1)) is None
    for other in (answer(kvs=[pair], count=2), answer(kvs=[pair], count=1, more=True), answer(count=1),
                  answer(kvs=[M.KeyValue(key=b"a", value=b"w", mod_revision=4)], count=1),
                  differential.Answer("OK", "", same.body + b"\x20\x01"),
                  differential.Answer("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted")):
        assert differential.difference(request, same, other)
    refused = differential.Answer("INVALID_ARGUMENT", "etcdserver: key is not provided")
    assert differential.difference(request, refused, differential.Answer("INVALID_ARGUMENT", "etcdserver: key not found"))
    told = [Told.of([M.WatchResponse(watch_id=1, events=[M.Event(kv=pair, type=kind)]).SerializeToString()])
            for kind in (0, 0, 1)]
    assert told[0] == told[1] and not told[0] == told[2]
