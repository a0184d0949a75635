-- Turns a credential into a user with roles. A credential this plugin does not know is passed on (nil), so
-- that several bindings, and the core's own users, can stand side by side.
local tokens = {} -- by their hash
local accounts, issuers, certificates
local decoy -- a hash to check for unknown users, so that their refusal takes as long

local M = {}

function M.init(conf)
  accounts, issuers, certificates = conf.users, conf.jwt, conf.certificates
  for i, token in ipairs(conf.tokens) do
    local digest = token.sha256 and token.sha256:lower() or token.secret and token.secret:sha256()
    if not digest then return false, ("tokens[%d] needs sha256 or secret"):format(i) end
    if tokens[digest] then return false, ("tokens[%d] is given twice"):format(i) end
    tokens[digest] = { user = token.user, roles = token.roles, expires = token.expires }
  end
  for _, account in pairs(accounts) do -- the highest text has the highest cost
    if not decoy or account.bcrypt > decoy then decoy = account.bcrypt end
  end
  for i, issuer in ipairs(issuers) do
    local source = issuer.keys or issuer.secret
    if not source then return false, ("jwt[%d] needs keys or secret"):format(i) end
    issuer.keys = jwt.keys(source, { algorithms = issuer.algorithms })
  end
  return true
end

local function claim(claims, path)
  for _, name in ipairs(path) do claims = type(claims) == "table" and claims[name] or nil end
  return claims
end

-- Roles are an array of texts, or one text with spaces between, as in scope.
local function roles_of(value, prefix)
  local roles = {}
  local function add(role) roles[#roles + 1] = type(role) == "string" and prefix .. role or nil end
  if type(value) == "string" then value:gsub("%S+", add) end
  for _, role in ipairs(type(value) == "table" and value or {}) do add(role) end
  return roles
end

local function by_jwt(token, issuer)
  local options = { issuer = issuer.issuer, audience = issuer.audience, leeway = issuer.leeway }
  local claims, reason = jwt.verify(token, issuer.keys, options)
  if not claims then return nil, reason end
  local user = claim(claims, issuer.user_claim)
  if type(user) ~= "string" or user == "" then return nil, "the claim of the user is missing" end
  local roles = roles_of(claim(claims, issuer.roles_claim), issuer.role_prefix)
  return { user = issuer.user_prefix .. user, roles = roles, expires = claims.exp + issuer.leeway }
end

local by = {} -- by the kind of credential

function by.token(cred, peer)
  local known = tokens[cred.token:sha256()]
  if known and known.expires and time.now() >= known.expires then
    return false, "the token of " .. known.user .. " has expired"
  end
  if known then return known end
  for i, issuer in ipairs(issuers) do
    local found, reason = by_jwt(cred.token, issuer)
    if found then return found end
    log.info("token not accepted", { issuer = issuer.issuer or i, reason = reason, peer = peer.address })
  end
end

function by.password(cred)
  if not decoy then return nil end
  local account = accounts[cred.user]
  local ok = bcrypt.verify(cred.password, account and account.bcrypt or decoy)
  if not account then return nil end
  if not ok then return false, "wrong password for " .. cred.user end
  return { user = cred.user, roles = account.roles }
end

function by.certificate(cred)
  for _, entry in ipairs(certificates) do
    if glob.match(entry.cn, cred.cn) then return { user = entry.user or cred.cn, roles = entry.roles } end
  end
end

function M.authn(cred, peer) return by[cred.kind](cred, peer) end

return M
