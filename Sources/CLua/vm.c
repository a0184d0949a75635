// The VM's life, and the protected calls through which everything runs.
#include "internal.h"

#include <stdlib.h>
#include <string.h>

const char key_env = 0, key_handles = 0, key_loaded = 0, key_array = 0, key_tests = 0, key_ops = 0,
           key_faces = 0, key_log = 0;

static int panic(lua_State *L) {
    (void)L;
    // Unreachable: every entry is protected.
    abort();
}

moonraft_vm *moonraft_vm_create(const moonraft_vm_options *options) {
    moonraft_vm *vm = calloc(1, sizeof *vm);
    if (!vm) return NULL;
    vm->cap = options->memory_bytes;
    vm->block_cap = options->memory_bytes / 4;
    vm->period = options->hook_period > 0 ? options->hook_period : 100;
    vm->big_class = vm->big_sticky = -1;
    vm->host = options->host;
    vm->sources = options->sources;
    vm->limit = UINT64_MAX;
    vm->start = moonraft_monotonic_nanoseconds();
    vm->deadline = vm->start + (UINT64_C(1) << 60);
    lua_State *L = lua_newstate(vm_allocate, vm);
    if (!L) {
        free(vm);
        return NULL;
    }
    lua_atpanic(L, panic);
    *(moonraft_vm **)lua_getextraspace(L) = vm;
    vm->L = L;
    lua_pushcfunction(L, vm_set_up);
    lua_pushlightuserdata(L, (void *)options);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
        moonraft_vm_destroy(vm);
        return NULL;
    }
    // Slot 1 stays the trampoline for the life of the VM.
    vm_arm(vm, vm->period);
    return vm;
}

void moonraft_vm_destroy(moonraft_vm *vm) {
    if (!vm) return;
    if (vm->L) {
        // Scripts cannot register finalizers, so closing runs no script code.
        lua_sethook(vm->L, NULL, 0, 0);
        lua_close(vm->L);
    }
    for (int i = 0; i < vm->test_count; i++) free(vm->test_names[i]);
    buffer_free(&vm->results);
    buffer_free(&vm->encoded);
    buffer_free(&vm->scratch);
    free(vm);
}

void vm_begin(moonraft_vm *vm, int phase, moonraft_budget budget) {
    vm->phase = phase;
    vm->violation = 0;
    vm->used = 0;
    vm->since_clock = 0;
    vm->pending = 0;
    vm->refusals = 0;
    vm->depth = 0;
    vm->limit = budget.instructions;
    vm->start = moonraft_monotonic_nanoseconds();
    vm->deadline = vm->start + budget.nanoseconds;
    vm->thread_start = vm->thread_used = 0;
    vm->text_count = vm->code_count = 0;
    memset(&vm->outcome, 0, sizeof vm->outcome);
    if (vm_period(vm) != vm->armed) vm_arm(vm, vm_period(vm));
}

static void copy_error(moonraft_vm *vm) {
    lua_State *L = vm->L;
    const char *text = NULL;
    size_t count = 0;
    char kind[64];
    // Never luaL_tolstring here: an error object may have a __tostring that loops.
    if (lua_type(L, -1) == LUA_TSTRING) {
        text = lua_tolstring(L, -1, &count);
    } else {
        strcpy(kind, "the error value is a ");
        strncat(kind, lua_typename(L, lua_type(L, -1)), 24);
        text = kind;
        count = strlen(kind);
    }
    if (count > MAX_TEXT) count = MAX_TEXT;
    memcpy(vm->text, text, count);
    vm->text_count = count;
}

int32_t vm_finish(moonraft_vm *vm, int status, int base) {
    int32_t result = MOONRAFT_OK;
    if (vm->violation) {
        static const char *const reasons[] = {
            "", "", "the instruction budget is spent", "the time budget is spent",
            "the memory budget is spent", "",
        };
        result = vm->violation;
        vm->text_count = strlen(reasons[vm->violation]);
        memcpy(vm->text, reasons[vm->violation], vm->text_count);
    } else if (status == LUA_ERRMEM) {
        result = MOONRAFT_MEMORY;
        vm->text_count = strlen("the memory budget is spent");
        memcpy(vm->text, "the memory budget is spent", vm->text_count);
    } else if (status != LUA_OK) {
        result = MOONRAFT_LUA_ERROR;
        copy_error(vm);
    } else if (vm->outcome.verdict < 0) {
        result = MOONRAFT_BAD_RESULT;
    }
    lua_settop(vm->L, base);
    vm->view = NULL;
    vm->live = 0;
    vm->outcome.text = (const uint8_t *)vm->text;
    vm->outcome.text_count = vm->text_count;
    vm->outcome.code = (const uint8_t *)vm->code;
    vm->outcome.code_count = vm->code_count;
    vm->outcome.data = vm->encoded.bytes;
    vm->outcome.data_count = vm->outcome.verdict == 2 ? vm->encoded.count : 0;
    vm->outcome.instructions = vm->used;
    vm->outcome.nanoseconds = moonraft_monotonic_nanoseconds() - vm->start;
    return result;
}

