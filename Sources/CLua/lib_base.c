// Lua's basic functions and os, reduced to what a plugin may use.
#include "internal.h"

#include <string.h>

// Refuses what would let script code run outside the budget: finalizers run with hooks off, and weak tables
// give the collector work that grows with the square of the table.
static int base_setmetatable(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    int type = lua_type(L, 2);
    luaL_argexpected(L, type == LUA_TNIL || type == LUA_TTABLE, 2, "nil or table");
    if (type == LUA_TTABLE) {
        static const char *const refused[] = {"__gc", "__close", "__mode"};
        for (int i = 0; i < 3; i++) {
            lua_pushstring(L, refused[i]);
            lua_rawget(L, 2);
            if (!lua_isnil(L, -1)) return luaL_error(L, "a metatable with %s is refused", refused[i]);
            lua_pop(L, 1);
        }
    }
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL) return luaL_error(L, "cannot change a protected metatable");
    lua_settop(L, 2);
    lua_setmetatable(L, 1);
    return 1;
}

static int base_collectgarbage(lua_State *L) {
    const char *option = luaL_optstring(L, 1, "count");
    if (strcmp(option, "count") != 0) return luaL_error(L, "collectgarbage is limited to \"count\"");
    lua_pushnumber(L, (double)vm_of(L)->bytes / 1024);
    return 1;
}

static int base_print(lua_State *L) {
    int count = lua_gettop(L);
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &key_log) == LUA_TNIL) return 0;
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int i = 1; i <= count; i++) {
        if (i > 1) luaL_addchar(&b, '\t');
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&b);
    }
    luaL_pushresult(&b);
    lua_call(L, 1, 0);
    return 0;
}

static int base_tonumber(lua_State *L) {
    size_t count;
    if (lua_type(L, 1) == LUA_TSTRING && (lua_tolstring(L, 1, &count), count > 256)) {
        luaL_pushfail(L);
        return 1;
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

// ---- os ----

static double host_now(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    return vm->host.now ? vm->host.now(vm->host.context) : moonraft_realtime_seconds();
}

static int os_time(lua_State *L) {
    if (lua_isnoneornil(L, 1)) {
        lua_pushinteger(L, (lua_Integer)host_now(L));
        return 1;
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

static int os_date(lua_State *L) {
    size_t count;
    const char *format = luaL_optlstring(L, 1, "%c", &count);
    if (count > 256) return luaL_error(L, "the format is longer than 256 bytes");
    vm_charge(L, count * 4);
    lua_settop(L, 2);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushlstring(L, format, count);
    if (lua_isnil(L, 2))
        lua_pushinteger(L, (lua_Integer)host_now(L));
    else
        lua_pushvalue(L, 2);
    lua_call(L, 2, 1);
    return 1;
}

int base_open(lua_State *L) {
    static const char *const kept[] = {
        "assert", "error", "getmetatable", "ipairs", "next", "pairs", "rawequal", "rawget", "rawlen",
        "rawset", "select", "tostring", "type",
    };
    lua_newtable(L);
    int globals = lua_gettop(L);
    luaopen_base(L);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        lua_getfield(L, -1, kept[i]);
        lua_setfield(L, globals, kept[i]);
    }
    lua_getfield(L, -1, "tonumber");
    lua_pushcclosure(L, base_tonumber, 1);
    lua_setfield(L, globals, "tonumber");
    lua_settop(L, globals);
    lua_pushliteral(L, "Lua 5.4");
    lua_setfield(L, globals, "_VERSION");
    static const luaL_Reg own[] = {
        {"pcall", vm_pcall},
        {"setmetatable", base_setmetatable},
        {"collectgarbage", base_collectgarbage},
        {"print", base_print},
        {"require", vm_require},
        {NULL, NULL},
    };
    luaL_setfuncs(L, own, 0);

    luaopen_os(L);
    lua_newtable(L);
    lua_getfield(L, -2, "clock");
    lua_setfield(L, -2, "clock");
    lua_getfield(L, -2, "time");
    lua_pushcclosure(L, os_time, 1);
    lua_setfield(L, -2, "time");
    lua_getfield(L, -2, "date");
    lua_pushcclosure(L, os_date, 1);
    lua_setfield(L, -2, "date");
    lua_setfield(L, globals, "os");
    lua_settop(L, globals);
    return 1;
}

// ---- native functions offered through the host's table ----

lua_CFunction native_find(const char *module, const char *name) {
    static const struct {
        const char *module;
        const char *name;
        lua_CFunction function;
    } natives[] = {
        {"json", "encode", json_encode},
        {"json", "decode", json_decode},
        {"json", "array", json_array},
        {"json", "is_array", json_is_array},
        {"json", "shape", json_shape},
        {"base64", "encode", text_base64_encode},
        {"base64", "decode", text_base64_decode},
        {"hex", "encode", text_hex_encode},
        {"hex", "decode", text_hex_decode},
        {"hash", "crc32", text_crc32},
        {"glob", "match", text_glob_match},
        {"prefix", "of", text_prefix_of},
        {"", "test", vm_register_test},
    };
    for (size_t i = 0; i < sizeof natives / sizeof *natives; i++)
        if (strcmp(natives[i].module, module) == 0 && strcmp(natives[i].name, name) == 0)
            return natives[i].function;
    return NULL;
}
