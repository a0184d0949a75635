---@meta
-- Types of the Moonraft plugin API, version 1, for editors. The functions are described in docs/plugin-api.md.

---@class moonraft.hooks
---@field init? fun(conf: table): boolean?, string?
---@field shutdown? fun()
---@field authn? fun(cred: moonraft.cred, peer: moonraft.peer): moonraft.identity|false|nil, string?
---@field authz? fun(req: moonraft.req, id: moonraft.id): boolean?, string?
---@field admit_mutate? fun(req: moonraft.req, id: moonraft.id): boolean?, string?, moonraft.code?
---@field admit_validate? fun(req: moonraft.req, id: moonraft.id): boolean?, string?, moonraft.code?
---@field audit? fun(rec: moonraft.rec): boolean?, string?
---@field on_event? fun(batch: moonraft.event[]): boolean?, string?
---@field metrics_collect? fun()
---@field health? fun(): boolean?, string?

---@alias moonraft.code "invalid_argument"|"failed_precondition"|"resource_exhausted"
---@alias moonraft.identity {user: string, roles: string[]?, expires: number?, cache: number?}
---@alias moonraft.range {key: string?, range_end: string?, prefix: string?, limit: integer?, keys_only: boolean?}
---@alias moonraft.kv {key: string, value: string, create_revision: integer, mod_revision: integer, version: integer, lease: integer}
---@alias moonraft.jwt_options {issuer: string?, audience: string?, leeway: number?, require: string[]?, max_age: number?}
---@alias moonraft.sink_options {path: string, max_bytes: integer?, max_age: number?, max_files: integer?, mode: string?, sync: "always"|"batch"|"interval"|"never"?, chain: boolean?, chain_key: moonraft.secret?}
---@alias moonraft.metric_rule {value: "operations"|"written_bytes"|"seconds", labels: ("prefix"|"kind"|"result"|"rpc"|"stage")[]?, prefixes: string[]?, except: string[]?}
---@alias moonraft.record_options {level: "metadata"|"keys"|"keys+hash"|"full", hash_key: moonraft.secret?, key_hash: string[]?, extra: table?}
---@alias moonraft.decision {id: string, version: string, hook: string, verdict: string, text: string, us: integer}
---@alias moonraft.event {type: string, id: string, revision: integer, sub: integer, time: number, source: string, key: string?, value: string?, prev_value: string?, reason: string?, fields: table?}

---@class moonraft.keys

---@class moonraft.test
---@field plugin fun(options: table?): moonraft.plugin_under_test
---@field load_error fun(options: table?): string?
---@field keyset fun(keys: {kid: string, alg: string}[]): string
---@field jwt fun(options: {kid: string?, alg: string?, claims: table, header: table?}): string
---@field fixture fun(name: string): string
---@field golden fun(name: string, text: string)
---@field allowed fun(d: table, msg: string?)
---@field denied fun(d: table, code: string?, text: string?)
---@field equal fun(a: any, b: any, msg: string?)
---@field truthy fun(v: any, msg: string?)
---@field falsy fun(v: any, msg: string?)
---@field contains fun(s: string, part: string, msg: string?)
---@field matches fun(s: string, pattern: string, msg: string?)
---@field raises fun(fn: function, part: string?)
---@field fail fun(msg: string?)

---@class moonraft.plugin_under_test
---@field authn fun(self: self, cred: table, peer: table?): table
---@field authz fun(self: self, req: table, id: table?): table
---@field admit_mutate fun(self: self, req: table, id: table?): table
---@field admit_validate fun(self: self, req: table, id: table?): table
---@field audit fun(self: self, rec: table): table
---@field on_event fun(self: self, batch: table[]): table
---@field metrics_collect fun(self: self): table
---@field health fun(self: self): table
---@field shutdown fun(self: self): table
---@field metric fun(self: self, name: string, ...: string): number?, number?
---@field sink fun(self: self, path: string): string[]
---@field fail_sink fun(self: self, path: string, text: string?)
---@field logs fun(self: self): {level: string, message: string, fields: table<string, string>}[]
---@field kv_put fun(self: self, key: string, value: string, lease: integer?)
---@field kv_delete fun(self: self, key: string)
---@field advance fun(self: self, seconds: number)

---The binding that runs.
---@type {id: string, name: string, version: string, vm: "request"|"worker"|"events"}
plugin = {}

