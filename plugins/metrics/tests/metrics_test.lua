-- Series per declared prefix: what is counted, for which prefix, and that clients cannot add series.
local function bind(t, prefixes, more)
  local options = { config = { prefixes = prefixes } }
  for name, value in pairs(more or {}) do options[name] = value end
  return t.plugin(options)
end

local function rec(fields)
  local result = { stage = "completed", code = 0, allowed = true, total_us = 2000 }
  for name, value in pairs(fields) do result[name] = value end
  return result
end

local function put(key, value, more)
  local result = rec{ rpc = "put", key = key, value = value }
  for name, v in pairs(more or {}) do result[name] = v end
  return result
end

local function operations(p, prefix, kind, result) return p:metric("prefix_operations_total", prefix, kind, result) end

test("known series begin at zero", function(t)
  local p = bind(t, { "/a/" })
  t.equal(operations(p, "/a/", "put", "ok"), 0)
  t.equal(p:metric("prefix_written_bytes_total", "/a/"), 0)
end)

test("operations and bytes count for the longest prefix that holds all their keys", function(t)
  local p = bind(t, { "/a/", "/a/b/", "/c/" })
  p:audit(put("/a/x", "12345"))
  p:audit(put("/a/b/x", "123"))
  p:audit(put("/zzz", "1"))
  p:audit(rec{ rpc = "range", key = "/a/b/", range_end = "/a/b0" })
  p:audit(rec{ rpc = "range", key = "/a/b/", range_end = "/a/b0\0" })
  p:audit(rec{ rpc = "delete_range", key = "/a/", range_end = "\0" })
  t.equal(operations(p, "/a/", "put", "ok"), 1)
  t.equal(operations(p, "/a/b/", "put", "ok"), 1)
  t.equal(operations(p, "other", "put", "ok"), 1)
  t.equal(operations(p, "/a/b/", "range", "ok"), 1)
  t.equal(operations(p, "/a/", "range", "ok"), 1)
  t.equal(operations(p, "other", "delete_range", "ok"), 1)
  t.equal(p:metric("prefix_written_bytes_total", "/a/"), 9)
  t.equal(p:metric("prefix_written_bytes_total", "/a/b/"), 9)
end)

test("the result is ok, denied or failed; only what was written counts as bytes", function(t)
  local p = bind(t, { "/a/" })
  p:audit(put("/a/x", "1"))
  p:audit(put("/a/x", "1", { code = 7, allowed = false }))
  p:audit(put("/a/x", "1", { code = 8 }))
  t.equal(operations(p, "/a/", "put", "ok"), 1)
  t.equal(operations(p, "/a/", "put", "denied"), 1)
  t.equal(operations(p, "/a/", "put", "failed"), 1)
  t.equal(p:metric("prefix_written_bytes_total", "/a/"), 5)
end)

test("a transaction is taken apart, its time counts once for each prefix", function(t)
  local p = bind(t, { "/a/", "/b/" })
  p:audit(rec{ rpc = "txn", total_us = 4000, ops = {
    { kind = "compare", path = "compare.0", key = "/a/x", target = "version", result = "=", number = 0 },
    { kind = "put", path = "success.0", key = "/a/x", value = "1" }, { kind = "put", path = "success.1", key = "/b/x", value = "1" },
  } })
  t.equal(operations(p, "/a/", "compare", "ok"), 1)
  t.equal(operations(p, "/a/", "put", "ok"), 1)
  t.equal(operations(p, "/b/", "put", "ok"), 1)
  for _, prefix in ipairs{ "/a/", "/b/" } do
    local count, sum = p:metric("prefix_request_duration_seconds", prefix, "txn")
    t.equal(count, 1)
    t.truthy(math.abs(sum - 0.004) < 1e-9)
  end
end)

test("the life of a watch is no latency", function(t)
  local p = bind(t, { "/a/" })
  p:audit(rec{ rpc = "watch", total_us = 9e9, ops = { { kind = "watch", key = "/a/" } } })
  t.equal(operations(p, "/a/", "watch", "ok"), 1)
  t.equal(p:metric("prefix_request_duration_seconds", "/a/", "watch"), nil)
end)

test("only completed requests count", function(t)
  local p = bind(t, { "/a/" })
  p:audit(put("/a/x", "1", { stage = "decided" }))
  t.equal(operations(p, "/a/", "put", "ok"), 0)
end)

test("calls without keys do no harm", function(t)
  t.truthy(bind(t, { "/a/" }):audit(rec{ rpc = "lease_grant", ttl = 5 }).ok)
end)

test("keys are counted on a scrape", function(t)
  local kv = { ["/b/1"] = "x" }
  for i = 1, 7 do kv["/a/" .. i] = "x" end
  local p = bind(t, { "/a/", "/b/", "/c/" }, { kv = kv })
  t.truthy(p:metrics_collect().ok)
  t.equal(p:metric("prefix_keys", "/a/"), 7)
  t.equal(p:metric("prefix_keys", "/b/"), 1)
  t.equal(p:metric("prefix_keys", "/c/"), 0)
  p:kv_delete("/a/1")
  p:metrics_collect()
  t.equal(p:metric("prefix_keys", "/a/"), 6)
  local off = t.plugin{ config = { prefixes = { "/a/" }, count_keys = false }, kv = kv }
  off:metrics_collect()
  t.equal(off:metric("prefix_keys", "/a/"), nil)
end)

test("keys of clients never become labels", function(t)
  local p = bind(t, { "/a/" })
  for i = 1, 50 do p:audit(put("/x/" .. i, "1")) end
  t.equal(operations(p, "other", "put", "ok"), 50)
  t.equal(operations(p, "/x/1", "put", "ok"), nil)
end)

test("the empty prefix is every key", function(t)
  local p = bind(t, { "" })
  p:audit(rec{ rpc = "delete_range", key = "\0", range_end = "\0" })
  t.equal(operations(p, "", "delete_range", "ok"), 1)
end)

test("what cannot work does not load", function(t)
  t.contains(t.load_error{ config = {} }, "prefixes")
  t.contains(t.load_error{ config = { prefixes = {} } }, "prefixes")
  t.contains(t.load_error{ config = { prefixes = { "/a/", "/b/", "/a/" } } }, "given twice")
  t.contains(t.load_error{ config = { prefixes = { "other" } } }, "label")
end)
