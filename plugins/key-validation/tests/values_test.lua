-- Values: size, JSON, and the shape of documents below a prefix.
local SERVICE = {
  name = "string", spec = "object", ["spec.port"] = "integer", ["spec.weight"] = "number?",
  ["spec.tags"] = "array?", ["spec.tags.*"] = "string", ["spec.env"] = "object?", ["spec.env.*"] = "string|null",
  ["spec.hooks"] = "array?", ["spec.hooks.*"] = "object", ["spec.hooks.*.url"] = "string", note = "any?",
}

local function bind(t, rule)
  rule.prefix = "/svc/"
  return t.plugin{ config = { rules = { rule } } }
end

local function put(value) return { rpc = "put", key = "/svc/web", value = value } end

test("the size of values", function(t)
  local p = bind(t, { max_value_bytes = "16B" })
  t.allowed(p:admit_validate(put(("x"):rep(16))))
  t.denied(p:admit_validate(put(("x"):rep(17))), "invalid_argument", "17 bytes, at most 16")
  t.allowed(p:admit_validate({ rpc = "put", key = "/other", value = ("x"):rep(17) }))
end)

test("values are JSON", function(t)
  local p = bind(t, { json = true })
  for _, text in ipairs{ "{}", "[]", "1", "null", '"x"', ' {"a": [1, 2.5, true]} ' } do
    t.allowed(p:admit_validate(put(text)), text)
  end
  for _, text in ipairs{ "", "{", "{a: 1}", '{"a": 1} x', '{"a": 1, "a": 2}', "\255" } do
    t.denied(p:admit_validate(put(text)), "invalid_argument", "is not JSON")
  end
  t.denied(p:admit_validate(put(("["):rep(100) .. ("]"):rep(100))), "invalid_argument")
end)

test("documents of the right shape pass", function(t)
  local p = bind(t, { fields = SERVICE, closed = true })
  for _, text in ipairs{
    '{"name": "web", "spec": {"port": 80}}',
    '{"name": "web", "spec": {"port": 80.0, "weight": 0.5, "tags": ["a", "b"]}, "note": {"free": [1]}}',
    '{"name": "web", "spec": {"port": 80, "weight": 1, "tags": [], "env": {"A": "1", "B": null}}}',
    '{"name": "", "spec": {"port": -1, "hooks": [{"url": "x"}, {"url": "y"}]}, "note": null}',
  } do
    t.allowed(p:admit_validate(put(text)), text)
  end
end)

test("each problem is named with its place", function(t)
  local p = bind(t, { fields = SERVICE, closed = true })
  for text, problem in pairs{
    ['[]'] = "the document must be object, is array",
    ['null'] = "the document must be object, is null",
    ['{"spec": {"port": 80}}'] = "name is missing",
    ['{"name": null, "spec": {"port": 80}}'] = "name must be string, is null",
    ['{"name": "a", "spec": {}}'] = "spec.port is missing",
    ['{"name": "a", "spec": []}'] = "spec must be object, is array",
    ['{"name": "a", "spec": {"port": 80.5}}'] = "spec.port must be integer, is number",
    ['{"name": "a", "spec": {"port": "80"}}'] = "spec.port must be integer, is string",
    ['{"name": "a", "spec": {"port": 1, "tags": ["a", 2]}}'] = "spec.tags[1] must be string, is integer",
    ['{"name": "a", "spec": {"port": 1, "env": {"A": true}}}'] = "spec.env.A must be string|null, is boolean",
    ['{"name": "a", "spec": {"port": 1, "hooks": [{"url": "x"}, {}]}}'] = "spec.hooks[1].url is missing",
    ['{"name": "a", "spec": {"port": 1, "prot": 2}}'] = "spec.prot is not allowed",
    ['{"name": "a", "spec": {"port": 1}, "extra": 1}'] = "extra is not allowed",
  } do
    t.denied(p:admit_validate(put(text)), "invalid_argument", problem)
  end
end)

test("an open shape leaves other fields alone", function(t)
  local p = bind(t, { fields = { name = "string" } })
  t.allowed(p:admit_validate(put('{"name": "a", "more": {"x": 1}}')))
  t.denied(p:admit_validate(put('{"more": 1}')), "invalid_argument", "name is missing")
end)

test("the empty path is the document itself", function(t)
  local p = bind(t, { fields = { [""] = "array", ["*"] = "integer" } })
  t.allowed(p:admit_validate(put("[1, 2]")))
  t.denied(p:admit_validate(put('[1, "2"]')), "invalid_argument", "[1] must be integer")
  t.denied(p:admit_validate(put("{}")), "invalid_argument", "the document must be array")
end)

test("a put that keeps its value is not judged by it", function(t)
  local p = bind(t, { fields = SERVICE })
  t.allowed(p:admit_validate({ rpc = "put", ops = { { kind = "put", key = "/svc/web", ignore_value = true, lease = 7 } } }))
end)

test("values inside transactions are checked", function(t)
  local d = bind(t, { json = true }):admit_validate({
    rpc = "txn", ops = { { kind = "put", path = "failure.0", key = "/svc/web", value = "{" } },
  })
  t.denied(d, "invalid_argument", "is not JSON")
end)

test("a large document stays within the budget", function(t)
  local p = bind(t, { fields = { [""] = "array", ["*"] = "integer" } })
  t.allowed(p:admit_validate(put("[" .. ("1,"):rep(5000) .. "1]")))
end)

test("a shape that cannot work does not load", function(t)
  local function load(fields) return t.load_error{ config = { rules = { { prefix = "/", fields = fields } } } } end
  t.contains(load{ name = "text" }, '"text" is no type')
  t.contains(load{ ["spec.port"] = "integer" }, 'needs an entry for "spec"')
  t.contains(load{ name = "" }, "is no type")
end)
