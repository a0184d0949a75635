-- What is written of a request, at which level, and what never is.
local function log_of(t, config, more)
  local options = { config = config or {} }
  for name, value in pairs(more or {}) do options[name] = value end
  return t.plugin(options)
end

local function records(p, path)
  local result = {}
  for i, line in ipairs(p:sink(path or "audit/audit.jsonl")) do result[i] = json.decode(line) end
  return result
end

local function put(key, more)
  local rec = {
    id = "r1", stage = "completed", rpc = "put", key = key, value = "secret-value", user = "alice", peer = "10.0.0.9:5000",
    code = 0, allowed = true,
  }
  for name, value in pairs(more or {}) do rec[name] = value end
  return rec
end

-- The level of the last record of a request, told by what it holds.
local function level(p, rec)
  local before = #p:sink("audit/audit.jsonl")
  p:audit(rec)
  local lines = p:sink("audit/audit.jsonl")
  if #lines == before then return "none" end
  local op = (json.decode(lines[#lines]).ops or {})[1]
  if not op then return "metadata" end
  return op.value and "full" or op.value_hash and "keys+hash" or "keys"
end

test("a record says who, from where, what and with which outcome", function(t)
  local p = log_of(t)
  local d = p:audit(put("/a", { roles = { "dev" }, result_revision = 7, term = 2, index = 9, total_us = 1500 }))
  t.truthy(d.ok)
  local rec = records(p)[1]
  t.equal(rec.id, "r1")
  t.equal(rec.stage, "completed")
  t.equal(rec.user, "alice")
  t.equal(rec.roles, { "dev" })
  t.equal(rec.peer, "10.0.0.9:5000")
  t.equal(rec.rpc, "put")
  t.equal(rec.ops[1].key, "/a")
  t.equal(rec.ops[1].value_size, 12)
  t.equal(rec.code, 0)
  t.equal(rec.revision, 7)
  t.matches(rec.time, "^%d%d%d%d%-%d%d%-%d%dT.*Z$")
end)

test("levels, from nothing to everything", function(t)
  for _, name in ipairs{ "none", "metadata", "keys", "keys+hash", "full" } do
    local p = log_of(t, { level = name })
    t.equal(level(p, put("/a")), name)
    local text = table.concat(p:sink("audit/audit.jsonl"))
    t.equal(text:find("secret-value", 1, true) ~= nil, name == "full", name)
  end
end)

test("hashes are keyed when there is a key", function(t)
  local p = log_of(t, { level = "keys+hash", hash_key = "0123456789abcdef" })
  p:audit(put("/a"))
  t.equal(records(p)[1].ops[1].value_hash, hash.hmac_sha256("0123456789abcdef", "secret-value"))
end)

test("keys below a prefix may be written as hashes", function(t)
  local p = log_of(t, { key_hash = { "/person/" }, hash_key = "0123456789abcdef" })
  p:audit(put("/person/4711"))
  p:audit(put("/a"))
  local text = table.concat(p:sink("audit/audit.jsonl"))
  t.falsy(text:find("4711", 1, true))
  t.contains(text, '"/a"')
end)

test("the first rule that matches sets the level", function(t)
  local p = log_of(t, { level = "metadata", rules = {
    { level = "none", rpcs = { "range", "watch" } }, { level = "keys", prefixes = { "/a/" }, users = { "alice" } },
    { level = "full", prefixes = { "/a/", "/b/" } }, { level = "none", users = { "" } },
    { level = "keys+hash", roles = { "ops" } }, { level = "none", rpcs = { "status" } },
  } })
  t.equal(level(p, { stage = "completed", rpc = "range", key = "/a/x", user = "alice" }), "none")
  t.equal(level(p, put("/a/x")), "keys")
  t.equal(level(p, put("/a/x", { user = "bob" })), "full")
  t.equal(level(p, put("/b/x")), "full")
  t.equal(level(p, put("/c/x")), "metadata")
  t.equal(level(p, { stage = "completed", rpc = "put", key = "/c/x", value = "1" }), "none")
  t.equal(level(p, put("/c/x", { roles = { "ops" } })), "keys+hash")
  t.equal(level(p, { stage = "completed", rpc = "status", user = "alice" }), "none")
  t.equal(level(p, { stage = "completed", rpc = "compact", revision = 5, user = "alice" }), "metadata")
end)

test("denied requests can be told apart", function(t)
  local p = log_of(t, { level = "none", rules = { { level = "keys", denied = true } } })
  t.equal(level(p, put("/a")), "none")
  t.equal(level(p, put("/a", { allowed = false, code = 7, message = "etcdserver: permission denied" })), "keys")
  t.equal(records(p)[1].code, 7)
end)

test("a write cannot hide behind a quiet prefix", function(t)
  local p = log_of(t, { level = "keys", rules = {
    { level = "none", prefixes = { "/noise/" } }, { level = "full", prefixes = { "/pay/" } },
  } })
  local noise = { kind = "put", path = "success.0", key = "/noise/a", value = "1" }
  local pay = { kind = "put", path = "success.1", key = "/pay/a", value = "1" }
  local other = { kind = "put", path = "success.1", key = "/x", value = "1" }
  local function txn(...) return { stage = "completed", rpc = "txn", user = "eve", ops = { ... } } end
  local function delete(key, range_end)
    return { stage = "completed", rpc = "delete_range", key = key, range_end = range_end, user = "eve" }
  end
  t.equal(level(p, txn(noise)), "none")
  t.equal(level(p, txn(noise, pay)), "full")
  t.equal(level(p, txn(pay, noise)), "full")
  t.equal(level(p, txn(noise, other)), "keys")
  t.equal(level(p, txn(other, noise)), "keys")
  t.equal(level(p, delete("/noise/", "/noise0")), "none")
  t.equal(level(p, delete("/noise/", "\0")), "keys")
  t.equal(level(p, delete("/noise/", "/noise0\0")), "keys")
  t.equal(level(p, delete("\0", "\0")), "keys")
end)

test("bytes that are no text are written as base64, and a line stays a line", function(t)
  local p = log_of(t, { level = "full" })
  p:audit(put("\0\255\n", { value = "a\nb\255" }))
  local op = records(p)[1].ops[1]
  t.equal(base64.decode(op.key_b64), "\0\255\n")
  t.equal(base64.decode(op.value_b64), "a\nb\255")
  t.equal(#p:sink("audit/audit.jsonl"), 1)
end)

test("what a client writes cannot forge fields or lines", function(t)
  local p = log_of(t)
  p:audit(put('/a","user":"root"}\n{"id":"x'))
  local rec = records(p)[1]
  t.equal(rec.user, "alice")
  t.equal(rec.ops[1].key, '/a","user":"root"}\n{"id":"x')
end)

test("calls about users and passwords leave no secret at any level", function(t)
  local p = log_of(t, { level = "full" })
  p:audit({ stage = "completed", rpc = "authenticate", name = "alice", password = "hunter2", token = "hunter2" })
  p:audit({ stage = "completed", rpc = "user_admin", name = "alice", password = "hunter2", user = "root" })
  t.equal(#p:sink("audit/audit.jsonl"), 2)
  t.falsy(table.concat(p:sink("audit/audit.jsonl")):find("hunter2", 1, true))
end)

test("labels are added to every record", function(t)
  local p = log_of(t, { labels = { site = "fra", rack = "7" } })
  p:audit(put("/a"))
  t.equal(records(p)[1].extra, { site = "fra", rack = "7" })
end)

test("records are chained: each has the hash of the one before", function(t)
  local p = log_of(t)
  for _ = 1, 3 do p:audit(put("/a")) end
  local recs = records(p)
  t.equal(recs[2].prev, recs[1].hash)
  t.equal(recs[3].prev, recs[2].hash)
  t.equal(recs[3].seq, recs[1].seq + 2)
  local q = log_of(t, { chain = false })
  q:audit(put("/a"))
  t.equal(records(q)[1].hash, nil)
end)

test("both stages are written, or those the binding asks for", function(t)
  local p = log_of(t)
  p:audit(put("/a", { stage = "decided" }))
  p:audit(put("/a"))
  t.equal(#records(p), 2)
  local q = log_of(t, {}, { match = { stages = { "completed" } } })
  q:audit(put("/a", { stage = "decided" }))
  t.equal(#q:sink("audit/audit.jsonl"), 0)
end)

test("a record that cannot be written is reported, and health recovers with the file", function(t)
  local p = log_of(t)
  t.truthy(p:health().ok)
  p:fail_sink("audit/audit.jsonl", "no space left")
  local d = p:audit(put("/a"))
  t.falsy(d.ok)
  t.contains(d.error, "no space left")
  t.falsy(p:health().ok)
  p:fail_sink("audit/audit.jsonl")
  t.truthy(p:audit(put("/a")).ok)
  t.truthy(p:health().ok)
end)

test("the file is where the configuration says", function(t)
  local p = log_of(t, { path = "trail.jsonl", max_bytes = "1MiB", max_age = "1h", max_files = 3, sync = "always" })
  p:audit(put("/a"))
  t.equal(#p:sink("trail.jsonl"), 1)
  t.contains(t.load_error{ config = { path = "../trail.jsonl" } }, "path")
  t.contains(t.load_error{ config = { path = "/etc/passwd" } }, "path")
  t.contains(t.load_error{ config = { level = "all" } }, "level")
  t.contains(t.load_error{ config = { hash_key = "short" } }, "16 bytes")
end)
