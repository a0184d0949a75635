-- Which operations rules let through: every key of an operation must be granted and none denied, wherever in a
-- transaction the operation stands and however its range is written.
local DEV = { user = "dev", roles = { "app" }, source = "plugin" }

local function app(t, more)
  local config = { rules = { { prefix = "/app/", access = "readwrite", roles = { "app" } } } }
  for name, value in pairs(more or {}) do config[name] = value end
  return t.plugin{ config = config }
end

local function reading(key, range_end) return { rpc = "range", key = key, range_end = range_end } end

test("a caller reads and writes below the prefix of a rule, and nowhere else", function(t)
  local p = app(t)
  t.allowed(p:authz({ rpc = "put", key = "/app/a", value = "1" }, DEV))
  t.allowed(p:authz({ rpc = "put", key = "/app/", value = "1" }, DEV))
  t.allowed(p:authz({ rpc = "put", key = "/app/\0\255", value = "1" }, DEV))
  t.allowed(p:authz(reading("/app/", "/app0"), DEV))
  t.allowed(p:authz({ rpc = "delete_range", key = "/app/a", range_end = "/app/b" }, DEV))
  t.allowed(p:authz({ rpc = "watch", ops = { { kind = "watch", key = "/app/", range_end = "/app0" } } }, DEV))
  t.denied(p:authz({ rpc = "put", key = "/app", value = "1" }, DEV), "permission_denied")
  t.denied(p:authz({ rpc = "put", key = "/app0", value = "1" }, DEV))
  t.denied(p:authz({ rpc = "put", key = "/apq/", value = "1" }, DEV))
  t.denied(p:authz({ rpc = "put", key = "/app\0/", value = "1" }, DEV))
end)

test("a range must lie wholly below the prefix", function(t)
  local p = app(t)
  for _, range in ipairs{
    { "/app/", "\0" }, -- all keys from here on
    { "\0", "\0" }, -- all keys
    { "/app/", "/app0\0" }, -- one key more than the prefix holds
    { "/app", "/app0" }, -- one key before
    { "/app/z", "/b" },
    { "/app/", "\255" },
    { "", "\0" },
  } do
    t.denied(p:authz(reading(range[1], range[2]), DEV), "permission_denied")
    t.denied(p:authz({ rpc = "delete_range", key = range[1], range_end = range[2] }, DEV))
    t.denied(p:authz({ rpc = "watch", ops = { { kind = "watch", key = range[1], range_end = range[2] } } }, DEV))
  end
end)

test("every part of a transaction counts: compares, both branches, nested ones", function(t)
  local p = app(t)
  local mine = { kind = "put", path = "success.0", key = "/app/a", value = "1" }
  t.allowed(p:authz({ rpc = "txn", ops = { mine } }, DEV))
  for _, op in ipairs{
    { kind = "compare", path = "compare.0", key = "/secret", target = "value", result = "=", value = "x" },
    { kind = "compare", path = "compare.0", key = "/app/", range_end = "\0", target = "create", result = ">", number = 0 },
    { kind = "range", path = "success.1", key = "/secret" },
    { kind = "put", path = "failure.0", key = "/secret", value = "1" },
    { kind = "delete_range", path = "failure.0.success.0.failure.2", key = "/a", range_end = "/z" },
  } do
    t.denied(p:authz({ rpc = "txn", ops = { mine, op } }, DEV), "permission_denied")
    t.denied(p:authz({ rpc = "txn", ops = { op, mine } }, DEV), "permission_denied")
  end
end)

