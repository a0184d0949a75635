"""The key-value model: what etcd answers to Put, Range, DeleteRange and Txn on a given state, as values.

A state is a dict of key to mvccpb.KeyValue; `run` does not change it but returns the reply and the events, which the
judge compares with what the server said. Only what the workload sends is modelled (no sort, limit or nested txn).
"""

from wire import M


def selected(state, key, range_end):
    """The pairs of a range in key order."""
    if not range_end:
        return [state[key]] if key in state else []
    return [state[k] for k in sorted(state) if k >= key and (range_end == b"\0" or k < range_end)]


def run(request, state, revision):
    """(reply without headers, events) of a request that takes effect as `revision` on `state`."""
    after, events = dict(state), []
    reply = _apply(request, after, revision, events)
    return reply, events


def _apply(request, state, revision, events):
    return {M.PutRequest: _put, M.RangeRequest: _range, M.DeleteRangeRequest: _delete,
            M.TxnRequest: _txn}[type(request)](request, state, revision, events)


def _put(request, state, revision, events):
    previous = state.get(request.key)
    reply = M.PutResponse()
    if request.prev_kv and previous is not None:
        reply.prev_kv.CopyFrom(previous)
    pair = M.KeyValue(key=request.key, value=request.value, lease=request.lease, mod_revision=revision,
                      create_revision=previous.create_revision if previous is not None else revision,
                      version=previous.version + 1 if previous is not None else 1)
    state[request.key] = pair
    events.append(M.Event(type=0, kv=pair))
    return reply


def _range(request, state, revision, events):
    pairs = selected(state, request.key, request.range_end)
    reply = M.RangeResponse(count=len(pairs))
    if not request.count_only:
        reply.kvs.extend(pairs)
    return reply


def _delete(request, state, revision, events):
    pairs = selected(state, request.key, request.range_end)
    reply = M.DeleteRangeResponse(deleted=len(pairs))
    for pair in pairs:
        if request.prev_kv:
            reply.prev_kvs.add().CopyFrom(pair)
        del state[pair.key]
        events.append(M.Event(type=1, kv=M.KeyValue(key=pair.key, mod_revision=revision)))
    return reply


def holds(compare, state):
    """Whether one compare of a txn is true; an absent key has version and revisions 0, and no value at all."""
    pair = state.get(compare.key)
    field = compare.WhichOneof("target_union")
    wanted = getattr(compare, field)
    if pair is None:
        if field == "value":
            return False
        actual = 0
    else:
        actual = getattr(pair, field)
    return {0: actual == wanted, 1: actual > wanted, 2: actual < wanted, 3: actual != wanted}[compare.result]


def _txn(request, state, revision, events):
    succeeded = all(holds(compare, state) for compare in request.compare)
    reply = M.TxnResponse(succeeded=succeeded)
    for op in request.success if succeeded else request.failure:
        kind = op.WhichOneof("request")
        inner = _apply(getattr(op, kind), state, revision, events)
        getattr(reply.responses.add(), kind.replace("request", "response")).CopyFrom(inner)
    return reply


def without_headers(reply):
    """A copy of a server's reply that can be compared with the model's."""
    bare = type(reply)()
    bare.CopyFrom(reply)
    bare.ClearField("header")
    if isinstance(bare, M.TxnResponse):
        for response in bare.responses:
            getattr(response, response.WhichOneof("response")).ClearField("header")
            # An empty message set and one not set differ on the wire only.
            getattr(response, response.WhichOneof("response")).SetInParent()
    return bare
