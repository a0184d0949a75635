-- Counts what completed requests did below each declared prefix. Only declared prefixes become labels, so the
-- number of series does not depend on what clients write.
local OTHER = "other"
local MOST_KEYS = 100000 -- how far kv.count walks; more keys than that are reported as this many
local COLLECT_SECONDS = 0.005

local operations = metric.prefix_operations_total
local written_bytes = metric.prefix_written_bytes_total
local duration = metric.prefix_request_duration_seconds

local prefixes = {} -- longest first
local count_keys
local next_prefix = 1
local records = 0 -- how many were counted
local timed = {} -- by prefix: the last record whose time was taken

local M = {}

function M.init(conf)
  for i, prefix in ipairs(conf.prefixes) do
    if prefix == OTHER then return false, "the prefix \"other\" is the label of everything else" end
    prefixes[i] = prefix
  end
  table.sort(prefixes, function(a, b) return #a > #b or #a == #b and a < b end)
  for i, prefix in ipairs(prefixes) do
    if prefix == prefixes[i + 1] then return false, ("the prefix %q is given twice"):format(prefix) end
    for _, operation in ipairs{ "put", "range", "delete_range" } do
      operations:inc(0, prefix, operation, "ok") -- so that a rate starts at zero
    end
    written_bytes:inc(0, prefix)
  end
  count_keys = conf.count_keys
  return true
end

local function prefix_of(op)
  for _, prefix in ipairs(prefixes) do
    if op:within(prefix) then return prefix end
  end
  return OTHER
end

function M.audit(rec)
  local result = rec.code == 0 and "ok" or rec.allowed and "failed" or "denied"
  local rpc = rec.rpc
  records = records + 1
  for _, op in rec:ops() do
    local prefix, kind = prefix_of(op), op.kind
    operations:inc(1, prefix, kind, result)
    if kind == "put" and result == "ok" then written_bytes:inc(#op.key + op.value_size, prefix) end
    -- A watch lasts as long as its client likes.
    if timed[prefix] ~= records and rpc ~= "watch" then
      timed[prefix] = records
      duration:observe(rec.total_us / 1e6, prefix, rpc)
    end
  end
  return true
end

-- Takes the core's own count when there is one; counting is the way out, and stops where it gets slow.
local function collect(prefix)
  local stats = kv.stats(prefix)
  if stats then
    metric.prefix_keys:set(stats.keys, prefix)
    metric.prefix_stored_bytes:set(stats.bytes, prefix)
    return
  end
  metric.prefix_keys:set(kv.count{ prefix = prefix, limit = MOST_KEYS }, prefix)
end

-- One scrape counts as many prefixes as fit into its time; the next goes on where it stopped.
function M.metrics_collect()
  if not count_keys then return end
  local start = time.monotonic()
  for _ = 1, #prefixes do
    collect(prefixes[next_prefix])
    next_prefix = next_prefix % #prefixes + 1
    if time.monotonic() - start > COLLECT_SECONDS then break end
  end
end

return M
