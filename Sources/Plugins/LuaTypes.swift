/// The LuaCATS file that gives editors completion and types: generated from the table that registers the functions, so
/// that the two cannot part.
package enum LuaTypes {
    /// The text of `plugins/types/moonraft.lua`.
    package static func generate() -> String {
        var out = header
        var modules: [String: [HostFunction.Definition]] = [:]
        var order: [String] = []
        for function in HostFunction.allCases {
            let definition = function.definition
            if definition.isDriver && definition.module == "host" { continue }
            if modules[definition.module] == nil { order.append(definition.module) }
            modules[definition.module, default: []].append(definition)
        }
        for module in order {
            let functions = modules[module] ?? []
            if module.hasPrefix(":") {
                out += methods(String(module.dropFirst()), functions)
            } else {
                if !module.isEmpty { out += "---@class \(module)lib\n\(extra[module] ?? "")\(module) = {}\n\n" }
                for function in functions {
                    out += declaration(function, prefix: module.isEmpty ? "" : "\(module).")
                }
            }
        }
        for name in ["id", "peer"] { out += methods(name, []) }
        return out
    }

    private static func declaration(_ function: HostFunction.Definition, prefix: String) -> String {
        var out = "---\(function.summary)\n"
        if let legal = legal(function) { out += "---\n---\(legal)\n" }
        for parameter in function.parameters { out += "---@param \(parameter.name) \(parameter.type)\n" }
        for type in function.returns { out += "---@return \(type)\n" }
        let names = function.parameters.map { $0.name.replacing("?", with: "") }
        return out + "function \(prefix)\(function.name)(\(names.joined(separator: ", "))) end\n\n"
    }

    private static func methods(_ kind: String, _ functions: [HostFunction.Definition]) -> String {
        var out = "---@class moonraft.\(kind)\n\(fields[kind] ?? "")local \(kind) = {}\n\n"
        for method in natives[kind] ?? [] { out += method }
        for function in functions { out += declaration(function, prefix: "\(kind):") }
        return out
    }

    private static func legal(_ function: HostFunction.Definition) -> String? {
        var parts: [String] = []
        if function.phases == .running {
            parts.append("Not at file scope.")
        } else if function.phases != .everything && !function.isDriver {
            var names = function.phases.hooks.map(\.name)
            if function.phases.contains(.load) { names.insert("file scope", at: 0) }
            parts.append("Legal in \(names.joined(separator: ", ")).")
        }
        if let capability = function.capability { parts.append("Needs the capability `\(capability.rawValue)`.") }
        return parts.isEmpty ? nil : parts.joined(separator: " ")
    }

    private static let extra = ["json": "---@field null lightuserdata the null value\n"]

    private static let operationFields = """
        ---@field kind string put, range, delete_range, compare, watch
        ---@field key string
        ---@field range_end string?
        ---@field value string?
        ---@field value_size integer?
        ---@field lease integer?

        """

    private static let identityFields = """
        ---@field user string?
        ---@field roles string[]
        ---@field cn string?
        ---@field peer string?
        ---@field source string none, core, plugin, certificate, local

        """

    private static let requestFields = """
        ---@field rpc string
        ---@field write boolean
        ---@field revision integer
        ---@field ttl integer
        ---@field name string?

        """

    private static let fields: [String: String] = [
        "req": requestFields + operationFields + """
            ---@field lease_keys integer?

            """,
        "op": operationFields + """
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

            """,
        "id": identityFields,
        "rec": requestFields + operationFields + identityFields + """
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

            """,
        "cred": """
        ---@field kind string password, token, certificate
        ---@field user string?
        ---@field password moonraft.secret?
        ---@field token moonraft.secret?
        ---@field cn string?

        """,
        "peer": """
        ---@field address string?
        ---@field tls boolean
        ---@field cn string?

        """,
    ]

    private static let operations = [
        "---Op `i`, from 1.\n---@param i integer\n---@return moonraft.op?\nfunction SELF:op(i) end\n\n",
        "---All ops: `for i, op in SELF:ops() do`.\n---@return fun(): integer, moonraft.op\nfunction SELF:ops() end\n\n",
    ]
    private static let roles = [
        "---@param name string\n---@return boolean\nfunction SELF:has_role(name) end\n\n",
        "---Whether the caller is one of the users (`*`: any with a name; the empty text: one without) or has one of the roles; with neither list, always.\n---@param users string[]?\n---@param roles string[]?\n---@return boolean\nfunction SELF:matches(users, roles) end\n\n",
    ]

    private static let natives: [String: [String]] = [
        "req": operations.map { $0.replacing("SELF", with: "req") },
        "rec": (operations + roles).map { $0.replacing("SELF", with: "rec") },
        "id": roles.map { $0.replacing("SELF", with: "id") },
        "op": [
            "---Every key of the op lies below the prefix.\n---@param prefix string\n---@return boolean\nfunction op:within(prefix) end\n\n",
            "---Some key of the op's range may lie below the prefix.\n---@param prefix string\n---@return boolean\nfunction op:touches(prefix) end\n\n",
        ],
    ]

    private static let header = """
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


        """
}