test("read and write are granted apart; an old value that comes back is a read", function(t)
  local p = t.plugin{ config = { rules = {
    { prefix = "/in/", access = "write", users = { "dev" } }, { prefix = "/out/", access = "read", users = { "dev" } },
  } } }
  t.allowed(p:authz({ rpc = "put", key = "/in/a", value = "1" }, DEV))
  t.denied(p:authz(reading("/in/a"), DEV))
  t.denied(p:authz({ rpc = "put", ops = { { kind = "put", key = "/in/a", value = "1", prev_kv = true } } }, DEV))
  t.denied(p:authz({ rpc = "delete_range", ops = { { kind = "delete_range", key = "/in/a", prev_kv = true } } }, DEV))
  t.denied(p:authz({ rpc = "txn", ops = {
    { kind = "compare", path = "compare.0", key = "/in/a", target = "value", result = "=", value = "1" },
  } }, DEV))
  t.allowed(p:authz(reading("/out/", "/out0"), DEV))
  t.denied(p:authz({ rpc = "put", key = "/out/a", value = "1" }, DEV))
  t.denied(p:authz({ rpc = "delete_range", key = "/out/a" }, DEV))
end)

test("grants of several rules add up, but a range lies in one of them", function(t)
  local p = t.plugin{ config = { rules = {
    { prefix = "/a/", access = "read", users = { "dev" } }, { prefix = "/a/", access = "write", roles = { "app" } },
    { prefix = "/b", access = "read" },
  } } }
  t.allowed(p:authz({ rpc = "put", ops = { { kind = "put", key = "/a/x", value = "1", prev_kv = true } } }, DEV))
  t.denied(p:authz({ rpc = "put", key = "/a/x", value = "1" }, { user = "eve", roles = { "other" } }))
  t.denied(p:authz(reading("/a/", "/c"), DEV))
end)

test("a deny wins over every grant as soon as it is touched", function(t)
  local p = app(t, { rules = {
    { prefix = "", access = "readwrite", roles = { "app" } }, { prefix = "/app/secret/", access = "deny" },
    { prefix = "/app/fixed/", access = "deny-write" },
  } })
  t.allowed(p:authz(reading("/app/a"), DEV))
  t.allowed(p:authz(reading("/app/fixed/", "/app/fixed0"), DEV))
  t.allowed(p:authz(reading("/app/secret"), DEV))
  t.allowed(p:authz(reading("/app/secret0", "/b"), DEV))
  t.denied(p:authz({ rpc = "put", key = "/app/fixed/a", value = "1" }, DEV))
  t.denied(p:authz({ rpc = "delete_range", key = "/app/", range_end = "/app0" }, DEV))
  t.denied(p:authz({ rpc = "delete_range", key = "/app/fixed", range_end = "/app/fixed/\0" }, DEV))
  for _, range in ipairs{
    { "/app/secret/x" }, { "/app/secret/" }, { "/app/secret", "\0" }, { "\0", "\0" }, { "/app/", "/app0" },
    { "/app/secret", "/app/secret/\0" },
  } do
    t.denied(p:authz(reading(range[1], range[2]), DEV), "permission_denied")
  end
end)

test("a name may start with what a prefix lacks", function(t)
  local p = t.plugin{ config = { rules = { { prefix = "/app", access = "read", users = { "*" } } } } }
  t.allowed(p:authz(reading("/application"), DEV))
  t.denied(p:authz(reading("/application"), {}))
end)

test("without a name only rules for everyone count", function(t)
  local p = t.plugin{ config = { rules = {
    { prefix = "/public/", access = "read" }, { prefix = "/all/", access = "read", users = { "*" } },
  } } }
  t.allowed(p:authz(reading("/public/a"), {}))
  t.allowed(p:authz(reading("/all/a"), DEV))
  t.denied(p:authz(reading("/all/a"), {}))
  t.denied(p:authz({ rpc = "put", key = "/public/a", value = "1" }, {}))
  t.denied(p:authz({ rpc = "status" }, {}))
end)

