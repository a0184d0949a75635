-- Credentials become users with roles; whatever is wrong with one is refused or passed on, never accepted.
local ALICE = "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e" -- "correct horse"

local function auth(t, config, now)
  return t.plugin{ config = config, now = now }
end

test("a static token is known by its hash, in either case", function(t)
  local digest = hash.sha256("ci-token-0123456789abcdef")
  local p = auth(t, { tokens = { { user = "ci", roles = { "deploy" }, sha256 = digest:upper() } } })
  local found = p:authn({ token = "ci-token-0123456789abcdef" })
  t.equal(found.verdict, "identity")
  t.equal(found.user, "ci")
  t.equal(found.roles, { "deploy" })
  t.equal(p:authn({ token = "ci-token-0123456789abcdeg" }).verdict, "pass")
  t.equal(p:authn({ token = digest }).verdict, "pass", "the hash itself is no token")
end)

test("a token may stand in the configuration as a secret", function(t)
  local p = auth(t, { tokens = { { user = "ci", secret = "0123456789abcdef" } } })
  t.equal(p:authn({ token = "0123456789abcdef" }).user, "ci")
end)

test("a token is refused from its expiry on", function(t)
  local p = auth(t, {
    tokens = { { user = "ci", secret = "0123456789abcdef", expires = "2023-11-14T22:13:30Z" } },
  })
  t.equal(p:authn({ token = "0123456789abcdef" }).expires, 1700000010)
  p:advance(10)
  local late = p:authn({ token = "0123456789abcdef" })
  t.equal(late.verdict, "deny")
  t.contains(late.text, "the token of ci has expired")
end)

test("passwords are checked against bcrypt hashes", function(t)
  local p = auth(t, { users = { alice = { bcrypt = ALICE, roles = { "dev" } } } })
  local found = p:authn({ user = "alice", password = "correct horse" })
  t.equal(found.verdict, "identity")
  t.equal(found.roles, { "dev" })
  t.equal(p:authn({ user = "alice", password = "correct hors" }).verdict, "deny")
  t.equal(p:authn({ user = "alice", password = "" }).verdict, "deny")
  t.equal(p:authn({ user = "bob", password = "correct horse" }).verdict, "pass")
  t.equal(p:authn({ user = "", password = "" }).verdict, "pass")
end)

test("without users of its own it leaves passwords to others", function(t)
  t.equal(auth(t, {}):authn({ user = "alice", password = "x" }).verdict, "pass")
end)

test("signed tokens of every kind of key", function(t)
  local kinds = { "RS256", "PS256", "ES256", "ES384", "EdDSA" }
  local keys = {}
  for i, alg in ipairs(kinds) do keys[i] = { kid = alg, alg = alg } end
  local p = auth(t, { jwt = { { keys = t.keyset(keys) } } })
  for _, alg in ipairs(kinds) do
    local token = t.jwt{ kid = alg, alg = alg, claims = { sub = "alice", exp = 1700000600, roles = { "dev" } } }
    local found = p:authn({ token = token })
    t.equal(found.user, "alice", alg)
    t.equal(found.roles, { "dev" }, alg)
    t.equal(found.expires, 1700000660, alg)
  end
end)

test("HS tokens need their algorithm listed", function(t)
  local path = t.keyset{ { kid = "h", alg = "HS256" } }
  local token = t.jwt{ kid = "h", alg = "HS256", claims = { sub = "alice", exp = 1700000600 } }
  t.equal(auth(t, { jwt = { { keys = path, algorithms = { "HS256" } } } }):authn({ token = token }).user, "alice")
  t.contains(t.load_error{ config = { jwt = { { keys = path } } } }, "HS")
end)

test("a token of another issuer, audience or time is passed on", function(t)
  local path = t.keyset{ { kid = "a", alg = "ES256" } }
  local p = auth(t, { jwt = { { keys = path, issuer = "https://id", audience = "moonraft" } } })
  local function try(changes)
    local claims = { sub = "alice", exp = 1700000600, iss = "https://id", aud = "moonraft" }
    for name, value in pairs(changes) do claims[name] = value end
    return p:authn({ token = t.jwt{ kid = "a", alg = "ES256", claims = claims } }).verdict
  end
  t.equal(try({}), "identity")
  t.equal(try({ aud = { "other", "moonraft" } }), "identity")
  t.equal(try({ iss = "https://evil" }), "pass")
  t.equal(try({ aud = "other" }), "pass")
  t.equal(try({ exp = 1699999000 }), "pass")
  t.equal(try({ nbf = 1700000500 }), "pass")
  t.equal(try({ sub = json.null }), "pass")
  t.equal(try({ sub = { "alice" } }), "pass")
  t.equal(try({ sub = "" }), "pass")
end)

