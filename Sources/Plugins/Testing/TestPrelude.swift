/// The test library `t`, in Lua, run in the driver VM of each test file. It is pure Lua over one host function, so
/// that failed checks point at the line of the test.
enum TestPrelude {
    static let source = """
        local call = host.call
        local t, P = {}, {}
        P.__index = P

        -- Tail-called, so that level 2 is the line of the test.
        local function checked(ok, ...)
          if not ok then error((...), 2) end
          return ...
        end

        for _, name in ipairs{ "authn", "authz", "admit_mutate", "admit_validate", "audit", "on_event", "metrics_collect",
            "health", "shutdown", "metric", "sink", "fail_sink", "logs", "kv_put", "kv_delete", "advance" } do
          P[name] = function(self, ...) return checked(call(name, self.h, ...)) end
        end

        function t.plugin(options)
          local ok, h = call("plugin", options or {})
          if not ok then error(h, 2) end
          return setmetatable({ h = h }, P)
        end

        function t.load_error(options)
          local ok, h = call("plugin", options or {})
          if ok then return nil end
          return h
        end

        function t.keyset(keys) return checked(call("keyset", keys)) end
        function t.jwt(options) return checked(call("jwt", options)) end
        function t.fixture(name) return checked(call("fixture", name)) end
        function t.golden(name, text) return checked(call("golden", name, text)) end

        local function show(v, depth)
          if type(v) == "string" then return (string.format("%q", v):gsub("\\\\\\n", "\\\\n")) end
          if type(v) ~= "table" or (depth or 0) > 4 then return tostring(v) end
          local parts = {}
          for i, item in ipairs(v) do parts[#parts + 1] = show(item, (depth or 0) + 1) end
          local n, names = #v, {}
          for k in pairs(v) do
            if not (math.type(k) == "integer" and k >= 1 and k <= n) then names[#names + 1] = k end
          end
          table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
          for _, k in ipairs(names) do parts[#parts + 1] = tostring(k) .. " = " .. show(v[k], (depth or 0) + 1) end
          return "{ " .. table.concat(parts, ", ") .. " }"
        end

        local function same(a, b)
          if a == b then return true end
          if type(a) ~= "table" or type(b) ~= "table" then return false end
          for k, v in pairs(a) do if not same(v, b[k]) then return false end end
          for k in pairs(b) do if a[k] == nil then return false end end
          return true
        end

        local function note(msg) return msg and (" (" .. tostring(msg) .. ")") or "" end

        function t.fail(msg) error(msg or "failed", 2) end
        function t.equal(a, b, msg)
          if not same(a, b) then error("got " .. show(a) .. ", expected " .. show(b) .. note(msg), 2) end
        end
        function t.truthy(v, msg) if not v then error("got " .. show(v) .. note(msg), 2) end end
        function t.falsy(v, msg) if v then error("got " .. show(v) .. note(msg), 2) end end
        function t.contains(s, part, msg)
          if type(s) ~= "string" or not s:find(part, 1, true) then
            error(show(s) .. " does not contain " .. show(part) .. note(msg), 2)
          end
        end
        function t.matches(s, pattern, msg)
          if type(s) ~= "string" or not s:find(pattern) then
            error(show(s) .. " does not match " .. show(pattern) .. note(msg), 2)
          end
        end
        function t.raises(fn, part)
          local ok, problem = pcall(fn)
          if ok then error("nothing was raised", 2) end
          if part and not tostring(problem):find(part, 1, true) then
            error("raised " .. show(problem) .. ", expected " .. show(part), 2)
          end
        end
        function t.allowed(d, msg)
          if d.verdict ~= "allow" then
            error("denied: " .. tostring(d.text) .. " [" .. tostring(d.reason or d.error) .. "]" .. note(msg), 2)
          end
          if d.error then error("the hook failed: " .. d.error .. note(msg), 2) end
        end
        function t.denied(d, code, text)
          if d.error then error("the hook failed: " .. d.error, 2) end
          if d.verdict ~= "deny" then error("not denied, but " .. tostring(d.verdict), 2) end
          if code and d.code ~= code then error("denied with " .. tostring(d.code) .. ", expected " .. code, 2) end
          local found = (d.text or "") .. " " .. (d.reason or "")
          if text and not found:find(text, 1, true) then error("denied with " .. show(found) .. ", expected " .. show(text), 2) end
        end
        return t
        """
}
