// Test drivers: a file of `test(name, fn)` calls, run one by one.
#include "internal.h"

#include <stdlib.h>
#include <string.h>

// test(name, fn)
int vm_register_test(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    const char *name = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (vm->phase != MOONRAFT_PHASE_TEST || vm->depth) return luaL_error(L, "test is called at file scope");
    if (vm->test_count == MAX_TESTS) return luaL_error(L, "more than %d tests in a file", MAX_TESTS);
    char *copy = strdup(name);
    if (!copy) return luaL_error(L, "out of memory");
    vm->test_names[vm->test_count++] = copy;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_tests);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, vm->test_count);
    return 0;
}

int32_t moonraft_vm_test_count(const moonraft_vm *vm) { return vm->test_count; }

const char *moonraft_vm_test_name(const moonraft_vm *vm, int32_t index) {
    return index >= 0 && index < vm->test_count ? vm->test_names[index] : "";
}

static int run_test(lua_State *L) {
    vm_request *r = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_tests);
    lua_rawgeti(L, -1, r->index + 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_env);
    lua_getfield(L, -1, "t");
    lua_remove(L, -2);
    lua_call(L, 1, 0);
    return 0;
}

int32_t moonraft_vm_test_run(moonraft_vm *vm, int32_t index, moonraft_budget budget) {
    vm_request r = {.index = index};
    vm_begin(vm, MOONRAFT_PHASE_TEST, budget);
    vm->depth = 1;
    return vm_protected_call(vm, run_test, &r, 0);
}

static int run_prelude(lua_State *L) {
    vm_request *r = lua_touserdata(L, 1);
    const char *global = lua_touserdata(L, 2);
    vm_load_text(L, r->chunk, r->bytes, r->count);
    lua_call(L, 0, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_env);
    lua_getmetatable(L, -1);
    lua_getfield(L, -1, "__index");
    lua_pushvalue(L, -4);
    lua_setfield(L, -2, global);
    return 0;
}

int32_t moonraft_vm_prelude(
    moonraft_vm *vm, const char *global, const uint8_t *bytes, size_t count, moonraft_budget budget) {
    vm_request r = {.chunk = "=test library", .bytes = bytes, .count = count};
    vm_begin(vm, MOONRAFT_PHASE_TEST, budget);
    lua_State *L = vm->L;
    int base = lua_gettop(L);
    lua_pushcfunction(L, run_prelude);
    lua_pushlightuserdata(L, &r);
    lua_pushlightuserdata(L, (void *)global);
    int status = lua_pcall(L, 2, 0, 0);
    return vm_finish(vm, status, base);
}
