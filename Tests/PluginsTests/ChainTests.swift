// Property: hooks run in their order for the requests they are bound to and no others; a denial, a failure, a mode and
// a failure policy each have exactly the effect that docs/plugin-api.md gives them. Method: small plugins on one loop.

import Testing

@testable import Plugins

@Suite struct ChainTests {
    @Test func denialsHaveTheirCodeAndText() throws {
        let fixture = try PluginFixture()
        let authz = try fixture.loop(hook: "authz", body: "return false, 'not you'")
        #expect(
            authz.authorize(put("/a"), alice) == .deny(code: .permissionDenied, text: "etcdserver: permission denied"))
        #expect(authz.records.last?.detail?.text == "not you")
        for (code, expected) in [
            ("", DenyCode.invalidArgument), (", 'failed_precondition'", .failedPrecondition),
            (", 'resource_exhausted'", .resourceExhausted),
        ] {
            let loop = try fixture.loop(hook: "admit_validate", body: "return false, 'too big'\(code)")
            #expect(loop.validate(put("/a"), alice) == .deny(code: expected, text: "plugin p: too big"))
        }
        let unknown = try fixture.loop(hook: "admit_validate", body: "return false, 'x', 'unavailable'")
        #expect(
            unknown.validate(put("/a"), alice)
                == .deny(code: .failedPrecondition, text: "plugin p: policy could not be evaluated"))
        for result in ["1", "'x'", "{}", "false, {}", "function() end"] {
            let loop = try fixture.loop(hook: "authz", body: "return \(result)")
            #expect(
                loop.authorize(put("/a"), alice)
                    == .deny(code: .permissionDenied, text: "etcdserver: permission denied"), "\(result)")
            #expect(loop.records.last?.verdict == .error, "\(result)")
        }
    }

    @Test func requestsLookAsDocumented() throws {
        let fixture = try PluginFixture()
        let body = """
            local function eq(x, y) if x ~= y then error(tostring(x) .. ' is not ' .. tostring(y), 2) end end
            eq(a.rpc, 'txn') eq(#a, 5) eq(a.write, true) eq(a.kind, 'compare') eq(a.key, '/c') eq(a.ttl, 0) eq(a.name, nil)
            local kinds = {} for i, op in a:ops() do kinds[i] = op.kind .. '@' .. op.path end
            eq(table.concat(kinds, ' '), 'compare@compare.0 put@success.0 range@success.1 delete_range@failure.0 put@failure.1.success.0')
            local c, p, r, d = a:op(1), a:op(2), a:op(3), a:op(4)
            eq(c.target, 'mod') eq(c.result, '>') eq(c.number, 7) eq(c.value, nil) eq(c.write, false) eq(c.lease, nil)
            eq(p.value, 'v1') eq(p.value_size, 2) eq(p.lease, 9) eq(p.prev_kv, true) eq(p.ignore_lease, false) eq(p.range_end, nil)
            eq(r.range_end, '/z') eq(r.limit, 5) eq(r.keys_only, true) eq(r.count_only, false) eq(r.serializable, true) eq(r.revision, 3)
            eq(r.value_size, nil) eq(d.range_end, '\\0') eq(d.write, true) eq(a:op(6), nil) eq(a:op(0), nil)
            eq(p:within('/p'), true) eq(p:within('/q'), false) eq(r:within('/'), true) eq(r:within('/r'), false) eq(r:touches('/r'), true)
            eq(r:touches('/y/'), true) eq(r:touches('/z'), false) eq(r:touches('/a'), false) eq(d:touches('/zz'), true) eq(d:within('/'), false)
            eq(b.user, 'alice') eq(b.roles[1], 'writer') eq(b:has_role('writer'), true) eq(b:has_role('x'), false)
            eq(b:matches(), true) eq(b:matches({'bob', 'alice'}), true) eq(b:matches({'*'}), true) eq(b:matches({''}), false)
            eq(b:matches({}, {}), false) eq(b:matches({'bob'}, {'x', 'writer'}), true) eq(b:matches(nil, {'writer '}), false)
            eq(pcall(b.matches, b, 'alice'), false) eq(b.cn, 'cn-a')
            eq(b.peer, '127.0.0.1:5') eq(b.source, 'core')
            """
        let loop = try fixture.loop(hook: "admit_validate", body: body)
        var request = PluginRequest(rpc: .txn)
        var compare = PluginOp(kind: .compare, key: Array("/c".utf8))
        (compare.path, compare.target, compare.result, compare.number) = ("compare.0", .mod, .greater, 7)
        var first = PluginOp(kind: .put, key: Array("/p1".utf8), value: Array("v1".utf8))
        (first.path, first.lease, first.previousKV) = ("success.0", 9, true)
        var range = PluginOp(kind: .range, key: Array("/r".utf8), rangeEnd: Array("/z".utf8))
        (range.path, range.limit, range.keysOnly, range.serializable, range.revision) = ("success.1", 5, true, true, 3)
        var delete = PluginOp(kind: .deleteRange, key: Array("/d".utf8), rangeEnd: [0])
        delete.path = "failure.0"
        var nested = PluginOp(kind: .put, key: Array("/n".utf8))
        nested.path = "failure.1.success.0"
        request.ops = [compare, first, range, delete, nested]
        #expect(loop.validate(request, alice) == .allow, "\(loop.records.last?.detail?.text ?? "")")
    }

    @Test func mutationIsLiteral() throws {
        let fixture = try PluginFixture()
        let loop = try fixture.loop(
            hook: "admit_mutate",
            body: """
                local op = a:op(1)
                if op.key == '/fail' then op:set_value('half') error('x') end
                if op.key == '/deny' then op:set_value('half') return false, 'no' end
                if op.key == '/keep' then return end
                op:set_value(op.value .. '!') op:set_lease(77) op:set_key(op.key .. '/x')
                if op.value ~= 'v!' or op.value_size ~= 2 or a.key ~= '/a/x' or a.lease ~= 77 then error('not seen') end
                assert(not pcall(op.set_limit, op, 1) and not pcall(op.set_key, op, ''))
                """)
        var request = put("/a")
        let (decision, changed) = loop.mutate(&request, alice)
        #expect(decision == .allow && changed, "\(loop.records.last?.detail?.text ?? "")")
        #expect(
            request.ops[0].key == Array("/a/x".utf8) && request.ops[0].value == Array("v!".utf8)
                && request.ops[0].lease == 77)
        #expect(loop.records.last?.verdict == .changed)
        for key in ["/fail", "/deny", "/keep"] {
            var request = put(key)
            let (_, changed) = loop.mutate(&request, alice)
            #expect(!changed && request == put(key), "\(key)")
        }
    }

    @Test func mutationCountsInEnforceOnly() throws {
        let fixture = try PluginFixture()
        for mode in ["warn", "audit"] {
            let loop = try fixture.loop(
                hook: "admit_mutate", body: "a:op(1):set_value('x')", binding: "mode = \"\(mode)\"")
            var request = put("/a")
            #expect(loop.mutate(&request, alice).changed == false)
            #expect(request == put("/a"))
            #expect(loop.records.last?.verdict == .changed)
        }
    }

    /// Three plugins that note their names; order decides, then file order does not matter.
    @Test func orderIsByNumber() throws {
        let fixture = try PluginFixture()
        for name in ["a", "b", "c"] {
            try fixture.package(
                name, manifest: "hooks = [\"admit_mutate\", \"admit_validate\"]\n",
                lua: """
                    return { admit_mutate = function(req) local op = req:op(1) op:set_value(op.value .. "\(name)") end,
                      admit_validate = function(req) if req.value == "vcab" then return false, "\(name) saw it" end end }
                    """)
        }
        let set = try fixture.load(
            "[[plugin]]\nname=\"a\"\norder=2\n[[plugin]]\nname=\"b\"\norder=3\n[[plugin]]\nname=\"c\"\norder=1")
        let loop = LoopPlugins(set)
        loop.beginRequest()
        var request = put("/k")
        #expect(loop.mutate(&request, alice).changed)
        #expect(request.ops[0].value == Array("vcab".utf8))
        #expect(loop.validate(request, alice) == .deny(code: .invalidArgument, text: "plugin c: c saw it"))
        #expect(loop.records.map(\.plugin.id) == ["c", "a", "b", "c"])
    }

    @Test func warnAndAuditDoNotDeny() throws {
        let fixture = try PluginFixture()
        let warn = try fixture.loop(
            hook: "admit_validate", body: "a:warn('note') return false, 'bad'", binding: "mode = \"warn\"")
        #expect(warn.validate(put("/a"), alice) == .allow(warnings: ["p: bad"]))
        #expect(warn.records.last?.verdict == .wouldDeny)
        #expect(fixture.log.all.contains { $0.message == "would deny" })
        let audit = try fixture.loop(hook: "authz", body: "return false, 'bad'", binding: "mode = \"audit\"")
        #expect(audit.authorize(put("/a"), alice) == .allow)
        #expect(audit.records.last?.verdict == .wouldDeny)
        let failing = try fixture.loop(hook: "authz", body: "error('x')", binding: "mode = \"warn\"")
        #expect(failing.authorize(put("/a"), alice) == .allow(warnings: ["p: policy could not be evaluated"]))
        let off = try fixture.loop(hook: "authz", body: "return false", binding: "mode = \"off\"")
        #expect(off.set.selects(.put).isEmpty && off.authorize(put("/a"), alice) == .allow)
        let enforced = try fixture.loop(hook: "admit_validate", body: "a:warn('note') a:annotate('rule', 3)")
        #expect(enforced.validate(put("/a"), alice) == .allow(warnings: ["p: note"]))
        #expect(enforced.records.last?.detail?.annotations.first?.value == "3")
    }

    @Test func failurePolicies() throws {
        let fixture = try PluginFixture()
        let closed = try fixture.loop(hook: "admit_validate", body: "error('x')")
        #expect(
            closed.validate(put("/a"), alice)
                == .deny(code: .failedPrecondition, text: "plugin p: policy could not be evaluated"))
        let relaxed = "allow_relax = true\n[plugin.failure]\nadmit_validate = \"open\""
        let open = try fixture.loop(
            hook: "admit_validate", body: "calls = store.incr('n') error('x')", capabilities: "\"store\"",
            head: "local calls")
        #expect(!open.validate(put("/a"), alice).isAllowed)
        // Open: goes on, and after five failures in ten seconds the hook rests for thirty.
        let loop = try fixture.loop(
            hook: "admit_validate", body: "store.incr('n') error('x')", binding: relaxed, capabilities: "\"store\"")
        for _ in 0..<8 { #expect(loop.validate(put("/a"), alice) == .allow) }
        let store = loop.set.plugins[0].shared.store
        #expect(store.get(Array("n".utf8), now: fixture.clock.now) == .integer(5))
        #expect(loop.records.last?.verdict == .skipped)
        fixture.clock.advance(31)
        _ = loop.validate(put("/a"), alice)
        _ = loop.validate(put("/a"), alice)
        #expect(store.get(Array("n".utf8), now: fixture.clock.now) == .integer(6))
        let figures = loop.set.plugins[0].shared.hookFigures[Int(PluginHook.admitValidate.rawValue) - 1]
        #expect(figures.errors[HookFailure.lua.rawValue] == 6 && figures.skips == 4)
        // Tightening is always allowed.
        let tight = try fixture.loop(
            hook: "admit_validate", body: "error('x')", manifest: "[failure]\nadmit_validate = \"open\"\n",
            binding: "[plugin.failure]\nadmit_validate = \"closed\"")
        for _ in 0..<8 { #expect(!tight.validate(put("/a"), alice).isAllowed) }
    }

    @Test func closedHooksNeverTrip() throws {
        let fixture = try PluginFixture()
        let loop = try fixture.loop(hook: "authz", body: "error('x')")
        for _ in 0..<20 { #expect(!loop.authorize(put("/a"), alice).isAllowed) }
    }

    @Test func matchingIsExact() throws {
        let fixture = try PluginFixture()
        let match = "[plugin.match]\nprefixes = [\"/p/\", \"/q\"]\nrpcs = [\"put\", \"range\", \"lease_grant\"]"
        let loop = try fixture.loop(hook: "authz", body: "return false", binding: match)
        func denied(_ request: PluginRequest) -> Bool {
            let result = !loop.authorize(request, alice).isAllowed
            if let op = request.ops.first {
                let selected = loop.set.selects(request.rpc, key: op.key, rangeEnd: op.rangeEnd).contains(.authz)
                #expect(selected == result)
            }
            return result
        }
        #expect(
            denied(put("/p/x")) && denied(put("/q")) && denied(put("/qq")) && !denied(put("/p")) && !denied(put("/o")))
        #expect(
            denied(get("/a", end: "/p/1")) && !denied(get("/a", end: "/p/")) && denied(get("/p/x", end: "/z"))
                && denied(get("/r", end: "\0")) == false)
        #expect(denied(get("\0", end: "\0")) && denied(get("/", end: "0")))
        #expect(!denied(PluginRequest(rpc: .deleteRange, ops: [PluginOp(kind: .deleteRange, key: Array("/p/".utf8))])))
        #expect(!denied(PluginRequest(rpc: .leaseGrant)))
        // A revocation deletes keys of any prefix unless it is known which.
        let revoking = try fixture.loop(
            hook: "authz", body: "return false",
            binding: "[plugin.match]\nprefixes = [\"/p/\"]\nrpcs = [\"lease_revoke\"]")
        func revoke(_ keys: [String]?) -> Bool {
            var request = PluginRequest(rpc: .leaseRevoke)
            if let keys { request.attach(leaseKeys: keys.map { Array($0.utf8) }) }
            return revoking.authorize(request, alice).isAllowed
        }
        #expect(!revoke(nil) && !revoke(["/a", "/p/x"]) && revoke(["/a"]) && revoke([]))
        #expect(!revoke((0...1_000).map { "/a/\($0)" }), "more keys than are told")
        let users = try fixture.loop(
            hook: "authz", body: "return false", binding: "[plugin.match]\nusers = [\"bob\"]\nroles = [\"writer\"]")
        #expect(!users.authorize(put("/a"), alice).isAllowed)
        #expect(!users.authorize(put("/a"), PluginIdentity(user: "bob")).isAllowed)
        #expect(users.authorize(put("/a"), PluginIdentity(user: "eve", roles: ["reader"])).isAllowed)
        #expect(users.authorize(put("/a"), PluginIdentity()).isAllowed)
    }

    @Test func defaultsOfHooks() throws {
        let fixture = try PluginFixture()
        let authz = try fixture.loop(hook: "authz", body: "")
        #expect(RPCKind.allCases.filter { authz.set.selects($0).isEmpty } == [.authenticate])
        let admit = try fixture.loop(hook: "admit_validate", body: "")
        #expect(RPCKind.allCases.filter { !admit.set.selects($0).isEmpty } == [.put, .deleteRange, .txn])
        #expect(
            fixture.loadError("[[plugin]]\nname = \"p\"\n[plugin.match]\nrpcs = [\"watch\"]")
                == "node.toml:4:8: plugin.match.rpcs: watch does not pass the admission hooks")
    }

    @Test func skippedHooksAreNotSelected() throws {
        let fixture = try PluginFixture()
        func load(_ skip: String, _ hook: String = "authz") throws -> PluginSet {
            try fixture.package(
                "p", manifest: "hooks = [\"init\", \"\(hook)\", \"audit\"]",
                lua: """
                    return {
                      init = function() \(skip) end,
                      \(hook) = function() return false, 'no' end,
                      audit = function() end,
                    }
                    """)
            return try fixture.load("[[plugin]]\nname = \"p\"")
        }
        let asked = try load("")
        #expect(asked.selects(.put) == [.authz, .audit])
        #expect(!LoopPlugins(asked).authorize(put("/a"), alice).isAllowed)
        let skipped = try load("hook.skip('authz')")
        #expect(skipped.selects(.put) == [.audit] && skipped.chain(.authz).isEmpty)
        let loop = LoopPlugins(skipped)
        #expect(loop.authorize(put("/a"), alice) == .allow && loop.records.isEmpty)
        for hook in ["admit_mutate", "admit_validate"] {
            #expect(try load("hook.skip('\(hook)')", hook).selects(.put) == [.audit])
        }
        // What a machine says later, when it is built for a loop or anew, changes nothing any more.
        let late = try load("if time.now() > 1700000000 then hook.skip('authz') end")
        fixture.clock.advance(1)
        #expect(!LoopPlugins(late).authorize(put("/a"), alice).isAllowed)
        for bad in ["audit", "authn", "init", "x"] {
            #expect(throws: PluginError.self) { try load("hook.skip('\(bad)')") }
        }
        #expect(!LoopPlugins(try load("", "authz")).authorize(put("/a"), alice).isAllowed)
    }

    @Test func shapesOfDocuments() throws {
        let fixture = try PluginFixture()
        let body = """
            local function eq(x, y) if x ~= y then error(tostring(x) .. ' is not ' .. tostring(y), 2) end end
            local any, list = json.shape{}, json.shape({ [''] = 'array', ['*'] = 'object', ['*.n'] = 'integer|null' }, true)
            eq(any('7'), nil) eq(any('{"a":[{}]}'), nil) eq(any('{'), 'the document is not JSON: expected a key at byte 2')
            eq(list('[{"n":1},{"n":null},{"n":2.0}]'), nil) eq(list('[]'), nil)
            eq(list('[{"n":1},{"n":1.5}]'), '[1].n must be integer|null, is number')
            eq(list('[{"n":1,"m":2}]'), '[0].m is not allowed') eq(list('[{}]'), '[0].n is missing')
            eq(list('[7]'), '[0] must be object, is integer') eq(list('null'), 'the document must be array, is null')
            local map = json.shape{ ['*'] = 'any', x = 'string?' }
            eq(map('{"y":[1],"z":false}'), nil) eq(map('{"x":1}'), 'x must be string, is integer')
            eq(map('"text"'), 'the document must be object, is string')
            eq(map('"a\\\\u0000b"'), 'the document must be object, is string')
            eq(json.shape({ a = 'object' }, true)('{"a":{"b":1}}'), nil)
            for _, bad in ipairs{ { a = 1 }, { 'string' }, { a = '' }, { a = 'int' }, { ['a.b'] = 'any' }, { ['a\0b'] = 'any' } } do
              eq(pcall(json.shape, bad), false)
            end
            local many = {} for i = 1, 1025 do many['f' .. i] = 'any' end
            eq(select(2, pcall(json.shape, many)), 'a shape has at most 1024 fields')
            eq(pcall(any), false) eq(pcall(any, 7), false)
            -- As deep as a document may be, and one level more.
            local function deep(n) return ('['):rep(n) .. (']'):rep(n) end
            local fields = { [''] = 'array' }
            for i = 1, 40 do fields[('*.'):rep(i):sub(1, -2)] = 'array' end
            local nested = json.shape(fields)
            eq(nested(deep(33)), nil) eq(nested(deep(34)):find('nested too deep', 1, true) ~= nil, true)
            """
        let loop = try fixture.loop(hook: "admit_validate", body: body)
        #expect(loop.validate(put("/a"), alice) == .allow, "\(loop.records.last?.detail?.text ?? "")")
        // The work is charged: a large document cannot hold a loop beyond its budget.
        let tight = try PluginFixture().loop(
            hook: "admit_validate", body: "return check(a.value) == nil",
            binding: "[plugin.budget]\ninstructions = 20000",
            head: "local check = json.shape{ [''] = 'array', ['*'] = 'integer' }")
        #expect(tight.validate(put("/a", "[1,2,3]"), alice) == .allow)
        let long = "[" + String(repeating: "1,", count: 20_000) + "1]"
        #expect(!tight.validate(put("/a", long), alice).isAllowed)
        #expect(tight.records.last?.detail?.text.contains("instruction budget") == true)
    }

    @Test func hostFunctionsKnowTheirHooks() throws {
        let fixture = try PluginFixture()
        let loop = try fixture.loop(hook: "admit_validate", body: "a:op(1):set_value('x')")
        _ = loop.validate(put("/a"), alice)
        #expect(
            loop.records.last?.detail?.text.contains(
                "op:set_value cannot be called in admit_validate; it is legal in: admit_mutate") == true)
        let early = try PluginFixture()
        try early.package(
            "p", manifest: "hooks = [\"health\"]\ncapabilities = [\"store\"]",
            lua: "store.set('a', 1)\nreturn { health = function() end }")
        #expect(early.loadError("[[plugin]]\nname = \"p\"").contains("store.set cannot be called in file scope"))
    }

    @Test func storeIsReadThroughTheView() throws {
        let fixture = try PluginFixture()
        try fixture.package(
            "p", manifest: "hooks = [\"admit_validate\"]\ncapabilities = [\"kv.read\"]",
            lua: """
                return { admit_validate = function(req)
                  local function eq(x, y) if x ~= y then error(tostring(x) .. ' is not ' .. tostring(y), 2) end end
                  eq(kv.get('/a/1').value, 'one') eq(kv.get('/none'), nil) eq(kv.get('/a/2').mod_revision, 3)
                  local list, more = kv.range{prefix = '/a/'} eq(#list, 150 < 100 and 150 or 100) eq(more, true)
                  list, more = kv.range{key = '/a/1', range_end = '/a/2', keys_only = true} eq(list[1].value, nil)
                  list, more = kv.range{prefix = '/a/', limit = 2} eq(#list, 2) eq(more, true)
                  eq(kv.count{prefix = '/a/'}, 150) eq(kv.count{prefix = '/a/', limit = 10}, 10) eq(kv.count{prefix = ''}, 150)
                  eq(kv.stats('/a/').keys, 150) eq(kv.revision(), 151)
                  assert(not pcall(kv.range, {}) and not pcall(kv.range, {prefix = 1}) and not pcall(kv.range, {key = 'x', lmit = 1}))
                end }
                """)
        let store = FakeStore()
        for i in 1...150 { store.put(Array("/a/\(i)".utf8), Array(i == 1 ? "one".utf8 : "x".utf8)) }
        let loop = LoopPlugins(try fixture.load("[[plugin]]\nname = \"p\""), storeView: store)
        #expect(loop.validate(put("/a"), alice) == .allow, "\(loop.records.last?.detail?.text ?? "")")
    }
}
