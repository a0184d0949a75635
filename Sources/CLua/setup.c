// What a script finds when it starts: reduced libraries, host functions and handles, all frozen.
#include "internal.h"

#include <string.h>

static int frozen_write(lua_State *L) {
    if (lua_type(L, 2) == LUA_TSTRING)
        return luaL_error(L, "cannot assign '%s': globals and libraries are read-only, declare it local", lua_tostring(L, 2));
    return luaL_error(L, "globals and libraries are read-only");
}

void vm_freeze(lua_State *L) {
    lua_createtable(L, 0, 0);
    lua_createtable(L, 0, 3);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, frozen_write);
    lua_setfield(L, -2, "__newindex");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_remove(L, -2);
}

static void push_function(lua_State *L, const moonraft_function *f) {
    if (f->id < 0) {
        lua_CFunction native = native_find(f->module, f->name);
        if (!native) luaL_error(L, "no native function %s.%s", f->module, f->name);
        lua_pushcfunction(L, native);
        return;
    }
    // One light userdata instead of two integers: every call of the function reads it.
    lua_pushlightuserdata(L, (void *)((uintptr_t)f->phases << 8 | (uintptr_t)f->id));
    if (f->module[0] == ':')
        lua_pushfstring(L, "%s:%s", f->module + 1, f->name);
    else if (f->module[0])
        lua_pushfstring(L, "%s.%s", f->module, f->name);
    else
        lua_pushstring(L, f->name);
    lua_pushcclosure(L, wire_host_call, 2);
}

// Table `module` of the table at `parent`, made when absent; left on the stack.
static void push_module(lua_State *L, int parent, const char *module) {
    lua_getfield(L, parent, module);
    if (lua_istable(L, -1)) return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, parent, module);
}

static int32_t handle_kind_named(const char *name) {
    for (int32_t kind = 1; kind < MOONRAFT_HANDLES; kind++)
        if (strcmp(handle_kind_name(kind), name) == 0) return kind;
    return 0;
}

int vm_set_up(lua_State *L) {
    const moonraft_vm_options *options = lua_touserdata(L, 1);
    lua_settop(L, 0);

    // Libraries, reduced, in a table of globals (index 1).
    base_open(L);
    string_open(L);
    lua_setfield(L, 1, "string");
    table_open(L);
    lua_setfield(L, 1, "table");

    // math, seeded.
    luaopen_math(L);
    lua_getfield(L, -1, "randomseed");
    lua_pushinteger(L, (lua_Integer)options->seed);
    lua_call(L, 1, 0);
    lua_setfield(L, 1, "math");

    // Handles: one metatable a kind, methods in __index (index 2).
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_handles);
    faces_open(L);

    // Host functions.
    for (int32_t i = 0; i < options->function_count; i++) {
        const moonraft_function *f = &options->functions[i];
        if (f->module[0] == ':') {
            int32_t kind = handle_kind_named(f->module + 1);
            if (!kind) return luaL_error(L, "no handle kind %s", f->module);
            lua_rawgeti(L, 2, kind);
            lua_getfield(L, -1, "methods");
            push_function(L, f);
            lua_setfield(L, -2, f->name);
            lua_pop(L, 2);
        } else if (f->module[0]) {
            push_module(L, 1, f->module);
            push_function(L, f);
            lua_setfield(L, -2, f->name);
            lua_pop(L, 1);
        } else {
            push_function(L, f);
            lua_setfield(L, 1, f->name);
        }
    }
    lua_getfield(L, 1, "log");
    if (lua_istable(L, -1)) {
        lua_getfield(L, -1, "info");
        lua_rawsetp(L, LUA_REGISTRYINDEX, &key_log);
    }
    lua_settop(L, 2);
    lua_getfield(L, 1, "json");
    if (lua_istable(L, -1)) {
        lua_pushlightuserdata(L, NULL);
        lua_setfield(L, -2, "null");
    }
    lua_settop(L, 2);
    // Mark of JSON arrays.
    lua_newtable(L);
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_array);

    // The string metatable: methods, locked.
    lua_pushliteral(L, "");
    lua_newtable(L);
    lua_getfield(L, 1, "string");
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_pop(L, 1);

    // Freeze the libraries, then the globals.
    lua_newtable(L);
    int names = lua_gettop(L);
    int count = 0;
    lua_pushnil(L);
    while (lua_next(L, 1)) {
        if (lua_istable(L, -1)) {
            lua_pushvalue(L, -2);
            lua_rawseti(L, names, ++count);
        }
        lua_pop(L, 1);
    }
    for (int i = 1; i <= count; i++) {
        lua_rawgeti(L, names, i);
        lua_pushvalue(L, -1);
        lua_rawget(L, 1);
        vm_freeze(L);
        lua_rawset(L, 1);
    }
    lua_settop(L, 1);
    lua_pushvalue(L, 1);
    vm_freeze(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, 1, "_G");
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_env);
    // Nothing reaches the state's own table of globals, but leave nothing in it either.
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_loaded);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_tests);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_ops);
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);

    // The trampoline of hook calls: hooks and faces are its upvalues, so a call looks nothing up.
    lua_settop(L, 0);
    for (int i = 0; i < MOONRAFT_PHASES; i++) lua_pushnil(L);
    for (int32_t kind = MOONRAFT_HANDLE_REQ; kind <= MOONRAFT_HANDLE_PEER; kind++) wire_push_handle(L, kind, 0);
    lua_pushcclosure(L, vm_call_hook, lua_gettop(L));
    return 1;
}
