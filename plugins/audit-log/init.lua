-- Writes one line of JSON for each stage of each request.
--
-- How much of a request is written is decided for each of its operations by the first rule that matches it;
-- the record takes the highest of these levels. So nobody hides a write by putting it into one transaction
-- with others, nor by a range that begins below a quiet prefix and ends elsewhere.
local RANK = { ["none"] = 0, ["metadata"] = 1, ["keys"] = 2, ["keys+hash"] = 3, ["full"] = 4 }

local rules = {}
local by_call = { [true] = {}, [false] = {} } -- rules by whether the request was allowed, then by its call
local fixed = { [true] = {}, [false] = {} } -- the rank of calls whose rules ask for nothing else
local writers = {} -- by rank; none for rank 0
local default_rank
local failure -- why the last record was not written, or nil

local function set(names)
  if not names then return nil end
  local result = {}
  for _, name in ipairs(names) do result[name] = true end
  return result
end

-- The rules that a record of this call can match, up to the first that matches all of them. Made once, since most
-- records are of few calls.
local function rules_for(rpc, allowed)
  local found = {}
  for _, rule in ipairs(rules) do
    if (not rule.rpcs or rule.rpcs[rpc]) and (rule.denied == nil or rule.denied ~= allowed) then
      found[#found + 1] = rule
      if not rule.users and not rule.roles and not rule.prefixes then break end
    end
  end
  local first = found[1]
  if not first then
    fixed[allowed][rpc] = default_rank
  elseif not first.users and not first.roles and not first.prefixes then
    fixed[allowed][rpc] = first.rank
  end
  by_call[allowed][rpc] = found
  return found
end

-- "within": every key of the operation lies below one of the prefixes; "touches": some key may.
local function place(op, prefixes)
  local touches
  for _, prefix in ipairs(prefixes) do
    if op:within(prefix) then return "within" end
    touches = touches or op:touches(prefix)
  end
  return touches and "touches"
end

local function rank_of_op(op, mine, rest)
  local rank = 0
  for _, rule in ipairs(mine) do
    local where = place(op, rule.prefixes)
    if where then rank = math.max(rank, rule.rank) end
    if where == "within" then return rank end
  end
  return math.max(rank, rest)
end

local function rank_of(rec)
  local mine -- rules with prefixes that come before the first one without
  local rest = default_rank -- the level where none of them matches
  local rpc, allowed = rec.rpc, rec.allowed
  for _, rule in ipairs(by_call[allowed][rpc] or rules_for(rpc, allowed)) do
    if rec:matches(rule.users, rule.roles) then
      if not rule.prefixes then
        rest = rule.rank
        break
      end
      mine = mine or {}
      mine[#mine + 1] = rule
    end
  end
  if not mine or #rec == 0 then return rest end
  local rank = 0
  for _, op in rec:ops() do
    rank = math.max(rank, rank_of_op(op, mine, rest))
    if rank == RANK["full"] then break end
  end
  return rank
end

local M = {}

function M.init(conf)
  default_rank = RANK[conf.level]
  for i, rule in ipairs(conf.rules) do
    rules[i] = {
      rank = RANK[rule.level], rpcs = set(rule.rpcs), prefixes = rule.prefixes, users = rule.users,
      roles = rule.roles, denied = rule.denied,
    }
  end
  local out = sink.open{
    path = conf.path, max_bytes = conf.max_bytes, max_age = conf.max_age, max_files = conf.max_files,
    sync = conf.sync, chain = conf.chain, chain_key = conf.chain_key,
  }
  for level, rank in pairs(RANK) do
    if rank > 0 then
      writers[rank] = out:records{
        level = level, hash_key = conf.hash_key, key_hash = #conf.key_hash > 0 and conf.key_hash or nil,
        extra = next(conf.labels) and conf.labels or nil,
      }
    end
  end
  return true
end

function M.audit(rec)
  local writer = writers[fixed[rec.allowed][rec.rpc] or rank_of(rec)]
  if not writer then return true end
  local ok, problem = writer:write(rec)
  failure = problem
  if not ok then return false, problem end
  return true
end

function M.health()
  if failure then return false, "the last record was not written: " .. failure end
  return true
end

return M
