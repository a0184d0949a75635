-- Keys and protections: every rule a write touches applies, wherever in a request the write stands.
local function bind(t, ...) return t.plugin{ config = { rules = { ... } } } end

local function put(key, value) return { rpc = "put", key = key, value = value or "x" } end

local function delete(key, range_end) return { rpc = "delete_range", key = key, range_end = range_end } end

local function txn(...) return { rpc = "txn", ops = { ... } } end

test("without rules everything passes", function(t)
  local p = t.plugin{}
  t.allowed(p:admit_validate(put("\0\255", "")))
  t.allowed(p:admit_validate(delete("\0", "\0")))
end)

test("length and depth of keys", function(t)
  local p = bind(t, { prefix = "/a/", max_key_bytes = 8, max_depth = 3 })
  t.allowed(p:admit_validate(put("/a/b/c")))
  t.allowed(p:admit_validate(put("/a/45678")))
  t.denied(p:admit_validate(put("/a/456789")), "invalid_argument", 'plugin key-validation: key "/a/456789" is too long')
  t.denied(p:admit_validate(put("/a/b/c/d")), "invalid_argument", "4 parts, at most 3")
  t.allowed(p:admit_validate(put("/a//b//c")), "empty parts do not count")
  t.allowed(p:admit_validate(put("/other/and/much/deeper")))
end)

test("names match one of the patterns, wholly when it says ^ and $", function(t)
  local p = bind(t, { prefix = "/svc/", patterns = { "^/svc/[a-z0-9-]+$", "^/svc/[a-z0-9-]+/port$" } })
  t.allowed(p:admit_validate(put("/svc/web-1")))
  t.allowed(p:admit_validate(put("/svc/web-1/port")))
  for _, key in ipairs{ "/svc/", "/svc/Web", "/svc/web/host", "/svc/web\0", "/svc/web\n", "/svc/w\0eb", "/svc/web/" } do
    t.denied(p:admit_validate(put(key)), "invalid_argument", "does not match")
  end
  t.allowed(p:admit_validate(delete("/svc/Web")), "old names can be deleted")
end)

