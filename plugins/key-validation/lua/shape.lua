-- The shape of a JSON document as a flat map: path of a field = its type.
--
--   ["spec"] = "object"   ["spec.port"] = "integer"   ["spec.tags"] = "array?"   ["spec.tags.*"] = "string|null"
--
-- The empty path is the document. "*" stands for every item of an array and every other field of an object.
-- A type ends in "?" when the field may be absent.
local M = {}

local TYPES = {
  string = true, integer = true, number = true, boolean = true, object = true, array = true, null = true, any = true,
}

local function node_of(text)
  local node = { types = {}, text = text:gsub("%?$", "") }
  node.optional = node.text ~= text
  for name in (node.text .. "|"):gmatch("([^|]*)|") do
    if not TYPES[name] then return nil, ('"%s" is no type'):format(name) end
    node.types[name] = true
  end
  return node
end

-- Returns a tree of nodes { types, text, optional, children, names }, or nil and what is wrong.
function M.compile(fields)
  local paths, nodes = {}, {}
  for path, text in pairs(fields) do
    local node, problem = node_of(text)
    if not node then return nil, ("%s: %s"):format(path, problem) end
    nodes[path] = node
    if path ~= "" then paths[#paths + 1] = path end
  end
  table.sort(paths) -- the same problem is reported first every time
  nodes[""] = nodes[""] or node_of(#paths > 0 and "object" or "any")
  for _, path in ipairs(paths) do
    local above, name = path:match("^(.*)%.([^.]+)$")
    if not above then above, name = "", path end
    local parent = nodes[above]
    if not parent then return nil, ('"%s" needs an entry for "%s"'):format(path, above) end
    parent.children = parent.children or {}
    parent.names = parent.names or {}
    parent.children[name] = nodes[path]
    if name ~= "*" then table.insert(parent.names, name) end
  end
  return nodes[""]
end

local function kind_of(value)
  if value == json.null then return "null" end
  local kind = type(value)
  if kind == "table" then return json.is_array(value) and "array" or "object" end
  if kind == "number" and math.tointeger(value) then return "integer" end
  return kind
end

local function fits(node, kind)
  return node.types[kind] or node.types.any or kind == "integer" and node.types.number
end

-- Returns what is wrong and where, or nil.
local function check(node, value, closed)
  local kind = kind_of(value)
  if not fits(node, kind) then return ("must be %s, is %s"):format(node.text, kind), "" end
  local children = node.children
  if not children then return nil end
  if kind == "array" then
    local each = children["*"]
    for i, item in ipairs(each and value or {}) do
      local problem, place = check(each, item, closed)
      if problem then return problem, ("[%d]%s"):format(i - 1, place) end
    end
  elseif kind == "object" then
    for _, name in ipairs(node.names) do
      if value[name] == nil and not children[name].optional then return "is missing", "." .. name end
    end
    for name, item in pairs(value) do
      local child = children[name] or children["*"]
      if child then
        local problem, place = check(child, item, closed)
        if problem then return problem, "." .. name .. place end
      elseif closed then
        return "is not allowed", "." .. name
      end
    end
  end
  return nil
end

-- Returns what is wrong with the value, or nil.
function M.check(root, value, closed)
  local problem, place = check(root, value, closed)
  return problem and ("%s %s"):format(place == "" and "the document" or place:gsub("^%.", ""), problem)
end

return M
