// Values across the border. Both directions use one flat encoding: a tag byte, then for integers and
// numbers 8 bytes in the machine's order, for strings a 4-byte length and the bytes, for handles a kind byte
// and a 4-byte number; a map is key and value pairs, an array is values, both up to the end tag.
#include "internal.h"

#include <string.h>

static void put(lua_State *L, buffer *out, const void *bytes, size_t count) {
    if (out->count + count > MAX_ENCODED) luaL_error(L, "the value is larger than 1 MiB");
    if (!buffer_append(out, bytes, count)) luaL_error(L, "out of memory");
}

static void put_tag(lua_State *L, buffer *out, uint8_t tag) { put(L, out, &tag, 1); }

static void encode(lua_State *L, buffer *out, int index, int depth);

static int is_array(lua_State *L, int index, lua_Unsigned *count) {
    lua_Unsigned n = lua_rawlen(L, index);
    int marked = 0;
    if (lua_getmetatable(L, index)) {
        lua_rawgetp(L, LUA_REGISTRYINDEX, &key_array);
        marked = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
    }
    *count = n;
    if (n == 0) return marked;
    lua_Unsigned keys = 0;
    lua_pushnil(L);
    while (lua_next(L, index)) {
        lua_pop(L, 1);
        if (++keys > n || !json_is_place(L, -1, n)) {
            lua_pop(L, 1);
            return 0;
        }
    }
    return keys == n;
}

static void encode_table(lua_State *L, buffer *out, int index, int depth) {
    lua_Unsigned count;
    luaL_checkstack(L, 8, "value nested too deep");
    if (is_array(L, index, &count)) {
        put_tag(L, out, MOONRAFT_ARRAY);
        for (lua_Unsigned i = 1; i <= count; i++) {
            lua_rawgeti(L, index, (lua_Integer)i);
            encode(L, out, lua_gettop(L), depth + 1);
            lua_pop(L, 1);
        }
    } else {
        put_tag(L, out, MOONRAFT_MAP);
        lua_pushnil(L);
        while (lua_next(L, index)) {
            int top = lua_gettop(L);
            encode(L, out, top - 1, depth + 1);
            encode(L, out, top, depth + 1);
            lua_pop(L, 1);
        }
    }
    put_tag(L, out, MOONRAFT_END);
}

static void encode(lua_State *L, buffer *out, int index, int depth) {
    vm_charge(L, 1);
    switch (lua_type(L, index)) {
    case LUA_TNIL: put_tag(L, out, MOONRAFT_NIL); return;
    case LUA_TBOOLEAN: put_tag(L, out, lua_toboolean(L, index) ? MOONRAFT_TRUE : MOONRAFT_FALSE); return;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index)) {
            int64_t value = lua_tointeger(L, index);
            put_tag(L, out, MOONRAFT_INTEGER);
            put(L, out, &value, sizeof value);
        } else {
            double value = lua_tonumber(L, index);
            put_tag(L, out, MOONRAFT_NUMBER);
            put(L, out, &value, sizeof value);
        }
        return;
    case LUA_TSTRING: {
        size_t count;
        const char *text = lua_tolstring(L, index, &count);
        if (count > MAX_ENCODED) luaL_error(L, "the value is larger than 1 MiB");
        uint32_t length = (uint32_t)count;
        put_tag(L, out, MOONRAFT_STRING);
        put(L, out, &length, sizeof length);
        put(L, out, text, count);
        return;
    }
    case LUA_TTABLE:
        if (depth >= MAX_DEPTH) luaL_error(L, "the value is nested more than %d levels", MAX_DEPTH);
        encode_table(L, out, index, depth);
        return;
    case LUA_TLIGHTUSERDATA: put_tag(L, out, MOONRAFT_NULL); return;
    case LUA_TUSERDATA: {
        handle *h = lua_touserdata(L, index);
        uint8_t kind = (uint8_t)h->kind;
        put_tag(L, out, MOONRAFT_HANDLE);
        put(L, out, &kind, 1);
        put(L, out, &h->number, 4);
        return;
    }
    default: luaL_error(L, "a %s cannot be passed to the host", luaL_typename(L, index));
    }
}

