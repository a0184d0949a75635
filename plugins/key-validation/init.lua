-- Refuses writes whose keys or values break the rules of their prefix. All rules that a write touches apply.
local INVALID, CONFLICT = "invalid_argument", "failed_precondition"

local rules, exempt_roles

-- A key as it may stand in an error text.
local function show(key)
  if #key > 80 then key = key:sub(1, 77) .. "..." end
  return '"' .. key:gsub("[^ -~]", "?") .. '"'
end

local function depth(key) return select(2, key:gsub("[^/]+", "")) end

local function check_key(rule, key)
  if rule.max_key_bytes and #key > rule.max_key_bytes then
    return ("key %s is too long: %d bytes, at most %d"):format(show(key), #key, rule.max_key_bytes)
  end
  if rule.max_depth and depth(key) > rule.max_depth then
    return ("key %s is too deep: %d parts, at most %d"):format(show(key), depth(key), rule.max_depth)
  end
  for _, pattern in ipairs(rule.patterns or {}) do
    if key:find(pattern) then return nil end
  end
  return rule.patterns and ("key %s does not match the names allowed below %s"):format(show(key), show(rule.prefix))
end

local function check_value(rule, op)
  if rule.max_value_bytes and op.value_size > rule.max_value_bytes then
    return ("value of %s is too large: %d bytes, at most %d"):format(show(op.key), op.value_size, rule.max_value_bytes)
  end
  local problem = rule.shape and rule.shape(op.value)
  if problem then return ("value of %s: %s"):format(show(op.key), problem) end
end

-- Whether the put only happens when the transaction itself has seen that the key does not exist.
local function is_guarded(req, put)
  if not put.path:find("^success%.") then return false end
  for _, op in req:ops() do
    if op.kind == "compare" and op.key == put.key and not op.range_end and op.path:find("^compare%.%d+$")
        and (op.target == "create" or op.target == "version") and op.result == "=" and op.number == 0 then
      return true
    end
  end
  return false
end

local function check_put(rule, op, req)
  local problem = check_key(rule, op.key)
  if not problem and not op.ignore_value then problem = check_value(rule, op) end
  if problem then return problem, INVALID end
  if rule.protected == "write" then return ("key %s is protected"):format(show(op.key)), CONFLICT end
  if rule.protected == "delete" and op.lease ~= 0 then -- the lease's end would delete it
    return ("key %s is protected from deletion and cannot have a lease"):format(show(op.key)), CONFLICT
  end
  if rule.write_once == "checked" and kv.count{ key = op.key } > 0 then
    return ("key %s is written once and exists"):format(show(op.key)), CONFLICT
  end
  if rule.write_once == "guarded" and not is_guarded(req, op) then
    return ("key %s is written once: put it in a transaction that compares its create revision with 0")
      :format(show(op.key)), CONFLICT
  end
end

local function check_delete(rule, op, hit)
  if rule.protected ~= "no" then
    return ("keys below %s are protected from deletion"):format(show(rule.prefix)), CONFLICT
  end
  local most = rule.max_delete_keys
  if most then
    hit[rule] = (hit[rule] or 0) + kv.count{ key = op.key, range_end = op.range_end, limit = most + 1 }
    if hit[rule] > most then
      return ("the delete of %s hits more than %d keys"):format(show(op.key), most), CONFLICT
    end
  end
end

local M = {}

function M.init(conf)
  rules, exempt_roles = conf.rules, conf.exempt_roles
  for i, rule in ipairs(rules) do
    for _, pattern in ipairs(rule.patterns or {}) do
      local ok, problem = pcall(string.find, "", pattern)
      if not ok then return false, ("rules[%d].patterns: %s"):format(i, problem) end
    end
    if rule.json or rule.fields then
      local ok, shape = pcall(json.shape, rule.fields or {}, rule.closed)
      if not ok then return false, ("rules[%d].fields: %s"):format(i, shape) end
      rule.shape = shape
    end
  end
  if #rules == 0 then hook.skip("admit_validate") end
  return true
end

function M.admit_validate(req, id)
  if id:matches(nil, exempt_roles) then return true end
  local hit = {}
  for _, op in req:ops() do
    if op.write then
      for _, rule in ipairs(rules) do
        if op:touches(rule.prefix) then
          local problem, code
          if op.kind == "put" then
            problem, code = check_put(rule, op, req)
          else
            problem, code = check_delete(rule, op, hit)
          end
          if problem then return false, problem, code end
        end
      end
    end
  end
  return true
end

return M
