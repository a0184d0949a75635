-- Who asks (authn), and which keys that caller may read and write (authz).
--
-- Rules add up: an operation is allowed when some rule for the caller grants it and its whole range lies
-- below that rule's prefix. A deny rule wins over every grant as soon as the range touches its prefix.
local identity = require("auth.identity")

local EFFECT = {
  ["read"] = { read = "grant" },
  ["write"] = { write = "grant" },
  ["readwrite"] = { read = "grant", write = "grant" },
  ["deny"] = { read = "deny", write = "deny" },
  ["deny-write"] = { write = "deny" },
}

-- Stands for calls without keys: as powerful as reading and writing every key, so that a caller who is
-- limited to a prefix can neither compact history nor revoke a lease whose keys are not known.
local EVERYTHING = {
  write = true,
  prev_kv = true,
  touches = function() return true end,
  within = function(_, prefix) return prefix == "" end,
}

local rules
local open_calls = {}
local base -- what is allowed where no rule speaks, to named and to anonymous callers

-- Why the rules do not allow one access to the keys of an operation, "read" or "write"; nil when they do.
local function objection(op, access, mine, granted)
  for _, rule in ipairs(mine) do
    local effect = EFFECT[rule.access][access]
    if effect == "deny" and op:touches(rule.prefix) then return ("a rule denies %q"):format(rule.prefix) end
    granted = granted or effect == "grant" and op:within(rule.prefix)
  end
  return not granted and "no rule grants this " .. access or nil
end

-- Whether the rules allow an operation; if not, also why.
local function judge(op, mine, granted)
  local why = op.write and objection(op, "write", mine, granted)
  if not why and (not op.write or op.prev_kv) then -- the previous value comes back to the caller
    why = objection(op, "read", mine, granted)
  end
  return not why, why
end

local M = { authn = identity.authn }

function M.init(conf)
  rules = conf.rules
  base = { named = conf.default == "allow", anonymous = conf.anonymous == "allow" }
  for _, call in ipairs(conf.open_calls) do open_calls[call] = true end
  if #rules == 0 and base.named and base.anonymous then hook.skip("authz") end
  return identity.init(conf)
end

function M.authz(req, id)
  local user = id.user
  local granted = base[user and "named" or "anonymous"]
  if #req == 0 and (open_calls[req.rpc] or req.lease_keys == 0) and (user or granted) then return true end
  local mine = {}
  for _, rule in ipairs(rules) do
    if id:matches(rule.users, rule.roles) then mine[#mine + 1] = rule end
  end
  if #req == 0 or req.rpc == "lease_revoke" then -- first: a lease may have a thousand keys
    local ok, why = judge(EVERYTHING, mine, granted)
    if ok or #req == 0 then return ok, why end
  end
  for _, op in req:ops() do
    local ok, why = judge(op, mine, granted)
    if not ok then return false, ("%s: %s by %s"):format(why, op.kind, user or "an anonymous caller") end
  end
  return true
end

return M