---The metrics that the manifest declares. Needs the capability `metrics`.
---@type table<string, moonraft.metric>
metric = {}

---@class loglib
log = {}

---Writes a line to the node's log.
---@param message string
---@param fields? table<string, any>
function log.debug(message, fields) end

---Writes a line to the node's log.
---@param message string
---@param fields? table<string, any>
function log.info(message, fields) end

---Writes a line to the node's log.
---@param message string
---@param fields? table<string, any>
function log.warn(message, fields) end

---Writes a line to the node's log.
---@param message string
---@param fields? table<string, any>
function log.error(message, fields) end

---@class hooklib
hook = {}

---The hook has nothing to do with this configuration, and is not called while the set is loaded.
---
---Legal in init.
---@param name "authz"|"admit_mutate"|"admit_validate"
function hook.skip(name) end

---@class jsonlib
---@field null lightuserdata the null value
json = {}

---JSON text with sorted keys.
---@param value any
---@param options? {invalid: "error"|"replace"}
---@return string
function json.encode(value, options) end

---The value, or nil and why the text is not JSON.
---@param text string
---@return any
---@return string?
function json.decode(text) end

---Marks a table as a JSON array.
---@param t? table
---@return table
function json.array(t) end

---Whether a table is a JSON array.
---@param value any
---@return boolean
function json.is_array(value) end

---A function that tells what is wrong with a JSON text, or nil; path of a field = its type.
---@param fields table<string, string>
---@param closed? boolean
---@return fun(text: string): string?
function json.shape(fields, closed) end

---@class base64lib
base64 = {}

---Base64 text.
---@param bytes string
---@param form? "standard"|"url"
---@return string
function base64.encode(bytes, form) end

---The bytes, or nil.
---@param text string
---@param form? "standard"|"url"
---@return string?
function base64.decode(text, form) end

---@class hexlib
hex = {}

---Lower-case hexadecimal text.
---@param bytes string
---@return string
function hex.encode(bytes) end

---The bytes, or nil.
---@param text string
---@return string?
function hex.decode(text) end

---@class hashlib
hash = {}

---SHA-256 as hexadecimal text.
---@param bytes string
---@return string
function hash.sha256(bytes) end

---HMAC-SHA256 as hexadecimal text.
---@param key string|moonraft.secret
---@param bytes string
---@return string
function hash.hmac_sha256(key, bytes) end

---CRC-32 (IEEE).
---@param bytes string
---@return integer
function hash.crc32(bytes) end

---@class globlib
glob = {}

---Whether a text matches a glob: * but '/', ** anything, ? one byte, [a-z].
---@param pattern string
---@param text string
---@return boolean
function glob.match(pattern, text) end

---@class prefixlib
prefix = {}

---Index and text of the longest prefix of the key in the list.
---@param list string[]
---@param key string
---@return integer?
---@return string?
function prefix.of(list, key) end

---@class timelib
time = {}

---Seconds since 1970.
---@return number
function time.now() end

---Seconds on a clock that never goes back.
---@return number
function time.monotonic() end

---UTC time with microseconds.
---@param t? number
---@return string
function time.rfc3339(t) end

---Seconds since 1970 of an RFC 3339 text, or nil.
---@param text string
---@return number?
function time.parse(text) end

---@class storelib
store = {}

---A value of the table that the VMs of this binding share.
---
---Not at file scope. Needs the capability `store`.
---@param key string
---@return string|number|boolean|nil
function store.get(key) end

---Sets a shared value; ttl in seconds.
---
---Not at file scope. Needs the capability `store`.
---@param key string
---@param value string|number|boolean
---@param ttl? number
function store.set(key, value, ttl) end

---Forgets a shared value.
---
---Not at file scope. Needs the capability `store`.
---@param key string
function store.delete(key) end

---Adds to a shared integer and returns the sum.
---
---Not at file scope. Needs the capability `store`.
---@param key string
---@param n? integer
---@param ttl? number
---@return integer
function store.incr(key, n, ttl) end

---@class moonraft.metric
local metric = {}

---Adds to a counter or gauge; labels in declared order.
---
---Not at file scope. Needs the capability `metrics`.
---@param n? number
---@param ... string
function metric:inc(n, ...) end

---Sets a gauge.
---
---Not at file scope. Needs the capability `metrics`.
---@param value number
---@param ... string
function metric:set(value, ...) end

---Adds an observation to a histogram.
---
---Not at file scope. Needs the capability `metrics`.
---@param value number
---@param ... string
function metric:observe(value, ...) end

