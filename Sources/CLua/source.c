// Source text of a plugin: the modules a VM may require, and compiling.
#include "internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    char *module;
    char *chunk;
    uint8_t *bytes;
    size_t count;
} source;

struct moonraft_sources {
    source *items;
    int count;
};

moonraft_sources *moonraft_sources_create(void) { return calloc(1, sizeof(moonraft_sources)); }

void moonraft_sources_add(
    moonraft_sources *sources, const char *module, const char *chunk, const uint8_t *bytes,
    size_t count) {
    source *items = realloc(sources->items, sizeof(source) * (size_t)(sources->count + 1));
    if (!items) abort();
    sources->items = items;
    source *s = &items[sources->count++];
    s->module = strdup(module);
    s->chunk = strdup(chunk);
    s->bytes = malloc(count ? count : 1);
    s->count = count;
    if (!s->module || !s->chunk || !s->bytes) abort();
    if (count) memcpy(s->bytes, bytes, count);
}

void moonraft_sources_destroy(moonraft_sources *sources) {
    if (!sources) return;
    for (int i = 0; i < sources->count; i++) {
        free(sources->items[i].module);
        free(sources->items[i].chunk);
        free(sources->items[i].bytes);
    }
    free(sources->items);
    free(sources);
}

void vm_load_text(lua_State *L, const char *chunk, const uint8_t *bytes, size_t count) {
    if (count > 0 && bytes[0] == 0x1B)
        luaL_error(L, "%s: precompiled Lua is refused", *chunk ? chunk + 1 : chunk);
    vm_charge(L, count / 16);
    if (luaL_loadbufferx(L, (const char *)bytes, count, chunk, "t") != LUA_OK) lua_error(L);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_env);
    lua_setupvalue(L, -2, 1);
}

// require("package.module"): only names in the VM's own source list exist, so no path is ever formed.
int vm_require(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    const char *name = luaL_checkstring(L, 1);
    lua_settop(L, 1);
    if (vm->phase > MOONRAFT_PHASE_INIT && vm->phase != MOONRAFT_PHASE_TEST)
        return luaL_error(L, "require is legal at file scope and in init only");
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_loaded);
    lua_pushvalue(L, 1);
    lua_rawget(L, -2);
    if (lua_islightuserdata(L, -1)) return luaL_error(L, "module '%s' requires itself", name);
    if (!lua_isnil(L, -1)) return 1;
    lua_pop(L, 1);
    const source *found = NULL;
    for (int i = 0; vm->sources && i < vm->sources->count; i++)
        if (strcmp(vm->sources->items[i].module, name) == 0) found = &vm->sources->items[i];
    if (!found) return luaL_error(L, "module '%s' is not part of this plugin", name);
    lua_pushvalue(L, 1);
    lua_pushlightuserdata(L, (void *)&key_loaded);
    lua_rawset(L, -3);
    vm_load_text(L, found->chunk, found->bytes, found->count);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, 1);
    lua_pushvalue(L, -2);
    lua_rawset(L, 2);
    return 1;
}