int32_t vm_protected_call(moonraft_vm *vm, lua_CFunction function, vm_request *r, int results) {
    int base = lua_gettop(vm->L);
    lua_pushcfunction(vm->L, function);
    lua_pushlightuserdata(vm->L, r);
    int status = lua_pcall(vm->L, 1, results, 0);
    return vm_finish(vm, status, base);
}

static const char *const phase_names[MOONRAFT_PHASES] = {
    "load", "init", "shutdown", "authn", "authz", "admit_mutate", "admit_validate",
    "audit", "on_event", "metrics_collect", "health", "test",
};

static int load_entry(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    vm_request *r = lua_touserdata(L, 1);
    vm_load_text(L, r->chunk, r->bytes, r->count);
    lua_call(L, 0, 1);
    if (r->driver) return 0;
    if (!lua_istable(L, -1))
        return luaL_error(L, "the entry file must return a table of hooks, not a %s", luaL_typename(L, -1));
    int table = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, table)) {
        if (lua_isfunction(L, -1)) {
            if (lua_type(L, -2) != LUA_TSTRING) return luaL_error(L, "a hook's name must be a string");
            if (vm->hook_name_count == MAX_HOOK_NAMES) return luaL_error(L, "too many hooks");
            const char *name = lua_tostring(L, -2);
            if (strlen(name) > 31) return luaL_error(L, "'%s' is not a hook", name);
            strcpy(vm->hook_names[vm->hook_name_count++], name);
            for (int phase = MOONRAFT_PHASE_INIT; phase <= MOONRAFT_PHASE_HEALTH; phase++) {
                if (strcmp(name, phase_names[phase]) == 0) vm->present |= 1u << phase;
            }
        }
        lua_settop(L, table + 1);
    }
    lua_settop(L, table);
    return 1;
}

// Puts the hook functions of the entry table (argument 2) into the trampoline (argument 1).
static int install(lua_State *L) {
    for (int phase = MOONRAFT_PHASE_INIT; phase <= MOONRAFT_PHASE_HEALTH; phase++) {
        lua_pushstring(L, phase_names[phase]);
        lua_rawget(L, 2);
        if (lua_isfunction(L, -1))
            lua_setupvalue(L, 1, UPVALUE_HOOK + phase);
        else
            lua_pop(L, 1);
    }
    return 0;
}

int32_t moonraft_vm_load(
    moonraft_vm *vm, const char *chunk, const uint8_t *bytes, size_t count, int32_t driver,
    moonraft_budget budget) {
    vm_request r = {.chunk = chunk, .bytes = bytes, .count = count, .driver = driver};
    vm_begin(vm, driver ? MOONRAFT_PHASE_TEST : MOONRAFT_PHASE_LOAD, budget);
    lua_State *L = vm->L;
    int base = lua_gettop(L);
    lua_pushcfunction(L, load_entry);
    lua_pushlightuserdata(L, &r);
    int status = lua_pcall(L, 1, driver ? 0 : 1, 0);
    if (status == LUA_OK && !driver && !vm->violation) {
        lua_pushcfunction(L, install);
        lua_pushvalue(L, 1);
        lua_pushvalue(L, -3);
        status = lua_pcall(L, 2, 0, 0);
    }
    return vm_finish(vm, status, base);
}

static int check_entry(lua_State *L) {
    vm_request *r = lua_touserdata(L, 1);
    vm_load_text(L, r->chunk, r->bytes, r->count);
    return 0;
}

int32_t moonraft_vm_check(moonraft_vm *vm, const char *chunk, const uint8_t *bytes, size_t count) {
    vm_request r = {.chunk = chunk, .bytes = bytes, .count = count};
    vm_begin(vm, MOONRAFT_PHASE_LOAD, (moonraft_budget){UINT64_MAX / 2, 10000000000u});
    return vm_protected_call(vm, check_entry, &r, 0);
}

static int set_global(lua_State *L) {
    vm_request *r = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_env);
    lua_getmetatable(L, -1);
    lua_getfield(L, -1, "__index");
    wire_decode(L, r->bytes, r->count);
    if (lua_istable(L, -1)) vm_freeze(L);
    lua_setfield(L, -2, r->chunk);
    return 0;
}