test("the defaults decide where no rule speaks, and denies still hold", function(t)
  local p = t.plugin{ config = { anonymous = "allow", default = "deny", rules = { { prefix = "/s/", access = "deny" } } } }
  t.allowed(p:authz({ rpc = "put", key = "/a", value = "1" }, {}))
  t.denied(p:authz({ rpc = "put", key = "/a", value = "1" }, DEV))
  t.denied(p:authz(reading("/s/a"), {}))
  t.denied(p:authz(reading("\0", "\0"), {}))
  local q = t.plugin{ config = { anonymous = "deny", default = "allow" } }
  t.allowed(q:authz({ rpc = "put", key = "/a", value = "1" }, DEV))
  t.allowed(q:authz({ rpc = "compact", revision = 7 }, DEV))
  t.denied(q:authz({ rpc = "put", key = "/a", value = "1" }, {}))
  t.denied(q:authz({ rpc = "compact", revision = 7 }, {}))
end)

test("calls without keys need a rule for every key, but for the open ones", function(t)
  local p = app(t)
  local root = t.plugin{ config = { rules = { { prefix = "", access = "readwrite", users = { "root" } } } } }
  for _, call in ipairs{
    "compact", "lease_revoke", "lease_time_to_live", "lease_leases", "snapshot", "defragment", "member_add",
    "user_admin", "role_admin", "auth_enable", "hash_kv", "move_leader", "alarm",
  } do
    t.denied(p:authz({ rpc = call, lease = 7 }, DEV), "permission_denied")
    t.allowed(root:authz({ rpc = call, lease = 7 }, { user = "root" }))
  end
  for _, call in ipairs{ "status", "member_list", "auth_status", "lease_grant", "lease_keep_alive" } do
    t.allowed(p:authz({ rpc = call, lease = 7, ttl = 5 }, DEV))
  end
  t.denied(p:authz({ rpc = "txn", ops = {} }, DEV))
  t.allowed(app(t, { open_calls = { "lease_revoke" } }):authz({ rpc = "lease_revoke", lease = 7 }, DEV))
end)

test("revoking a lease counts as deleting its keys", function(t)
  local p = t.plugin{ config = { rules = {
    { prefix = "/app/", access = "write", users = { "dev" } }, { prefix = "/app/s/", access = "deny-write" },
    { prefix = "/out/", access = "read" },
  } } }
  local function revoke(id, ...) return p:authz({ rpc = "lease_revoke", lease = 7, lease_keys = { ... } }, id) end
  t.allowed(revoke(DEV, "/app/a"))
  t.allowed(revoke(DEV, "/app/a", "/app/b"))
  t.allowed(revoke(DEV), "a lease without keys")
  t.denied(revoke({}), "permission_denied")
  t.denied(revoke(DEV, "/app/a", "/apq"), "permission_denied")
  t.denied(revoke(DEV, "/app/s/a", "/app/a"))
  t.denied(revoke(DEV, "/out/a"))
  t.denied(revoke({ user = "eve" }, "/app/a"))
  local many = {}
  for i = 1, 1000 do many[i] = "/app/" .. i end
  t.allowed(revoke(DEV, table.unpack(many)))
  many[1001] = "/app/1001"
  t.denied(revoke(DEV, table.unpack(many)), "permission_denied")
end)

test("what may write every key but one prefix may not revoke leases it knows nothing of", function(t)
  local p = t.plugin{ config = { rules = {
    { prefix = "", access = "readwrite", users = { "dev" } }, { prefix = "/s/", access = "deny-write", users = { "dev" } },
  } } }
  t.denied(p:authz({ rpc = "lease_revoke", lease = 7 }, DEV))
end)

test("the client sees etcd's text, the log the reason", function(t)
  local d = app(t):authz(reading("/secret"), DEV)
  t.equal(d.text, "etcdserver: permission denied")
  t.equal(d.reason, "no rule grants this read: range by dev")
end)

test("a large transaction under many rules stays within the budget", function(t)
  local rules = {}
  for i = 1, 50 do rules[i] = { prefix = ("/app/%d/"):format(i), access = "readwrite", roles = { "app" } } end
  local p = t.plugin{ config = { rules = rules } }
  local ops = {}
  for i = 1, 128 do ops[i] = { kind = "put", path = "success." .. i, key = "/app/50/" .. i, value = "1" } end
  t.allowed(p:authz({ rpc = "txn", ops = ops }, DEV))
end)