void wire_encode(lua_State *L, buffer *out, int index) { encode(L, out, lua_absindex(L, index), 0); }

void wire_push_handle(lua_State *L, int32_t kind, int32_t number) {
    handle *h = lua_newuserdatauv(L, sizeof *h, 0);
    h->kind = kind;
    h->number = number;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_handles);
    lua_rawgeti(L, -1, kind);
    lua_setmetatable(L, -3);
    lua_pop(L, 1);
}

handle *wire_to_handle(lua_State *L, int index) {
    // Every full userdata a script can hold is a handle.
    return lua_type(L, index) == LUA_TUSERDATA ? lua_touserdata(L, index) : NULL;
}

// What Swift wrote is trusted to be well formed; the checks turn a defect into an error, not a wild read.
static const uint8_t *decode(lua_State *L, const uint8_t *p, const uint8_t *end, int depth) {
    if (p >= end || depth > MAX_DEPTH + 2) luaL_error(L, "malformed value from the host");
    uint8_t tag = *p++;
    size_t left = (size_t)(end - p);
    switch (tag) {
    case MOONRAFT_NIL: lua_pushnil(L); return p;
    case MOONRAFT_FALSE: lua_pushboolean(L, 0); return p;
    case MOONRAFT_TRUE: lua_pushboolean(L, 1); return p;
    case MOONRAFT_NULL: lua_pushlightuserdata(L, NULL); return p;
    case MOONRAFT_INTEGER: {
        int64_t value;
        if (left < sizeof value) break;
        memcpy(&value, p, sizeof value);
        lua_pushinteger(L, value);
        return p + sizeof value;
    }
    case MOONRAFT_NUMBER: {
        double value;
        if (left < sizeof value) break;
        memcpy(&value, p, sizeof value);
        lua_pushnumber(L, value);
        return p + sizeof value;
    }
    case MOONRAFT_STRING: {
        uint32_t length;
        if (left < sizeof length) break;
        memcpy(&length, p, sizeof length);
        p += sizeof length;
        if ((size_t)(end - p) < length) break;
        lua_pushlstring(L, (const char *)p, length);
        return p + length;
    }
    case MOONRAFT_HANDLE: {
        int32_t number;
        if (left < 5) break;
        memcpy(&number, p + 1, sizeof number);
        if (p[0] == 0 || p[0] >= MOONRAFT_HANDLES) break;
        wire_push_handle(L, p[0], number);
        return p + 5;
    }
    case MOONRAFT_ARRAY: {
        luaL_checkstack(L, 4, "value nested too deep");
        lua_newtable(L);
        lua_Integer i = 0;
        while (p < end && *p != MOONRAFT_END) {
            p = decode(L, p, end, depth + 1);
            lua_rawseti(L, -2, ++i);
        }
        if (p >= end) break;
        if (i == 0) {
            lua_rawgetp(L, LUA_REGISTRYINDEX, &key_array);
            lua_setmetatable(L, -2);
        }
        return p + 1;
    }
    case MOONRAFT_MAP: {
        luaL_checkstack(L, 4, "value nested too deep");
        lua_newtable(L);
        while (p < end && *p != MOONRAFT_END) {
            p = decode(L, p, end, depth + 1);
            p = decode(L, p, end, depth + 1);
            if (lua_isnil(L, -2)) break;
            lua_rawset(L, -3);
        }
        if (p >= end) break;
        return p + 1;
    }
    default: break;
    }
    luaL_error(L, "malformed value from the host");
    return end;
}

int wire_decode(lua_State *L, const uint8_t *bytes, size_t count) {
    const uint8_t *p = bytes, *end = bytes + count;
    int pushed = 0;
    luaL_checkstack(L, 16, "too many results");
    while (p < end) {
        if (++pushed > 8) luaL_error(L, "malformed value from the host");
        p = decode(L, p, end, 0);
    }
    return pushed;
}

