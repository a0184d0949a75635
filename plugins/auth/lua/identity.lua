-- Turns a credential into a user with roles. A credential this plugin does not know is passed on (nil), so
-- that several bindings, and the core's own users, can stand side by side.
local tokens, accounts, issuers, certificates = {}, {}, {}, {}
local decoy -- a hash to check for unknown users, so that their refusal takes as long

local M = {}

function M.init(conf)
  for i, token in ipairs(conf.tokens) do
    local digest = token.sha256 and token.sha256:lower() or token.secret and token.secret:sha256()
    if not digest then return false, ("tokens[%d] needs sha256 or secret"):format(i) end
    if tokens[digest] then return false, ("tokens[%d] is given twice"):format(i) end
    local expires = token.expires and time.parse(token.expires)
    if token.expires and not expires then return false, ("tokens[%d].expires is no RFC 3339 time"):format(i) end
    tokens[digest] = { user = token.user, roles = token.roles, expires = expires }
  end

  accounts = conf.users
  for _, account in pairs(accounts) do -- the highest text has the highest cost
    if not decoy or account.bcrypt > decoy then decoy = account.bcrypt end
  end

  for i, issuer in ipairs(conf.jwt) do
    local source = issuer.keys or issuer.secret
    if not source then return false, ("jwt[%d] needs keys or secret"):format(i) end
    issuers[i] = {
      conf = issuer,
      keys = jwt.keys(source, { algorithms = issuer.algorithms }),
      options = { issuer = issuer.issuer, audience = issuer.audience, leeway = issuer.leeway },
    }
  end

  certificates = conf.certificates
  return true
end

local function claim(claims, path)
  for _, name in ipairs(path) do
    if type(claims) ~= "table" then return nil end
    claims = claims[name]
  end
  return claims
end

-- Roles are an array of texts, or one text with spaces between, as in scope.
local function roles_of(value, prefix)
  local roles = {}
  if type(value) == "string" then
    for role in value:gmatch("%S+") do roles[#roles + 1] = prefix .. role end
  elseif type(value) == "table" then
    for _, role in ipairs(value) do
      if type(role) == "string" then roles[#roles + 1] = prefix .. role end
    end
  end
  return roles
end

local function by_jwt(token, issuer)
  local claims, reason = jwt.verify(token, issuer.keys, issuer.options)
  if not claims then return nil, reason end
  local user = claim(claims, issuer.conf.user_claim)
  if type(user) ~= "string" or user == "" then return nil, "the claim of the user is missing" end
  return {
    user = issuer.conf.user_prefix .. user,
    roles = roles_of(claim(claims, issuer.conf.roles_claim), issuer.conf.role_prefix),
    expires = claims.exp + issuer.conf.leeway,
  }
end

local function by_token(token, peer)
  local known = tokens[token:sha256()]
  if known then
    if known.expires and time.now() >= known.expires then
      return false, "the token of " .. known.user .. " has expired"
    end
    return known
  end
  for i, issuer in ipairs(issuers) do
    local found, reason = by_jwt(token, issuer)
    if found then return found end
    log.info("token not accepted", { issuer = issuer.conf.issuer or i, reason = reason, peer = peer.address })
  end
  return nil
end

local function by_password(user, password)
  local account = accounts[user]
  if not decoy then return nil end
  local ok = bcrypt.verify(password, account and account.bcrypt or decoy)
  if not account then return nil end
  if not ok then return false, "wrong password for " .. user end
  return { user = user, roles = account.roles }
end

local function by_certificate(cn)
  for _, entry in ipairs(certificates) do
    if glob.match(entry.cn, cn) then return { user = entry.user or cn, roles = entry.roles } end
  end
  return nil
end

function M.authn(cred, peer)
  if cred.kind == "password" then return by_password(cred.user, cred.password) end
  if cred.kind == "token" then return by_token(cred.token, peer) end
  if cred.kind == "certificate" then return by_certificate(cred.cn) end
  return nil
end

return M
