-- Counts what completed requests did below each declared prefix. Only declared prefixes become labels, so the
-- number of series does not depend on what clients write.
local OTHER = "other"
local MOST_KEYS = 100000 -- how far kv.count walks; more keys than that are reported as this many
local COLLECT_SECONDS = 0.005

local operations = metric.prefix_operations_total
local written_bytes = metric.prefix_written_bytes_total
local duration = metric.prefix_request_duration_seconds

local prefixes
local count_keys
local next_prefix = 1

local M = {}

function M.init(conf)
  prefixes, count_keys = conf.prefixes, conf.count_keys
  local known = {}
  for _, prefix in ipairs(prefixes) do
    if prefix == OTHER then return false, "the prefix \"other\" is the label of everything else" end
    if known[prefix] then return false, ("the prefix %q is given twice"):format(prefix) end
    known[prefix] = true
    for _, operation in ipairs{ "put", "range", "delete_range" } do
      operations:inc(0, prefix, operation, "ok") -- so that a rate starts at zero
    end
    written_bytes:inc(0, prefix)
  end
  operations:from_records{ value = "operations", labels = { "prefix", "kind", "result" }, prefixes = prefixes }
  written_bytes:from_records{ value = "written_bytes", labels = { "prefix" }, prefixes = prefixes }
  -- A watch lasts as long as its client likes.
  duration:from_records{ value = "seconds", labels = { "prefix", "rpc" }, prefixes = prefixes, except = { "watch" } }
  return true
end

function M.audit(rec)
  rec:count()
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