int wire_phase_error(lua_State *L, const char *name, uint32_t phases) {
    static const char *const names[MOONRAFT_PHASES] = {
        "file scope", "init", "shutdown", "authn", "authz", "admit_mutate", "admit_validate",
        "audit", "on_event", "metrics_collect", "health", "tests",
    };
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int phase = 0; phase < MOONRAFT_PHASE_TEST; phase++) {
        if (!((phases >> phase) & 1)) continue;
        if (luaL_bufflen(&b)) luaL_addstring(&b, ", ");
        luaL_addstring(&b, names[phase]);
    }
    luaL_pushresult(&b);
    return luaL_error(
        L, "%s cannot be called in %s; it is legal in: %s", name, names[vm_of(L)->phase], lua_tostring(L, -1));
}

static uint32_t tables_at(uint32_t mask, int i) { return (mask >> i) & 1; }

int wire_host_call(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    uintptr_t packed = (uintptr_t)lua_touserdata(L, lua_upvalueindex(1));
    int32_t id = (int32_t)(packed & 0xFF);
    uint32_t phases = (uint32_t)(packed >> 8);
    if (!((phases >> vm->phase) & 1)) return wire_phase_error(L, lua_tostring(L, lua_upvalueindex(2)), phases);
    int count = lua_gettop(L);
    if (count > MAX_ARGUMENTS) return luaL_error(L, "%s: too many arguments", lua_tostring(L, lua_upvalueindex(2)));

    moonraft_value arguments[MAX_ARGUMENTS];
    size_t offsets[MAX_ARGUMENTS];
    uint32_t tables = 0;
    vm->encoded.count = 0;
    for (int i = 0; i < count; i++) {
        moonraft_value *a = &arguments[i];
        memset(a, 0, sizeof *a);
        switch (lua_type(L, i + 1)) {
        case LUA_TNIL: a->type = MOONRAFT_NIL; break;
        case LUA_TBOOLEAN: a->type = lua_toboolean(L, i + 1) ? MOONRAFT_TRUE : MOONRAFT_FALSE; break;
        case LUA_TNUMBER:
            if (lua_isinteger(L, i + 1)) {
                a->type = MOONRAFT_INTEGER;
                a->integer = lua_tointeger(L, i + 1);
                a->number = (double)a->integer;
            } else {
                a->type = MOONRAFT_NUMBER;
                a->number = lua_tonumber(L, i + 1);
            }
            break;
        case LUA_TSTRING:
            a->type = MOONRAFT_STRING;
            a->bytes = (const uint8_t *)lua_tolstring(L, i + 1, &a->count);
            break;
        case LUA_TTABLE:
            offsets[i] = vm->encoded.count;
            wire_encode(L, &vm->encoded, i + 1);
            a->count = vm->encoded.count - offsets[i];
            tables |= 1u << i;
            break;
        case LUA_TUSERDATA: {
            handle *h = lua_touserdata(L, i + 1);
            if (h->kind >= MOONRAFT_HANDLE_REQ && !((vm->live >> h->kind) & 1))
                return luaL_error(L, "%s is valid during the call it was given to only", handle_kind_name(h->kind));
            a->type = MOONRAFT_HANDLE;
            a->handle_kind = h->kind;
            a->integer = h->number;
            break;
        }
        case LUA_TLIGHTUSERDATA: a->type = MOONRAFT_NULL; break;
        default:
            return luaL_error(
                L, "%s: a %s cannot be passed", lua_tostring(L, lua_upvalueindex(2)), luaL_typename(L, i + 1));
        }
    }
    for (int i = 0; i < count; i++) {
        if (!tables_at(tables, i)) continue;
        arguments[i].bytes = vm->encoded.bytes + offsets[i];
        arguments[i].type = arguments[i].bytes[0];
    }

    vm->results.count = 0;
    vm->error_count = 0;
    vm->pending = 0;
    int32_t status = vm->host.call(vm->host.context, id, arguments, count);
    vm_charge(L, vm->pending + 8);
    if (status != 0) {
        luaL_where(L, 1);
        lua_pushlstring(L, vm->error, vm->error_count);
        lua_concat(L, 2);
        return lua_error(L);
    }
    return wire_decode(L, vm->results.bytes, vm->results.count);
}