test("a token without an end is not accepted", function(t)
  local p = auth(t, { jwt = { { keys = t.keyset{ { kid = "a", alg = "ES256" } } } } })
  t.equal(p:authn({ token = t.jwt{ kid = "a", alg = "ES256", claims = { sub = "alice" } } }).verdict, "pass")
end)

test("a changed or unsigned token is not accepted", function(t)
  local p = auth(t, { jwt = { { keys = t.keyset{ { kid = "a", alg = "ES256" } } } } })
  local claims = { sub = "alice", exp = 1700000600 }
  local token = t.jwt{ kid = "a", alg = "ES256", claims = claims }
  local header, _, signature = token:match("^([^.]+)%.([^.]+)%.([^.]+)$")
  claims.sub = "root"
  local forged = base64.encode(json.encode(claims), "url")
  local none = base64.encode('{"alg":"none"}', "url")
  for _, bad in ipairs{
    header .. "." .. forged .. "." .. signature, none .. "." .. forged .. ".", header .. "." .. forged .. ".", "a.b.c", "..",
  } do
    t.equal(p:authn({ token = bad }).verdict, "pass", bad)
  end
end)

test("claims are found by path; users and roles of an issuer get its prefix", function(t)
  local p = auth(t, {
    jwt = { {
      keys = t.keyset{ { kid = "a", alg = "EdDSA" } },
      user_claim = { "email" }, roles_claim = { "realm", "roles" }, user_prefix = "sso:", role_prefix = "sso-",
    } },
  })
  local token = t.jwt{
    kid = "a", alg = "EdDSA", claims = { email = "root", exp = 1700000600, realm = { roles = { "root", 7 } } },
  }
  local found = p:authn({ token = token })
  t.equal(found.user, "sso:root")
  t.equal(found.roles, { "sso-root" })
end)

test("roles may be one text with spaces between", function(t)
  local p = auth(t, { jwt = { { keys = t.keyset{ { kid = "a", alg = "ES384" } }, roles_claim = { "scope" } } } })
  local token = t.jwt{ kid = "a", alg = "ES384", claims = { sub = "a", exp = 1700000600, scope = "kv:read kv:write" } }
  t.equal(p:authn({ token = token }).roles, { "kv:read", "kv:write" })
end)

test("a second issuer is asked when the first does not know the token", function(t)
  local old = t.keyset{ { kid = "old", alg = "ES256" } }
  local new = t.keyset{ { kid = "new", alg = "ES256" } }
  local p = auth(t, { jwt = { { keys = old, user_prefix = "old:" }, { keys = new, user_prefix = "new:" } } })
  local token = t.jwt{ kid = "new", alg = "ES256", claims = { sub = "alice", exp = 1700000600 } }
  t.equal(p:authn({ token = token }).user, "new:alice")
end)

test("only listed certificates get a user", function(t)
  local p = auth(t, {
    certificates = { { cn = "ops.example.com", user = "ops", roles = { "admin" } }, { cn = "node-*" } },
  })
  t.equal(p:authn({ cn = "ops.example.com" }).user, "ops")
  t.equal(p:authn({ cn = "node-7" }).user, "node-7")
  t.equal(p:authn({ cn = "root" }).verdict, "pass")
  t.equal(p:authn({ cn = "xnode-7" }).verdict, "pass")
end)

test("what cannot work does not load", function(t)
  t.contains(t.load_error{ config = { tokens = { { user = "a" } } } }, "sha256 or secret")
  t.contains(t.load_error{ config = { tokens = { { user = "a", sha256 = "abc" } } } }, "sha256")
  t.contains(t.load_error{ config = { tokens = { { user = "a", secret = "short" } } } }, "16 bytes")
  t.contains(t.load_error{
    config = { tokens = { { user = "a", secret = "0123456789abcdef", expires = "soon" } } },
  }, "RFC 3339")
  t.contains(t.load_error{ config = { users = { alice = { bcrypt = "secret" } } } }, "bcrypt")
  t.contains(t.load_error{ config = { jwt = { {} } } }, "keys or secret")
  t.contains(t.load_error{ config = { rules = { { prefix = "/", access = "all" } } } }, "access")
end)

test("secrets reach no log", function(t)
  local p = auth(t, {
    users = { alice = { bcrypt = ALICE } }, jwt = { { keys = t.keyset{ { kid = "a", alg = "ES256" } } } },
  })
  p:authn({ user = "alice", password = "hunter2hunter2" })
  p:authn({ token = "hunter2hunter2" })
  for _, line in ipairs(p:logs()) do t.falsy(json.encode(line):find("hunter2", 1, true)) end
end)