---Makes rec:count() feed this counter or histogram.
---
---Legal in init. Needs the capability `metrics`.
---@param rule moonraft.metric_rule
function metric:from_records(rule) end

---@class kvlib
kv = {}

---A key of the local store.
---
---Legal in authn, authz, admit_mutate, admit_validate, audit, on_event, metrics_collect, health. Needs the capability `kv.read`.
---@param key string
---@return moonraft.kv?
function kv.get(key) end

---At most 100 keys and 1 MiB; true when there are more.
---
---Legal in authn, authz, admit_mutate, admit_validate, audit, on_event, metrics_collect, health. Needs the capability `kv.read`.
---@param query moonraft.range
---@return moonraft.kv[]
---@return boolean
function kv.range(query) end

---The number of keys, counted up to the limit.
---
---Legal in authn, authz, admit_mutate, admit_validate, audit, on_event, metrics_collect, health. Needs the capability `kv.read`.
---@param query moonraft.range
---@return integer
function kv.count(query) end

---Keys and bytes below a prefix, when the core counts them.
---
---Legal in authn, authz, admit_mutate, admit_validate, audit, on_event, metrics_collect, health. Needs the capability `kv.read`.
---@param prefix string
---@return {keys: integer, bytes: integer}?
function kv.stats(prefix) end

---Revision of the local store.
---
---Legal in authn, authz, admit_mutate, admit_validate, audit, on_event, metrics_collect, health. Needs the capability `kv.read`.
---@return integer
function kv.revision() end

---@class jwtlib
jwt = {}

---A key set from a JWKS or PEM file, or a secret.
---
---Legal in init. Needs the capability `jwt`.
---@param source moonraft.file|moonraft.secret
---@param options? {algorithms: string[]}
---@return moonraft.keys
function jwt.keys(source, options) end

---The claims, or nil and the reason.
---
---Legal in authn, authz, admit_mutate, admit_validate. Needs the capability `jwt`.
---@param token moonraft.secret|string
---@param keys moonraft.keys
---@param options? moonraft.jwt_options
---@return table?
---@return string?
function jwt.verify(token, keys, options) end

---@class bcryptlib
bcrypt = {}

---Whether a password matches a bcrypt hash; on worker VMs only.
---
---Legal in authn. Needs the capability `bcrypt`.
---@param secret moonraft.secret|string
---@param hash string
---@return boolean
function bcrypt.verify(secret, hash) end

---@class sinklib
sink = {}

---A file that lines are appended to.
---
---Legal in init. Needs the capability `file.append`.
---@param options moonraft.sink_options
---@return moonraft.sink
function sink.open(options) end

---@class moonraft.sink
local sink = {}

---Appends a line; true, or false and the reason.
---
---Legal in audit, on_event. Needs the capability `file.append`.
---@param line string
---@return boolean
---@return string?
function sink:write(line) end

---A writer of records in one form to this sink.
---
---Legal in init. Needs the capability `file.append`.
---@param options moonraft.record_options
---@return moonraft.records
function sink:records(options) end

---@class moonraft.records
local records = {}

---Appends the record as one line of JSON; true, or false and the reason.
---
---Legal in audit. Needs the capability `file.append`.
---@param rec moonraft.rec
---@return boolean
---@return string?
function records:write(rec) end

---@class moonraft.secret
local secret = {}

---Compares in constant time.
---@param other string|moonraft.secret
---@return boolean
function secret:equals(other) end

---Bytes.
---@return integer
function secret:length() end

---Whether it matches a bcrypt hash; on worker VMs only.
---
---Legal in authn. Needs the capability `bcrypt`.
---@param hash string
---@return boolean
function secret:verify_bcrypt(hash) end

---Whether SHA-256 of salt .. secret is this.
---@param hex string
---@param salt? string
---@return boolean
function secret:verify_sha256(hex, salt) end

---SHA-256 as hexadecimal text; not of a password.
---@return string
function secret:sha256() end

---@class moonraft.file
local file = {}

---The path.
---@return string
function file:path() end

---The content, at most 1 MiB.
---
---Legal in init.
---@return string
function file:read() end

---@class moonraft.req
---@field rpc string
---@field write boolean
---@field revision integer
---@field ttl integer
---@field name string?
---@field kind string put, range, delete_range, compare, watch
---@field key string
---@field range_end string?
---@field value string?
---@field value_size integer?
---@field lease integer?
---@field lease_keys integer?
local req = {}