int32_t moonraft_vm_set_global(
    moonraft_vm *vm, const char *name, const uint8_t *bytes, size_t count) {
    vm_request r = {.chunk = name, .bytes = bytes, .count = count};
    vm_begin(vm, MOONRAFT_PHASE_LOAD, (moonraft_budget){UINT64_MAX / 2, 10000000000u});
    return vm_protected_call(vm, set_global, &r, 0);
}

int32_t moonraft_vm_has_hook(const moonraft_vm *vm, int32_t phase) {
    return phase >= 0 && phase < MOONRAFT_PHASES && (vm->present >> phase) & 1;
}

int32_t moonraft_vm_hook_name(const moonraft_vm *vm, int32_t index, const char **name) {
    if (index < 0 || index >= vm->hook_name_count) return 0;
    *name = vm->hook_names[index];
    return 1;
}

// Reads what a hook returned (three values from `first`) into the outcome.
static void take_results(lua_State *L, moonraft_vm *vm, int first) {
    moonraft_outcome *outcome = &vm->outcome;
    switch (lua_type(L, first)) {
    case LUA_TNIL: break;
    case LUA_TBOOLEAN: outcome->verdict = lua_toboolean(L, first) ? 0 : 1; break;
    case LUA_TTABLE:
        if (vm->phase != MOONRAFT_PHASE_AUTHN) goto bad;
        vm->encoded.count = 0;
        wire_encode(L, &vm->encoded, first);
        outcome->verdict = 2;
        return;
    default: goto bad;
    }
    if (outcome->verdict != 1) return;
    size_t count;
    if (lua_type(L, first + 1) == LUA_TSTRING) {
        const char *text = lua_tolstring(L, first + 1, &count);
        if (count > MAX_TEXT) count = MAX_TEXT;
        memcpy(vm->text, text, count);
        vm->text_count = count;
    } else if (!lua_isnil(L, first + 1)) {
        goto bad_text;
    }
    if (lua_type(L, first + 2) == LUA_TSTRING) {
        const char *code = lua_tolstring(L, first + 2, &count);
        if (count > MAX_CODE) count = MAX_CODE;
        memcpy(vm->code, code, count);
        vm->code_count = count;
    } else if (!lua_isnil(L, first + 2)) {
        goto bad_text;
    }
    return;
bad_text:
    outcome->verdict = -1;
    vm->text_count = strlen("a hook's text and code must be strings");
    memcpy(vm->text, "a hook's text and code must be strings", vm->text_count);
    return;
bad:
    outcome->verdict = -1;
    strcpy(vm->text, "the hook returned a ");
    strncat(vm->text, luaL_typename(L, first), 24);
    vm->text_count = strlen(vm->text);
}

// Upvalues: hooks by phase, then faces. Argument: request.
int vm_call_hook(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    vm_request *r = lua_touserdata(L, 1);
    lua_settop(L, 0);
    lua_pushvalue(L, lua_upvalueindex(UPVALUE_HOOK + vm->phase));
    int arguments = 0;
    if (r->count) arguments += wire_decode(L, r->bytes, r->count);
    if (r->face1) {
        lua_pushvalue(L, lua_upvalueindex(UPVALUE_FACE + r->face1 - MOONRAFT_HANDLE_REQ));
        arguments++;
    }
    if (r->face2) {
        lua_pushvalue(L, lua_upvalueindex(UPVALUE_FACE + r->face2 - MOONRAFT_HANDLE_REQ));
        arguments++;
    }
    lua_call(L, arguments, 3);
    take_results(L, vm, 1);
    return 0;
}

int32_t moonraft_vm_call(
    moonraft_vm *vm, int32_t phase, moonraft_view *view, int32_t face1, int32_t face2,
    const uint8_t *data, size_t data_count, moonraft_budget budget) {
    vm_begin(vm, phase, budget);
    if (!moonraft_vm_has_hook(vm, phase)) return vm_finish(vm, LUA_OK, lua_gettop(vm->L));
    vm_request r = {.bytes = data, .count = data_count, .face1 = face1, .face2 = face2};
    vm->view = view;
    vm->live = (face1 ? 1u << face1 : 0) | (face2 ? 1u << face2 : 0);
    if (vm->live & (1u << MOONRAFT_HANDLE_REQ | 1u << MOONRAFT_HANDLE_REC)) vm->live |= 1u << MOONRAFT_HANDLE_OP;
    lua_State *L = vm->L;
    int base = lua_gettop(L);
    lua_pushvalue(L, 1);
    lua_pushlightuserdata(L, &r);
    int status = lua_pcall(L, 1, 0, 0);
    return vm_finish(vm, status, base);
}

const moonraft_outcome *moonraft_vm_outcome(const moonraft_vm *vm) { return &vm->outcome; }
size_t moonraft_vm_memory(const moonraft_vm *vm) { return vm->bytes; }