test("bytes that are no text do not reach the client", function(t)
  local d = bind(t, { prefix = "", max_key_bytes = 2 }):admit_validate(put("a\0\255\27[2J"))
  t.contains(d.text, 'key "a???[2J" is too long')
  local long = bind(t, { prefix = "", max_key_bytes = 2 }):admit_validate(put(("k"):rep(5000)))
  t.truthy(#long.text < 200)
end)

test("all rules that a key falls under apply", function(t)
  local p = bind(t, { prefix = "/a/", max_key_bytes = 10 }, { prefix = "/a/b/", patterns = { "^[a-z/]+$" } })
  t.denied(p:admit_validate(put("/a/b/1")), "invalid_argument", "does not match")
  t.denied(p:admit_validate(put("/a/b/cccccc")), "invalid_argument", "too long")
  t.allowed(p:admit_validate(put("/a/1")))
end)

test("writes in both branches and nested transactions are checked, compares and reads are not", function(t)
  local p = bind(t, { prefix = "/a/", max_key_bytes = 4 })
  t.allowed(p:admit_validate(txn(
    { kind = "compare", path = "compare.0", key = "/a/long", target = "version", result = "=", number = 1 },
    { kind = "range", path = "success.0", key = "/a/long" }, { kind = "put", path = "success.1", key = "/a/b", value = "" }
  )))
  for _, path in ipairs{ "success.0", "failure.3", "failure.0.success.0" } do
    t.denied(p:admit_validate(txn({ kind = "put", path = path, key = "/a/long", value = "" })), "invalid_argument")
  end
end)

test("protected from deletion: no delete touches, no lease lets it expire", function(t)
  local p = bind(t, { prefix = "/sys/", protected = "delete" })
  t.allowed(p:admit_validate(put("/sys/a")))
  t.denied(p:admit_validate({ rpc = "put", key = "/sys/a", value = "x", lease = 7 }), "failed_precondition", "lease")
  for _, range in ipairs{
    { "/sys/a" }, { "/sys/", "/sys0" }, { "/", "\0" }, { "\0", "\0" }, { "/a", "/z" }, { "/sys", "/sys/\0" },
  } do
    t.denied(p:admit_validate(delete(range[1], range[2])), "failed_precondition", "protected")
    t.denied(p:admit_validate(txn(
      { kind = "delete_range", path = "failure.0", key = range[1], range_end = range[2] }
    )), "failed_precondition", "protected")
  end
  t.allowed(p:admit_validate(delete("/sys")))
  t.allowed(p:admit_validate(delete("/sys0", "\0")))
end)

test("protected from writing: neither puts nor deletes", function(t)
  local p = bind(t, { prefix = "/const/", protected = "write" })
  t.denied(p:admit_validate(put("/const/a")), "failed_precondition", "protected")
  t.denied(p:admit_validate(delete("/const/a")), "failed_precondition", "protected")
  t.allowed(p:admit_validate(put("/const")))
end)

test("written once, checked: a key that exists is not put again", function(t)
  local p = bind(t, { prefix = "/ids/", write_once = "checked" })
  t.allowed(p:admit_validate(put("/ids/1")))
  p:kv_put("/ids/1", "x")
  t.denied(p:admit_validate(put("/ids/1")), "failed_precondition", "exists")
  t.allowed(p:admit_validate(put("/ids/11")))
  p:kv_delete("/ids/1")
  t.allowed(p:admit_validate(put("/ids/1")))
end)

test("written once, guarded: the transaction itself must prove that the key is new", function(t)
  local p = bind(t, { prefix = "/ids/", write_once = "guarded" })
  local function compare(changes)
    local op = { kind = "compare", path = "compare.0", key = "/ids/1", target = "create", result = "=", number = 0 }
    for name, value in pairs(changes) do op[name] = value end
    return op
  end
  local function try(changes, path)
    return p:admit_validate(txn(compare(changes), { kind = "put", path = path or "success.0", key = "/ids/1", value = "x" }))
  end
  t.allowed(try({}))
  t.allowed(try({ target = "version" }))
  t.allowed(try({}, "success.0.failure.0"))
  t.denied(try({}, "failure.0"), "failed_precondition", "create revision")
  t.denied(try({ number = 1 }), "failed_precondition")
  t.denied(try({ result = ">" }), "failed_precondition")
  t.denied(try({ target = "mod" }), "failed_precondition")
  t.denied(try({ target = "lease" }), "failed_precondition")
  t.denied(try({ key = "/ids/2" }), "failed_precondition")
  t.denied(try({ range_end = "/ids/0" }), "failed_precondition") -- an empty range is always new
  t.denied(try({ path = "success.1.compare.0" }), "failed_precondition")
  t.denied(p:admit_validate(put("/ids/1")), "failed_precondition")
end)

test("the deletes of a request hit no more keys than allowed", function(t)
  local kv = {}
  for i = 1, 20 do kv[("/d/%02d"):format(i)] = "x" end
  local p = t.plugin{ kv = kv, config = { rules = { { prefix = "/d/", max_delete_keys = 10 } } } }
  t.allowed(p:admit_validate(delete("/d/01", "/d/11")))
  t.denied(p:admit_validate(delete("/d/01", "/d/12")), "failed_precondition", "more than 10 keys")
  t.denied(p:admit_validate(delete("/d/", "\0")), "failed_precondition")
  t.denied(p:admit_validate(delete("\0", "\0")), "failed_precondition")
  t.denied(p:admit_validate(txn(
    { kind = "delete_range", path = "success.0", key = "/d/01", range_end = "/d/07" },
    { kind = "delete_range", path = "success.1", key = "/d/07", range_end = "/d/13" }
  )), "failed_precondition")
  t.allowed(p:admit_validate(delete("/e/", "/e0")))
  t.allowed(p:admit_validate(delete("/d/77")))
end)

test("callers with an exempt role are not checked", function(t)
  local p = t.plugin{ config = { exempt_roles = { "ops" }, rules = { { prefix = "", protected = "write" } } } }
  t.allowed(p:admit_validate(put("/a"), { user = "o", roles = { "dev", "ops" } }))
  t.denied(p:admit_validate(put("/a"), { user = "ops", roles = { "dev" } }), "failed_precondition")
  t.denied(p:admit_validate(put("/a"), {}), "failed_precondition")
end)

test("what cannot work does not load", function(t)
  local function load(rule) return t.load_error{ config = { rules = { rule } } } end
  t.contains(load{ prefix = "/", patterns = { "^[a-z" } }, "rules[1].patterns")
  t.contains(load{ prefix = "/", protected = "maybe" }, "protected")
  t.contains(load{ prefix = "/", max_depht = 3 }, "max_depht")
  t.contains(load{ patterns = { "^a" } }, "prefix")
end)