---Op `i`, from 1.
---@param i integer
---@return moonraft.op?
function req:op(i) end

---All ops: `for i, op in req:ops() do`.
---@return fun(): integer, moonraft.op
function req:ops() end

---Adds a warning to the reply.
---
---Legal in authz, admit_mutate, admit_validate.
---@param text string
function req:warn(text) end

---Adds to the audit record.
---
---Legal in authz, admit_mutate, admit_validate.
---@param name string
---@param value string|number|boolean
function req:annotate(name, value) end

---@class moonraft.op
---@field kind string put, range, delete_range, compare, watch
---@field key string
---@field range_end string?
---@field value string?
---@field value_size integer?
---@field lease integer?
---@field path string
---@field write boolean
---@field prev_kv boolean
---@field ignore_value boolean
---@field ignore_lease boolean
---@field keys_only boolean
---@field count_only boolean
---@field serializable boolean
---@field limit integer?
---@field revision integer?
---@field target string?
---@field result string?
---@field number integer?
local op = {}

---Every key of the op lies below the prefix.
---@param prefix string
---@return boolean
function op:within(prefix) end

---Some key of the op's range may lie below the prefix.
---@param prefix string
---@return boolean
function op:touches(prefix) end

---Changes a put's value.
---
---Legal in admit_mutate.
---@param value string
function op:set_value(value) end

---Changes a put's lease.
---
---Legal in admit_mutate.
---@param id integer
function op:set_lease(id) end

---Changes the key.
---
---Legal in admit_mutate.
---@param key string
function op:set_key(key) end

---Changes the end of a range.
---
---Legal in admit_mutate.
---@param key? string
function op:set_range_end(key) end

---Changes a range's limit.
---
---Legal in admit_mutate.
---@param n integer
function op:set_limit(n) end

---@class moonraft.cred
---@field kind string password, token, certificate
---@field user string?
---@field password moonraft.secret?
---@field token moonraft.secret?
---@field cn string?
local cred = {}

---A metadata value of the request.
---
---Legal in authn.
---@param name string
---@return string?
function cred:metadata(name) end

---@class moonraft.rec
---@field rpc string
---@field write boolean
---@field revision integer
---@field ttl integer
---@field name string?
---@field kind string put, range, delete_range, compare, watch
---@field key string
---@field range_end string?
---@field value string?
---@field value_size integer?
---@field lease integer?
---@field user string?
---@field roles string[]
---@field cn string?
---@field peer string?
---@field source string none, core, plugin, certificate, local
---@field id string
---@field stage string decided, completed
---@field time number
---@field code integer
---@field message string?
---@field allowed boolean
---@field result_revision integer
---@field term integer
---@field index integer
---@field hooks_us integer
---@field queue_us integer
---@field raft_us integer
---@field apply_us integer
---@field total_us integer
local rec = {}

---Op `i`, from 1.
---@param i integer
---@return moonraft.op?
function rec:op(i) end

---All ops: `for i, op in rec:ops() do`.
---@return fun(): integer, moonraft.op
function rec:ops() end

---@param name string
---@return boolean
function rec:has_role(name) end

---Whether the caller is one of the users (`*`: any with a name; the empty text: one without) or has one of the roles; with neither list, always.
---@param users string[]?
---@param roles string[]?
---@return boolean
function rec:matches(users, roles) end

---What each plugin decided.
---
---Legal in audit.
---@return moonraft.decision[]
function rec:decisions() end

---The record as one line of JSON.
---
---Legal in audit.
---@param options moonraft.record_options
---@return string
function rec:json(options) end

---Counts the record in every metric that follows records.
---
---Legal in audit. Needs the capability `metrics`.
function rec:count() end

---Registers a test.
---@param name string
---@param fn fun(t: moonraft.test)
function test(name, fn) end

---@class moonraft.id
---@field user string?
---@field roles string[]
---@field cn string?
---@field peer string?
---@field source string none, core, plugin, certificate, local
local id = {}

---@param name string
---@return boolean
function id:has_role(name) end

---Whether the caller is one of the users (`*`: any with a name; the empty text: one without) or has one of the roles; with neither list, always.
---@param users string[]?
---@param roles string[]?
---@return boolean
function id:matches(users, roles) end

---@class moonraft.peer
---@field address string?
---@field tls boolean
---@field cn string?
local peer = {}

