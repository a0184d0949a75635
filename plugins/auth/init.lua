-- Who asks (authn), and which keys that caller may read and write (authz).
--
-- Rules add up: an operation is allowed when some rule for the caller grants it and its whole range lies
-- below that rule's prefix. A deny rule wins over every grant as soon as the range touches its prefix.
local identity = require("auth.identity")

local ACCESS = {
  ["read"] = { read = true },
  ["write"] = { write = true },
  ["readwrite"] = { read = true, write = true },
  ["deny"] = { deny = true, read = true, write = true },
  ["deny-write"] = { deny = true, write = true },
}

-- Stands for calls without keys: as powerful as reading and writing every key, so that a caller who is
-- limited to a prefix can neither compact history nor revoke a lease that holds keys of others.
local EVERYTHING = {
  write = true,
  prev_kv = true,
  touches = function() return true end,
  within = function(_, prefix) return prefix == "" end,
}

local rules = {}
local open_calls = {}
local allow_named, allow_anonymous

local function set(names)
  local result = {}
  for _, name in ipairs(names or {}) do result[name] = true end
  return result
end

local function concerns(rule, user, roles)
  if rule.everyone then return true end
  if user and (rule.users[user] or rule.users["*"]) then return true end
  for _, role in ipairs(roles) do
    if rule.roles[role] then return true end
  end
  return false
end

-- Whether the rules allow one operation; if not, also why.
local function judge(op, mine, base)
  local write = op.write
  local read = not write or op.prev_kv -- the previous value comes back to the caller
  local may_read, may_write = base, base
  for _, rule in ipairs(mine) do
    local access = rule.access
    if access.deny then
      if (read and access.read or write and access.write) and op:touches(rule.prefix) then
        return false, ("a rule denies %q"):format(rule.prefix)
      end
    elseif op:within(rule.prefix) then
      may_read = may_read or access.read
      may_write = may_write or access.write
    end
  end
  if write and not may_write then return false, "no rule grants this write" end
  if read and not may_read then return false, "no rule grants this read" end
  return true
end

local M = {}

function M.init(conf)
  allow_named, allow_anonymous = conf.default == "allow", conf.anonymous == "allow"
  open_calls = set(conf.open_calls)
  for i, rule in ipairs(conf.rules) do
    rules[i] = {
      prefix = rule.prefix,
      access = ACCESS[rule.access],
      users = set(rule.users),
      roles = set(rule.roles),
      everyone = not rule.users and not rule.roles,
    }
  end
  return identity.init(conf)
end

M.authn = identity.authn

function M.authz(req, id)
  local user = id.user
  local base = allow_anonymous
  if user then base = allow_named end
  if base and #rules == 0 then return true end
  if #req == 0 and open_calls[req.rpc] and (user or allow_anonymous) then return true end

  local mine, roles = {}, id.roles
  for _, rule in ipairs(rules) do
    if concerns(rule, user, roles) then mine[#mine + 1] = rule end
  end
  if base and #mine == 0 then return true end
  if #req == 0 then return judge(EVERYTHING, mine, base) end
  for _, op in req:ops() do
    local ok, why = judge(op, mine, base)
    if not ok then return false, ("%s: %s by %s"):format(why, op.kind, user or "an anonymous caller") end
  end
  return true
end

return M
